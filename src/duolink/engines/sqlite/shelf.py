"""Accounts and rows of mailboxes in the database, as the writer works on them.

What a batch changes is kept in a picture and written together: rows that come, accounts, and rows that
every cursor has passed. A row that comes and is finished with in one batch is never written. What is rare
(expiry, collapse, poison, users' new clients) is done in the database at once, within the transaction.

Questions whose answers are many rows ask for one row of JSON: between two rows apsw gives the
interpreter lock away, and waits to get it back.
"""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any, Final
from weakref import WeakValueDictionary

import apsw
from msgspec import json

from duolink.engines.base import Row, Stream
from duolink.engines.box import DEVICES, Account, Cursor, Folded, Meta, Tally
from duolink.engines.mailroom import Found, Sweep
from duolink.engines.sqlite.rows import Rows
from duolink.protocol.messages import LostRange

MAX_ACCOUNTS: Final = 20_000
"""Streams in the picture, about 30 MB; the rest is read again when it is needed."""

_LAST: Final = (
    "(SELECT json_array(seq, last, reason) FROM mail WHERE stream = number ORDER BY seq DESC LIMIT 1)"
)
_CURSORS: Final = """(SELECT json_group_array(
    json_array(client_id, cursor, first, count, since, process, start)) FROM cursors WHERE stream = number)"""
_ACCOUNT: Final = f"""json_array(number, receiver, sender, lane, run, stored, settled, lost, by, messages,
    size, losses, due, used, json_array(cursor, first, count, since, process),
    json({_LAST}), json({_CURSORS}))"""
_TABLES: Final = "streams CROSS JOIN standings ON stream = number"

_FIND: Final = f"""
    SELECT {_ACCOUNT} FROM {_TABLES} WHERE receiver = ? AND sender = ? AND lane = ? AND run = ?
"""
_SUMS: Final = "SELECT json_array(total(messages), total(size), total(losses))"
_TALLIES: Final = f"""
    SELECT json_array(json(({_SUMS} FROM {_TABLES} WHERE receiver = ?1)),
        json(({_SUMS} FROM {_TABLES} WHERE receiver = ?1 AND sender = ?2)),
        json(({_SUMS} FROM {_TABLES} WHERE sender = ?2)))
"""
_TALLY: Final = f"{_SUMS} FROM {_TABLES} WHERE receiver = ?"
_TOTALS: Final = """
    SELECT json_array((SELECT value FROM meta WHERE name = 'mail_messages'),
        (SELECT value FROM meta WHERE name = 'mail_size'), (SELECT value FROM meta WHERE name = 'mailboxes'),
        (SELECT max(number) FROM streams))
"""

# Of each stream of a client (?1) or its user (?2): its account, and the first row and the first message
# (at the time ?3) behind the client's cursor.
_BOXES: Final = f"""
    WITH mine AS (
        SELECT streams.*, standings.*, CASE WHEN receiver = ?1 THEN cursor ELSE coalesce((
            SELECT cursor FROM cursors WHERE cursors.stream = number AND client_id = ?1), stored) END AS place
        FROM {_TABLES} WHERE (receiver = ?1 AND messages + losses > 0) OR receiver = ?2
    )
    SELECT json_group_array(json_array({_ACCOUNT}, coalesce(
            (SELECT CASE WHEN last > place THEN seq END FROM mail
                WHERE mail.stream = number AND seq <= place ORDER BY seq DESC LIMIT 1),
            (SELECT seq FROM mail WHERE mail.stream = number AND seq > place ORDER BY seq LIMIT 1), 0),
        coalesce((SELECT seq FROM mail WHERE mail.stream = number AND seq > place AND reason = ''
            AND expires > ?3 ORDER BY seq LIMIT 1), 0)))
    FROM mine
"""
_MESSAGE: Final = """
    SELECT seq FROM mail WHERE stream = ? AND seq > ? AND reason = '' AND expires > ? ORDER BY seq LIMIT 1
"""
_META: Final = "json_group_array(json_array(seq, last, reason, length(body), expires) ORDER BY seq)"
_METAS: Final = f"""
    SELECT {_META} FROM (SELECT * FROM mail WHERE stream = ? AND seq >= ? ORDER BY seq LIMIT ?)
"""
_AROUND: Final = f"""
    SELECT {_META} FROM (
        SELECT * FROM (SELECT * FROM mail WHERE stream = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT 1)
        UNION ALL SELECT * FROM (SELECT * FROM mail WHERE stream = ?1 AND seq >= ?2 ORDER BY seq LIMIT 2))
"""
_COLLAPSED: Final = """
    SELECT json_group_array(json_array(receiver, sender, lane, run, seq, last, reason, length(body), expires))
    FROM streams CROSS JOIN mail ON stream = number AND collapse = ?4
    WHERE receiver = ?1 AND sender = ?2 AND lane = ?3
"""
_CANDIDATES: Final = f"""
    WITH looked AS MATERIALIZED (SELECT number AS n FROM streams WHERE number > ?1 ORDER BY number LIMIT ?2)
    SELECT json_array((SELECT count(*) FROM looked), (SELECT max(n) FROM looked), json((
        SELECT json_group_array({_ACCOUNT} ORDER BY number) FROM looked
        CROSS JOIN streams ON number = n CROSS JOIN standings ON stream = number
        WHERE (due AND due <= ?3) OR used < ?4 OR (used < ?5 AND messages + losses = 0 AND EXISTS (
            SELECT * FROM streams AS newer WHERE newer.receiver = streams.receiver AND newer.run > streams.run
                AND newer.sender = streams.sender AND newer.lane = streams.lane)))))
"""
_CLIENTS: Final = """
    SELECT json_group_array(client_id) FROM
        (SELECT client_id FROM clients WHERE user = ? ORDER BY seen DESC, client_id LIMIT ?)
"""

