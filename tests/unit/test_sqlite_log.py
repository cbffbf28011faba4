"""Logs in SQLite: what survives a restart, what is deleted and when, and what is forgotten."""

import random
from itertools import pairwise
from typing import Any

import pytest
from tests.unit.sqlite_world import DAY, KEEP, World

from duolink.engines.base import Appended, Conflict, Draft, Failure, Full, Page, Retention, Top, Unknown
from duolink.engines.memory import Late
from duolink.engines.sqlite import channels, keys, log
from duolink.engines.sqlite.channels import CHANNEL_LIFE, Forget
from duolink.protocol import limits

NONE = Retention(0, 0.0, 0)


# --- restarts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [False, True])
def test_entries_epochs_offsets_and_state_go_on_after_a_restart(cut):
    world = World()
    first = world.append(b"\x00\xff", binary=True)
    world.append(b'"red"', name="colour")
    world.append(b"1", name="gone")
    world.append(b"", name="gone", deleted=True)
    page, state = world.read(), world.ask(world.engines.log.state, "room")
    world.restart(cut=cut)
    assert world.read() == page and page.top == Top(first.epoch, 4) and len(page.entries) == 4
    assert world.ask(world.engines.log.state, "room") == state
    assert world.ask(world.engines.log.top, "room") == page.top
    assert world.append(b"2", name="colour", expect=1) == Conflict(2)
    assert world.append(b"2", name="colour", expect=2).entry.offset == 5


def test_a_known_key_is_known_after_a_restart_and_returns_the_first_answer():
    world = World()
    first = world.append(key="k")
    world.restart(away=60)
    again = world.append(key="k", age=61.0)
    assert again == Appended(first.epoch, first.entry._replace(data=b""), True)
    assert world.append(key="another").entry.offset == 2


def test_a_retry_that_never_ran_before_a_restart_is_appended_if_keys_reach_so_far_back():
    world = World()
    world.seconds += 200
    world.restart(away=10)
    assert world.append(key="k", age=150.0).entry.offset == 1
    assert world.append(key="older", age=limits.PUBLISH_KEY_LIFE) == Unknown()


def test_a_retry_from_before_the_database_is_unknown_after_a_restart_too():
    world = World()
    world.seconds += 20
    world.restart(away=0)
    assert world.append(key="k", age=15.0) == Unknown()


def test_a_wall_clock_that_is_set_forward_while_the_server_is_away_takes_no_key():
    world = World()
    world.append(key="k")
    world.restart(away=10)
    world.wall_offset += 30 * DAY
    assert world.append(key="k", age=11.0).repeated


def test_a_wall_clock_that_is_set_back_makes_retries_uncertain_and_repeats_none():
    world = World()
    world.seconds += 200
    world.append(key="k")
    world.restart(away=-5000)
    assert world.append(key="k", age=11.0).repeated
    assert world.append(key="never", age=1.0) == Unknown()


def test_keys_that_are_too_old_leave_the_file():
    world = World()
    world.append(key="k")
    world.seconds += limits.PUBLISH_KEY_LIFE + 1
    assert world.query("SELECT count(*) FROM keys") == 1
    world.append(key="first after the restart")
    world.seconds += limits.PUBLISH_KEY_LIFE + 1
    world.append(key="k2")
    assert world.query("SELECT count(*) FROM keys") == 1


def test_more_keys_than_there_is_room_for_make_retries_uncertain_across_a_restart(monkeypatch):
    monkeypatch.setattr(keys, "MAX_KEYS", 3)
    world = World()
    world.seconds += 100
    for number in range(5):
        world.append(key=f"k{number}")
        world.seconds += 20
    assert world.append(key="k0", age=100.0) == Unknown()
    world.restart(away=0)
    assert world.append(key="k1", age=80.0) == Unknown()
    assert world.append(key="k4", age=20.0).repeated


