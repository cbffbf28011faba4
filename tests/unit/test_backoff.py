"""Full jitter: between nothing and the exponential bound."""

import pytest

from duolink.protocol.backoff import Backoff


def test_the_bound_doubles_up_to_the_cap() -> None:
    backoff = Backoff()
    bounds = []
    for _ in range(7):
        bounds.append(backoff.bound)
        backoff.next(0.5)
    assert bounds == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(("random", "delay"), [(0.0, 0.0), (0.5, 2.0), (0.999, 3.996)])
def test_a_delay_is_a_share_of_the_bound(random: float, delay: float) -> None:
    backoff = Backoff(initial=4.0)
    assert backoff.next(random) == pytest.approx(delay)
    assert backoff.attempts == 1


def test_a_thousand_attempts_overflow_nothing() -> None:
    backoff = Backoff(factor=10.0, cap=60.0)
    for _ in range(1000):
        assert backoff.next(0.999999) < 60.0


def test_reset_begins_anew() -> None:
    backoff = Backoff()
    backoff.next(0.5)
    backoff.next(0.5)
    backoff.reset()
    assert backoff.bound == 1.0 and backoff.attempts == 0


def test_a_crowd_is_spread_evenly() -> None:
    """What full jitter is for: of 100 clients in their third attempt a quarter waits less than a quarter."""
    delays = []
    for client in range(100):
        backoff = Backoff()
        backoff.next(0.5)
        backoff.next(0.5)
        delays.append(backoff.next(client / 100))
    assert sum(delay < 1.0 for delay in delays) == 25


@pytest.mark.parametrize("how", [{"initial": 0.0}, {"initial": 31.0}, {"factor": 0.5}, {"initial": -1.0}])
def test_impossible_settings_are_refused(how: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="initial ≤ cap"):
        Backoff(**how)
