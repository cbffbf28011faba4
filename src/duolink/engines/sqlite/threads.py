"""A database on threads of its own: one writes, two read, and the loop's thread hears of it."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import Any, Final

import apsw

from duolink.engines.base import Done, Failure
from duolink.engines.memory import AtOnce
from duolink.engines.sqlite.database import Database, DatabaseError
from duolink.engines.sqlite.part import Part
from duolink.engines.sqlite.writer import (
    MAX_BATCH,
    MAX_BATCH_SIZE,
    MAX_WAITING,
    MAX_WAITING_SIZE,
    RETRY_EVERY,
    Peek,
    Request,
    Result,
    Transactions,
    look,
)

READERS: Final = 2
"""Threads that read: one long page from a slow disk does not keep everybody else waiting."""

CLOSE_TIMEOUT: Final = 10.0
"""Seconds a close waits for the disk; a thread that hangs in it is left behind."""


class Threads:
    """Runs a database beside an event loop. All calls, and all answers, are on the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.schedule = AtOnce()
        self._loop = loop

    def writer(
        self,
        transactions: Transactions,
        on_problem: Callable[[str], None],
        on_recovered: Callable[[], None],
    ) -> "ThreadWriter":
        """Make and start the writer."""
        return ThreadWriter(transactions, self._loop, on_problem, on_recovered)

    def reader(self, database: Database) -> "ThreadReader":
        """Make and start the reader. Raises `apsw.Error`, `DatabaseError`."""
        return ThreadReader(database, self._loop)

    def every(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call the action again and again; return what ends it."""

        timers: list[asyncio.TimerHandle] = []

        def turn() -> None:
            timers[:] = [self._loop.call_later(seconds, turn)]
            action()

        timers.append(self._loop.call_later(seconds, turn))
        return lambda: timers[0].cancel()


class ThreadWriter:
    """`Writer` with a thread: what is submitted while a commit runs is the next transaction.

    A request costs the loop one append, a loop turn with requests one callback, a batch one call back.
    """

    def __init__(
        self,
        transactions: Transactions,
        loop: asyncio.AbstractEventLoop,
        on_problem: Callable[[str], None],
        on_recovered: Callable[[], None],
    ) -> None:
        self._transactions = transactions
        self._loop = loop
        self._on_problem, self._on_recovered = on_problem, on_recovered
        self._waiting: deque[Request] = deque()  # appended by the loop, taken from by the thread
        self._size = 0  # bytes asked for and not answered yet
        self._turn = False  # whether this loop turn will wake the thread
        self._asleep = False
        self._bell = threading.Lock()  # released once to wake the thread
        self._bell.acquire()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="duolink-writer", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """See `Writer.problem`."""
        return self._transactions.problem

    def submit(self, part: Part, body: Any, done: Done[Any], size: int = 0, peek: Peek | None = None) -> None:
        """See `Writer.submit`."""
        if self._closing:
            return
        if len(self._waiting) >= MAX_WAITING or self._size + size > MAX_WAITING_SIZE:
            done(Failure("too much is waiting for the disk"))
            return
        self._size += size
        self._waiting.append(Request(part, body, done, size, peek))
        if not self._turn:  # at the end of the turn: what comes in it is one transaction
            self._turn = True
            self._loop.call_soon(self._end_of_turn)

    def close(self) -> None:
        """See `Writer.close`."""
        if self._closing:
            return
        self._closing = True
        self._wake()
        self._thread.join(CLOSE_TIMEOUT)

    # --- on the loop's thread ------------------------------------------------------------------

    def _end_of_turn(self) -> None:
        self._turn = False
        self._wake()

    def _wake(self) -> None:
        # The thread sets `_asleep`, and then looks for requests once more; here it is the other way
        # round. So at least one of the two notices the other.
        if self._asleep:
            self._asleep = False
            with suppress(RuntimeError):  # it woke by itself, and the bell still rings
                self._bell.release()

    def _answer(self, batch: list[Request], answers: list[Any]) -> None:
        for (_, _, done, size, _), answer in zip(batch, answers, strict=True):
            self._size -= size
            if self._closing:
                continue
            try:
                done(answer)
            except Exception as error:
                self._report(error)

    def _tell(self, callback: Callable[[], None]) -> None:
        if not self._closing:
            callback()

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "an answer of the database", "exception": error})

    # --- on the writer's thread ----------------------------------------------------------------

    def _run(self) -> None:
        transactions = self._transactions
        retry_at = 0.0
        while True:
            batch = self._take()
            if batch:
                was = transactions.problem
                answers = transactions.write(batch)
                if transactions.problem and not was:
                    retry_at = self._trouble()
                self._call(self._answer, batch, answers)
                if transactions.defect is not None:
                    self._call(self._report, transactions.defect)
                    transactions.defect = None
                if not transactions.problem and not transactions.checkpoint():
                    retry_at = self._trouble()
            elif self._closing:
                return
            else:
                self._sleep(retry_at)
            if transactions.problem and monotonic() >= retry_at:
                retry_at = monotonic() + RETRY_EVERY
                if transactions.recover():
                    self._call(self._tell, self._on_recovered)

    def _trouble(self) -> float:
        """Tell of a new problem; return when to try again."""
        self._call(self._tell, partial(self._on_problem, self._transactions.problem))
        return monotonic() + RETRY_EVERY

    def _take(self) -> list[Request]:
        batch: list[Request] = []
        size = 0
        waiting = self._waiting
        while waiting and len(batch) < MAX_BATCH and size < MAX_BATCH_SIZE:
            request = waiting.popleft()
            batch.append(request)
            size += request.size
        return batch

    def _sleep(self, retry_at: float) -> None:
        """Wait for requests; with a problem, until it is time to try again."""
        self._asleep = True
        if not self._waiting and not self._closing:
            trouble = self._transactions.problem
            self._bell.acquire(timeout=max(retry_at - monotonic(), 0.0) if trouble else -1)
        self._asleep = False

    def _call(self, callback: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(callback, *arguments)


class ThreadReader:
    """`Reader` with threads, which take turns."""

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        self._database = database
        self._loop = loop
        self._closing = False
        self._jobs: SimpleQueue[tuple[Callable[[apsw.Connection], Any], Done[Any]] | None] = SimpleQueue()
        connections: list[apsw.Connection] = []
        try:
            for _ in range(READERS):
                connections.append(database.reader())
        except BaseException:
            for db in connections:
                db.close(True)
            raise
        self._threads = [
            threading.Thread(target=self._run, args=(db,), name="duolink-reader", daemon=True)
            for db in connections
        ]
        for thread in self._threads:
            thread.start()

    def read(self, work: Callable[[apsw.Connection], Result], done: Done[Result]) -> None:
        """See `Reader.read`."""
        if not self._closing:
            self._jobs.put((work, done))

    def close(self) -> None:
        """See `Reader.close`."""
        if self._closing:
            return
        self._closing = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(CLOSE_TIMEOUT)

    def _answer(self, done: Done[Any], result: Any) -> None:
        if not self._closing:
            done(result)

    def _run(self, db: apsw.Connection) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                if self._closing:
                    continue
                work, done = job
                result: Any
                try:
                    result = look(db, work)
                except Exception as error:
                    result = Failure("internal error")
                    self._call(self._report, error)
                self._call(self._answer, done, result)
                if isinstance(result, Failure):
                    db = self._reopened(db)
        finally:
            with suppress(apsw.Error):
                db.close(True)

    def _reopened(self, old: apsw.Connection) -> apsw.Connection:
        """After an error, nothing that a connection remembers is trusted."""
        try:
            db = self._database.reader()
        except (apsw.Error, DatabaseError):
            return old
        with suppress(apsw.Error):
            old.close(True)
        return db

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "a read of the database", "exception": error})

    def _call(self, callback: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(callback, *arguments)
