"""Who has which client of a pool, and who waits for one: the state alone, without input or output.

Time and randomness are arguments. Every input leaves in `actions` what is to be done about it. Lending and
taking back cost the same for any number of slots and waiters.
"""

from collections import OrderedDict, deque
from enum import Enum, auto
from itertools import takewhile
from math import inf
from typing import Any, NamedTuple

from duolink.protocol.backoff import Backoff


class Phase(Enum):
    """What a slot is for now."""

    EMPTY = auto()
    OPENING = auto()
    IDLE = auto()  # online, for the next who asks
    GRANTED = auto()  # given to a waiter, who has not resumed yet
    LENT = auto()
    ASIDE = auto()  # not online; comes back when it is
    CLOSING = auto()  # its name is still the old client's: a new one would be a duplicate


class Outcome(Enum):
    """What became of a waiter."""

    PENDING = auto()
    GRANTED = auto()
    EXPIRED = auto()
    CLOSED = auto()


class Slot:
    """Room for one client; `number` is its name's, `client` whatever the caller keeps here."""

    __slots__ = ("client", "ended", "number", "online", "phase", "since", "waiter")

    def __init__(self, number: int) -> None:
        self.number = number
        self.phase = Phase.EMPTY
        self.online = self.ended = False
        self.since = 0.0  # idle since
        self.waiter: Waiter | None = None  # whom it is granted to
        self.client: Any = None


class Waiter:
    """One who waits; `wake` is the caller's."""

    __slots__ = ("late", "outcome", "slot", "ticket", "wake")

    def __init__(self, ticket: int) -> None:
        self.ticket = ticket
        self.late = False  # its time is over
        self.outcome = Outcome.PENDING
        self.slot: Slot | None = None
        self.wake: Any = None


class Open(NamedTuple):
    """Open a client, then call `opened` or `failed`."""

    slot: Slot


class Close(NamedTuple):
    """Close the slot's client, then call `closed`."""

    slot: Slot


class Wake(NamedTuple):
    """Something became of this waiter."""

    waiter: Waiter


