"""The engines every suite of this folder runs against."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from duolink.engines.base import Engines
from duolink.engines.memory import Late, memory_engines


class ManualClock:
    """Time that a test moves by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return 1_800_000_000_000 + int(self.seconds * 1000)


class Bench:
    """An engine under test: `ask` waits for its one answer, `settle` for everything under way."""

    def __init__(self, engines: Engines, clock: ManualClock, settle: Callable[[], None]) -> None:
        self.engines, self.clock, self.settle = engines, clock, settle

    def ask(self, request: Callable[..., None], *arguments: Any) -> Any:
        answers: list[Any] = []
        request(*arguments, answers.append)
        self.settle()
        assert len(answers) == 1
        return answers[0]


def _memory() -> Bench:
    clock = ManualClock()
    names = random.Random(1)
    return Bench(memory_engines(clock, lambda: f"{names.random()}"), clock, lambda: None)


def _memory_late() -> Bench:
    clock, late, names = ManualClock(), Late(random.Random(7)), random.Random(1)
    return Bench(memory_engines(clock, lambda: f"{names.random()}", late), clock, late.run)


@pytest.fixture(params=[_memory, _memory_late], ids=["memory", "memory-late"])
def bench(request: pytest.FixtureRequest) -> Bench:
    made: Bench = request.param()
    return made
