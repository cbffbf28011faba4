"""A link against every network: loss, repeats, disorder, cuts, restarts, and the promises through it all."""

from collections import Counter
from collections.abc import Iterator
from math import inf
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
from tests.model.durable_world import DurableWorld
from tests.model.hunt import caught
from tests.model.link_world import World

from duolink.protocol import link
from duolink.protocol.inbound import Inbound, Received
from duolink.protocol.link import Link
from duolink.protocol.messages import LinkMessage, Message, Probe, Skip, Wait
from duolink.protocol.outbound import Outbound
from duolink.protocol.paths import PathKind

ENDS = st.sampled_from("AB")
INDEX = st.integers(0, 7)
FLAG = st.booleans()
TALLY: Counter[str] = Counter()
DURABLE_TALLY: Counter[str] = Counter()


class LinkMachine(RuleBasedStateMachine):
    """Any history of two links; the world checks each step, the teardown heals and checks the end."""

    world: World
    keep_channels = False

    @initialize(watching=FLAG, keep=FLAG)
    def begin(self, watching: bool, keep: bool) -> None:
        self.world = World(watching=watching)
        self.keep_channels = keep
        self.world.connect("A")
        self.world.connect("B")

    @rule(
        end=ENDS, lane=st.sampled_from(["messages", "messages", "bulk"]), count=st.integers(1, 5), large=FLAG
    )
    def submit(self, end: str, lane: str, count: int, large: bool) -> None:
        for _ in range(count):
            self.world.submit(end, lane, None, 1500 if large else 4)

    @rule(end=ENDS, ttl=st.sampled_from([0.0, 0.5, 3.0, 20.0]), count=st.integers(1, 8))
    def submit_with_a_deadline(self, end: str, ttl: float, count: int) -> None:
        for _ in range(count):
            self.world.submit(end, "messages", ttl)

    @rule(end=ENDS, count=st.integers(1, 6))
    def relay(self, end: str, count: int) -> None:
        self.world.relay(end, count)

    @rule(end=ENDS, count=st.integers(1, 6))
    def arrive(self, end: str, count: int) -> None:
        self.world.arrive(end, count)

    @rule(finish=FLAG, seconds=st.sampled_from([0.0, 0.03, 1.2]))
    def exchange(self, finish: bool, seconds: float) -> None:
        """The server path works for a while."""
        self.world.exchange(finish=finish)
        self.world.advance(seconds)
        self.world.exchange(finish=finish)

    @rule(end=ENDS, index=INDEX)
    def finish(self, end: str, index: int) -> None:
        self.world.finish(end, index)

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 2.5, 7.0, 31.0]))
    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(end=ENDS, resumed=FLAG)
    def connect(self, end: str, resumed: bool) -> None:
        self.world.connect(end, resumed=resumed)

    @rule(end=ENDS, back=FLAG, resumed=FLAG)
    def cut(self, end: str, back: bool, resumed: bool) -> None:
        self.world.cut(end)
        if back:
            self.world.connect(end, resumed=resumed)

    @rule(end=ENDS, back=FLAG, really=st.sampled_from([True, False, False]))
    def restart(self, end: str, back: bool, really: bool) -> None:
        if really:
            self.world.restart(end)
            if back:
                self.world.connect(end)

    @rule(kind=st.sampled_from([PathKind.DIRECT, PathKind.TURN]), proven=FLAG)
    def open(self, kind: PathKind, proven: bool) -> None:
        self.world.open(kind)
        if proven:
            for path in list(self.world.channels):
                self.world.converse(path, 4)

    def path(self, index: int) -> str:
        return sorted(self.world.channels)[index % len(self.world.channels)]

    @precondition(lambda self: self.world.channels)
    @rule(index=INDEX)
    def close(self, index: int) -> None:
        self.world.close(self.path(index))

    @precondition(lambda self: self.world.channels)
    @rule(index=INDEX, end=ENDS)
    def silence(self, index: int, end: str) -> None:
        self.world.silence(self.path(index), end)

    @precondition(lambda self: self.world.channels)
    @rule(index=INDEX, end=ENDS, which=INDEX, copies=st.sampled_from([1, 1, 1, 0, 2]))
    def deliver(self, index: int, end: str, which: int, copies: int) -> None:
        self.world.deliver(self.path(index), end, which, copies=copies)

    @precondition(lambda self: self.world.channels)
    @rule(index=INDEX, seconds=st.sampled_from([0.0, 0.02, 3.0]))
    def converse(self, index: int, seconds: float) -> None:
        """A data channel works for a while, so that it is proven and carries messages."""
        self.world.converse(self.path(index), 3)
        self.world.advance(seconds)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.heal(keep_channels=self.keep_channels)
            TALLY.update(self.world.tally)


