"""When to ping, when a peer is lost, and the formula between them."""

from math import inf

import pytest

from duolink.protocol.heartbeat import Beat, Heartbeat, Pace


def drive(heart: Heartbeat, until: float) -> list[tuple[float, Beat]]:
    """Poll at every timer up to a time."""
    beats = []
    while (at := heart.next_timer()) <= until:
        beat = heart.poll(at)
        if beat is not None:
            beats.append((at, beat))
    return beats


def test_silence_is_noticed_within_the_documented_time() -> None:
    """History 22: misses × interval + timeout = 100 s, to the second."""
    assert Pace().detection == 100
    beats = drive(Heartbeat(Pace(), 0), 1000)
    assert beats == [(30, Beat.PING), (60, Beat.PING), (90, Beat.PING), (100, Beat.LOST)]


@pytest.mark.parametrize("pace", [Pace(5, 5, 1), Pace(5, 1, 4), Pace(30, 30, 2), Pace(0.1, 0.1, 3)])
def test_detection_never_takes_longer_than_the_formula(pace: Pace) -> None:
    heart = Heartbeat(pace, 0)
    at, beat = drive(heart, 1e6)[-1]
    assert beat is Beat.LOST and at == pytest.approx(pace.detection)


def test_polls_that_come_late_do_not_add_up() -> None:
    """A busy loop polls each timer a little late; the rhythm, and with it the bound, is kept."""
    heart, now, lost = Heartbeat(Pace(), 0), 0.0, 0.0
    while not lost:
        now = heart.next_timer() + 0.5
        if heart.poll(now) is Beat.LOST:
            lost = now
    assert lost <= Pace().detection + 1.0


def test_any_sign_of_life_begins_anew() -> None:
    heart = Heartbeat(Pace(), 0)
    drive(heart, 95)
    heart.alive(95)
    assert drive(heart, 200) == [(125, Beat.PING), (155, Beat.PING), (185, Beat.PING), (195, Beat.LOST)]


def test_nothing_is_due_after_the_loss() -> None:
    heart = Heartbeat(Pace(), 0)
    drive(heart, 1000)
    assert heart.next_timer() == inf and heart.poll(5000) is None


def test_a_long_sleep_gives_the_peer_its_time_to_answer() -> None:
    """A poll after an hour is one ping, not a loss; the next ping keeps its distance."""
    heart = Heartbeat(Pace(), 0)
    assert heart.poll(3600) is Beat.PING
    assert heart.next_timer() == 3610
    assert heart.poll(3610) is None and heart.next_timer() == 3630


def test_doubt_pings_at_once_and_takes_one_miss_for_a_loss() -> None:
    """History 22: the machine slept, monotonic time stopped; clock divergence probes at once."""
    heart = Heartbeat(Pace(), 0)
    heart.suspect(5)
    assert drive(heart, 100) == [(5, Beat.PING), (15, Beat.LOST)]


def test_doubt_ends_with_a_sign_of_life() -> None:
    heart = Heartbeat(Pace(), 0)
    heart.suspect(5)
    assert heart.poll(5) is Beat.PING
    heart.alive(6)
    assert heart.poll(15) is None and heart.next_timer() == 36


@pytest.mark.parametrize("pace", [Pace(10, 11, 1), Pace(10, 0, 1), Pace(10, 5, 0), Pace(-1, -2, 1)])
def test_impossible_paces_are_refused(pace: Pace) -> None:
    with pytest.raises(ValueError, match="timeout ≤ interval"):
        Heartbeat(pace, 0)
