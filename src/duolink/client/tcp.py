"""A client's plain TCP transport: a length, then the payload (docs/protocol.md §2)."""

import asyncio
import socket
import ssl
import struct
from typing import Final

from duolink.client.address import Address
from duolink.client.transport import CLOSE_TIMEOUT, MAX_PAYLOAD, WRITE_HIGH, WRITE_LOW, TransportUser
from duolink.protocol.codes import CloseCode

BINARY: Final = 0x8000_0000
"""The bit of the length that marks a binary payload."""

_header: Final = struct.Struct(">I")


class TcpTransport(asyncio.Protocol):
    """One TCP connection as a `Transport`. A `goodbye` message takes the place of a close frame."""

    def __init__(self, user: TransportUser) -> None:
        self.congested = False
        self._user = user
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._ended = False
        self._linger: asyncio.TimerHandle | None = None

    # --- what the user asks for ----------------------------------------------------------------

    def send(self, payload: bytes, binary: bool) -> None:
        """Send a payload behind its length."""
        if self._transport is not None and not self._ended:
            size = len(payload) | BINARY if binary else len(payload)
            self._transport.write(_header.pack(size) + payload)

    def close(self, code: int, reason: str) -> None:
        """Half-close, and read on until the server has closed: unread bytes would reset what was sent."""
        if self._transport is None or self._linger is not None:
            return
        self._ended = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._linger = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.abort)
        else:
            self._transport.close()  # TLS: asyncio sends what is written and the closing alert first
            self._linger = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.abort)

    def abort(self) -> None:
        """Cut the socket off."""
        if self._transport is not None:
            self._transport.abort()

    # --- what asyncio tells --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        self._user.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _header.size:
            (size,) = _header.unpack_from(buffer, start)
            binary, size = bool(size & BINARY), size & ~BINARY
            if size > MAX_PAYLOAD:
                self._fail(CloseCode.MESSAGE_TOO_BIG, f"a payload has at most {MAX_PAYLOAD} bytes")
                return
            end = start + _header.size + size
            if len(buffer) < end:
                break
            payload = bytes(memoryview(buffer)[start + _header.size : end])
            start = end
            self._user.received(self, payload, binary)
        del buffer[:start]
        self._user.batch_ended(self)

    def eof_received(self) -> bool:
        return False  # and asyncio closes

    def connection_lost(self, exc: Exception | None) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._end(CloseCode.ABNORMAL, "the connection ended")
        self._user.gone(self)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        if not self._ended:
            self._user.writable(self)

    # --- within --------------------------------------------------------------------------------

    def _fail(self, code: int, reason: str) -> None:
        self._end(code, reason)
        self.abort()

    def _end(self, code: int, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._user.closed(self, code, reason)


async def open_tcp(
    sock: socket.socket, address: Address, user: TransportUser, tls: ssl.SSLContext | None
) -> None:
    """Make a connected socket a transport. Takes the socket over, and closes it when it fails.

    Raises `OSError`.
    """
    await asyncio.get_running_loop().create_connection(
        lambda: TcpTransport(user), sock=sock, ssl=tls, server_hostname=address.host if tls else None
    )
