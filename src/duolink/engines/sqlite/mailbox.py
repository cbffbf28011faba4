"""Mailboxes in the database."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import apsw
from msgspec import json

from duolink.engines.base import (
    Box,
    Done,
    Failure,
    Holding,
    MailboxLimits,
    Row,
    Standing,
    StoreResult,
    Stream,
)
from duolink.engines.box import seen
from duolink.engines.mailroom import Mailroom
from duolink.engines.memory import Clock
from duolink.engines.sqlite.holdings import read_deepest, read_holdings, read_listing
from duolink.engines.sqlite.shelf import SqliteShelf
from duolink.engines.sqlite.writer import Peek, Reader, Writer
from duolink.protocol.messages import LostRange

MAX_HELD: Final = 1000
"""Acknowledgements that wait for something else to be written; more are written at once."""

MAX_RETRIED: Final = 100_000
"""Acknowledgements that wait for a failed disk; of more, the oldest are dropped: receivers that come back
acknowledge again what they are sent again."""

ROW_COST: Final = 100
"""Bytes that a row takes beside its body, about."""

# The first rows behind a number (?3), or behind the client's (?2) cursor if that is further.
_PAGE: Final = """
    WITH mine AS MATERIALIZED (
        SELECT number, max(?3, CASE WHEN receiver = ?2 THEN cursor ELSE (
            SELECT cursor FROM cursors WHERE cursors.stream = number AND client_id = ?2) END) AS place
        FROM streams CROSS JOIN standings ON stream = number
        WHERE receiver = ?1 AND sender = ?4 AND lane = ?5 AND run = ?6
    )
    SELECT json_array(number, place, json((
        SELECT json_group_array(
            json_array(seq, last, reason, length(body), expires, flags, coalesce(collapse, ''), time)
            ORDER BY seq)
        FROM (
            SELECT * FROM (SELECT * FROM mail
                WHERE stream = number AND seq <= place ORDER BY seq DESC LIMIT 1) WHERE last > place
            UNION ALL
            SELECT * FROM (SELECT * FROM mail WHERE stream = number AND seq > place ORDER BY seq LIMIT ?7)))))
    FROM mine WHERE place IS NOT NULL
"""
_BODIES: Final = """
    SELECT json_group_array(hex(body) ORDER BY seq) FROM mail WHERE stream = ? AND seq BETWEEN ? AND ?
