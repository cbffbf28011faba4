"""The client's transports, over real sockets on loopback."""

import asyncio
import base64
import gc
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from duolink.client.address import parse_address
from duolink.client.transport import HandshakeRefused, Transport, connect_socket, dialler
from duolink.protocol import limits

Script = Callable[[ServerConnection], Awaitable[None]]
_header = struct.Struct(">I")


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off at once what does not close by itself."""
    monkeypatch.setattr("duolink.client.websocket.CLOSE_TIMEOUT", 0.05)


class Recorder:
    """A transport's user that writes down what it hears."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.transport: Transport | None = None
        self._changed = asyncio.Event()

    def _add(self, *event: Any) -> None:
        self.events.append(event)
        self._changed.set()

    def opened(self, transport: Transport) -> None:
        self.transport = transport

    def received(self, transport: Transport, payload: bytes, binary: bool) -> None:
        self._add("received", payload, binary)

    def batch_ended(self, transport: Transport) -> None:
        pass

    def alive(self, transport: Transport) -> None:
        self._add("alive")

    def writable(self, transport: Transport) -> None:
        self._add("writable")

    def closed(self, transport: Transport, code: int, reason: str) -> None:
        self._add("closed", code, reason)

    def gone(self, transport: Transport) -> None:
        self._add("gone")

    async def until(self, kind: str) -> list[Any]:
        """The events so far, when one of that kind has come."""
        async with asyncio.timeout(5):
            while not any(event[0] == kind for event in self.events):
                self._changed.clear()
                await self._changed.wait()
        return self.events


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run, and see that no descriptor and no task is left."""

    async def body() -> None:
        async with asyncio.timeout(10):
            await main()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(body())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@asynccontextmanager
async def websocket(script: Script, **options: Any) -> AsyncIterator[str]:
    async with serve(script, "127.0.0.1", 0, compression=None, ping_interval=None, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws"


@asynccontextmanager
async def raw(
    script: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], scheme: str = "tcp"
) -> AsyncIterator[str]:
    done: list[asyncio.Task[Any]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done.append(asyncio.current_task())  # type: ignore[arg-type]
        try:
            await script(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
        if done:
            await asyncio.wait(done)


async def opened(url: str) -> tuple[Recorder, Transport]:
    recorder = Recorder()
    await dialler(parse_address(url), None)(recorder)
    assert recorder.transport is not None
    return recorder, recorder.transport


def test_websocket_carries_payloads_both_ways() -> None:
    async def main() -> None:
        got: list[Any] = []

        async def script(peer: ServerConnection) -> None:
            assert peer.subprotocol == "duolink"
            got.append(await peer.recv())
            got.append(await peer.recv())
            await peer.send("tëxt")
            await peer.send(b"\x00\xff")
            await peer.send(["a fragmented ", "text"])
            pong = await peer.ping()
            await pong
            await peer.close(3501, "duplicate")

        async with websocket(script, subprotocols=["duolink"]) as url:
            recorder, transport = await opened(url)
            transport.send(b'{"x":1}', False)
            transport.send(b"\x01\x02", True)
            assert await recorder.until("gone") == [
                ("received", "tëxt".encode(), False),
                ("received", b"\x00\xff", True),
                ("received", b"a fragmented text", False),
                ("alive",),
                ("closed", 3501, "duplicate"),
                ("gone",),
            ]
            assert got == ['{"x":1}', b"\x01\x02"]
            transport.send(b"late", False)  # and nothing happens
            transport.close(1000, "")
            transport.abort()

    run(main)


def test_websocket_close_waits_for_the_server() -> None:
    async def main() -> None:
        codes: list[Any] = []

        async def script(peer: ServerConnection) -> None:
            codes.append(await peer.recv())
            await peer.wait_closed()
            codes.append((peer.close_code, peer.close_reason))

        async with websocket(script) as url:
            recorder, transport = await opened(url)
            transport.send(b"last words", False)
            transport.close(1000, "é" * 100)  # cut to what a close frame holds
            transport.send(b"too late", False)
            assert await recorder.until("gone") == [("gone",)]
        assert codes == ["last words", (1000, "é" * 61)]

    run(main)


def test_websocket_abort_and_abnormal_end() -> None:
    async def main() -> None:
        async def script(peer: ServerConnection) -> None:
            peer.transport.abort()

        async with websocket(script) as url:
            recorder, _ = await opened(url)
            assert await recorder.until("gone") == [("closed", 1006, "the connection ended"), ("gone",)]

        async def wait(peer: ServerConnection) -> None:
            await peer.wait_closed()

        async with websocket(wait) as url:
            recorder, transport = await opened(url)
            transport.abort()
            assert (await recorder.until("gone"))[0][:2] == ("closed", 1006)

    run(main)


UPGRADE = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\n\r\n"
)


def frames(*sent: bytes) -> Any:
    """A script that upgrades, sends bytes as they are, and reads to the end."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = next(
            line.split(b": ")[1]
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key")
        )
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        writer.write(UPGRADE.format(base64.b64encode(digest).decode()).encode() + b"".join(sent))
        await writer.drain()
        await reader.read()

    return script


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([b"\x81\x02\xff\xfe"], 1007),  # a text that is not UTF-8
        ([b"\x83\x00"], 1002),  # a reserved opcode
        ([b"\xc1\x00"], 1002),  # an extension nobody asked for
        ([b"\x80\x00"], 1002),  # a continuation of nothing
        ([b"\x01\x01a", b"\x81\x01b"], 1002),  # a text within a fragmented text
        ([b"\x02\x7f" + (limits.MAX_PAYLOAD + 1).to_bytes(8, "big")], 1002),  # picows: too large a frame
        ([b"\x02\x7f" + (2**20).to_bytes(8, "big") + bytes(2**20), b"\x80\x01a"], 1009),  # too large in sum
        ([b"\x88\x00"], 1005),
        ([b"\x88\x02\x03\xf4"], 1012),
    ],
)
def test_websocket_frames_that_end_it(sent: list[bytes], code: int) -> None:
    async def main() -> None:
        async with raw(frames(*sent), "ws") as url:
            recorder, _ = await opened(url)
            events = await recorder.until("gone")
            assert [event[1] for event in events if event[0] == "closed"] == [code]

    run(main)


