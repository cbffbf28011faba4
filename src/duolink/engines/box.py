"""What one stream's record in a mailbox does: pure rules, the same for every engine.

An `Account` is what is known of a stream besides its rows: how far it is, who has finished with what,
and how much it holds. Rows are the engine's; `fold` says what becomes of them when some end as lost.
Times are wall milliseconds and arguments.
"""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Final, NamedTuple

from duolink.engines.base import MailboxLimits, Row, Standing, Stream
from duolink.protocol.losses import bounded
from duolink.protocol.messages import LostRange

MAX_LOSSES: Final = 1024
"""Rows of one stream that are losses and keep their reasons apart. They cost no quota, so beyond that
neighbours become one whatever their reasons: a sender cannot fill the disk with what it does not send."""

POISON_APART: Final = 60_000
"""Milliseconds between the beginnings of two processes that both count against a row they did not finish."""

DEVICES: Final = 256
"""Clients of one user that get a cursor in a new stream, those seen last first."""


class Tally:
    """How much somebody has or is sent: a receiver, a pair, a sender, or everybody together."""

    __slots__ = ("__weakref__", "losses", "mailboxes", "messages", "size")

    def __init__(self, messages: int = 0, size: int = 0, losses: int = 0) -> None:
        self.messages, self.size, self.losses = messages, size, losses
        self.mailboxes = 0  # of everybody together: receivers that have rows


class Cursor:
    """A client's place in a stream, and how often it has failed to get on."""

    __slots__ = ("count", "first", "run", "seq", "since", "start")

    def __init__(
        self, seq: int, first: int = 0, count: int = 0, since: int = 0, run: int = 0, start: int = 0
    ) -> None:
        self.start = start  # what is up to here was never meant for it
        self.seq = seq  # it has finished with everything up to here
        self.first = first  # the message that was first when a process last counted
        self.count = count  # processes that began with it and ended
        self.since = since  # when the last one that counts began
        self.run = run  # the newest process that was seen

    def move(self, seq: int) -> None:
        """It has got on: nothing counts against the next message."""
        self.seq = seq
        self.first = self.count = 0

    def began(self, run: int, first: int, now: int, limit: int) -> bool:
        """A process is here and will take message `first` (0: there is none). Returns whether that message is
        poison: `limit` processes have begun with it, a minute apart, and ended."""
        if run <= self.run or not limit:
            return False
        self.run = run
        if first != self.first:
            self.first, self.count, self.since = first, 0, now
        elif first and now - self.since >= POISON_APART:
            self.count, self.since = self.count + 1, now
        return self.count >= limit

    def restart(self, first: int, now: int) -> None:
        """The message was given up; the process that is here takes `first` instead."""
        self.first, self.count, self.since = first, 0, now


