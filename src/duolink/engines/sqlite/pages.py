"""What is read of logs: the channel's row, pages of entries, the shared state. Functions of a connection.

A page comes as one row: metadata as JSON, bodies in one piece. Stepping from row to row would give the
interpreter lock away each time, and wait for it.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import apsw
import msgspec

from duolink.engines.base import Entry, Logged, Page, Snapshot, Top
from duolink.engines.sqlite.rows import one
from duolink.protocol import limits

BINARY: Final = 1
DELETED: Final = 2

_FIND: Final = """
    SELECT value, number, channels.epoch, top, first, total, keep_entries, keep_age, keep_size
    FROM meta LEFT JOIN channels ON channels.name = ? WHERE meta.name = 'epoch'
"""

_PAGE: Final = """
    SELECT json_group_array(json_array(offset, time, total, flags, sender, name, length(data))),
        CAST(group_concat(data, '') AS BLOB)
    FROM (SELECT * FROM entries WHERE channel = ? AND offset >= ? ORDER BY offset LIMIT ?)
"""

_STATE: Final = """
    SELECT json_group_array(json_array(version, time, 0, flags, sender, name, length(data))),
        CAST(group_concat(data, '') AS BLOB)
    FROM (SELECT * FROM state WHERE channel = ? ORDER BY version)
"""

_LISTING: Final = """
    SELECT json_group_array(json_array(name, json_array(epoch, top)))
    FROM (
        SELECT name, epoch, top FROM channels WHERE name > ? AND name >= ? AND name < ? ORDER BY name LIMIT ?
    )
"""

_FIRST_KEPT: Final = """
    SELECT offset FROM entries
    WHERE channel = ? AND offset BETWEEN ? AND ? AND time > ? AND total - length(data) >= ?
    ORDER BY offset LIMIT 1
"""

_LAST: Final = "\U0010ffff"
"""The last character there is: no name has more of them than characters."""

_listed = msgspec.json.Decoder(tuple[Logged, ...])
_decoder = msgspec.json.Decoder(list[tuple[int, int, int, int, str, str, int]])


class Found(NamedTuple):
    """A channel's row, as far as a reader needs it; without a row `number` is 0, and there is nothing."""

    top: Top
    number: int = 0
    first: int = 1
    total: int = 0
    entries: int = 0
    age: float = 0.0
    size: int = 0

    def oldest(self, wall_ms: int) -> float:
        """Entries of this time and before are too old."""
        return wall_ms - self.age * 1000


def find(db: apsw.Connection, channel: str, pin: Top | None = None) -> Found:
    """Look up a channel; `pin` is where it stands if it has no row."""
    epoch, number, own, top, first, total, entries, age, size = one(db, _FIND, (channel,))
    if number is None:
        top = pin or Top(epoch, 0)
        return Found(top, first=top.offset + 1)
    return Found(Top(own, top), number, first, total, entries, age, size)


def first_kept(
    db: apsw.Connection, number: int, first: int, last: int, oldest: float, total: int, size: int
) -> int:
    """Return the first offset in `first` … `last` that age and bytes leave; `last + 1` if there is none.

    What goes, goes from the oldest entry on; a time that lies behind a later one (a clock that went back)
    goes and stays with its neighbours."""
    found = one(db, _FIRST_KEPT, (number, first, last, oldest, total - size))
    return last + 1 if found is None else int(found[0])


def read_page(
    db: apsw.Connection, found: Found, epoch: str, after: int, limit: int, wall_ms: int
) -> tuple[Page, int]:
    """Read as `Log.read` does; also returns how many entries are still there that retention has taken."""
    top = found.top
    if (epoch and epoch != top.epoch) or after > top.offset:
        return Page(top), 0
    low = max(found.first, top.offset - found.entries + 1)
    start, stale = max(after + 1, low), low - found.first
    entries: list[Entry] = []
    if start <= top.offset:
        oldest = found.oldest(wall_ms)
        rows, bodies = _rows(db, _PAGE, (found.number, start, max(limit, 1)))
        _, time, total, _, _, _, length = rows[0]
        if time <= oldest or found.total - total + length > found.size:
            kept = first_kept(db, found.number, low, top.offset, oldest, found.total, found.size)
            stale, low = kept - found.first, kept
            if kept > start:
                start = kept
                rows, bodies = _rows(db, _PAGE, (found.number, start, max(limit, 1)))
        entries = _entries(rows[: max(limit, 0)], bodies)
    gap = (after + 1, low - 1) if after + 1 < low else None
    return Page(top, tuple(entries), gap), stale


def read_state(db: apsw.Connection, found: Found) -> Snapshot:
    """Read the shared state, in the order of versions."""
    if not found.number:
        return Snapshot(found.top)
    return Snapshot(found.top, tuple(_entries(*_rows(db, _STATE, (found.number,)))))


def read_listing(
    after: str, prefix: str, limit: int, counts: Callable[[str], bool], db: apsw.Connection
) -> tuple[Logged, ...]:
    """Read for `Log.listing` those that count. Raises `apsw.Error`."""
    listed: list[Logged] = []
    while len(listed) < limit:
        found = one(db, _LISTING, (after, prefix, prefix + _LAST * limits.MAX_CHANNEL, limit))[0]
        page = sorted(_listed.decode(found))
        listed += [each for each in page if counts(each.channel)]
        if len(page) < limit:
            break
        after = page[-1].channel
    return tuple(listed[:limit])


def _rows(
    db: apsw.Connection, statement: str, bindings: tuple[int, ...]
) -> tuple[list[tuple[int, int, int, int, str, str, int]], bytes]:
    rows, bodies = one(db, statement, bindings)
    return _decoder.decode(rows), bodies or b""


def _entries(rows: list[tuple[int, int, int, int, str, str, int]], bodies: bytes) -> list[Entry]:
    entries, place = [], 0
    for offset, time, _, flags, sender, name, length in rows:
        data = bodies[place : place + length]
        place += length
        entries.append(Entry(offset, sender, time, data, bool(flags & BINARY), name, bool(flags & DELETED)))
    return entries
