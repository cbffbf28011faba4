"""A client's channels: the full set, positions, holes, and answers that come too late."""

import pytest
from msgspec import Raw

from duolink.protocol.messages import (
    Error,
    Gap,
    Join,
    Leave,
    Ping,
    PresenceList,
    Publication,
    Snapshot,
    Subscribe,
    Subscribed,
    Unsubscribed,
)
from duolink.protocol.subscriptions import (
    ChannelJoined,
    ChannelRefused,
    PresenceChanged,
    Published,
    Subscriptions,
    TooManySubscriptions,
)


def joined(offset: int = 9) -> Subscriptions:
    """One channel that stands."""
    channels = Subscriptions()
    channels.want("news")
    (command,) = channels.commands(1)
    channels.receive(Subscribed(channel="news", epoch="e", offset=offset, id=command.id))
    return channels


def publication(offset: int, channel: str = "news") -> Publication:
    return Publication(channel=channel, offset=offset, data=Raw(b"1"))


def sets(commands: list[Subscribe]) -> list[tuple[int, list[tuple[str, str, int]]]]:
    return [(one.id, [(at.channel, at.epoch, at.offset) for at in one.channels]) for one in commands]


def test_every_command_names_the_full_set() -> None:
    channels = Subscriptions()
    assert channels.commands(1) == []
    channels.want("a")
    channels.want("b", epoch="e", offset=4, presence=True)
    assert sets(channels.commands(1)) == [(1, [("a", "", 0), ("b", "e", 4)])]
    assert channels.commands(2) == [], "said once"
    channels.drop("a")
    channels.drop("a")
    assert sets(channels.commands(2)) == [(2, [("b", "e", 4)])]
    assert "b" in channels and "a" not in channels and len(channels) == 1


def test_joined_from_now_on() -> None:
    channels = Subscriptions()
    channels.want("news")
    channels.commands(5)
    event = channels.receive(Subscribed(channel="news", epoch="e", offset=9, id=5))
    assert event == ChannelJoined("news", "e", 9, False, None)
    assert channels.position("news") == ("e", 9)


def test_publications_are_told_once_and_in_order() -> None:
    channels = joined(9)
    assert channels.receive(publication(10)) == Published("news", publication(10))
    assert channels.receive(publication(10)) is None and channels.receive(publication(3)) is None
    assert channels.position("news") == ("e", 10)


def test_a_hole_begins_the_channel_again_from_its_position() -> None:
    """It is given up first: a server ignores the position of a channel that is already there."""
    channels = joined(9)
    channels.want("other")
    channels.commands(2)
    assert channels.receive(publication(12)) is None
    assert sets(channels.commands(3)) == [
        (3, [("other", "", 0)]),
        (4, [("news", "e", 9), ("other", "", 0)]),
    ]
    assert channels.receive(publication(13)) is None, "nothing before the answer"
    channels.receive(Subscribed(channel="news", epoch="e", offset=9, id=4, recovered=True))
    assert channels.receive(publication(10)) is not None


def test_an_answer_to_an_earlier_beginning_is_stale() -> None:
    """History 19: between request and completion the channel was dropped and wanted again."""
    channels = Subscriptions()
    channels.want("news")
    channels.commands(1)
    channels.drop("news")
    channels.commands(2)
    channels.want("news")
    channels.commands(3)
    assert channels.receive(Subscribed(channel="news", epoch="old", offset=1, id=1)) is None
    assert channels.receive(publication(2)) is None
    assert channels.receive(Error(code="forbidden", channel="news", id=1)) is None
    assert channels.receive(Subscribed(channel="news", epoch="e", offset=9, id=3)) is not None
    assert channels.receive(Subscribed(channel="news", epoch="old", offset=1, id=3)) is None, "only once"


def test_an_answer_for_a_channel_nobody_wants_is_nothing() -> None:
    channels = joined()
    channels.drop("news")
    for message in (
        Subscribed(channel="news", epoch="e", offset=1, id=1),
        publication(10),
        Unsubscribed(channel="news", code="ended"),
        Error(code="forbidden", channel="news", id=1),
    ):
        assert channels.receive(message) is None


