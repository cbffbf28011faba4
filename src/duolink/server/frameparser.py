"""picows as a frame parser, and nothing else.

picows finds the frames in what is read and unmasks them. It refuses unmasked client frames, reserved opcodes,
fragmented or long control frames, lengths that are not minimal, and frames over the size limit before they
are buffered. It would also do the handshake, write, and close; here it is given a request it accepts and a
transport that writes nothing: the only thing it then tries to write is a close frame when it gives up, which
is how we learn that it did, and why.
"""

import logging
from typing import Any, Protocol

from picows import WSAutoPingStrategy, WSFrame
from picows.picows import WSProtocol  # type: ignore[attr-defined]

logger = logging.getLogger(__name__)

_get_buffer = WSProtocol.get_buffer

# The judged request, for a parser that insists on one: it would refuse "Connection: keep-alive, Upgrade".
_CANONICAL_REQUEST = (
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)

_CONTROL_HEADER = 6  # bytes before a masked control frame's payload


class FrameListener(Protocol):
    """Who takes the frames; also a `picows.WSListener`, whose `on_ws_frame` is called."""

    def parser_failed(self, code: int, reason: str) -> None:
        """The parser gave up for a reason that this close code names: a violation, or 1011 when
        `on_ws_frame` raised (logged). The frames parsed before are still delivered, after this call;
        nothing may be read any more."""
        ...

    def peer_ended(self) -> None:
        """The peer closed its side of the transport, which closes itself after this call."""
        ...


class FrameParser(WSProtocol):  # type: ignore[misc]
    """The protocol of a transport that speaks WebSocket: bounded reads in, frames to a listener.

    Sizes are in bytes. The buffer begins at `read_buffer` and doubles as frames need it, never to shrink:
    a smaller one means a new parser, between two frames.
    """

    __slots__ = ("_read_buffer", "_read_limit")

    def __init__(self, listener: FrameListener, max_frame: int, read_buffer: int, read_limit: int) -> None:
        super().__init__(
            host_port=None, ws_path=None, is_client_side=False, ws_listener_factory=lambda _: listener,
            logger=_log, disconnect_on_exception=True, websocket_handshake_timeout=None,
            enable_auto_ping=False, auto_ping_idle_timeout=None, auto_ping_reply_timeout=None,
            auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE, enable_auto_pong=False,
            max_frame_size=max_frame, extra_headers=None, read_buffer_init_size=read_buffer,
        )  # fmt: skip
        self._read_buffer = read_buffer
        self._read_limit = read_limit
        mouth = _Mouth()
        self.connection_made(mouth)
        self.feed(_CANONICAL_REQUEST)
        mouth.listener = listener

    def get_buffer(self, sizehint: int) -> memoryview:
        """Bound each read: picows doubles its buffer whenever a read fills it."""
        buffer: memoryview = _get_buffer(self, sizehint)
        return buffer if len(buffer) <= self._read_limit else buffer[: self._read_limit]

    def feed(self, data: bytes) -> bytes:
        """Parse bytes that were read elsewhere, as many as fit; return the rest."""
        buffer = self.get_buffer(-1)
        size = min(len(data), len(buffer))
        buffer[:size] = data[:size]
        self.buffer_updated(size)
        return data[size:]

    def has_grown_at(self, frame: WSFrame) -> bool:
        """Whether a new parser would be smaller, asked while a control frame is delivered; False when
        more is in the buffer. What is free behind the frame and the frame itself bound the whole from
        below."""
        if frame.tail_size:
            return False
        return len(_get_buffer(self, -1)) + _CONTROL_HEADER + frame.payload_size > self._read_buffer

    def eof_received(self) -> bool:
        self.listener.peer_ended()
        return False


class _Mouth:
    """The transport picows is given: it goes nowhere."""

    __slots__ = ("listener",)

    def __init__(self) -> None:
        self.listener: FrameListener | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object` is set so that picows does not go around us, to the socket itself."""
        return {"socket": _socket, "ssl_object": True}.get(name, default)

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        """Take a close frame; before it, there was the response to the canonical request."""
        if self.listener is not None:
            self.listener.parser_failed(int.from_bytes(data[2:4]), data[4:].decode("utf-8", "replace"))

    def close(self) -> None:
        """The listener closes."""


class _NoSocket:
    """Takes the options picows sets (no delay is set by the real transport already)."""

    def setsockopt(self, *args: object) -> None: ...

    def getsockopt(self, *args: object) -> int:
        return 0

    def fileno(self) -> int:
        return -1


class _Log:
    """picows' log: what peers do wrong is counted, not logged; only our own exceptions are logged."""

    def isEnabledFor(self, level: int) -> bool:
        return False

    def log(self, *args: object) -> None: ...

    debug = info = warning = error = log

    def exception(self, message: str, *args: object) -> None:
        logger.exception("a WebSocket's user failed")


_socket = _NoSocket()
_log = _Log()
