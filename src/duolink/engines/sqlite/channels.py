"""What the writer does for logs: appends, shared state, retention, forgetting."""

from collections import OrderedDict
from typing import Any, Final, NamedTuple

import apsw
import msgspec

from duolink.engines.base import (
    Answer,
    Appended,
    Conflict,
    Draft,
    Entry,
    Failure,
    Full,
    Retention,
    Top,
    Unknown,
)
from duolink.engines.memory import Clock
from duolink.engines.sqlite.keys import Keys
from duolink.engines.sqlite.pages import BINARY, DELETED, first_kept
from duolink.engines.sqlite.rows import Rows, one

MAX_PICTURE: Final = 20_000
"""Channels whose rows the writer remembers, ≈ 10 MB."""

MAX_VERSIONS: Final = 50_000
"""Names of shared state whose versions the writer remembers, ≈ 10 MB."""

MAX_CHANNELS: Final = 1_000_000
"""Channels with a row at once, ≈ 200 MB of file; more are refused. Names are the clients' to choose."""

MAX_STATE: Final = 4 << 30
"""Bytes of all shared state together; beyond them there is no room. Time takes no state away."""

CHANNEL_LIFE: Final = 7 * 86_400.0
"""Seconds an empty channel that nobody uses keeps its epoch; also the time after which the database's own
epoch may change. Each change tells subscribers of channels never written to that they may have missed
something."""

TRIM_AFTER: Final = 256
"""Appends to a channel between two looks at its retention: entries that are too many stay so long unread in
the file."""

TRIM_ROWS: Final = 1000
"""Entries deleted, or looked at, in one go: a few milliseconds."""

SWEEP_CHANNELS: Final = 500
"""Channels that one sweep looks at."""

_FIND: Final = """
    SELECT number, epoch, top, first, lowest, total, used, keep_entries, keep_age, keep_size, state_keys,
        state_size
    FROM channels WHERE name = ?
"""
_WRITE: Final = Rows(
    """
    INSERT INTO channels (number, name, epoch, top, first, lowest, total, used, keep_entries, keep_age,
        keep_size, state_keys, state_size)
    VALUES {rows}
    ON CONFLICT (number) DO UPDATE SET top = excluded.top, first = excluded.first, lowest = excluded.lowest,
        total = excluded.total, used = excluded.used, keep_entries = excluded.keep_entries,
        keep_age = excluded.keep_age, keep_size = excluded.keep_size, state_keys = excluded.state_keys,
        state_size = excluded.state_size
    """,
    13,
)
_INSERT: Final = Rows("INSERT INTO entries VALUES {rows}", 8)
_SET: Final = Rows("INSERT OR REPLACE INTO state VALUES {rows}", 7)
_UNSET: Final = Rows("DELETE FROM state WHERE (channel, name) IN (VALUES {rows})", 2)
_TRIM: Final = "DELETE FROM entries WHERE channel = ? AND offset < ?"
_VERSION: Final = "SELECT version, length(data) FROM state WHERE channel = ? AND name = ?"
_TOTALS: Final = "SELECT count(*), total(state_size), ifnull(max(number), 0) FROM channels"
_SWEEP: Final = """
    SELECT count(*), max(number),
        json_group_array(name) FILTER (WHERE lowest <= top OR (state_keys = 0 AND used < ?))
    FROM (SELECT * FROM channels WHERE number > ? ORDER BY number LIMIT ?)
"""

_names = msgspec.json.Decoder(list[str])


class Append(NamedTuple):
    """`Log.append`; answered with an `Answer`. `pin`: where a channel without a row goes on."""

    channel: str
    draft: Draft
    retention: Retention
    pin: Top | None = None


class Trim(NamedTuple):
    """Delete what retention has taken from a channel; no answer."""

    channel: str


class Sweep(NamedTuple):
    """Trim some channels that nobody appends to; answered with `Swept`. `epoch`: what the database's is to be
    if it is time for another."""

    epoch: str


