"""Clients in the process of the test, which can be killed as a process can: for who must know what a sender
was told before its end, and for tests that cannot afford a process for each."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from duolink import Message, MessagesLost, Options, Refused, Unsettled
from duolink.client.client import Client
from duolink.client.message import Sent
from duolink.client.transport import TransportUser, dialler

from .process import TIMEOUT

HASTY = Options(backoff_initial=0.05, backoff_cap=0.2, first_tries=1000)


class Mortal:
    """A client, and the tasks that use it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.client: Client
        self._dead = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, port: int) -> None:
        """Connect; the server may not be there yet."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                self.client = Client(f"ws://127.0.0.1:{port}", self.name, options=HASTY, dial=self._dial)
                self._open = dialler(self.client.address, None)
                try:
                    return await self.client.open()
                except Refused as refused:
                    # A process takes longer to begin than a server to hear of the end of the one before.
                    if refused.error != "duplicate":
                        raise

    async def _dial(self, user: TransportUser) -> None:
        if self._dead:
            raise OSError("the dead do not call")
        await self._open(user)

    async def kill(self) -> None:
        """End it so that the server cannot tell it from a killed process: the socket ends, without a word."""
        self._dead = True
        self.client.cut()
        await self._end_tasks()
        self.client.close_timeout = 0.0
        with contextlib.suppress(Unsettled):
            await self.client.close()

    async def stop(self) -> None:
        """Leave in order."""
        await self._end_tasks()
        await self.client.close()

    def check(self) -> None:
        """Raise what has ended one of its tasks, if anything has."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        for end in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(end, Exception):
                raise end


class Reader(Mortal):
    """A receiver; a message is delivered when it stands in `printed`."""

    def __init__(self, seen: Callable[[], None], name: str) -> None:
        super().__init__(name)
        self.printed: list[dict[str, object]] = []
        self.cut_off: list[tuple[str, int, int]] = []
        """(Sender, first, last) of what is lost because its sender has another life."""
        self._seen = seen

    async def start(self, port: int) -> None:
        """See `Mortal.start`; then take what comes."""
        await super().start(port)
        self._tasks.append(asyncio.create_task(self._read()))

    async def _read(self) -> None:
        async for message in self.client.messages(acks="manual", losses=True):
            if isinstance(message, MessagesLost) and message.reason == "sender_restarted":
                self.cut_off.append((message.peer, message.first, message.last))
                continue
            if not isinstance(message, Message):
                raise AssertionError(f"{self.name}: {message}")
            self.printed.append({"from": message.sender, "seq": message.seq, "data": message.data})
            message.ack()
            self._seen()


class Teller(Mortal):
    """A sender who passes on each thing it is told: numbers up to here are safe, or delivered."""

    def __init__(
        self,
        lines: Iterable[str],
        pace: Callable[[int], Awaitable[None]],
        name: str,
        to: str,
        safe: Callable[[int], None],
        delivered: Callable[[int, float], None],
    ) -> None:
        super().__init__(name)
        self.lines, self.pace, self.to = lines, pace, to
        self._safe, self._delivered = safe, delivered
        self._unsafe: deque[Sent] = deque()
        self._undelivered: deque[Sent] = deque()
        self._more = asyncio.Event()
        self._all = False

    async def start(self, port: int) -> None:
        """See `Mortal.start`; then send, and listen to what becomes of it."""
        await super().start(port)
        self._sending, self._hearing, self._waiting = (
            asyncio.create_task(work) for work in (self._send(), self._hear(), self._wait())
        )
        self._tasks += [self._sending, self._hearing, self._waiting]

    async def _send(self) -> None:
        link = self.client.link(self.to)
        for line in self.lines:
            sent = await link.send(line)
            await self.pace(sent.seq + 1)
            self._unsafe.append(sent)
            self._undelivered.append(sent)
            self._more.set()
        self._all = True
        self._more.set()

    async def _hear(self) -> None:
        async for sent in self._each(self._unsafe):
            await sent.stored()
            self._safe(sent.seq)

    async def _wait(self) -> None:
        async for sent in self._each(self._undelivered):
            await sent.delivered()
            self._delivered(sent.seq, time.monotonic())

    async def _each(self, queue: deque[Sent]) -> AsyncIterator[Sent]:
        while queue or not self._all:
            if queue:
                yield queue.popleft()
            else:
                self._more.clear()
                await self._more.wait()

    async def all_safe(self) -> None:
        """Wait until everything is safe."""
        await asyncio.gather(self._sending, self._hearing)

    async def all_delivered(self) -> None:
        """Wait until everything is delivered."""
        await asyncio.gather(*self._tasks)
