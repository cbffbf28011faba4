"""What is particular to the engine in memory: its bounds, and its late schedule."""

import random

import pytest

from duolink.engines import memory
from duolink.engines.base import Appended, Draft, Failure, Full, Retention, Unknown
from duolink.engines.memory import Late, MemoryRegistry, memory_engines

NOTHING = Retention(0, 0.0, 0)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return int(self.seconds * 1000)


def make(schedule=None):
    clock, names = Clock(), random.Random(3)
    return clock, memory_engines(clock, lambda: str(names.random()), schedule)


def test_it_says_that_nothing_it_holds_is_durable():
    _, engines = make()
    assert engines.durable is False and engines.problem() == ""


def test_the_clients_of_a_user_are_known_those_seen_last_first():
    registry = MemoryRegistry(memory.AtOnce())
    for client, user in (("phone", "bob"), ("laptop", "bob"), ("desk", "carol"), ("phone", "bob")):
        registry.present_run(client, user, 5000, lambda _: None)
    assert registry.clients("bob") == ["phone", "laptop"] and registry.clients("dave") == []
    assert registry.knows("desk") and not registry.knows("bob")
    registry.present_run("desk", "bob", 5000, lambda _: None)
    assert registry.clients("bob") == ["desk", "phone", "laptop"] and registry.clients("carol") == []


def test_forgotten_clients_are_nobodys(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "MAX_RUNS", 2)
    registry = MemoryRegistry(memory.AtOnce())
    for client in ("phone", "laptop", "desk"):
        registry.present_run(client, "bob", 5000, lambda _: None)
    assert registry.clients("bob") == ["desk", "laptop"] and not registry.knows("phone")


def test_empty_logs_are_forgotten_unless_held_or_used():
    clock, engines = make()
    log = engines.log
    for name in ("quiet", "held", "used", "full"):
        log.append(
            name, Draft("a", b"1"), Retention(9, 1e6, 99) if name == "full" else NOTHING, lambda _: None
        )
    log.hold("held")
    for _ in range(6):
        clock.seconds += 100
        log.top("used", lambda _: None)
    assert len(log) == 3
    log.release("held")
    clock.seconds += memory.LOG_LIFE
    log.top("used", lambda _: None)
    assert len(log) == 2


def test_the_number_of_logs_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "MAX_LOGS", 2)
    _, engines = make()
    answers: list = []
    for name in "abc":
        engines.log.top(name, answers.append)
    assert answers[2] == Failure("too many channels")


def test_the_number_of_keys_is_bounded_and_what_it_forgot_is_unknown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "MAX_KEYS", 2)
    clock, engines = make()
    clock.seconds = 1000.0
    answers: list = []
    for key in "abc":
        engines.log.append("room", Draft("x", b"", key=key), NOTHING, answers.append)
    engines.log.append("room", Draft("x", b"", key="a", age=1.0), NOTHING, answers.append)
    assert answers[-1] == Unknown()


def test_the_runs_of_forgotten_clients_are_a_floor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "MAX_RUNS", 1)
    registry = MemoryRegistry(memory.AtOnce())
    answers: list = []
    registry.present_run("alice", "alice", 5000, answers.append)
    registry.present_run("bob", "bob", 1, answers.append)
    registry.issue_run("alice", "alice", 10, answers.append)
    assert answers[-1] == 5001


def test_late_is_late_reordered_and_the_same_for_the_same_seed():
    def play(seed: int) -> list:
        late = Late(random.Random(seed))
        _, engines = make(late)
        answers: list = []
        for number in range(8):
            engines.log.append("room", Draft("x", b""), NOTHING, lambda a, n=number: answers.append(n))
            engines.log.read("room", "", 0, 1, lambda p, n=number: answers.append((n, p.top.offset)))
        assert not answers and len(late) == 16
        late.run()
        return answers

    assert play(1) == play(1) != play(2)
    assert [answer for answer in play(1) if isinstance(answer, int)] == list(range(8))


def test_all_shared_state_together_is_bounded_and_what_is_deleted_makes_room(monkeypatch):
    monkeypatch.setattr(memory, "MAX_STATE", 2000)
    _, engines = make()

    def write(channel: str, data: bytes = b"x" * 1000, deleted: bool = False):
        answers: list = []
        draft = Draft("alice", data, name="n", deleted=deleted)
        engines.log.append(channel, draft, NOTHING, answers.append)
        return type(answers[0])

    assert [write(f"c{number}") for number in range(3)] == [Appended, Appended, Full]
    assert write("c1", b"", deleted=True) is Appended
    assert [write("c2"), write("c3")] == [Appended, Full]


def test_a_log_is_forgotten_when_the_last_name_is_deleted():
    clock, engines = make()

    def write(**draft):
        engines.log.append("doc", Draft("alice", b"", name="n", **draft), NOTHING, lambda _: None)

    def others(count: int) -> int:
        for number in range(count):
            clock.seconds += memory.LOG_LIFE
            engines.log.append(f"other{number}", Draft("alice", b""), NOTHING, lambda _: None)
        return len(engines.log)

    def listed() -> list[str]:
        answers: list = []
        engines.log.listing("", "", 100, answers.append)
        return [channel for channel, _ in answers[0]]

    write()
    assert others(5) == 2, "the one that has state, and the last of the others"
    assert listed() == ["doc", "other4"]
    write(deleted=True)
    assert others(5) == 1
    assert listed() == ["other4"]


def test_logs_are_forgotten_a_few_at_a_time(monkeypatch):
    """Or one look at all that clients have named would hold everybody up."""
    monkeypatch.setattr(memory, "SWEEP_LOGS", 3)
    clock, engines = make()
    for number in range(10):
        engines.log.top(f"name{number}", lambda _: None)
    clock.seconds += memory.LOG_LIFE + 1
    left = []
    for _ in range(4):
        engines.log.top("name0", lambda _: None)
        left.append(len(engines.log))
    assert left == [7, 4, 1, 1]
