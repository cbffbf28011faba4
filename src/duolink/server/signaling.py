"""`/connect?room=NAME`: two pages without any SDK exchange their WebRTC signals.

`Rooms` is the whole behaviour, without sockets or a clock: what happens goes in with `now` (monotonic
seconds), and what must be done comes out as a list of effects. `Signaling` is its driver: it gives a
listener's wires their seats, and a ticket its meaning. `docs/protocol.md` §10 is the contract.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar
from urllib.parse import parse_qs

import msgspec

from duolink.protocol import codec, limits
from duolink.protocol.codes import CloseCode, ErrorCode
from duolink.protocol.messages import Error
from duolink.server.handshake import Refused, Upgrade
from duolink.server.wire import Wire, WireUser

SEATS: Final = 2
"""Clients of a room: the two ends of one peer connection."""

SIGNALS: Final = frozenset({"offer", "answer", "candidate"})
"""The types that are forwarded."""

LEFT: Final = b'{"type":"left"}'
"""What the one who stays hears when the other has gone."""

TICKET: Final = "ticket."
"""What the subprotocol that carries a room ticket begins with."""

MAX_SIGNAL: Final = limits.MAX_MESSAGE
"""Bytes of one frame; the wire closes with 1009 beyond it."""

TICK: Final = 1.0
"""Seconds between two looks at deadlines: they are of 30 s and more."""

MAX_UNREAD: Final = 512 * 1024
"""Bytes that may wait for a page that does not read: the held frames of its partner, twice."""


@dataclass(frozen=True, slots=True)
class RoomOptions:
    """Bounds; sizes in bytes, times in seconds."""

    max_rooms: int = 1000
    """With everything that two pages may hold this is 256 MiB at worst, and mostly a few KiB each."""

    max_per_address: int = 16
    """Seats of one address, so that no one takes all rooms; 0: no limit (development)."""

    hold: float = 30.0
    """How long a frame waits for the second client: an offer older than that has mostly failed."""

    hold_frames: int = 64
    """Frames that wait: an offer and every candidate of a machine with many networks."""

    hold_bytes: int = 256 * 1024
    """Bytes that wait: some twenty large offers."""

    seat_bytes: int = 16 * 1024 * 1024
    """Bytes one seat may send in all. Signals are KiB; more is somebody's free relay."""

    lifetime: float = 3600.0
    """How long a seat lasts. The peer connection does not need it any more; a new one takes a new seat."""

    max_bad: int = 16
    """Frames that are no signals, each answered with an error, before the seat is closed."""

    ping_after: float = 30.0
    """Silence after which a seat is pinged (heartbeat of `docs/protocol.md` §6)."""

    lost_after: float = 100.0
    """Silence after which a seat is free for another: 3 × 30 + 10, as for clients."""


S = TypeVar("S", bound=Hashable)


class Send(NamedTuple, Generic[S]):
    """Send this text frame to this seat."""

    seat: S
    payload: bytes


class Close(NamedTuple, Generic[S]):
    """Close this seat's connection; `Rooms.leave` follows when it is closed."""

    seat: S
    code: CloseCode
    reason: str


class Ping(NamedTuple, Generic[S]):
    """Ping this seat's connection."""

    seat: S


Effect = Send[S] | Close[S] | Ping[S]


class _Head(msgspec.Struct):
    type: str


_decode_head = msgspec.json.Decoder(_Head).decode


class _Sitting(Generic[S]):
    __slots__ = ("address", "bad", "closing", "entered", "heard", "pinged", "room", "sent")

    def __init__(self, room: "_Room[S]", address: str, now: float) -> None:
        self.room = room
        self.address = address
        self.entered = self.heard = self.pinged = now
        self.sent = self.bad = 0
        self.closing = False


class _Room(Generic[S]):
    __slots__ = ("held", "held_bytes", "name", "seats")

    def __init__(self, name: str) -> None:
        self.name = name
        self.seats: list[S] = []
        self.held: deque[tuple[float, bytes]] = deque()  # since when, what
        self.held_bytes = 0

    def drop(self, until: float) -> None:
        """Forget the frames held since `until` or before."""
        while self.held and self.held[0][0] <= until:
            self.held_bytes -= len(self.held.popleft()[1])