def test_a_hello_carries_the_set_and_every_channel_is_answered_anew() -> None:
    channels = joined(9)
    channels.want("other")
    positions = channels.hello()
    assert [(at.channel, at.epoch, at.offset) for at in positions] == [("news", "e", 9), ("other", "", 0)]
    assert channels.commands(2) == [], "the hello has said it"
    assert channels.receive(publication(10)) is None, "not before its answer"
    answer = channels.receive(Subscribed(channel="news", epoch="e", offset=9, recovered=True))
    assert isinstance(answer, ChannelJoined) and answer.recovered


def test_a_gap_is_told_and_the_stream_goes_on_behind_it() -> None:
    channels = joined(9)
    channels.hello()
    gap = Gap("evicted", 10, 14)
    event = channels.receive(Subscribed(channel="news", epoch="e", offset=14, gap=gap))
    assert event == ChannelJoined("news", "e", 14, False, gap)
    assert channels.receive(publication(15)) is not None


def test_a_hello_that_has_no_room_leaves_the_set_to_a_command() -> None:
    channels = joined(9)
    channels.hello()
    channels.forget_asked()
    assert sets(channels.commands(8)) == [(8, [("news", "e", 9)])]
    assert channels.receive(Subscribed(channel="news", epoch="e", offset=9)) is None, (
        "the hello asked nothing"
    )
    assert channels.receive(Subscribed(channel="news", epoch="e", offset=9, id=8)) is not None


def test_a_refused_channel_is_not_wanted_any_more() -> None:
    channels = Subscriptions()
    channels.want("news")
    channels.commands(1)
    event = channels.receive(Error(code="forbidden", message="no", channel="news", id=1))
    assert event == ChannelRefused("news", "forbidden", "no")
    assert "news" not in channels


def test_a_channel_that_cannot_be_served_now_is_asked_for_again() -> None:
    channels = joined()
    channels.want("slow")
    channels.want("given up")
    channels.commands(2)
    for name in ("slow", "given up"):
        error = Error(code="unavailable", channel=name, id=2, retry_after=500)
        assert channels.receive(error) is None
    assert channels.retry_after == 500 and "slow" in channels
    channels.drop("given up")
    channels.commands(3)
    channels.retry()
    assert sets(channels.commands(4))[-1][1] == [("news", "e", 9), ("slow", "", 0)]
    channels.receive(Subscribed(channel="slow", epoch="e", offset=0, id=5))
    assert channels.retry_after == 0


def test_one_that_stands_meanwhile_is_not_begun_again() -> None:
    channels = Subscriptions()
    channels.want("news")
    channels.commands(1)
    channels.receive(Error(code="unavailable", channel="news", id=1, retry_after=500))
    channels.hello()
    channels.receive(Subscribed(channel="news", epoch="e", offset=0))
    channels.retry()
    assert channels.commands(2) == []


def test_an_error_that_answers_something_else_ends_no_subscription() -> None:
    """An ephemeral may be forbidden where listening is not."""
    channels = joined()
    assert channels.receive(Error(code="forbidden", channel="news")) is None
    assert channels.receive(publication(10)) is not None


def test_the_server_ends_a_subscription_for_good_or_for_now() -> None:
    channels = joined(9)
    assert channels.receive(Unsubscribed(channel="news", code="moved", resubscribe=True)) is None
    assert sets(channels.commands(2)) == [(2, []), (3, [("news", "e", 9)])]
    event = channels.receive(Unsubscribed(channel="news", code="forbidden"))
    assert isinstance(event, ChannelRefused) and event.code == "forbidden"
    assert sets(channels.commands(4)) == [(4, [])], "what is under way may have begun it again"


def test_presence_is_told_as_it_comes() -> None:
    channels = joined()
    assert channels.receive(PresenceList(channel="news", clients=["a"])) == PresenceChanged("news", ("a",))
    assert channels.receive(Join(channel="news", client_id="b")) == PresenceChanged("news", joined="b")
    assert channels.receive(Leave(channel="news", client_id="b")) == PresenceChanged("news", left="b")


def test_other_messages_say_nothing_of_channels() -> None:
    assert joined().receive(Ping()) is None


@pytest.mark.parametrize("name", ["", "a\nb", "a" * 256, "\ud800"])
def test_what_cannot_be_a_channel_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a channel"):
        Subscriptions().want(name)


def test_there_are_at_most_as_many_as_the_server_takes() -> None:
    channels = Subscriptions()
    channels.maximum = 2
    for name in ("a", "b", "a"):
        channels.want(name)
    with pytest.raises(TooManySubscriptions, match="at most 2"):
        channels.want("c")


