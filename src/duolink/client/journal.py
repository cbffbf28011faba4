"""A client's journal: the file in which it keeps what it has not sent, and what it has finished with.

One file, one client id, one process at a time. A process that opens it continues the run of the process
before: same run, same numbers, so that receivers recognise every repeat. A copy of the file is therefore
another process with the same numbers: never restore one from a backup, delete it instead.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from math import inf
from typing import Any, Final
from weakref import WeakSet

import apsw
import msgspec

from duolink.client.errors import JournalError
from duolink.protocol.messages import LostRange
from duolink.protocol.records import Changes, LaneChange, Saved, SavedCursor, SavedEntry, SavedLane

APPLICATION_ID: Final = 0x646C6A6E
"""`dljn`: what `file` sees, and what tells a journal from a server's database."""

VERSION: Final = 1
"""The format."""

MAX_CURSORS: Final = 65_536
"""Cursors kept, newest first: some 10 MiB. A sender beyond, not heard of for longest, is a stranger again."""

_SCHEMA: Final = """
CREATE TABLE owner (client_id TEXT NOT NULL, run INTEGER NOT NULL, life INTEGER NOT NULL) STRICT;
CREATE TABLE lane (
    peer TEXT NOT NULL, lane TEXT NOT NULL, next_seq INTEGER NOT NULL, tag TEXT NOT NULL,
    PRIMARY KEY (peer, lane)
) STRICT, WITHOUT ROWID;
CREATE TABLE entry (
    peer TEXT NOT NULL, lane TEXT NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL, binary INTEGER NOT NULL,
    expires INTEGER, -- wall-clock milliseconds
    reply TEXT NOT NULL, failed INTEGER NOT NULL, collapse TEXT NOT NULL, tag TEXT NOT NULL,
    request INTEGER NOT NULL, stored INTEGER NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (peer, lane, seq)
) STRICT;
CREATE TABLE cursor (
    peer TEXT NOT NULL, user TEXT NOT NULL, lane TEXT NOT NULL, run INTEGER NOT NULL,
    finished INTEGER NOT NULL, lost TEXT NOT NULL, moved INTEGER NOT NULL,
    PRIMARY KEY (peer, user, lane)
) STRICT, WITHOUT ROWID;
"""

_LOST: Final = msgspec.json.Decoder(list[LostRange])


