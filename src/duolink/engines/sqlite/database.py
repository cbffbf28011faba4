"""The file: who may open it, how, and the one sentence that says why not."""

import errno
import fcntl
import os
from contextlib import suppress
from typing import Final

import apsw

from duolink.engines.sqlite import schema

PAGE_SIZE: Final = 4096
"""SQLite's default and the page of most file systems. A commit writes whole pages, so larger ones cost small
batches more."""

WAL_LEFT: Final = 64 << 20
"""Bytes of log file that stay on disk for reuse after a burst (writing into a file that has its blocks
already is cheaper to sync); usually a checkpoint comes long before."""

WRITE_CACHE: Final = 32 << 20
"""Bytes of pages the writer keeps: its b-trees' upper levels and newest leaves."""

READ_CACHE: Final = 8 << 20
"""Bytes of pages each reader keeps; the system's own cache stands behind it."""

BUSY: Final = 5000
"""Milliseconds to wait for a lock. Nobody else writes; what is met are checks, backups, and recoveries."""

STATEMENTS: Final = 400
"""Prepared statements kept: a few dozen, and up to nine sizes of each that writes rows."""

_WANTED: Final = apsw.SQLITE_OPEN_READWRITE


class DatabaseError(Exception):
    """The database cannot be used. `str()` is one sentence for the operator."""


