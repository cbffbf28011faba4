"""What every `Log` promises of a channel's shared state."""

from typing import Any

from duolink.engines.base import Appended, Conflict, Draft, Entry, Full, Retention, Snapshot, Top, Unknown
from duolink.protocol import limits

KEEP = Retention(100, 3600.0, 1 << 20)


def write(bench, name: str, data: bytes = b"1", *, keep: Retention = KEEP, **draft: Any) -> Any:
    channel = draft.pop("channel", "room")
    return bench.ask(bench.engines.log.append, channel, Draft("alice", data, name=name, **draft), keep)


def delete(bench, name: str, **draft: Any) -> Any:
    return write(bench, name, b"", deleted=True, **draft)


def state(bench, channel: str = "room") -> Snapshot:
    snapshot = bench.ask(bench.engines.log.state, channel)
    assert isinstance(snapshot, Snapshot)
    return snapshot


def held(bench, channel: str = "room") -> dict[str, tuple[int, bytes]]:
    """Name → (version, value)."""
    return {entry.name: (entry.offset, entry.data) for entry in state(bench, channel).entries}


def publish(bench, data: bytes = b"1", keep: Retention = KEEP, sender: str = "alice") -> Any:
    return bench.ask(bench.engines.log.append, "room", Draft(sender, data), keep)


def test_the_state_of_a_new_channel_is_empty_and_its_epoch_stays(bench):
    snapshot = state(bench)
    assert snapshot.entries == () and snapshot.top.offset == 0 and snapshot.top.epoch
    assert write(bench, "title").epoch == snapshot.top.epoch


def test_a_write_is_an_entry_of_the_log_and_its_offset_the_version(bench):
    publish(bench)
    written = write(bench, "title", b'"a"')
    publish(bench)
    assert isinstance(written, Appended)
    entry = Entry(2, "alice", bench.clock.wall_ms(), b'"a"', False, "title", False)
    assert written.entry == entry
    page = bench.ask(bench.engines.log.read, "room", written.epoch, 1, 10)
    assert page.entries[0] == entry and [each.name for each in page.entries] == ["title", ""]
    assert state(bench) == Snapshot(Top(written.epoch, 3), (entry,))


def test_the_last_write_to_a_name_counts(bench):
    write(bench, "a", b"1")
    write(bench, "b", b"2")
    write(bench, "a", b"3")
    assert held(bench) == {"a": (3, b"3"), "b": (2, b"2")}


def test_a_deleted_name_is_not_there_and_can_be_set_again(bench):
    write(bench, "a", b"1")
    deleted = delete(bench, "a")
    assert (deleted.entry.offset, deleted.entry.name, deleted.entry.deleted) == (2, "a", True)
    assert held(bench) == {}
    page = bench.ask(bench.engines.log.read, "room", "", 0, 10)
    assert [(each.name, each.deleted) for each in page.entries] == [("a", False), ("a", True)]
    write(bench, "a", b"3")
    assert held(bench) == {"a": (3, b"3")}


def test_deleting_what_is_not_there_is_a_write_like_any_other(bench):
    assert delete(bench, "a").entry.offset == 1
    assert held(bench) == {}


def test_bytes_come_back_as_they_were(bench):
    write(bench, "ä/✓", b"\x00\xff\n", binary=True)
    (entry,) = state(bench).entries
    assert (entry.name, entry.data, entry.binary) == ("ä/✓", b"\x00\xff\n", True)


def test_an_empty_value_is_a_value(bench):
    write(bench, "a", b"")
    assert held(bench) == {"a": (1, b"")}


def test_each_channel_has_a_state_of_its_own(bench):
    write(bench, "a", b"1")
    write(bench, "a", b"2", channel="other")
    assert held(bench) == {"a": (1, b"1")} and held(bench, "other") == {"a": (1, b"2")}


def test_compare_and_set_counts_only_on_the_version_that_is_there(bench):
    write(bench, "a", b"1", expect=0)
    assert write(bench, "a", b"x", expect=0) == Conflict(1)
    publish(bench)
    assert write(bench, "a", b"x", expect=2) == Conflict(1)
    assert write(bench, "a", b"3", expect=1).entry.offset == 3
    assert delete(bench, "a", expect=1) == Conflict(3)
    assert delete(bench, "a", expect=3).entry.offset == 4
    assert write(bench, "a", b"x", expect=4) == Conflict(0)
    assert write(bench, "a", b"5", expect=0).entry.offset == 5
    assert state(bench).top.offset == 5


