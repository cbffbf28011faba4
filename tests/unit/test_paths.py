"""Which way: trust, promotion, preference, and no flapping."""

from math import inf

import pytest

from duolink.protocol.paths import (
    LAPSE,
    MAX_OUTSTANDING,
    PING_EVERY,
    PING_IDLE,
    PROMOTE_AFTER,
    TRUST,
    PathKind,
    Paths,
)


def prove(paths: Paths, name: str, now: float, round_trip: float = 0.0) -> None:
    """Answer the pings of a path until it may carry messages."""
    for _ in range(PROMOTE_AFTER):
        ping = paths[name].ping(now, in_use=False)
        paths[name].pong(ping.id, now + round_trip)


def some(*names: str) -> Paths:
    paths = Paths()
    for name in names:
        kind = PathKind(name.rstrip("0123456789"))
        paths.open(name, kind, 0.0)
    return paths


def test_without_a_path_there_is_no_way() -> None:
    paths = Paths()
    assert paths.choose("messages", 0.0) == () and paths.chosen("messages") is None
    assert paths.next_timer(0.0) == inf and paths.poll(0.0) == []


def test_one_path_is_the_way_whatever_it_is_worth() -> None:
    paths = some("direct")
    assert paths.choose("messages", 0.0) == ("direct",)
    assert paths.chosen("messages") == "direct" and "direct" in paths and paths.names() == ["direct"]


def test_a_data_channel_carries_nothing_before_two_answers() -> None:
    paths = some("server", "direct")
    assert paths.choose("messages", 0.0) == ("server",)
    ping = paths.poll(0.0)[0]
    paths["direct"].pong(ping.id, 0.1)
    assert paths.choose("messages", 0.1) == ("server",)
    assert paths["direct"].next_ping == 0.1, "the second question follows at once"
    paths["direct"].pong(paths.poll(0.1)[0].id, 0.2)
    assert paths.choose("messages", 0.2) == ("direct",)


def test_the_server_path_needs_no_pings() -> None:
    paths = some("server")
    assert paths.poll(1e9) == [] and paths.next_timer(0.0) == inf


def test_answers_to_questions_never_asked_say_nothing() -> None:
    paths = some("server", "direct")
    ping = paths.poll(0.0)[0]
    paths["direct"].pong(99, 0.0)
    paths["direct"].pong(ping.id, 0.0)
    paths["direct"].pong(ping.id, 0.0)
    assert paths["direct"].answers == 1


def test_unanswered_pings_are_forgotten_in_the_end() -> None:
    paths = some("direct")
    first = paths["direct"].ping(0.0, True)
    for number in range(MAX_OUTSTANDING):
        paths["direct"].ping(float(number), True)
    paths["direct"].pong(first.id, 20.0)
    assert paths["direct"].answers == 0


def test_a_path_in_use_is_pinged_often_one_in_reserve_seldom() -> None:
    paths = some("server", "direct", "turn")
    for name in ("direct", "turn"):
        prove(paths, name, 0.0)
    paths.choose("messages", 0.0)
    paths["direct"].next_ping = paths["turn"].next_ping = 1.0
    assert {ping.path for ping in paths.poll(1.0)} == {"direct", "turn"}
    assert paths["direct"].next_ping == 1.0 + PING_EVERY and paths["turn"].next_ping == 1.0 + PING_IDLE


def test_lapsed_trust_sends_both_ways_and_then_leaves() -> None:
    """History 10: the outbound path died; small messages go both ways until one answers."""
    paths = some("server", "direct")
    prove(paths, "direct", 0.0)
    assert paths.choose("messages", 1.0) == ("direct",)
    paths["direct"].next_ping = 100.0
    assert paths.next_timer(5.0) == TRUST, "the end of trust is an event"
    assert paths.choose("messages", TRUST) == ("server", "direct")
    assert paths.next_timer(TRUST) == LAPSE
    assert paths.next_timer(LAPSE) == 100.0
    assert paths.choose("messages", LAPSE) == ("server",)
    assert paths.choose("messages", LAPSE + 1) == ("server",), "left"


def test_a_path_that_answers_again_in_time_is_kept() -> None:
    paths = some("server", "direct")
    prove(paths, "direct", 0.0)
    paths.choose("messages", 0.0)
    paths.choose("messages", TRUST)
    prove(paths, "direct", TRUST + 1)
    assert paths.choose("messages", TRUST + 1) == ("direct",)


