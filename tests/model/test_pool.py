"""The slots of a pool under every order of borrowing, giving back, giving up, breaking, coming back, opening,
failing, closing and time passing.

There are never more clients than allowed; none is with two, and none that is not online is handed out; who
came first is served first; no slot is lost; and in the end everybody is served, or all is closed.
"""

from collections import Counter
from math import inf
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.model.hunt import caught

from duolink.client import slots as module
from duolink.client.slots import Close, Open, Outcome, Slot, Slots, Waiter
from duolink.protocol.backoff import Backoff

TALLY: Counter[str] = Counter()
MAX_WAITERS = 4
IDLE_TIMEOUT = 10.0
PICK = st.integers(0, 5)


class PoolMachine(RuleBasedStateMachine):
    """An honest pool around the slots, which knows what is true of its clients and its borrowers."""

    @initialize(most=st.integers(1, 4), data=st.data())
    def start(self, most: int, data: Any) -> None:
        self.now = 100.0
        self.most, self.least = most, data.draw(st.integers(0, most))
        self.slots = Slots(
            min_size=self.least,
            max_size=most,
            max_waiters=MAX_WAITERS,
            idle_timeout=IDLE_TIMEOUT,
            backoff=Backoff(1.0, 2.0, 8.0),
        )
        self.opening: list[Slot] = []
        self.closing: list[Slot] = []
        self.online: dict[Slot, bool] = {}  # the clients there are
        self.dead: set[Slot] = set()  # of those, the closed ones
        self.lent: list[Slot] = []
        self.line: list[Waiter] = []  # those that have not been told anything, in the order they came
        self.granted: list[Waiter] = []  # woken, and not resumed
        self.late: set[Waiter] = set()  # of those, the ones whose time is over
        self.draining = self.over = False
        self.failing = False
        self.slots.start(self.now)
        self.act()

    # --- what the slots ask ----------------------------------------------------------------------

    def act(self) -> None:
        while self.slots.actions:
            action = self.slots.actions.popleft()
            if isinstance(action, Open):
                assert action.slot not in self.online and action.slot not in self.opening
                assert not self.over, "opened after the end"
                assert not (self.failing and self.opening), "a dead server is tried by many"
                self.opening.append(action.slot)
                assert len(self.opening) + len(self.online) <= self.most, "more clients than allowed"
            elif isinstance(action, Close):
                assert action.slot in self.online and action.slot not in self.closing
                assert self.over or action.slot not in self.lent, "closed under a borrower"
                self.closing.append(action.slot)
            else:
                self.wake(action.waiter)

    def wake(self, waiter: Waiter) -> None:
        if waiter.outcome is Outcome.GRANTED and waiter in self.line:
            assert waiter is self.line[0], "another one came first"
            self.line.remove(waiter)
            self.granted.append(waiter)
            self.handed_out(waiter.slot)
        elif waiter.outcome in (Outcome.EXPIRED, Outcome.CLOSED):
            for waiters in (self.line, self.granted):
                if waiter in waiters:
                    waiters.remove(waiter)
        else:
            assert waiter in self.granted  # lost what it had, and got another one in the same turn

    def handed_out(self, slot: Slot | None) -> None:
        assert slot is not None
        assert slot not in self.lent, "a client with two borrowers"
        assert self.online.get(slot), "a client that is not online"
        assert slot not in self.closing

    def requeue(self) -> None:
        """Those whose client broke before they could resume stand where they stood."""
        for waiter in [waiter for waiter in self.granted if waiter.outcome is Outcome.PENDING]:
            TALLY["rejoined"] += 1
            assert waiter not in self.late, "one waits beyond its time"
            self.granted.remove(waiter)
            self.line = sorted([*self.line, waiter], key=lambda waiter: waiter.ticket)

    # --- borrowers -------------------------------------------------------------------------------

    @precondition(lambda self: not self.draining)
    @rule()
    def acquire(self) -> None:
        slot = self.slots.lend()
        if slot is not None:
            TALLY["lent"] += 1
            assert not self.line, "one who waits was passed over"
            self.handed_out(slot)
            self.lent.append(slot)
            return
        waiter = self.slots.enqueue(self.now)
        assert (waiter is None) == (len(self.line) >= MAX_WAITERS)
        if waiter is not None:
            self.line.append(waiter)
        self.act()

    @precondition(lambda self: self.granted)
    @rule(pick=PICK)
    def resume(self, pick: int) -> None:
        waiter = self.granted.pop(pick % len(self.granted))
        TALLY["waited and got"] += 1
        slot = self.slots.take(waiter)
        self.handed_out(slot)
        self.lent.append(slot)

    @precondition(lambda self: self.lent)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        self.slots.release(self.lent.pop(pick % len(self.lent)), self.now)
        self.act()

    @precondition(lambda self: self.line or self.granted)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        everybody = [*self.line, *self.granted]
        waiter = everybody[pick % len(everybody)]
        TALLY["cancelled when granted" if waiter in self.granted else "cancelled"] += 1
        (self.line if waiter in self.line else self.granted).remove(waiter)
        self.slots.withdraw(waiter, self.now)
        self.act()

    @precondition(lambda self: self.line or self.granted)
    @rule(pick=PICK)
    def expire(self, pick: int) -> None:
        everybody = [*self.line, *self.granted]
        waiter = everybody[pick % len(everybody)]
        before = waiter.outcome
        if before is Outcome.GRANTED:
            self.late.add(waiter)
        self.slots.expire(waiter)
        assert waiter.outcome is (Outcome.GRANTED if before is Outcome.GRANTED else Outcome.EXPIRED)
        self.act()

    # --- clients ---------------------------------------------------------------------------------

    @precondition(lambda self: self.opening)
    @rule(pick=PICK, online=st.sampled_from([True, True, True, False]))
    def opened(self, pick: int, online: bool) -> None:
        slot = self.opening.pop(pick % len(self.opening))
        self.online[slot] = online
        self.failing = False
        self.slots.recovered(slot, self.now)
        if not online:
            self.slots.lapsed(slot, self.now)
        self.slots.opened(slot, self.now)
        self.act()
        assert not self.over or slot in self.closing, "a client that outlives its pool"

    @precondition(lambda self: not self.over)
    @rule()
    def calm(self) -> None:
        """Whatever is under way succeeds."""
        while self.closing:
            self.closed(0)
        while self.opening:
            self.opened(0, True)
        for slot in [slot for slot in self.online if slot not in self.dead and not self.online[slot]]:
            self.recovers(list(self.online).index(slot))

    @precondition(lambda self: not self.draining)
    @rule(count=st.integers(2, 7))
    def crowd(self, count: int) -> None:
        """All is well, and more come than there are clients."""
        self.calm()
        for _ in range(count):
            self.acquire()
        self.calm()

    @precondition(lambda self: self.opening)
    @rule(pick=PICK, random=st.sampled_from([0.0, 0.5, 0.99]))
    def fails(self, pick: int, random: float) -> None:
        TALLY["failed"] += 1
        self.failing = True
        self.slots.failed(self.opening.pop(pick % len(self.opening)), self.now, random)
        self.act()

    @precondition(lambda self: self.online)
    @rule(pick=PICK)
    def lapses(self, pick: int) -> None:
        slot = list(self.online)[pick % len(self.online)]
        if slot not in self.dead:
            self.online[slot] = False
            self.slots.lapsed(slot, self.now)
            self.requeue()
            self.act()

    @precondition(lambda self: self.online)
    @rule(pick=PICK)
    def recovers(self, pick: int) -> None:
        slot = list(self.online)[pick % len(self.online)]
        if slot not in self.dead and slot not in self.closing:
            self.online[slot] = True
            self.slots.recovered(slot, self.now)
            self.act()

    @precondition(lambda self: self.online)
    @rule(pick=PICK, refused=st.booleans(), random=st.sampled_from([0.0, 0.5]))
    def ends(self, pick: int, refused: bool, random: float) -> None:
        slot = list(self.online)[pick % len(self.online)]
        if slot not in self.dead:
            self.dead.add(slot)
            self.online[slot] = False
            news = self.slots.ended(slot, refused, self.now, random)
            assert news == (slot not in self.closing)
            self.failing |= refused and news
            self.requeue()
            self.act()

    @precondition(lambda self: self.closing)
    @rule(pick=PICK)
    def closed(self, pick: int) -> None:
        slot = self.closing.pop(pick % len(self.closing))
        del self.online[slot]
        self.dead.discard(slot)
        self.slots.closed(slot, self.now)
        self.act()

    # --- time and end ----------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.pass_to(self.now + seconds)

    def pass_to(self, until: float) -> None:
        while (at := self.slots.next_timer()) <= until:
            self.now = max(self.now, at)
            self.slots.poll(self.now)
            self.act()
            assert self.slots.next_timer() > self.now, "a timer that does nothing"
        self.now = until

    @precondition(lambda self: not self.draining)
    @rule(rarely=st.integers(0, 9).map(lambda number: number == 9), rude=st.booleans())
    def drain(self, rarely: bool, rude: bool) -> None:
        if rarely:
            self.draining = True
            self.slots.drain()
            if rude:
                self.slots.turn_away()
                self.act()
                assert not self.line

    @precondition(lambda self: self.draining and not self.over)
    @rule()
    def end(self) -> None:
        TALLY["ended"] += 1
        self.over = True
        self.slots.end()
        self.act()
        assert not self.line and not self.granted
        self.check_over()

    def check_over(self) -> None:
        assert self.online.keys() == set(self.closing), "a client that nobody closes"

    # --- what must hold --------------------------------------------------------------------------

    @invariant()
    def counts(self) -> None:
        """Every slot is in exactly one place, and the numbers say so."""
        slots = self.slots
        assert slots.size == len(self.online) + len(self.opening)
        assert (slots.opening, slots.closing) == (len(self.opening), len(self.closing))
        assert slots.waiting == len(self.line)
        if self.over:
            return
        held = {waiter.slot for waiter in self.granted} | set(self.lent)
        assert slots.in_use == len(held) == len(self.granted) + len(self.lent)
        free = [slot for slot in self.online if slot not in held and slot not in self.closing]
        assert slots.idle == len([slot for slot in free if self.online[slot]]), "a client out of sight"
        assert not self.dead & set(free), "a closed client is kept"

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        slots = self.slots
        if self.over:
            return
        if self.line:
            assert not slots.idle, "one waits beside an idle client"
        if slots.size < self.most and not self.opening:
            wanted = self.line or (not self.draining and slots.size - slots.closing < self.least)
            assert not wanted or slots.next_timer() < inf, "wanted, and nothing is going to be opened"

    @invariant()
    def the_surplus_is_not_kept(self) -> None:
        slots = self.slots
        if not self.over and slots.idle and slots.size - slots.closing > self.least:
            assert slots.next_timer() <= self.now + IDLE_TIMEOUT

    def teardown(self) -> None:
        """The server answers, borrowers give back: all are served, the surplus goes, all can close."""
        if not hasattr(self, "slots"):
            return
        for _ in range(200):
            while self.opening:
                self.opened(0, True)
            for slot in list(self.online):
                if slot not in self.dead and slot not in self.closing and not self.online[slot]:
                    self.recovers(list(self.online).index(slot))
            while self.closing:
                self.closed(0)
            while self.granted:
                self.resume(0)
            while self.lent:
                self.release(0)
            if not (self.line or self.opening or self.closing or self.granted):
                break
            self.pass_to(self.now + 1)
        assert not self.line, "somebody is never served"
        if not self.over:
            self.pass_to(self.now + 2 * IDLE_TIMEOUT)
            while self.closing or self.opening:
                self.settle_one()
            alive = self.slots.size
            assert alive <= self.least if self.draining else alive == self.least, "not down to min_size"
            assert self.slots.idle == alive
            self.draining = True
            self.slots.drain()
            self.end()
        while self.closing:
            self.closed(0)
        assert self.slots.size == 0 and self.slots.next_timer() == inf

    def settle_one(self) -> None:
        if self.closing:
            self.closed(0)
        else:
            self.opened(0, True)
        self.pass_to(self.now + 1)