class Records:
    """The tables, on a connection of whoever made them. `shift` is wall time less the machine's, in seconds.

    Raises `apsw.Error`; `JournalError` for what is no journal of this client.
    """

    def __init__(self, db: apsw.Connection, client_id: str) -> None:
        self._db = db
        with db:
            application, version = db.pragma("application_id"), db.pragma("user_version")
            if application == APPLICATION_ID:
                if version > VERSION:
                    raise JournalError(f"was written by a newer duolink (format {version})")
                if db.execute("PRAGMA quick_check(1)").get != "ok":
                    raise JournalError("is damaged; what it held is lost: delete it to begin anew")
                owner = db.execute("SELECT client_id FROM owner").get
                if owner != client_id:
                    raise JournalError(f"is the journal of {owner!r}, not of {client_id!r}")
            elif application or version or db.execute("SELECT count(*) FROM sqlite_schema").get:
                raise JournalError("is a database of another program")
            else:
                db.execute(_SCHEMA)
                db.execute("INSERT INTO owner VALUES (?, 0, 0)", (client_id,))
                db.pragma("application_id", APPLICATION_ID)
                db.pragma("user_version", VERSION)

    def open(self, shift: float) -> Saved:
        """Return all of it; one more process has it now."""
        db = self._db
        with db:
            db.execute(
                "DELETE FROM cursor WHERE (peer, user, lane) IN "
                "(SELECT peer, user, lane FROM cursor ORDER BY moved DESC LIMIT -1 OFFSET ?)",
                (MAX_CURSORS,),
            )
            owner: Any = db.execute("UPDATE owner SET life = life + 1 RETURNING run, life").fetchone()
            lanes = self._lanes(shift)
            cursors = tuple(
                SavedCursor(peer, user, lane, run, finished, tuple(_LOST.decode(lost)))
                for peer, user, lane, run, finished, lost in db.execute(
                    "SELECT peer, user, lane, run, finished, lost FROM cursor"
                )
            )
        run, life = owner
        return Saved(run, life, lanes, cursors)

    def _lanes(self, shift: float) -> tuple[SavedLane, ...]:
        rows = self._db.execute(
            "SELECT peer, lane, seq, data, binary, expires, reply, failed, collapse, tag, request, stored,"
            " reason FROM entry ORDER BY peer, lane, seq"
        )
        entries = {
            key: tuple(_entry(row, shift) for row in group)
            for key, group in groupby(rows, key=lambda row: row[:2])
        }
        lanes = []
        for peer, lane, next_seq, tag in self._db.execute("SELECT peer, lane, next_seq, tag FROM lane"):
            saved = SavedLane(peer, lane, next_seq, tag, entries.pop((peer, lane), ()))
            first = next_seq - len(saved.entries)
            if [entry.seq for entry in saved.entries] != list(range(first, next_seq)):
                raise JournalError(f"is damaged: numbers to {peer!r} are missing; delete it to begin anew")
            lanes.append(saved)
        if entries:
            raise JournalError("is damaged: numbers of no lane; delete it to begin anew")
        return tuple(lanes)

    def keep(self, batch: list[tuple[Changes, float]], now_ms: int) -> None:
        """Keep several turns' changes, each with its `shift`, in one transaction."""
        with self._db:
            for changes, shift in batch:
                if changes.begun:
                    self._db.execute("DELETE FROM entry; DELETE FROM lane")
                    self._db.execute("UPDATE owner SET run = ?", (changes.run,))
                for lane in changes.lanes:
                    self._keep_lane(lane, shift)
                self._db.executemany(
                    "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [
                        (*cursor[:-1], msgspec.json.encode(cursor.lost).decode(), now_ms)
                        for _, cursor in changes.cursors
                    ],
                )

    def _keep_lane(self, change: LaneChange, shift: float) -> None:
        db, key = self._db, (change.outbound.peer, change.outbound.lane)
        db.execute("INSERT OR REPLACE INTO lane VALUES (?, ?, ?, ?)", (*key, change.top + 1, change.tag))
        db.executemany(
            "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(*key, *_row(entry, shift)) for entry in change.saved],
        )
        if change.stored:
            db.execute(
                "UPDATE entry SET stored = 1, data = x''"
                " WHERE peer = ? AND lane = ? AND seq <= ? AND reason = ''",
                (*key, change.stored),
            )
        db.executemany(
            "UPDATE entry SET reason = ?, data = x'' WHERE peer = ? AND lane = ? AND seq = ?",
            [(reason, *key, seq) for seq, reason in change.ended],
        )
        db.execute("DELETE FROM entry WHERE peer = ? AND lane = ? AND seq < ?", (*key, change.base))


def _row(entry: SavedEntry, shift: float) -> tuple[Any, ...]:
    expires = None if entry.expires == inf else round((entry.expires + shift) * 1000)
    return (*entry[:3], expires, *entry[4:])


def _entry(row: tuple[Any, ...], shift: float) -> SavedEntry:
    _, _, seq, data, binary, expires, reply, failed, collapse, tag, request, stored, reason = row
    left = inf if expires is None else expires / 1000 - shift
    return SavedEntry(
        seq, data, bool(binary), left, reply, bool(failed), collapse, tag, bool(request), bool(stored), reason
    )


