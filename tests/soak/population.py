"""A process of clients: `python -m tests.soak.population PORT SIDE CLIENTS`. It is told `go` and `stop` on
standard input, and tells what happened on standard output, one JSON object a second."""

import asyncio
import contextlib
import json
import random
import sys
import time
from typing import Any

import uvloop

from .ledger import Ledger
from .member import Member, Room, Seat, Talk

CHURN = 0.10
"""How many of the clients leave, are cut or are killed in a minute."""

PAIR_RATE = 1.5
ABSENT_RATE = 0.7
"""Messages per second."""

AWAY = 20.0, 60.0
"""Seconds that a client with a mailbox is away."""

SLEEPERS = 0.2
"""How many of the clients are away most of the time."""

ROOMS = 10
QUIET = 1.0
"""Seconds without a message after which a mailbox is empty."""


class Population:
    """Clients of one side; their pairs sit on the other one."""

    def __init__(self, port: int, side: str, clients: int) -> None:
        self.port = port
        self.ledger = Ledger()
        self.waits: list[float] = []
        other = "b" if side == "a" else "a"
        asleep = int(clients * SLEEPERS)
        awake = clients - asleep
        self.rooms = [Room(f"room {side}{number}") for number in range(ROOMS)]
        self.seats = [Seat(f"{side}{number}", self.ledger, self.waits) for number in range(awake)]
        self.sleepers = [
            Seat(f"{side}-away-{number}:phone", self.ledger, self.waits) for number in range(asleep)
        ]
        for number, seat in enumerate(self.seats):
            absent = f"{other}-away-{number % asleep}"
            seat.talks = [
                Talk(f"{other}{number}", PAIR_RATE),
                Talk(f"@{absent}" if number % 4 == 0 else f"{absent}:phone", ABSENT_RATE, absent=True),
            ]
            seat.rooms = [self.rooms[number % ROOMS], self.rooms[(number * 7 + 3) % ROOMS]][: 1 + number % 2]
            if number < ROOMS:
                seat.publishes = self.rooms[number]
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Do what is said, until the input ends."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        for sleeper in self.sleepers:  # who was here once has a mailbox
            await sleeper.come(self.port, speaks=False)
            await sleeper.end("leave")
        for seat in self.seats:
            await seat.come(self.port, speaks=False)
        reporting = asyncio.create_task(self._report())
        while line := await reader.readline():
            if line == b"go\n":
                self._go()
            elif line == b"stop\n":
                await self._stop()
        reporting.cancel()

    def _go(self) -> None:
        for seat in self.seats:
            assert seat.member is not None
            seat.member.speak()
        self._tasks = [asyncio.create_task(self._churn())]
        self._tasks += [asyncio.create_task(self._sleep(sleeper)) for sleeper in self.sleepers]

    async def _churn(self) -> None:
        while await self._pause(random.expovariate(CHURN * len(self.seats) / 60)):
            seat = random.choice(self.seats)
            what = random.choice(("leave", "cut", "kill"))
            self.ledger.counts[what] += 1
            assert seat.member is not None
            if what == "cut":
                seat.member.client.cut()
            else:
                await seat.end(what)
                await seat.come(self.port, speaks=True)

    async def _sleep(self, seat: Seat) -> None:
        while await self._pause(random.uniform(*AWAY)):
            await seat.come(self.port, speaks=False)
            member = seat.member
            assert member is not None
            until = time.monotonic() + 10 * QUIET
            while time.monotonic() < min(member.last + QUIET, until):  # noqa: ASYNC110 - silence tells nobody
                await asyncio.sleep(QUIET / 4)
            self.ledger.counts["drains"] += 1
            await seat.end(random.choice(("leave", "leave", "kill")))

    async def _pause(self, seconds: float) -> bool:
        """Wait; tell whether to go on."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return not self._stopping.is_set()

    async def _stop(self) -> None:
        """Send no more; have everybody here to take what there is."""
        self._tell({"behind": ["somebody comes or goes"]})
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        for seat in (*self.seats, *self.sleepers):
            if seat.member is None:
                await seat.come(self.port, speaks=False)
        members = [seat.member for seat in self.seats if seat.member is not None]
        hushing = asyncio.gather(*(self._hush(member) for member in members))
        while behind := [what for member in members for what in (*member.unsafe, *member.behind())]:
            self._tell({"behind": behind[:10]})
            await asyncio.sleep(1.0)
        await hushing
        self._tell({"safe": self.ledger.safe})
        self._tasks = [asyncio.create_task(self._tell_taken())]

    async def _hush(self, member: Member) -> None:
        try:
            await member.hush()
        except Exception as error:
            self.ledger.broken(f"{member.name}, life {member.life}: {type(error).__name__}: {error}")

    async def _tell_taken(self) -> None:
        while True:
            self._tell({"taken": self.ledger.taken})
            await asyncio.sleep(1.0)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            waits = sorted(self.waits)
            self.waits.clear()
            here = sum(seat.member is not None for seat in (*self.seats, *self.sleepers))
            self._tell({"counts": self.ledger.counts, "violations": self.ledger.violations,
                        "here": here, "waits": waits})  # fmt: skip

    def _tell(self, what: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Be one."""
    port, side, clients = sys.argv[1:]
    uvloop.run(Population(int(port), side, int(clients)).run())


if __name__ == "__main__":
    main()
