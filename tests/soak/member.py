"""One of the clients of a soak: it talks with its peers, follows rooms, and is churned."""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from typing import Any

import duolink
from duolink import Message, Publication, Unsettled
from duolink.client.message import Sent

from ..faults.clients import Mortal
from .ledger import Ledger

PADS = tuple("x" * size for size in (10, 40, 200, 1000))


class Talk:
    """What a client sends to one address, per second."""

    def __init__(self, to: str, rate: float, absent: bool = False) -> None:
        self.to, self.rate, self.absent = to, rate, absent


class Room:
    """A channel, and what its one publisher was told of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.published = 0
        """The offset of what was published last."""
        self.state: dict[str, tuple[int, int]] = {}
        """Name → (version, value) of what was set last."""


class Member(Mortal):
    """One life of a client: sends until it is killed or leaves, and checks what it takes."""

    def __init__(self, seat: "Seat", life: int) -> None:
        super().__init__(seat.name)
        self.seat, self.life = seat, life
        self.ledger = seat.ledger
        self._here: dict[str, int] = {}
        self._sending: list[asyncio.Task[None]] = []
        self._hearing: list[asyncio.Task[None]] = []
        self.rooms: dict[str, duolink.Subscription] = {}
        self.offsets: dict[str, int] = {}
        self.unsafe: set[str] = set()
        """The runs of which something has been sent that is not known to be safe."""
        self.last = time.monotonic()
        """When it took a message last."""

    async def start(self, port: int) -> None:
        """See `Mortal.start`; then do everything it does."""
        await super().start(port)
        self._spawn(self._read())
        for room in self.seat.rooms:
            self._spawn(self._follow(room))

    def speak(self) -> None:
        """Begin to send and to publish."""
        for talk in self.seat.talks:
            queue: deque[tuple[Sent, float]] = deque()
            more = asyncio.Event()
            self._sending.append(self._spawn(self._send(talk, queue, more)))
            self._hearing.append(self._spawn(self._hear(talk, queue, more)))
        if self.seat.publishes is not None:
            self._sending.append(self._spawn(self._publish(self.seat.publishes)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    # --- the end -----------------------------------------------------------------------------

    async def hush(self) -> None:
        """Send no more, and wait until everything sent is safe."""
        self.seat.hushed = True
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        for task in self._hearing:
            await task

    async def kill(self) -> None:
        """See `Mortal.kill`."""
        with self._blamed():
            await super().kill()

    async def leave(self) -> None:
        """Leave in order, with everything safe."""
        with self._blamed():
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)
            with contextlib.suppress(Unsettled):
                await self.stop()

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.ledger.broken(f"{self.name}, life {self.life}: {type(error).__name__}: {error}")

    # --- links -------------------------------------------------------------------------------

    async def _send(self, talk: Talk, queue: deque[tuple[Sent, float]], more: asyncio.Event) -> None:
        link = self.client.link(talk.to, watch=False)
        await asyncio.sleep(random.expovariate(talk.rate))
        while True:
            body = [self.life, random.choice(PADS)]
            queue.append((await link.send(body), time.monotonic()))
            self.ledger.counts["sent"] += 1
            more.set()
            await asyncio.sleep(random.expovariate(talk.rate))

    async def _hear(self, talk: Talk, queue: deque[tuple[Sent, float]], more: asyncio.Event) -> None:
        run = f"{talk.to} from {self.name} {self.life}"
        while queue or not self.seat.hushed:
            if not queue:
                more.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):  # (`wait_for` may swallow being cancelled, bpo-37658)
                        await more.wait()
                continue
            sent, began = queue.popleft()
            self.unsafe.add(run)
            await sent.stored()
            self.unsafe.discard(run)
            if talk.absent and sent.fate == "stored":
                self.seat.waits.append(time.monotonic() - began)
            self.ledger.called_safe(run, sent.seq)

    async def _read(self) -> None:
        async for message in self.client.messages(acks="manual", losses=True):
            if not isinstance(message, Message):
                self.ledger.broken(f"{self.name}, life {self.life}: {message}")
                continue
            life, _ = message.data
            run = f"{message.user or self.name} from {message.sender} {life}"
            self.ledger.took(run, message.seq, self._here)
            self.last = time.monotonic()
            message.ack()

    # --- channels ----------------------------------------------------------------------------

    async def _publish(self, room: Room) -> None:
        channel = self.client.channel(room.name)
        for number in range(1_000_000_000):
            await asyncio.sleep(random.expovariate(1.0))
            if number % 3:
                position = await channel.publish([number, random.choice(PADS)])
                room.published = max(room.published, position.offset)
            else:
                name = f"name {random.randrange(50)}"
                version = await channel.set(name, number)
                room.published = max(room.published, version)
                room.state[name] = version, number

    async def _follow(self, room: Room) -> None:
        async with self.client.channel(room.name).subscribe(state=True) as subscription:
            self.rooms[room.name] = subscription
            last = self.offsets[room.name] = subscription.position.offset
            async for item in subscription:
                if not isinstance(item, Publication) or item.offset != last + 1:
                    self.ledger.broken(f"{self.name} in {room.name}: {item} after {last}")
                last = self.offsets[room.name] = item.offset
                self.ledger.counts["heard"] += 1

    def behind(self) -> list[str]:
        """What was published and has not come, or is not the state."""
        found = []
        for room in self.seat.rooms:
            offset = self.offsets.get(room.name, 0)
            if offset < room.published:
                found.append(f"{self.name} in {room.name}: published {room.published}, heard {offset}")
            state = self.rooms[room.name].state if room.name in self.rooms else {}
            for name, (version, value) in room.state.items():
                entry = state.get(name)
                now = (entry.version, entry.value) if entry is not None else (0, None)
                if now[0] < version or (now[0] == version and now[1] != value):
                    found.append(f"{self.name} in {room.name}: {name} is {now}, set was {version, value}")
        return found


class Seat:
    """A client's name, and who sits there now."""

    def __init__(self, name: str, ledger: Ledger, waits: list[float]) -> None:
        self.name, self.ledger, self.waits = name, ledger, waits
        self.talks: list[Talk] = []
        self.rooms: list[Room] = []
        self.publishes: Room | None = None
        self.hushed = False
        self.life = 0
        self.member: Member | None = None

    async def come(self, port: int, speaks: bool) -> None:
        """Begin a life."""
        self.life += 1
        member = Member(self, self.life)
        await member.start(port)
        self.member = member
        if speaks:
            member.speak()

    async def end(self, how: str) -> None:
        """End it."""
        member, self.member = self.member, None
        if member is not None:
            await (member.leave() if how == "leave" else member.kill())