def test_after_a_failure_keys_and_offsets_are_those_of_the_last_commit():
    world = World()
    world.seconds += 100
    world.append(key="k1")
    world.disk.full = True
    assert isinstance(world.append(b"x" * 9000, key="k2"), Failure)
    world.disk.full = False
    world.turn()
    assert world.news == ["the disk is full", "recovered"]
    again = world.append(key="k2", age=1.0)
    assert again.entry.offset == 2 and not again.repeated
    assert world.append(key="k1", age=1.0).repeated
    assert [entry.offset for entry in world.read().entries] == [1, 2]


# --- channels without a row --------------------------------------------------------------------


def test_a_channel_that_is_only_asked_for_costs_no_disk():
    world = World()
    top = world.ask(world.engines.log.top, "invented")
    assert world.ask(world.engines.log.state, "invented") == (top, ())
    assert world.read(channel="invented") == Page(top)
    world.append(b"1", channel="refused", name="a", expect=7)
    assert world.query("SELECT count(*) FROM channels") == 0
    world.restart()
    assert world.ask(world.engines.log.top, "invented") == top
    assert world.append(channel="invented").epoch == top.epoch


def test_too_many_channels_are_refused(monkeypatch):
    monkeypatch.setattr(channels, "MAX_CHANNELS", 2)
    world = World()
    world.append(channel="a")
    world.restart()
    world.append(channel="b")
    assert world.append(channel="c") == Failure("too many channels")
    assert world.append(channel="b").entry.offset == 2


def test_all_shared_state_together_is_bounded(monkeypatch):
    monkeypatch.setattr(channels, "MAX_STATE", 100)
    world = World()
    assert isinstance(world.append(b"x" * 60, name="a", channel="one"), Appended)
    world.restart()
    assert world.append(b"x" * 60, name="a", channel="two") == Full()
    assert isinstance(world.append(b"x" * 60, name="a", channel="one"), Appended)
    world.append(b"", name="a", deleted=True, channel="one")
    assert isinstance(world.append(b"x" * 60, name="a", channel="two"), Appended)


def test_channels_in_memory_are_listed_among_those_on_disk_and_those_that_were_are_not():
    """And a page is full though the first rows of the file do not count."""
    world = World()
    for name in "abcdef":
        world.append(channel=name)
    world.volatile |= set("abce")
    world.append(channel="c")

    def listing(after: str, limit: int) -> list[str]:
        found = world.ask(world.engines.log.listing, after, "", limit)
        assert all(top == world.ask(world.engines.log.top, name) for name, top in found)
        return [name for name, _ in found]

    assert listing("", 2) == ["c", "d"]
    assert listing("d", 2) == ["f"]
    assert listing("", 100) == ["c", "d", "f"]


def test_a_listing_fails_as_its_disk_does():
    world = World()
    world.append()
    reader: Any = world.engines.log._reader  # type: ignore[attr-defined]
    (reader._db or reader._database.writer).execute("PRAGMA shrink_memory")  # else it answers from its cache
    world.disk.unreadable = True
    answer = world.ask(world.engines.log.listing, "", "", 10)
    world.disk.unreadable = False
    assert isinstance(answer, Failure)


def test_channels_that_need_not_survive_are_in_memory():
    world = World()
    world.volatile.add("room")
    epoch = world.append().epoch
    world.engines.log.hold("room")
    world.engines.log.release("room")
    assert world.ask(world.engines.log.state, "room").top == world.ask(world.engines.log.top, "room")
    assert len(world.read().entries) == 1
    world.restart()
    assert world.ask(world.engines.log.top, "room").epoch != epoch


# --- retention ---------------------------------------------------------------------------------


def test_what_retention_takes_leaves_the_file_in_bounded_steps(monkeypatch):
    monkeypatch.setattr(channels, "TRIM_AFTER", 16)
    monkeypatch.setattr(channels, "TRIM_ROWS", 20)
    world = World()
    keep = Retention(10, 3600.0, 1 << 20)
    for _ in range(200):
        world.append(keep=keep)
    assert [entry.offset for entry in world.read().entries] == list(range(191, 201))
    assert world.query("SELECT count(*) FROM entries") <= 26


def test_bytes_that_are_too_many_leave_the_file():
    world = World()
    keep = Retention(1000, 3600.0, 10_000)
    for _ in range(100):
        world.append(b"x" * 1000, keep=keep)
    assert [entry.offset for entry in world.read().entries] == list(range(91, 101))
    assert world.query("SELECT count(*) FROM entries") <= 12