class Account:
    """A stream's record. `messages`, `size` and `losses` count its rows; its tallies follow in step."""

    __slots__ = (
        "by",
        "cursors",
        "due",
        "losses",
        "lost",
        "messages",
        "number",
        "pair",
        "receiver",
        "sender",
        "settled",
        "size",
        "stored",
        "stream",
        "tail",
        "tail_reason",
        "top",
        "total",
        "used",
    )

    def __init__(
        self, number: int, stream: Stream, tallies: tuple[Tally, Tally, Tally, Tally], stored: int, used: int
    ) -> None:
        self.number = number  # its name among the rows
        self.stream = stream
        self.receiver, self.pair, self.sender, self.total = tallies
        self.stored = self.settled = stored
        self.lost: tuple[LostRange, ...] = ()
        self.by = 0
        self.cursors: dict[str, Cursor] = {}
        self.messages = self.size = self.losses = 0
        self.top = 0  # the last number of the last row
        self.tail = 0  # the first number of the last row if that is a loss, for `tail_reason`
        self.tail_reason = ""
        self.due: float = inf  # no row expires before
        self.used = used

    @property
    def standing(self) -> Standing:
        """How far the stream is."""
        return Standing(self.stored, self.settled, self.lost, self.by)

    @property
    def shared(self) -> bool:
        """Whether it is a user's, whose clients have a cursor each."""
        return self.stream.receiver.startswith("@")

    @property
    def floor(self) -> int:
        """Every cursor has passed this number. A user without clients has passed everything."""
        return min((cursor.seq for cursor in self.cursors.values()), default=self.stored)

    @property
    def rows(self) -> int:
        """How many rows it has; none: it is finished."""
        return self.messages + self.losses

    def rebase(self, base: int) -> bool:
        """Its sender says that everything below `base` is settled; return whether a cursor moved.

        For a client that is its own cursor, come the other way round. A user's clients go on where
        they are: only the first of them settled it.
        """
        if self.lost and self.lost[0].last < base:
            self.lost = tuple(lost for lost in self.lost if lost.last >= base)
        last = base - 1
        if last <= self.settled:
            return False
        self.settled = last
        self.stored = max(self.stored, last)
        moved = False
        if not self.shared:
            for cursor in self.cursors.values():
                if cursor.seq < last:
                    cursor.move(last)
                    moved = True
        self._settle()
        return moved

    def finish(self, client_id: str, seq: int, lost: Sequence[LostRange], by: int) -> bool:
        """A client has finished with everything up to `seq`; return whether its cursor moved."""
        cursor = self.cursors.get(client_id)
        if cursor is None:
            if not self.shared:
                return False  # nobody else may finish for a client
            cursor = self.cursors[client_id] = Cursor(0)  # it has not been here, and been sent things live
        if seq <= cursor.seq:
            return False
        if seq > self.settled:
            self._remember(lost, max(cursor.seq, self.settled), seq, by)
        cursor.move(seq)
        self.stored = max(self.stored, seq)
        self._settle()
        return True

    def _remember(self, lost: Sequence[LostRange], after: int, seq: int, by: int) -> None:
        if self.lost:
            after = max(after, self.lost[-1].last)
        heard = [
            LostRange(max(each.first, after + 1), min(each.last, seq), each.reason)
            for each in lost
            if each.first <= seq and each.last > after
        ]
        if not heard:
            return
        if self.lost and by != self.by:
            by = 0  # the word of two processes, neither of which may have had the copies of all
        self.lost = tuple(bounded((*self.lost, *heard)))
        self.by = by

    def _settle(self) -> None:
        # A client that came late has not finished with what was there before it.
        before = -1
        while before < self.settled:
            before = self.settled
            for cursor in self.cursors.values():
                if cursor.start <= self.settled < cursor.seq:
                    self.settled = cursor.seq

    def join(self, client_id: str) -> None:
        """A client of the user gets a cursor: it will get what is newer than everything there is."""
        self.cursors[client_id] = Cursor(self.stored, start=self.stored)

    def append(self, row: Row) -> Row:
        """A row takes its place at the end. Returns the row to be written: a loss behind its like has
        become one with it, under the first number of both."""
        adjacent = row.seq == self.top + 1
        self.stored = self.top = row.last
        if not row.reason:
            self.tail = 0
            if row.expires < self.due:
                self.due = row.expires
            self.count(1, len(row.body), 0)
            return row
        if self.tail and ((adjacent and row.reason == self.tail_reason) or self.losses >= MAX_LOSSES):
            return row._replace(seq=self.tail, reason=self.tail_reason)
        self.tail, self.tail_reason = row.seq, row.reason
        self.count(0, 0, 1)
        return row

    def count(self, messages: int, size: int, losses: int) -> None:
        """Rows have come or, with negative numbers, gone."""
        self.messages += messages
        self.size += size
        self.losses += losses
        receiver, total = self.receiver, self.total
        before = receiver.messages + receiver.losses
        for tally in (receiver, self.pair, self.sender, total):
            tally.messages += messages
            tally.size += size
            tally.losses += losses
        after = receiver.messages + receiver.losses
        if not after:
            total.mailboxes -= before > 0
        elif not before:
            total.mailboxes += 1
        if not self.rows:
            self.top = self.tail = 0
            self.due = inf

    def folded(self, folded: "Folded") -> None:
        """Some of its rows have become losses, or one."""
        self.count(-folded.messages, -folded.size, -folded.fewer_losses)
        for seq, last, reason in folded.losses:
            if last == self.top:
                self.tail, self.tail_reason = seq, reason

    def fits(self, limits: MailboxLimits, size: int, freed: int = 0, freed_size: int = 0) -> bool:
        """Whether a message of that size has room, if so much is freed for it."""
        more, size = 1 - freed, size - freed_size
        receiver, pair, sender = self.receiver, self.pair, self.sender
        return (
            receiver.messages + more <= limits.messages
            and receiver.size + size <= limits.size
            and pair.messages + more <= limits.pair_messages
            and pair.size + size <= limits.pair_size
            and sender.messages + more <= limits.sender_messages
            and sender.size + size <= limits.sender_size
        )


class Meta(NamedTuple):
    """A row without its body."""

    seq: int
    last: int
    reason: str
    size: int
    expires: int


class Folded(NamedTuple):
    """What becomes of some rows: which losses are there now (seq, last, reason), which numbers' rows are
    gone, and how much of everything there is less."""

    losses: tuple[tuple[int, int, str], ...]
    gone: tuple[int, ...]
    messages: int
    size: int
    fewer_losses: int


def fold(rows: Sequence[Meta], ending: Iterable[int], reason: str, tight: bool = False) -> Folded:
    """Let the messages `ending` of some rows, which are neighbours in order, end as lost: adjacent losses
    with the same reason become one, or `tight`, whatever their reasons."""
    lost = frozenset(ending)
    losses: list[tuple[int, int, str]] = []
    gone: list[int] = []
    messages = size = fewer = 0
    touched = set()
    open_end = False  # the row before is a loss
    for row in rows:
        if row.reason or row.seq in lost:
            why = row.reason or reason
            if row.reason:
                fewer += 1
            else:
                messages += 1
                size += row.size
            if open_end and (tight or (losses[-1][2] == why and losses[-1][1] == row.seq - 1)):
                losses[-1] = (losses[-1][0], row.last, losses[-1][2])
                touched.add(losses[-1][0])
                gone.append(row.seq)
            else:
                losses.append((row.seq, row.last, why))
                if not row.reason:
                    touched.add(row.seq)
            open_end = True
        else:
            open_end = False
    changed = tuple(loss for loss in losses if loss[0] in touched)
    return Folded(changed, tuple(gone), messages, size, fewer - len(losses))


def seen(rows: Iterable[Row], after: int, now: int) -> tuple[Row, ...]:
    """Rows as a reader behind number `after` gets them: what has expired is lost, and losses are one."""
    result: list[Row] = []
    for row in rows:
        if not row.reason and row.expires <= now:
            row = Row(row.seq, row.last, reason="expired")
        if row.reason and row.seq <= after:
            row = row._replace(seq=after + 1)
        before = result[-1] if result else None
        if row.reason and before and before.reason == row.reason and before.last == row.seq - 1:
            result[-1] = before._replace(last=row.last)
        else:
            result.append(row)
    return tuple(result)
