"""The registry in SQLite: numbers that increase across restarts, and while the disk fails."""

import random
from typing import Any

import pytest
from tests.unit.sqlite_world import DAY, World

from duolink.engines.base import RunVerdict
from duolink.engines.memory import Late
from duolink.engines.sqlite import registry


def issue(world: World, client: str = "alice", at_least: int = 0, user: str = "alice") -> int:
    run = world.ask(world.engines.registry.issue_run, client, user, at_least)
    assert isinstance(run, int)
    return run


def generation(world: World, client: str = "alice", at_least: int = 0) -> int:
    number = world.ask(world.engines.registry.issue_generation, client, at_least)
    assert isinstance(number, int)
    return number


def present(world: World, run: int, client: str = "alice", user: str = "alice") -> RunVerdict:
    verdict = world.ask(world.engines.registry.present_run, client, user, run)
    assert isinstance(verdict, RunVerdict)
    return verdict


def commits(world: World) -> list[Any]:
    """What the writer is asked from now on."""
    asked: list[Any] = []
    writer: Any = world.engines.registry._writer  # type: ignore[attr-defined]
    submit = writer.submit

    def listen(part: Any, body: Any, done: Any, size: int = 0) -> None:
        asked.append(body)
        submit(part, body, done, size)

    writer.submit = listen
    return asked


@pytest.mark.parametrize("cut", [False, True])
def test_runs_and_generations_go_on_after_a_restart_though_the_clock_is_wrong(cut):
    world = World()
    run, session = issue(world, at_least=5000), generation(world, at_least=7000)
    world.restart(cut=cut)
    assert issue(world, at_least=10) == run + 1
    assert generation(world, at_least=10) == session + 1
    world.restart(cut=cut)
    assert present(world, run) == RunVerdict(False, run + 1)
    assert present(world, run + 1) == RunVerdict(True, run + 1)


def test_a_client_that_comes_back_writes_nothing_and_once_a_day_that_it_was_seen():
    world = World()
    run = issue(world)
    asked = commits(world)
    assert present(world, run).accepted
    assert asked == []
    world.restart()
    asked = commits(world)
    assert present(world, run).accepted and present(world, run).accepted
    assert present(world, run - 1) == RunVerdict(False, run)
    assert asked == []
    world.seconds += DAY + 1
    assert present(world, run).accepted and present(world, run).accepted
    assert len(asked) == 1
    world.restart()
    assert world.query("SELECT seen FROM clients") > world.wall_ms() - 60_000


def test_another_user_and_a_newer_run_are_written():
    world = World()
    run = issue(world)
    assert present(world, run, user="alice2").accepted
    assert present(world, run + 5, user="alice2").accepted
    assert world.query("SELECT user || run FROM clients") == f"alice2{run + 5}"


def test_clients_not_seen_for_long_are_forgotten_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(registry, "SWEEP_CLIENTS", 2)
    world = World()
    for name in "abcde":
        issue(world, name)
    world.seconds += world.limits.forget_after - 1
    issue(world, "c", user="")
    world.seconds += 2
    world.turn()
    assert world.query("SELECT group_concat(client_id) FROM clients") == "c,d,e"
    for _ in range(4):
        world.turn()
    assert world.query("SELECT group_concat(client_id) FROM clients") == "c"


def test_pictures_are_bounded_and_what_left_them_is_read_again(monkeypatch):
    monkeypatch.setattr(registry, "MAX_PICTURE", 2)
    world = World()
    runs = {name: issue(world, name, at_least=100) for name in "abcde"}
    port: Any = world.engines.registry
    assert (len(port._known), len(port._clients._picture)) == (2, 2)
    assert [issue(world, name) for name in "abcde"] == [run + 1 for run in runs.values()]
    assert present(world, 100, "a") == RunVerdict(False, 101)


# --- while the disk fails ----------------------------------------------------------------------


