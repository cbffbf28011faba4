"""The TCP transport over real sockets, on both event loops, plain and with TLS."""

import asyncio
import datetime
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from duolink.protocol import codec
from duolink.protocol.messages import Goodbye
from duolink.server.tcp import TcpListener, TcpOptions, TcpWire, greeting
from duolink.server.wire import Wire

frame = TcpWire.frame
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on one kind of loop, within 10 s; what a loop reports as unhandled fails the test."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(main: Coroutine[Any, Any, None]) -> None:
        complaints: list[dict[str, Any]] = []

        async def bounded() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            await asyncio.wait_for(main, 10)

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())
        assert complaints == []

    return run


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for localhost, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


class Echo:
    """Returns every payload; closes at `bye`."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.drained = asyncio.Event()

    def received(self, payload: bytes, binary: bool) -> None:
        if payload == b"bye":
            self.wire.close(1000)
        else:
            self.wire.write(self.wire.frame(payload, binary))

    def batch_ended(self) -> None: ...

    def alive(self) -> None: ...

    def writable(self) -> None:
        self.drained.set()

    def closed(self, code: int, reason: str) -> None:
        self.end.set_result(code)


class Bench:
    def __init__(self, options: TcpOptions | None) -> None:
        self.users: list[Echo] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.counted = asyncio.Event()
        self.listener = TcpListener(self.make, options, count=self.count)

    def count(self, event: str, label: str) -> None:
        self.counts[event, label] += 1
        self.counted.set()

    def make(self, wire: Wire) -> Echo:
        self.users.append(Echo(wire))
        return self.users[-1]

    async def open(self, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.listener.port, **kwargs)


@asynccontextmanager
async def serving(options: TcpOptions | None = None) -> AsyncIterator[Bench]:
    bench = Bench(options)
    await bench.listener.start("127.0.0.1", 0)
    try:
        yield bench
    finally:
        bench.listener.stop_accepting()
        for user in bench.users:
            user.wire.abort()
        await bench.listener.close()
        assert bench.listener.connections == 0
        assert all(user.end.done() for user in bench.users)


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


def test_payloads_come_back(run: Run) -> None:
    async def main() -> None:
        async with serving() as bench:
            reader, writer = await bench.open()
            large = b"x" * 1_000_000
            sent = frame(b"{}") + frame(large) + frame(b"\xff\x00", binary=True)
            writer.write(sent)
            assert await reader.readexactly(len(sent)) == sent
            assert bench.users[0].wire.peer_address == "127.0.0.1" and not bench.users[0].wire.secure
            await leave(writer)
            assert await bench.users[0].end == 1006

    run(main())


def test_a_device_says_hello_and_half_closes(run: Run) -> None:
    async def main() -> None:
        async with serving() as bench:
            reader, writer = await bench.open()
            writer.write(b"HELLO")
            writer.write_eof()
            assert await reader.read() == greeting("duolink")
            await leave(writer)

    run(main())


def test_a_half_closed_device_gets_what_was_on_its_way(run: Run) -> None:
    async def main() -> None:
        async with serving() as bench:
            reader, writer = await bench.open()
            sent = frame(b"y" * 500_000) * 4
            writer.write(sent)
            writer.write_eof()
            assert await reader.read() == sent
            await leave(writer)

    run(main())


def test_an_orderly_close_loses_nothing_though_the_device_still_sends(run: Run) -> None:
    """Without the half-close, the unread bytes would reset the connection and destroy the answer."""

    async def main() -> None:
        async with serving() as bench:
            reader, writer = await bench.open()
            answer = frame(b"z" * 300_000)
            writer.write(answer + frame(b"bye") + frame(b"late" * 50_000))
            assert await reader.read() == answer
            writer.write(frame(b"later"))
            await leave(writer)
            assert await bench.users[0].end == 1000

    run(main())


def test_an_oversized_length_is_answered_with_goodbye(run: Run) -> None:
    async def main() -> None:
        async with serving() as bench:
            reader, writer = await bench.open()
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3000)
            answer = await reader.read()
            (message,) = codec.SERVER.text(answer[4:])
            assert isinstance(message, Goodbye) and message.code == 1009
            await leave(writer)
            assert await bench.users[0].end == 1009

    run(main())


def test_who_does_not_close_is_cut_off(run: Run) -> None:
    async def main() -> None:
        async with serving(TcpOptions(close_timeout=0.02)) as bench:
            reader, writer = await bench.open()
            writer.write(frame(b"{}") + frame(b"bye"))
            await reader.readexactly(6)
            assert await bench.users[0].end == 1000
            await leave(writer)

    run(main())


def test_who_sends_nothing_is_cut_off(run: Run) -> None:
    async def main() -> None:
        async with serving(TcpOptions(first_byte_timeout=0.02)) as bench:
            reader, writer = await bench.open()
            (message,) = codec.SERVER.text((await reader.read())[4:])
            assert isinstance(message, Goodbye) and message.code == 3004
            await leave(writer)

    run(main())


def test_a_reader_that_stops_is_seen_and_seen_again(run: Run) -> None:
    async def main() -> None:
        async with serving() as bench:
            reader, writer = await bench.open(limit=1024)
            writer.write(frame(b"{}"))
            await reader.readexactly(6)
            wire = bench.users[0].wire
            total = 0
            while wire.buffered() < 1 << 20:
                wire.write(frame(b"f" * 65_536))
                total += 65_540
                await asyncio.sleep(0)
            assert not bench.users[0].drained.is_set()
            await reader.readexactly(total)
            await bench.users[0].drained.wait()
            await leave(writer)

    run(main())


def test_paused_reading_leaves_bytes_in_the_kernel(run: Run) -> None:
    async def main() -> None:
        async with serving() as bench:
            reader, writer = await bench.open()
            writer.write(frame(b"1"))
            await reader.readexactly(5)
            wire = bench.users[0].wire
            wire.pause_reading()
            writer.write(frame(b"2"))
            other, other_writer = await bench.open()  # a round trip on another socket: time for the loop
            other_writer.write(frame(b"3"))
            await other.readexactly(5)
            assert reader._buffer == b""  # type: ignore[attr-defined]
            wire.resume_reading()
            assert await reader.readexactly(5) == frame(b"2")
            await leave(writer)
            await leave(other_writer)

    run(main())


def test_tls(run: Run, certificate: Path) -> None:
    async def main() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with serving(TcpOptions(tls=context)) as bench:
            reader, writer = await bench.open(ssl=trusting, server_hostname="localhost")
            sent = b"HELLO\n" + frame(b"s" * 200_000)
            writer.write(sent)
            line = await reader.readline()
            assert line == greeting("duolink")
            assert await reader.readexactly(200_004) == sent[6:]
            assert bench.users[0].wire.secure
            writer.write(frame(b"bye"))
            assert await reader.read() == b""
            await leave(writer)
            assert await bench.users[0].end == 1000

    run(main())


@pytest.mark.parametrize("bound", ["max_connections", "max_handshakes"])
def test_a_tls_handshake_that_never_ends_counts(run: Run, certificate: Path, bound: str) -> None:
    """Else a port scanner could hold as many sockets as the process has, ten seconds each."""

    async def main() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        options = TcpOptions(tls=context, first_byte_timeout=3600)
        two = replace(options, max_connections=2), replace(options, max_handshakes=2)
        options = two[bound == "max_handshakes"]
        async with serving(options) as bench:
            silent = [await bench.open() for _ in range(2)]
            refused, refused_writer = await bench.open()
            assert await refused.read() == b"" and bench.listener.connections == 2
            assert bench.counts == {("connection_refused", bound): 1}
            await leave(refused_writer)
            _, talks = silent.pop()
            bench.counted.clear()
            talks.write(b"no TLS at all\r\n")
            await bench.counted.wait()
            assert bench.counts["connection_refused", "tls"] == 1
            await leave(talks)
            trusting = ssl.create_default_context(cafile=str(certificate))
            reader, writer = await bench.open(ssl=trusting, server_hostname="localhost")
            writer.write(frame(b"{}"))
            assert await reader.readexactly(6) == frame(b"{}")
            await leave(writer)
            # Who is still silent does not hold up the listener, which closes now.
        for _, writer in silent:
            await leave(writer)

    run(main())


def test_who_gets_a_transport_while_the_listener_closes_is_closed_with_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is accepted, the listener closes, and then the loop has its transport."""

    async def main() -> None:
        async with serving(TcpOptions(first_byte_timeout=3600, close_timeout=3600)) as bench:
            accepted, go = asyncio.Event(), asyncio.Event()
            make = bench.listener._make_transport

            async def later(connection: socket.socket) -> None:
                accepted.set()
                await go.wait()
                await make(connection)

            monkeypatch.setattr(bench.listener, "_make_transport", later)
            reader, writer = await bench.open()
            await accepted.wait()
            closing = asyncio.create_task(bench.listener.close())
            await asyncio.sleep(0)
            go.set()
            assert await reader.read() == b""
            await leave(writer)
            await closing
            assert await bench.users[0].end == 1001

    run(main())


