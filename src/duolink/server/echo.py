"""`/echo`: sends every message back, for connectivity checks and conformance suites."""

import asyncio
from collections.abc import Callable

from duolink.server.handshake import Upgrade
from duolink.server.options import ListenerOptions
from duolink.server.wire import Wire, WireUser

ECHO_MAX_MESSAGE = 65_536
"""The largest message that is echoed, inclusive; what the published check of the endpoint sends."""

ECHO_STALL_TIMEOUT = 60.0
"""Seconds a peer may leave its echoes unread before it is cut off: it pins a connection and a full
buffer, and no heartbeat watches this endpoint."""


class Echo:
    """The user of one echo wire.

    It writes once per read, not once per message: many small segments would wait for acknowledgements that
    the peer delays. It stops reading while more than `high` bytes (the wire's own high-water mark, else
    `writable` would not come) wait to be read by the peer, so one connection holds `high` bytes plus the
    echoes of one read.
    """

    __slots__ = ("_echoes", "_high", "_stall", "_stall_timeout", "_wire")

    def __init__(self, wire: Wire, high: int, stall_timeout: float = ECHO_STALL_TIMEOUT) -> None:
        self._wire = wire
        self._high = high
        self._stall_timeout = stall_timeout
        self._stall: asyncio.TimerHandle | None = None
        self._echoes: list[bytes] = []

    def received(self, payload: bytes, binary: bool) -> None:
        self._echoes.append(self._wire.frame(payload, binary))

    def batch_ended(self) -> None:
        if not self._echoes:
            return
        wire = self._wire
        wire.write(b"".join(self._echoes))
        self._echoes.clear()
        if self._stall is None and wire.buffered() > self._high:
            wire.pause_reading()
            self._stall = asyncio.get_running_loop().call_later(self._stall_timeout, wire.abort)

    def alive(self) -> None:
        """No heartbeat here."""

    def writable(self) -> None:
        self._calm_down()
        self._wire.resume_reading()

    def closed(self, code: int, reason: str) -> None:
        self._calm_down()

    def _calm_down(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def echo_factory(
    options: ListenerOptions, stall_timeout: float = ECHO_STALL_TIMEOUT
) -> Callable[[Wire, Upgrade], WireUser]:
    """Return the factory of a listener's echo path; give its route `max_message=ECHO_MAX_MESSAGE`."""
    high = options.write_high

    def make(wire: Wire, upgrade: Upgrade) -> WireUser:
        return Echo(wire, high, stall_timeout)

    return make
