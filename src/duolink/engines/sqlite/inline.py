"""A database without threads: the work is done in the caller's, when a schedule says so. For tests that must
be deterministic, and for simulations."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import apsw

from duolink.engines.base import Done, Failure
from duolink.engines.memory import Schedule
from duolink.engines.sqlite.database import Database
from duolink.engines.sqlite.part import Part
from duolink.engines.sqlite.writer import MAX_BATCH, RETRY_EVERY, Peek, Request, Result, Transactions, look


def _nothing() -> None:
    pass


class Inline:
    """Runs a database in the caller's thread. `after` (seconds, action) is the timer of its world; without
    one a failed disk is tried again at the next request, and nothing is swept."""

    def __init__(
        self, schedule: Schedule, after: Callable[[float, Callable[[], None]], None] | None = None
    ) -> None:
        self.schedule = schedule
        self._after = after

    def writer(
        self,
        transactions: Transactions,
        on_problem: Callable[[str], None],
        on_recovered: Callable[[], None],
    ) -> "InlineWriter":
        """Make the writer."""
        return InlineWriter(transactions, self.schedule, self._after, on_problem, on_recovered)

    def reader(self, database: Database) -> "InlineReader":
        """Make the reader."""
        return InlineReader(database, self.schedule)

    def every(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call the action again and again; return what ends it."""
        after, going = self._after, [True]
        if after is None:
            return _nothing

        def turn() -> None:
            if going:
                action()
                after(seconds, turn)

        after(seconds, turn)
        return going.clear


class InlineWriter:
    """`Writer` in the caller's thread. What waits when the schedule comes to it is one batch."""

    def __init__(
        self,
        transactions: Transactions,
        schedule: Schedule,
        after: Callable[[float, Callable[[], None]], None] | None,
        on_problem: Callable[[str], None],
        on_recovered: Callable[[], None],
    ) -> None:
        self._transactions = transactions
        self._schedule = schedule
        self._after = after
        self._on_problem, self._on_recovered = on_problem, on_recovered
        self._waiting: list[Request] = []
        self._closed = False

    @property
    def problem(self) -> str:
        """See `Writer.problem`."""
        return self._transactions.problem

    def submit(self, part: Part, body: Any, done: Done[Any], size: int = 0, peek: Peek | None = None) -> None:
        """See `Writer.submit`."""
        self._waiting.append(Request(part, body, done, size, peek))
        self._schedule.submit("write", self._work)

    def retry(self) -> None:
        """Look whether a disk that failed is well again."""
        if self.problem and not self._closed:
            if self._transactions.recover():
                self._on_recovered()
            elif self._after is not None:
                self._after(RETRY_EVERY, self.retry)

    def _work(self) -> Callable[[], None]:
        if self._closed or not self._waiting:
            return _nothing
        if self._after is None:
            self.retry()
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        was = self.problem
        answers = self._transactions.write(batch)
        if not self.problem:
            self._transactions.checkpoint()
        if self._transactions.defect is not None:
            raise self._transactions.defect
        failed = bool(self.problem) and not was
        return partial(self._answer, batch, answers, failed)

    def _answer(self, batch: list[Request], answers: list[Any], failed: bool) -> None:
        if self._closed:
            return
        if failed:
            self._on_problem(self.problem)
            if self._after is not None:
                self._after(RETRY_EVERY, self.retry)
        for request, answer in zip(batch, answers, strict=True):
            request.done(answer)

    def close(self) -> None:
        """See `Writer.close`."""
        if not self._closed:
            self._closed = True
            if self._waiting:
                self._transactions.write(self._waiting)


class InlineReader:
    """`Reader` in the caller's thread."""

    def __init__(self, database: Database, schedule: Schedule) -> None:
        self._database = database
        self._schedule = schedule
        self._db = None if database.alone else database.reader()
        self._closed = False

    def read(self, work: Callable[[apsw.Connection], Result], done: Done[Result]) -> None:
        """See `Reader.read`."""

        def run() -> Callable[[], None]:
            if self._closed:
                return _nothing
            result = look(self._db or self._database.writer, work)
            return partial(self._answer, done, result)

        self._schedule.submit("", run)

    def _answer(self, done: Done[Result], result: Result | Failure) -> None:
        if not self._closed:
            done(result)

    def close(self) -> None:
        """See `Reader.close`."""
        self._closed = True
        if self._db is not None:
            with suppress(apsw.Error):
                self._db.close()
