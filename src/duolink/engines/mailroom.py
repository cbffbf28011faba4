"""The rules of all mailboxes of an engine: quotas, users, what expires, is replaced, is poison, is forgotten.

A `Mailroom` answers what the `Mailbox` port asks, at once. Where accounts and rows are is the business of a
`Shelf`: in memory or in a database.
"""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Final, NamedTuple, Protocol

from duolink.engines.base import Box, MailboxLimits, Row, Standing, StoreResult, Stream, Verdict
from duolink.engines.box import MAX_LOSSES, Account, Cursor, Folded, Meta, Tally, fold
from duolink.protocol.codes import LossReason
from duolink.protocol.messages import LostRange

SWEEP_STREAMS: Final = 500
"""Streams that one sweep looks at; with `SWEEP_ROWS`, some milliseconds in which nothing is stored."""

SWEEP_ROWS: Final = 1000
"""Rows of one stream that one sweep looks at, and rows after which it forgets no further stream."""

OLD_RUN_LIFE: Final = 60_000
"""Milliseconds a finished stream is kept though its sender has begun a newer run: longer than a store of the
old one can be under way."""


class Sweep(NamedTuple):
    """Which streams a sweep is for: with rows that expired by `due`, unused since `unused`, or finished,
    unused since `idle` and followed by a newer run."""

    due: int
    unused: int
    idle: int


class Found(NamedTuple):
    """An account, and behind its client's cursor the first row, or what is left of it, and the first message
    that has not expired (0: none)."""

    account: Account
    first: int
    message: int


class Shelf(Protocol):
    """Holds accounts and rows for a `Mailroom`."""

    total: Tally
    """Of everybody together."""

    def tally(self, receiver: str) -> Tally:
        """How much a receiver has."""
        ...

    def find(self, stream: Stream) -> Account | None:
        """The stream's account."""
        ...

    def create(self, stream: Stream, stored: int, clients: Sequence[str], now: int) -> Account:
        """A new account, with a cursor at `stored` for each client."""
        ...

    def changed(self, account: Account) -> None:
        """The account is another one than before."""
        ...

    def forget(self, account: Account) -> None:
        """Drop the account and its rows, which have been counted out."""
        ...

    def append(self, account: Account, row: Row) -> None:
        """Put a row at the end, or in the place of the last one if that has the same number."""
        ...

    def trim(self, account: Account) -> None:
        """Drop the rows that every cursor has passed, and count them out: now, or when `settle` is called."""
        ...

    def settle(self) -> None:
        """Count out what `trim` left for later."""
        ...

    def rewrite(self, account: Account, folded: Folded) -> None:
        """Turn rows into losses, and drop those that have become part of another."""
        ...

    def message(self, account: Account, after: int, now: int) -> int:
        """The first message behind a number that has not expired; 0: none."""
        ...

    def around(self, account: Account, seq: int) -> list[Meta]:
        """A row and its neighbours, in order."""
        ...

    def metas(self, account: Account, first: int, limit: int) -> list[Meta]:
        """Rows from a number on, in order."""
        ...

    def collapsed(self, stream: Stream, key: str) -> list[tuple[Account, Meta]]:
        """The messages with that collapse key of the stream's receiver, sender and lane."""
        ...

    def boxes(self, client_id: str, user: str, now: int) -> list[Found]:
        """The accounts of a client that have rows, and all of its user, if there is one."""
        ...

    def candidates(self, after: int, limit: int, sweep: Sweep) -> tuple[int, list[Account]]:
        """Look at so many accounts behind a number, in the order of their numbers. Returns the last one that
        was looked at (0: that was the end) and those the sweep is for."""
        ...

    def clients(self, user: str) -> Sequence[str]:
        """The clients of a user, those seen last first, at most `box.DEVICES`."""
        ...

    def knows(self, client_id: str) -> bool:
        """Whether a client has registered once."""
        ...