def test_one_more_than_allowed_is_refused_and_the_others_stay(run: Run) -> None:
    async def main() -> None:
        async with serving(TcpOptions(max_connections=1)) as bench:
            reader, writer = await bench.open()
            writer.write(frame(b"{}"))
            await reader.readexactly(6)
            second, second_writer = await bench.open()
            (message,) = codec.SERVER.text((await second.read())[4:])
            assert isinstance(message, Goodbye) and message.code == 3005
            await leave(second_writer)
            writer.write(frame(b"{}"))
            await reader.readexactly(6)
            await leave(writer)

    run(main())


def test_a_listener_that_stopped_refuses_and_its_port_is_free_at_once(run: Run) -> None:
    async def main() -> None:
        async with serving() as bench:
            reader, writer = await bench.open()
            writer.write(frame(b"{}"))
            await reader.readexactly(6)
            bench.listener.stop_accepting()
            with pytest.raises(ConnectionRefusedError):
                await bench.open()
            writer.write(frame(b"still here"))
            await reader.readexactly(14)
            again = TcpListener(bench.make)
            await again.start("127.0.0.1", bench.listener.port)
            await again.close()
            await leave(writer)

    run(main())


def test_a_port_that_is_taken_raises(run: Run) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError):
            await TcpListener(Echo).start("127.0.0.1", taken.getsockname()[1])

    run(main())
