"""A WebSocket as a wire: the strictness of RFC 6455 over picows' frames.

`frameparser` parses frames and refuses what is wrong with a single one. Done here is everything else: RSV
bits, reassembly with one limit over the whole message, UTF-8, close codes, pings, deadlines and the closing
handshake. All bytes that leave are written here, so that a failure waits for the payloads before it, is
announced by one close frame, and lingers until the peer has had time to read it.
"""

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from picows import WSFrame, WSListener, WSMsgType, WSTransport

from duolink.server.frameparser import FrameParser
from duolink.server.linger import Linger
from duolink.server.options import ListenerOptions
from duolink.server.utf8 import UTF8Check
from duolink.server.wire import Count, WireUser

NORMAL, PROTOCOL_ERROR, NO_STATUS, ABNORMAL = 1000, 1002, 1005, 1006
INVALID_TEXT, POLICY_VIOLATION, MESSAGE_TOO_BIG = 1007, 1008, 1009

MAX_REASON = 123
"""Bytes of a close reason: a control frame carries 125, two of them the code (RFC 6455 section 5.5)."""

MAX_UNANSWERED_PINGS = 32
"""Pings that a congested peer may send before its pongs can leave (1008 beyond it). One pong, for the
last, answers them all (RFC 6455 section 5.5.3), so this costs no memory: it ends peers that only talk."""

_TEXT, _BINARY, _CONTINUATION = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION
_PING, _CLOSE = WSMsgType.PING, WSMsgType.CLOSE
_SHORT_TEXT = tuple(bytes((0x81, size)) for size in range(126))
_SHORT_BINARY = tuple(bytes((0x82, size)) for size in range(126))
_EMPTY_PING = b"\x89\x00"


class State(Enum):
    """Where a wire is in its life."""

    OPENING = auto()
    """The 101 has not been written."""
    OPEN = auto()
    CLOSING = auto()
    """Our close frame is out; the peer's is awaited."""
    ENDING = auto()
    """Nothing more is read or written; what was written goes out."""
    CLOSED = auto()


_OPENING, _OPEN, _CLOSING, _ENDING, _CLOSED = State


class _Write(Protocol):
    def __call__(self, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class WireContext:
    """What the wires of one path share."""

    options: ListenerOptions
    max_message: int
    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]
    count: Count
    lost: Callable[["WebSocketWire"], None]
    """Called when a wire's transport is gone, before its user hears `closed`."""