# Of each [stream, number] of a list: what every cursor has passed.
_PASSED: Final = """
    FROM json_each(?) AS passed CROSS JOIN mail
        ON stream = passed.value ->> 0 AND seq <= passed.value ->> 1 AND last <= passed.value ->> 1
"""
_COUNT_PASSED: Final = f"""
    SELECT json_group_array(json_array(stream, messages, size, losses)) FROM (
        SELECT stream, sum(reason = '') AS messages, sum(length(body)) AS size, sum(reason <> '') AS losses
        {_PASSED} GROUP BY stream)
"""
_DELETE_PASSED: Final = f"DELETE FROM mail WHERE (stream, seq) IN (SELECT stream, seq {_PASSED})"

_INSERT_STREAMS: Final = Rows("INSERT INTO streams VALUES {rows}", 5)
_INSERT_MAIL: Final = Rows("INSERT INTO mail VALUES {rows}", 9)
_PUT_MAIL: Final = Rows("INSERT OR REPLACE INTO mail VALUES {rows}", 9)
_PUT_STANDINGS: Final = Rows("INSERT OR REPLACE INTO standings VALUES {rows}", 15)
_PUT_CURSORS: Final = Rows("INSERT OR REPLACE INTO cursors VALUES {rows}", 8)
_PUT_MAILBOXES: Final = Rows(
    """
    INSERT INTO mailboxes VALUES {rows} ON CONFLICT (receiver) DO UPDATE SET
        messages = excluded.messages, size = excluded.size, senders = senders + excluded.senders
    """,
    4,
)
_DROP_MAILBOXES: Final = Rows("DELETE FROM mailboxes WHERE receiver IN (VALUES {rows})", 1)
_PUT_TOTALS: Final = """
    INSERT OR REPLACE INTO meta VALUES ('mail_messages', ?), ('mail_size', ?), ('mailboxes', ?)
"""
_FORGET: Final = (
    "DELETE FROM mail WHERE stream = ?",
    "DELETE FROM cursors WHERE stream = ?",
    "DELETE FROM standings WHERE stream = ?",
    "DELETE FROM streams WHERE number = ?",
)

_NOT_COUNTED: Final = Tally()
"""In place of the tallies of an account that is only looked at."""


class _Pair(Tally):
    """How much a receiver is sent by one sender. `listed`: whether that counts among the senders of
    `mailboxes`."""

    __slots__ = ("listed",)

    def __init__(self, messages: int = 0, size: int = 0, losses: int = 0) -> None:
        super().__init__(messages, size, losses)
        self.listed = messages > 0