def test_websocket_refused_upgrades() -> None:
    async def main() -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        async with raw(refuse, "ws") as url:
            with pytest.raises(HandshakeRefused, match="HTTP 403") as caught:
                await opened(url)
            assert caught.value.final and caught.value.status == 403

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")

        async with raw(hang_up, "ws") as url:
            with pytest.raises(ConnectionError, match="during the upgrade"):
                await opened(url)

        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

        async with raw(babble, "ws") as url:
            with pytest.raises(HandshakeRefused) as caught:
                await opened(url)
            assert not caught.value.final

    run(main)


@pytest.mark.parametrize("scheme", ["ws", "wss", "tcps"])
def test_cancelling_while_connecting_leaves_no_socket(scheme: str) -> None:
    async def main() -> None:
        reached = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            reached.set()
            await reader.read()

        async with raw(silent, scheme) as url:
            task = asyncio.create_task(opened(url))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main)


def test_a_port_where_nobody_listens() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            for host in ("127.0.0.1", "localhost"):
                with pytest.raises(OSError):
                    await connect_socket(host, taken.getsockname()[1])

    run(main)


def test_tcp_carries_payloads_both_ways() -> None:
    async def main() -> None:
        got: list[Any] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(2):
                (size,) = _header.unpack(await reader.readexactly(4))
                got.append((size >> 31, await reader.readexactly(size & 0x7FFFFFFF)))
            for byte in _header.pack(5) + b"texts" + _header.pack(2 | 1 << 31) + b"\x00\xff":
                writer.write(bytes([byte]))
                await writer.drain()
            writer.write(_header.pack(1) + b"a" + _header.pack(1) + b"b")
            got.append(await reader.read())  # until the client has half-closed

        async with raw(script) as url:
            recorder, transport = await opened(url)
            transport.send(b"hello", False)
            transport.send(b"\x01", True)
            async with asyncio.timeout(5):
                while len(recorder.events) < 4:
                    recorder._changed.clear()
                    await recorder._changed.wait()
            transport.close(1000, "")
            transport.close(1000, "")
            assert await recorder.until("gone") == [
                ("received", b"texts", False),
                ("received", b"\x00\xff", True),
                ("received", b"a", False),
                ("received", b"b", False),
                ("gone",),
            ]
        assert got == [(0, b"hello"), (1, b"\x01"), b""]

    run(main)


def test_tcp_too_large_and_abnormal_end() -> None:
    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(_header.pack(limits.MAX_PAYLOAD + 1))
            await reader.read()

        async with raw(script) as url:
            recorder, _ = await opened(url)
            assert (await recorder.until("gone"))[0][:2] == ("closed", 1009)

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            pass

        async with raw(hang_up) as url:
            recorder, _ = await opened(url)
            assert (await recorder.until("gone"))[0][:2] == ("closed", 1006)

    run(main)


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
def test_what_the_far_end_does_not_read_congests(scheme: str) -> None:
    async def main() -> None:
        read = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if scheme == "ws":
                await frames()(_Unread(reader), writer)
            await read.wait()
            while await reader.read(1 << 20):
                pass

        async with raw(script, scheme) as url:
            recorder, transport = await opened(url)
            for _ in range(100):
                if not transport.congested:
                    transport.send(bytes(1 << 20), True)
            assert transport.congested
            read.set()
            await recorder.until("writable")
            assert not transport.congested
            transport.abort()
            await recorder.until("gone")

    run(main)


class _Unread:
    """A reader of which only the request's head is read."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.readuntil = reader.readuntil

    async def read(self) -> bytes:
        return b""
