"""Messages over plain TCP: a length, then the payload.

The format is `docs/protocol.md` §2: a 4-byte big-endian length whose top bit marks a binary payload.
A device that begins with the five bytes `HELLO` is answered with one line of text for people and may
then go on with lengths. TCP has no close frame; a `goodbye` message takes its place, and a close sends
what was written, half-closes, and reads on until the far end has closed too: a socket that is closed
with unread bytes is reset, and a reset destroys a goodbye that is still on its way.
"""

import asyncio
import ipaddress
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from duolink.protocol import codec, limits
from duolink.protocol.codes import CloseCode
from duolink.protocol.messages import Goodbye
from duolink.server.acceptor import Acceptor
from duolink.server.handshake import Refused
from duolink.server.wire import Count, WireUser, WireUserFactory

BINARY: Final = 0x8000_0000
"""The bit of the length that marks a binary payload."""

READ_BUFFER: Final = 64 * 1024
"""Bytes read at once. One buffer serves all wires of a listener: what a read leaves over is copied."""

HIGH_WATER: Final = 64 * 1024
"""Bytes unsent above which a wire is not writable; far below the node's own bound, so that a
sender can be slowed down before its receiver is cut off."""

LOW_WATER: Final = 16 * 1024
"""Bytes unsent below which it is writable again."""

_header = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class TcpOptions:
    """Bounds of the wires of one listener; sizes in bytes, times in seconds."""

    max_payload: int = limits.MAX_PAYLOAD
    """Larger payloads end the connection with 1009."""

    first_byte_timeout: float = limits.HELLO_TIMEOUT
    """From the open connection to its first byte; also the time for the TLS handshake."""

    message_timeout: float = 60.0
    """From the first to the last byte of one payload."""

    close_timeout: float = 5.0
    """For the far end to take what was written and close, before it is cut off."""

    max_connections: int = 16_000
    """Of all ports of the process together; more are closed as soon as they are accepted."""

    max_handshakes: int = 1_000
    """Of them, those that may be in their TLS handshake: cheap to make, and nobody yet."""

    backlog: int = 2048
    """Connections that the kernel may hold before they are accepted."""

    tls: ssl.SSLContext | None = None

    greeting: str = "duolink"
    """Name and version of the server, as the answer to `HELLO` shows it. One line."""


