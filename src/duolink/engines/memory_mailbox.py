"""Mailboxes in memory: gone with the process, but under the same rules as those on disk."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakValueDictionary

from duolink.engines.base import Box, Done, Holding, MailboxLimits, Row, Standing, StoreResult, Stream
from duolink.engines.box import Account, Cursor, Folded, Meta, Tally, seen
from duolink.engines.mailroom import Found, Mailroom, Sweep
from duolink.protocol.messages import LostRange

if TYPE_CHECKING:
    from duolink.engines.memory import Clock, Schedule

MAX_STALE: Final = 256
"""Receivers whose places in the listings are out of date: what one look at them may have to put right, about
a millisecond among 10,000."""

SWEEP_EVERY: Final = 10.0
"""Seconds between two looks for what has expired or is unused."""


class Clients(Protocol):
    """Who has ever registered."""

    def knows(self, client_id: str) -> bool:
        """Whether this client has."""
        ...

    def clients(self, user: str) -> Sequence[str]:
        """The clients of a user, those seen last first."""
        ...


class _MemoryShelf:
    """`Shelf` in memory."""

    def __init__(self, clients: Clients) -> None:
        self.total = Tally()
        self.knows, self.clients = clients.knows, clients.clients
        self._accounts: dict[Stream, Account] = {}
        self._receivers: dict[str, dict[Stream, Account]] = {}
        self._numbers: list[int] = []  # of all accounts, in order
        self._by_number: dict[int, Account] = {}
        self._rows: dict[int, list[Row]] = {}
        self._tallies: WeakValueDictionary[tuple[str, ...], Tally] = WeakValueDictionary()
        self._count = 0
        self._index = _Index(self)

    # --- accounts ----------------------------------------------------------------------------

    def find(self, stream: Stream) -> Account | None:
        return self._accounts.get(stream)

    def tally(self, receiver: str) -> Tally:
        return self._tally("to", receiver)

    def _tally(self, *key: str) -> Tally:
        tally = self._tallies.get(key)
        if tally is None:  # no account counts into it
            tally = self._tallies[key] = Tally()
        return tally

    def create(self, stream: Stream, stored: int, clients: Sequence[str], now: int) -> Account:
        receiver, sender = stream.receiver, stream.sender
        tallies = self.tally(receiver), self._tally("pair", receiver, sender), self._tally("from", sender)
        self._count += 1
        account = Account(self._count, stream, (*tallies, self.total), stored, now)
        account.cursors = {client: Cursor(stored, start=stored) for client in clients}
        self._accounts[stream] = self._by_number[account.number] = account
        self._receivers.setdefault(receiver, {})[stream] = account
        self._numbers.append(account.number)
        self._rows[account.number] = []
        return account

    def changed(self, account: Account) -> None:
        self._index.changed(account.stream.receiver)

    def forget(self, account: Account) -> None:
        stream, number = account.stream, account.number
        del self._accounts[stream], self._by_number[number], self._rows[number]
        del self._numbers[bisect_left(self._numbers, number)]
        streams = self._receivers[stream.receiver]
        del streams[stream]
        if not streams:
            del self._receivers[stream.receiver]
        self._index.changed(stream.receiver)

    def boxes(self, client_id: str, user: str, now: int) -> list[Found]:
        found: list[Found] = []
        receivers = (client_id, f"@{user}") if user else (client_id,)
        for account in [a for receiver in receivers for a in self._receivers.get(receiver, {}).values()]:
            cursor = account.cursors.get(client_id)
            after = account.stored if cursor is None else cursor.seq
            rows = self._rows[account.number]
            at = bisect_right(rows, after, key=_last)
            first = rows[at].seq if at < len(rows) else 0
            found.append(Found(account, first, self.message(account, after, now)))
        return found

    def candidates(self, after: int, limit: int, sweep: Sweep) -> tuple[int, list[Account]]:
        start = bisect_right(self._numbers, after)
        looked = self._numbers[start : start + limit]
        last = looked[-1] if len(looked) == limit else 0
        return last, [a for a in map(self._by_number.__getitem__, looked) if self._is_for(a, sweep)]

    def _is_for(self, account: Account, sweep: Sweep) -> bool:
        if account.due <= sweep.due or account.used < sweep.unused:
            return True
        if account.rows or account.used >= sweep.idle:
            return False
        receiver, sender, lane, run = account.stream
        return any(
            (other.sender, other.lane) == (sender, lane) and other.run > run
            for other in self._receivers[receiver]
        )

    # --- listings ----------------------------------------------------------------------------

    def depth(self, receiver: str) -> int:
        """How many messages a receiver has."""
        return sum(account.messages for account in self._receivers.get(receiver, {}).values())

    def holdings(self, receivers: Iterable[str]) -> tuple[Holding, ...]:
        return tuple(self._holding(receiver) for receiver in receivers if self.depth(receiver))

    def listing(self, after: str, limit: int) -> tuple[Holding, ...]:
        return self.holdings(self._index.listing(after, limit))

    def deepest(self, limit: int) -> tuple[Holding, ...]:
        return self.holdings(self._index.deepest(limit))

    def _holding(self, receiver: str) -> Holding:
        accounts = [account for account in self._receivers[receiver].values() if account.messages]
        return Holding(
            receiver,
            sum(account.messages for account in accounts),
            sum(account.size for account in accounts),
            len({account.stream.sender for account in accounts}),
            min(next(r.time for r in self._rows[a.number] if not r.reason) for a in accounts),
        )

    # --- rows --------------------------------------------------------------------------------

    def append(self, account: Account, row: Row) -> None:
        rows = self._rows[account.number]
        if rows and rows[-1].seq == row.seq:
            rows.pop()
        rows.append(row)

    def trim(self, account: Account) -> None:
        rows, floor = self._rows[account.number], account.floor
        count = bisect_right(rows, floor, key=_last)
        gone = rows[:count]
        del rows[:count]
        losses = sum(1 for row in gone if row.reason)
        account.count(losses - count, -sum(len(row.body) for row in gone), -losses)

    def settle(self) -> None:
        pass

    def rewrite(self, account: Account, folded: Folded) -> None:
        rows = self._rows[account.number]
        for seq, last, reason in folded.losses:
            rows[bisect_left(rows, seq, key=_seq)] = Row(seq, last, reason=reason)
        gone = set(folded.gone)
        if gone:
            first, last = min(gone), max(gone)
            start, end = bisect_left(rows, first, key=_seq), bisect_right(rows, last, key=_seq)
            rows[start:end] = [row for row in rows[start:end] if row.seq not in gone]

    def message(self, account: Account, after: int, now: int) -> int:
        rows = self._rows[account.number]
        for at in range(bisect_right(rows, after, key=_last), len(rows)):
            if not rows[at].reason and rows[at].expires > now:
                return rows[at].seq
        return 0

    def around(self, account: Account, seq: int) -> list[Meta]:
        rows = self._rows[account.number]
        at = bisect_left(rows, seq, key=_seq)
        return [_meta(row) for row in rows[max(at - 1, 0) : at + 2]]

    def metas(self, account: Account, first: int, limit: int) -> list[Meta]:
        rows = self._rows[account.number]
        at = bisect_left(rows, first, key=_seq)
        return [_meta(row) for row in rows[at : at + limit]]

    def read(
        self, stream: Stream, client_id: str, after: int, limit: int, size: int, now: int
    ) -> tuple[Row, ...]:
        account = self._accounts.get(stream)
        cursor = None if account is None else account.cursors.get(client_id)
        if account is None or cursor is None:
            return ()
        after = max(after, cursor.seq)
        rows = self._rows[account.number]
        at = bisect_right(rows, after, key=_last)
        result: list[Row] = []
        for row in rows[at : at + limit]:
            if size <= 0 and result:
                break
            size -= len(row.body)
            result.append(row)
        return seen(result, after, now)

    def collapsed(self, stream: Stream, key: str) -> list[tuple[Account, Meta]]:
        return [
            (account, _meta(row))
            for other, account in self._receivers.get(stream.receiver, {}).items()
            if (other.sender, other.lane) == (stream.sender, stream.lane)
            for row in self._rows[account.number]
            if row.collapse == key and not row.reason
        ]


class _Index:
    """Receivers with messages by name and by depth, brought up to date when they are looked at, or when too
    many are not."""

    def __init__(self, shelf: _MemoryShelf) -> None:
        self._shelf = shelf
        self._stale: set[str] = set()
        self._depths: dict[str, int] = {}
        self._names: list[str] = []
        self._by_depth: list[tuple[int, str]] = []

    def changed(self, receiver: str) -> None:
        self._stale.add(receiver)
        if len(self._stale) >= MAX_STALE:
            self._freshen()

    def listing(self, after: str, limit: int) -> list[str]:
        self._freshen()
        at = bisect_right(self._names, after)
        return self._names[at : at + limit]

    def deepest(self, limit: int) -> list[str]:
        self._freshen()
        return [receiver for _, receiver in self._by_depth[:limit]]

    def _freshen(self) -> None:
        for receiver in self._stale:
            before, depth = self._depths.pop(receiver, 0), self._shelf.depth(receiver)
            if depth:
                self._depths[receiver] = depth
            if before == depth:
                continue
            if before:
                del self._by_depth[bisect_left(self._by_depth, (-before, receiver))]
            if depth:
                insort(self._by_depth, (-depth, receiver))
            if not before:
                insort(self._names, receiver)
            elif not depth:
                del self._names[bisect_left(self._names, receiver)]
        self._stale.clear()


def _seq(row: Row) -> int:
    return row.seq


def _last(row: Row) -> int:
    return row.last


def _meta(row: Row) -> Meta:
    return Meta(row.seq, row.last, row.reason, len(row.body), row.expires)


class MemoryMailbox:
    """`Mailbox` in memory. It remembers clients as the registry does, which is told of them."""

    def __init__(self, clock: "Clock", clients: Clients, limits: MailboxLimits, schedule: "Schedule") -> None:
        self._clock = clock
        self._schedule = schedule
        self._shelf = _MemoryShelf(clients)
        self._room = Mailroom(self._shelf, limits)
        self._swept = clock.monotonic()

    def store(self, stream: Stream, row: Row, base: int, done: Done[StoreResult]) -> None:
        """See `Mailbox.store`."""
        self._submit(stream.receiver, lambda now: self._room.store(stream, row, base, now), done)

    def standing(self, stream: Stream, done: Done[Standing]) -> None:
        """See `Mailbox.standing`."""
        self._submit(stream.receiver, lambda now: self._room.standing(stream), done)

    def acknowledge(
        self, stream: Stream, client_id: str, seq: int, lost: tuple[LostRange, ...], by: int
    ) -> None:
        """See `Mailbox.acknowledge`."""
        self._submit(
            stream.receiver,
            lambda now: self._room.acknowledge(stream, client_id, seq, lost, by, now),
            _nobody,
        )

    def open(self, client_id: str, user: str, run: int, done: Done[tuple[Box, ...]]) -> None:
        """See `Mailbox.open`."""
        self._submit(client_id, lambda now: self._room.open(client_id, user, run, now), done)

    def read(
        self, stream: Stream, client_id: str, after: int, limit: int, size: int, done: Done[tuple[Row, ...]]
    ) -> None:
        """See `Mailbox.read`."""
        self._submit(
            stream.receiver, lambda now: self._shelf.read(stream, client_id, after, limit, size, now), done
        )

    def totals(self) -> tuple[int, int]:
        """See `Mailbox.totals`."""
        return self._shelf.total.messages, self._shelf.total.size

    def receivers(self) -> int:
        """See `Mailbox.receivers`."""
        return self._shelf.total.mailboxes

    def holdings(self, receivers: tuple[str, ...], done: Done[tuple[Holding, ...]]) -> None:
        """See `Mailbox.holdings`."""
        self._submit("", lambda now: self._shelf.holdings(receivers), done)

    def listing(self, after: str, limit: int, done: Done[tuple[Holding, ...]]) -> None:
        """See `Mailbox.listing`."""
        self._submit("", lambda now: self._shelf.listing(after, limit), done)

    def deepest(self, limit: int, done: Done[tuple[Holding, ...]]) -> None:
        """See `Mailbox.deepest`."""
        self._submit("", lambda now: self._shelf.deepest(limit), done)

    def _submit(self, receiver: str, action: Callable[[int], Any], done: Done[Any]) -> None:
        def work() -> Callable[[], None]:
            now = self._clock.wall_ms()
            self._sweep(now)
            return partial(done, action(now))

        self._schedule.submit(f"mail {receiver}", work)

    def _sweep(self, now: int) -> None:
        if self._clock.monotonic() >= self._swept + SWEEP_EVERY and self._room.sweep(now):
            self._swept = self._clock.monotonic()


def _nobody(_: object) -> None:
    pass