def test_while_nothing_can_be_written_numbers_still_increase_and_are_written_later():
    world = World()
    run, session = issue(world, at_least=100), generation(world, at_least=200)
    world.restart()  # nothing is remembered but on disk
    world.disk.full = True
    first = issue(world, at_least=50)
    assert (first, issue(world, at_least=50)) == (run + 1, run + 2)
    assert generation(world) == session + 1
    assert present(world, run + 1) == RunVerdict(False, run + 2)
    assert present(world, run + 2).accepted
    assert present(world, 900, "new").accepted
    assert issue(world, "new") == 901
    world.disk.full = False
    world.turn()
    assert world.news == ["the disk is full", "recovered"]
    assert not world.engines.registry._unsaved  # type: ignore[attr-defined]
    world.restart()
    assert issue(world) == run + 3
    assert generation(world) == session + 2
    assert present(world, 900, "new") == RunVerdict(False, 901)


def test_what_is_issued_from_memory_behind_the_recovery_is_written_too(monkeypatch):
    """The client is looked up while the disk gets well: what is issued then is no part of what the recovery
    writes down."""
    world = World()
    port: Any = world.engines.registry
    held: list[Any] = []
    runs: list[Any] = []
    monkeypatch.setattr(port._reader, "read", lambda read, done: held.append(done))
    world.disk.full = True
    port.issue_run("alice", "alice", 5000, runs.append)
    world.turn()
    world.disk.full = False
    world.turn()
    assert world.news == ["the disk is full", "recovered"] and not runs
    held.pop()(registry.Client())
    world.turn()
    assert runs == [5000] and not port._unsaved
    world.restart(cut=True)
    assert issue(world, at_least=10) == 5001


def test_if_nothing_can_be_read_either_the_wall_clock_counts():
    world = World()
    world.disk.full = world.disk.unreadable = True
    assert issue(world, at_least=5000) == 5000
    assert issue(world, at_least=5000) == 5001
    world.disk.full = world.disk.unreadable = False


def test_numbers_issued_from_memory_are_bounded(monkeypatch):
    monkeypatch.setattr(registry, "MAX_UNSAVED", 2)
    world = World()
    world.disk.full = True
    for name in "abc":
        issue(world, name)
    assert list(world.engines.registry._unsaved) == ["b", "c"]  # type: ignore[attr-defined]
    world.disk.full = False


@pytest.mark.parametrize("seed", range(40))
def test_however_the_disk_fails_no_number_is_issued_twice_nor_goes_back(seed):
    chance = random.Random(seed)
    late = Late(chance)
    world = World(late)
    asked = 0
    runs: list[Any] = []
    generations: list[Any] = []
    verdicts: list[Any] = []
    port = world.engines.registry
    for _ in range(200):
        match chance.randrange(10):
            case 0:
                world.disk.full = chance.random() < 0.5
            case 1:
                world.turn()
            case 2 | 3:
                asked += 1
                port.issue_run("alice", "alice", chance.randrange(100), runs.append)
            case 4:
                asked += 1
                port.issue_generation("alice", chance.randrange(100), generations.append)
            case 5 if runs:
                port.present_run("alice", "alice", chance.choice(runs), verdicts.append)
            case _:
                late.step()
    world.disk.full = False
    late.run()
    for _ in range(5):
        world.turn()
        late.run()
    assert len(runs) + len(generations) == asked
    for numbers in (runs, generations):
        assert numbers == sorted(set(numbers))
    assert all(verdict.newest <= max(runs) for verdict in verdicts)
    answers: list[Any] = []
    port.issue_run("alice", "alice", 0, answers.append)
    late.run()
    world.restart()
    world.engines.registry.issue_run("alice", "alice", 0, answers.append)
    late.run()
    assert answers[1] > answers[0] > max(runs, default=0)


def test_a_run_read_before_a_newer_one_was_issued_is_not_accepted_after_it():
    world = World()
    issue(world, at_least=100)
    for seed in range(10):
        late = Late(random.Random(seed))
        world.schedule = late
        world.restart()
        heard: list[Any] = []
        world.engines.registry.present_run("alice", "alice", 100 + seed, heard.append)
        world.engines.registry.issue_run("alice", "alice", 0, heard.append)
        late.run()
        run = 101 + seed
        if heard[0] == run:
            assert heard[1] == RunVerdict(False, run)
        else:
            assert heard == [RunVerdict(True, run - 1), run]
