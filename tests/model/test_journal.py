"""Two links with journals, killed at every point: nothing is lost, nothing comes twice, no number has two
bodies."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.model.hunt import caught
from tests.model.journal_world import JournalWorld

from duolink.protocol import outbound
from duolink.protocol.inbound import Inbound
from duolink.protocol.link import Link
from duolink.protocol.outbound import Outbound
from duolink.protocol.records import CursorChange

ENDS = st.sampled_from("AB")
FLAG = st.booleans()
INDEX = st.integers(0, 7)
TALLY: Counter[str] = Counter()


class JournalMachine(RuleBasedStateMachine):
    """Any history of two journaled links; the world checks each step, the teardown heals and checks."""

    world: JournalWorld
    keep_channels = False

    @initialize(watching=FLAG, prompt=st.sampled_from([False, False, True]), keep=FLAG)
    def begin(self, watching: bool, prompt: bool, keep: bool) -> None:
        self.world = JournalWorld(watching=watching, prompt=prompt)
        self.keep_channels = keep
        self.world.connect("A")
        self.world.connect("B")

    @rule(end=ENDS, lane=st.sampled_from(["messages", "messages", "bulk"]), count=st.integers(1, 5))
    def submit(self, end: str, lane: str, count: int) -> None:
        for _ in range(count):
            self.world.submit(end, lane, None)

    @rule(end=ENDS, ttl=st.sampled_from([0.0, 0.5, 3.0]), count=st.integers(1, 4))
    def submit_with_a_deadline(self, end: str, ttl: float, count: int) -> None:
        for _ in range(count):
            self.world.submit(end, "messages", ttl)

    @rule(end=ENDS, count=st.integers(1, 4), confirmed=st.sampled_from([True, True, False]))
    def commit(self, end: str, count: int, confirmed: bool) -> None:
        self.world.commit(end, count)
        if confirmed:
            self.world.confirm(end)

    @rule(end=ENDS)
    def confirm(self, end: str) -> None:
        self.world.confirm(end)

    @rule(end=ENDS, under_way=st.integers(0, 6), back=FLAG)
    def kill(self, end: str, under_way: int, back: bool) -> None:
        self.world.kill(end, under_way)
        if back:
            self.world.connect(end)

    @rule(end=ENDS, back=FLAG)
    def outlive(self, end: str, back: bool) -> None:
        """What is on disk expires before it could leave, the other side hears of what remains, and the
        process dies before it has written that down."""
        self.world.submit(end, "messages", 0.5)
        self.world.submit(end, "messages", None)
        self.world.commit(end, 100)
        self.world.advance(1.0)
        self.world.confirm(end)
        self.world.relay(end, 9)
        self.world.arrive("B" if end == "A" else "A", 9)
        self.world.kill(end, 0)
        if back:
            self.world.connect(end)

    @rule(end=ENDS, count=st.integers(1, 6))
    def relay(self, end: str, count: int) -> None:
        self.world.relay(end, count)

    @rule(end=ENDS, count=st.integers(1, 6))
    def arrive(self, end: str, count: int) -> None:
        self.world.arrive(end, count)

    @rule(finish=FLAG, seconds=st.sampled_from([0.0, 0.03, 1.2]))
    def exchange(self, finish: bool, seconds: float) -> None:
        """Disks and the server path work for a while."""
        for end in "AB":
            self.world.commit(end, 100)
            self.world.confirm(end)
        self.world.exchange(finish=finish)
        self.world.advance(seconds)
        self.world.exchange(finish=finish)

    @rule(end=ENDS, index=INDEX)
    def finish(self, end: str, index: int) -> None:
        self.world.finish(end, index)

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 2.5, 7.0]))
    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(end=ENDS, resumed=FLAG)
    def connect(self, end: str, resumed: bool) -> None:
        self.world.connect(end, resumed=resumed)

    @rule(end=ENDS, back=FLAG)
    def cut(self, end: str, back: bool) -> None:
        self.world.cut(end)
        if back:
            self.world.connect(end, resumed=True)

    @rule()
    def open(self) -> None:
        self.world.open()
        for path in list(self.world.channels):
            self.world.converse(path, 4)

    @precondition(lambda self: self.world.channels)
    @rule(index=INDEX, end=ENDS, which=INDEX, copies=st.sampled_from([1, 1, 0, 2]))
    def deliver(self, index: int, end: str, which: int, copies: int) -> None:
        paths = sorted(self.world.channels)
        self.world.deliver(paths[index % len(paths)], end, which, copies=copies)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.heal(keep_channels=self.keep_channels)
            TALLY.update(self.world.tally)


EXAMPLES = settings(
    max_examples=300,
    stateful_step_count=50,
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def test_a_journal_keeps_what_a_killed_process_promised() -> None:
    run_state_machine_as_test(JournalMachine, settings=EXAMPLES)


def test_the_hard_cases_really_occur() -> None:
    if not TALLY:
        run_state_machine_as_test(JournalMachine, settings=EXAMPLES)
    for occurrence in (
        "killed",
        "restored",
        "numbered, and not written down",
        "settled, and not written down",
        "received again by a new process",
        "settled as expired",
        "heard of expired",
        "asked to send again",
        "LinkMessage on a data channel",
    ):
        assert TALLY[occurrence], f"never: {occurrence}"


# --- negative controls: each planted defect must turn the machine red ---------------------------------


def send_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outbound, "ready", property(lambda self: self.next_seq - 1))


def acknowledge_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inbound, "cursor", property(lambda self: self.finished))


def announce_a_base_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outbound, "announced", property(lambda self: self.base))


def forget_the_cursors(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = Link.restore
    monkeypatch.setattr(
        Link, "restore", lambda self, lanes, cursors, anew: restore(self, lanes, (), anew=anew)
    )


def forget_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    change = Inbound.change

    def forgetful(self: Inbound, peer: str, user: str) -> CursorChange | None:
        made = change(self, peer, user)
        return made._replace(cursor=made.cursor._replace(lost=())) if made is not None else None

    monkeypatch.setattr(Inbound, "change", forgetful)


def forget_the_newest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = Outbound.restore

    def forgetful(self: Outbound, saved: Any, *, anew: bool) -> None:
        restore(self, saved, anew=anew)
        self.next_seq = self._entries[-1].seq + 1 if self._entries else 1

    monkeypatch.setattr(Outbound, "restore", forgetful)


def believe_that_nothing_had_left(monkeypatch: pytest.MonkeyPatch) -> None:
    make = outbound._restored

    def unsent(*saved: Any) -> Any:
        entry = make(*saved)
        entry.copies = 0
        return entry

    monkeypatch.setattr(outbound, "_restored", unsent)


PLANTED = [
    send_before_the_commit,
    acknowledge_before_the_commit,
    announce_a_base_before_the_commit,
    forget_the_cursors,
    forget_what_was_lost,
    forget_the_newest_number,
    believe_that_nothing_had_left,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_defect_turns_the_model_red(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model cannot see it does not prove."""
    plant(monkeypatch)
    failure = caught(JournalMachine, EXAMPLES)
    assert isinstance(failure, AssertionError), failure
