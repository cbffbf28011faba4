"""Store and forward for links: what goes to mailboxes, and what their engine answers.

A number is stored when its receiver is away, has too much already, or has not acknowledged it in time (its
sender asks then), and everything that is sent to a user. The node keeps no message itself: between the
request and the commit it holds the row, so that a receiver who comes meanwhile gets it from memory. Every
copy is answered: by `stored`, by an error when the mailbox is full, or by `wait`.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec import UNSET, UnsetType

from duolink.engines.base import Failure, Mailbox, Row, Standing, StoreResult, Stream, Verdict
from duolink.protocol import limits
from duolink.protocol.codec import encode, encode_binary
from duolink.protocol.codes import ErrorCode, LossReason
from duolink.protocol.messages import Ack, LinkMessage, Probe, Skip, Stored, Wait
from duolink.server.delivery import Delivery, beginning
from duolink.server.party import Flow, Parties, settled_of
from duolink.server.policy import SERVER
from duolink.server.registry import Session

if TYPE_CHECKING:
    from duolink.server.connection import Connection
    from duolink.server.node import Node

MAX_UNDER_WAY: Final = 2048
"""Rows of one connection that wait for the disk: eight full windows. What is more is told to wait."""

ASK_AGAIN: Final = 1.0
"""Seconds before a sender is asked a second time to fill the same hole."""


class Mailboxes:
    """The mailboxes of a node's clients."""

    def __init__(self, node: "Node", parties: Parties, engine: Mailbox, durable: bool, window: int) -> None:
        self.node = node
        self.engine = engine
        self.durable = durable
        self.window = window
        self._parties = parties
        self._counts = node.counts
        self._under_way: dict[str, dict[Stream, int]] = {}  # by receiver: rows that wait for the disk
        self._users: dict[str, dict[Session, None]] = {}  # @user → their clients that are here
        self._stored: dict[tuple[Session, Stream], int] = {}  # answers of this turn
        self._holes: dict[tuple[Session, Stream], Standing] = {}
        self._telling = False
        self._asking: set[tuple[Connection, Stream]] = set()  # questions under way
        self._settling: dict[Stream, bool] = {}  # of users, too; whether to ask once more
        self._turned_away: dict[Session, dict[Stream, None]] = {}  # told to wait, for want of a disk or room

    def keeps(self, name: str) -> bool:
        """Whether messages for this name are stored, if need be."""
        return (self.durable or name[:1] == "@") and name != SERVER

    # --- storing -----------------------------------------------------------------------------

    def store(
        self,
        connection: "Connection",
        session: Session,
        flow: Flow,
        message: LinkMessage | Skip,
        line: bytes,
        last: int,
    ) -> None:
        """Store a number (of a skip: up to `last`), and answer when that is done."""
        stream = Stream(flow.party.name, session.client_id, message.lane, session.run)
        seq = message.seq
        if connection.storing >= MAX_UNDER_WAY:
            self._turn_away(connection, session, flow, stream, seq, last, "")
            return
        again = message.store  # an earlier copy of it has come
        row = self._row(session, flow, message, line, last)
        if len(row.body) > self.node.links.max_message:
            self.node.links.refuse(
                connection, message, seq, ErrorCode.TOO_LARGE, "too large with its sender's name"
            )
            return
        target = flow.party.connection
        first = flow.first.get(message.lane, seq + 1)
        handed = again and target is not None and flow.opened is target and seq >= first
        if not handed:
            flow.first.pop(message.lane, None)
            if target is not None:
                flow.storing.add(message.lane)
                flow.target = None
        self._begins(stream)
        connection.storing += 1
        base = max(message.base, settled_of(session, flow, message.lane) + 1)
        handed_to = target if handed else None
        done = partial(self._done, connection, session, stream, row, handed_to)
        self.engine.store(stream, row, base, done)

    def _begins(self, stream: Stream) -> None:
        """A row goes to the disk. Who is here to receive it is listened to from now on: it may have come
        another way, and be acknowledged before it is stored."""
        streams = self._under_way.setdefault(stream.receiver, {})
        streams[stream] = streams.get(stream, 0) + 1
        for _ in self._deliveries(stream.receiver):
            pass

    def _ends(self, stream: Stream) -> None:
        """Its answer is there."""
        streams = self._under_way[stream.receiver]
        streams[stream] -= 1
        if not streams[stream]:
            del streams[stream]
            if not streams:
                del self._under_way[stream.receiver]

    def _row(self, session: Session, flow: Flow, message: LinkMessage | Skip, line: bytes, last: int) -> Row:
        if type(message) is Skip:
            return Row(message.seq, last, reason=message.reason or "refused")
        assert type(message) is LinkMessage
        user = flow.party.name if flow.party.name[0] == "@" else ""
        expires = self.node.clock.wall_ms() + message.ttl if message.ttl else 0
        if not message.binary and line[-1:] == b"}" and len(line) < self.node.links.safe_length and not user:
            body = line[:-1] + session.suffix
        else:
            message.sender, message.user = session.client_id, user
            to, message.to = message.to, ""
            message.store, message.ttl, message.collapse, collapse = False, 0, "", message.collapse
            body = encode_binary(message) if message.binary else encode(message)
            message.to, message.collapse, message.sender = to, collapse, ""
        return Row(message.seq, last, body, message.binary, "", expires, message.collapse)

    def _done(
        self,
        connection: "Connection",
        session: Session,
        stream: Stream,
        row: Row,
        handed_to: "Connection | None",
        result: StoreResult | Failure,
    ) -> None:
        self._ends(stream)
        connection.storing -= 1
        flow = session.flows.get(stream.receiver)
        if isinstance(result, Failure):
            code = ErrorCode.UNAVAILABLE
            self._turn_away(connection, session, flow, stream, row.seq, row.last, code, result.uncertain)
        elif result.verdict is Verdict.KEPT:
            self._counts.stored += 1
            for delivery in self._deliveries(stream.receiver):
                delivery.kept(stream, row, delivery.connection is handed_to)
            key = session, stream
            self._stored[key] = max(self._stored.get(key, 0), result.standing.stored)
            self._tell_later()
        elif result.verdict is Verdict.FULL:
            loss = Row(row.seq, row.last, reason=LossReason.MAILBOX_FULL)
            detail = f"a message from {session.client_id} is lost"
            self.node.happenings.add("mailbox_full", stream.receiver, detail=detail)
            for delivery in self._deliveries(stream.receiver):
                delivery.kept(stream, loss, delivery.connection is handed_to)
            if connection.session is session:
                connection.error(
                    ErrorCode.MAILBOX_FULL,
                    "the mailbox has no room",
                    to=stream.receiver,
                    lane=stream.lane,
                    run=stream.run,
                    seq=row.seq,
                )
        elif result.verdict is Verdict.HOLE:
            self._wait(connection, session, stream, row.seq, row.last)
            self._holes[session, stream] = result.standing
            self._tell_later()
        else:
            if flow is not None:
                self._refuse(flow, session, stream, row.seq)
            self._wait(connection, session, stream, row.seq, row.last)
        for delivery in self._deliveries(stream.receiver):
            delivery.settle(stream)
        if self._turned_away and not isinstance(result, Failure):
            self.call_back()

    def _turn_away(
        self,
        connection: "Connection",
        session: Session,
        flow: Flow | None,
        stream: Stream,
        seq: int,
        last: int,
        code: str,
        uncertain: bool = False,
    ) -> None:
        """It cannot be stored now: its sender keeps it, and is told when it can. `uncertain`: this copy may
        turn up on the disk all the same."""
        if flow is not None:
            self._refuse(flow, session, stream, seq, waits=False)
        self._turned_away.setdefault(session, {})[stream] = None
        self._wait(connection, session, stream, seq, last, code, uncertain)

    def _refuse(self, flow: Flow, session: Session, stream: Stream, seq: int, waits: bool = True) -> None:
        flow.refused[stream.lane] = min(flow.refused.get(stream.lane, seq), seq)
        flow.first.pop(stream.lane, None)
        flow.target = None
        if waits:
            flow.party.waiters[session] = flow

    def _wait(
        self,
        connection: "Connection",
        session: Session,
        stream: Stream,
        seq: int,
        last: int,
        code: str = "",
        uncertain: bool = False,
    ) -> None:
        self._counts.waits += 1
        if connection.session is session:
            wait = Wait(to=stream.receiver, run=stream.run, seq=seq, lane=stream.lane, code=code)
            wait.last = last if last > seq else 0
            wait.probe = uncertain  # counts no copy as dropped
            connection.tell(wait)

    def call_back(self) -> None:
        """There is a disk, or room, again: those who were told to wait begin again where they are."""
        for session in list(self._turned_away):
            connection = session.connection
            if connection is not None and connection.storing >= MAX_UNDER_WAY // 2:
                continue  # for this one there is none yet
            for stream in self._turned_away.pop(session):
                if connection is not None and session.run == stream.run:
                    self._acknowledge(connection, stream, Standing(), want=True)

    # --- answers -----------------------------------------------------------------------------

    def _tell_later(self) -> None:
        if not self._telling:
            self._telling = True
            self.node.defer(self._tell)

    def _tell(self) -> None:
        """Say what was stored in this turn: once per stream, for `stored` is cumulative."""
        self._telling = False
        stored, self._stored = self._stored, {}
        holes, self._holes = self._holes, {}
        if self.durable:
            for (session, stream), seq in stored.items():
                if session.connection is not None and session.run == stream.run:
                    receiver, _, lane, run = stream
                    session.connection.tell(Stored(to=receiver, run=run, seq=seq, lane=lane))
        for (session, stream), standing in holes.items():
            self._ask(session, stream, standing)

    def _ask(self, session: Session, stream: Stream, standing: Standing) -> None:
        """Ask a sender to send again from the first number that is missing."""
        if session.connection is None or session.run != stream.run:
            return
        flow = session.flows.get(stream.receiver)
        if flow is not None:  # else it has ended with the receiver's session, while the disk was asked
            hole, when = flow.asked.get(stream.lane, (-1, 0.0))
            if hole == standing.stored and self.node.now < when + ASK_AGAIN:
                return
            flow.asked[stream.lane] = standing.stored, self.node.now
        self._acknowledge(session.connection, stream, standing, want=True, kept=standing.stored)

    def _acknowledge(
        self,
        connection: "Connection",
        stream: Stream,
        standing: Standing,
        want: bool,
        kept: int | UnsetType = UNSET,
    ) -> None:
        """Acknowledge for a receiver, as its mailbox knows. `kept`: up to where that has everything, if it
        was asked."""
        received = standing.stored if standing.stored > standing.settled else 0
        ack = Ack(
            run=stream.run,
            seq=standing.settled,
            sender=stream.receiver,
            lane=stream.lane,
            received=received,
            want=want,
            lost=list(standing.lost),
            by=standing.by,
            kept=kept if self.durable else UNSET,
        )
        connection.send(encode(ack))
        self._counts.ack_out += 1

    def acknowledge_for(
        self, connection: "Connection", session: Session, flow: Flow, lane: str, settled: int
    ) -> None:
        """Tell a sender what its receiver has acknowledged while it did not hear."""
        stream = Stream(flow.party.name, session.client_id, lane, session.run)
        self._acknowledge(connection, stream, Standing(settled, settled), want=False)

    def lost(self, session: Session, ack: Ack) -> None:
        """A receiver lists losses. Its sender may never hear it, and nobody else here keeps the list: the
        mailbox is to know, or copies of what is settled would reach the receiver's next process."""
        if self.durable:
            stream = Stream(session.client_id, ack.to, ack.lane, ack.run)
            self.engine.acknowledge(stream, session.client_id, ack.seq, tuple(ack.lost), ack.by)

    def tell_settled(self, stream: Stream) -> None:
        """A client of a user has finished with more of a stream: tell its sender how far the user is now.
        That is not what the client says: one that came late has not finished with what was there before."""

        if stream in self._settling:
            self._settling[stream] = True
            return
        self._settling[stream] = False

        def done(standing: Standing | Failure) -> None:
            again = self._settling.pop(stream)
            party = self._parties.get(stream.sender)
            session = party.session if party is not None else None
            if session is None or session.connection is None or session.run != stream.run:
                return
            if not isinstance(standing, Failure) and stream.receiver in session.flows and standing.settled:
                self._acknowledge(session.connection, stream, standing, want=False)
            if again:
                self.tell_settled(stream)

        self.engine.standing(stream, done)

    def probe(self, connection: "Connection", session: Session, flow: Flow, probe: Probe) -> None:
        """A sender wants to know what became of its numbers: tell what the mailbox knows, and let the
        receiver tell the rest, if it is here."""
        stream = Stream(flow.party.name, session.client_id, probe.lane, session.run)
        settled = max(settled_of(session, flow, probe.lane), probe.base - 1)
        if not self._asks(connection, stream):
            return

        def done(standing: Standing | Failure) -> None:
            self._asking.discard((connection, stream))
            if connection.session is not session:
                return
            kept: int | UnsetType = UNSET
            if isinstance(standing, Failure):
                standing = Standing(settled, settled)
            else:
                kept = max(standing.stored, settled)
            stored = max(standing.stored, settled)
            known = standing._replace(stored=stored, settled=max(standing.settled, settled))
            if self.durable and stored >= probe.base:
                connection.tell(Stored(to=stream.receiver, run=stream.run, seq=stored, lane=stream.lane))
            target = flow.party.connection
            if target is None:
                self._acknowledge(connection, stream, known, stored < probe.seq, kept)
                return
            if known.settled >= probe.base:
                self._acknowledge(connection, stream, known, want=False)
            if flow.party.session is not None and not self._may_begin(flow.party.session, stream):
                return  # a probe of this run would have the receiver drop what waits of earlier ones
            if known.settled < probe.seq and not target.full:
                probe.sender, probe.to = session.client_id, ""
                probe.start, probe.lost = known.settled + 1, list(known.lost)
                target.send(encode(probe))

        self.engine.standing(stream, done)

    def check(
        self,
        connection: "Connection",
        session: Session,
        flow: Flow,
        message: LinkMessage | Skip,
        last: int,
    ) -> None:
        """Before a number goes to a process that is younger than it: ask the mailbox what an earlier process
        had finished with. The sender waits, and is then told from where to go on."""
        stream = Stream(flow.party.name, session.client_id, message.lane, session.run)
        receiver = flow.party.session
        assert receiver is not None
        self._refuse(flow, session, stream, message.seq, waits=False)
        self._wait(connection, session, stream, message.seq, last)
        if not self._asks(connection, stream):
            return
        run, base = receiver.run, message.base

        def done(standing: Standing | Failure) -> None:
            self._asking.discard((connection, stream))
            if connection.session is not session:
                return  # whoever carries the session now is to ask, and to hear
            if isinstance(standing, Failure):
                self._turned_away.setdefault(session, {})[stream] = None
                return
            flow.checked[stream.lane] = run
            settled = max(standing.settled, base - 1)
            known = standing._replace(stored=settled, settled=settled)
            self._tell_where_it_begins(flow, stream, known)
            self._acknowledge(connection, stream, known, True, kept=max(standing.stored, settled))

        self.engine.standing(stream, done)

    def _tell_where_it_begins(self, flow: Flow, stream: Stream, known: Standing) -> None:
        """A receiver's process is younger than a stream: a copy that left before its sender hears what is
        settled has a lower base, which would have the receiver wait for what will not come."""
        receiver = flow.party.session
        if receiver is None or receiver.connection is None or not known.settled:
            return
        if self._may_begin(receiver, stream):
            receiver.connection.send(encode(beginning(stream, known.settled, known.lost)))

    def _asks(self, connection: "Connection", stream: Stream) -> bool:
        """Note that a connection has a question about a stream; False if it has one already: it will ask
        again, and nobody can pile up questions."""
        asked = connection, stream
        if asked in self._asking:
            return False
        self._asking.add(asked)
        return True

    # --- receivers ---------------------------------------------------------------------------

    def arrived(self, session: Session) -> None:
        """A connection carries the session: see what there is for it."""
        self.left(session)
        connection = session.connection
        assert connection is not None
        session.user = session.identity.user_of(session.client_id)
        self._users.setdefault(f"@{session.user}", {})[session] = None
        delivery = session.delivery = Delivery(self, session, connection)
        delivery.open()

    def left(self, session: Session) -> None:
        """No connection carries it any more."""
        delivery, session.delivery = session.delivery, None
        if delivery is not None:
            delivery.close()
        clients = self._users.get(f"@{session.user}")
        if clients is not None and session in clients:
            del clients[session]
            if not clients:
                del self._users[f"@{session.user}"]

    def looked_at(self, delivery: Delivery) -> None:
        """A delivery may have nothing left to do."""
        session = delivery.session
        if session.delivery is delivery and delivery.idle:
            names = session.client_id, f"@{session.user}"
            if not any(name in self._under_way for name in names):
                session.delivery = None

    def _deliveries(self, receiver: str) -> Iterator[Delivery]:
        if receiver[0] == "@":
            sessions: Iterable[Session] = list(self._users.get(receiver, ()))
        else:
            party = self._parties.get(receiver)
            sessions = (party.session,) if party is not None and party.session is not None else ()
        for session in sessions:
            if session.connection is None:
                continue
            if session.delivery is None:
                session.delivery = Delivery(self, session, session.connection)
                session.delivery.listed = True
            yield session.delivery

    def behind(self, stream: Stream) -> None:
        """A receiver who is here has to catch up: what comes is stored until it has."""
        party = self._parties.get(stream.sender)
        session = party.session if party is not None else None
        flow = session.flows.get(stream.receiver) if session is not None else None
        if flow is not None:
            flow.target = None
            flow.storing.add(stream.lane)

    def is_under_way(self, stream: Stream) -> bool:
        """Whether a stream has rows that wait for the disk."""
        return stream in self._under_way.get(stream.receiver, ())

    def clear(self, session: Session, stream: Stream) -> bool:
        """Whether the next message of a stream may go to a receiver that is here at once."""
        if session.delivery is not None and not session.delivery.clear(stream):
            return False
        return self._may_begin(session, stream)

    def _may_begin(self, session: Session, stream: Stream) -> bool:
        """Whether a receiver that is here may hear of a stream's run."""
        if session.delivery is not None and not session.delivery.may_begin(stream):
            return False
        # What an earlier run has sent comes first, also if it is not on the disk yet.
        under_way = self._under_way.get(stream.receiver, ())
        return not any(other.sender == stream.sender and other.run < stream.run for other in under_way)

    def handed(self, stream: Stream, row: Row) -> None:
        """A row was handed to a connection."""
        self._counts.message_out += 1
        hook = self.node.links.on_message
        if hook is not None and not row.reason:
            decoder = self.node.own_decoder
            decoded = decoder.binary(row.body) if row.binary else decoder.text(row.body)
            if type(decoded[0]) is LinkMessage:
                self.node.call_hook("message", hook, decoded[0], stream.receiver)

    def remember(self, session: Session) -> None:
        """A sender's session is over. What its receivers had acknowledged, and it may not have heard, is
        needed if it comes back."""
        self._turned_away.pop(session, None)
        if not self.durable or session.left:
            return
        for name, flow in session.flows.items():
            for lane in limits.LANES:
                settled = settled_of(session, flow, lane)
                if settled and name != SERVER and name[0] != "@":
                    stream = Stream(name, session.client_id, lane, session.run)
                    self.engine.acknowledge(stream, name, settled, (), 0)