class Slots:
    """At most `max_size` clients, at least `min_size` from `start` to `drain`, at most `max_waiters` waiting.

    A client goes to the waiter who came first, else on top of the idle ones, so that the surplus lies at
    the bottom and ages. While opening fails, one is tried at a time, at the times of the backoff.
    """

    __slots__ = (
        *("actions", "closing", "idle_timeout", "in_use", "max_waiters", "min_size", "opening", "over"),
        *("_backoff", "_empty", "_failing", "_filling", "_idle", "_rests_until"),
        *("_tickets", "_waiters", "slots"),
    )

    def __init__(
        self, *, min_size: int, max_size: int, max_waiters: int, idle_timeout: float, backoff: Backoff
    ) -> None:
        self.min_size, self.max_waiters, self.idle_timeout = min_size, max_waiters, idle_timeout
        self.slots = tuple(Slot(number) for number in range(max_size))
        self.actions: deque[Open | Close | Wake] = deque()
        self.opening = self.in_use = self.closing = 0
        self._empty = deque(self.slots)
        self._idle: OrderedDict[Slot, None] = OrderedDict()  # the longest idle first
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()  # who came first is first
        self._tickets = 0
        self._backoff = backoff
        self._rests_until = -inf
        self._failing = False  # since the newest failure nothing could be opened
        self._filling = False  # keep min_size clients
        self.over = False

    @property
    def size(self) -> int:
        """Clients there are, those being opened and closed included."""
        return len(self.slots) - len(self._empty)

    @property
    def idle(self) -> int:
        """Clients nobody has, ready for use."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Who waits."""
        return len(self._waiters)

    # --- borrowers -----------------------------------------------------------------------------

    def lend(self) -> Slot | None:
        """Lend the client that was used last; None: none is idle. While somebody waits, none is."""
        if not self._idle:
            return None
        slot, _ = self._idle.popitem()
        slot.phase = Phase.LENT
        self.in_use += 1
        return slot

    def enqueue(self, now: float) -> Waiter | None:
        """Wait, because none is idle; None: too many do."""
        if len(self._waiters) >= self.max_waiters:
            return None
        self._tickets += 1
        waiter = Waiter(self._tickets)
        self._waiters[waiter] = None
        self._balance(now)
        return waiter

    def take(self, waiter: Waiter) -> Slot:
        """The waiter goes on with what it was granted."""
        slot = waiter.slot
        assert slot is not None and waiter.outcome is Outcome.GRANTED
        slot.phase, slot.waiter = Phase.LENT, None
        return slot

    def expire(self, waiter: Waiter) -> None:
        """Its time is over; what it was granted in time it keeps."""
        waiter.late = True
        if waiter.outcome is Outcome.PENDING:
            del self._waiters[waiter]
            self._end_wait(waiter, Outcome.EXPIRED)

    def withdraw(self, waiter: Waiter, now: float) -> None:
        """It wants nothing any more: the next one gets what it was granted."""
        if waiter.outcome is Outcome.PENDING:
            del self._waiters[waiter]
            waiter.outcome = Outcome.EXPIRED
        elif waiter.outcome is Outcome.GRANTED:
            self.release(self.take(waiter), now)

    def release(self, slot: Slot, now: float) -> None:
        """Take a lent client back."""
        if slot.phase is not Phase.LENT:
            return  # closed while it was lent
        self.in_use -= 1
        self._settle(slot, now)

    # --- clients -------------------------------------------------------------------------------

    def opened(self, slot: Slot, now: float) -> None:
        """A client has come online (and may have gone again)."""
        self.opening -= 1
        self._failing = False
        self._settle(slot, now)

    def failed(self, slot: Slot, now: float, random: float) -> None:
        """A client could not be opened. Another name is tried first next time: this one may be taken."""
        self.opening -= 1
        slot.phase = Phase.EMPTY
        self._empty.append(slot)
        self._back_off(now, random)
        self._balance(now)

    def recovered(self, slot: Slot, now: float) -> None:
        """A client is online."""
        slot.online = True
        if slot.phase is Phase.ASIDE:
            self._settle(slot, now)

    def lapsed(self, slot: Slot, now: float) -> None:
        """A client is not online, and tries to be."""
        slot.online = False
        self._drop(slot, now)

    def ended(self, slot: Slot, refused: bool, now: float, random: float) -> bool:
        """A client is closed: by the server for good (`refused`), or by who has it. Return whether that is
        news: not while it is being opened or closed."""
        if slot.phase in (Phase.EMPTY, Phase.OPENING, Phase.CLOSING):
            return False
        slot.online, slot.ended = False, True
        if refused:  # who fights over its names with another process does so at the pace of the backoff
            self._back_off(now, random)
        self._drop(slot, now)
        return True

    def closed(self, slot: Slot, now: float) -> None:
        """A client is gone. Its name is the next to be used, so that the server sees few."""
        self.closing -= 1
        slot.phase = Phase.EMPTY
        if slot.ended:
            self._empty.append(slot)
        else:
            self._empty.appendleft(slot)
        self._balance(now)

    # --- time, beginning and end ---------------------------------------------------------------

    def start(self, now: float) -> None:
        """From now on keep `min_size` clients."""
        self._filling = True
        self._balance(now)

    def poll(self, now: float) -> None:
        """Do what is due: close the surplus, try again to open."""
        while self._surplus_since() + self.idle_timeout <= now:
            slot, _ = self._idle.popitem(last=False)
            self._close(slot)
        self._balance(now)

    def next_timer(self) -> float:
        """When to call `poll`; inf: not before the next input."""
        surplus = self._surplus_since() + self.idle_timeout
        retry = self._rests_until if self._wanted() and not (self._failing and self.opening) else inf
        return min(surplus, retry)

    def drain(self) -> None:
        """From now on open only what a waiter needs."""
        self._filling = False

    def turn_away(self) -> None:
        """Send away all who wait."""
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            self._end_wait(waiter, Outcome.CLOSED)

    def end(self) -> None:
        """Close everything, lent or not; what is being opened is the caller's to cancel."""
        self.over, self._filling = True, False
        self.turn_away()
        self._idle.clear()
        for slot in self.slots:
            if slot.waiter is not None:
                self._end_wait(slot.waiter, Outcome.CLOSED)
                slot.waiter = None
            if slot.phase not in (Phase.EMPTY, Phase.OPENING, Phase.CLOSING):
                self._close(slot)
        self.in_use = 0

    # --- inside --------------------------------------------------------------------------------

    def _surplus_since(self) -> float:
        """Since when the longest idle client is more than enough; inf: none is."""
        if not self._idle or self.size - self.closing <= self.min_size:
            return inf
        return next(iter(self._idle)).since

    def _wanted(self) -> bool:
        """Whether one more client should be opened, now or later."""
        if self.over or not self._empty:
            return False
        return self.opening < len(self._waiters) or (
            self._filling and self.size - self.closing < self.min_size
        )

    def _balance(self, now: float) -> None:
        """Open what is wanted and may be."""
        while self._wanted() and now >= self._rests_until and not (self._failing and self.opening):
            slot = self._empty.popleft()
            slot.phase, slot.online, slot.ended = Phase.OPENING, False, False
            self.opening += 1
            self.actions.append(Open(slot))

    def _back_off(self, now: float, random: float) -> None:
        self._failing = True
        if now < self._rests_until:
            return  # what fails together counts once
        if now - self._rests_until > self._backoff.cap:
            self._backoff.reset()
        self._rests_until = now + self._backoff.next(random)

    def _settle(self, slot: Slot, now: float) -> None:
        """Nobody has this client now: pass it on, put it aside, or close it."""
        if slot.ended or self.over:
            self._close(slot)
        elif not slot.online:
            slot.phase = Phase.ASIDE
        elif self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            self._grant(waiter, slot)
        else:
            slot.phase, slot.since = Phase.IDLE, now
            self._idle[slot] = None
        self._balance(now)

    def _drop(self, slot: Slot, now: float) -> None:
        """A client is not fit to be handed out (who has it, has it)."""
        waiter = None
        if slot.phase is Phase.IDLE:
            del self._idle[slot]
        elif slot.phase is Phase.GRANTED:
            waiter, slot.waiter = slot.waiter, None
            self.in_use -= 1
        elif slot.phase is not Phase.ASIDE:
            return
        if waiter is not None:
            self._rejoin(waiter)
        self._settle(slot, now)

    def _grant(self, waiter: Waiter, slot: Slot) -> None:
        slot.phase, slot.waiter = Phase.GRANTED, waiter
        waiter.slot, waiter.outcome = slot, Outcome.GRANTED
        self.in_use += 1
        self.actions.append(Wake(waiter))

    def _rejoin(self, waiter: Waiter) -> None:
        """What it was granted broke before it could resume: it waits on, where it stood."""
        waiter.slot, waiter.outcome = None, Outcome.PENDING
        if waiter.late:  # its timer has fired, and will not again
            self._end_wait(waiter, Outcome.EXPIRED)
            return
        if self._idle:  # came back in the same turn
            slot, _ = self._idle.popitem()
            self._grant(waiter, slot)
            return
        # Before it are at most those to whom the same has happened in this turn.
        earlier = list(takewhile(lambda other: other.ticket < waiter.ticket, self._waiters))
        self._waiters[waiter] = None
        for other in (waiter, *reversed(earlier)):
            self._waiters.move_to_end(other, last=False)

    def _end_wait(self, waiter: Waiter, outcome: Outcome) -> None:
        waiter.slot, waiter.outcome = None, outcome
        self.actions.append(Wake(waiter))

    def _close(self, slot: Slot) -> None:
        slot.phase = Phase.CLOSING
        self.closing += 1
        self.actions.append(Close(slot))