class DurableMachine(LinkMachine):
    """The same, over a server that keeps what it is sent, when its disk lets it."""

    world: DurableWorld

    @initialize(watching=FLAG, keep=FLAG)
    def begin(self, watching: bool, keep: bool) -> None:
        self.world = DurableWorld(watching=watching)
        self.keep_channels = keep
        self.world.connect("A")
        self.world.connect("B")

    @rule(count=st.integers(1, 8))
    def disk(self, count: int) -> None:
        self.world.disk(count)

    @rule(failing=FLAG, full=FLAG, really=st.sampled_from([True, False, False]))
    def trouble(self, failing: bool, full: bool, really: bool) -> None:
        if really:
            self.world.failing, self.world.full = failing, full

    @rule()
    def well(self) -> None:
        self.world.well()

    @rule(end=ENDS, seconds=st.sampled_from([0.3, 2.5]))
    def store(self, end: str, seconds: float) -> None:
        """Nothing is acknowledged in time, and the disk answers at once."""
        self.world.relay(end, 100)
        self.world.advance(seconds)
        self.world.relay(end, 100)
        self.world.disk(100)
        self.world.arrive(end, 100)

    @rule(end=ENDS, finished=st.integers(0, 3), really=st.sampled_from([True, False]))
    def restart_beside_a_mailbox(self, end: str, finished: int, really: bool) -> None:
        """A receiver comes, finishes with some of what was kept, and restarts before its sender hears."""
        if not really:
            return
        world, sender = self.world, "B" if end == "A" else "A"
        world.cut(end)
        for ttl in (None, 0.5, None):
            world.submit(sender, "messages", ttl)
        world.relay(sender, 100)
        world.disk(100)
        world.cut(sender)
        world.advance(1.0)
        world.connect(end)
        world.arrive(end, 100)
        for _ in range(finished):
            world.finish(end, 0)
        world.advance(0.03)
        world.relay(end, 100)
        world.restart(end)
        world.connect(end)
        world.connect(sender)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.heal(keep_channels=self.keep_channels)
            DURABLE_TALLY.update(self.world.tally)


EXAMPLES = settings(
    max_examples=300,
    stateful_step_count=50,
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def test_a_link_keeps_its_promises_over_any_network() -> None:
    """Once, in order, nothing invented, verdicts that are true, and an end to everything after healing."""
    run_state_machine_as_test(LinkMachine, settings=EXAMPLES)


def test_a_link_keeps_its_promises_over_a_server_that_stores() -> None:
    """And `stored` means that it is, and that it comes."""
    run_state_machine_as_test(DurableMachine, settings=EXAMPLES)


def test_the_hard_cases_really_occur() -> None:
    """A model that never loses, repeats or reorders anything proves nothing."""
    if not TALLY:
        run_state_machine_as_test(LinkMachine, settings=EXAMPLES)
    for occurrence in (
        "LinkMessage on a data channel",
        "Skip on a data channel",
        "Ack on a data channel",
        "Wait from the server",
        "Skip from the server",
        "a cursor rode",
        "asked to send again",
        "heard of expired",
        "settled as expired",
        "delivered although it had expired",
        "received again by a new process",
    ):
        assert TALLY[occurrence], f"never: {occurrence}"


def test_the_hard_cases_of_storing_really_occur() -> None:
    if not DURABLE_TALLY:
        run_state_machine_as_test(DurableMachine, settings=EXAMPLES)
    for occurrence in (
        "told that it is stored",
        "told that nothing can be stored",
        "storage trouble",
        "a hole before a store",
        "a mailbox was full",
        "settled as mailbox_full",
        "handed over from a mailbox",
        "a loss from a mailbox",
        "heard of mailbox_full",
        "received again by a new process",
        "LinkMessage on a data channel",
    ):
        assert DURABLE_TALLY[occurrence], f"never: {occurrence}"


# --- negative controls: each planted defect must turn the machine red ---------------------------------


def hand_over_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Inbound.message

    def message(self: Inbound, message: LinkMessage, now: float, **how: Any) -> Any:
        if message.seq < self.expected:
            return [Received(self.lane, message)]
        return take(self, message, now, **how)

    monkeypatch.setattr(Inbound, "message", message)


def acknowledge_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inbound, "poll", lambda self, now: False)
    monkeypatch.setattr(Inbound, "may_ride", lambda self: False)
    monkeypatch.setattr(
        Inbound, "pull_at", property(lambda self: inf, lambda self, value: None), raising=False
    )
    monkeypatch.setattr(
        Inbound, "ack_at", property(lambda self: inf, lambda self, value: None), raising=False
    )


def acknowledge_before_it_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Inbound.ack

    def ack(self: Inbound, *who: Any, **how: Any) -> Any:
        message = make(self, *who, **how)
        message.seq = max(message.seq, message.received)
        return message

    monkeypatch.setattr(Inbound, "ack", ack)


