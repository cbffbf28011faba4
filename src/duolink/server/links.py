"""Routing of links: from one session to another, or `wait`.

A `Party` is a client as links see it: its session if it has one here, who sends to it, who watches it. A
`Flow` is one sender's way to one party. While all is well a flow has a `target`, the connection that messages
go to; whatever changes that (the receiver's connection, the sender's rights, a refused number) takes the
target away, and the next message finds its way anew. The node keeps no message: what it does not hand
over it answers with `wait`, and the sender keeps it.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from duolink.protocol import limits
from duolink.protocol.codec import encode, encode_binary, is_id
from duolink.protocol.codes import ErrorCode, PeerState
from duolink.protocol.messages import (
    Ack,
    Ephemeral,
    LinkMessage,
    Peer,
    Probe,
    Signal,
    Skip,
    Wait,
    Watch,
    Watching,
)
from duolink.server.party import Flow, Party
from duolink.server.policy import Consent
from duolink.server.registry import Session

if TYPE_CHECKING:
    from duolink.server.connection import Connection
    from duolink.server.node import Node

MAX_FLOWS: Final = limits.MAX_LINKS
"""Receivers one session may send to; what is idle makes room for what is new."""

WAKE_SLICE: Final = 16
"""Senders told at once that a receiver can take messages again: each may answer with a window."""

MAX_SUFFIX: Final = 1024
"""Bytes that `,"from":"…"}` may have: every byte of a client id escaped."""

SERVER: Final = "$server"
"""The embedding application, as a client."""


class Links:
    """The links of a node."""

    def __init__(self, node: "Node", consent: Consent, window: int, max_watched: int) -> None:
        self._node = node
        self._consent = consent
        self._window = window
        self._max_watched = max_watched
        self._max_message = node.config.wire.max_message
        self._safe_length = self._max_message - MAX_SUFFIX
        self._counts = node.counts
        self._parties: dict[str, Party] = {}
        self.count = 0
        """Flows there are now."""
        self.on_message: Callable[[LinkMessage, str], None] | None = None
        """Hears every message that is handed over, with its receiver."""

    def __len__(self) -> int:
        """How many parties are known: those who are here, and those somebody waits for or watches."""
        return len(self._parties)

    # --- messages ----------------------------------------------------------------------------

    def message(self, connection: "Connection", message: LinkMessage, line: bytes) -> None:
        """Hand a numbered message on, or answer it. `line` is what it was decoded from (of a binary
        message: empty)."""
        session = connection.session
        assert session is not None
        flow = session.flows.get(message.to)
        lane = message.lane
        if (
            flow is not None
            and (target := flow.target) is not None
            and not target.full
            and message.run == session.run
            and 0 <= message.seq - message.base < self._window
            and (lane == "messages" or lane == "bulk")
            and not message.sender
        ):
            self._counts.message_in += 1
            if line[-1:] == b"}" and self.on_message is None and len(line) < self._safe_length:
                # Not encoded again: the sender's name goes behind the rest, where it wins over whatever
                # a client may have put there (in JSON parsers the last of equal keys counts; the
                # decoder has refused another `type`).
                target.send(line[:-1] + session.suffix)
                self._counts.message_out += 1
            else:
                self._forward(connection, message, target)
        elif self._admissible(connection, message, message.seq, message.seq):
            self._counts.message_in += 1
            self._route(connection, session, message, message.seq, 0)

    def skip(self, connection: "Connection", skip: Skip) -> None:
        """Hand a skip on, or answer it, as a message."""
        session = connection.session
        assert session is not None
        if skip.last < skip.seq:
            self._refuse(connection, skip, skip.seq, ErrorCode.MALFORMED, "a skip's last is below its seq")
        elif self._admissible(connection, skip, skip.seq, skip.last):
            self._route(connection, session, skip, skip.seq, skip.last)

    def probe(self, connection: "Connection", probe: Probe) -> None:
        """Hand a probe on. One that cannot be is answered by `wait` for the number after it."""
        session = connection.session
        assert session is not None
        if not self._admissible(connection, probe, probe.base, probe.base):
            return
        flow = self._flow(session, probe.to)
        target = self._open(session, flow) if flow is not None else None
        if flow is not None and target is not None and not target.full:
            self._stamp(probe, session)
            target.send(encode(probe))
            return
        if flow is not None and self._may(session, flow.party):
            flow.party.waiters[session] = flow
        connection.tell(
            Wait(
                to=probe.to,
                run=probe.run,
                seq=min(probe.seq + 1, limits.MAX_INTEGER),
                lane=probe.lane,
                probe=True,
            )
        )
        self._counts.waits += 1

    def ack(self, connection: "Connection", ack: Ack) -> None:
        """Hand an acknowledgement on to a sender who may send here; else drop it: it will be asked for."""
        session = connection.session
        assert session is not None
        if ack.sender:
            connection.forged(ack)
            return
        self._counts.ack_in += 1
        flow = session.flows.get(ack.to) or self._flow(session, ack.to)
        if flow is None:
            return
        receiver = flow.party.session
        if receiver is None or receiver.connection is None:
            return
        if flow.reply is not receiver:
            if not (self._allowed(receiver, session) or self._may(session, flow.party)):
                return
            flow.reply = receiver
        self._stamp(ack, session)
        receiver.connection.send(encode(ack))
        self._counts.ack_out += 1

    def signal(self, connection: "Connection", signal: Signal) -> None:
        """Relay a signal, at most once, on an allowed link only."""
        session = connection.session
        assert session is not None
        if signal.sender:
            connection.forged(signal)
            return
        self._counts.signal_in += 1
        target = self._reachable(session, signal.to)
        if target is None:
            return
        self._stamp(signal, session)
        signal.generation, signal.run = session.generation, session.run
        line = encode(signal)
        if len(line) <= self._max_message:
            target.send(line)
            self._counts.signal_out += 1

    def ephemeral(self, connection: "Connection", message: Ephemeral) -> None:
        """Relay an unnumbered message to a client, at most once."""
        session = connection.session
        assert session is not None
        self._counts.ephemeral_in += 1
        target = self._reachable(session, message.to)
        if target is None:
            return
        self._stamp(message, session)
        message.channel = ""
        payload = encode_binary(message) if message.binary else encode(message)
        if len(payload) <= self._max_message:
            (target.send_binary if message.binary else target.send)(payload)
            self._counts.ephemeral_out += 1

    def _stamp(self, message: Any, session: Session) -> None:
        message.sender = session.client_id
        message.to = ""

    def _forward(self, connection: "Connection", message: LinkMessage | Skip, target: "Connection") -> None:
        session = connection.session
        assert session is not None
        to = message.to
        message.sender = session.client_id
        message.to = ""
        if type(message) is LinkMessage and message.binary:
            payload = encode_binary(message)
            if len(payload) <= self._max_message:
                target.send_binary(payload)
        else:
            payload = encode(message)
            if len(payload) <= self._max_message:
                target.send(payload)
        if len(payload) > self._max_message:  # only its sender's name was too much
            message.to = to
            self._refuse(
                connection, message, message.seq, ErrorCode.TOO_LARGE, "too large with its sender's name"
            )
            return
        self._counts.message_out += 1
        if self.on_message is not None and type(message) is LinkMessage:
            self._node.call_hook("message", self.on_message, message, to)

    def _admissible(
        self, connection: "Connection", message: LinkMessage | Skip | Probe, seq: int, last: int
    ) -> bool:
        """Whether a numbered message may be routed at all; if not, it is answered."""
        session = connection.session
        assert session is not None
        if message.sender:
            connection.forged(message)
        elif message.lane not in limits.LANES:
            self._refuse(connection, message, seq, ErrorCode.MALFORMED, "no such lane")
        elif message.run != session.run:
            self._refuse(connection, message, seq, ErrorCode.FORBIDDEN, "not the run of this session")
        elif seq < message.base:
            self._refuse(connection, message, seq, ErrorCode.MALFORMED, "a number below its own base")
        elif last - message.base >= self._window:
            self._refuse(connection, message, seq, ErrorCode.CREDIT, f"the window is {self._window} numbers")
        elif message.to[:1] == "@" or (message.to[:1] == "$" and message.to != SERVER):
            self._refuse(connection, message, seq, ErrorCode.FORBIDDEN, "not the name of a client")
        elif not is_id(message.to, limits.MAX_CLIENT_ID):
            self._refuse(connection, message, seq, ErrorCode.MALFORMED, "`to` is no client id")
        else:
            return True
        return False

    def _refuse(
        self,
        connection: "Connection",
        message: LinkMessage | Skip | Probe,
        seq: int,
        code: ErrorCode,
        text: str,
    ) -> None:
        connection.error(
            code, text, to=message.to[: limits.MAX_CLIENT_ID], lane=message.lane, run=message.run, seq=seq
        )

    def _route(
        self, connection: "Connection", session: Session, message: LinkMessage | Skip, seq: int, last: int
    ) -> None:
        """Find the way of a message that has none, or is not the next on it."""
        flow = self._flow(session, message.to)
        target: Connection | None = None
        if flow is not None:
            refused = flow.refused.get(message.lane, seq)
            if seq > refused >= message.base:
                self._answer_wait(connection, message, seq, last)
                return
            flow.refused.pop(message.lane, None)
            target = self._open(session, flow)
            if target is not None and not target.full:
                self._forward(connection, message, target)
                return
            flow.refused[message.lane] = seq
            flow.target = None
            if self._may(session, flow.party):
                flow.party.waiters[session] = flow
        self._answer_wait(connection, message, seq, last)

    def _answer_wait(
        self, connection: "Connection", message: LinkMessage | Skip, seq: int, last: int
    ) -> None:
        self._counts.waits += 1
        connection.tell(Wait(to=message.to, run=message.run, seq=seq, last=last, lane=message.lane))

    # --- ways --------------------------------------------------------------------------------

    def _party(self, name: str) -> Party:
        party = self._parties.get(name)
        if party is None:
            party = self._parties[name] = Party(name)
        return party

    def _tidy(self, party: Party) -> None:
        if party.session is None and not party.flows and not party.watchers:
            self._parties.pop(party.name, None)

    def _flow(self, session: Session, to: str) -> Flow | None:
        """The way to a name; None when there is no room for another, or it is no name."""
        flow = session.flows.get(to)
        if flow is not None:
            return flow
        if not is_id(to, limits.MAX_CLIENT_ID):
            return None
        if len(session.flows) >= MAX_FLOWS:
            idle = next((name for name, old in session.flows.items() if not old.refused), None)
            if idle is None:
                return None
            self._drop_flow(session, idle)
        party = self._party(to)
        flow = session.flows[to] = party.flows[session] = Flow(party)
        self.count += 1
        return flow

    def _drop_flow(self, session: Session, to: str) -> None:
        party = session.flows.pop(to).party
        party.flows.pop(session, None)
        party.waiters.pop(session, None)
        self.count -= 1
        self._tidy(party)

    def _open(self, session: Session, flow: Flow) -> "Connection | None":
        """The connection messages of this flow may go to now; remembered if nothing is refused."""
        target = flow.party.connection
        if target is None or not self._may(session, flow.party):
            return None
        if not flow.refused:
            flow.target = target
        return target

    def _may(self, session: Session, party: Party) -> bool:
        if session.client_id == SERVER or party.name == SERVER:
            return True
        receiver = party.session.identity if party.session is not None else None
        return self._consent.may_link(session.identity, session.client_id, receiver, party.name)

    def _allowed(self, sender: Session, receiver: Session) -> bool:
        assert receiver.party is not None
        return self._may(sender, receiver.party)

    def _reachable(self, session: Session, to: str) -> "Connection | None":
        """The connection of a client to whom at-most-once messages may go now."""
        party = self._parties.get(to)
        if party is None or party.connection is None or not self._may(session, party):
            return None
        return party.connection if not party.connection.full else None

    # --- who is there ------------------------------------------------------------------------

    def watch(self, connection: "Connection", watch: Watch) -> None:
        """Take the full set of watched peers, and tell the state of each."""
        if self._set_watching(connection, watch.clients, watch.id):
            connection.tell(Watching(id=watch.id))
            self.tell_states(connection)

    def watch_only(self, connection: "Connection", names: list[str]) -> None:
        """Take the set a hello brought."""
        if self._set_watching(connection, names, 0):
            self.tell_states(connection)

    def _set_watching(self, connection: "Connection", names: list[str], command: int) -> bool:
        session = connection.session
        assert session is not None
        wanted = dict.fromkeys(names)
        if len(wanted) > self._max_watched:
            connection.error(ErrorCode.LIMIT, f"at most {self._max_watched} watched peers", id=command)
            return False
        if not all(is_id(name, limits.MAX_CLIENT_ID) for name in wanted):
            connection.error(ErrorCode.MALFORMED, "not the name of a client", id=command)
            return False
        for name in [name for name in session.watching if name not in wanted]:
            self._unwatch(session, name)
        for name in wanted:
            party = session.watching[name] = self._party(name)
            party.watchers[session] = None
        return True

    def _unwatch(self, session: Session, name: str) -> None:
        party = session.watching.pop(name)
        party.watchers.pop(session, None)
        self._tidy(party)

    def tell_states(self, connection: "Connection") -> None:
        """Tell the state of every watched peer."""
        session = connection.session
        assert session is not None
        for party in session.watching.values():
            connection.tell(self._state(session, party))

    def _state(self, observer: Session, party: Party) -> Peer:
        """What this observer may know of a party."""
        session = party.session
        if session is None or not self._may(observer, party):
            return Peer(client_id=party.name, state=PeerState.AWAY)
        if session.connection is None:
            return Peer(client_id=party.name, state=PeerState.RECONNECTING)
        return Peer(
            client_id=party.name,
            state=PeerState.HERE,
            run=session.run,
            generation=session.generation,
            attachment=session.attachment,
        )

    def arrived(self, session: Session) -> None:
        """A connection carries the session from now on: rights and ways are found anew."""
        party = session.party = self._party(session.client_id)
        party.session = session
        self._forget_ways(session)
        self._close_ways(party)
        self._announce(party, party.watchers)
        self.drained(party)

    def detached(self, session: Session) -> None:
        """The session has lost its connection."""
        party = session.party
        if party is None or party.session is not session:
            return
        self._close_ways(party)
        self._announce(party, party.watchers | dict.fromkeys(party.waiters))

    def ended(self, session: Session) -> None:
        """The session is over: nothing of it stays."""
        for name in list(session.flows):
            self._drop_flow(session, name)
        for name in list(session.watching):
            self._unwatch(session, name)
        party, session.party = session.party, None
        if party is None or party.session is not session:
            return
        party.session = None
        self._close_ways(party)
        self._announce(party, party.watchers | dict.fromkeys(party.waiters))
        for sender, flow in list(party.flows.items()):
            flow.reply = None
            if not flow.refused and sender not in party.waiters:
                self._drop_flow(sender, party.name)
        self._tidy(party)

    def rights_changed(self, session: Session) -> None:
        """The session's identity is another one: ways, and what watchers may know, are found anew."""
        for flow in session.flows.values():
            flow.target = None
            back = flow.party.session.flows.get(session.client_id) if flow.party.session is not None else None
            if back is not None:
                back.reply = None
            if not self._may(session, flow.party):
                flow.party.waiters.pop(session, None)
            elif flow.refused:
                flow.party.waiters[session] = flow
                self.drained(flow.party)
        if session.connection is not None:
            self.tell_states(session.connection)

    def drained(self, party: Party) -> None:
        """The party can take messages (again): wake those who wait, a few at a time."""
        if party.waiters:
            self._node.work.start(self._wake(party), WAKE_SLICE)

    def _wake(self, party: Party) -> Iterator[None]:
        while party.waiters:
            target = party.connection
            if target is None or target.full:
                return  # the rest hear of it when that changes
            sender = next(iter(party.waiters))
            flow = party.waiters.pop(sender)
            if sender.connection is not None and self._may(sender, party):
                sender.connection.tell(self._state(sender, flow.party))
            yield

    def _announce(self, party: Party, observers: dict[Session, None]) -> None:
        if observers:
            self._node.work.start(self._tell(party, list(observers)))

    def _tell(self, party: Party, observers: list[Session]) -> Iterator[None]:
        for observer in observers:
            if observer.connection is not None and (observer in party.watchers or observer in party.waiters):
                observer.connection.tell(self._state(observer, party))
            yield

    def _close_ways(self, party: Party) -> None:
        for flow in party.flows.values():
            flow.target = flow.reply = None

    def _forget_ways(self, session: Session) -> None:
        """After a hello a sender begins again from its lowest number: what was refused is forgotten."""
        for name in list(session.flows):
            self._drop_flow(session, name)