class _Kept(Account):
    """An account of the picture. `fresh`: rows that came in this batch, by their first number; `written`: the
    first number of the last row on disk; `grown`: what that has become, if it is a loss that has grown."""

    __slots__ = ("dirty", "fresh", "grown", "new", "written")

    def __init__(self, number: int, stream: Stream, stored: int, used: int) -> None:
        super().__init__(number, stream, (_NOT_COUNTED,) * 4, stored, used)
        self.fresh: dict[int, Row] = {}
        self.written = 0
        self.grown: Row | None = None
        self.dirty = self.new = False


class SqliteShelf:
    """`Shelf`, and what is to be written. `db` is set before each use."""

    def __init__(self, db: apsw.Connection) -> None:
        self.db = db
        messages, size, mailboxes, number = self._ask(_TOTALS)
        self.total = Tally(messages or 0, size or 0)
        self.total.mailboxes = mailboxes or 0
        self._number = number or 0
        self._accounts: dict[Stream, _Kept] = {}
        self._tallies: WeakValueDictionary[tuple[str, ...], Tally] = WeakValueDictionary()
        self._dirty: list[_Kept] = []
        self._dirty_receivers: set[str] = set()
        self._new: list[_Kept] = []
        self._passed: dict[int, _Kept] = {}  # accounts with rows on disk that every cursor has passed
        self._gone: list[tuple[int, int]] = []  # the same, counted out already

    def _ask(self, query: str, *values: Any) -> Any:
        answer = self.db.execute(query, values).get
        return None if answer is None else json.decode(answer)

    # --- accounts ----------------------------------------------------------------------------

    def find(self, stream: Stream) -> _Kept | None:
        """See `Shelf.find`."""
        account = self._accounts.get(stream)
        if account is None:
            values = self._ask(_FIND, *stream)
            if values is None:
                return None
            account = self._adopt(values)
        if account.total is _NOT_COUNTED:
            self._bind(account)
        return account

    def _adopt(self, values: list[Any]) -> _Kept:
        """The account of the picture for one that was read."""
        stream = Stream(*values[1:5])
        account = self._accounts.get(stream)
        if account is not None:
            return account
        number, stored, settled, lost, by = values[0], *values[5:9]
        messages, size, losses, due, used, cursor, last, cursors = values[9:]
        account = self._accounts[stream] = _Kept(number, stream, stored, used)
        account.settled, account.by = settled, by
        if lost:
            account.lost = json.decode(lost, type=tuple[LostRange, ...])
        account.messages, account.size, account.losses = messages, size, losses
        account.due = due or inf
        if stream.receiver.startswith("@"):
            account.cursors = {each[0]: Cursor(*each[1:]) for each in cursors}
        else:
            account.cursors = {stream.receiver: Cursor(*cursor)}
        if last is not None:
            self._place_tail(account, last)
        return account

    @staticmethod
    def _place_tail(account: _Kept, last: list[Any]) -> None:
        account.written, account.top, reason = last
        account.tail, account.tail_reason = (account.written, reason) if reason else (0, "")

    def _bind(self, account: Account) -> None:
        """Give an account its tallies. Whoever has changed since the last commit has them, so what none of
        the picture counts into is in the database as it is."""
        receiver, sender = account.stream.receiver, account.stream.sender
        keys = (("to", receiver), ("pair", receiver, sender), ("from", sender))
        tallies = [self._tallies.get(key) for key in keys]
        if None in tallies:
            read = self._ask(_TALLIES, receiver, sender)
            for at, (key, tally) in enumerate(zip(keys, tallies, strict=True)):
                if tally is None:
                    kind = _Pair if key[0] == "pair" else Tally
                    tallies[at] = self._tallies[key] = kind(*map(int, read[at]))
        account.receiver, account.pair, account.sender = tallies  # type: ignore[assignment]
        account.total = self.total

    def tally(self, receiver: str) -> Tally:
        """See `Shelf.tally`."""
        tally = self._tallies.get(("to", receiver))
        if tally is None:
            tally = Tally(*map(int, self._ask(_TALLY, receiver)))
        return tally

    def create(self, stream: Stream, stored: int, clients: Sequence[str], now: int) -> _Kept:
        """See `Shelf.create`."""
        self._number += 1
        account = self._accounts[stream] = _Kept(self._number, stream, stored, now)
        self._bind(account)
        account.cursors = {client: Cursor(stored, start=stored) for client in clients}
        account.new = True
        self._new.append(account)
        self.changed(account)
        return account

    def changed(self, account: Account) -> None:
        """See `Shelf.changed`."""
        assert isinstance(account, _Kept)
        if not account.dirty:
            account.dirty = True
            self._dirty.append(account)
            self._dirty_receivers.add(account.stream.receiver)

    def forget(self, account: Account) -> None:
        """See `Shelf.forget`."""
        self.write()
        del self._accounts[account.stream]
        for statement in _FORGET:
            self.db.execute(statement, (account.number,))
        self._put_mailboxes((account,))
        self._put_totals()

    def boxes(self, client_id: str, user: str, now: int) -> list[Found]:
        """See `Shelf.boxes`."""
        receivers = (client_id, f"@{user}" if user else "")
        if not self._dirty_receivers.isdisjoint(receivers):
            self.write()
        found = self._ask(_BOXES, *receivers, now)
        return [Found(self._adopt(values), first, message) for values, first, message in found]

    def candidates(self, after: int, limit: int, sweep: Sweep) -> tuple[int, list[Account]]:
        """See `Shelf.candidates`."""
        self.write()
        count, last, found = self._ask(_CANDIDATES, after, limit, *sweep)
        accounts: list[Account] = []
        for values in found:
            account = self._adopt(values)
            if account.total is _NOT_COUNTED:
                self._bind(account)
            accounts.append(account)
        return (last if count == limit else 0), accounts

    def clients(self, user: str) -> Sequence[str]:
        """See `Shelf.clients`."""
        found: list[str] = self._ask(_CLIENTS, user, DEVICES)
        return found

    def knows(self, client_id: str) -> bool:
        """See `Shelf.knows`."""
        return self.db.execute("SELECT 1 FROM clients WHERE client_id = ?", (client_id,)).get is not None

    # --- rows --------------------------------------------------------------------------------

    def append(self, account: Account, row: Row) -> None:
        """See `Shelf.append`."""
        assert isinstance(account, _Kept)
        if row.seq == account.written and row.reason:
            account.grown = row
        else:
            account.fresh[row.seq] = row

    def trim(self, account: Account) -> None:
        """See `Shelf.trim`."""
        assert isinstance(account, _Kept)
        floor, fresh = account.floor, account.fresh
        on_disk = account.messages + account.losses > len(fresh)
        if on_disk and floor >= account.top:
            self._gone.append((account.number, floor))
            self._passed.pop(account.number, None)
            fresh.clear()
            account.grown, account.written = None, 0
            account.count(-account.messages, -account.size, -account.losses)
            return
        if on_disk:
            self._passed[account.number] = account
        passed = [row for row in fresh.values() if row.last <= floor] if fresh else ()
        for row in passed:
            del fresh[row.seq]
            account.count(-(not row.reason), -len(row.body), -bool(row.reason))

    def settle(self) -> None:
        """See `Shelf.settle`."""
        if not self._passed:
            return
        accounts, self._passed = self._passed, {}
        self._put_grown(list(accounts.values()))
        passed = json.encode([(number, account.floor) for number, account in accounts.items()]).decode()
        for number, messages, size, losses in self._ask(_COUNT_PASSED, passed):
            accounts[number].count(-messages, -size, -losses)
        self.db.execute(_DELETE_PASSED, (passed,))

    def rewrite(self, account: Account, folded: Folded) -> None:
        """See `Shelf.rewrite`."""
        assert isinstance(account, _Kept)
        if folded.gone:
            self.db.execute(
                "DELETE FROM mail WHERE stream = ? AND seq IN (SELECT value FROM json_each(?))",
                (account.number, json.encode(folded.gone).decode()),
            )
        losses = [(account.number, *loss, 0, 0, None, 0, b"") for loss in folded.losses]
        _PUT_MAIL.write(self.db, losses)
        for seq, last, _ in folded.losses:
            if last == account.top:
                account.written = seq

    def message(self, account: Account, after: int, now: int) -> int:
        """See `Shelf.message`."""
        found: int | None = self.db.execute(_MESSAGE, (account.number, after, now)).get
        return found or 0

    def around(self, account: Account, seq: int) -> list[Meta]:
        """See `Shelf.around`."""
        self.write()
        if account.total is _NOT_COUNTED:
            self._bind(account)
        return [Meta(*each) for each in self._ask(_AROUND, account.number, seq)]

    def metas(self, account: Account, first: int, limit: int) -> list[Meta]:
        """See `Shelf.metas`."""
        self.write()
        return [Meta(*each) for each in self._ask(_METAS, account.number, first, limit)]

    def collapsed(self, stream: Stream, key: str) -> list[tuple[Account, Meta]]:
        """See `Shelf.collapsed`."""
        self.write()
        found: list[tuple[Account, Meta]] = []
        for each in self._ask(_COLLAPSED, stream.receiver, stream.sender, stream.lane, key):
            account = self.find(Stream(*each[:4]))
            if account is not None:
                found.append((account, Meta(*each[4:])))
        return found

    # --- writing -----------------------------------------------------------------------------

    def write(self) -> None:
        """Write what the picture is ahead of the database."""
        if not self._dirty:
            return
        self.settle()
        db, dirty = self.db, self._dirty
        if self._gone:
            db.execute(_DELETE_PASSED, (json.encode(self._gone).decode(),))
            self._gone = []
        if self._new:
            _INSERT_STREAMS.write(db, [(account.number, *account.stream) for account in self._new])
            for account in self._new:
                account.new = False
            self._new = []
        self._put_grown(dirty)
        mail: list[tuple[Any, ...]] = []
        for account in dirty:
            if account.fresh:
                number = account.number
                for row in account.fresh.values():
                    seq, last, body, binary, reason, expires, collapse, time = row
                    flags = int(binary)
                    mail.append((number, seq, last, reason, expires, flags, collapse or None, time, body))
                account.written = seq
                account.fresh = {}
        if mail:
            _INSERT_MAIL.write(db, mail)
        _PUT_STANDINGS.write(db, [_standing(account) for account in dirty])
        cursors = [
            (account.number, client, each.seq, each.first, each.count, each.since, each.run, each.start)
            for account in dirty
            if account.shared
            for client, each in account.cursors.items()
        ]
        _PUT_CURSORS.write(db, cursors)
        self._put_mailboxes(dirty)
        self._put_totals()
        for account in dirty:
            account.dirty = False
        self._dirty = []
        self._dirty_receivers.clear()

    def _put_mailboxes(self, accounts: Iterable[Account]) -> None:
        """Write what the receivers of accounts have now."""
        found: dict[str, tuple[Tally, int]] = {}
        for account in accounts:
            tally, receiver, pair = account.receiver, account.stream.receiver, account.pair
            if tally is _NOT_COUNTED:
                continue  # only looked at: it has not changed
            assert isinstance(pair, _Pair)
            more = (pair.messages > 0) - pair.listed
            pair.listed = pair.messages > 0
            found[receiver] = tally, more + (found[receiver][1] if receiver in found else 0)
        put = [(r, tally.messages, tally.size, more) for r, (tally, more) in found.items() if tally.messages]
        _PUT_MAILBOXES.write(self.db, put)
        _DROP_MAILBOXES.write(self.db, [(r,) for r, (tally, _) in found.items() if not tally.messages])

    def _put_totals(self) -> None:
        total = self.total
        self.db.execute(_PUT_TOTALS, (total.messages, total.size, total.mailboxes))

    def _put_grown(self, accounts: Sequence[_Kept]) -> None:
        grown = [(account.number, account.grown) for account in accounts if account.grown is not None]
        _PUT_MAIL.write(self.db, [(n, row.seq, row.last, row.reason, 0, 0, None, 0, b"") for n, row in grown])
        for account in accounts:
            account.grown = None

    def committed(self) -> None:
        """All is written; the picture may forget some."""
        if len(self._accounts) > MAX_ACCOUNTS:
            for stream in list(self._accounts)[: MAX_ACCOUNTS // 4]:
                del self._accounts[stream]


_NO_CURSOR: Final = Cursor(0)


def _standing(account: Account) -> tuple[Any, ...]:
    cursor = _NO_CURSOR if account.shared else account.cursors[account.stream.receiver]
    return (
        account.number,
        account.stored,
        account.settled,
        json.encode(account.lost).decode() if account.lost else "",
        account.by,
        account.messages,
        account.size,
        account.losses,
        0 if account.due == inf else int(account.due),
        account.used,
        cursor.seq,
        cursor.first,
        cursor.count,
        cursor.since,
        cursor.run,
    )
