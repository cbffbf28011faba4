"""A session against any driver and any server: only legal states, never an exception, never a circle."""

import json
from collections import deque
from math import inf
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from msgspec import Raw
from tests.model.hunt import caught

from duolink.protocol import codec
from duolink.protocol.codes import CloseCode, may_reconnect
from duolink.protocol.commands import Commands, TooManyCommands
from duolink.protocol.events import TRANSITIONS, Answered, Carry, Close, FromLink, Open, State, StateChanged
from duolink.protocol.link import Link, Received, WindowFull
from duolink.protocol.messages import Ephemeral, Hello, History, PresenceQuery, Publish, Refresh, Signal
from duolink.protocol.paths import PathKind
from duolink.protocol.payload import Send
from duolink.protocol.session import Session

RUN = 7
MAX_TAKES = 20
"""Calls of `take` at one instant after which a machine must have nothing more to say."""

NAMES = st.sampled_from(["b", "b", "b", "c", "a", "$server", "@bob", "", "b\n", "x" * 130])
SMALL = st.integers(0, 6)
NUMBERS = st.one_of(SMALL, st.just(2**53 - 1))
RUNS = st.sampled_from([RUN, RUN, 1, 2, 3])
LANES = st.sampled_from(["messages", "messages", "bulk", "other"])
CHANNELS = st.sampled_from(["news", "chat", "never wanted"])
WORDS = st.sampled_from(["here", "away", "reconnecting", "sleeping", "credit", "refused", "unavailable", ""])
FLAG = st.booleans()


WELCOME = {
    "type": "welcome",
    "client_id": "a",
    "session": "s1",
    "secret": "x",
    "generation": 1,
    "attachment": 1,
    "run": RUN,
    "resumed": False,
    "durable": False,
    "heartbeat": {"interval": 30000, "timeout": 10000, "misses": 3},
    "limits": {
        "message": 65536,
        "payload": 1048576,
        "subscriptions": 128,
        "watched": 256,
        "window": 8,
        "window_bytes": 1000,
    },
    "time": 1,
}

NUMBERED = {"from": NAMES, "to": NAMES, "run": RUNS, "seq": NUMBERS, "base": NUMBERS, "lane": LANES}
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "message": dict(**NUMBERED, data=SMALL, ack=NUMBERS, ack_run=RUNS, ask=FLAG),
    "ack": dict(**NUMBERED, received=NUMBERS, want=FLAG, limit=NUMBERS),
    "skip": dict(**NUMBERED, last=NUMBERS, reason=WORDS),
    "probe": dict(**NUMBERED),
    "wait": dict(**NUMBERED, last=NUMBERS),
    "stored": dict(**NUMBERED),
    "peer": dict(client_id=NAMES, state=WORDS, run=RUNS, generation=SMALL, attachment=SMALL),
    "error": dict(code=WORDS, id=SMALL, channel=CHANNELS, fatal=FLAG, retry_after=NUMBERS, **NUMBERED),
    "goodbye": dict(code=st.sampled_from([1000, 1001, 3502, 5]), spread=st.sampled_from([0, 5000])),
    "ping": dict(id=SMALL),
    "pong": dict(id=SMALL),
    "signal": {"data": SMALL, "from": NAMES},
    "ephemeral": dict(data=SMALL, channel=CHANNELS),
    "subscribing": dict(id=SMALL),
    "subscribed": dict(id=SMALL, channel=CHANNELS, epoch=WORDS, offset=NUMBERS, recovered=FLAG),
    "unsubscribed": dict(channel=CHANNELS, code=WORDS, resubscribe=FLAG),
    "published": dict(id=SMALL, epoch=WORDS, offset=NUMBERS),
    "publication": dict(channel=CHANNELS, offset=NUMBERS, page=SMALL, data=SMALL),
    "history_page": dict(id=SMALL, channel=CHANNELS, epoch=WORDS, offset=NUMBERS, count=SMALL),
    "presence_list": dict(id=SMALL, channel=CHANNELS, clients=st.lists(NAMES, max_size=2)),
    "refreshed": dict(id=SMALL, expires=NUMBERS),
    "watching": dict(id=SMALL),
    "join": dict(channel=CHANNELS, client_id=NAMES),
    "leave": dict(channel=CHANNELS, client_id=NAMES),
    "hello": dict(protocol=SMALL),
}


@st.composite
def server_messages(draw: st.DrawFn) -> dict[str, Any]:
    """A message with all of its fields, or (one in four) with some of them."""
    kind = draw(st.sampled_from(sorted(FIELDS)))
    partial = draw(st.sampled_from([False, False, False, True]))
    fields = {
        name: draw(values) for name, values in FIELDS[kind].items() if not partial or draw(st.booleans())
    }
    return {"type": kind, **fields}


SERVER_MESSAGES = server_messages()
HEARTBEATS = st.fixed_dictionaries({"interval": NUMBERS, "timeout": NUMBERS, "misses": SMALL})