# --- shared state ------------------------------------------------------------------------------------


def following(epoch: str = "", offset: int = 0) -> Subscriptions:
    """One channel that waits for its snapshot."""
    channels = Subscriptions()
    channels.want("doc", epoch=epoch, offset=offset, state=True)
    (command,) = channels.commands(4)
    assert [(at.epoch, at.offset, at.state) for at in command.channels] == [(epoch, offset, True)]
    return channels


def entry(offset: int, name: str) -> Publication:
    return Publication(channel="doc", offset=offset, name=name, state=True, data=Raw(b"1"))


HEAD = Subscribed(channel="doc", epoch="e", offset=9, id=4)


def test_a_channel_with_state_stands_when_its_snapshot_is_whole() -> None:
    channels = following()
    assert channels.receive(HEAD) is None
    assert channels.receive(Snapshot(channel="doc", count=2, id=4)) is None
    assert channels.receive(entry(3, "a")) is None and channels.position("doc") == ("", 0)
    event = channels.receive(entry(8, "b"))
    assert event == ChannelJoined("doc", "e", 9, False, None, (entry(3, "a"), entry(8, "b")))
    assert channels.position("doc") == ("e", 9)
    assert channels.receive(publication(10, "doc")) == Published("doc", publication(10, "doc"))


def test_an_empty_snapshot_is_whole_at_once() -> None:
    channels = following("d", 3)
    gap = Gap("epoch")
    assert channels.receive(Subscribed(channel="doc", epoch="e", offset=0, id=4, gap=gap)) is None
    event = channels.receive(Snapshot(channel="doc", count=0, id=4))
    assert event == ChannelJoined("doc", "e", 0, False, gap, ())


def test_what_was_missed_needs_no_snapshot() -> None:
    channels = following("e", 7)
    event = channels.receive(Subscribed(channel="doc", epoch="e", offset=7, id=4, recovered=True))
    assert event == ChannelJoined("doc", "e", 7, True, None, None)


def test_who_does_not_ask_for_state_stands_at_once_and_hears_no_snapshot() -> None:
    channels = joined(9)
    assert channels.receive(Snapshot(channel="news", count=1)) is None
    stray = Publication(channel="news", offset=10, name="a", state=True)
    assert channels.receive(stray) is None and channels.position("news") == ("e", 9)


def test_a_snapshot_that_belongs_to_nothing_is_dropped() -> None:
    channels = following()
    assert channels.receive(Snapshot(channel="doc", count=0, id=4)) is None, "before its subscribed"
    channels.receive(HEAD)
    assert channels.receive(entry(3, "a")) is None, "before its head"
    assert channels.receive(Snapshot(channel="doc", count=0, id=3)) is None, "of an earlier command"
    assert channels.receive(Snapshot(channel="other", count=0, id=4)) is None
    assert channels.receive(Publication(channel="other", offset=1, state=True)) is None
    assert channels.receive(Snapshot(channel="doc", count=1, id=4)) is None
    assert channels.receive(publication(10, "doc")) is None, "before the snapshot is whole"
    assert channels.receive(entry(3, "a")) == ChannelJoined("doc", "e", 9, False, None, (entry(3, "a"),))


@pytest.mark.parametrize("cut", [True, False])
def test_a_snapshot_that_does_not_end_leaves_the_position_where_it_was(cut: bool) -> None:
    """The position is that of the state the application has: what is missing would never come."""
    channels = following("d", 5)
    channels.receive(Subscribed(channel="doc", epoch="e", offset=9, id=4, gap=Gap("epoch")))
    channels.receive(Snapshot(channel="doc", count=2, id=4))
    channels.receive(entry(3, "a"))
    if cut:
        wanted = channels.hello()
    else:
        channels.receive(Unsubscribed(channel="doc", code="gap", resubscribe=True))
        wanted = channels.commands(5)[-1].channels
    assert [(at.epoch, at.offset, at.state) for at in wanted] == [("d", 5, True)]
    assert channels.receive(entry(8, "b")) is None, "of the snapshot that did not end"


def test_an_error_in_place_of_the_rest_of_a_snapshot_is_heard() -> None:
    channels = following()
    channels.receive(HEAD)
    event = channels.receive(Error(code="forbidden", channel="doc", id=4))
    assert event == ChannelRefused("doc", "forbidden", "")
