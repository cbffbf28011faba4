"""Routing of links: from one session to another, or `wait`.

A `Party` is a client as links see it: its session if it has one here, who sends to it, who watches it. A
`Flow` is one sender's way to one party. While all is well a flow has a `target`, the connection that messages
go to; whatever changes that (the receiver's connection, the sender's rights, a refused number) takes the
target away, and the next message finds its way anew. The node keeps no message: what it does not hand
over it gives to the receiver's mailbox, or answers with `wait`, and the sender keeps it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from duolink.engines.base import Stream
from duolink.protocol import limits
from duolink.protocol.codec import encode, encode_binary, is_client_id, is_id, is_user
from duolink.protocol.codes import ErrorCode
from duolink.protocol.messages import Ack, Ephemeral, LinkMessage, Probe, Signal, Skip, Wait
from duolink.server.mailbox import Mailboxes
from duolink.server.party import Flow, Parties, Party, settled_of, told_to
from duolink.server.policy import SERVER, Consent, may_link
from duolink.server.registry import Session
from duolink.server.settings import MAX_WINDOW
from duolink.server.timing import Timing
from duolink.server.watchers import Watchers

if TYPE_CHECKING:
    from duolink.server.connection import Connection
    from duolink.server.node import Node

MAX_FLOWS: Final = limits.MAX_LINKS
"""Receivers one session may send to; what is idle makes room for what is new."""

MAX_SUFFIX: Final = 1024
"""Bytes that `,"from":"…"}` may have: every byte of a client id escaped."""


class Links:
    """The links of a node."""

    def __init__(
        self,
        node: "Node",
        parties: Parties,
        consent: Consent,
        watchers: Watchers,
        mailboxes: Mailboxes,
        window: int,
    ) -> None:
        self._node = node
        self._parties = parties
        self._consent = consent
        self._watchers = watchers
        self._mailboxes = mailboxes
        self._window = window
        self.max_message = node.config.wire.max_message
        self.safe_length = self.max_message - MAX_SUFFIX
        """Bytes a line may have whose sender's name is certain to fit behind it."""
        self._counts = node.counts
        self.count = 0
        """Flows there are now."""
        self.timing = Timing(node)
        self.on_message: Callable[[LinkMessage, str], None] | None = None
        """Hears every message that is handed over, with its receiver."""

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
            and message.seq > (flow.floor_messages if lane == "messages" else flow.floor_bulk)
            and not (message.sender or message.user)
            and not message.store
        ):
            self._counts.message_in += 1
            if lane == "messages":
                flow.last_messages = message.seq
                quick_run = flow.quick_run
            else:
                flow.last_bulk = message.seq
                quick_run = -1
            if message.ack:
                if message.ack_run == quick_run:
                    flow.ack_messages = message.ack
                else:
                    self.timing.acknowledge(session, flow, lane, message.ack_run, message.ack)
                if session.delivery is not None:
                    session.delivery.acknowledged(message.to, "", lane, message.ack_run, message.ack)
            if line[-1:] == b"}" and self.on_message is None and len(line) < self.safe_length:
                # Not encoded again: the sender's name goes behind the rest, where it wins over whatever
                # a client may have put there (in JSON parsers the last of equal keys counts; the
                # decoder has refused another `type`).
                target.send(line[:-1] + session.suffix)
                self._counts.message_out += 1
            else:
                self._forward(connection, message, target)
        elif self._admissible(connection, message, message.seq, message.seq):
            self._counts.message_in += 1
            self._route(connection, session, message, line, message.seq)

    def skip(self, connection: "Connection", skip: Skip) -> None:
        """Hand a skip on, or answer it, as a message."""
        session = connection.session
        assert session is not None
        if skip.last < skip.seq:
            self.refuse(connection, skip, skip.seq, ErrorCode.MALFORMED, "a skip's last is below its seq")
        elif skip.last - skip.seq >= MAX_WINDOW:
            self.refuse(connection, skip, skip.seq, ErrorCode.CREDIT, "a skip of more than any window")
        elif self._admissible(connection, skip, skip.seq, skip.last):
            self._route(connection, session, skip, b"", skip.last)

    def probe(self, connection: "Connection", probe: Probe) -> None:
        """Hand a probe on. One that cannot be is answered by what the mailbox knows, or by `wait` for the
        number after it."""
        session = connection.session
        assert session is not None
        if not self._admissible(connection, probe, probe.base, probe.base):
            return
        flow = self._flow(session, probe.to)
        if flow is not None and self._may(session, flow.party):
            if self._mailboxes.keeps(probe.to):
                self._mailboxes.probe(connection, session, flow, probe)
                return
            target = flow.party.connection
            if target is not None and not target.full:
                self._stamp(probe, session)
                target.send(encode(probe))
                return
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
        if ack.lane not in limits.LANES:
            return
        if session.delivery is not None:
            session.delivery.acknowledged(ack.to, ack.user, ack.lane, ack.run, ack)
        if ack.user:
            return  # its mailbox tells the sender how far the user is
        flow = session.flows.get(ack.to) or self._flow(session, ack.to)
        if flow is None:
            return
        if not ack.lost:
            self.timing.acknowledge(session, flow, ack.lane, ack.run, ack.seq)
        receiver = flow.party.session
        if (
            ack.lost
            and receiver is not None
            and ack.run == receiver.run
            and session.client_id in receiver.flows
        ):
            self._mailboxes.lost(session, ack)
        if receiver is None or receiver.connection is None:
            return
        if flow.reply is not receiver:
            if not (self._allowed(receiver, session) or self._may(session, flow.party)):
                return
            flow.reply = receiver
        if ack.lost and ack.run == receiver.run:
            flow.told[ack.lane] = receiver.generation, receiver.attachment, ack.seq
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
        if len(line) <= self.max_message:
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
        if len(payload) <= self.max_message:
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
            if len(payload) <= self.max_message:
                target.send_binary(payload)
        else:
            payload = encode(message)
            if len(payload) <= self.max_message:
                target.send(payload)
        if len(payload) > self.max_message:  # only its sender's name was too much
            message.to = to
            self.refuse(
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
        if message.sender or message.user:
            connection.forged(message)
        elif message.lane not in limits.LANES:
            self.refuse(connection, message, seq, ErrorCode.MALFORMED, "no such lane")
        elif message.run != session.run:
            self.refuse(connection, message, seq, ErrorCode.FORBIDDEN, "not the run of this session")
        elif seq < message.base:
            self.refuse(connection, message, seq, ErrorCode.MALFORMED, "a number below its own base")
        elif last - message.base >= self._window and not self._mailboxes.keeps(message.to):
            self.refuse(connection, message, seq, ErrorCode.CREDIT, f"the window is {self._window} numbers")
        elif not (is_client_id(message.to) or message.to == SERVER or is_user(message.to)) and is_id(
            message.to, limits.MAX_CLIENT_ID
        ):
            self.refuse(connection, message, seq, ErrorCode.FORBIDDEN, "not the name of a client or user")
        elif not is_id(message.to, limits.MAX_CLIENT_ID):
            self.refuse(connection, message, seq, ErrorCode.MALFORMED, "`to` is no client id")
        else:
            return True
        return False

    def refuse(
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
        self,
        connection: "Connection",
        session: Session,
        message: LinkMessage | Skip,
        line: bytes,
        last: int,
    ) -> None:
        """Find the way of a number (of a skip: up to `last`) that has none, or is not the next on it."""
        seq, lane = message.seq, message.lane
        flow = self._flow(session, message.to)
        if flow is None:
            self._answer_wait(connection, message, seq, last)
            return
        if type(message) is LinkMessage and message.ack:
            self.timing.acknowledge(session, flow, lane, message.ack_run, message.ack)
            if session.delivery is not None:
                session.delivery.acknowledged(message.to, "", lane, message.ack_run, message.ack)
        refused = flow.refused.get(lane, seq)
        if seq > refused >= message.base:
            flow.first.pop(lane, None)
            self._answer_wait(connection, message, seq, last)
            return
        flow.refused.pop(lane, None)
        allowed = self._may(session, flow.party)
        settled = settled_of(session, flow, lane)
        if last <= settled:  # its receiver said so, and the sender has not heard it
            self._mailboxes.acknowledge_for(connection, session, flow, lane, settled)
            return
        if last <= told_to(session, flow, lane):
            return  # a copy that left before its sender heard; kept now, it would be seen again
        if allowed:
            kept = self._mailboxes.keeps(message.to)
            if not (kept and (message.store or last - message.base >= self._window)):
                if kept and self._must_check(session, flow, lane):
                    self._mailboxes.check(connection, session, flow, message, last)
                    return
                target = self._open(session, flow, lane, seq)
                if target is not None and not target.full:
                    if type(message) is LinkMessage:
                        self.timing.begin(session, flow, message)
                    self._forward(connection, message, target)
                    return
            if kept:
                self._mailboxes.store(connection, session, flow, message, line, last)
                return
        flow.refused[lane] = seq
        flow.first.pop(lane, None)
        flow.target = None
        if allowed:
            flow.party.waiters[session] = flow
        self._answer_wait(connection, message, seq, last)

    def _answer_wait(
        self, connection: "Connection", message: LinkMessage | Skip, seq: int, last: int
    ) -> None:
        self._counts.waits += 1
        last = last if type(message) is Skip else 0
        connection.tell(Wait(to=message.to, run=message.run, seq=seq, last=last, lane=message.lane))

    # --- ways --------------------------------------------------------------------------------

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
        party = self._parties.make(to)
        flow = session.flows[to] = party.flows[session] = Flow(party)
        self.count += 1
        return flow

    def _drop_flow(self, session: Session, to: str) -> None:
        flow = session.flows.pop(to)
        self.timing.forget(flow)
        party = flow.party
        if flow.ack_run and party.session is not None:  # what it has acknowledged may be needed yet
            back = party.session.flows.get(session.client_id)
            if back is not None:
                for lane in limits.LANES:
                    settled = settled_of(party.session, back, lane, flow)
                    if settled:
                        back.unheard(lane, settled)
        party.flows.pop(session, None)
        party.waiters.pop(session, None)
        self.count -= 1
        self._parties.tidy(party)

    def _open(self, session: Session, flow: Flow, lane: str, seq: int) -> "Connection | None":
        """The connection this number may go to now; remembered if nothing else is in the way."""
        receiver = flow.party.session
        target = receiver.connection if receiver is not None else None
        if receiver is None or target is None:
            return None
        if self._mailboxes.durable:
            stream = Stream(flow.party.name, session.client_id, lane, session.run)
            if not self._mailboxes.clear(receiver, stream):
                return None  # what is in the mailbox comes first
        flow.storing.discard(lane)
        if not flow.refused and not flow.storing:
            flow.target = target
        if flow.opened is not target:
            flow.opened, flow.first = target, {}
        flow.first[lane] = min(flow.first.get(lane, seq), seq)
        return target

    def _must_check(self, session: Session, flow: Flow, lane: str) -> bool:
        """Whether the receiver's process is younger than what it is sent, so that an earlier one may have
        finished with it, and the mailbox was not asked yet."""
        receiver = flow.party.session
        if receiver is None or receiver.connection is None or flow.party.name == SERVER:
            return False
        return receiver.run > session.run and flow.checked.get(lane) != receiver.run

    def _may(self, session: Session, party: Party) -> bool:
        return may_link(self._consent, session, party)

    def _allowed(self, sender: Session, receiver: Session) -> bool:
        assert receiver.party is not None
        return self._may(sender, receiver.party)

    def _reachable(self, session: Session, to: str) -> "Connection | None":
        """The connection of a client to whom at-most-once messages may go now."""
        party = self._parties.get(to)
        if party is None or party.connection is None or not self._may(session, party):
            return None
        return party.connection if not party.connection.full else None

    # --- who comes and goes ------------------------------------------------------------------

    def arrived(self, session: Session) -> None:
        """A connection carries the session from now on: rights and ways are found anew."""
        party = session.party = self._parties.make(session.client_id)
        party.session = session
        self._forget_ways(session)
        self._close_ways(party)
        if session.client_id != SERVER:
            self._mailboxes.arrived(session)
        self._watchers.announce(party)
        self.drained(party)

    def renumbered(self, session: Session) -> None:
        """Another process resumes the session (a page that was reloaded). It has numbers of its own: what
        receivers had finished with of the one before says nothing of them. And it has received nothing: no
        copy of what the one before had finished with must reach it."""
        for flow in session.flows.values():
            flow.renumbered()
        for sender, flow in session.party.flows.items() if session.party is not None else ():
            for lane in limits.LANES:
                settled = settled_of(sender, flow, lane)
                if settled:
                    flow.unheard(lane, settled)

    def detached(self, session: Session) -> None:
        """The session has lost its connection."""
        party = session.party
        self._mailboxes.left(session)
        if party is None or party.session is not session:
            return
        self._close_ways(party)
        self._watchers.announce(party, waiters=True)

    def ended(self, session: Session) -> None:
        """The session is over: nothing of it stays."""
        self._mailboxes.left(session)
        self._mailboxes.remember(session)
        for name in list(session.flows):
            self._drop_flow(session, name)
        self._watchers.ended(session)
        party, session.party = session.party, None
        if party is None or party.session is not session:
            return
        party.session = None
        self._close_ways(party)
        self._watchers.announce(party, waiters=True)
        for sender, flow in list(party.flows.items()):
            flow.reply = None
            if not flow.refused and not flow.cursors and sender not in party.waiters:
                self._drop_flow(sender, party.name)
        self._parties.tidy(party)

    def rights_changed(self, session: Session) -> None:
        """The session's identity is another one: ways, and what watchers may know, are found anew."""
        if session.connection is not None and session.user != session.identity.user_of(session.client_id):
            self._mailboxes.arrived(session)  # as another user's
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
            self._watchers.tell_states(session.connection)

    def drained(self, party: Party) -> None:
        """The party can take messages (again)."""
        if party.session is not None and party.session.delivery is not None:
            party.session.delivery.run()
        self._watchers.wake(party)

    def _close_ways(self, party: Party) -> None:
        for flow in party.flows.values():
            flow.target = flow.reply = flow.timed = None

    def _forget_ways(self, session: Session) -> None:
        """After a hello a sender begins again from its lowest number: what was refused is forgotten. What its
        receivers have acknowledged is not: it may not have heard."""
        for name, flow in list(session.flows.items()):
            for lane in limits.LANES:
                settled = settled_of(session, flow, lane)
                if settled:
                    flow.unheard(lane, settled)
            if not flow.cursors:
                self._drop_flow(session, name)
                continue
            flow.party.waiters.pop(session, None)
            flow.target = flow.reply = flow.opened = flow.timed = None
            flow.last_messages = flow.last_bulk = 0
            for table in (flow.refused, flow.first, flow.asked, flow.checked):
                table.clear()
            flow.storing.clear()
