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
from duolink.protocol.former import Former
from duolink.protocol.inbound import BeyondCredit, Inbound, Lost, Received
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

REPORT: Final = 1.0
"""Seconds within which the server, too, hears of what was acknowledged on other paths."""


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
        self._peer_run = 0
        self._inbound: dict[str, Inbound] = {}
        self._former = Former()
        self._cursors: dict[str, SavedCursor] = {}  # lane → where an earlier process was
        self._arrived: dict[str, str] = {}  # lane → path by which the newest message came
        self._report_at = inf
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
        inbound = self._inbound.get(message.lane)
        if inbound is not None and inbound.run == message.run:
            inbound.finish(message.seq, now)
        else:
            self._former.finish(message.run, message.lane, message.seq, now)

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
        return any(inbound.ack_at < inf for inbound in (*self._inbound.values(), *self._former))

    def hurry(self, now: float) -> None:
        """Do not let acknowledgements wait for company: this end is about to leave."""
        for inbound in (*self._inbound.values(), *self._former):
            if inbound.ack_at < inf:
                inbound.ack_at = now

    @property
    def idle(self) -> bool:
        """Whether nothing is under way in either direction."""
        return not self.unsettled and not self.owes_acks

    # --- what a journal keeps ------------------------------------------------------------------

    def restore(self, lanes: Iterable[SavedLane], cursors: Iterable[SavedCursor], *, anew: bool) -> None:
        """Take over, while this link is new, what an earlier process left; see `Outbound.restore`."""
        for lane in lanes:
            self._lane(lane.lane).outbound.restore(lane, anew=anew)
        for cursor in cursors:
            if cursor.run > self._peer_run:
                self._peer_run = cursor.run
                self._cursors.clear()
            if cursor.run == self._peer_run:
                self._cursors[cursor.lane] = cursor

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
        changes = (inbound.change(self.peer, self.user) for inbound in self._inbound.values())
        return [change for change in changes if change is not None]

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
        for inbound in self._inbound.values():
            inbound.window, inbound.window_bytes = window, window_bytes

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
        inbound = self._receiving(message.run, message.base, message.lane, path)
        if inbound is None:
            self._former.again(message.run, message.lane, now)
            return
        self._arrived[message.lane] = path
        try:
            self._events += inbound.message(message, now, granting=path != SERVER)
        except BeyondCredit as error:
            self.fail(path, str(error))
            return
        if message.ack_run and message.ack_run == self.run:
            sending = self._sending.get(message.lane)
            if sending is not None:
                received = sending.outbound.received
                settled = sending.outbound.acknowledge_cursor(message.ack_run, message.ack)
                self._acknowledged(sending, settled, received, now)

    def _receive_control(self, message: Skip | Probe, path: str, now: float) -> None:
        start = message.start if type(message) is Probe else 0
        known = message.lane in self._inbound and message.run == self._peer_run
        inbound = self._receiving(message.run, start or message.base, message.lane, path, start)
        if inbound is None:
            self._former.again(message.run, message.lane, now)
            return
        self._arrived[message.lane] = path
        if type(message) is Probe:
            if not known:
                inbound.inherit(message.lost)
            self._events += inbound.begin(message.start, now)
            self._events += inbound.probe(message.seq, message.base, now)
            return
        assert type(message) is Skip
        try:
            self._events += inbound.skip(message, now, granting=path != SERVER)
        except BeyondCredit as error:
            self.fail(path, str(error))

    def _receiving(self, run: int, base: int, lane: str, path: str, start: int = 0) -> Inbound | None:
        """The half that takes a lane's numbers of that run; None if they are to be dropped. `start`: where
        the server knows this client to be."""
        if lane not in limits.LANES or run < self._peer_run:
            return None
        if run > self._peer_run:
            if path != SERVER:
                return None  # a new run is opened by the server, behind what it still has of the old one
            for ended in self._inbound.values():
                self._events += ended.end()
            self._former.end(self._inbound.values())
            self._inbound.clear()
            self._cursors.clear()
            self._peer_run = run
        inbound = self._inbound.get(lane)
        if inbound is None:
            cursor = self._cursors.pop(lane, None)
            if cursor is not None:
                base = max(cursor.finished + 1, start)
            inbound = self._inbound[lane] = Inbound(lane, run, base, self.window, self.window_bytes)
            if self.journaled:
                inbound.journaled(cursor)
        return inbound

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
        self._acknowledge(now)
        out, self._out = self._out, []
        return out

    def next_timer(self, now: float) -> float:
        """When `take` has something to do, if nothing happens before."""
        timer = min(self.paths.next_timer(now), self._report_at if SERVER in self.paths else inf)
        if self.paths.names():
            for inbound in self._inbound.values():
                timer = min(timer, inbound.ack_at, inbound.pull_at)
        if SERVER in self.paths:
            timer = min(timer, self._former.ack_at)
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
                    self._ride(message, path, now)
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

    def _ride(self, message: LinkMessage, path: str, now: float) -> None:
        inbound = self._inbound.get(message.lane)
        if inbound is not None and inbound.cursor and inbound.may_ride():
            message.ack_run, message.ack = inbound.run, inbound.cursor
            inbound.rode()
            if path != SERVER:
                self._report_at = min(self._report_at, now + REPORT)

    def _acknowledge(self, now: float) -> None:
        for inbound in self._inbound.values():
            if not inbound.poll(now):
                continue
            path = self._arrived.get(inbound.lane, SERVER)
            if path not in self.paths:
                path = next(iter(self._ways(inbound.lane, now)), "")
            if not path:
                continue
            self._out.append((path, inbound.ack(self.peer, self.run, self.user, granting=path != SERVER)))
            if path != SERVER:
                self._report_at = min(self._report_at, now + REPORT)
        if SERVER in self.paths and now >= self._former.ack_at:
            due = [inbound for inbound in self._former if now >= inbound.ack_at]
            self._out += [(SERVER, inbound.ack(self.peer, self.run, self.user)) for inbound in due]
        if now >= self._report_at and SERVER in self.paths:
            self._report_at = inf
            for inbound in self._inbound.values():
                self._out.append((SERVER, inbound.ack(self.peer, self.run, self.user)))
