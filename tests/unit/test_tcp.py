"""The TCP wire by itself: bytes in, payloads out, over a transport that only takes notes."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from duolink.protocol import codec
from duolink.protocol.messages import Goodbye
from duolink.server.handshake import Refused
from duolink.server.tcp import HIGH_WATER, TcpListener, TcpOptions, TcpWire, greeting
from duolink.server.wire import Wire

TEXT = b'{"type":"ping","id":1}'


class Transport(asyncio.Transport):
    """Takes notes of what it is asked; `peername` and TLS as given."""

    def __init__(self, peer: object = ("127.0.0.1", 5), tls: bool = False) -> None:
        super().__init__()
        self.extra = {"peername": peer, "ssl_object": object() if tls else None}
        self.tls = tls
        self.written = b""
        self.reading = True
        self.ended = self.closing = self.aborted = False
        self.size = 0
        self.limits: tuple[int | None, int | None] | None = None

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self.extra.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = (high, low)

    def get_write_buffer_size(self) -> int:
        return self.size

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "written behind the end"
        self.written += data

    def can_write_eof(self) -> bool:
        return not self.tls

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


class User:
    """Takes notes of what the wire tells; `on_payload` may act from within."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.payloads: list[tuple[bytes, bool]] = []
        self.batches: list[int] = []
        self.writables = 0
        self.end: tuple[int, str] | None = None
        self.on_payload: Callable[[], None] = lambda: None

    def received(self, payload: bytes, binary: bool) -> None:
        assert self.end is None
        self.payloads.append((payload, binary))
        self.on_payload()

    def batch_ended(self) -> None:
        self.batches.append(len(self.payloads))

    def alive(self) -> None:
        raise AssertionError("TCP has no control frames")

    def writable(self) -> None:
        self.writables += 1

    def closed(self, code: int, reason: str) -> None:
        assert self.end is None, "told twice"
        self.end = (code, reason)