class SessionMachine(RuleBasedStateMachine):
    """Any order of what a driver, a server and an application can do to a session."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.dice = deque([0.0, 0.5, 0.999, 0.25])
        self.session = Session("a", random=self.roll)
        self.state = State.IDLE
        self.opening = self.open = self.greeted = self.welcomed = False
        self.crossed = False
        self.commands = self.answers = 0
        self.received: list[Any] = []

    def roll(self) -> float:
        self.dice.rotate()
        return self.dice[0]

    # --- the driver ----------------------------------------------------------------------------

    def pump(self) -> None:
        """Do what the session asks until it has nothing more to say at this instant."""
        for _ in range(MAX_TAKES):
            ended = self.session.state is State.CLOSED
            actions = self.session.take(self.now)
            self.hear()
            for action in actions:
                self.act(action)
            timer = self.session.next_timer(self.now)
            if timer > self.now:
                break
        else:
            raise AssertionError(f"the session asks for {timer} at {self.now} again and again")
        if ended:
            assert timer == inf, "a closed session wants to be woken"
            assert self.session.take(self.now + 1000) == [], "a closed session still acts"

    def act(self, action: Any) -> None:
        if isinstance(action, Open):
            assert not self.open and not self.opening, "two transports at a time"
            assert self.session.state is not State.CLOSED
            self.opening = True
        elif isinstance(action, Close):
            self.open = self.opening = False  # it may have ended by itself meanwhile
        elif isinstance(action, Send):
            if self.crossed:
                return  # the transport ended while the goodbye was on its way out
            assert self.open, "sent without a transport"
            decode = codec.CLIENT.binary if action.binary else codec.CLIENT.text
            for line in decode(action.payload):
                assert not isinstance(line, codec.Malformed), (line, action.payload)
                assert isinstance(line, Hello) is not self.greeted, "hello comes first, and once"
                assert self.welcomed or isinstance(line, Hello), f"{line} before welcome"
                self.greeted = True
        else:
            assert isinstance(action, Carry)

    def hear(self) -> None:
        for event in self.session.events():
            if isinstance(event, StateChanged):
                assert event.state in TRANSITIONS[self.state], f"{self.state} → {event.state}"
                self.state = event.state
            elif isinstance(event, Answered):
                self.answers += 1
            elif isinstance(event, FromLink) and isinstance(event.event, Received):
                self.received.append((event.peer, event.event.message))
        assert self.state is self.session.state
        if self.state is State.CLOSED:
            assert self.answers == self.commands, "a command without an answer"

    @precondition(lambda self: self.session.state is State.IDLE)
    @rule()
    def start(self) -> None:
        self.session.start(self.now)
        self.pump()

    @precondition(lambda self: self.opening)
    @rule(welcomed=st.sampled_from([True, True, False]), resumed=FLAG)
    def opened(self, welcomed: bool, resumed: bool) -> None:
        self.opening, self.open, self.greeted, self.welcomed = False, True, False, False
        self.session.opened("token", self.now)
        self.pump()
        if welcomed and self.open:
            self.welcome({"resumed": resumed, "attachment": 2 if resumed else 1})

    @precondition(lambda self: self.open or self.opening)
    @rule(code=st.one_of(st.sampled_from(list(CloseCode)), st.integers(0, 5000)), retry=FLAG)
    def lost(self, code: int, retry: bool) -> None:
        if retry and not may_reconnect(code):
            code = 1006
        self.open = self.opening = False
        self.crossed = self.session.state is State.CLOSED
        self.session.lost(code, "gone", self.now)
        self.pump()

    @rule(seconds=st.sampled_from([0.001, 0.02, 1.0, 9.0, 31.0, 100.0, 4000.0]), late=FLAG)
    def advance(self, seconds: float, late: bool) -> None:
        """Time passes: with every timer on the way, or (the machine slept) in one leap."""
        until = self.now + seconds
        for _ in range(0 if late else 300):
            timer = self.session.next_timer(self.now)
            if timer > until:
                break
            self.now = max(self.now, timer)
            self.pump()
        self.now = until
        self.pump()

    @precondition(lambda self: self.open)
    @rule()
    def alive(self) -> None:
        self.session.alive(self.now)

    @rule()
    def network_changed(self) -> None:
        self.session.network_changed(self.now)
        self.pump()

    # --- the server ----------------------------------------------------------------------------

    def tell(self, payload: bytes, binary: bool = False) -> None:
        self.session.received(payload, binary, self.now)

    @precondition(lambda self: self.open)
    @rule(
        changes=st.fixed_dictionaries(
            {},
            optional={
                "run": RUNS,
                "heartbeat": HEARTBEATS,
                "reconnect_spread": NUMBERS,
                "resumed": FLAG,
                "attachment": SMALL,
                "client_id": NAMES,
            },
        )
    )
    def welcome(self, changes: dict[str, Any]) -> None:
        self.welcomed = True
        self.tell(json.dumps(WELCOME | changes).encode())
        self.pump()

    @precondition(lambda self: self.open)
    @rule(messages=st.lists(SERVER_MESSAGES, min_size=1, max_size=4), pump=FLAG)
    def served(self, messages: list[dict[str, Any]], pump: bool) -> None:
        self.tell(b"\n".join(json.dumps(fields).encode() for fields in messages))
        if pump:
            self.pump()

    @precondition(lambda self: self.open)
    @rule(payload=st.binary(max_size=40), binary=FLAG)
    def hostile(self, payload: bytes, binary: bool) -> None:
        self.tell(payload, binary)
        self.pump()

    # --- the application ---------------------------------------------------------------------

    @precondition(lambda self: self.session.run)
    @rule(peer=NAMES, lane=LANES, ttl=st.sampled_from([inf, 0.0, 5.0]), binary=FLAG)
    def submit(self, peer: str, lane: str, ttl: float, binary: bool) -> None:
        try:
            link = self.session.link(peer)
            link.submit(Raw(b"1"), lane=lane, expires=self.now + ttl, binary=binary)
        except (ValueError, WindowFull):
            return
        self.session.touch(link)
        self.pump()

    @precondition(lambda self: self.received)
    @rule()
    def finish(self) -> None:
        peer, received = self.received.pop()
        link = self.session.links[peer]
        link.finish(received, self.now)
        self.session.touch(link)
        self.pump()

    @rule(channel=CHANNELS, wanted=FLAG)
    def subscribe(self, channel: str, wanted: bool) -> None:
        if wanted:
            self.session.subscriptions.want(channel, presence=True)
        else:
            self.session.subscriptions.drop(channel)
        self.pump()

    @rule(peer=st.sampled_from(["b", "c"]), wanted=FLAG)
    def watch(self, peer: str, wanted: bool) -> None:
        (self.session.watch if wanted else self.session.unwatch)(peer)
        self.pump()

    @precondition(lambda self: self.session.state is not State.CLOSED)
    @rule(kind=st.integers(0, 3))
    def command(self, kind: int) -> None:
        message: Any = [
            Publish(id=0, channel="news", key="k", data=Raw(b"1")),
            History(id=0, channel="news"),
            PresenceQuery(id=0, channel="news"),
            Refresh(id=0, token="t"),
        ][kind]
        try:
            self.session.command(message, object(), self.now)
        except TooManyCommands:
            return
        self.commands += 1
        self.pump()

    @rule(ephemeral=FLAG)
    def send(self, ephemeral: bool) -> None:
        message = Ephemeral(data=Raw(b"1"), to="b") if ephemeral else Signal(data=Raw(b"1"), to="b")
        assert self.session.send(message) is (self.session.state is State.ONLINE)
        self.pump()

    @precondition(lambda self: self.session.run and self.session.state is not State.CLOSED)
    @rule(up=FLAG, payload=st.one_of(st.none(), SERVER_MESSAGES))
    def data_channel(self, up: bool, payload: dict[str, Any] | None) -> None:
        if up:
            self.session.path_up("b", "d1", PathKind.DIRECT, self.now)
        else:
            self.session.path_down("b", "d1")
        if payload is not None:
            self.session.received_on("b", "d1", json.dumps(payload).encode(), False, self.now)
        self.pump()

    @rule(really=st.sampled_from([True] + 9 * [False]), pump=FLAG)
    def close(self, really: bool, pump: bool) -> None:
        if really:
            self.session.close(self.now)
            if pump:
                self.pump()

    def teardown(self) -> None:
        self.session.close(self.now)
        self.pump()
        assert self.state in (State.CLOSED,)
        assert not self.open, "closing left a transport open"


EXAMPLES = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def test_a_session_survives_any_driver_and_any_server() -> None:
    """Only transitions of the table, no exception, hello first, every command answered, no busy loop."""
    run_state_machine_as_test(SessionMachine, settings=EXAMPLES)


# --- negative controls -------------------------------------------------------------------------------


def wake_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "next_timer", lambda self, now: now)


def greet_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Session.opened

    def twice(self: Session, token: str, now: float) -> None:
        opened(self, token, now)
        opened(self, token, now)

    monkeypatch.setattr(Session, "opened", twice)


def forget_commands_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Commands, "abandon", lambda self, reason: [])


def go_online_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    change = Session._change

    def twice(self: Session, state: State, *why: Any) -> None:
        change(self, state, *why)
        self._events.append(StateChanged(state))

    monkeypatch.setattr(Session, "_change", twice)


def let_links_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(self: Link, message: Any, path: str, now: float) -> None:
        raise ValueError(message)

    monkeypatch.setattr(Link, "receive", raising)


PLANTED = [
    wake_for_nothing,
    greet_twice,
    forget_commands_at_the_end,
    go_online_from_anywhere,
    let_links_raise,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_defect_turns_the_model_red(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model cannot see it does not prove."""
    plant(monkeypatch)
    failure = caught(SessionMachine, EXAMPLES)
    assert isinstance(failure, AssertionError | ValueError), failure