class TcpWire(asyncio.BufferedProtocol):
    """One TCP connection as a `Wire`."""

    __slots__ = (
        "_buffer",
        "_code",
        "_deadline",
        "_greeted",
        "_line_end",
        "_listener",
        "_loop",
        "_needed",
        "_options",
        "_partial",
        "_reason",
        "_silent",
        "_timer",
        "_timer_at",
        "_transport",
        "_user",
        "peer_address",
        "secure",
    )

    kind = "tcp"

    def __init__(self, listener: "TcpListener", loop: asyncio.AbstractEventLoop) -> None:
        self._listener = listener
        self._options = listener.options
        self._buffer = listener.buffer
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._user: WireUser | None = None
        self._partial: bytearray | None = None  # the beginning of a payload
        self._needed = 0  # length of `_partial` at which looking at it again makes sense
        self._silent = True  # no byte has come yet
        self._greeted = False  # HELLO, or a first length, has come
        self._line_end = b""  # what may still come of the line end behind HELLO
        self._deadline = 0.0  # loop time at which `_timer` means something; 0: never
        self._timer: asyncio.TimerHandle | None = None
        self._code = 0  # what this side closed with
        self._reason = ""
        self.peer_address = ""
        self.secure = False

    # --- Wire: what the user asks for ---------------------------------------------------------

    @staticmethod
    def frame(payload: bytes, binary: bool = False) -> bytes:
        """Return the payload behind its length."""
        return _header.pack(len(payload) | BINARY if binary else len(payload)) + payload

    def write(self, data: bytes) -> None:
        """Write framed bytes. Nothing happens once the wire is closing or the peer has gone."""
        if self._transport is not None and not self._code:
            self._transport.write(data)

    def buffered(self) -> int:
        """Return the bytes that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def ping(self) -> bool:
        """Return False: TCP has no ping that the far end's application would see."""
        return False

    def pause_reading(self) -> None:
        """Stop reading. Meanwhile no payload is late."""
        if self._transport is not None and not self._code:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self, code: int, reason: str = "") -> None:
        """Send what was written, then end; cut the connection off after `close_timeout`."""
        transport = self._transport
        if transport is None or self._code:
            return
        self._code, self._reason, self._partial = code, reason, None
        if transport.is_closing():  # the peer was first
            return
        if transport.can_write_eof():
            try:
                transport.write_eof()
            except OSError:  # reset, and the loop does not know yet
                transport.abort()
                return
            transport.resume_reading()  # or its end of file would never be seen
        else:  # TLS ends with a record of its own
            transport.close()
        self._arm(self._options.close_timeout)

    def abort(self) -> None:
        """Cut the connection off."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.BufferedProtocol: what the loop reports ----------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce the wire to a new user, or refuse it."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self.secure = transport.get_extra_info("ssl_object") is not None
        self.peer_address = _address(transport.get_extra_info("peername"))
        try:
            self._user = self._listener.enter(self)
        except Refused as refusal:
            self._fail(CloseCode.OVERLOADED, refusal.reason)
        else:
            self._arm(self._options.first_byte_timeout)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the listener's buffer; the loop fills it and reports before it does anything else."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes of one read."""
        if self._code:
            return  # reading on only to see the end
        data = bytes(self._buffer[:nbytes])
        if self._silent:
            self._silent = False
            self._deadline = 0.0
        partial = self._partial
        if partial is not None:
            partial += data
            if len(partial) < self._needed:
                return
            data = bytes(partial)
        self._parse(data, partial is not None)

    def eof_received(self) -> None:
        """The peer sends no more. What is buffered still goes out; then the transport closes."""
        if not self._code:
            self._arm(self._options.close_timeout)

    def pause_writing(self) -> None:
        """Above the high-water mark: `buffered` tells the user, who asks."""

    def resume_writing(self) -> None:
        """Pass on that the buffer has drained."""
        if self._user is not None and not self._code:
            self._user.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the user, for the last time, and let go of everything."""
        if self._timer is not None:
            self._timer.cancel()
        user, self._user = self._user, None
        self._transport = self._timer = self._partial = None
        self._listener.left(self)
        if user is not None:
            user.closed(self._code or CloseCode.ABNORMAL, self._reason)

    # --- parts ----------------------------------------------------------------------------------

    def _parse(self, data: bytes, resumed: bool) -> None:
        """Deliver the payloads in `data`, and keep the beginning of the next one.

        `resumed`: the beginning of `data` has been kept before; its deadline goes on if it still is
        not complete.
        """
        user = self._user
        assert user is not None
        position, size, delivered = 0, len(data), False
        while True:
            while self._line_end and position < size:
                position = self._after_line_end(data, position)
            needed = _header.size
            if size - position < needed:
                break
            (head,) = _header.unpack_from(data, position)
            length = head & ~BINARY
            if length > self._options.max_payload:
                if self._greeted or not data.startswith(b"HELL", position):
                    self._fail(CloseCode.MESSAGE_TOO_BIG, f"more than {self._options.max_payload} bytes")
                    return
                needed = len(b"HELLO")
                if size - position < needed:
                    break
                if not data.startswith(b"HELLO", position):
                    self._fail(CloseCode.MESSAGE_TOO_BIG, f"more than {self._options.max_payload} bytes")
                    return
                self._greet()
                position += needed
                continue
            self._greeted = True
            needed += length
            if size - position < needed:
                break
            payload = data[position + _header.size : position + needed]
            position += needed
            resumed = False
            if head == length and not codec.is_utf8(payload):
                self._fail(CloseCode.INVALID_DATA, "a text payload is UTF-8")
                return
            user.received(payload, head != length)
            delivered = True
            if self._code:
                return
        self._keep(data[position:], needed, resumed)
        if delivered:
            user.batch_ended()

    def _keep(self, rest: bytes, needed: int, resumed: bool) -> None:
        """Keep the beginning of a payload, and give the rest of it a deadline."""
        if not rest:
            self._partial, self._deadline = None, 0.0
            return
        self._partial, self._needed = bytearray(rest), needed
        if not resumed:
            self._arm(self._options.message_timeout)

    def _greet(self) -> None:
        self._greeted, self._line_end = True, b"\r\n"
        self.write(greeting(self._options.greeting))

    def _after_line_end(self, data: bytes, position: int) -> int:
        """Pass over the next byte if it belongs to a line end behind `HELLO`. (No length begins so: it
        would be larger than 160 MiB.)"""
        _, found, self._line_end = self._line_end.partition(data[position : position + 1])
        return position + len(found)

    def _fail(self, code: CloseCode, reason: str) -> None:
        """End the connection for what the peer did to the transport; a goodbye says why."""
        self.write(self.frame(codec.encode(Goodbye(code=code, reason=reason))))
        self.close(code, reason)

    def _arm(self, seconds: float) -> None:
        """Set the deadline. A timer that is due earlier finds out by itself: most deadlines are
        met, so none is cancelled for it."""
        self._deadline = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer_at <= self._deadline:
                return
            self._timer.cancel()
        self._start_timer()

    def _start_timer(self) -> None:
        # Remembered here: uvloop's handle of a timer that is due at once does not know its time.
        self._timer_at = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._expired)

    def _expired(self) -> None:
        self._timer = None
        if not self._deadline or self._transport is None:
            return
        if self._loop.time() < self._deadline:
            self._start_timer()
        elif self._code or self._transport.is_closing():
            self._transport.abort()
        elif not self._transport.is_reading():
            self._arm(self._options.message_timeout)
        elif self._silent:
            self._fail(CloseCode.HELLO_TIMEOUT, "nothing was sent")
        else:
            self._fail(CloseCode.POLICY_VIOLATION, "a message took too long to arrive")


class TcpListener:
    """Accepts TCP connections and gives each wire a user. The factory may raise `Refused`: its reason goes
    out with a goodbye, and the connection ends with 3005. `elsewhere` says how many connections the process's
    other ports have."""

    def __init__(
        self,
        factory: WireUserFactory,
        options: TcpOptions | None = None,
        elsewhere: Callable[[], int] = lambda: 0,
        count: Count = lambda event, label: None,
    ) -> None:
        self.factory = factory
        self.options = options or TcpOptions()
        self._elsewhere = elsewhere
        self._count = count
        self._acceptor = Acceptor(self.options.backlog, self._accepted)
        self.buffer = memoryview(bytearray(READ_BUFFER))
        self._wires: set[TcpWire] = set()
        self._refused: set[TcpWire] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.port = 0

    @property
    def connections(self) -> int:
        """How many there are, those in their TLS handshake and those that are closing included."""
        return len(self._wires) + self._acceptor.arrivals

    async def start(self, host: str, port: int) -> None:
        """Bind and accept. `port` 0 lets the system choose; the attribute `port` then says which.

        Raises `OSError` when the address cannot be bound.
        """
        self.port = await self._acceptor.start(host, port)

    def stop_accepting(self) -> None:
        """Close the listening socket; open connections stay."""
        self._acceptor.stop()

    async def close(self, code: int = CloseCode.GOING_AWAY, reason: str = "server is going away") -> None:
        """Stop accepting and end every connection. Returns when every user has heard of it, after about
        `close_timeout` at the latest."""
        self.stop_accepting()
        if self.options.tls is not None:
            self._acceptor.abort()
        await self._acceptor.wait()  # who gets a transport now is closed with the others
        for wire in list(self._wires):
            wire.close(code, reason)
        await self._empty.wait()

    def _accepted(self, connection: socket.socket, address: str) -> None:
        if self.options.tls is not None:  # else a wire is made at once, and may say goodbye
            if self.connections + self._elsewhere() >= self.options.max_connections:
                return self._turn_away(connection, "max_connections")
            if self._acceptor.arrivals >= self.options.max_handshakes:
                return self._turn_away(connection, "max_handshakes")
        self._acceptor.arrive(connection, self._make_transport(connection))

    def _turn_away(self, connection: socket.socket, why: str) -> None:
        self._count("connection_refused", why)
        connection.close()

    async def _make_transport(self, connection: socket.socket) -> None:
        tls = self.options.tls
        loop = asyncio.get_running_loop()
        timeout = self.options.first_byte_timeout if tls else None
        try:
            await loop.connect_accepted_socket(
                lambda: TcpWire(self, loop), connection, ssl=tls, ssl_handshake_timeout=timeout
            )
        except OSError:  # as ssl.SSLError is; the transport has closed the socket
            self._count("connection_refused", "tls" if tls else "transport")

    def enter(self, wire: TcpWire) -> WireUser:
        """A wire has opened: return its user. Raises `Refused`."""
        self._empty.clear()
        self._wires.add(wire)
        if len(self._wires) + self._elsewhere() > self.options.max_connections:
            raise Refused(503, "too many connections", label="max_connections")
        return self.factory(wire)

    def left(self, wire: TcpWire) -> None:
        """A wire has gone."""
        self._wires.discard(wire)
        if not self._wires:
            self._empty.set()


def greeting(name: str) -> bytes:
    """Return the line that answers `HELLO`."""
    return (
        f"{name}, protocol {limits.PROTOCOL}. Go on with messages, each behind its length (4 bytes, "
        f'big-endian), first {{"type":"hello","protocol":{limits.PROTOCOL},"client_id":"your-name"}}; '
        "see docs/protocol.md\n"
    ).encode()


def _address(peer: tuple[str, int] | tuple[str, int, int, int] | None) -> str:
    """Return the IP address of a socket's far end, an IPv4 one in an IPv6 socket as IPv4."""
    if not peer:
        return ""
    try:
        address = ipaddress.ip_address(peer[0])
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