def may_appear(code: int) -> bool:
    """Whether a close code may be sent on a wire (RFC 6455 section 7.4, IANA registry)."""
    return 3000 <= code < 5000 or (1000 <= code < 1015 and code not in (1004, NO_STATUS, ABNORMAL))


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame as a server sends it; the reason is cut to fit, between characters."""
    text = reason.encode("utf-8", "replace")
    if len(text) > MAX_REASON:
        text = text[:MAX_REASON].decode("utf-8", "ignore").encode()
    return struct.pack(">BBH", 0x88, 2 + len(text), code) + text


class WebSocketWire(WSListener):
    """One accepted WebSocket; implements `Wire`.

    Constructed before the 101 so that a factory can make its user; the factory may keep it and read its
    addresses, but not write, ping or close before `open` (RuntimeError).
    """

    kind = "websocket"

    __slots__ = (
        "_batch_ended", "_code", "_congested", "_context", "_controls", "_deadline", "_failure",
        "_last_ping", "_message", "_parser", "_paused", "_reason", "_received", "_second", "_state",
        "_transport", "_unanswered", "_user", "buffered", "peer_address", "secure", "write",
    )  # fmt: skip

    write: _Write
    """Write bytes made by `frame`, as they are; the transport's own method while the wire is open."""

    buffered: Callable[[], int]
    """Bytes written that the kernel has not taken yet."""

    def __init__(
        self, context: WireContext, transport: asyncio.Transport, peer_address: str, secure: bool
    ) -> None:
        self.peer_address = peer_address
        self.secure = secure
        self.write = _not_open
        self.buffered = _nothing_buffered
        self._context = context
        self._transport = transport
        self._parser: FrameParser | None = None
        self._user: WireUser | None = None
        self._received: Callable[[bytes, bool], None] = _ignore
        self._batch_ended: Callable[[], None] = _do_nothing
        self._state = _OPENING
        self._code = ABNORMAL
        self._reason = ""
        self._failure: tuple[int, str] | None = None
        self._message: _Message | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._paused = False
        self._congested = False
        self._unanswered = 0  # pings, while congested
        self._last_ping = b""
        self._controls = 0  # control frames in the second that began at _second
        self._second = 0.0

    # What the node calls.

    @staticmethod
    def frame(payload: bytes, binary: bool = False) -> bytes:
        """Return the payload as one unmasked, unfragmented frame (RFC 6455 section 5.2)."""
        size = len(payload)
        if size < 126:
            return (_SHORT_BINARY if binary else _SHORT_TEXT)[size] + payload
        first = 0x82 if binary else 0x81
        if size < 65_536:
            return struct.pack(">BBH", first, 126, size) + payload
        return struct.pack(">BBQ", first, 127, size) + payload

    def ping(self) -> bool:
        """Send an empty ping; the pong is announced by `alive`."""
        self.write(_EMPTY_PING)
        return True

    def pause_reading(self) -> None:
        """Stop reading; what the last read brought (up to `read_limit`) is still delivered."""
        if self._state is _OPEN and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            if self._state is _OPEN and self._failure is None:
                self._transport.resume_reading()

    def close(self, code: int, reason: str = "") -> None:
        """Send what was written and a close frame, and cut the peer off at the close deadline.

        Nothing is received any more. Raises ValueError for a code that may not be sent.
        """
        if not may_appear(code):
            raise ValueError(f"close code {code} may not be sent")
        if self._state is _OPENING:
            raise RuntimeError("the wire is not open yet")
        if self._state is _OPEN:
            self._say_goodbye(code, reason)
            self._state = _CLOSING
            if self._paused:  # else the peer's close frame would never be seen
                self._paused = False
                self._transport.resume_reading()

    def abort(self) -> None:
        """Cut the transport off now."""
        if self._state is not _CLOSED:
            self._mute()
            self._transport.abort()

    # What the listener calls.

    def open(self, user: WireUser, response: bytes, rest: bytes) -> None:
        """Answer the handshake and begin, with the bytes that came behind the request head."""
        transport = self._transport
        self._user = user
        self._received = user.received
        self._batch_ended = user.batch_ended
        self._state = _OPEN
        self.buffered = transport.get_write_buffer_size
        # aiofastnet's, without the checks for foreign buffers and threads; picows uses it too.
        self.write = getattr(transport, "write_nocheck", transport.write)
        options = self._context.options
        self._parser = self._renew_parser()
        transport.set_write_buffer_limits(high=options.write_high, low=options.write_low)
        self.write(response)
        while rest and self._failure is None and self._state in (_OPEN, _CLOSING):
            rest = self._parser.feed(rest)

    # What the parser calls.

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take a frame; the first two branches are the hot path."""
        kind = frame.msg_type
        if frame.rsv1 or frame.rsv2 or frame.rsv3:  # no extension is ever agreed on
            self._violated(PROTOCOL_ERROR, "reserved bits are set")
        elif kind is _TEXT and frame.fin and self._message is None:
            payload = frame.get_payload_as_bytes()
            if not payload.isascii():
                try:
                    payload.decode()
                except UnicodeDecodeError:
                    self._violated(INVALID_TEXT, "invalid UTF-8")
                    return
            self._received(payload, False)
        elif kind is _BINARY and frame.fin and self._message is None:
            self._received(frame.get_payload_as_bytes(), True)
        elif self._state is _ENDING or self._state is _CLOSED:
            return
        elif kind is _CLOSE:
            self._close_received(frame.get_payload_as_bytes())
        elif self._state is _CLOSING:
            return
        elif kind is _TEXT or kind is _BINARY or kind is _CONTINUATION:
            self._fragment_received(kind, frame.get_payload_as_bytes(), bool(frame.fin))
        else:
            self._control_received(kind, frame)
        if frame.last_in_buffer:
            self._batch_ended()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The transport is gone while the parser still had it: aborted, or reset by the peer."""
        self._lost()

    def pause_writing(self) -> None:
        """The write buffer is above the high-water mark."""
        self._congested = True

    def resume_writing(self) -> None:
        """The write buffer is below the low-water mark again."""
        self._congested = False
        if self._state is _OPEN and self._user is not None:
            if self._unanswered:
                self._unanswered = 0
                self.write(_pong(self._last_ping))
            self._user.writable()

    def parser_failed(self, code: int, reason: str) -> None:
        """The parser gave up: on a frame (looking ahead: the payload before it is not delivered yet), or
        because our user raised (1011, logged)."""
        if self._failure is None and self._state in (_OPEN, _CLOSING):
            self._failure = (code, reason)
            self._transport.pause_reading()
            if code == 1011:
                self._stop_delivering()
            self._context.loop.call_soon(self._fail, code, reason)

    def peer_ended(self) -> None:
        """The peer closed its side of the transport without a close frame. The transport now closes
        itself, after flushing."""
        if self._state is _OPEN or self._state is _CLOSING:
            self._mute()
            self._state = _ENDING
            self._transport.set_protocol(Linger(self._transport, self._start_deadline(), self._lost))

    # The rest of receiving.

    def _fragment_received(self, kind: WSMsgType, payload: bytes, final: bool) -> None:
        """RFC 6455 section 5.4."""
        message = self._message
        context = self._context
        if kind is _CONTINUATION:
            if message is None:
                return self._violated(PROTOCOL_ERROR, "continuation of no message")
        elif message is not None:
            return self._violated(PROTOCOL_ERROR, "new message inside a fragmented one")
        else:
            deadline = context.loop.call_later(context.options.fragment_timeout, self._message_overdue)
            message = self._message = _Message(kind is _BINARY, deadline)
        message.fragments += 1
        if message.fragments > context.options.max_fragments:
            return self._violated(POLICY_VIOLATION, "too many fragments")
        if len(message.data) + len(payload) > context.max_message:
            return self._violated(MESSAGE_TOO_BIG, "message too big")
        if message.check is not None:
            try:
                message.check.feed(payload, final)
            except UnicodeDecodeError:
                return self._violated(INVALID_TEXT, "invalid UTF-8")
        message.data += payload
        if final:
            self._drop_message()
            self._received(bytes(message.data), message.binary)

    def _message_overdue(self) -> None:
        self._fail(POLICY_VIOLATION, "fragmented message takes too long")

    def _control_received(self, kind: WSMsgType, frame: WSFrame) -> None:
        context = self._context
        now = context.clock()
        if not 0 <= now - self._second < 1:
            self._second = now
            self._controls = 0
        self._controls += 1
        if self._controls > context.options.max_controls:
            return self._violated(POLICY_VIOLATION, "too many control frames")
        if kind is _PING:
            if not self._congested:
                self.write(_pong(frame.get_payload_as_bytes()))
            else:
                self._unanswered += 1
                self._last_ping = frame.get_payload_as_bytes()
                if self._unanswered > MAX_UNANSWERED_PINGS:
                    return self._violated(POLICY_VIOLATION, "pings, but does not read")
        if self._parser is not None and self._parser.has_grown_at(frame):
            self._parser = self._renew_parser()
        if self._user is not None:
            self._user.alive()

    def _close_received(self, payload: bytes) -> None:
        """RFC 6455 sections 5.5.1 and 7.4; a lone byte and bad UTF-8 were refused by picows."""
        code = int.from_bytes(payload[:2]) if payload else NO_STATUS
        if payload and not may_appear(code):
            return self._violated(PROTOCOL_ERROR, "invalid close code")
        self._batch_ended()  # a last chance to answer what came before
        if self._state is _OPEN:
            self._say_goodbye(NORMAL if code == NO_STATUS else code, "")
            self._code = code
            self._reason = payload[2:].decode("utf-8", "replace")
        self._linger()

    def _renew_parser(self) -> FrameParser:
        """Give the transport a parser with a small buffer; only between frames."""
        options = self._context.options
        parser = FrameParser(self, self._context.max_message, options.read_buffer, options.read_limit)
        self._transport.set_protocol(parser)
        return parser

    # The end.

    def _say_goodbye(self, code: int, reason: str) -> None:
        self.write(close_frame(code, reason))
        self._code = code
        self._reason = reason
        self._mute()
        self._start_deadline()

    def _violated(self, code: int, reason: str) -> None:
        """Fail because of the frame at hand: the batch ends here."""
        self._batch_ended()
        self._fail(code, reason)

    def _fail(self, code: int, reason: str) -> None:
        """Fail the WebSocket connection: RFC 6455 section 7.1.7."""
        if self._state is _OPEN:
            self._context.count("protocol_error", str(code))
            self._say_goodbye(code, reason)
        if self._state is _OPEN or self._state is _CLOSING:
            self._linger()

    def _linger(self) -> None:
        self._state = _ENDING
        Linger(self._transport, self._start_deadline(), self._lost).begin()

    def _start_deadline(self) -> asyncio.TimerHandle:
        """Begin the close deadline, unless it runs."""
        if self._deadline is None:
            context = self._context
            self._deadline = context.loop.call_later(context.options.close_timeout, self._transport.abort)
        return self._deadline

    def _mute(self) -> None:
        """Neither write nor deliver any more."""
        self.write = _discard
        self._stop_delivering()

    def _stop_delivering(self) -> None:
        self._received = _ignore
        self._batch_ended = _do_nothing
        self._drop_message()

    def _drop_message(self) -> None:
        if self._message is not None:
            self._message.deadline.cancel()
            self._message = None

    def _lost(self) -> None:
        """The transport is gone: let go of everything, and tell the user."""
        if self._state is _CLOSED:
            return
        self._state = _CLOSED
        self._mute()
        self.buffered = _nothing_buffered
        self._parser = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        user, self._user = self._user, None
        self._context.lost(self)
        if user is not None:
            user.closed(self._code, self._reason)


class _Message:
    """A fragmented message under way."""

    __slots__ = ("binary", "check", "data", "deadline", "fragments")

    def __init__(self, binary: bool, deadline: asyncio.TimerHandle) -> None:
        self.binary = binary
        self.check = None if binary else UTF8Check()
        self.data = bytearray()
        self.deadline = deadline
        self.fragments = 0


def _pong(payload: bytes) -> bytes:
    return bytes((0x8A, len(payload))) + payload


def _not_open(data: bytes) -> None:
    raise RuntimeError("the wire is not open yet")


def _discard(data: bytes) -> None: ...


def _ignore(payload: bytes, binary: bool) -> None: ...


def _do_nothing() -> None: ...


def _nothing_buffered() -> int:
    return 0
