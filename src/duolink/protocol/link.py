"""One end of a link: what this client sends to one peer and takes from it, over whatever paths there are.

The machine has no clock and no transport. Inputs carry `now` (monotonic seconds); `take(now)` returns the
messages to send, each with the path to send it on, and `events()` what the application should hear.
What holds it together are the numbers: a copy too many is recognised, a copy too few asked for.
"""

from collections.abc import Iterable
from math import inf
from typing import Any, Final, NamedTuple

from msgspec import Raw

from duolink.protocol import limits
from duolink.protocol.codes import ErrorCode, LossReason, PeerState
from duolink.protocol.inbound import BeyondCredit, Lost, Received
from duolink.protocol.messages import (
    Ack,
    Error,
    LinkMessage,
    Message,
    Peer,
    Ping,
    Pong,
    Probe,
    Skip,
    Wait,
)
from duolink.protocol.messages import (
    Stored as StoredMessage,
)
from duolink.protocol.outbound import Outbound, Outgoing, Record, Settled, Stored, WindowFull
from duolink.protocol.paths import PathKind, Paths
from duolink.protocol.receiving import Receiving
from duolink.protocol.records import CursorChange, LaneChange, SavedCursor, SavedLane
from duolink.protocol.sending import KNOCK_CAP, SERVER, Sending

__all__ = [
    "SERVER",
    "Link",
    "Lost",
    "PathFailed",
    "PeerChanged",
    "Received",
    "Settled",
    "StorageTrouble",
    "Stored",
    "WindowFull",
]

SMALL: Final = 1024
"""Bytes up to which a message goes both ways while trust in a path has lapsed."""

_NAMED: Final = frozenset({LinkMessage, Ack, Skip, Probe})


class PeerChanged(NamedTuple):
    """The peer is here, reconnecting or away now. `restarted`: another process answers to the name."""

    state: PeerState
    restarted: bool


class StorageTrouble(NamedTuple):
    """The server cannot store what was sent: it is kept here, and tried again."""

    code: str


class PathFailed(NamedTuple):
    """What came on this path broke the protocol: the driver closes it."""

    path: str
    reason: str


Event = Received | Lost | Settled | Stored | PeerChanged | PathFailed | StorageTrouble


def key_of(peer: str, user: str) -> str:
    """Return the key of a link to a peer, or of what that peer sends to a user."""
    return f"{peer}\n{user}" if user else peer  # no name contains a newline


