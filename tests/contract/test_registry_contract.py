"""What every `Registry` promises."""

from duolink.engines.base import RunVerdict


def test_runs_increase_and_follow_the_wall_clock(bench):
    registry, wall = bench.engines.registry, bench.clock.wall_ms()
    first = bench.ask(registry.issue_run, "alice", "alice", wall)
    second = bench.ask(registry.issue_run, "alice", "alice", wall)
    assert wall <= first < second
    assert bench.ask(registry.issue_run, "alice", "alice", wall + 5000) >= wall + 5000


def test_a_clock_that_went_back_does_not_take_runs_back(bench):
    registry, wall = bench.engines.registry, bench.clock.wall_ms()
    first = bench.ask(registry.issue_run, "alice", "alice", wall)
    assert bench.ask(registry.issue_run, "alice", "alice", wall - 1_000_000) > first


def test_a_presented_run_is_accepted_unless_a_newer_one_is_known(bench):
    registry, wall = bench.engines.registry, bench.clock.wall_ms()
    old = bench.ask(registry.issue_run, "alice", "alice", wall)
    assert bench.ask(registry.present_run, "alice", "alice", old) == RunVerdict(True, old)
    new = bench.ask(registry.issue_run, "alice", "alice", wall)
    assert bench.ask(registry.present_run, "alice", "alice", old) == RunVerdict(False, new)
    assert bench.ask(registry.present_run, "bob", "bob", old) == RunVerdict(True, old)


def test_a_run_from_before_a_restart_is_accepted_and_remembered(bench):
    registry, wall = bench.engines.registry, bench.clock.wall_ms()
    assert bench.ask(registry.present_run, "alice", "alice", wall + 500).accepted
    assert bench.ask(registry.issue_run, "alice", "alice", wall) > wall + 500
    assert not bench.ask(registry.present_run, "alice", "alice", wall + 499).accepted


def test_generations_increase(bench):
    registry, wall = bench.engines.registry, bench.clock.wall_ms()
    issued = [bench.ask(registry.issue_generation, "alice", wall) for _ in range(5)]
    assert issued == sorted(set(issued)) and issued[0] >= wall


def test_requests_under_way_get_different_numbers(bench):
    runs: list[int] = []
    for _ in range(10):
        bench.engines.registry.issue_run("alice", "alice", bench.clock.wall_ms(), runs.append)
    bench.settle()
    assert runs == sorted(set(runs)) and len(runs) == 10
