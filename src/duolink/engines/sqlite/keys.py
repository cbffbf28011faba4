"""The idempotency keys of appends: looked up in memory, written so that the next start knows them."""

from collections import OrderedDict
from math import inf
from typing import Final, NamedTuple

import apsw
import msgspec

from duolink.engines.memory import KEY_MARGIN, MAX_KEYS, Clock
from duolink.engines.sqlite.rows import Rows
from duolink.protocol import limits

_INSERT: Final = Rows("INSERT INTO keys VALUES {rows}", 6)
_DELETE: Final = "DELETE FROM keys WHERE id <= ?"
_SINCE: Final = "UPDATE meta SET value = ? WHERE name = 'keys_since'"
_LOAD: Final = """
    SELECT json_group_array(json_array(id, name, sender, key, epoch, offset, time))
    FROM (SELECT keys.*, name, epoch FROM keys JOIN channels ON number = channel ORDER BY id)
"""

_decoder = msgspec.json.Decoder(list[tuple[int, str, str, str, str, int, int]])

Scope = tuple[str, str, str]
"""Channel, sender, key."""


class Used(NamedTuple):
    """A key, and the append it stands for. `at`: monotonic seconds."""

    id: int
    at: float
    epoch: str
    offset: int
    time: int


class Keys:
    """All keys that are not older than `limits.PUBLISH_KEY_LIFE`, nor more than `MAX_KEYS`.

    Their ages are measured by the monotonic clock, so that a wall clock that is set cannot make a publish
    run twice; what an earlier process left counts as used when it was read. Part of `Channels`, which says
    when to flush and forget.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._used: OrderedDict[Scope, Used] | None = None
        self._since = -inf  # every key used after this (monotonic) is known
        self._last = 0  # id
        self._new: list[tuple[int, int, str, str, int, int]] = []
        self._delete = 0  # ids up to this one
        self._since_ms = 0  # to be written

    def known(self, db: apsw.Connection, scope: Scope) -> Used | None:
        """Return the append that had this key."""
        used = self._loaded(db)
        self.expire()
        return used.get(scope)

    def in_doubt(self, age: float) -> bool:
        """Whether a key first used `age` seconds ago may have been forgotten."""
        return age > 0 and self._clock.monotonic() - age < self._since + KEY_MARGIN

    def add(self, channel: int, scope: Scope, epoch: str, offset: int, time: int) -> None:
        """Remember the append with this key; it was looked up before."""
        assert self._used is not None
        self._last += 1
        self._used[scope] = Used(self._last, self._clock.monotonic(), epoch, offset, time)
        self._new.append((self._last, channel, scope[1], scope[2], offset, time))

    def expire(self) -> None:
        """Forget what is too old."""
        used, oldest = self._used, self._clock.monotonic() - limits.PUBLISH_KEY_LIFE
        while used:
            first = next(iter(used.values()))
            if first.at >= oldest:
                if len(used) < MAX_KEYS:
                    return
                age = self._clock.monotonic() - first.at
                self._since_ms = self._clock.wall_ms() - int(age * 1000)
            used.popitem(last=False)
            self._since, self._delete = first.at, first.id

    def flush(self, db: apsw.Connection) -> None:
        """Write what is new, and delete what is not known any more."""
        _INSERT.write(db, self._new)
        self._new.clear()
        if self._delete:
            db.execute(_DELETE, (self._delete,))
            self._delete = 0
        if self._since_ms:
            db.execute(_SINCE, (self._since_ms,))
            self._since_ms = 0

    def forget(self) -> None:
        """Nothing since the last commit has happened: read again when asked."""
        self._used = None
        self._new.clear()
        self._delete = self._since_ms = 0

    def _loaded(self, db: apsw.Connection) -> OrderedDict[Scope, Used]:
        if self._used is not None:
            return self._used
        now = self._clock.monotonic()
        since_ms = db.execute("SELECT value FROM meta WHERE name = 'keys_since'").get
        known = min(max((self._clock.wall_ms() - since_ms) / 1000, 0.0), limits.PUBLISH_KEY_LIFE)
        self._since = max(self._since, now - known)
        used: OrderedDict[Scope, Used] = OrderedDict()
        for number, channel, sender, key, epoch, offset, time in _decoder.decode(db.execute(_LOAD).get):
            used[channel, sender, key] = Used(number, now, epoch, offset, time)
        self._last = db.execute("SELECT ifnull(max(id), 0) FROM keys").get
        self._used = used
        return used