def test_of_writes_under_way_that_expect_the_same_one_counts(bench):
    answers: list[Any] = []
    for number in range(5):
        draft = Draft("alice", b"%d" % number, name="a", expect=0)
        bench.engines.log.append("room", draft, KEEP, answers.append)
    bench.settle()
    assert [type(answer) for answer in answers] == [Appended] + 4 * [Conflict]
    assert held(bench) == {"a": (1, b"0")}


def test_a_known_key_returns_the_first_answer_whatever_the_name_has_become(bench):
    first = write(bench, "a", b"1", key="k", expect=0)
    write(bench, "a", b"2")
    again = write(bench, "a", b"1", key="k", expect=0, age=2.0)
    assert isinstance(again, Appended) and again.repeated
    assert (again.epoch, again.entry.offset) == (first.epoch, 1)
    assert held(bench) == {"a": (2, b"2")}


def test_a_conflict_uses_no_key_up(bench):
    write(bench, "a", b"1")
    assert write(bench, "b", b"1", key="k", expect=7) == Conflict(0)
    assert write(bench, "a", b"2", key="k", expect=1).entry.offset == 2


def test_a_retry_older_than_its_key_is_unknown_and_changes_nothing(bench):
    bench.engines.log.hold("room")
    write(bench, "a", b"1", key="k")
    write(bench, "a", b"2")
    bench.clock.seconds += limits.PUBLISH_KEY_LIFE + 3300
    assert write(bench, "a", b"1", key="k", age=limits.PUBLISH_KEY_LIFE + 3300.0) == Unknown()
    assert held(bench) == {"a": (2, b"2")}


def test_there_is_room_for_so_many_names(bench):
    keep = KEEP._replace(keys=2)
    write(bench, "a", keep=keep)
    write(bench, "b", keep=keep)
    assert write(bench, "c", keep=keep) == Full()
    assert write(bench, "a", b"2", keep=keep).entry.offset == 3
    delete(bench, "b", keep=keep)
    assert write(bench, "c", keep=keep).entry.offset == 5
    assert set(held(bench)) == {"a", "c"}


def test_there_is_room_for_so_many_bytes_of_names_and_values(bench):
    keep = KEEP._replace(state_size=10)
    write(bench, "ä", b"123", keep=keep)
    write(bench, "b", b"1234", keep=keep)
    assert write(bench, "c", b"", keep=keep) == Full()
    assert write(bench, "b", b"12345", keep=keep) == Full()
    assert write(bench, "b", b"12", keep=keep).entry.offset == 3
    assert write(bench, "c", b"1", keep=keep).entry.offset == 4
    assert held(bench) == {"ä": (1, b"123"), "b": (3, b"12"), "c": (4, b"1")}


def test_a_channel_without_room_refuses_every_name_and_says_conflict_first(bench):
    keep = KEEP._replace(keys=0)
    assert write(bench, "a", keep=keep) == Full()
    assert write(bench, "a", keep=keep, expect=3) == Conflict(0)
    assert publish(bench, keep=keep).entry.offset == 1


def test_state_outlives_the_entries_that_made_it(bench):
    keep = Retention(0, 0.0, 0)
    epoch = write(bench, "a", b"1", keep=keep).epoch
    publish(bench, keep=keep)
    bench.clock.seconds += 100_000
    publish(bench, keep=keep)
    assert state(bench).top == Top(epoch, 3)
    assert held(bench) == {"a": (1, b"1")}
    assert bench.ask(bench.engines.log.read, "room", epoch, 0, 10).gap == (1, 3)


def test_state_outlives_a_time_in_which_nobody_is_there(bench):
    keep = Retention(0, 0.0, 0)
    epoch = write(bench, "a", b"1", keep=keep).epoch
    for _ in range(10):
        bench.clock.seconds += 1000
        write(bench, "b", channel="other")
    assert state(bench).top == Top(epoch, 1) and held(bench) == {"a": (1, b"1")}


def test_a_snapshot_is_of_one_moment(bench):
    """Whenever it is read, it is what the entries up to its top make."""
    snapshots: list[Snapshot] = []
    for number in range(20):
        draft = Draft("alice", b"%d" % number, name=f"n{number % 3}", deleted=number % 5 == 4)
        bench.engines.log.append("room", draft, KEEP, lambda result: None)
        bench.engines.log.state("room", snapshots.append)
    bench.settle()
    entries = bench.ask(bench.engines.log.read, "room", "", 0, 100).entries
    assert len(snapshots) == 20
    for snapshot in snapshots:
        made: dict[str, Entry] = {}
        for entry in entries[: snapshot.top.offset]:
            made.pop(entry.name, None)
            if not entry.deleted:
                made[entry.name] = entry
        assert {entry.name: entry for entry in snapshot.entries} == made