class Rooms(Generic[S]):
    """Who sits where, and what waits for whom. A seat is any hashable object of the driver's."""

    def __init__(self, options: RoomOptions | None = None) -> None:
        self._options = options or RoomOptions()
        self._rooms: dict[str, _Room[S]] = {}
        self._seats: dict[S, _Sitting[S]] = {}
        self._addresses: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    def enter(self, seat: S, room: str, address: str, now: float) -> list[Effect[S]]:
        """Take a seat. It hears what was held for it; or its one effect is `Close`, and it has no seat."""
        options = self._options
        found = self._rooms.get(room)
        if found is not None and len(found.seats) >= SEATS:
            return [Close(seat, CloseCode.POLICY_VIOLATION, "the room is taken")]
        if options.max_per_address and self._addresses.get(address, 0) >= options.max_per_address:
            return [Close(seat, CloseCode.POLICY_VIOLATION, "too many seats for one address")]
        if found is None:
            if len(self._rooms) >= options.max_rooms:
                return [Close(seat, CloseCode.TRY_AGAIN_LATER, "too many rooms")]
            found = self._rooms[room] = _Room(room)
        self._addresses[address] = self._addresses.get(address, 0) + 1
        self._seats[seat] = _Sitting(found, address, now)
        found.drop(now - options.hold)
        effects: list[Effect[S]] = [Send(seat, payload) for _, payload in found.held]
        found.held.clear()
        found.held_bytes = 0
        found.seats.append(seat)
        return effects

    def receive(self, seat: S, payload: bytes, binary: bool, now: float) -> list[Effect[S]]:
        """A seat has sent a frame: forward it, hold it, or say what is wrong with it."""
        sitting = self._seats.get(seat)
        if sitting is None or sitting.closing:
            return []
        sitting.heard = now
        if binary:
            return self._close(seat, CloseCode.UNSUPPORTED_DATA, "signals are text")
        sitting.sent += len(payload)
        if sitting.sent > self._options.seat_bytes:
            return self._close(seat, CloseCode.POLICY_VIOLATION, "too much for signals")
        error = _problem(payload)
        if error is not None:
            sitting.bad += 1
            if sitting.bad > self._options.max_bad:
                return self._close(seat, CloseCode.POLICY_VIOLATION, "too many frames that are no signals")
            return [Send(seat, codec.encode(error))]
        for other in sitting.room.seats:
            if other != seat:
                return [Send(other, payload)]
        return self._hold(seat, sitting.room, payload, now)

    def alive(self, seat: S, now: float) -> None:
        """A seat has shown a sign of life."""
        sitting = self._seats.get(seat)
        if sitting is not None:
            sitting.heard = now

    def leave(self, seat: S) -> list[Effect[S]]:
        """A seat's connection is gone: free the seat, and tell the one who stays."""
        sitting = self._seats.pop(seat, None)
        if sitting is None:
            return []
        self._addresses[sitting.address] -= 1
        if not self._addresses[sitting.address]:
            del self._addresses[sitting.address]
        room = sitting.room
        room.seats.remove(seat)
        if not room.seats:
            del self._rooms[room.name]  # what it held was of the one who leaves
        return [Send(other, LEFT) for other in room.seats]

    def poll(self, now: float) -> list[Effect[S]]:
        """Look at the deadlines; to be called about every `TICK` while a seat is taken."""
        options = self._options
        for room in self._rooms.values():
            room.drop(now - options.hold)
        effects: list[Effect[S]] = []
        for seat, sitting in self._seats.items():
            if sitting.closing:
                continue
            if now - sitting.entered >= options.lifetime:
                effects += self._close(seat, CloseCode.NORMAL, "the seat's time is over")
            elif now - sitting.heard >= options.lost_after:
                effects += self._close(seat, CloseCode.HEARTBEAT_LOST, "no sign of life")
            elif now - max(sitting.heard, sitting.pinged) >= options.ping_after:
                sitting.pinged = now
                effects.append(Ping(seat))
        return effects

    def _hold(self, seat: S, room: _Room[S], payload: bytes, now: float) -> list[Effect[S]]:
        options = self._options
        room.drop(now - options.hold)
        if len(room.held) >= options.hold_frames or room.held_bytes + len(payload) > options.hold_bytes:
            return self._close(seat, CloseCode.POLICY_VIOLATION, "too much while nobody else is here")
        room.held.append((now, payload))
        room.held_bytes += len(payload)
        return []

    def _close(self, seat: S, code: CloseCode, reason: str) -> list[Effect[S]]:
        self._seats[seat].closing = True
        return [Close(seat, code, reason)]


def _problem(payload: bytes) -> Error | None:
    """Return why a frame is no signal, or None."""
    if codec.depth(payload) > limits.MAX_DEPTH:
        return Error(code=ErrorCode.MALFORMED, message=f"nested deeper than {limits.MAX_DEPTH}")
    try:
        kind = _decode_head(payload).type
    except msgspec.DecodeError:
        return Error(code=ErrorCode.MALFORMED, message="not a JSON object with a type")
    if kind not in SIGNALS:
        return Error(code=ErrorCode.UNKNOWN_TYPE, message="the types here are offer, answer and candidate")
    return None


class Subprotocols(tuple[str, ...]):
    """The subprotocols of `/connect`: every ticket, so that the answer names the one that was offered; a
    browser fails a connection whose server chooses none of its offers."""

    __slots__ = ()

    def __contains__(self, offer: object) -> bool:
        return isinstance(offer, str) and (offer.startswith(TICKET) or super().__contains__(offer))