class Loop:
    """The part of an event loop that a wire uses, on a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> "Timer":
        timer = Timer(when, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [t for t in self.timers if not t.cancelled and t.when() <= until]:
            timer = min(due, key=Timer.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when())
            timer.callback()
        self.now = until

    @property
    def armed(self) -> int:
        return sum(not timer.cancelled for timer in self.timers)


class Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self._when = when
        self.callback = callback
        self.cancelled = False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.cancelled = True


class Bench:
    """A wire with its loop, transport and user."""

    def __init__(self, options: TcpOptions | None = None, transport: Transport | None = None) -> None:
        self.loop = Loop()
        self.users: list[User] = []
        self.listener = TcpListener(self.make, options)
        self.transport = transport or Transport()
        self.wire = self.another(self.transport)

    def another(self, transport: Transport) -> TcpWire:
        wire = TcpWire(self.listener, cast(asyncio.AbstractEventLoop, self.loop))
        wire.connection_made(transport)
        return wire

    def make(self, wire: Wire) -> User:
        self.users.append(User(wire))
        return self.users[-1]

    @property
    def user(self) -> User:
        return self.users[0]

    def feed(self, data: bytes) -> None:
        """Deliver bytes as one read."""
        self.wire.get_buffer(-1)[: len(data)] = data
        self.wire.buffer_updated(len(data))

    def goodbye(self) -> int:
        """Return the code of the goodbye that was written, or 0."""
        _, _, payload = self.transport.written.partition(b"\0\0\0")
        if not payload:
            return 0
        (message,) = codec.SERVER.text(payload[1:])
        assert isinstance(message, Goodbye)
        return message.code


def test_a_frame_is_a_length_and_the_payload() -> None:
    assert TcpWire.frame(b"abc") == b"\x00\x00\x00\x03abc"
    assert TcpWire.frame(b"abc", binary=True) == b"\x80\x00\x00\x03abc"


def test_payloads_of_one_read_are_delivered_as_one_batch() -> None:
    bench = Bench()
    bench.feed(TcpWire.frame(TEXT) + TcpWire.frame(b"\xff\xfe", binary=True) + TcpWire.frame(b""))
    assert bench.user.payloads == [(TEXT, False), (b"\xff\xfe", True), (b"", False)]
    assert bench.user.batches == [3]
    assert bench.transport.written == b""


@pytest.mark.parametrize("opening", [b"", b"HELLO", b"HELLO\n", b"HELLO\r\n"])
def test_every_division_into_two_reads_gives_the_same(opening: bytes) -> None:
    stream = opening + TcpWire.frame(TEXT) + TcpWire.frame(b"x\x80", binary=True)
    for cut in range(len(stream) + 1):
        bench = Bench()
        bench.feed(stream[:cut])
        bench.feed(stream[cut:])
        assert bench.user.payloads == [(TEXT, False), (b"x\x80", True)], cut
        assert bench.transport.written == (greeting("duolink") if opening else b"")


def test_one_byte_at_a_time() -> None:
    bench = Bench()
    for byte in b"HELLO\r\n" + TcpWire.frame(TEXT) * 2:
        bench.feed(bytes([byte]))
    assert bench.user.payloads == [(TEXT, False)] * 2
    assert bench.user.batches == [1, 2]


@pytest.mark.parametrize("after", [b"\r\r", b"\n\n", b"\n\r", b"\r\n\n", b" "])
def test_one_line_end_may_follow_hello_and_no_more(after: bytes) -> None:
    bench = Bench()
    bench.feed(b"HELLO" + after + b"\0\0\0\0")
    assert bench.user.payloads == [] and bench.transport.ended


def test_a_payload_of_many_reads_is_put_together_once_it_is_whole() -> None:
    bench = Bench()
    payload = bytes(range(32, 127)) * 3000
    stream = TcpWire.frame(payload) + TcpWire.frame(TEXT)
    for start in range(0, len(stream), 50_000):
        bench.feed(stream[start : start + 50_000])
    assert bench.user.payloads == [(payload, False), (TEXT, False)]


def test_hello_is_answered_once_with_one_line() -> None:
    bench = Bench(TcpOptions(greeting="duolink 9.9"))
    bench.feed(b"HELLO")
    line = bench.transport.written
    assert line.startswith(b"duolink 9.9, protocol 1.") and line.endswith(b"\n") and line.count(b"\n") == 1
    bench.feed(b"HELLO")  # now a length, and larger than anything
    bench.transport.written = bench.transport.written[len(line) :]
    assert bench.goodbye() == 1009


@pytest.mark.parametrize(
    "opening", [b"HELLX", b"GET / HTTP/1.1\r\n", b"\x00\x10\x00\x01", b"\xff\xff\xff\xff"]
)
def test_a_length_beyond_the_maximum_ends_the_connection_at_once(opening: bytes) -> None:
    bench = Bench()
    bench.feed(opening)
    assert bench.goodbye() == 1009 and bench.transport.ended
    assert bench.user.payloads == []
    bench.wire.connection_lost(None)
    assert bench.user.end == (1009, "more than 1048576 bytes")


def test_hello_after_a_message_is_a_length() -> None:
    bench = Bench()
    bench.feed(TcpWire.frame(TEXT) + b"HELLO")
    assert bench.user.payloads == [(TEXT, False)]
    assert bench.goodbye() == 1009


def test_the_largest_payload_is_accepted() -> None:
    bench = Bench(TcpOptions(max_payload=8))
    bench.feed(TcpWire.frame(b"12345678"))
    assert bench.user.payloads == [(b"12345678", False)]
    bench.feed(TcpWire.frame(b"123456789")[:4])
    assert bench.goodbye() == 1009


def test_text_that_is_not_utf8_ends_the_connection_after_what_came_before() -> None:
    bench = Bench()
    bench.feed(TcpWire.frame(TEXT) + TcpWire.frame(b"\xc0\x80") + TcpWire.frame(TEXT))
    assert bench.user.payloads == [(TEXT, False)]
    assert bench.goodbye() == 1007 and bench.transport.ended


def test_nothing_is_delivered_after_the_user_has_closed() -> None:
    bench = Bench()
    bench.user.on_payload = lambda: bench.wire.close(1000, "enough")
    bench.feed(TcpWire.frame(TEXT) * 3)
    bench.feed(TcpWire.frame(TEXT))
    assert len(bench.user.payloads) == 1 and bench.user.batches == []
    bench.wire.connection_lost(None)
    assert bench.user.end == (1000, "enough")


def test_close_half_closes_reads_on_and_cuts_off_after_its_time() -> None:
    bench = Bench()
    bench.wire.pause_reading()
    bench.wire.close(1012, "restart")
    bench.wire.close(1000)
    bench.wire.write(b"too late")
    assert bench.transport.ended and bench.transport.reading and not bench.transport.closing
    assert bench.transport.written == b""
    bench.loop.advance(4.9)
    assert not bench.transport.aborted
    bench.loop.advance(0.2)
    assert bench.transport.aborted
    bench.wire.connection_lost(None)
    assert bench.user.end == (1012, "restart")


def test_closing_a_connection_that_was_reset_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_eof() -> None:
        raise OSError(107, "Transport endpoint is not connected")

    bench = Bench()
    monkeypatch.setattr(bench.transport, "write_eof", write_eof)
    bench.wire.close(1012)
    assert bench.transport.aborted
    bench.wire.connection_lost(None)
    assert bench.user.end == (1012, "")


def test_tls_is_closed_by_its_own_record() -> None:
    bench = Bench(transport=Transport(tls=True))
    assert bench.wire.secure
    bench.wire.close(1000)
    assert bench.transport.closing and not bench.transport.ended
    bench.loop.advance(6)
    assert bench.transport.aborted


def test_a_peer_that_ends_first_is_cut_off_when_it_does_not_read() -> None:
    bench = Bench()
    bench.feed(TcpWire.frame(TEXT)[:7])
    bench.wire.eof_received()
    bench.transport.close()  # what a loop does then
    bench.wire.close(1000)
    assert not bench.transport.ended
    bench.loop.advance(5.1)
    assert bench.transport.aborted


def test_a_connection_that_just_ends_is_abnormal() -> None:
    bench = Bench()
    bench.wire.connection_lost(ConnectionResetError())
    assert bench.user.end == (1006, "")
    assert bench.loop.armed == 0
    bench.wire.write(b"x")
    bench.wire.pause_reading()
    bench.wire.resume_reading()
    bench.wire.close(1000)
    bench.wire.abort()
    assert bench.wire.buffered() == 0
    assert bench.listener.connections == 0


def test_silence_before_the_first_byte_has_a_deadline() -> None:
    bench = Bench()
    bench.loop.advance(9.9)
    assert bench.goodbye() == 0
    bench.loop.advance(0.2)
    assert bench.goodbye() == 3004


def test_silence_after_a_message_has_none() -> None:
    bench = Bench()
    bench.feed(TcpWire.frame(TEXT))
    bench.loop.advance(10_000)
    assert bench.goodbye() == 0 and bench.loop.armed == 0


def test_a_payload_that_trickles_in_has_a_deadline_from_its_first_byte() -> None:
    bench = Bench()
    stream = TcpWire.frame(b"x" * 100)
    bench.feed(TcpWire.frame(TEXT) + stream[:3])
    for byte in stream[3:61]:
        bench.loop.advance(1)
        bench.feed(bytes([byte]))
    bench.loop.advance(1.9)
    assert bench.goodbye() == 0
    bench.loop.advance(0.2)
    assert bench.goodbye() == 1008


def test_each_payload_has_a_deadline_of_its_own() -> None:
    bench = Bench()
    stream = TcpWire.frame(b"x" * 100) * 3
    for start in range(0, len(stream), 60):
        bench.feed(stream[start : start + 60])
        bench.loop.advance(29)
    assert bench.goodbye() == 0 and len(bench.user.payloads) == 3


def test_a_payload_is_not_late_while_reading_is_paused() -> None:
    bench = Bench()
    bench.feed(b"\x00")
    bench.wire.pause_reading()
    bench.loop.advance(200)
    assert bench.goodbye() == 0
    bench.wire.resume_reading()
    bench.loop.advance(61)
    assert bench.goodbye() == 1008


def test_an_earlier_deadline_replaces_the_timer() -> None:
    bench = Bench(TcpOptions(first_byte_timeout=100))
    bench.wire.close(1000)
    assert bench.loop.armed == 1
    bench.loop.advance(5)
    assert bench.transport.aborted


def test_backpressure_is_passed_on() -> None:
    bench = Bench()
    assert bench.transport.limits is not None and bench.transport.limits[0] == HIGH_WATER
    bench.transport.size = 77
    assert bench.wire.buffered() == 77
    assert not bench.wire.ping()
    bench.wire.pause_writing()
    bench.wire.resume_writing()
    assert bench.user.writables == 1
    bench.wire.close(1000)
    bench.wire.resume_writing()
    assert bench.user.writables == 1


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("10.1.2.3", 9), "10.1.2.3"),
        (("::ffff:10.1.2.3", 9, 0, 0), "10.1.2.3"),
        (("2001:db8::1", 9, 0, 0), "2001:db8::1"),
        (None, ""),
        (("", 0), ""),
    ],
)
def test_peer_address(peer: object, address: str) -> None:
    assert Bench(transport=Transport(peer)).wire.peer_address == address


def test_a_full_listener_says_goodbye_and_makes_no_user() -> None:
    bench = Bench(TcpOptions(max_connections=1))
    first, bench.transport = bench.wire, Transport()
    refused = bench.wire = bench.another(bench.transport)
    assert bench.goodbye() == 3005 and len(bench.users) == 1
    bench.feed(TcpWire.frame(TEXT))
    refused.resume_writing()
    refused.connection_lost(None)
    assert bench.listener.connections == 1
    first.connection_lost(None)
    bench.another(Transport())
    assert len(bench.users) == 2


def test_a_factory_may_refuse() -> None:
    def refuse(wire: Wire) -> User:
        raise Refused(429, "too many from here")

    bench = Bench()
    bench.listener = TcpListener(refuse)
    bench.transport = Transport()
    refused = bench.another(bench.transport)
    assert bench.goodbye() == 3005 and b"too many from here" in bench.transport.written
    refused.connection_lost(None)
    assert bench.listener.connections == 0