class Swept(NamedTuple):
    """Channels that may be forgotten, and whether there is more to do at once."""

    forgettable: tuple[str, ...]
    more: bool


class Forget(NamedTuple):
    """Forget channels, if they are still empty and unused; no answer."""

    channels: tuple[str, ...]


class _Channel:
    """A channel's row, as the last commit left it or the next one will."""

    __slots__ = (
        "epoch",
        "first",
        "keep",
        "lowest",
        "name",
        "number",
        "state_keys",
        "state_size",
        "top",
        "total",
        "trimmed",
        "used",
    )

    def __init__(
        self, number: int, name: str, top: Top, first: int, lowest: int, total: int, used: int
    ) -> None:
        self.number, self.name = number, name
        self.epoch, self.top = top
        self.first, self.lowest = first, lowest
        self.total, self.used = total, used
        self.keep = Retention(0, 0.0, 0)
        self.state_keys = self.state_size = 0
        self.trimmed = top.offset, total  # when it was last looked at

    def row(self) -> tuple[Any, ...]:
        keep = self.keep
        return (
            *(self.number, self.name, self.epoch, self.top, self.first, self.lowest, self.total, self.used),
            *(keep.entries, keep.age, keep.size, self.state_keys, self.state_size),
        )

    def forgettable(self, before: float) -> bool:
        """Whether nothing of it is left, nor used since."""
        return self.lowest > self.top and not self.state_keys and self.used < before