def _room(query: str) -> str:
    """Return the room that a request names, or raise `Refused`."""
    try:
        names = parse_qs(query, max_num_fields=8, errors="strict").get("room", [])
    except ValueError:
        names = []
    if len(names) != 1 or not codec.is_id(names[0], limits.MAX_CHANNEL):
        raise Refused(400, "exactly one room is needed: /connect?room=NAME", label="room")
    return names[0]


def _check_ticket(ticket: Callable[[str], str | None], upgrade: Upgrade, room: str) -> None:
    """Raise `Refused` unless the request offers a ticket for the room as a subprotocol."""
    offers = [o for o in upgrade.headers.items("sec-websocket-protocol") if o.startswith(TICKET)]
    if len(offers) != 1:
        raise Refused(401, "a room ticket is needed, as the subprotocol ticket.<token>", label="ticket")
    if ticket(offers[0][len(TICKET) :]) != room:
        raise Refused(403, "the ticket does not open this room", label="ticket")


class Signaling:
    """Gives wires their seats.

    `ticket` returns the room that a ticket opens, or None where the ticket is not good; without it (in
    development) every room is open to everyone. `closed` hears the close code of each connection that ended.
    """

    def __init__(
        self,
        options: RoomOptions | None = None,
        ticket: Callable[[str], str | None] | None = None,
        closed: Callable[[int], None] = lambda code: None,
    ) -> None:
        self._rooms: Rooms[Seat] = Rooms(options)
        self._ticket = ticket
        self._closed = closed
        self._timer: asyncio.TimerHandle | None = None
        self._users: set[Seat] = set()

    def make(self, wire: Wire, upgrade: Upgrade) -> WireUser:
        """Return the user of a new wire.

        Raises `Refused` for a request without a room (400) and for a missing or wrong ticket (401, 403).
        """
        room = _room(upgrade.query)
        if self._ticket is not None:
            _check_ticket(self._ticket, upgrade, room)
        loop = asyncio.get_running_loop()
        seat = Seat(self, wire, loop, room)
        self._users.add(seat)
        loop.call_soon(self.enter, seat)  # the handshake must be answered before the wire can be written to
        return seat

    def enter(self, seat: "Seat") -> None:
        """Let a new seat in, unless it has come in by itself or has left already."""
        if not seat.entered and seat in self._users:
            seat.entered = True
            self._apply(self._rooms.enter(seat, seat.room, seat.wire.peer_address, seat.loop.time()))
            if self._timer is None:
                self._timer = seat.loop.call_later(TICK, self._tick, seat.loop)

    def received(self, seat: "Seat", payload: bytes, binary: bool) -> None:
        """A seat has sent a frame, maybe together with its handshake."""
        self.enter(seat)
        self._apply(self._rooms.receive(seat, payload, binary, seat.loop.time()))

    def alive(self, seat: "Seat") -> None:
        """A seat has answered a ping."""
        self._rooms.alive(seat, seat.loop.time())

    def left(self, seat: "Seat", code: int) -> None:
        """A seat's wire has closed."""
        self._closed(code)
        self._users.discard(seat)
        self._apply(self._rooms.leave(seat))
        if not self._users and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _apply(self, effects: "Sequence[Effect[Seat]]") -> None:
        for effect in effects:
            seat = effect.seat
            if isinstance(effect, Send):
                seat.send(effect.payload)
            elif isinstance(effect, Close):
                seat.wire.close(effect.code, effect.reason)
            else:
                seat.wire.ping()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(TICK, self._tick, loop)
        self._apply(self._rooms.poll(loop.time()))


class Seat:
    """The user of one wire of `/connect`."""

    __slots__ = ("_signaling", "entered", "loop", "room", "wire")

    def __init__(self, signaling: Signaling, wire: Wire, loop: asyncio.AbstractEventLoop, room: str) -> None:
        self._signaling = signaling
        self.wire = wire
        self.loop = loop
        self.room = room
        self.entered = False

    def send(self, payload: bytes) -> None:
        """Send a text frame; a page that does not read is closed before it costs memory."""
        self.wire.write(self.wire.frame(payload))
        if self.wire.buffered() > MAX_UNREAD:
            self.wire.close(CloseCode.SLOW_CONSUMER, "too much unread")

    def received(self, payload: bytes, binary: bool) -> None:
        """See `WireUser`."""
        self._signaling.received(self, payload, binary)

    def batch_ended(self) -> None:
        """Every frame was forwarded as it came."""

    def alive(self) -> None:
        """See `WireUser`."""
        self._signaling.alive(self)

    def writable(self) -> None:
        """Nothing waits for it."""

    def closed(self, code: int, reason: str) -> None:
        """See `WireUser`."""
        self._signaling.left(self, code)
