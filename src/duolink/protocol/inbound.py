"""The receiving half of a link: every number once, in order, or as lost.

One `Inbound` per lane of a sender's run. `expected` is the next number for the application, `finished`
the highest up to which it has finished with everything. What comes early is held, at most a window's worth.
"""

from math import inf
from typing import NamedTuple

from duolink.protocol import limits
from duolink.protocol.codes import LossReason
from duolink.protocol.losses import bounded
from duolink.protocol.messages import Ack, LinkMessage, LostRange, Skip
from duolink.protocol.records import CursorChange, SavedCursor


class Received(NamedTuple):
    """A number for the application, which says `finish(seq)` when it has finished with it."""

    lane: str
    message: LinkMessage


class Lost(NamedTuple):
    """Numbers `first` … `last` of a lane's run that will never come, in their place of the sequence."""

    lane: str
    run: int
    first: int
    last: int
    reason: str


class BeyondCredit(Exception):
    """A number beyond the window granted: a protocol error on a path whose credit the receiver grants."""


class Inbound:
    """One lane's numbers of one run, from the receiver's side."""

    __slots__ = (
        "_ask",
        "_done",
        "_first",
        "_held",
        "_held_bytes",
        "_lost",
        "_pull_wait",
        "_told",
        "_unacknowledged",
        "ack_at",
        "expected",
        "finished",
        "kept",
        "lane",
        "pull_at",
        "run",
        "want",
        "window",
        "window_bytes",
    )

    def __init__(self, lane: str, run: int, base: int, window: int, window_bytes: int) -> None:
        self.lane, self.run = lane, run
        self.window, self.window_bytes = window, window_bytes
        self.expected = self._first = base
        self.finished = base - 1
        self.ack_at = inf  # when an acknowledgement is due
        self.pull_at = inf  # when the hole is asked for
        self.want = False
        self._held: dict[int, LinkMessage | Skip] = {}
        self._held_bytes = 0
        self._done: set[int] = set()
        self._lost: list[LostRange] = []
        self._ask = 0  # an acknowledgement is wanted once this number is finished
        self._unacknowledged = 0
        self._pull_wait = limits.GAP_PULL
        self.kept: int | None = None  # with a journal: the highest `finished` that it has
        self._told = self.finished  # … and that it was told

    def journaled(self, cursor: SavedCursor | None) -> None:
        """A journal keeps the cursor. `cursor`: it is an earlier process's; what that one had not finished
        with may be under way no more, so that a hole is asked for soon."""
        self.kept = self._told = self.finished
        if cursor is not None:
            self._first = 0  # what comes next is to come, whatever a server says
            self.inherit(list(cursor.lost))
            self._pull_wait = limits.ACK_DELAY

    def inherit(self, lost: list[LostRange]) -> None:
        """An earlier process of this receiver has told these as lost, and the sender may not have heard."""
        known = {each.first for each in self._lost}
        self._lost += [each for each in lost if each.last <= self.finished and each.first not in known]
        self._lost = bounded(sorted(self._lost, key=lambda each: each.first))

    # --- what comes --------------------------------------------------------------------------

    def message(self, message: LinkMessage, now: float, *, granting: bool = False) -> list[Received | Lost]:
        """Take a message. Returns what the application gets now, in order: nothing for a repeat or
        what lies beyond a hole.

        `granting`: it came by a path whose credit this receiver grants, and a number beyond it raises
        `BeyondCredit`. Elsewhere, what lies beyond the window is dropped: it comes again.
        """
        seq = message.seq
        if seq == self.expected and not self._held and message.base <= seq:
            self.expected = seq + 1
            self._forget_lost(message.base)
            self._count(seq, message.ask, now)
            return [Received(self.lane, message)]
        admitted = self._admit(seq, message.base, granting)
        items = self._rebase(message.base)
        if seq < self.expected or seq in self._held:
            self.ack_at = now  # a repeat: its sender has not heard of the first
            return items + self._release(now)
        size = len(bytes(message.data))
        crowded = seq > self.expected and self._held_bytes + size > self.window_bytes
        if crowded or not admitted:
            return items + self._release(now)
        self._held[seq] = message
        self._held_bytes += size
        self._count(seq, message.ask, now)
        return items + self._release(now)

    def skip(self, skip: Skip, now: float, *, granting: bool = False) -> list[Received | Lost]:
        """Take numbers that will not come. Those that have come already stay what they are."""
        last = min(skip.last, skip.seq + self.window)  # no sender skips more than its window at once
        admitted = self._admit(last, skip.base, granting)
        items = self._rebase(skip.base)
        if not admitted:
            return items + self._release(now)
        for seq in range(max(skip.seq, self.expected), last + 1):
            self._held.setdefault(seq, skip)
        self.ack_at = now
        return items + self._release(now)

    def probe(self, seq: int, base: int, now: float) -> list[Received | Lost]:
        """The sender has sent up to `seq` and wants to know."""
        items = self._rebase(base) + self._release(now)
        self.want = seq >= self.expected
        self.ack_at = now
        return items

    def begin(self, start: int, now: float) -> list[Received | Lost]:
        """A durable server begins to hand over at `start`: what is below and has not come will not come. That
        is told as lost, since the sender may not know it; not by a lane to which nothing has come yet: it
        begins there, as an earlier process of this receiver has finished with what is below."""
        if self.expected == self._first < start and not self._held:
            self.expected = self._first = start
            self.finished = start - 1
            if self.kept is not None:
                self.kept = self._told = self.finished
        items: list[Received | Lost] = []
        for seq in sorted(held for held in self._held if held < start):
            items += self._miss(seq) + self._take(seq)
        return items + self._miss(start) + self._release(now)

    def _miss(self, seq: int) -> list[Received | Lost]:
        first = self.expected
        return [self._lose(first, seq - 1, LossReason.GONE)] if first < seq else []

    def end(self) -> list[Received | Lost]:
        """The sender's next run begins: hand over what is held, and the holes as lost."""
        items: list[Received | Lost] = []
        while self._held:
            first = self.expected
            self.expected = min(self._held)
            items.append(self._lose(first, self.expected - 1, LossReason.SENDER_RESTARTED))
            items += self._release(0.0)
        return items

    def _admit(self, seq: int, base: int, granting: bool) -> bool:
        limit = max(self.finished, base - 1) + self.window
        if granting and seq > limit:
            raise BeyondCredit(f"number {seq} of lane {self.lane} is beyond {limit}")
        return seq < max(self.expected, base) + self.window

    def _rebase(self, base: int) -> list[Received | Lost]:
        self._forget_lost(base)
        if base <= self.expected:
            return []
        items: list[Received | Lost] = []
        for seq in sorted(held for held in self._held if held < base):
            items += self._gone(seq - 1) + self._take(seq)
        return items + self._gone(base - 1)

    def _gone(self, last: int) -> list[Received | Lost]:
        # The sender has settled these and forgotten them: nothing to tell it.
        first = self.expected
        if last < first:
            return []
        self._go_on_behind(first, last)
        return [Lost(self.lane, self.run, first, last, LossReason.GONE)]

    def _release(self, now: float) -> list[Received | Lost]:
        items: list[Received | Lost] = []
        while self.expected in self._held:
            items += self._take(self.expected)
        if not self._held:
            self.pull_at = inf
            self._pull_wait = limits.GAP_PULL
        elif items or self.pull_at == inf:
            self.pull_at = now + self._pull_wait
        return items

    def _take(self, seq: int) -> list[Received | Lost]:
        held = self._held.pop(seq)
        self.expected = seq + 1
        if isinstance(held, LinkMessage):
            self._held_bytes -= len(bytes(held.data))
            return [Received(self.lane, held)]
        return [self._lose(seq, seq, held.reason)]

    def _lose(self, first: int, last: int, reason: str) -> Lost:
        before = self._lost[-1] if self._lost else None
        if before is not None and before.last == first - 1 and before.reason == reason:
            self._lost[-1] = LostRange(before.first, last, reason)
        else:
            self._lost.append(LostRange(first, last, reason))
            if len(self._lost) > limits.MAX_LOST:
                self._lost = bounded(self._lost)
        self._go_on_behind(first, last)
        return Lost(self.lane, self.run, first, last, reason)

    def _go_on_behind(self, first: int, last: int) -> None:
        self.expected = last + 1
        if last - first < self.window:
            self._done.update(range(first, last + 1))
            self._settle()
        else:  # so far ahead that nothing before it can be of interest to the sender
            self.finished = last
            self._done = {seq for seq in self._done if seq > last}

    def _forget_lost(self, base: int) -> None:
        if self._lost and self._lost[0].last < base:
            self._lost = [lost for lost in self._lost if lost.last >= base]

    # --- what the application does -------------------------------------------------------------

    def finish(self, seq: int, now: float) -> None:
        """The application has finished with a number it was handed; in any order, repeats are harmless."""
        if not self.finished < seq < self.expected:
            return
        if seq == self.finished + 1 and not self._done:
            self.finished = seq
        else:
            self._done.add(seq)
            self._settle()
        if self.kept is None:
            self._owe(now)

    def _owe(self, now: float) -> None:
        if self._unacknowledged >= limits.ACK_EVERY or 0 < self._ask <= self.cursor:
            self.ack_at = now
        else:
            self.ack_at = min(self.ack_at, now + limits.ACK_DELAY)

    def _settle(self) -> None:
        while self.finished + 1 in self._done:
            self.finished += 1
            self._done.discard(self.finished)

    def _count(self, seq: int, ask: bool, now: float) -> None:
        self._unacknowledged += 1
        if ask:
            self._ask = max(self._ask, seq)

    # --- what a journal keeps ------------------------------------------------------------------

    def change(self, peer: str, user: str) -> CursorChange | None:
        """Return, once, what the journal has not been told; None: nothing, or there is no journal."""
        if self.kept is None or self._told == self.finished:
            return None
        self._told = self.finished
        lost = tuple(lost for lost in self._lost if lost.last <= self.finished)
        return CursorChange(self, SavedCursor(peer, user, self.lane, self.run, self.finished, lost))

    def keep(self, finished: int, now: float) -> None:
        """The journal has that cursor: it may be acknowledged. A run that has ended meanwhile needs no
        journal any more."""
        if self.kept is not None:
            self.kept = finished
            self._owe(now)

    # --- acknowledgements ----------------------------------------------------------------------

    @property
    def cursor(self) -> int:
        """The highest number up to which everything is finished, for good."""
        return self.finished if self.kept is None else self.kept

    @property
    def limit(self) -> int:
        """The highest number this receiver takes: its credit on a direct path."""
        return self.finished + self.window

    def poll(self, now: float) -> bool:
        """Whether an acknowledgement is due. A hole that is old enough makes it one that asks."""
        if now >= self.pull_at:
            self._pull_wait = min(2 * self._pull_wait, limits.PROBE_CAP)
            self.pull_at = now + self._pull_wait
            self.want = True
            self.ack_at = now
        return now >= self.ack_at

    def may_ride(self) -> bool:
        """Whether the cursor alone says everything, so that it can ride on a message."""
        return not self._lost and not self.want

    def rode(self) -> None:
        """The cursor has left on a message: no acknowledgement of its own is due."""
        self._sent()

    def ack(self, peer: str, process: int, user: str = "", *, granting: bool = False) -> Ack:
        """Make this process's (its run's) acknowledgement, which is no longer due then. `user`: of what was
        sent to that user. `granting` adds the credit."""
        received = self.expected - 1
        cursor = self.cursor
        lost = [
            LostRange(lost.first, min(lost.last, cursor), lost.reason)
            for lost in self._lost
            if lost.first <= cursor
        ]
        ack = Ack(
            run=self.run,
            seq=cursor,
            to=peer,
            lane=self.lane,
            received=received if received > cursor else 0,
            want=self.want,
            limit=self.limit if granting else 0,
            lost=lost,
            by=process if lost else 0,
            user=user,
        )
        self._sent()
        return ack

    def _sent(self) -> None:
        self.ack_at = inf
        self.want = False
        self._unacknowledged = 0
        if self._ask <= self.cursor:
            self._ask = 0