EXAMPLES = settings(
    max_examples=300,
    stateful_step_count=50,
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def test_a_pool_loses_no_slot_and_passes_nobody_over() -> None:
    """In every order of events; and the rare orders have really occurred."""
    TALLY.clear()
    run_state_machine_as_test(PoolMachine, settings=EXAMPLES)
    for rare in (
        "lent",
        "waited and got",
        "cancelled",
        "cancelled when granted",
        "failed",
        "rejoined",
        "ended",
    ):
        assert TALLY[rare] >= 10, TALLY


# --- negative controls -------------------------------------------------------------------------------


def lose_what_a_cancelled_waiter_was_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    withdraw = Slots.withdraw

    def forgetful(self: Slots, waiter: Waiter, now: float) -> None:
        if waiter.outcome is not Outcome.GRANTED:
            withdraw(self, waiter, now)

    monkeypatch.setattr(Slots, "withdraw", forgetful)


def send_whoever_lost_its_client_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def rejoin(self: Slots, waiter: Waiter) -> None:
        waiter.slot, waiter.outcome = None, Outcome.PENDING
        self._waiters[waiter] = None

    monkeypatch.setattr(Slots, "_rejoin", rejoin)


def forget_that_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    rejoin = Slots._rejoin

    def patient(self: Slots, waiter: Waiter) -> None:
        waiter.late = False
        rejoin(self, waiter)

    monkeypatch.setattr(Slots, "_rejoin", patient)


def serve_the_last_first(monkeypatch: pytest.MonkeyPatch) -> None:
    grant = Slots._grant

    def grant_another(self: Slots, waiter: Waiter, slot: Slot) -> None:
        if self._waiters:
            self._waiters[waiter] = None
            self._waiters.move_to_end(waiter, last=False)
            waiter, _ = self._waiters.popitem()
        grant(self, waiter, slot)

    monkeypatch.setattr(Slots, "_grant", grant_another)


def reuse_a_slot_before_its_client_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def close(self: Slots, slot: Slot) -> None:
        self.actions.append(Close(slot))
        slot.phase = module.Phase.EMPTY
        self._empty.append(slot)

    monkeypatch.setattr(Slots, "_close", close)


def hand_out_what_broke_while_it_was_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(self: Slots, slot: Slot, now: float) -> None:
        if slot.phase is module.Phase.LENT:
            self.in_use -= 1
            slot.online = True
            self._settle(slot, now)

    monkeypatch.setattr(Slots, "release", release)


def do_not_open_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def back_off(self: Slots, now: float, random: float) -> None:
        self._failing, self._rests_until = True, inf

    monkeypatch.setattr(Slots, "_back_off", back_off)


def keep_the_surplus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slots, "_surplus_since", lambda self: inf)


PLANTED = [
    lose_what_a_cancelled_waiter_was_granted,
    send_whoever_lost_its_client_to_the_end,
    forget_that_the_time_is_over,
    serve_the_last_first,
    reuse_a_slot_before_its_client_is_gone,
    hand_out_what_broke_while_it_was_lent,
    do_not_open_again_after_a_failure,
    keep_the_surplus,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_defect_turns_the_model_red(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model cannot see it does not prove."""
    plant(monkeypatch)
    failure = caught(PoolMachine, EXAMPLES)
    assert isinstance(failure, AssertionError), failure
