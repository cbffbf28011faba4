"""A client's WebSocket, over picows: whole payloads in and out, no compression."""

import asyncio
import logging
import socket
import ssl
from typing import Final

import picows

from duolink.client.address import Address
from duolink.client.transport import (
    CLOSE_TIMEOUT,
    MAX_PAYLOAD,
    WRITE_HIGH,
    WRITE_LOW,
    HandshakeRefused,
    TransportUser,
)
from duolink.protocol import codec, limits
from duolink.protocol.codes import CloseCode

SUBPROTOCOL: Final = "duolink"

_log: Final = logging.getLogger("duolink.websocket")
_log.setLevel(logging.CRITICAL)  # picows reports each connect and disconnect; the client tells of them itself

_NO_CODE: Final = 1005
_CLOSING_ROUNDS: Final = 50


class WebSocket(picows.WSListener):
    """One WebSocket as a `Transport`."""

    def __init__(self, user: TransportUser) -> None:
        self.congested = False
        self._user = user
        self._transport: picows.WSTransport | None = None
        self._parts: list[bytes] = []  # of a fragmented message
        self._parts_binary = False
        self._ended = False  # the user has heard `closed`, or asked for it
        self._linger: asyncio.TimerHandle | None = None

    @property
    def open(self) -> bool:
        """Whether the upgrade has succeeded."""
        return self._transport is not None

    # --- what the user asks for ----------------------------------------------------------------

    def send(self, payload: bytes, binary: bool) -> None:
        """Send a payload as one frame."""
        if self._transport is not None and not self._ended:
            self._transport.send(picows.WSMsgType.BINARY if binary else picows.WSMsgType.TEXT, payload)

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and let the server close the socket (RFC 6455 §7.1.1)."""
        self._ended = True
        self._say_close(code, reason)

    def abort(self) -> None:
        """Cut the socket off."""
        if self._transport is not None:
            self._transport.disconnect(False)

    # --- what picows tells ---------------------------------------------------------------------

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._transport = transport
        transport.underlying_transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        self._user.opened(self)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        kind = frame.msg_type
        if kind is picows.WSMsgType.TEXT or kind is picows.WSMsgType.BINARY:
            if frame.fin and not self._parts and not frame.rsv1:
                self._payload(frame.get_payload_as_bytes(), kind is picows.WSMsgType.BINARY)
            else:
                self._fragment(frame, first=True)
        elif kind is picows.WSMsgType.CONTINUATION:
            self._fragment(frame, first=False)
        elif kind is picows.WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
            self._alive()
        elif kind is picows.WSMsgType.PONG:
            self._alive()
        elif kind is picows.WSMsgType.CLOSE:
            code = frame.get_close_code().value or _NO_CODE
            self._say_close(CloseCode.NORMAL if code == _NO_CODE else code, "")
            self._end(code, frame.get_close_reason() or "")
        if frame.last_in_buffer and not self._ended:
            self._user.batch_ended(self)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        if self._linger is not None:
            self._linger.cancel()
        handshake = transport.close_handshake
        if handshake is not None and handshake.recv is None and not self._ended:
            # picows' parser has ended it.
            asyncio.get_running_loop().call_soon(_take_failure, transport)
            self._end(CloseCode.PROTOCOL_ERROR, "what came was no WebSocket")
        self._end(CloseCode.ABNORMAL, "the connection ended")
        self._user.gone(self)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        if not self._ended:
            self._user.writable(self)

    # --- within --------------------------------------------------------------------------------

    def _payload(self, payload: bytes, binary: bool) -> None:
        if self._ended:
            return
        if not binary and not codec.is_utf8(payload):
            self._fail(CloseCode.INVALID_DATA, "a text that is not UTF-8")
            return
        self._user.received(self, payload, binary)

    def _fragment(self, frame: picows.WSFrame, first: bool) -> None:
        if first == bool(self._parts) or frame.rsv1:
            self._fail(CloseCode.PROTOCOL_ERROR, "fragments out of order, or an extension nobody asked for")
            return
        if first:
            self._parts_binary = frame.msg_type is picows.WSMsgType.BINARY
        self._parts.append(frame.get_payload_as_bytes())
        if sum(map(len, self._parts)) > MAX_PAYLOAD or len(self._parts) > limits.MAX_BATCH:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"a payload has at most {MAX_PAYLOAD} bytes")
        elif frame.fin:
            payload, self._parts = b"".join(self._parts), []
            self._payload(payload, self._parts_binary)

    def _alive(self) -> None:
        if not self._ended:
            self._user.alive(self)

    def _fail(self, code: int, reason: str) -> None:
        self._say_close(code, reason)
        self._end(code, reason)

    def _end(self, code: int, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._user.closed(self, code, reason)

    def _say_close(self, code: int, reason: str) -> None:
        if self._transport is None or self._linger is not None:
            return
        data = reason.encode()[: limits.MAX_REASON].decode(errors="ignore").encode()
        self._transport.send_close(code, data)  # type: ignore[arg-type]  # any code, not only RFC 6455's own
        self._linger = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.abort)


async def open_websocket(
    sock: socket.socket, address: Address, user: TransportUser, tls: ssl.SSLContext | None
) -> None:
    """Upgrade a connected socket. Takes the socket over, and closes it when it fails.

    Raises `OSError`, or `HandshakeRefused` when the server answers with another status.
    """
    websocket = WebSocket(user)
    taken = False

    def take(_: object) -> socket.socket:
        nonlocal taken
        taken = True
        return sock

    try:
        await picows.ws_connect(
            lambda: websocket,
            address.url,
            ssl_context=tls,
            websocket_handshake_timeout=None,  # the caller's
            logger_name=_log,
            enable_auto_pong=False,  # a ping is a sign of life that this side wants to see
            max_frame_size=MAX_PAYLOAD,
            extra_headers=[("Sec-WebSocket-Protocol", SUBPROTOCOL)],
            max_redirects=0,
            socket_factory=take,
        )
    except picows.WSHandshakeError as error:
        status = int(error.response.status) if error.response is not None else 0
        reason = f"HTTP {status}" if status and status != 101 else str(error.args[0])
        raise HandshakeRefused(status, f"the server refused the upgrade: {reason}") from None
    except BaseException:
        if taken:
            await _cut(sock)
        else:
            sock.close()
        raise
    if not websocket.open:
        raise ConnectionResetError("the server closed the connection during the upgrade")


async def _cut(sock: socket.socket) -> None:
    """Make the transport that owns this socket see its end; picows hands out none before the upgrade."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
    for _ in range(_CLOSING_ROUNDS):
        if sock.fileno() < 0:
            return
        await asyncio.sleep(0)


def _take_failure(transport: picows.WSTransport) -> None:
    # picows keeps the parser's complaint in a future; nobody asking for it would be logged.
    waiting = transport.wait_disconnected()
    try:
        waiting.send(None)
    except (StopIteration, picows.WSError):
        pass
    finally:
        waiting.close()
