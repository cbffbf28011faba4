"""What every `Log` promises."""

from typing import Any

from duolink.engines.base import Appended, Draft, Page, Retention, Top, Unknown
from duolink.protocol import limits

KEEP = Retention(100, 3600.0, 1 << 20)


def append(bench, data: bytes = b"1", channel: str = "room", keep: Retention = KEEP, **draft: Any) -> Any:
    return bench.ask(bench.engines.log.append, channel, Draft("alice", data, **draft), keep)


def read(bench, epoch: str, after: int, limit: int = 100, channel: str = "room") -> Page:
    page = bench.ask(bench.engines.log.read, channel, epoch, after, limit)
    assert isinstance(page, Page)
    return page


def test_offsets_of_a_channel_count_from_one(bench):
    first, second, other = append(bench), append(bench), append(bench, channel="other")
    assert [first.entry.offset, second.entry.offset, other.entry.offset] == [1, 2, 1]
    assert first.epoch == second.epoch


def test_appends_under_way_complete_in_the_order_of_their_offsets(bench):
    seen: list[int] = []
    for _ in range(20):
        bench.engines.log.append(
            "room", Draft("alice", b"1"), KEEP, lambda result: seen.append(result.entry.offset)
        )
    bench.settle()
    assert seen == list(range(1, 21))


def test_what_was_appended_is_read_back_as_it_was(bench):
    appended = append(bench, b"\x00\xff", binary=True)
    page = read(bench, appended.epoch, 0)
    assert page.entries == (appended.entry,)
    entry = page.entries[0]
    assert (entry.offset, entry.sender, entry.data, entry.binary) == (1, "alice", b"\x00\xff", True)
    assert entry.time == bench.clock.wall_ms()


def test_a_page_is_contiguous_from_behind_the_position_and_names_the_top(bench):
    epoch = [append(bench) for _ in range(10)][-1].epoch
    page = read(bench, epoch, 3, limit=4)
    assert [entry.offset for entry in page.entries] == [4, 5, 6, 7]
    assert page.top == Top(epoch, 10)
    assert page.gap is None
    assert read(bench, epoch, 10).entries == ()


def test_an_empty_epoch_means_the_current_one(bench):
    epoch = append(bench).epoch
    assert read(bench, "", 0).top == Top(epoch, 1)
    assert len(read(bench, "", 0).entries) == 1


def test_another_epoch_and_an_offset_from_the_future_get_nothing(bench):
    epoch = append(bench).epoch
    assert read(bench, "another", 0) == Page(Top(epoch, 1))
    assert read(bench, epoch, 2) == Page(Top(epoch, 1))


def test_the_top_of_a_new_channel_is_its_epoch_and_zero_and_stays(bench):
    top = bench.ask(bench.engines.log.top, "room")
    assert isinstance(top, Top) and top.offset == 0 and top.epoch
    assert append(bench).epoch == top.epoch


def test_retention_by_count_leaves_a_typed_gap(bench):
    keep = Retention(3, 3600.0, 1 << 20)
    epoch = [append(bench, keep=keep) for _ in range(10)][-1].epoch
    page = read(bench, epoch, 2)
    assert page.gap == (3, 7)
    assert [entry.offset for entry in page.entries] == [8, 9, 10]
    assert read(bench, epoch, 7).gap is None


def test_retention_by_age(bench):
    keep = Retention(100, 60.0, 1 << 20)
    epoch = append(bench, keep=keep).epoch
    bench.clock.seconds += 59
    assert read(bench, epoch, 0).gap is None
    bench.clock.seconds += 1
    assert read(bench, epoch, 0) == Page(Top(epoch, 1), (), (1, 1))


def test_retention_by_bytes(bench):
    keep = Retention(100, 3600.0, 10)
    epoch = [append(bench, b"12345", keep=keep) for _ in range(4)][-1].epoch
    assert [entry.offset for entry in read(bench, epoch, 0).entries] == [3, 4]


