"""The proxy does to connections what it says."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.parity.proxy import LOCAL, Proxy

Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1024):
            writer.write(data)
    except ConnectionError:
        pass
    finally:
        writer.close()


def run(work: Callable[[Proxy, Dial], Awaitable[None]]) -> None:
    """Run with a proxy in front of a server that says everything again."""

    async def body() -> None:
        server = await asyncio.start_server(echo, LOCAL, 0)
        proxy = Proxy(server.sockets[0].getsockname()[1])
        await proxy.accept()
        try:
            async with asyncio.timeout(20):
                await work(proxy, lambda: asyncio.open_connection(LOCAL, proxy.port))
        finally:
            await proxy.close()
            server.close()

    asyncio.run(body())


async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> None:
    writer.write(text)
    assert await reader.readexactly(len(text)) == text


def test_it_carries_and_tells_the_end() -> None:
    async def work(proxy: Proxy, dial: Dial) -> None:
        reader, writer = await dial()
        await says(reader, writer, b"x" * 100_000)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()

    run(work)


@pytest.mark.parametrize(("reset", "end"), [(True, ConnectionResetError), (False, None)])
def test_a_cut_is_a_reset_or_an_end(reset: bool, end: type[Exception] | None) -> None:
    async def work(proxy: Proxy, dial: Dial) -> None:
        reader, writer = await dial()
        await says(reader, writer, b"x")
        proxy.cut(reset)
        if end is None:
            assert await reader.read() == b""
        else:
            with pytest.raises(end):
                await reader.read()
        writer.close()

    run(work)


def test_what_is_held_waits_and_neither_side_sees_an_end() -> None:
    async def work(proxy: Proxy, dial: Dial) -> None:
        reader, writer = await dial()
        await says(reader, writer, b"x")
        proxy.hold()
        writer.write(b"held")
        await proxy.until(lambda: proxy.held == 4)
        other = await dial()
        await says(*other, b"later connections are not")
        assert proxy.held == 4
        proxy.release()
        assert await reader.readexactly(4) == b"held"
        for each in (writer, other[1]):
            each.close()

    run(work)


def test_a_stranded_connection_still_brings_what_it_holds() -> None:
    said = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.extend(await reader.read(-1))
        writer.close()
        heard.set()

    heard = asyncio.Event()

    async def body() -> None:
        server = await asyncio.start_server(listen, LOCAL, 0)
        proxy = Proxy(server.sockets[0].getsockname()[1])
        await proxy.accept()
        reader, writer = await asyncio.open_connection(LOCAL, proxy.port)
        await proxy.until(lambda: bool(proxy.connections))
        proxy.hold("up")
        writer.write(b"late")
        await proxy.until(lambda: proxy.held == 4)
        proxy.strand()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert not said and not heard.is_set()
        proxy.release()
        await heard.wait()
        assert said == b"late"
        writer.close()
        await proxy.close()
        server.close()

    asyncio.run(asyncio.wait_for(body(), 20))


def test_it_refuses_and_keeps_its_port() -> None:
    async def work(proxy: Proxy, dial: Dial) -> None:
        reader, writer = await dial()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await dial()
        await says(reader, writer, b"who is there goes on")
        await proxy.accept()
        other = await dial()
        await says(*other, b"again")
        for each in (writer, other[1]):
            each.close()

    run(work)


def test_it_resets_after_so_many_bytes() -> None:
    async def work(proxy: Proxy, dial: Dial) -> None:
        proxy.reset_after(10, "down")
        reader, writer = await dial()
        await says(reader, writer, b"123456789")
        writer.write(b"0abc")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(4)
        writer.close()

    run(work)


def test_it_is_late_and_slow() -> None:
    async def work(proxy: Proxy, dial: Dial) -> None:
        reader, writer = await dial()
        proxy.delay = 0.05
        begin = time.monotonic()
        await says(reader, writer, b"x")
        assert time.monotonic() - begin >= 0.1  # there and back
        proxy.delay, proxy.rate = 0.0, 100_000
        begin = time.monotonic()
        await says(reader, writer, b"x" * 10_000)
        assert time.monotonic() - begin >= 0.1
        writer.close()

    run(work)