class Mailroom:
    """`Mailbox`, answering at once."""

    def __init__(self, shelf: Shelf, limits: MailboxLimits) -> None:
        self._shelf = shelf
        self._limits = limits
        self._retention = int(limits.retention * 1000)
        self._swept = 0  # the number of the last account a sweep looked at
        self._looks: dict[int, tuple[int, float]] = {}  # within an account: next row, earliest expiry so far

    # --- storing -----------------------------------------------------------------------------

    def store(self, stream: Stream, row: Row, base: int, now: int) -> StoreResult:
        """See `Mailbox.store`."""
        account = self._shelf.find(stream)
        if account is None:
            clients = self._clients(stream)
            if not clients or not self._may_begin(self._shelf.tally(stream.receiver)):
                return StoreResult(Verdict.NOBODY)
            if row.seq > base:
                return StoreResult(Verdict.HOLE, Standing(base - 1, base - 1))
            account = self._shelf.create(stream, base - 1, clients, now)
        elif base > account.settled + 1 or account.lost:
            self._rebase(account, base)
        last = row.last if row.reason else row.seq
        if last <= account.stored:
            return StoreResult(Verdict.KEPT, account.standing)
        if row.seq > account.stored + 1:
            return StoreResult(Verdict.HOLE, account.standing)
        if not self._may_begin(account.receiver):
            return StoreResult(Verdict.NOBODY, account.standing)
        verdict, row = self._admit(account, row, now)
        account.used = now
        self._shelf.append(account, account.append(row))
        self._shelf.changed(account)
        return StoreResult(verdict, account.standing)

    def _admit(self, account: Account, row: Row, now: int) -> tuple[Verdict, Row]:
        """What is to be kept for a row whose turn it is."""
        seq = account.stored + 1  # of a skip that begins earlier, the rest
        if row.reason:
            return Verdict.KEPT, Row(seq, row.last, reason=row.reason)
        expires = now + self._retention
        if row.expires:
            expires = min(expires, row.expires)
        if expires <= now:
            return Verdict.KEPT, Row(seq, seq, reason=LossReason.EXPIRED)
        size = len(row.body)
        older = self._shelf.collapsed(account.stream, row.collapse) if row.collapse else []
        if older and self._fits(account, size, now, len(older), sum(meta.size for _, meta in older)):
            for other, meta in older:
                reason = LossReason.EXPIRED if meta.expires <= now else LossReason.REPLACED
                self._lose(other, self._shelf.around(other, meta.seq), (meta.seq,), reason)
        elif older or not self._fits(account, size, now):
            return Verdict.FULL, Row(seq, seq, reason=LossReason.MAILBOX_FULL)
        return Verdict.KEPT, row._replace(seq=seq, last=seq, expires=expires, time=now)

    def _fits(self, account: Account, size: int, now: int, freed: int = 0, freed_size: int = 0) -> bool:
        if account.fits(self._limits, size, freed, freed_size):
            return True
        self._shelf.settle()
        if not freed and account.due <= now:
            self._expire(account, now)
        return account.fits(self._limits, size, freed, freed_size)

    def _clients(self, stream: Stream) -> Sequence[str]:
        """Who has a cursor in a new stream; nobody: there is no such mailbox."""
        receiver = stream.receiver
        if receiver.startswith("@"):
            return self._shelf.clients(receiver[1:])
        if self._limits.known_only and not self._shelf.knows(receiver):
            return ()
        return (receiver,)

    def _may_begin(self, receiver: Tally) -> bool:
        """Whether a receiver may have rows that has none."""
        if receiver.messages or receiver.losses or self._limits.known_only:
            return True
        if self._shelf.total.mailboxes >= self._limits.mailboxes:
            self._shelf.settle()
        return self._shelf.total.mailboxes < self._limits.mailboxes

    def _rebase(self, account: Account, base: int) -> None:
        if account.rebase(base):
            self._shelf.trim(account)
        self._shelf.changed(account)

    # --- telling, finishing --------------------------------------------------------------------

    def standing(self, stream: Stream) -> Standing:
        """See `Mailbox.standing`."""
        account = self._shelf.find(stream)
        return Standing() if account is None else account.standing

    def acknowledge(
        self, stream: Stream, client_id: str, seq: int, lost: Sequence[LostRange], by: int, now: int
    ) -> None:
        """See `Mailbox.acknowledge`."""
        account = self._shelf.find(stream)
        if account is None:
            user = stream.receiver.startswith("@")
            if seq <= 0 or not (user or client_id == stream.receiver):
                return
            clients = self._shelf.clients(stream.receiver[1:]) if user else (client_id,)
            account = self._shelf.create(stream, 0, clients, now)
            account.finish(client_id, seq, lost, by)
            for client in account.cursors.keys() - {client_id}:
                account.join(client)  # nothing was kept for the others
        elif account.finish(client_id, seq, lost, by):
            self._shelf.trim(account)
        account.used = now
        self._shelf.changed(account)

    # --- taking --------------------------------------------------------------------------------

    def open(self, client_id: str, user: str, run: int, now: int) -> tuple[Box, ...]:
        """See `Mailbox.open`."""
        boxes: list[Box] = []
        for account, first, message in self._shelf.boxes(client_id, user, now):
            cursor = account.cursors.get(client_id)
            if cursor is None:
                account.join(client_id)
                self._shelf.changed(account)
            elif account.top > cursor.seq:
                self._began(account, cursor, run, message, now)
                boxes.append(_box(account, cursor, first))
        boxes.sort(key=_by_sender_and_run)
        return tuple(boxes)

    def waiting(self, client_id: str, user: str, now: int) -> tuple[Box, ...] | None:
        """What `open` would list, without a change to anything: that a process has begun is not counted. None
        where it would have to change something: a client of a user needs its cursors, and to be known."""
        if user and client_id not in self._shelf.clients(user):
            return None
        boxes: list[Box] = []
        for account, first, _ in self._shelf.boxes(client_id, user, now):
            cursor = account.cursors.get(client_id)
            if cursor is None:
                return None
            if account.top > cursor.seq:
                boxes.append(_box(account, cursor, first))
        boxes.sort(key=_by_sender_and_run)
        return tuple(boxes)

    def _began(self, account: Account, cursor: Cursor, run: int, message: int, now: int) -> None:
        if cursor.began(run, message, now, self._limits.poison_after):
            self._lose(account, self._shelf.around(account, message), (message,), LossReason.POISON)
            cursor.restart(self._shelf.message(account, message, now), now)
        account.used = now
        self._shelf.changed(account)

    # --- losing, forgetting --------------------------------------------------------------------

    def _lose(self, account: Account, rows: Sequence[Meta], ending: Iterable[int], reason: str) -> None:
        folded = fold(rows, ending, reason, tight=account.losses >= MAX_LOSSES)
        if not folded.losses:
            return
        account.folded(folded)
        self._shelf.rewrite(account, folded)
        self._shelf.changed(account)

    def _expire(self, account: Account, now: int) -> bool:
        """Let messages end that have expired, as far as one look goes; return whether all has been seen."""
        start, earliest = self._looks.pop(account.number, (0, inf))
        rows = self._shelf.metas(account, start, SWEEP_ROWS)
        ending = [row.seq for row in rows if not row.reason and row.expires <= now]
        earliest = min([earliest, *(row.expires for row in rows if not row.reason and row.expires > now)])
        self._lose(account, rows, ending, LossReason.EXPIRED)
        if len(rows) >= SWEEP_ROWS:  # the next look begins with the last row: a loss may go on behind it
            self._looks[account.number] = rows[-1].seq, earliest
            return False
        account.due = earliest
        self._shelf.changed(account)
        return True

    def sweep(self, now: int) -> bool:
        """Look at some streams and some of their rows: make losses of what has expired, forget what nobody
        uses. Returns whether it has come to the end of all streams; the next one begins anew."""
        unused = now - int(self._limits.forget_after * 1000)
        last, accounts = self._shelf.candidates(
            self._swept, SWEEP_STREAMS, Sweep(now, unused, max(unused, now - OLD_RUN_LIFE))
        )
        rows = SWEEP_ROWS
        for account in accounts:
            if rows <= 0:
                last = account.number - 1
                break
            if account.used < unused or not account.rows:
                rows -= account.rows
                self._looks.pop(account.number, None)
                account.count(-account.messages, -account.size, -account.losses)
                self._shelf.forget(account)
            elif not self._expire(account, now):
                last = account.number - 1 or -1  # go on with it, even if it is the first of all
                break
        self._swept = max(last, 0)
        return not last


def _box(account: Account, cursor: Cursor, first: int) -> Box:
    return Box(account.stream, max(first, cursor.seq + 1), account.top, account.lost)


def _by_sender_and_run(box: Box) -> tuple[str, int]:
    return box.stream.sender, box.stream.run
