"""A TCP proxy in front of the server, for one client: it carries the client's connections as badly as a
scenario tells it to.

Faults happen when they are asked for, or after a number of bytes; nothing depends on chance. `until` waits
for something to have happened here.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from enum import StrEnum
from typing import Final

CHUNK: Final = 16_384
"""Bytes that are read at once."""

LOCAL: Final = "127.0.0.1"


class Way(StrEnum):
    """Which way bytes go: to the server, or to the client."""

    UP = "up"
    DOWN = "down"


class Lane:
    """One direction of one connection."""

    def __init__(
        self, connection: "Connection", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._connection, self._reader, self._writer = connection, reader, writer
        self._gate = asyncio.Event()
        self._gate.set()
        self.read = 0  # bytes that came
        self.carried = 0  # of those, how many have been passed on
        self.reset_after: int | None = None  # bytes still to be passed on, then the connection is reset

    @property
    def held(self) -> int:
        """Bytes that wait here."""
        return self.read - self.carried

    def hold(self) -> None:
        """Pass nothing on, the end of the connection included."""
        self._gate.clear()

    def release(self) -> None:
        """Pass on what has been held, and what comes."""
        self._gate.set()

    async def run(self) -> None:
        """Carry until one side ends."""
        proxy = self._connection.proxy
        while data := await self._reader.read(proxy.chunk):
            self.read += len(data)
            proxy.changed()
            if pause := proxy.delay + proxy.transmission(len(data)):
                await asyncio.sleep(pause)
            await self._gate.wait()
            if not await self._pass(data):
                return
        await self._gate.wait()
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def _pass(self, data: bytes) -> bool:
        """Whether the connection goes on."""
        left = self.reset_after
        whole = left is None or len(data) < left
        if self._connection.stranded and self is self._connection.down:
            return True  # nobody is there any more
        self._writer.write(data if whole else data[:left])
        await self._writer.drain()
        self.carried += len(data)
        if left is not None:
            self.reset_after = left - len(data)
        if not whole:
            self._connection.cut(reset=True)
        self._connection.proxy.changed()
        return whole


class Connection:
    """One connection of the client, and the proxy's to the server that belongs to it."""

    def __init__(
        self,
        proxy: "Proxy",
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.proxy = proxy
        self.stranded = False
        self._client, self._server = client[1], server[1]
        self.up = Lane(self, client[0], server[1])
        self.down = Lane(self, server[0], client[1])
        self.open = True

    def lanes(self, way: str | None) -> list[Lane]:
        """The directions that are meant; None: both."""
        return [lane for name, lane in (("up", self.up), ("down", self.down)) if way in (None, name)]

    async def run(self) -> None:
        """Carry until both sides have ended, or one has failed."""
        lanes = [asyncio.create_task(lane.run()) for lane in (self.up, self.down)]
        try:
            await asyncio.gather(*lanes)
            self.cut(reset=False)
        except OSError:
            self.cut(reset=True)
        finally:
            self.open = False
            for lane in lanes:
                lane.cancel()
            await asyncio.wait(lanes)
            self.proxy.changed()

    def cut(self, reset: bool) -> None:
        """End it on both sides: with RST, or in order (FIN)."""
        for writer in (self._client, self._server):
            _end(writer, reset)
        self.up.release()
        self.down.release()

    def strand(self) -> None:
        """Reset the client's side only: for the server the connection is still there, with what is held."""
        self.stranded = True
        _end(self._client, reset=True)


def _end(writer: asyncio.StreamWriter, reset: bool) -> None:
    if not reset:
        writer.close()
        return
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # it may be closed
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxy:
    """Where one client connects to. `target` is the server's port."""

    def __init__(self, target: int) -> None:
        self._target = target
        # Bound and never listening: while the proxy refuses connections, nobody else gets its port.
        self._reserved = _bound(0)
        self.port: int = self._reserved.getsockname()[1]
        self.delay = 0.0
        """Seconds that every piece of what is carried is late."""
        self.rate = 0
        """Bytes per second and direction; 0: as fast as it goes."""
        self.connections: list[Connection] = []
        """All there were, oldest first."""
        self._listener: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._reset_next: tuple[str, int] | None = None

    # --- life ----------------------------------------------------------------------------------

    async def accept(self) -> None:
        """Take connections."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accepted, sock=_bound(self.port))

    def refuse(self) -> None:
        """Refuse connections (ECONNREFUSED); those there are go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def close(self) -> None:
        """End everything."""
        self.refuse()
        self._reserved.close()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        for connection in self.connections:
            connection.cut(reset=True)

    # --- faults --------------------------------------------------------------------------------

    def cut(self, reset: bool = True) -> None:
        """End the open connections, with RST or in order."""
        for connection in self._open():
            connection.cut(reset)

    def hold(self, way: str | None = None) -> None:
        """Pass nothing on of the open connections, one way or both, and let both sides think that they are
        connected: half-open. Connections to come are not held."""
        for lane in self._lanes(way):
            lane.hold()

    def release(self, way: str | None = None) -> None:
        """Pass on what was held."""
        for lane in self._lanes(way):
            lane.release()

    def strand(self) -> None:
        """Reset the client's side of the open connections; what is held of them may still reach the
        server, later than what the client says on its next connection."""
        for connection in self._open():
            connection.strand()

    def reset_after(self, count: int, way: str) -> None:
        """Reset the connection when so many more bytes have gone that way: in the middle of a frame, if
        need be. If none is open, the next one."""
        if not self._open():
            self._reset_next = way, count
        for lane in self._lanes(way):
            lane.reset_after = count

    # --- what happened -------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Bytes to the server that wait here."""
        return sum(connection.up.held for connection in self._open())

    @property
    def chunk(self) -> int:
        """Bytes to read at once: with a rate, a hundredth of a second's worth."""
        return max(min(self.rate // 100, CHUNK), 1) if self.rate else CHUNK

    def transmission(self, size: int) -> float:
        """Seconds that so many bytes take."""
        return size / self.rate if self.rate else 0.0

    async def until(self, there: Callable[[], bool]) -> None:
        """Wait until it is so; asked whenever something was read, carried, opened or closed."""
        while not there():
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def changed(self) -> None:
        """Something has happened."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    # --- within --------------------------------------------------------------------------------

    def _open(self) -> list[Connection]:
        return [connection for connection in self.connections if connection.open]

    def _lanes(self, way: str | None) -> list[Lane]:
        return [lane for connection in self._open() for lane in connection.lanes(way)]

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            upstream = await asyncio.open_connection(LOCAL, self._target)
            connection = Connection(self, (reader, writer), upstream)
            if self._reset_next is not None:
                (way, count), self._reset_next = self._reset_next, None
                connection.lanes(way)[0].reset_after = count
            self.connections.append(connection)
            self.changed()
            await connection.run()
        except OSError:
            _end(writer, reset=True)  # there is no server
        except asyncio.CancelledError:
            _end(writer, reset=True)
        finally:
            self._running.discard(task)


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((LOCAL, port))
    return sock
