"""A faulty network in virtual time: connections to a node, and datagram paths between clients."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from duolink.protocol.codes import CloseCode
from duolink.server.wire import WireUser
from duolink.testing.clock import VirtualClock

TICK = 1e-6
"""Seconds between two payloads of a connection: the calendar keeps no order within an instant."""

_HEADER = struct.Struct(">I?")


@dataclass
class Weather:
    """What a network does to what it carries. Delays in seconds, rates per payload or per second."""

    delay: tuple[float, float] = (0.001, 0.05)
    drop: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0


class VirtualConnection:
    """One transport between a client and a node: ordered, reliable until it is cut.

    The node's side is a `Wire`; the client's side is `send`, `hang_up` and two callbacks.
    """

    kind = "virtual"
    secure = False

    def __init__(
        self,
        clock: VirtualClock,
        weather: Weather,
        address: str,
        to_client: Callable[[bytes, bool], None],
        on_lost: Callable[[int], None],
    ) -> None:
        self.peer_address = address
        self._clock, self._weather = clock, weather
        self._to_client, self._on_lost = to_client, on_lost
        self._user: WireUser | None = None
        self._up_at = self._down_at = 0.0
        self._under_way = 0
        self._above = False
        self._closing = 0
        self.client_open = self.server_open = True
        self.dark = False  # swallows everything, tells nobody
        self.stalled_until = 0.0  # the client does not read before

    def attach(self, user: WireUser) -> None:
        """Tell who listens on the node's side."""
        self._user = user

    # --- the node's side (Wire) --------------------------------------------------------------

    @staticmethod
    def frame(payload: bytes, binary: bool = False) -> bytes:
        return _HEADER.pack(len(payload), binary) + payload

    def write(self, data: bytes) -> None:
        if not self.server_open or self._closing:
            return
        position = 0
        while position < len(data):
            size, binary = _HEADER.unpack_from(data, position)
            position += _HEADER.size
            self._down(bytes(data[position : position + size]), binary)
            position += size

    def buffered(self) -> int:
        return self._under_way

    def ping(self) -> bool:
        self._deliver(lambda: self._pong() if self.client_open else None)
        return True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self, code: int, reason: str = "") -> None:
        if self._closing or not self.server_open:
            return
        self._closing = code
        self._deliver(lambda: self._client_lost(code))
        self._clock.after(self._delay(), lambda: self._server_lost(code))

    def abort(self) -> None:
        self.close(CloseCode.ABNORMAL)

    # --- the client's side ---------------------------------------------------------------------

    def send(self, payload: bytes, binary: bool) -> None:
        """The client writes."""
        if not self.client_open or self.dark:
            return
        self._up_at = max(self._up_at + TICK, self._clock.now + self._delay())

        def arrive() -> None:
            if self.server_open and not self.dark and self._user is not None and not self._closing:
                self._user.received(payload, binary)
                self._user.batch_ended()

        self._clock.at(self._up_at, arrive)

    def hang_up(self, code: int) -> None:
        """The client closes; what it has sent still arrives."""
        if self.client_open:
            self.client_open = False
            if not self.dark:
                self._clock.at(max(self._up_at, self._clock.now) + TICK, lambda: self._server_lost(code))

    # --- faults ----------------------------------------------------------------------------

    def cut(self) -> None:
        """Both ends learn, each in its own time; what is under way is lost."""
        self.dark = True
        self._clock.after(self._delay(), lambda: self._client_lost(CloseCode.ABNORMAL))
        self._clock.after(self._delay(), lambda: self._server_lost(CloseCode.ABNORMAL))

    def die(self) -> None:
        """The client's process was killed: its kernel closes the socket."""
        self.client_open = False
        if not self.dark:
            self._clock.after(self._delay(), lambda: self._server_lost(CloseCode.ABNORMAL))

    def vanish(self) -> None:
        """The node's process was killed."""
        self.server_open = False
        self._user = None
        if not self.dark:
            self._clock.after(self._delay(), lambda: self._client_lost(CloseCode.ABNORMAL))

    # --- what happens ------------------------------------------------------------------------

    def _delay(self) -> float:
        return self._clock.random.uniform(*self._weather.delay)

    def _deliver(self, arrive: Callable[[], None]) -> None:
        if self.dark:
            return
        self._down_at = max(self._down_at + TICK, self._clock.now + self._delay(), self.stalled_until)
        self._clock.at(self._down_at, lambda: None if self.dark else arrive())

    def _down(self, payload: bytes, binary: bool) -> None:
        self._under_way += len(payload)
        self._above = self._above or self._under_way > 65536
        if self.dark:
            return

        def arrive() -> None:
            self._under_way -= len(payload)
            if self.client_open:
                self._to_client(payload, binary)
            if self._above and self._under_way < 16384 and self.server_open and self._user is not None:
                self._above = False
                self._user.writable()

        self._deliver(arrive)

    def _pong(self) -> None:
        def arrive() -> None:
            if self.server_open and not self.dark and self._user is not None:
                self._user.alive()

        self._clock.after(self._delay(), arrive)

    def _client_lost(self, code: int) -> None:
        if self.client_open:
            self.client_open = False
            self._on_lost(code)

    def _server_lost(self, code: int) -> None:
        if self.server_open:
            self.server_open = False
            user, self._user = self._user, None
            if user is not None:
                user.closed(code, "")


class VirtualPath:
    """A data channel between two clients that drops, repeats and reorders as its weather says."""

    def __init__(self, clock: VirtualClock, weather: Weather, name: str) -> None:
        self._clock, self._weather = clock, weather
        self.name = name
        self.dark = False
        self._latest = 0.0

    def carry(self, payload: bytes, binary: bool, arrive: Callable[[bytes, bool], None]) -> None:
        """Carry a payload to the other end, or not, or twice."""
        random, weather = self._clock.random, self._weather
        if self.dark or random.random() < weather.drop:
            return
        for _ in range(2 if random.random() < weather.repeat else 1):
            time = self._clock.now + random.uniform(*weather.delay)
            if random.random() >= weather.reorder:
                time = self._latest = max(self._latest, time)
            self._clock.at(time, lambda: None if self.dark else arrive(payload, binary))