def test_a_quiet_channels_entries_leave_the_file_when_they_are_too_old(monkeypatch):
    monkeypatch.setattr(channels, "TRIM_ROWS", 10)
    monkeypatch.setattr(channels, "SWEEP_CHANNELS", 2)
    world = World()
    for name in "abcde":
        for _ in range(25):
            world.append(channel=name)
    world.seconds += 3601
    for _ in range(4):
        world.turn()
    assert world.query("SELECT count(*) FROM entries") == 0
    assert world.read(channel="a", after=3) == Page(world.ask(world.engines.log.top, "a"), (), (4, 25))


def test_a_sweep_deletes_no_more_than_a_few_entries_in_one_transaction(monkeypatch):
    monkeypatch.setattr(channels, "TRIM_ROWS", 10)
    world = World()
    for name in "abcdefgh":
        for _ in range(6):
            world.append(channel=name)
    world.seconds += 3601
    asked: list[Any] = []
    monkeypatch.setattr(log.SqliteLog, "_swept", lambda self, swept: asked.append(swept))
    left = [48]
    while not asked or asked[-1].more:
        world.engines.log.sweep()  # type: ignore[attr-defined]
        left.append(world.query("SELECT count(*) FROM entries"))
    assert left[-1] == 0
    assert all(0 <= before - after <= 20 for before, after in pairwise(left))


def test_a_read_that_had_to_step_over_much_has_it_deleted(monkeypatch):
    monkeypatch.setattr(log, "STALE", 10)
    world = World()
    for _ in range(30):
        world.append()
    world.seconds += 3601
    assert world.read().gap == (1, 30)
    assert world.query("SELECT count(*) FROM entries") == 0


@pytest.mark.parametrize("seed", range(30))
def test_reads_are_as_exact_as_those_of_the_log_in_memory(seed, monkeypatch):
    """Both are asked the same at random; the database deletes lazily, and it must not show."""
    monkeypatch.setattr(channels, "TRIM_AFTER", 7)
    monkeypatch.setattr(channels, "TRIM_ROWS", 5)
    chance = random.Random(seed)
    world = World()
    world.volatile.add("memory")
    ages, sizes = (0.0, 20.0, 1e6), (0, 200, 1 << 20)
    keep = Retention(chance.choice((0, 5, 50)), chance.choice(ages), chance.choice(sizes))
    world.engines.log.hold("memory")
    world.engines.log.hold("room")
    for _ in range(150):
        world.seconds += chance.choice((0, 0, 0, 1, 5))
        match chance.randrange(6):
            case 0:
                after, limit = chance.randrange(60), chance.randrange(1, 100)
                one, other = (world.read(after, name, "", limit) for name in ("room", "memory"))
                assert one[1:] == other[1:] and one.top.offset == other.top.offset
            case 1:
                world.turn()
            case 2:
                name, expect = chance.choice("ab"), chance.choice((-1, 0, 3))
                deleted = chance.random() < 0.3
                one, other = (
                    world.append(b"v", channel, keep, name=name, expect=expect, deleted=deleted)
                    for channel in ("room", "memory")
                )
                assert one[1:] == other[1:] if isinstance(one, Appended) else one == other
                one, other = (world.ask(world.engines.log.state, name) for name in ("room", "memory"))
                assert one.entries == other.entries
            case _:
                data = bytes(chance.randrange(60))
                one, other = (world.append(data, channel, keep) for channel in ("room", "memory"))
                assert one.entry == other.entry


def test_an_entry_that_is_alone_too_large_for_retention_takes_all_others_too():
    world = World()
    keep = Retention(100, 3600.0, 100)
    for size in (10, 10, 101, 10):
        world.append(bytes(size), keep=keep)
    page = world.read()
    assert page.gap == (1, 3) and [entry.offset for entry in page.entries] == [4]


