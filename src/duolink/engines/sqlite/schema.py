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
"""Facts about the database itself: `epoch`, that of channels without a row; `epoch_since`, its wall ms;
`keys_since`, the wall ms since when every idempotency key is known; `probe`, written to try the disk."""

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
        first INTEGER NOT NULL, -- lowest offset that retention has not taken; top + 1 without any
        lowest INTEGER NOT NULL, -- lowest offset whose entry has not been deleted; not above first
        total INTEGER NOT NULL, -- bytes of data ever appended
        used INTEGER NOT NULL, -- when it was last written to, wall ms
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

STREAMS: Final = """
    CREATE TABLE streams (
        number INTEGER PRIMARY KEY,
        receiver TEXT NOT NULL, -- a client id, or @user
        sender TEXT NOT NULL,
        lane TEXT NOT NULL,
        run INTEGER NOT NULL,
        UNIQUE (receiver, sender, lane, run)
    ) STRICT
"""
"""What mailboxes know; what changes is in `standings`, so that it changes without the index."""

STREAMS_BY_SENDER: Final = "CREATE INDEX streams_by_sender ON streams (sender)"

STANDINGS: Final = """
    CREATE TABLE standings (
        stream INTEGER PRIMARY KEY,
        stored INTEGER NOT NULL,
        settled INTEGER NOT NULL,
        lost TEXT NOT NULL, -- [[first, last, reason], …] or empty
        by INTEGER NOT NULL,
        messages INTEGER NOT NULL, -- in `mail`, with the bytes of their bodies
        size INTEGER NOT NULL,
        losses INTEGER NOT NULL, -- rows of `mail` that are losses
        due INTEGER NOT NULL, -- no message expires before (wall ms); 0: none at all
        used INTEGER NOT NULL, -- wall ms
        cursor INTEGER NOT NULL, -- of a receiver that is a client; a user's clients are in `cursors`
        first INTEGER NOT NULL,
        count INTEGER NOT NULL,
        since INTEGER NOT NULL,
        process INTEGER NOT NULL
    ) STRICT
"""

CURSORS: Final = """
    CREATE TABLE cursors (
        stream INTEGER NOT NULL,
        client_id TEXT NOT NULL,
        cursor INTEGER NOT NULL,
        first INTEGER NOT NULL,
        count INTEGER NOT NULL,
        since INTEGER NOT NULL,
        process INTEGER NOT NULL,
        start INTEGER NOT NULL,
        PRIMARY KEY (stream, client_id)
    ) WITHOUT ROWID, STRICT
"""

MAIL_WITHOUT_TIME: Final = """
    CREATE TABLE mail (
        stream INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        last INTEGER NOT NULL,
        reason TEXT NOT NULL, -- why seq … last are lost; of a message empty
        expires INTEGER NOT NULL,
        flags INTEGER NOT NULL, -- 1: binary
        collapse TEXT, -- of a message that has a key
        body BLOB NOT NULL,
        PRIMARY KEY (stream, seq)
    ) WITHOUT ROWID, STRICT
"""
"""As it was before format 2."""

MAIL: Final = """
    CREATE TABLE mail (
        stream INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        last INTEGER NOT NULL,
        reason TEXT NOT NULL, -- why seq … last are lost; of a message empty
        expires INTEGER NOT NULL,
        flags INTEGER NOT NULL, -- 1: binary
        collapse TEXT, -- of a message that has a key
        time INTEGER NOT NULL, -- when it was stored, wall ms; 0: before format 2, or a loss
        body BLOB NOT NULL,
        PRIMARY KEY (stream, seq)
    ) WITHOUT ROWID, STRICT
"""

MAIL_BY_COLLAPSE: Final = (
    "CREATE INDEX mail_by_collapse ON mail (stream, collapse) WHERE collapse IS NOT NULL"
)

MAILBOX: Final[tuple[str, ...]] = (
    STREAMS,
    STREAMS_BY_SENDER,
    STANDINGS,
    CURSORS,
    MAIL_WITHOUT_TIME,
    MAIL_BY_COLLAPSE,
)
"""The tables of the mailbox, as they were in format 1."""

MAILBOXES: Final = """
    CREATE TABLE mailboxes (
        receiver TEXT PRIMARY KEY,
        messages INTEGER NOT NULL,
        size INTEGER NOT NULL,
        senders INTEGER NOT NULL -- that have messages there
    ) WITHOUT ROWID, STRICT
"""
"""What receivers with messages have, kept in step with `standings`: for listings, which must not count."""

MAILBOXES_BY_DEPTH: Final = "CREATE INDEX mailboxes_by_depth ON mailboxes (messages DESC, receiver)"

LISTINGS: Final[tuple[str, ...]] = (
    "ALTER TABLE mail RENAME TO mail_without_time",
    MAIL,
    """
    INSERT INTO mail
    SELECT stream, seq, last, reason, expires, flags, collapse, 0, body FROM mail_without_time
    ORDER BY stream, seq
    """,
    "DROP TABLE mail_without_time",
    MAIL_BY_COLLAPSE,
    MAILBOXES,
    """
    INSERT INTO mailboxes
    SELECT receiver, sum(messages), sum(size), count(DISTINCT sender)
    FROM streams JOIN standings ON stream = number WHERE messages > 0 GROUP BY receiver
    """,
    MAILBOXES_BY_DEPTH,
)
"""From format 1 to 2: when messages were stored, and what each mailbox holds. It copies all messages."""

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
    LISTINGS,
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
