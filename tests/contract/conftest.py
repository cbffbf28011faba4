"""The engines every suite of this folder runs against."""

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from duolink.engines.base import Engines, MailboxLimits
from duolink.engines.memory import AtOnce, Late, memory_engines
from duolink.engines.sqlite.database import open_read_only
from duolink.engines.sqlite.engines import sqlite_engines
from duolink.engines.sqlite.inline import Inline
from duolink.engines.sqlite.invariants import check
from duolink.engines.sqlite.threads import Threads

TIMEOUT = 20.0
"""Seconds that a real disk may take."""


class ManualClock:
    """Time that a test moves by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return 1_800_000_000_000 + int(self.seconds * 1000)


class Bench:
    """An engine under test: `ask` waits for its one answer, `settle` for everything under way.

    `begin` starts it anew, with other limits of mailboxes; an engine that keeps files finds them again.
    """

    def __init__(
        self, make: Callable[[ManualClock, MailboxLimits], Engines], settle: Callable[[], None]
    ) -> None:
        self.clock = ManualClock()
        self.settle = settle
        self._make = make
        self.engines = make(self.clock, MailboxLimits())

    def begin(self, limits: MailboxLimits) -> None:
        self.engines.close()
        self.engines = self._make(self.clock, limits)

    def ask(self, request: Callable[..., None], *arguments: Any) -> Any:
        answers: list[Any] = []
        request(*arguments, answers.append)
        self.settle()
        assert len(answers) == 1
        return answers[0]


class Watched(Threads):
    """Threads that know when everything has been answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.loop = loop
        self.pending = 0
        self._quiet = asyncio.Event()

    def writer(self, *arguments: Any) -> Any:
        self.pending = 0  # an engine that was closed answers nothing any more
        writer: Any = super().writer(*arguments)
        submit = writer.submit
        writer.submit = lambda part, body, done, *more: submit(part, body, self._watch(done), *more)
        return writer

    def reader(self, *arguments: Any) -> Any:
        reader: Any = super().reader(*arguments)
        read = reader.read
        reader.read = lambda work, done: read(work, self._watch(done))
        return reader

    def _watch(self, done: Callable[[Any], None]) -> Callable[[Any], None]:
        self.pending += 1

        def answer(result: Any) -> None:
            done(result)
            self.pending -= 1
            if not self.pending:
                self._quiet.set()

        return answer

    def settle(self) -> None:
        while self.pending:
            self._quiet.clear()
            self.loop.run_until_complete(asyncio.wait_for(self._quiet.wait(), TIMEOUT))


def _memory(path: Path, schedule: AtOnce | Late) -> Iterator[Bench]:
    names = random.Random(1)

    def make(clock: ManualClock, limits: MailboxLimits) -> Engines:
        return memory_engines(clock, lambda: f"{names.random()}", schedule, limits)

    yield Bench(make, _settle(schedule))


def _sqlite(path: Path, schedule: AtOnce | Late) -> Iterator[Bench]:
    names = random.Random(1)

    def make(clock: ManualClock, limits: MailboxLimits) -> Engines:
        return sqlite_engines(
            str(path / "test.db"),
            clock=clock,
            new_epoch=lambda: f"{names.random()}",
            runner=Inline(schedule),
            limits=limits,
        )

    bench = Bench(make, _settle(schedule))
    yield bench
    bench.engines.close()
    _check(path)


def _check(path: Path) -> None:
    """Whatever a test did, the database is in order."""
    with closing(open_read_only(str(path / "test.db"))) as db:
        assert not [fault for _, faults in check(db) for fault in faults]


def _settle(schedule: AtOnce | Late) -> Callable[[], None]:
    return schedule.run if isinstance(schedule, Late) else lambda: None


def _sqlite_threads(path: Path) -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    watched, names = Watched(loop), random.Random(1)

    def make(clock: ManualClock, limits: MailboxLimits) -> Engines:
        return sqlite_engines(
            str(path / "test.db"),
            clock=clock,
            new_epoch=lambda: f"{names.random()}",
            runner=watched,
            limits=limits,
        )

    bench = Bench(make, watched.settle)
    yield bench
    bench.engines.close()
    loop.close()
    _check(path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("duolink")]


ENGINES: dict[str, Callable[[Path], Iterator[Bench]]] = {
    "memory": lambda path: _memory(path, AtOnce()),
    "memory-late": lambda path: _memory(path, Late(random.Random(7))),
    "sqlite": lambda path: _sqlite(path, AtOnce()),
    "sqlite-late": lambda path: _sqlite(path, Late(random.Random(7))),
    "sqlite-threads": _sqlite_threads,
}


@pytest.fixture(params=ENGINES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from ENGINES[request.param](tmp_path)