class Database:
    """One database file, held alone by this process: a second server is refused.

    The lock is on a file beside it (`…-lock`, which stays; it says who), because SQLite's own locks would
    keep out `duolink db check` too, and because closing any descriptor of the database file itself
    would let go of SQLite's locks (https://www.sqlite.org/howtocorrupt.html §2.2).

    With a `vfs` (an apsw name: a disk that a test invented) there is one connection, for reading too, no
    shared memory and no lock file. Making one opens, checks and migrates; raises `DatabaseError`.
    """

    def __init__(self, path: str, *, vfs: str = "") -> None:
        self.path = path if vfs else os.path.realpath(path)
        self.alone = bool(vfs)
        self._vfs = vfs
        self._lock = -1 if vfs else _lock(self.path)
        try:
            self.writer = self._open()
            self._files = self._look()
        except BaseException:
            self._unlock()
            raise

    def _open(self) -> apsw.Connection:
        if not self.alone:
            _create(self.path)
        try:
            db = self._connect(WRITE_CACHE)
            try:
                identify(db, self.path)
                schema.migrate(db)
            except BaseException:
                db.close(True)
                raise
        except apsw.Error as error:
            raise refusal(self.path, error) from None
        return db

    def verify(self) -> None:
        """Make sure that file and log are still those that were opened. Raises `DatabaseError`.

        What is written into a file that was removed, or that another one has replaced, succeeds, and nobody
        finds it again."""
        if self._look() != self._files:
            raise DatabaseError(
                "the database file or its log was removed or replaced: put it back, or restart the server"
            )

    def _look(self) -> tuple[tuple[int, int], ...]:
        """Which files there are now: file and log, by device and inode."""
        if self.alone:
            return ()
        found = []
        for name in (self.path, f"{self.path}-wal"):
            with suppress(OSError):
                status = os.stat(name)
                found.append((status.st_dev, status.st_ino))
        return tuple(found)

    def _connect(self, cache: int) -> apsw.Connection:
        flags = _WANTED | (apsw.SQLITE_OPEN_CREATE if self.alone else 0)
        db = apsw.Connection(self.path, flags, vfs=self._vfs or None, statementcachesize=STATEMENTS)
        try:
            db.set_busy_timeout(BUSY)
            if self.alone:
                db.pragma("locking_mode", "exclusive")
            db.pragma("mmap_size", 0)  # a failing disk would be a SIGBUS, not an error
            db.pragma("trusted_schema", False)
            db.pragma("temp_store", "memory")
            db.pragma("page_size", PAGE_SIZE)
            db.pragma("cache_size", -(cache >> 10))
            identify(db, self.path)
            if db.pragma("journal_mode", "wal") != "wal":
                raise DatabaseError(f"{self.path} is where SQLite cannot keep a write-ahead log.")
            db.pragma("synchronous", "full")  # a commit that was told must outlast a power cut
            db.pragma("journal_size_limit", WAL_LEFT)
            db.wal_autocheckpoint(0)  # the writer decides when
        except BaseException:
            db.close(True)
            raise
        return db

    def reopen_writer(self) -> None:
        """Replace the writer's connection. Raises `apsw.Error`, `DatabaseError`; then there is the old one,
        unless it stands alone."""
        old = self.writer
        if self.alone:
            old.close(True)
            self.writer = self._connect(WRITE_CACHE)
        else:
            self.writer = self._connect(WRITE_CACHE)
            old.close(True)

    def reader(self) -> apsw.Connection:
        """Return another connection, which can only read; the writer's if that one stands alone. Raises
        `apsw.Error`, `DatabaseError`."""
        if self.alone:
            return self.writer
        self.verify()
        db = self._connect(READ_CACHE)
        db.pragma("query_only", True)  # not opened read-only, so that it can recover the log if it must
        return db

    def close(self) -> None:
        """Let go of the file; its readers are closed before."""
        with suppress(apsw.Error):  # a log that could not be copied back is read at the next start
            self.writer.close(True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def identify(db: apsw.Connection, path: str) -> None:
    """Make sure it is one of ours, or empty. Raises `DatabaseError`, and `apsw.Error` when it is no
    database at all."""
    application, version = db.pragma("application_id"), db.pragma("user_version")
    if application == schema.APPLICATION_ID:
        if version > schema.VERSION:
            raise DatabaseError(
                f"{path} was written by a newer duolink (format {version}; this one knows {schema.VERSION})."
            )
    elif application or version or db.execute("SELECT count(*) FROM sqlite_schema").get:
        raise DatabaseError(f"{path} is a database of another program.")


def open_read_only(path: str) -> apsw.Connection:
    """Open a database that a server may be using, to look at it. Raises `DatabaseError`."""
    if not os.path.exists(path):
        raise DatabaseError(f"{path} does not exist.")
    try:
        db = apsw.Connection(path, apsw.SQLITE_OPEN_READONLY)
        try:
            db.set_busy_timeout(BUSY)
            identify(db, path)
            if db.pragma("user_version") != schema.VERSION:
                raise DatabaseError(f"{path} has not been used by this version of duolink yet.")
        except BaseException:
            db.close(True)
            raise
    except apsw.Error as error:
        raise refusal(path, error) from None
    return db


def refusal(path: str, error: apsw.Error) -> DatabaseError:
    """Say for the operator why a database cannot be opened."""
    match error:
        case apsw.NotADBError():
            problem = "is not a database"
        case apsw.CorruptError():
            problem = "is damaged; restore a backup"
        case apsw.BusyError() | apsw.LockedError():
            problem = "is locked by another program"
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            problem = "cannot be written"
        case apsw.FullError():
            problem = "cannot be opened: the disk is full"
        case _:
            problem = f"cannot be opened: {error}"
    return DatabaseError(f"{path} {problem}.")


def _lock(path: str) -> int:
    """Return the descriptor that holds the lock."""
    try:
        lock = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatabaseError(f"{path} cannot be opened: {_strerror(error)}.") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, b"%d\n" % os.getpid())
    except BlockingIOError:
        holder = os.read(lock, 20).decode("ascii", "replace").strip()
        os.close(lock)
        raise DatabaseError(f"{path} is in use by another server (process {holder}).") from None
    except OSError as error:
        if error.errno != errno.ENOSPC:  # a full disk keeps the lock, and not who has it
            os.close(lock)
            raise DatabaseError(f"{path} cannot be locked: {_strerror(error)}.") from None
    return lock


def _create(path: str) -> None:
    """Make the file, for its owner only; SQLite gives the files beside it the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise DatabaseError(f"{path} cannot be created: {_strerror(error)}.") from None


def _strerror(error: OSError) -> str:
    return error.strerror or str(error)
