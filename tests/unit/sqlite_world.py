"""The durable engine without threads, on a disk in memory: started again and again."""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import apsw
from tests.disk import Disk

from duolink.engines.base import Draft, Engines, MailboxLimits, Retention
from duolink.engines.memory import AtOnce, Schedule
from duolink.engines.sqlite.database import Database
from duolink.engines.sqlite.engines import sqlite_engines
from duolink.engines.sqlite.inline import Inline

KEEP = Retention(100, 3600.0, 1 << 20)
DAY = 86_400.0


class World:
    """`engines` over `disk`, with the clock `monotonic` and `wall_ms` in one hand. Timers fire in `turn`."""

    def __init__(self, schedule: Schedule | None = None, disk: Disk | None = None) -> None:
        self.seconds, self.wall_offset = 1000.0, 1_800_000_000.0
        self.disk = Disk() if disk is None else disk
        self.news: list[str] = []
        self.timers: list[Callable[[], None]] = []
        self.volatile: set[str] = set()
        self.limits = MailboxLimits()
        self.schedule = AtOnce() if schedule is None else schedule
        self._names = random.Random(1)
        self._open()

    def _open(self) -> None:
        self.timers.clear()
        self.engines: Engines = sqlite_engines(
            "test.db",
            clock=self,
            new_epoch=lambda: f"{self._names.getrandbits(60):015x}",
            runner=Inline(self.schedule, lambda _, action: self.timers.append(action)),
            limits=self.limits,
            is_durable=lambda name: name not in self.volatile,
            on_problem=self.news.append,
            on_recovered=lambda: self.news.append("recovered"),
            vfs=self.disk.vfs,
        )

    def monotonic(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return int((self.wall_offset + self.seconds) * 1000)

    def restart(self, away: float = 10.0, cut: bool = False) -> None:
        """End the process, or cut the power, and start again. The monotonic clock begins anew."""
        if cut:
            self.disk.cut()
            with suppress(apsw.Error):
                self.engines.close()
        else:
            self.engines.close()
        self.wall_offset += self.seconds + away
        self.seconds = 5.0
        self.wall_offset -= self.seconds
        self._open()

    def turn(self) -> None:
        """Let every timer fire once."""
        timers, self.timers[:] = list(self.timers), []
        for action in timers:
            action()

    def ask(self, request: Callable[..., None], *arguments: Any) -> Any:
        answers: list[Any] = []
        request(*arguments, answers.append)
        assert len(answers) == 1
        return answers[0]

    def append(self, data: bytes = b"1", channel: str = "room", keep: Retention = KEEP, **draft: Any) -> Any:
        return self.ask(self.engines.log.append, channel, Draft("alice", data, **draft), keep)

    def read(self, after: int = 0, channel: str = "room", epoch: str = "", limit: int = 1000) -> Any:
        return self.ask(self.engines.log.read, channel, epoch, after, limit)

    def query(self, statement: str) -> Any:
        """Look into the file, which nothing else has open then."""
        self.engines.close()
        database = Database("test.db", vfs=self.disk.vfs)
        try:
            return database.writer.execute(statement).get
        finally:
            database.close()
            self._open()