class Journal:
    """The file of one client, held by this process until `close`, and the thread that writes it. What is
    given to `keep` while a commit is under way goes into the next one together.

    `kept` is called, on the loop, for each of the changes when they are on disk, in order; `failed` once,
    when the file cannot be written: nothing is kept any more then.
    """

    def __init__(
        self,
        path: str,
        client_id: str,
        *,
        kept: Callable[[Changes], None],
        failed: Callable[[JournalError], None],
    ) -> None:
        self.path = os.path.realpath(path)
        self._client_id = client_id
        self._kept, self._failed = kept, failed
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="duolink journal")
        self._lock = -1
        self._closed = False
        self._db: apsw.Connection | None = None
        self._records: Records | None = None
        self._waiting: list[tuple[Changes, float]] = []
        self._writing: asyncio.Future[None] | None = None
        self._error: JournalError | None = None

    async def open(self, shift: float) -> Saved:
        """Take the file, which is made if it is not there. Raises `JournalError`; close it then too."""
        return await self._loop.run_in_executor(self._thread, self._open, shift)

    def keep(self, changes: Changes, shift: float) -> None:
        """Have changes written."""
        if self._error is None:
            self._waiting.append((changes, shift))
            self._write()

    @property
    def idle(self) -> bool:
        """Whether everything is on disk that will be."""
        return self._writing is None

    async def settled(self) -> None:
        """Return when it is idle."""
        while self._writing is not None:
            await asyncio.wait([self._writing])
            await asyncio.sleep(0)  # its callback begins the next one

    async def close(self) -> None:
        """Finish writing, and let the file go. Repeating is harmless."""
        if self._closed:
            return
        self._closed = True
        batch, self._waiting = self._waiting, []
        closing = self._loop.run_in_executor(self._thread, self._close, batch)
        self._thread.shutdown(wait=False)
        self._error = self._error or JournalError(f"{self.path} is closed")
        await asyncio.shield(closing)  # whoever is cancelled meanwhile lets it go all the same

    def _write(self) -> None:
        if self._writing is None and self._waiting:
            batch, self._waiting = self._waiting, []
            self._writing = self._loop.run_in_executor(self._thread, self._commit, batch)
            self._writing.add_done_callback(lambda done: self._written(done, batch))

    def _written(self, done: "asyncio.Future[None]", batch: list[tuple[Changes, float]]) -> None:
        self._writing = None
        error = done.exception()
        if error is not None:
            self._waiting.clear()
            self._error = JournalError(f"{self.path} cannot be written: {error}")
            self._failed(self._error)
            return
        self._write()
        for changes, _ in batch:
            self._kept(changes)

    # --- in the thread -------------------------------------------------------------------------

    def _open(self, shift: float) -> Saved:
        try:
            self._lock = _lock(self.path)
            _HELD.add(self)
            _create(self.path)
            self._db = db = apsw.Connection(self.path, apsw.SQLITE_OPEN_READWRITE)
            db.pragma("mmap_size", 0)  # a failing disk would be a SIGBUS, not an error
            db.pragma("trusted_schema", False)
            if db.pragma("journal_mode", "wal") != "wal":
                raise JournalError("is where SQLite cannot keep a write-ahead log")
            db.pragma("synchronous", "full")
            self._records = Records(db, self._client_id)
            return self._records.open(shift)
        except JournalError as error:
            raise JournalError(f"{self.path} {error.reason}") from None
        except (apsw.NotADBError, apsw.CorruptError, msgspec.MsgspecError):
            raise JournalError(f"{self.path} is damaged, or no journal; delete it to begin anew") from None
        except (apsw.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise JournalError(f"{self.path} cannot be opened: {reason}") from None

    def _commit(self, batch: list[tuple[Changes, float]]) -> None:
        assert self._records is not None
        self._records.keep(batch, time.time_ns() // 1_000_000)

    def _close(self, batch: list[tuple[Changes, float]]) -> None:
        if self._records is not None and batch:
            with suppress(apsw.Error):  # nobody waits for it any more
                self._commit(batch)
        if self._db is not None:
            with suppress(apsw.Error):  # a log that could not be copied back is read at the next start
                self._db.close(True)
        if self._lock >= 0:
            _HELD.discard(self)
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # for a child too that has not let go yet
            os.close(self._lock)
            self._lock = -1


_HELD: Final[WeakSet[Journal]] = WeakSet()


def _let_go() -> None:
    # A forked child shares the lock as long as it has the descriptor: its parent's successor would wait.
    for journal in list(_HELD):
        os.close(journal._lock)
        journal._lock = -1


os.register_at_fork(after_in_child=_let_go)


def _lock(path: str) -> int:
    """Return the descriptor that holds the lock: on a file beside it, since closing any descriptor of the
    database file itself would let go of SQLite's locks (https://www.sqlite.org/howtocorrupt.html §2.2)."""
    lock = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise JournalError("is in use by another client") from None
    return lock


def _create(path: str) -> None:
    """Make the file, for its owner only; SQLite gives the files beside it the same mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