class Link:
    """One client's end of a link to one peer. The peer may be a user (`@bob`): then it only sends. With
    `user` it is the end of what the peer sends to that user, whose client this is: then it only receives.
    `journaled`: what leaves, and what is acknowledged, waits until a journal has it (see `ledger`)."""

    def __init__(
        self,
        peer: str,
        run: int,
        *,
        window: int = limits.WINDOW,
        window_bytes: int = limits.WINDOW_BYTES,
        durable: bool = False,
        user: str = "",
        journaled: bool = False,
    ) -> None:
        self.peer = peer
        self.run = run
        self.journaled = journaled
        self.user = user
        self.window = window
        self.window_bytes = window_bytes
        self.durable = durable
        self.paths = Paths()
        self.state = PeerState.AWAY
        self.peer_process = 0  # the peer's run, as the server last told it
        self._connection: tuple[int, int] | None = None  # its generation and attachment
        self._opened = False  # the peer has acknowledged something of this run
        self._sending: dict[str, Sending] = {}
        self._granted: dict[tuple[str, str], int] = {}  # (path, lane) → highest number the peer takes
        self._receiving = Receiving(peer, user, run, window, window_bytes, journaled)
        self._events: list[Event] = []
        self._out: list[tuple[str, Message]] = []

    @property
    def key(self) -> str:
        """What tells it from a client's other links."""
        return key_of(self.peer, self.user)

    # --- the application -----------------------------------------------------------------------

    def has_room(self, size: int, lane: str = "messages") -> bool:
        """Whether `submit` would take a body of that many bytes now."""
        return self._lane(lane).outbound.has_room(size)

    def submit(
        self,
        data: Raw,
        *,
        lane: str = "messages",
        binary: bool = False,
        expires: float = inf,
        request: str = "",
        deadline: int = 0,
        reply: str = "",
        failed: bool = False,
        collapse: str = "",
        tag: str = "",
        context: Any = None,
    ) -> Outgoing:
        """Number a body for sending; it leaves with the next `take`.

        Raises `WindowFull` when the lane has no room, `ValueError` for an unknown lane.
        """
        outbound = self._lane(lane).outbound
        entry = outbound.submit(data, binary=binary, expires=expires)
        entry.request, entry.deadline = request, deadline
        entry.reply, entry.failed = reply, failed
        entry.collapse, entry.tag = collapse, tag
        if tag:
            outbound.tag = tag
        entry.context = context
        return entry

    def finish(self, message: LinkMessage, now: float) -> None:
        """The application has finished with a received message: it is delivered."""
        self._receiving.finish(message, now)

    def abandon(self, reason: str) -> list[Settled]:
        """This process gives up its link: what is not settled ends as lost."""
        return [end for sending in self._sending.values() for end in sending.outbound.abandon(reason)]

    @property
    def unsettled(self) -> int:
        """How many numbers, over all lanes, are neither delivered nor lost."""
        return sum(sending.outbound.unsettled for sending in self._sending.values())

    @property
    def owes_acks(self) -> bool:
        """Whether something that is finished has not been acknowledged yet."""
        return self._receiving.owes_acks

    def hurry(self, now: float) -> None:
        """Do not let acknowledgements wait for company: this end is about to leave."""
        self._receiving.hurry(now)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way in either direction."""
        return not self.unsettled and not self.owes_acks

    # --- what a journal keeps ------------------------------------------------------------------

    def restore(self, lanes: Iterable[SavedLane], cursors: Iterable[SavedCursor], *, anew: bool) -> None:
        """Take over, while this link is new, what an earlier process left; see `Outbound.restore`."""
        for lane in lanes:
            self._lane(lane.lane).outbound.restore(lane, anew=anew)
        self._receiving.restore(cursors)

    def outstanding(self) -> list[Outgoing]:
        """The numbers whose end was not told."""
        return [entry for sending in self._sending.values() for entry in sending.outbound.outstanding()]

    def newest_tag(self, lane: str) -> str:
        """The newest tag that a number of a lane was given; empty: none was."""
        return self._lane(lane).outbound.tag

    def lane_changes(self) -> list[LaneChange]:
        """Return, once, what has changed on the outbound lanes."""
        changes = (sending.outbound.change() for sending in self._sending.values())
        return [change for change in changes if change is not None]

    def cursor_changes(self) -> list[CursorChange]:
        """Return, once, which cursors of the inbound lanes have moved."""
        return self._receiving.changes()

    # --- paths -------------------------------------------------------------------------------

    def path_up(self, path: str, kind: PathKind, now: float) -> None:
        """A path is open (again): what the receiver has not got goes out on it, if it is chosen."""
        self.paths.open(path, kind, now)
        for sending in self._sending.values():
            if path == SERVER:
                sending.reconnected(now)
            else:
                sending.rewind(path)

    def adapt(self, window: int, window_bytes: int, durable: bool) -> None:
        """The server grants another credit than before (numbers already given stay), or has a disk now."""
        self.window, self.window_bytes, self.durable = window, window_bytes, durable
        for sending in self._sending.values():
            sending.outbound.window, sending.outbound.window_bytes = window, window_bytes
        self._receiving.adapt(window, window_bytes)

    def path_down(self, path: str) -> None:
        """A path is gone."""
        self.paths.close(path)
        for sending in self._sending.values():
            sending.rewind(path)
        for key in [key for key in self._granted if key[0] == path]:
            del self._granted[key]

    def peer_changed(self, peer: Peer, now: float) -> None:
        """The server tells the peer's state. A new run closes the paths to the old process; a new
        connection may have lost what was under way to the earlier one."""
        try:
            state = PeerState(peer.state)
        except ValueError:
            return  # a newer server's word
        # Another run, not a higher one: an engine without memory lets an older process come back.
        restarted = 0 < self.peer_process != peer.run > 0
        if restarted:
            self._opened = False
            for path in self.paths.names():
                if path != SERVER:
                    self.fail(path, "another process answers for the peer")
        if peer.run:
            self.peer_process = peer.run
            for sending in self._sending.values():
                sending.outbound.meet(peer.run)
        if state is not self.state or restarted:
            self._events.append(PeerChanged(state, restarted))
        self.state = state
        if state is not PeerState.HERE:
            return
        connection = (peer.generation, peer.attachment)
        for sending in self._sending.values():
            if connection != self._connection and (sending.held_until or self._connection is not None):
                sending.rewind(SERVER)
            sending.release(now)
        self._connection = connection

    # --- messages ----------------------------------------------------------------------------

    def receive(self, message: Message, path: str, now: float) -> None:
        """Take a link message that came on a path. The driver knows whose it is: on a direct path a name
        in the message is a forgery."""
        named = type(message) in _NAMED and message.sender  # type: ignore[attr-defined]
        if path != SERVER and named:
            self.fail(path, "a message on a direct path says whose it is")
            return
        if type(message) is LinkMessage:
            self._receive_message(message, path, now)
        elif type(message) is Ack:
            self._receive_ack(message, path, now)
        elif type(message) is Skip or type(message) is Probe:
            self._receive_control(message, path, now)
        elif type(message) is Ping:
            self._out.append((path, Pong(id=message.id)))
        elif type(message) is Pong:
            if path in self.paths:
                self.paths[path].pong(message.id, now)
        elif path == SERVER:
            self._receive_verdict(message, now)
        else:
            self.fail(path, f"{type(message).__name__} is not allowed here")

    def _receive_message(self, message: LinkMessage, path: str, now: float) -> None:
        try:
            items = self._receiving.message(message, path, now)
        except BeyondCredit as error:
            self.fail(path, str(error))
            return
        if items is None:
            return
        self._events += items
        if message.ack_run and message.ack_run == self.run:
            sending = self._sending.get(message.lane)
            if sending is not None:
                received = sending.outbound.received
                settled = sending.outbound.acknowledge_cursor(message.ack_run, message.ack)
                self._acknowledged(sending, settled, received, now)

    def _receive_control(self, message: Skip | Probe, path: str, now: float) -> None:
        try:
            self._events += self._receiving.control(message, path, now)
        except BeyondCredit as error:
            self.fail(path, str(error))

    def _receive_ack(self, ack: Ack, path: str, now: float) -> None:
        sending = self._sending.get(ack.lane)
        if sending is None or ack.run != self.run:
            return
        received = sending.outbound.received
        opened = self._opened
        self._acknowledged(sending, sending.outbound.acknowledge(ack), received, now)
        if isinstance(ack.kept, int) and path == SERVER:
            self._events += sending.outbound.forgotten(ack.kept)
        if ack.want and path == SERVER:
            self._opened = opened  # a mailbox asks, too, for a process that knows nothing of this run
        if ack.limit and path != SERVER:
            self._granted[path, ack.lane] = max(self._granted.get((path, ack.lane), 0), ack.limit)
        if ack.want:
            sending.rewind()
            sending.release(now)  # who asks is there

    def _receive_verdict(self, message: Message, now: float) -> None:
        """What the server says of numbers it was sent."""
        if type(message) is Wait:
            sending = self._sending.get(message.lane)
            if sending is not None and message.run == self.run:
                last = max(message.last, message.seq)
                if not message.probe:
                    self._events += sending.outbound.dropped(message.seq, last)
                if message.code and not sending.held_until:
                    self._events.append(StorageTrouble(message.code))
                sending.hold(message.seq, now)
        elif type(message) is StoredMessage:
            sending = self._sending.get(message.lane)
            if sending is not None and message.run == self.run:
                before = sending.outbound.stored
                self._events += sending.outbound.store(message.seq)
                if sending.held and message.seq >= sending.held:
                    sending.held = 0
                    sending.release(now)
                if sending.outbound.stored > before:
                    self._progress(sending, now)
        elif type(message) is Error and message.seq and message.run == self.run:
            sending = self._sending.get(message.lane or "messages")
            if sending is not None:
                self._refused(sending, message, now)
        elif type(message) is Peer:
            self.peer_changed(message, now)

    def _refused(self, sending: Sending, error: Error, now: float) -> None:
        if error.code == ErrorCode.CREDIT:
            sending.hold(error.seq, now)
        elif error.code == ErrorCode.MAILBOX_FULL:  # where its place is, it is known to be lost
            self._events += sending.outbound.refuse(error.seq, LossReason.MAILBOX_FULL)
        else:
            self._events += sending.outbound.refuse(error.seq)
            sending.back_to(error.seq)  # a skip takes the refused number's place

    def _acknowledged(self, sending: Sending, settled: list[Settled], received: int, now: float) -> None:
        self._events += settled
        if not settled and sending.outbound.received == received:
            return
        self._opened = True
        if sending.held and sending.outbound.received >= sending.held:
            sending.release(now)
        self._progress(sending, now)

    def _progress(self, sending: Sending, now: float) -> None:
        sending.probe_wait = limits.PROBE_AFTER
        sending.probe_at = inf if not sending.outbound.unsettled else now + sending.probe_wait

    def fail(self, path: str, reason: str) -> None:
        """What came on this path broke the protocol: it is not used any more, and the driver closes it."""
        self.path_down(path)
        self._events.append(PathFailed(path, reason))

    # --- what leaves -------------------------------------------------------------------------

    def events(self) -> list[Event]:
        """Return, and forget, what happened since the last call."""
        events, self._events = self._events, []
        return events

    def take(self, now: float) -> list[tuple[str, Message]]:
        """Return the messages to send now, as (path, message)."""
        for ping in self.paths.poll(now):
            self._out.append((ping.path, Ping(id=ping.id)))
        for sending in self._sending.values():
            self._events += sending.outbound.expire(now)
            self._transmit(sending, now)
        self._out += self._receiving.acknowledge(self.paths, lambda lane: self._ways(lane, now), now)
        out, self._out = self._out, []
        return out

    def next_timer(self, now: float) -> float:
        """When `take` has something to do, if nothing happens before."""
        timer = min(self.paths.next_timer(now), self._receiving.next_timer(self.paths))
        for sending in self._sending.values():
            timer = min(timer, sending.outbound.next_expiry())
            if self.paths.names():
                timer = min(timer, sending.probe_at)
                if self.durable and SERVER in self.paths and not sending.held_until:
                    timer = min(timer, sending.store_at)
                if sending.held_until > now:
                    timer = min(timer, sending.held_until)
        return timer

    def _lane(self, lane: str) -> Sending:
        sending = self._sending.get(lane)
        if sending is None:
            if lane not in limits.LANES:
                raise ValueError(f"a link has the lanes {', '.join(limits.LANES)}, not {lane!r}")
            outbound = Outbound(self.peer, lane, self.run, self.window, self.window_bytes)
            outbound.process = self.peer_process
            outbound.record = Record() if self.journaled else None
            sending = self._sending[lane] = Sending(outbound)
        return sending

    def _ways(self, lane: str, now: float) -> tuple[str, ...]:
        ways = self.paths.choose(lane, now)
        if not self._opened and SERVER in self.paths:
            return (SERVER,)  # the peer takes a run it does not know only from there
        return ways

    def _transmit(self, sending: Sending, now: float) -> None:
        outbound = sending.outbound
        if not outbound.unsettled:
            sending.probe_at = sending.store_at = inf
            return
        ways = self._ways(outbound.lane, now)
        for path in [path for path in sending.cursors if path not in ways]:
            del sending.cursors[path]  # left: should it be chosen again, it starts from what has arrived
        for index, path in enumerate(ways):
            if path == SERVER and sending.held_until:
                self._knock(sending, now)
                continue
            first = sending.cursors.get(path, outbound.received + 1)
            last = outbound.ready
            if path != SERVER:
                last = min(last, self._limit(path, outbound))
            elif sending.held:
                first, sending.held = min(first, sending.held), 0
            first = max(first, outbound.base)
            if last < first:
                continue
            sending.cursors[path] = last + 1
            for message in outbound.transmit(first, last, now, server=path == SERVER):
                if type(message) is LinkMessage:
                    if index and len(bytes(message.data)) > SMALL:
                        continue
                    self._receiving.ride(message, path, now)
                self._out.append((path, message))
            sending.top = max(sending.top, last)
            sending.store_at = min(sending.store_at, now + limits.STORE_AFTER)
            if sending.probe_at == inf:
                sending.probe_at = now + sending.probe_wait
        if self.durable and now >= sending.store_at and SERVER in self.paths and not sending.held_until:
            for seq, store in sending.overdue(now):
                for message in outbound.transmit(seq, seq, now, server=True, store=store):
                    self._out.append((SERVER, message))
        if ways and now >= sending.probe_at:
            self._probe(sending, ways, now)

    def _knock(self, sending: Sending, now: float) -> None:
        if now < sending.held_until:
            return
        sending.knock = min(2 * sending.knock, KNOCK_CAP)
        sending.held_until = now + sending.knock
        outbound = sending.outbound
        seq = min(max(min(sending.held, outbound.next_seq - 1), outbound.base), outbound.ready)
        sending.top = max(sending.top, seq)
        for message in outbound.transmit(seq, seq, now, server=True):
            self._out.append((SERVER, message))

    def _limit(self, path: str, outbound: Outbound) -> int:
        return max(self._granted.get((path, outbound.lane), 0), outbound.announced - 1 + self.window)

    def _probe(self, sending: Sending, ways: tuple[str, ...], now: float) -> None:
        outbound = sending.outbound
        sending.probe_wait = min(2 * sending.probe_wait, limits.PROBE_CAP)
        sending.probe_at = now + sending.probe_wait
        if sending.probe_wait > 2 * limits.PROBE_AFTER and SERVER in self.paths:
            ways = tuple({*ways, SERVER})
        for path in sorted(ways):
            if path == SERVER and sending.held_until:
                self._knock(sending, now)  # the other ways may lead to one who does not know this run
                continue
            probe = Probe(
                run=self.run,
                seq=min(sending.top, outbound.next_seq - 1),
                base=outbound.announced,
                to=self.peer,
                lane=outbound.lane,
            )
            self._out.append((path, probe))