def test_trust_that_lapsed_must_be_earned_again() -> None:
    paths = some("server", "direct")
    prove(paths, "direct", 0.0)
    ping = paths["direct"].ping(TRUST + 5, in_use=True)
    paths["direct"].pong(ping.id, TRUST + 5)
    assert not paths["direct"].proven(TRUST + 5) and paths["direct"].trusted(TRUST + 5)
    late = paths["direct"].ping(TRUST + 5, in_use=True)
    paths["direct"].pong(late.id, 4 * TRUST)
    assert paths["direct"].answers == 1, "an answer after the lapse begins a new row"


def test_nothing_proven_stays_where_it_is() -> None:
    paths = some("direct1", "direct2")
    assert paths.choose("messages", 0.0) == ("direct1",), "the oldest"
    prove(paths, "direct2", 1.0)
    assert paths.choose("messages", 1.0) == ("direct2",)
    assert paths.choose("messages", 1.0 + LAPSE) == ("direct2",), "better the one known than nothing"


def test_a_closed_path_is_left_at_once() -> None:
    paths = some("server", "direct")
    prove(paths, "direct", 0.0)
    paths.choose("messages", 0.0)
    paths.close("direct")
    paths.close("direct")
    assert paths.choose("messages", 0.0) == ("server",)
    paths.close("server")
    assert paths.choose("messages", 0.0) == () and paths.chosen("messages") is None


@pytest.mark.parametrize(
    ("direct", "server", "way"),
    [
        (0.010, 0.010, "direct"),  # the same: what costs the server nothing
        (0.012, 0.010, "direct"),  # hardly slower
        (0.020, 0.010, "server"),  # clearly slower
        (0.002, 0.300, "direct"),
        (None, 0.010, "direct"),  # unmeasured: preference
        (0.010, None, "direct"),
    ],
)
def test_what_costs_the_server_nothing_is_preferred_unless_it_is_slower(
    direct: float | None, server: float | None, way: str
) -> None:
    paths = some("server", "direct")
    paths.choose("messages", 0.0)
    prove(paths, "direct", 0.0)
    paths["direct"].round_trip, paths["server"].round_trip = direct, server
    assert paths.choose("messages", 0.0)[0] == way


@pytest.mark.parametrize(
    ("gain", "leaves"), [(0.004, False), (0.0051, False), (0.021, True), (0.019, False), (-0.01, False)]
)
def test_the_way_back_takes_a_clear_advantage(gain: float, leaves: bool) -> None:
    """20 % and 5 ms, against flapping: of 100 ms, 21 ms."""
    paths = some("server", "direct")
    prove(paths, "direct", 0.0)
    paths.choose("messages", 0.0)
    paths["direct"].round_trip, paths["server"].round_trip = 0.1, 0.1 - gain
    assert paths.choose("messages", 0.1) == (("server",) if leaves else ("direct",))


def test_two_ways_that_are_alike_do_not_flap() -> None:
    paths = some("server", "direct")
    prove(paths, "direct", 0.0)
    changes, before = 0, ""
    for step in range(100):
        paths["direct"].answered_at = now = step / 10
        paths["direct"].round_trip = 0.050 + (step % 2) * 0.004
        paths["server"].round_trip = 0.052 - (step % 2) * 0.004
        (way,) = paths.choose("messages", now)
        changes, before = changes + (way != before), way
    assert changes == 1


def test_lanes_choose_for_themselves() -> None:
    """History 6: the best round trip carries messages, the best throughput bulk."""
    paths = some("server", "direct")
    prove(paths, "direct", 0.0, round_trip=0.001)
    paths["direct"].observe(0.001, throughput=1e6)
    paths["server"].observe(0.100, throughput=5e6)
    assert paths.choose("messages", 0.1) == ("direct",)
    assert paths.choose("bulk", 0.1) == ("server",)
    paths["direct"].throughput = 5.5e6
    assert paths.choose("bulk", 0.1) == ("server",), "20 % more it takes"
    paths["direct"].throughput = 7e6
    assert paths.choose("bulk", 0.1) == ("direct",)


def test_measurements_are_smoothed() -> None:
    """RFC 6298 §2.3: α = 1/8."""
    path = some("direct")["direct"]
    path.observe(0.8, throughput=800.0)
    path.observe(1.6, throughput=1600.0)
    path.observe(0.9)
    assert path.throughput == pytest.approx(900.0)
    assert path.round_trip == pytest.approx(0.9)


def test_a_path_opened_again_begins_anew() -> None:
    paths = some("server", "direct")
    prove(paths, "direct", 0.0)
    paths.open("direct", PathKind.DIRECT, 1.0)
    assert paths.choose("messages", 1.0) == ("server",)
