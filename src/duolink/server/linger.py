"""How a connection ends so that the far end sees the last bytes written to it.

Closing a socket while unread bytes lie in its receive buffer makes the kernel send a reset, and a reset
makes the peer's kernel throw away what it had received: often the very close frame or error response that
explains the end. So the last bytes are followed by a FIN, what still arrives is discarded, and the socket
is closed when the peer has closed its side or a deadline has passed (RFC 9112 section 9.6, RFC 6455
section 7.1.1).
"""

import asyncio
from collections.abc import Callable

_SINK = memoryview(bytearray(65_536))  # where discarded bytes go, shared by all: nobody reads it


class Linger(asyncio.BufferedProtocol):
    """The last protocol of a transport: discards what is read.

    `deadline` is a timer that aborts the transport; it is cancelled when the transport is gone, and then
    `lost` is called, once.
    """

    __slots__ = ("_deadline", "_lost", "_transport")

    def __init__(
        self, transport: asyncio.Transport, deadline: asyncio.TimerHandle, lost: Callable[[], None]
    ) -> None:
        self._transport: asyncio.Transport | None = transport
        self._deadline = deadline
        self._lost = lost

    def begin(self) -> None:
        """Take the transport over: no more is written, what was written goes out."""
        transport = self._transport
        if transport is None:
            return
        transport.set_protocol(self)
        transport.resume_reading()  # it may have been paused, and the peer's end is to be seen
        if transport.can_write_eof():
            try:
                transport.write_eof()
            except OSError:  # reset by now, as a browser does to the connections of a page that goes
                transport.abort()
        else:  # TLS has no half-close: close_notify goes out, and its transport lingers by itself
            transport.close()

    def abort(self) -> None:
        """Cut the transport off now."""
        if self._transport is not None:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _SINK

    def buffer_updated(self, nbytes: int) -> None:
        """Discard."""

    def eof_received(self) -> bool:
        return False  # the transport closes itself, after flushing

    def pause_writing(self) -> None:
        """Nothing more is written."""

    def resume_writing(self) -> None:
        """Nothing more is written."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._transport = None
        self._lost()