class Channels:
    """The part of the database that holds logs and shared state."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._keys = Keys(clock)
        self._picture: OrderedDict[str, _Channel] = OrderedDict()
        self._versions: dict[tuple[int, str], tuple[int, int]] = {}  # (version, bytes); (0, 0): not there
        self._swept = 0
        self._count = self._state_size = self._last_number = -1  # -1: not counted yet
        self._dirty: dict[str, _Channel] = {}
        self._entries: list[tuple[Any, ...]] = []
        self._state: dict[tuple[int, str], tuple[Any, ...] | None] = {}

    # --- as a part -----------------------------------------------------------------------------

    def apply(self, db: apsw.Connection, request: Any) -> Any:
        """See `Part.apply`."""
        match request:
            case Append():
                return self._append(db, request)
            case Trim(name):
                channel = self._find(db, name)
                if channel is not None:
                    self._trim(db, channel)
            case Sweep(epoch):
                return self._sweep(db, epoch)
            case Forget(names):
                self._forget(db, names)
        return None

    def flush(self, db: apsw.Connection) -> None:
        """See `Part.flush`."""
        if self._dirty:
            _WRITE.write(db, [channel.row() for channel in self._dirty.values()])
            self._dirty.clear()
        self._write_entries(db)
        if self._state:
            _SET.write(db, [row for row in self._state.values() if row is not None])
            _UNSET.write(db, [place for place, row in self._state.items() if row is None])
            self._state.clear()
        self._keys.flush(db)

    def committed(self) -> None:
        """See `Part.committed`."""
        while len(self._picture) > MAX_PICTURE:
            self._picture.popitem(last=False)
        if len(self._versions) > MAX_VERSIONS:
            self._versions.clear()

    def rolled_back(self) -> None:
        """See `Part.rolled_back`."""
        self._picture.clear()
        self._versions.clear()
        self._dirty.clear()
        self._entries.clear()
        self._state.clear()
        self._keys.forget()
        self._count = -1

    def _write_entries(self, db: apsw.Connection) -> None:
        if self._entries:
            _INSERT.write(db, self._entries)
            self._entries.clear()

    # --- appends -------------------------------------------------------------------------------

    def _append(self, db: apsw.Connection, request: Append) -> Answer | Failure:
        name, draft, keep, pin = request
        scope = name, draft.sender, draft.key
        if draft.key:
            used = self._keys.known(db, scope)
            if used is not None:
                return Appended(used.epoch, _entry(used.offset, used.time, draft)._replace(data=b""), True)
            if self._keys.in_doubt(draft.age):
                return Unknown()
        now = self._clock.wall_ms()
        channel = self._find(db, name)
        fresh = channel is None
        if channel is None:
            self._take_stock(db)
            if self._count >= MAX_CHANNELS:
                return Failure("too many channels")
            channel = self._new(db, name, pin, now)
        if draft.name:
            refusal = self._write_state(db, channel, draft, keep, now)
            if refusal is not None:
                return refusal
        if fresh:
            self._count += 1
            self._last_number = channel.number
            self._picture[name] = channel
        channel.top += 1
        channel.total += len(draft.data)
        channel.used, channel.keep = now, keep
        self._dirty[name] = channel
        self._keep(db, channel, draft, now)
        if draft.key:
            self._keys.add(channel.number, scope, channel.epoch, channel.top, now)
        return Appended(channel.epoch, _entry(channel.top, now, draft))

    def _keep(self, db: apsw.Connection, channel: _Channel, draft: Draft, now: int) -> None:
        """Note the entry, unless retention takes it at once, and let retention take others."""
        keep = channel.keep
        if keep.entries <= 0 or keep.age <= 0 or keep.size < len(draft.data):
            channel.first = channel.top + 1
            if channel.lowest == channel.top:  # there were none
                channel.lowest = channel.first
        else:
            place = channel.number, channel.top
            row = (now, channel.total, _flags(draft), draft.sender, draft.name, draft.data)
            self._entries.append(place + row)
            channel.first = max(channel.first, channel.top - keep.entries + 1)
        offset, total = channel.trimmed
        if channel.top - offset >= TRIM_AFTER or channel.total - total > keep.size // 8:
            self._trim(db, channel)

    def _find(self, db: apsw.Connection, name: str) -> _Channel | None:
        channel = self._picture.get(name)
        if channel is not None:
            self._picture.move_to_end(name)
            return channel
        channel = self._look_up(db, name)
        if channel is not None:
            self._picture[name] = channel
        return channel

    def _look_up(self, db: apsw.Connection, name: str) -> _Channel | None:
        """Find a channel without remembering it."""
        return self._picture.get(name) or self._dirty.get(name) or self._load(db, name)

    def _load(self, db: apsw.Connection, name: str) -> _Channel | None:
        row = one(db, _FIND, (name,))
        if row is None:
            return None
        number, epoch, top, first, lowest, total, used, entries, age, size, keys, state_size = row
        channel = _Channel(number, name, Top(epoch, top), first, lowest, total, used)
        channel.keep = Retention(entries, age, size)
        channel.state_keys, channel.state_size = keys, state_size
        return channel

    def _take_stock(self, db: apsw.Connection) -> None:
        """Count what there is, once after the start."""
        if self._count < 0:
            count, state_size, number = one(db, _TOTALS)
            in_use = db.execute("SELECT ifnull(max(channel), 0) FROM keys").get
            self._count, self._state_size = count, int(state_size)
            self._last_number = max(number, in_use)

    def _new(self, db: apsw.Connection, name: str, pin: Top | None, now: int) -> _Channel:
        top = pin or Top(db.execute("SELECT value FROM meta WHERE name = 'epoch'").get, 0)
        return _Channel(self._last_number + 1, name, top, top.offset + 1, top.offset + 1, 0, now)

    # --- shared state --------------------------------------------------------------------------

    def _write_state(
        self, db: apsw.Connection, channel: _Channel, draft: Draft, keep: Retention, now: int
    ) -> Conflict | Full | None:
        """Note what the next offset does to the state, or say why it cannot be."""
        self._take_stock(db)
        place = channel.number, draft.name
        version, size = self._version(db, place)
        if draft.expect not in (-1, version):
            return Conflict(version)
        new_size = 0 if draft.deleted else len(draft.name.encode()) + len(draft.data)
        keys = channel.state_keys + (not draft.deleted) - (version > 0)
        growth = new_size - size
        if not draft.deleted and (
            keys > keep.keys
            or channel.state_size + growth > keep.state_size
            or self._state_size + max(growth, 0) > MAX_STATE
        ):
            return Full()
        channel.state_keys = keys
        channel.state_size += growth
        self._state_size += growth
        offset = channel.top + 1
        if draft.deleted:
            self._versions[place], self._state[place] = (0, 0), None
        else:
            self._versions[place] = offset, new_size
            self._state[place] = (*place, offset, now, _flags(draft), draft.sender, draft.data)
        return None

    def _version(self, db: apsw.Connection, place: tuple[int, str]) -> tuple[int, int]:
        known = self._versions.get(place)
        if known is None:
            row = one(db, _VERSION, place)
            known = (0, 0) if row is None else (row[0], len(place[1].encode()) + row[1])
            self._versions[place] = known
        return known

    # --- retention and forgetting --------------------------------------------------------------

    def _trim(self, db: apsw.Connection, channel: _Channel) -> bool:
        """Let age and bytes take entries, and delete some of what is taken. Returns whether that was all."""
        keep, channel.trimmed = channel.keep, (channel.top, channel.total)
        first = max(channel.first, channel.top - keep.entries + 1)
        last = min(channel.top, first + TRIM_ROWS - 1)
        if first <= last:
            self._write_entries(db)  # what is looked at must be there
            oldest = self._clock.wall_ms() - keep.age * 1000
            first = first_kept(db, channel.number, first, last, oldest, channel.total, keep.size)
        if channel.lowest < first:
            self._write_entries(db)
            channel.lowest = min(first, channel.lowest + TRIM_ROWS)
            db.execute(_TRIM, (channel.number, channel.lowest))
            self._dirty[channel.name] = channel
        channel.first = first
        return channel.lowest == first and (first <= last or last == channel.top)

    def _sweep(self, db: apsw.Connection, epoch: str) -> Swept:
        before = self._clock.wall_ms() - CHANNEL_LIFE * 1000
        count, last, names = one(db, _SWEEP, (before, self._swept, SWEEP_CHANNELS))
        self._keys.expire()
        current, since = self._epoch(db)
        forgettable: list[str] = []
        rows = TRIM_ROWS
        for name in _names.decode(names):
            channel = self._look_up(db, name)
            if channel is None:
                continue
            if channel.lowest <= channel.top:
                rows -= channel.top + 1 - channel.lowest
                whole = self._trim(db, channel)
                rows += channel.top + 1 - channel.lowest
                if not whole or rows < 0:
                    self._swept = channel.number - (not whole)
                    return Swept(tuple(forgettable), True)
            if not channel.forgettable(before):
                continue
            if channel.epoch == current and since < before:
                now = self._clock.wall_ms()
                db.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (epoch,))
                db.execute("UPDATE meta SET value = ? WHERE name = 'epoch_since'", (now,))
                current, since = epoch, now
            if channel.epoch != current:
                forgettable.append(name)
        self._swept = last if count == SWEEP_CHANNELS else 0
        return Swept(tuple(forgettable), False)

    def _epoch(self, db: apsw.Connection) -> tuple[str, int]:
        epoch: str = db.execute("SELECT value FROM meta WHERE name = 'epoch'").get
        since: int = db.execute("SELECT value FROM meta WHERE name = 'epoch_since'").get
        return epoch, since

    def _forget(self, db: apsw.Connection, names: tuple[str, ...]) -> None:
        """Offsets of these channels begin again, in the database's epoch, which is not theirs."""
        before = self._clock.wall_ms() - CHANNEL_LIFE * 1000
        current, _ = self._epoch(db)
        for name in names:
            channel = self._find(db, name)
            if channel is not None and channel.forgettable(before) and channel.epoch != current:
                db.execute("DELETE FROM channels WHERE number = ?", (channel.number,))
                self._picture.pop(name, None)
                self._dirty.pop(name, None)
                self._count -= self._count > 0


def _flags(draft: Draft) -> int:
    return BINARY * draft.binary | DELETED * draft.deleted


def _entry(offset: int, time: int, draft: Draft) -> Entry:
    return Entry(offset, draft.sender, time, draft.data, draft.binary, draft.name, draft.deleted)
