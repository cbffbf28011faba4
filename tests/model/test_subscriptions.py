"""A client's channels against a server with history, retention, new epochs, late answers and cuts.

What the application hears of a channel is without a hole, or a hole is named; nothing is told twice,
nothing of another epoch; and when everything is calm again, every wanted channel is up to date. One channel
has shared state: what the application makes of it is at every moment what it was at that position.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from msgspec import Raw
from tests.model.hunt import caught

from duolink.protocol import codec
from duolink.protocol.messages import (
    Error,
    Gap,
    Message,
    Position,
    Publication,
    Snapshot,
    Subscribe,
    Subscribed,
    Subscribing,
    Unsubscribed,
)
from duolink.protocol.subscriptions import ChannelJoined, ChannelRefused, Published, Subscriptions

STATEFUL = "chat"
CHANNELS = st.sampled_from(["news", "chat"])
FLAG = st.booleans()


def change(offset: int) -> tuple[str, bool]:
    """What a publication does to the shared state: a name, and whether it is deleted."""
    return ("" if offset % 3 == 0 else f"n{offset % 4}"), offset % 5 == 0


def made(top: int) -> dict[str, int]:
    """Name → version at an offset."""
    state: dict[str, int] = {}
    for offset in range(1, top + 1):
        apply(state, offset, *change(offset))
    return state


def apply(state: dict[str, int], offset: int, name: str, deleted: bool) -> None:
    if deleted:
        state.pop(name, None)
    elif name:
        state[name] = offset


@dataclass
class Log:
    """One channel at the server."""

    epoch: str = "e1"
    first: int = 1
    top: int = 0


@dataclass
class Server:
    """An honest server: ordered answers, which may come late."""

    logs: dict[str, Log] = field(default_factory=lambda: {"news": Log(), "chat": Log()})
    active: set[str] = field(default_factory=set)
    pending: dict[str, tuple[int, Position]] = field(default_factory=dict)
    out: deque[bytes] = field(default_factory=deque)
    epochs: int = 1

    def say(self, message: Message) -> None:
        self.out.append(codec.encode(message))

    def subscribe(self, number: int, channels: list[Position]) -> None:
        names = {position.channel for position in channels}
        self.active &= names
        self.pending = {name: begun for name, begun in self.pending.items() if name in names}
        for position in channels:
            if position.channel not in self.active and position.channel not in self.pending:
                self.pending[position.channel] = (number, position)

    def complete(self, name: str, *, refuse: bool = False) -> None:
        """The engine answers."""
        if name not in self.pending:
            return
        number, wanted = self.pending.pop(name)
        if refuse:
            self.say(Error(code="forbidden", channel=name, id=number))
            return
        log = self.logs[name]
        answer = Subscribed(channel=name, epoch=log.epoch, offset=log.top, id=number)
        if wanted.epoch == log.epoch and wanted.offset + 1 >= log.first:
            answer.recovered, answer.offset = True, wanted.offset
        elif wanted.epoch == log.epoch:
            answer.offset = log.first - 1
            answer.gap = Gap("evicted", wanted.offset + 1, log.first - 1)
        elif wanted.epoch:
            answer.gap = Gap("epoch")
        snapshot = wanted.state and not answer.recovered
        if snapshot:
            answer.offset = log.top
            if answer.gap is not None and answer.gap.last:
                answer.gap.last = log.top
        self.say(answer)
        if snapshot:
            state = made(log.top)
            self.say(Snapshot(channel=name, count=len(state), id=number))
            for version in state.values():
                self.publication(name, version, state=True)
        for offset in range(answer.offset + 1, log.top + 1):
            self.publication(name, offset)
        self.active.add(name)

    def publication(self, name: str, offset: int, state: bool = False) -> None:
        key, deleted = change(offset)
        data = Raw(f'"{self.logs[name].epoch}/{offset}"'.encode())
        self.say(Publication(channel=name, offset=offset, name=key, deleted=deleted, state=state, data=data))


class ChannelMachine(RuleBasedStateMachine):
    """Any order of what an application, a network and a server do to a set of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.client = Subscriptions()
        self.online = False
        self.ids = 1
        self.to_server: deque[Subscribe] = deque()
        self.told: dict[str, tuple[str, int]] = {}  # channel → position up to which the application knows
        self.state: dict[str, int] = {}
        self.wanted: set[str] = set()

    # --- application and network ---------------------------------------------------------------

    @rule(name=CHANNELS, back=FLAG)
    def want(self, name: str, back: bool) -> None:
        """Subscribe, from now on or from where this application once was."""
        epoch, offset = self.told.get(name, ("", 0)) if back else ("", 0)
        self.client.want(name, epoch=epoch, offset=offset, state=name == STATEFUL)
        if not epoch:
            self.told.pop(name, None)
        self.wanted.add(name)

    @rule(name=CHANNELS)
    def drop(self, name: str) -> None:
        self.client.drop(name)
        self.wanted.discard(name)

    @rule()
    def connect(self) -> None:
        if not self.online:
            self.online = True
            self.server.active.clear()
            self.server.pending.clear()
            self.server.subscribe(0, self.client.hello())

    @rule()
    def cut(self) -> None:
        self.online = False
        self.to_server.clear()
        self.server.out.clear()
        self.server.active.clear()
        self.server.pending.clear()

    @rule()
    def send(self) -> None:
        if self.online:
            commands = self.client.commands(self.ids)
            self.ids += len(commands)
            self.to_server += commands

    @rule(count=st.integers(1, 3))
    def relay(self, count: int) -> None:
        for _ in range(min(count, len(self.to_server))):
            command = self.to_server.popleft()
            self.server.subscribe(command.id, command.channels)
            self.server.say(Subscribing(id=command.id))

    @rule(count=st.integers(1, 9))
    def arrive(self, count: int) -> None:
        for _ in range(min(count, len(self.server.out))):
            (message,) = codec.SERVER.text(self.server.out.popleft())
            self.hear(self.client.receive(message))

    @rule(name=CHANNELS, wanted=FLAG)
    def calm(self, name: str, wanted: bool) -> None:
        """Everything under way arrives, perhaps with one more channel."""
        if wanted and name not in self.wanted:
            self.want(name, True)
        self.connect()
        self.exchange()

    def exchange(self) -> None:
        self.send()
        self.relay(9)
        for name in self.server.logs:
            self.server.complete(name)
        self.arrive(1000)

    # --- server --------------------------------------------------------------------------------

    @rule(name=CHANNELS, refuse=st.sampled_from([False, False, False, True]))
    def complete(self, name: str, refuse: bool) -> None:
        self.server.complete(name, refuse=refuse)

    @rule(name=CHANNELS, count=st.integers(1, 3), lost=st.sampled_from([False, False, True]))
    def publish(self, name: str, count: int, lost: bool) -> None:
        """Append, and tell a subscriber; what is between server and client may lose one."""
        for number in range(count):
            log = self.server.logs[name]
            log.top += 1
            if name in self.server.active and not (lost and number == 0):
                self.server.publication(name, log.top)

    @rule(name=CHANNELS)
    def evict(self, name: str) -> None:
        log = self.server.logs[name]
        log.first = min(log.top + 1, log.first + 2)

    @rule(name=CHANNELS)
    def lose_log(self, name: str) -> None:
        """A memory channel's server restarted: another epoch; its subscribers must begin again."""
        self.server.epochs += 1
        self.server.logs[name] = Log(f"e{self.server.epochs}")
        self.end(name, resubscribe=True)

    @rule(name=CHANNELS, resubscribe=FLAG)
    def end(self, name: str, resubscribe: bool) -> None:
        if name in self.server.active:
            self.server.active.discard(name)
            self.server.say(Unsubscribed(channel=name, code="ended", resubscribe=resubscribe))

    # --- what must hold --------------------------------------------------------------------------

    def hear(self, event: Any) -> None:
        if isinstance(event, ChannelJoined):
            before = self.told.get(event.channel)
            if event.recovered:
                assert before == (event.epoch, event.offset), "recovered from somewhere else"
            else:
                assert before is None or event.gap is not None, "a hole without a word"
            self.told[event.channel] = (event.epoch, event.offset)
            assert (event.state is None) == (event.recovered or event.channel != STATEFUL)
            if event.state is not None:
                self.state = {entry.name: entry.offset for entry in event.state}
        elif isinstance(event, Published):
            assert event.channel in self.wanted, "a publication of a channel nobody wants"
            epoch, offset = self.told[event.channel]
            assert event.publication.offset == offset + 1, f"{event.publication.offset} after {offset}"
            assert bytes(event.publication.data) == f'"{epoch}/{offset + 1}"'.encode(), "of another log"
            self.told[event.channel] = (epoch, offset + 1)
            if event.channel == STATEFUL:
                apply(self.state, offset + 1, event.publication.name, event.publication.deleted)
        elif isinstance(event, ChannelRefused):
            assert event.channel in self.wanted, "a refusal of what nobody wants"
            self.wanted.discard(event.channel)
        if STATEFUL in self.told:
            assert self.state == made(self.told[STATEFUL][1]), "another state than at this position"
        for name in self.wanted & self.told.keys():
            epoch, offset = self.client.position(name)
            assert not epoch or (epoch, offset) == self.told[name]

    def teardown(self) -> None:
        """Calm: everything is answered, and every wanted channel is up to date."""
        self.connect()
        for _ in range(4):
            self.exchange()
        for name in self.server.logs:  # what was lost last shows with the next one
            self.publish(name, 1, False)
        for _ in range(4):
            self.exchange()
        assert {name for name in self.server.logs if name in self.client} == self.wanted
        for name in self.wanted:
            log = self.server.logs[name]
            assert self.told.get(name) == (log.epoch, log.top), f"{name} stands still"


