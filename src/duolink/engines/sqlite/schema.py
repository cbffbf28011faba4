"""Every table of the database, and how an older one becomes today's."""

from typing import Final

import apsw

APPLICATION_ID: Final = 0x64756F6C
"""What SQLite's header says of a duolink database ("duol"), so that no other file is taken for one."""

META: Final = """
    CREATE TABLE meta (
        name TEXT PRIMARY KEY,
        value ANY
    ) WITHOUT ROWID, STRICT
"""
"""Facts about the database itself: `epoch`, `keys_since`, `probe`."""

CLIENTS: Final = """
    CREATE TABLE clients (
        client_id TEXT PRIMARY KEY,
        user TEXT NOT NULL,
        run INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        seen INTEGER NOT NULL -- wall ms, true to a day
    ) WITHOUT ROWID, STRICT
"""

CLIENTS_BY_USER: Final = "CREATE INDEX clients_by_user ON clients (user)"

CHANNELS: Final = """
    CREATE TABLE channels (
        number INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        epoch TEXT NOT NULL,
        top INTEGER NOT NULL,
        first INTEGER NOT NULL, -- lowest offset that has an entry; top + 1 without any
        total INTEGER NOT NULL, -- bytes of data ever appended
        time INTEGER NOT NULL, -- of the newest append, wall ms
        keep_entries INTEGER NOT NULL,
        keep_age REAL NOT NULL,
        keep_size INTEGER NOT NULL,
        state_keys INTEGER NOT NULL,
        state_size INTEGER NOT NULL
    ) STRICT
"""
"""Only channels that were written to have a row."""

ENTRIES: Final = """
    CREATE TABLE entries (
        channel INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        time INTEGER NOT NULL,
        total INTEGER NOT NULL, -- the channel's total after this entry
        flags INTEGER NOT NULL, -- 1: binary, 2: deleted
        sender TEXT NOT NULL,
        name TEXT NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (channel, offset)
    ) WITHOUT ROWID, STRICT
"""

STATE: Final = """
    CREATE TABLE state (
        channel INTEGER NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL, -- the offset of the entry that set it
        time INTEGER NOT NULL,
        flags INTEGER NOT NULL,
        sender TEXT NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (channel, name)
    ) WITHOUT ROWID, STRICT
"""

KEYS: Final = """
    CREATE TABLE keys (
        id INTEGER PRIMARY KEY,
        channel INTEGER NOT NULL,
        sender TEXT NOT NULL,
        key TEXT NOT NULL,
        offset INTEGER NOT NULL,
        time INTEGER NOT NULL
    ) STRICT
"""
"""In the order of their use. They are looked up in memory; this is for the next start."""

MAILBOX: Final[tuple[str, ...]] = ()
"""The tables of the mailbox."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        META,
        CLIENTS,
        CLIENTS_BY_USER,
        CHANNELS,
        ENTRIES,
        STATE,
        KEYS,
        *MAILBOX,
        f"PRAGMA application_id = {APPLICATION_ID}",
    ),
)
"""What leads from version n to n + 1. One that was released is never changed again."""

VERSION: Final = len(MIGRATIONS)


def migrate(db: apsw.Connection, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> None:
    """Bring the database to the newest version, one transaction for each step. Raises `apsw.Error`."""
    version = db.pragma("user_version")
    for number, statements in enumerate(migrations[version:], version + 1):
        with db:
            for statement in statements:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number}")
