"""What a soak concludes from its samples and ledgers."""

from collections.abc import Callable

import pytest

from .ledger import Ledger, missing
from .sample import MIB, Sample, complaints, fit, memory_slope


def samples(
    resident: Callable[[float], float], descriptors: Callable[[float], int] = lambda _: 320
) -> list[Sample]:
    """Ten minutes of a server with 300 clients."""
    return [
        Sample(time, int(resident(time) * MIB), descriptors(time), 9, time / 5, 1, 1, 300, 0, 0)
        for time in map(float, range(0, 600, 5))
    ]


def test_the_line_is_the_one_with_the_least_squares() -> None:
    slope, start = fit([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 5.0, 7.0])
    assert (slope, start) == (2.0, 1.0)
    assert fit([0.0, 1.0, 2.0], [1.0, 4.0, 1.0]) == (0.0, 2.0)
    assert fit([5.0], [7.0]) == (0.0, 7.0)


def test_a_start_that_fills_caches_is_no_growth() -> None:
    steady = samples(lambda time: min(50 + time / 10, 75))
    assert memory_slope(steady) == pytest.approx(0.0, abs=0.1)
    assert complaints(steady) == []


def test_memory_and_descriptors_that_grow_are_complained_of() -> None:
    assert complaints(samples(lambda time: 50 + time / 60)) == [
        "memory grows by 60.0 MiB per hour, more than 8"
    ]
    leaking = samples(lambda _: 50, lambda time: 320 + int(time) // 20)
    assert complaints(leaking) == ["descriptors beside those of connections have gone from 35 to 49"]


def test_the_ledger_takes_repeats_of_a_new_life_only() -> None:
    ledger = Ledger()
    first: dict[str, int] = {}
    for number in (1, 2, 3):
        ledger.took("bob from alice 1", number, first)
    second: dict[str, int] = {}
    for number in (2, 3, 4):
        ledger.took("bob from alice 1", number, second)
    assert ledger.violations == []
    ledger.called_safe("bob from alice 1", 4)
    assert missing(ledger.safe, ledger.taken) == []
    ledger.called_safe("bob from alice 1", 5)
    assert missing(ledger.safe, ledger.taken) == ["bob from alice 1: 5 were safe, 4 were taken"]


@pytest.mark.parametrize(
    ("taken", "what"), [([1, 3], "3 after 1"), ([1, 1], "1 after 1"), ([2], "begins with 2")]
)
def test_the_ledger_notices_holes_and_repeats(taken: list[int], what: str) -> None:
    ledger = Ledger()
    here: dict[str, int] = {}
    for number in taken:
        ledger.took("bob from alice 1", number, here)
    assert ledger.counts["violations"] == 1
    assert what in ledger.violations[0]
