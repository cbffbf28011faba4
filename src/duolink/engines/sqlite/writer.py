"""How parts write: the ports `Writer` and `Reader`, and the one place where transactions are made."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import apsw

from duolink.engines.base import Done, Failure
from duolink.engines.sqlite.database import Database, DatabaseError
from duolink.engines.sqlite.part import Part

MAX_BATCH: Final = 2000
"""Requests of one transaction: what takes a few tens of milliseconds, so that an answer does not wait for a
flood to end."""

MAX_BATCH_SIZE: Final = 4 << 20
"""Bytes of one transaction, for the same reason."""

MAX_WAITING: Final = 200_000
"""Requests that wait for the writer; more are refused. Nodes bound what each client may have under way, so
only very many clients and a very slow disk come here together."""

MAX_WAITING_SIZE: Final = 256 << 20
"""Bytes that wait for the writer; more are refused."""

RETRY_EVERY: Final = 1.0
"""Seconds between two tries to write after one has failed."""

CHECKPOINT_PAGES: Final = 2000
"""Pages of the write-ahead log (8 MB) after which it is copied into the database, between two commits. More
make rarer and longer stops, less writing where the same pages change often, and a longer start after
a crash."""

Result = TypeVar("Result")


Peek = Callable[[apsw.Connection], Any]


class Request(NamedTuple):
    """Something a part is to do, and who hears of it. `peek`: see `Writer.submit`."""

    part: Part
    body: Any
    done: Done[Any]
    size: int
    peek: Peek | None = None


class Writer(Protocol):
    """Does requests in their order, many in one transaction."""

    @property
    def problem(self) -> str:
        """Why nothing can be written now, for people; empty while all is well."""
        ...

    def submit(self, part: Part, body: Any, done: Done[Any], size: int = 0, peek: Peek | None = None) -> None:
        """Have the part apply the request. `done` gets the part's answer once it is durable, or a
        `Failure`; in the order of the requests (but a request beyond `MAX_WAITING` fails at once).
        `size`: about how many bytes it writes. `peek`: where nothing can be written, looks for an answer in
        what is there; None: there is none. Call it from the loop's thread."""
        ...

    def close(self) -> None:
        """Write what was submitted, and stop. Nothing is answered any more."""
        ...


class Reader(Protocol):
    """Reads beside the writer, from connections of its own."""

    def read(self, work: Callable[[apsw.Connection], Result], done: Done[Result]) -> None:
        """Call `work` (elsewhere: it touches nothing but the connection and its own arguments) within a
        read transaction, so that it sees one moment, in which everything is there that was answered
        before. `done` gets what it returned, or a `Failure`; in no promised order."""
        ...

    def close(self) -> None:
        """Stop. Nothing is answered any more."""
        ...