def test_no_retention_still_counts(bench):
    keep = Retention(0, 0.0, 0)
    epoch = [append(bench, keep=keep) for _ in range(2)][-1].epoch
    assert read(bench, epoch, 0) == Page(Top(epoch, 2), (), (1, 2))


def test_a_known_key_returns_the_first_answer_and_appends_nothing(bench):
    first = append(bench, key="k1")
    again = append(bench, key="k1", age=3.0)
    assert isinstance(again, Appended) and again.repeated
    assert (again.epoch, again.entry.offset) == (first.epoch, 1)
    assert read(bench, "", 0).top.offset == 1


def test_keys_of_other_senders_and_channels_are_other_keys(bench):
    append(bench, key="k1")
    assert append(bench, key="k1", channel="other").repeated is False
    answer = bench.ask(bench.engines.log.append, "room", Draft("bob", b"1", key="k1"), KEEP)
    assert answer.repeated is False and answer.entry.offset == 2


def test_history_17_a_retry_older_than_its_key_is_unknown_and_never_runs_twice(bench):
    """A publishes with a key, the answer is lost, A sleeps an hour and repeats it."""
    bench.engines.log.hold("room")
    append(bench, key="k1")
    bench.clock.seconds += limits.PUBLISH_KEY_LIFE + 3300
    assert append(bench, key="k1", age=limits.PUBLISH_KEY_LIFE + 3300.0) == Unknown()
    assert read(bench, "", 0).top.offset == 1


def test_a_retry_from_before_the_engine_began_is_unknown(bench):
    assert append(bench, key="k1", age=1.0) == Unknown()


def test_a_retry_that_surely_never_ran_is_appended(bench):
    bench.clock.seconds += 100
    assert append(bench, key="k1", age=50.0).entry.offset == 1


def test_a_held_log_keeps_its_epoch_however_quiet(bench):
    keep = Retention(0, 0.0, 0)
    bench.engines.log.hold("room")
    epoch = append(bench, keep=keep).epoch
    bench.clock.seconds += 100_000
    append(bench, channel="other")
    assert read(bench, epoch, 1).top == Top(epoch, 1)


def test_where_offsets_begin_again_the_epoch_is_another(bench):
    keep = Retention(0, 0.0, 0)
    bench.engines.log.hold("room")
    epoch = append(bench, keep=keep).epoch
    bench.engines.log.release("room")
    for _ in range(10):
        bench.clock.seconds += 1000
        append(bench, channel="other")
    again = append(bench)
    assert again.entry.offset == 2 or again.epoch != epoch


def listing(bench, after: str = "", prefix: str = "", limit: int = 100) -> list[str]:
    found = bench.ask(bench.engines.log.listing, after, prefix, limit)
    for channel, top in found:
        assert bench.ask(bench.engines.log.top, channel) == top
    return [each.channel for each in found]


def test_what_was_published_to_is_listed_in_the_order_of_its_characters(bench):
    names = ["b", "a", "a:1", "a:2", "Ä", "\ufffe", "\U0001f600", "a\U0010ffff\U0010ffff"]
    for name in names:
        append(bench, channel=name)
        append(bench, channel=name)
    bench.ask(bench.engines.log.top, "only looked at")
    assert listing(bench) == sorted(names)
    assert listing(bench, prefix="a") == ["a", "a:1", "a:2", "a\U0010ffff\U0010ffff"]
    assert listing(bench, prefix="a:") == ["a:1", "a:2"]
    assert listing(bench, after="a:1", prefix="a:") == ["a:2"]
    assert listing(bench, after="b", prefix="a") == []
    assert listing(bench, limit=2) == ["a", "a:1"]
    assert listing(bench, after="a:1", limit=2) == ["a:2", "a\U0010ffff\U0010ffff"]


def test_what_retention_has_emptied_is_listed(bench):
    append(bench, keep=Retention(0, 0.0, 0))
    assert listing(bench) == ["room"]
