"""All ports on one database file."""

from collections.abc import Callable
from typing import Final, Protocol

import apsw

from duolink.engines.base import Engines, MailboxLimits
from duolink.engines.memory import Clock, MemoryBus, MemoryLog, Schedule
from duolink.engines.sqlite.database import Database, refusal
from duolink.engines.sqlite.log import SqliteLog
from duolink.engines.sqlite.mailbox import SqliteMailbox, read_totals
from duolink.engines.sqlite.registry import SqliteRegistry
from duolink.engines.sqlite.writer import Reader, Transactions, Writer

SWEEP_EVERY: Final = 30.0
"""Seconds between two looks at what time has taken; each is bounded, and goes on where the last one ended."""

ACKNOWLEDGE_EVERY: Final = 0.5
"""Seconds that an acknowledgement of a mailbox waits at most for something else to be written with: it is to
be durable within one second."""


class Runner(Protocol):
    """Where a database's work is done: `Threads`, or `Inline`."""

    @property
    def schedule(self) -> Schedule:
        """When what needs no disk is done."""
        ...

    def writer(
        self,
        transactions: Transactions,
        on_problem: Callable[[str], None],
        on_recovered: Callable[[], None],
    ) -> Writer:
        """Make the writer."""
        ...

    def reader(self, database: Database) -> Reader:
        """Make the reader. Raises `apsw.Error`, `DatabaseError`."""
        ...

    def every(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call the action again and again; return what ends it."""
        ...


def _ignore_problem(text: str) -> None:
    pass


def _ignore() -> None:
    pass


def _always(name: str) -> bool:
    return True


def sqlite_engines(
    path: str,
    *,
    clock: Clock,
    new_epoch: Callable[[], str],
    runner: Runner,
    limits: MailboxLimits = MailboxLimits(),  # noqa: B008 - it is a tuple
    is_durable: Callable[[str], bool] = _always,
    on_problem: Callable[[str], None] = _ignore_problem,
    on_recovered: Callable[[], None] = _ignore,
    vfs: str = "",
) -> Engines:
    """Open (or make) the database and return the ports on it. Raises `DatabaseError`.

    `new_epoch` draws a random name; logs of channels that are not `is_durable` are in memory. `on_problem`
    and `on_recovered` hear of a disk that fails, and that works again.
    """
    database = Database(path, vfs=vfs)
    try:
        _initialize(database.writer, clock, new_epoch)
        totals = read_totals(database.writer)
        reader = runner.reader(database)
    except BaseException as error:
        database.close()
        if isinstance(error, apsw.Error):
            raise refusal(path, error) from None
        raise

    def recovered() -> None:
        registry.recovered()
        on_recovered()

    writer = runner.writer(Transactions(database), on_problem, recovered)
    registry = SqliteRegistry(writer, reader, clock=clock)
    log = SqliteLog(
        writer,
        reader,
        clock=clock,
        new_epoch=new_epoch,
        memory=MemoryLog(clock, new_epoch, runner.schedule),
        is_durable=is_durable,
    )

    mailbox = SqliteMailbox(writer, reader, clock=clock, limits=limits, totals=totals)

    def sweep() -> None:
        log.sweep()
        registry.sweep(limits.forget_after)
        mailbox.sweep()

    timers = runner.every(SWEEP_EVERY, sweep), runner.every(ACKNOWLEDGE_EVERY, mailbox.turn)

    def close() -> None:
        for stop in timers:
            stop()
        mailbox.close()
        reader.close()
        writer.close()
        database.close()

    return Engines(
        bus=MemoryBus(runner.schedule),
        log=log,
        registry=registry,
        mailbox=mailbox,
        durable=True,
        problem=lambda: writer.problem,
        close=close,
    )


def _initialize(db: apsw.Connection, clock: Clock, new_epoch: Callable[[], str]) -> None:
    """Give a new database its epoch."""
    if db.execute("SELECT count(*) FROM meta WHERE name = 'epoch'").get:
        return
    now = clock.wall_ms()
    facts = ("epoch", new_epoch(), "epoch_since", now, "keys_since", now)
    db.execute("INSERT INTO meta VALUES (?, ?), (?, ?), (?, ?)", facts)