class Transactions:
    """Makes batches of requests into transactions, and deals with disks that fail. One thread uses it.

    After an error `problem` says what it was, every batch fails without being tried, and `recover` is to
    be called every `RETRY_EVERY` seconds.
    """

    def __init__(self, database: Database) -> None:
        self.problem = ""
        self.defect: Exception | None = None
        """What is our own fault: a part raised something other than `apsw.Error`."""
        self._database = database
        self._doubtful = False
        self._log_pages = 0
        self._checkpoint_at = CHECKPOINT_PAGES
        self._watch()

    def _watch(self) -> None:
        self._database.writer.set_wal_hook(self._committed)

    def _committed(self, db: apsw.Connection, name: str, pages: int) -> int:
        if pages < self._log_pages:  # the log began again
            self._checkpoint_at = CHECKPOINT_PAGES
        self._log_pages = pages
        return apsw.SQLITE_OK

    def write(self, batch: Sequence[Request]) -> list[Any]:
        """Do all of it in one transaction and return the answers; a `Failure` for each, if it fails."""
        if self.problem:
            return self._unwritten(batch, Failure(self.problem))
        db = self._database.writer
        parts: dict[Part, None] = {}
        committing = False
        try:
            self._database.verify()
            db.execute("BEGIN IMMEDIATE")
            answers: list[Any] = []
            for part, body, *_ in batch:
                parts[part] = None
                answers.append(part.apply(db, body))
            for part in parts:
                part.flush(db)
            committing = True
            db.execute("COMMIT")
        except (apsw.Error, DatabaseError) as error:
            failure = Failure(self._failed(error), uncertain=committing)
        except Exception as error:
            self.defect = error
            failure = Failure("internal error")
        else:
            for part in parts:
                part.committed()
            return answers
        self._roll_back(db)
        for part in parts:
            part.rolled_back()
        return self._unwritten(batch, failure)

    def _unwritten(self, batch: Sequence[Request], failure: Failure) -> list[Any]:
        return [failure if peek is None else self._peek(peek, failure) for _, _, _, _, peek in batch]

    def _peek(self, peek: Peek, failure: Failure) -> Any:
        try:
            answer = look(self._database.writer, peek)
        except Exception as error:
            self.defect = error
            return failure
        return failure if answer is None or isinstance(answer, Failure) else answer

    def _failed(self, error: apsw.Error | DatabaseError) -> str:
        self.problem = describe(error)
        if not isinstance(error, (apsw.FullError, apsw.BusyError)):
            self._doubtful = True
        return self.problem

    def _roll_back(self, db: apsw.Connection) -> None:
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        except apsw.Error as error:
            self._failed(error)

    def checkpoint(self) -> bool:
        """Copy the write-ahead log into the database, if it is time; tell whether all is well. Nobody should
        be waiting for an answer meanwhile that could have been given before."""
        if self._log_pages < self._checkpoint_at:
            return True
        try:
            self._database.writer.wal_checkpoint()
        except (apsw.BusyError, apsw.FullError):
            pass  # what is in the log is safe there; where that cannot grow any more, a commit says so
        except apsw.Error as error:
            self._failed(error)
            return False
        # A reader may have kept the log from beginning again; copying what has been copied helps nobody.
        self._checkpoint_at = self._log_pages + CHECKPOINT_PAGES
        return True

    def recover(self) -> bool:
        """Try whether the disk is well again; tell whether."""
        try:
            self._database.verify()
            if self._doubtful:
                self._start_over()
            db = self._database.writer
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO meta VALUES ('probe', 1) ON CONFLICT DO UPDATE SET value = value + 1")
            db.execute("COMMIT")
        except (apsw.Error, DatabaseError) as error:
            self._failed(error)
            self._roll_back(self._database.writer)
            return False
        self.problem = ""
        return True

    def _start_over(self) -> None:
        """Trust nothing that a failed sync has touched.

        After a failed fsync the kernel drops the changes, or keeps pages that it calls clean and that are not
        on disk; a second fsync then succeeds and proves nothing (https://wiki.postgresql.org/wiki/Fsync_Errors).
        Every frame of the log vouches for those before it, so one such frame would take later commits
        along. This connection still knows where the last good commit ended. So: copy the log up to
        there into the database, synced; begin a new log file; and take a new connection, which
        has no pages cached.
        """
        db = self._database.writer
        self._roll_back(db)
        with suppress(apsw.ConnectionClosedError):  # by an earlier try, of a database that stands alone
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._database.reopen_writer()
        self._watch()
        self._doubtful = False
        self._log_pages = 0
        self._checkpoint_at = CHECKPOINT_PAGES


def describe(error: Exception) -> str:
    """Say for people what keeps the database from working."""
    match error:
        case apsw.FullError():
            return "the disk is full"
        case apsw.CorruptError() | apsw.NotADBError():
            return f"the database is damaged ({error})"
        case apsw.BusyError() | apsw.LockedError():
            return "the database is locked by another program"
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            return "the database cannot be written"
        case apsw.IOError() | apsw.CantOpenError():
            return f"the disk fails ({error})"
        case DatabaseError():
            return str(error)
        case _:
            return f"the database fails ({error})"


def look(db: apsw.Connection, work: Callable[[apsw.Connection], Result]) -> Result | Failure:
    """Do a reader's work in a transaction of its own."""
    try:
        db.execute("BEGIN")
        try:
            return work(db)
        finally:
            if db.in_transaction:
                db.execute("COMMIT")
    except apsw.Error as error:
        return Failure(describe(error))