"""
_TOTALS: Final = "SELECT coalesce((SELECT value FROM meta WHERE name = ?), 0)"

Action = Callable[[Mailroom], Any]
Ack = tuple[Stream, str, int, tuple[LostRange, ...], int, int]


class _Waiting(NamedTuple):
    """What `open` could only read."""

    boxes: tuple[Box, ...]


class SqliteMailbox:
    """`Mailbox` on a database, and as a `Part` what its writer writes for.

    Acknowledgements wait for the next request that is written anyway, or for `turn`, so that taking many
    rows costs few commits.
    """

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        *,
        clock: Clock,
        limits: MailboxLimits,
        totals: tuple[int, int, int],
    ) -> None:
        self._writer, self._reader = writer, reader
        self._clock = clock
        self._limits = limits
        self._held: list[Ack] = []
        self._unwritten: dict[tuple[Stream, str], int] = {}  # how far they go, once writing them has failed
        self._sweeping = False
        self._totals = totals
        self._shelf: SqliteShelf | None = None  # this and the next belong to the writer
        self._room: Mailroom | None = None

    # --- the port ----------------------------------------------------------------------------

    def store(self, stream: Stream, row: Row, base: int, done: Done[StoreResult]) -> None:
        """See `Mailbox.store`."""
        now = self._clock.wall_ms()
        self._submit(lambda room: room.store(stream, row, base, now), done, len(row.body) + ROW_COST)

    def standing(self, stream: Stream, done: Done[Standing]) -> None:
        """See `Mailbox.standing`."""
        self._submit(lambda room: room.standing(stream), done)

    def acknowledge(
        self, stream: Stream, client_id: str, seq: int, lost: tuple[LostRange, ...], by: int
    ) -> None:
        """See `Mailbox.acknowledge`."""
        self._held.append((stream, client_id, seq, lost, by, self._clock.wall_ms()))
        if self._unwritten:
            self._note_unwritten(stream, client_id, seq)
        if len(self._held) >= MAX_HELD:
            self.turn()

    def open(self, client_id: str, user: str, run: int, done: Done[tuple[Box, ...]]) -> None:
        """See `Mailbox.open`."""
        now = self._clock.wall_ms()

        def opened(answer: tuple[Box, ...] | _Waiting | Failure) -> None:
            done(self._unfinished(answer.boxes, client_id) if isinstance(answer, _Waiting) else answer)

        peek = partial(_waiting, client_id, user, now, self._limits)
        self._submit(lambda room: room.open(client_id, user, run, now), opened, peek=peek)

    def read(
        self, stream: Stream, client_id: str, after: int, limit: int, size: int, done: Done[tuple[Row, ...]]
    ) -> None:
        """See `Mailbox.read`. It sees what was answered before, and of the acknowledgements those that are
        durable."""
        now = self._clock.wall_ms()
        self._reader.read(partial(read_rows, stream, client_id, after, limit, size, now), done)

    def totals(self) -> tuple[int, int]:
        """See `Mailbox.totals`."""
        return self._totals[:2]

    def receivers(self) -> int:
        """See `Mailbox.receivers`."""
        return self._totals[2]

    def holdings(self, receivers: tuple[str, ...], done: Done[tuple[Holding, ...]]) -> None:
        """See `Mailbox.holdings`."""
        self._reader.read(partial(read_holdings, receivers), done)

    def listing(self, after: str, limit: int, done: Done[tuple[Holding, ...]]) -> None:
        """See `Mailbox.listing`."""
        self._reader.read(partial(read_listing, after, limit), done)

    def deepest(self, limit: int, done: Done[tuple[Holding, ...]]) -> None:
        """See `Mailbox.deepest`."""
        self._reader.read(partial(read_deepest, limit), done)

    # --- time --------------------------------------------------------------------------------

    def turn(self) -> None:
        """Have the acknowledgements written that wait: to be called more often than every second."""
        if self._held:
            held, self._held = self._held, []
            self._writer.submit(self, partial(_acknowledge, held), partial(self._acknowledged, held))

    def sweep(self) -> None:
        """Look for what has expired and what nobody uses, a little at a time, until all was looked at."""
        if not self._sweeping:
            self._sweeping = True
            self._sweep_on(False)

    def close(self) -> None:
        """Have written what waits; before the writer closes."""
        self.turn()

    def _submit(self, action: Action, done: Done[Any], size: int = 0, peek: Peek | None = None) -> None:
        if self._held:
            self.turn()
        self._writer.submit(self, action, done, size, peek)

    def _acknowledged(self, held: list[Ack], result: object) -> None:
        if not isinstance(result, Failure):
            self._unwritten = {}
            return
        self._held = (held + self._held)[-MAX_RETRIED:]
        if not self._unwritten or len(self._unwritten) > MAX_RETRIED:
            self._unwritten = {}
            for stream, client_id, seq, *_ in self._held:
                self._note_unwritten(stream, client_id, seq)

    def _note_unwritten(self, stream: Stream, client_id: str, seq: int) -> None:
        self._unwritten[stream, client_id] = max(seq, self._unwritten.get((stream, client_id), 0))

    def _unfinished(self, boxes: tuple[Box, ...], client_id: str) -> tuple[Box, ...]:
        """What was read, without what has been acknowledged since."""
        left: list[Box] = []
        for box in boxes:
            seq = self._unwritten.get((box.stream, client_id), 0)
            if seq < box.top:
                left.append(box._replace(first=max(box.first, seq + 1)))
        return tuple(left)

    def _sweep_on(self, result: bool | Failure) -> None:
        if result is False:
            now = self._clock.wall_ms()
            self._writer.submit(self, lambda room: room.sweep(now), self._sweep_on)
        else:
            self._sweeping = False

    # --- the part ----------------------------------------------------------------------------

    def apply(self, db: apsw.Connection, request: Action) -> Any:
        """See `Part.apply`."""
        if self._shelf is None or self._room is None:
            self._shelf = SqliteShelf(db)
            self._room = Mailroom(self._shelf, self._limits)
        self._shelf.db = db
        return request(self._room)

    def flush(self, db: apsw.Connection) -> None:
        """See `Part.flush`."""
        if self._shelf is not None:
            self._shelf.write()

    def committed(self) -> None:
        """See `Part.committed`."""
        if self._shelf is not None:
            self._shelf.committed()
            total = self._shelf.total
            self._totals = total.messages, total.size, total.mailboxes

    def rolled_back(self) -> None:
        """See `Part.rolled_back`."""
        self._shelf = self._room = None


def _acknowledge(held: list[Ack], room: Mailroom) -> None:
    for ack in held:
        room.acknowledge(*ack)


def _waiting(
    client_id: str, user: str, now: int, limits: MailboxLimits, db: apsw.Connection
) -> _Waiting | None:
    boxes = Mailroom(SqliteShelf(db), limits).waiting(client_id, user, now)
    return None if boxes is None else _Waiting(boxes)


def read_totals(db: apsw.Connection) -> tuple[int, int, int]:
    """Read what `Mailbox.totals` and `Mailbox.receivers` tell. Raises `apsw.Error`."""
    names = ("mail_messages", "mail_size", "mailboxes")
    messages, size, receivers = (db.execute(_TOTALS, (name,)).get for name in names)
    return messages, size, receivers


def read_rows(
    stream: Stream, client_id: str, after: int, limit: int, size: int, now: int, db: apsw.Connection
) -> tuple[Row, ...]:
    """Read for `Mailbox.read`: first what the rows are, then the bodies of those that fit."""
    receiver, sender, lane, run = stream
    found = db.execute(_PAGE, (receiver, client_id, after, sender, lane, run, limit)).get
    if found is None:
        return ()
    number, place, rows = json.decode(found)
    count = 0
    for row in rows[:limit]:
        if count and size <= 0:
            break
        size -= row[3]
        count += 1
    if not count:
        return ()
    del rows[count:]
    bodies = json.decode(db.execute(_BODIES, (number, rows[0][0], rows[-1][0])).get)
    return seen(
        (
            Row(seq, last, bytes.fromhex(body), bool(flags), reason, expires, collapse, time)
            for (seq, last, reason, _, expires, flags, collapse, time), body in zip(rows, bodies, strict=True)
        ),
        place,
        now,
    )