def never_advance_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outbound, "base", property(lambda self: 1))


def advance_base_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outbound, "base", property(lambda self: max(self.received + 1, self.next_seq - 1)))


def send_each_skip_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Once(Outbound):
        def __init__(self, *how: Any) -> None:
            super().__init__(*how)
            self.skipped: set[int] = set()

        def transmit(self, *range_: Any, **how: Any) -> Iterator[LinkMessage | Skip]:
            for message in super().transmit(*range_, **how):
                if not isinstance(message, Skip):
                    yield message
                elif message.seq not in self.skipped:
                    self.skipped.add(message.seq)
                    yield message

    monkeypatch.setattr(link, "Outbound", Once)


def ignore_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Link.receive

    def receive(self: Link, message: Message, path: str, now: float) -> None:
        if not isinstance(message, Wait):
            take(self, message, path, now)

    monkeypatch.setattr(Link, "receive", receive)


def never_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Link, "_probe", lambda self, sending, ways, now: setattr(sending, "probe_at", inf))


def call_every_expired_number_lost_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    skip = Outbound._skip

    def hasty(self: Outbound, entry: Any, reason: Any) -> Any:
        entry.copies = 0
        return skip(self, entry, reason)

    monkeypatch.setattr(Outbound, "_skip", hasty)


def forget_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Inbound.ack

    def ack(self: Inbound, *who: Any, **how: Any) -> Any:
        message = make(self, *who, **how)
        message.lost = []
        return message

    monkeypatch.setattr(Inbound, "ack", ack)


def hand_over_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Inbound.message

    def message(self: Inbound, message: LinkMessage, now: float, **how: Any) -> Any:
        if message.seq > self.expected:
            self.expected = message.seq
        return take(self, message, now, **how)

    monkeypatch.setattr(Inbound, "message", message)


PLANTED = [
    hand_over_repeats,
    hand_over_out_of_order,
    acknowledge_nothing,
    acknowledge_before_it_is_finished,
    never_advance_base,
    advance_base_too_early,
    send_each_skip_once,
    ignore_wait,
    never_probe,
    call_every_expired_number_lost_at_once,
    forget_what_was_lost,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_defect_turns_the_model_red(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model cannot see it does not prove."""
    plant(monkeypatch)
    failure = caught(LinkMachine, EXAMPLES)
    assert isinstance(failure, AssertionError), failure


def take_stored_for_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    base: Any = vars(Outbound)["base"].fget
    monkeypatch.setattr(Outbound, "base", property(lambda self: max(base(self), self.stored + 1)))


def forget_bodies_when_they_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to be stored is not stored."""
    take = Outbound.transmit

    def transmit(self: Outbound, *range_: Any, store: bool = False, **how: Any) -> Any:
        yield from take(self, *range_, store=store, **how)
        if store:
            self.store(range_[1])

    monkeypatch.setattr(Outbound, "transmit", transmit)


def ignore_where_the_mailbox_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Link.receive

    def receive(self: Link, message: Message, path: str, now: float) -> None:
        if isinstance(message, Probe):
            message.start = 0
        take(self, message, path, now)

    monkeypatch.setattr(Link, "receive", receive)


def forget_what_an_earlier_process_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inbound, "inherit", lambda self, lost: None)


def ignore_a_full_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number is not skipped: nobody has it, and its sender waits for ever."""
    monkeypatch.setattr(Link, "_refused", lambda self, sending, error, now: sending.outbound.store(error.seq))


def believe_every_mailbox_speaks_for_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mailbox's question opens the data channels, and nobody knocks at the server."""
    take, knock = Link._receive_ack, Link._knock

    def receive_ack(self: Link, ack: Any, path: str, now: float) -> None:
        take(self, ack, path, now)
        self._opened = True

    def knock_if_it_is_the_way(self: Link, sending: Any, now: float) -> None:
        if "server" in self._ways(sending.outbound.lane, now):
            knock(self, sending, now)

    monkeypatch.setattr(Link, "_receive_ack", receive_ack)
    monkeypatch.setattr(Link, "_knock", knock_if_it_is_the_way)


PLANTED_BESIDE_A_DISK = [
    take_stored_for_settled,
    forget_bodies_when_they_leave,
    ignore_where_the_mailbox_begins,
    forget_what_an_earlier_process_lost,
    ignore_a_full_mailbox,
    believe_every_mailbox_speaks_for_the_peer,
]


@pytest.mark.parametrize("plant", PLANTED_BESIDE_A_DISK, ids=lambda plant: plant.__name__)
def test_a_planted_defect_turns_the_model_with_a_disk_red(
    plant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    failure = caught(DurableMachine, EXAMPLES)
    assert isinstance(failure, AssertionError), failure