EXAMPLES = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def test_channels_have_no_silent_holes() -> None:
    """Contiguous or a named gap, whatever crosses whatever; and calm brings every channel up to date."""
    run_state_machine_as_test(ChannelMachine, settings=EXAMPLES)


# --- negative controls -------------------------------------------------------------------------------


def pass_over_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    def publication(self: Subscriptions, publication: Publication) -> Published | None:
        subscription = self._wanted.get(publication.channel)
        if subscription is None or not subscription.joined or publication.offset <= subscription.offset:
            return None
        subscription.offset = publication.offset
        return Published(publication.channel, publication)

    monkeypatch.setattr(Subscriptions, "_publication", publication)


def take_any_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subscriptions, "_asked", lambda self, channel, number: self._wanted.get(channel))


def keep_the_channel_when_beginning_again(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Subscriptions.commands

    def without_dropping(self: Subscriptions, next_id: int) -> list[Subscribe]:
        return commands(self, next_id)[-1:]

    monkeypatch.setattr(Subscriptions, "commands", without_dropping)


def forget_the_position(monkeypatch: pytest.MonkeyPatch) -> None:
    def again(self: Subscriptions, channel: str, subscription: Any) -> None:
        self.want(channel)

    monkeypatch.setattr(Subscriptions, "_again", again)


def take_the_position_before_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    subscribed = Subscriptions._subscribed

    def moved(self: Subscriptions, message: Subscribed) -> ChannelJoined | None:
        event = subscribed(self, message)
        subscription = self._wanted.get(message.channel)
        if subscription is not None and subscription.head is not None:
            subscription.epoch, subscription.offset = message.epoch, message.offset
        return event

    monkeypatch.setattr(Subscriptions, "_subscribed", moved)


def take_a_snapshot_that_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def pictured(self: Subscriptions, subscription: Any) -> ChannelJoined | None:
        head, entries = subscription.head, tuple(subscription.entries)
        if len(entries) + 1 < subscription.count:
            return None
        subscription.head = None
        return self._join(subscription, head, entries)

    monkeypatch.setattr(Subscriptions, "_pictured", pictured)


def forget_to_ask_for_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def again(self: Subscriptions, channel: str, subscription: Any) -> None:
        self.want(channel, epoch=subscription.epoch, offset=subscription.offset)

    monkeypatch.setattr(Subscriptions, "_again", again)


def ignore_resubscribe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subscriptions, "_unsubscribed", lambda self, message: None)


PLANTED = [
    pass_over_holes,
    take_any_answer,
    keep_the_channel_when_beginning_again,
    forget_the_position,
    ignore_resubscribe,
    take_the_position_before_the_snapshot,
    take_a_snapshot_that_is_not_whole,
    forget_to_ask_for_the_state,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_defect_turns_the_model_red(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model cannot see it does not prove."""
    plant(monkeypatch)
    failure = caught(ChannelMachine, EXAMPLES)
    assert isinstance(failure, AssertionError), failure