@pytest.mark.parametrize("text", ["a\x00b", 'quote " and \\', "é€𝄞", "line\nbreak", "\u2028"])
def test_any_text_and_any_bytes_come_back(text):
    world = World()
    bodies = [b"", bytes(range(256)), b"\x00", b"\xff\xfe", text.encode(), b""]
    for body in bodies:
        draft = Draft(text, body, True, name=text)
        world.ask(world.engines.log.append, text, draft, KEEP)
    page = world.read(channel=text)
    assert [entry.data for entry in page.entries] == bodies
    assert {(entry.sender, entry.name) for entry in page.entries} == {(text, text)}
    assert world.ask(world.engines.log.state, text).entries == page.entries[-1:]


# --- forgetting --------------------------------------------------------------------------------


def sweep(world: World, times: int = 3) -> None:
    for _ in range(times):
        world.turn()


def test_an_unused_channel_is_forgotten_and_begins_again_in_another_epoch():
    world = World()
    other = world.ask(world.engines.log.top, "never written")
    first = world.append(keep=NONE)
    world.seconds += CHANNEL_LIFE - 1
    sweep(world)
    assert world.ask(world.engines.log.top, "room") == Top(first.epoch, 1)
    world.seconds += 2
    sweep(world)
    again = world.append()
    assert again.entry.offset == 1 and again.epoch != first.epoch
    assert world.ask(world.engines.log.top, "never written") != other
    world.restart()
    assert world.ask(world.engines.log.top, "room") == Top(again.epoch, 1)


def test_entries_state_and_use_keep_a_channel():
    world = World()
    kept = Retention(10, 30 * DAY, 1000)
    tops = [
        world.append(channel="entries", keep=kept),
        world.append(channel="state", keep=NONE, name="a"),
        world.append(channel="used", keep=NONE),
    ]
    world.seconds += CHANNEL_LIFE - 1
    world.append(channel="used", keep=NONE)
    world.seconds += 2
    sweep(world)
    for top, channel in zip(tops, ("entries", "state", "used"), strict=True):
        assert world.ask(world.engines.log.top, channel).epoch == top.epoch


def test_a_held_channel_is_not_forgotten_whether_it_has_a_row_or_not():
    world = World()
    world.engines.log.hold("room")
    world.engines.log.hold("silent")
    room = world.append(keep=NONE)
    silent = world.ask(world.engines.log.top, "silent")
    world.append(channel="other", keep=NONE)
    world.seconds += CHANNEL_LIFE + 1
    sweep(world)
    assert world.append(channel="new").epoch != room.epoch  # the database's epoch is another by now
    assert world.ask(world.engines.log.top, "room") == Top(room.epoch, 1)
    assert world.ask(world.engines.log.top, "silent") == silent
    assert world.read(channel="silent", epoch=silent.epoch) == Page(silent)
    written = world.append(channel="silent")
    assert (written.epoch, written.entry.offset) == (silent.epoch, 1)
    world.engines.log.release("silent")
    world.engines.log.release("room")
    world.restart()
    assert world.ask(world.engines.log.top, "silent") == Top(silent.epoch, 1)


def test_a_channel_taken_hold_of_while_it_is_being_forgotten_goes_on_from_where_it_was():
    """A sweep finds it unused and asks to forget it; before that is done, a subscriber comes and asks for
    its top."""
    outcomes = set()
    for seed in range(20):
        late = Late(random.Random(seed))
        world = World(late)
        answers: list[Any] = []
        world.engines.log.append("room", Draft("alice", b"1"), NONE, answers.append)
        late.run()
        world.seconds += CHANNEL_LIFE + 1
        world.turn()
        while not forgetting(world):
            assert late.step()
        world.engines.log.hold("room")
        world.engines.log.top("room", answers.append)
        late.run()
        world.engines.log.append("room", Draft("alice", b"2"), KEEP, answers.append)
        late.run()
        first, top, second = answers
        before = top.epoch == first.epoch
        outcomes.add(before)
        assert (second.epoch, second.entry.offset) == (top.epoch, 2 if before else 1)
        assert before or second.epoch != first.epoch
        world.engines.close()
    assert outcomes == {True, False}


def forgetting(world: World) -> bool:
    writer: Any = world.engines.log._writer  # type: ignore[attr-defined]
    return any(isinstance(request.body, Forget) for request in writer._waiting)
