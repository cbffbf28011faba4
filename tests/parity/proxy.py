"""A TCP proxy in front of the server, for one client: it carries the client's connections as badly as a
scenario tells it to.

Faults happen when they are asked for, or after a number of bytes; nothing depends on chance. `until` waits
for something to have happened here.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

CHUNK: Final = 16_384
"""Bytes that are read at once."""

MOST: Final = 1024 * 1024
"""Bytes that a direction holds before it reads no more."""

LOCAL: Final = "127.0.0.1"


class Lane:
    """One direction of one connection. It reads on while it holds, up to `MOST`, as a network does."""

    def __init__(
        self, connection: "Connection", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._connection, self._reader, self._writer = connection, reader, writer
        self._waiting: deque[bytes] = deque()  # read, and not passed on yet; empty: the end
        self._holding = False
        self._moved = asyncio.Event()
        self.held = 0
        """Bytes that wait here."""
        self.reset_after: int | None = None
        """Bytes still to be passed on, then the connection is reset."""

    def hold(self) -> None:
        """Pass nothing on, the end of the connection included."""
        self._holding = True

    def release(self) -> None:
        """Pass on what has been held, and what comes."""
        self._holding = False
        self._moved.set()

    async def read(self) -> None:
        """Read until the near side ends."""
        while data := await self._reader.read(CHUNK):
            self._waiting.append(data)
            self.held += len(data)
            self._announce()
            await self._until(lambda: self.held < MOST)
        self._waiting.append(b"")
        self._announce()

    async def write(self) -> None:
        """Pass on, until the end has been passed on."""
        proxy = self._connection.proxy
        while True:
            await self._until(lambda: bool(self._waiting) and not self._holding)
            if not self._waiting[0]:
                break
            data = self._waiting.popleft()
            if pause := proxy.delay + (len(data) / proxy.rate if proxy.rate else 0.0):
                await asyncio.sleep(pause)
                await self._until(lambda: not self._holding)
            if not await self._pass(data):
                return
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def _until(self, there: Callable[[], bool]) -> None:
        while not there():
            self._moved.clear()
            await self._moved.wait()

    def _announce(self) -> None:
        self._moved.set()
        self._connection.proxy.changed()

    async def _pass(self, data: bytes) -> bool:
        """Whether the connection goes on."""
        left = self.reset_after
        whole = left is None or len(data) < left
        if not (self._connection.stranded and self is self._connection.down):  # nobody is there any more
            self._writer.write(data if whole else data[:left])
            await self._writer.drain()
        self.held -= len(data)
        if left is not None:
            self.reset_after = left - len(data)
        if not whole:
            self._connection.cut(reset=True)
        self._announce()
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
        """The directions that are meant: `up`, to the server, `down`, or None: both."""
        return [lane for name, lane in (("up", self.up), ("down", self.down)) if way in (None, name)]

    async def run(self) -> None:
        """Carry until both sides have ended, or one has failed."""
        lanes = [
            asyncio.create_task(work) for lane in (self.up, self.down) for work in (lane.read(), lane.write())
        ]
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
