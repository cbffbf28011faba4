"""A link whose server keeps messages: what is asked of it, and what is believed of what it says."""

from math import inf
from typing import Any

import pytest
from msgspec import Raw
from tests.unit.test_link import PEER_RUN, RUN, End, ack, here, message, seqs, wait

from duolink.protocol import limits
from duolink.protocol.codes import ErrorCode
from duolink.protocol.link import SERVER, Link, StorageTrouble, Stored
from duolink.protocol.messages import Ack, Error, LinkMessage, LostRange, Message, Ping, Pong, Probe, Skip
from duolink.protocol.messages import Stored as StoredMessage
from duolink.protocol.outbound import Outbound
from duolink.protocol.paths import PathKind
from duolink.protocol.sending import Sending

AFTER = limits.STORE_AFTER


class Durable(End):
    """A link whose server is durable."""

    def __init__(self, window: int = 8, *, online: bool = True, user: str = "") -> None:
        super().__init__(window, online=False)
        self.link = Link("B", RUN, window=window, durable=True, user=user)
        if online:
            self.up()


def stored(seq: int, run: int = RUN) -> StoredMessage:
    return StoredMessage(to="B", run=run, seq=seq)


def unavailable(seq: int) -> Message:
    told = wait(seq)
    told.code = ErrorCode.UNAVAILABLE
    return told


def copies(out: list[Message]) -> list[tuple[Any, bool]]:
    """The numbers that left, and whether they are to be stored."""
    return [
        ((m.seq, m.last) if isinstance(m, Skip) else m.seq, m.store)
        for m in out
        if isinstance(m, LinkMessage | Skip)
    ]


# --- when a copy is to be stored -------------------------------------------------------------------


def test_what_is_not_acknowledged_in_time_is_sent_again_to_be_stored() -> None:
    a = Durable()
    assert copies(a.send(b"1", b"2")) == [(1, False), (2, False)]
    assert copies(a.at(AFTER - 0.001)) == []
    assert copies(a.at(AFTER)) == [(1, True), (2, True)]
    assert copies(a.at(1.9)) == [], "once a connection is enough"
    a.hear(stored(2))
    assert [type(event) for event in a.events if not isinstance(event, Stored)] == []
    assert a.link.unsettled == 2


def test_what_is_acknowledged_in_time_costs_the_disk_nothing() -> None:
    a = Durable()
    a.send(b"1")
    a.at(0.2)
    a.hear(ack(1))
    assert copies(a.at(5.0)) == []


def test_each_number_has_its_own_time() -> None:
    a = Durable()
    a.send(b"1")
    a.at(0.1)
    a.send(b"2")
    assert copies(a.at(AFTER)) == [(1, True)]
    assert copies(a.at(AFTER + 0.1)) == [(2, True)]


def test_a_server_without_a_disk_is_asked_for_nothing() -> None:
    a = End()
    a.send(b"1")
    assert copies(a.at(1.9)) == []
    a.down()
    a.link.adapt(8, 100, True)
    a.up()
    assert copies(a.at(2.5)) == [(1, True)], "it has one now"


def test_a_number_that_went_another_way_goes_to_the_server_first_and_then_to_the_disk() -> None:
    a = Durable()
    a.hear(here())
    a.prove()
    start = a.now
    assert copies(a.send(b"1")) == [(1, False)]
    assert a.said[-1][0] == "d1"
    a.said.clear()
    a.at(start + AFTER)
    assert [(path, m.store) for path, m in a.said if isinstance(m, LinkMessage)] == [(SERVER, False)]
    a.said.clear()
    a.at(start + 2 * AFTER)
    assert [(path, m.store) for path, m in a.said if isinstance(m, LinkMessage)] == [(SERVER, True)]


def test_of_two_that_are_overdue_each_is_what_its_own_way_makes_it() -> None:
    """1 went to a data channel, 2 to the server, which is asked to store 2; 1 has to go there first."""
    half = Outbound("B", "messages", RUN, 8, 100)
    half.submit(Raw(b"1"))
    half.submit(Raw(b"2"))
    list(half.transmit(1, 1, 0.0, server=False))
    list(half.transmit(2, 2, 0.0))
    sending = Sending(half)
    sending.top = 2
    assert sending.overdue(AFTER) == [(1, False), (2, True)]
    assert (sending.store_at, sending.kept) == (2 * AFTER, 0), "1 will have to be asked for, too"


def test_of_several_that_are_due_those_already_stored_are_left_out() -> None:
    a = Durable()
    a.send(b"1", b"2", b"3")
    a.hear(stored(2))
    assert copies(a.at(AFTER)) == [(3, True)]


def test_a_lost_number_is_stored_as_a_skip() -> None:
    a = Durable()
    a.send(b"1", expires=0.1)
    assert copies(a.at(0.2)) == []
    assert copies(a.at(AFTER)) == [((1, 1), True)]
    a.hear(stored(1))
    assert a.link.unsettled == 1, "its receiver may have it, and will say"
    a.hear(ack(1))
    assert a.link.unsettled == 0


def test_a_message_says_how_long_it_is_worth_keeping_and_what_it_replaces() -> None:
    a = Durable()
    (first,) = a.send(b"1", expires=5.0, collapse="pos")
    (again,) = [m for m in a.at(AFTER) if isinstance(m, LinkMessage)]
    assert isinstance(first, LinkMessage)
    assert (first.ttl, first.collapse) == (5000, "pos") and again.ttl == 4750
    (last,) = a.send(b"2", expires=a.now + 0.0001)
    assert isinstance(last, LinkMessage) and last.ttl == 1, "0 would be for ever"


# --- what the server says --------------------------------------------------------------------------


def test_history_1_stored_frees_the_window_and_does_not_move_the_base() -> None:
    a = Durable(window=2)
    a.send(b"1", b"2")
    assert not a.link.has_room(1)
    a.hear(stored(2))
    assert a.link.has_room(1)
    (third,) = a.send(b"3")
    assert isinstance(third, LinkMessage) and (third.seq, third.base) == (3, 1)


def test_a_number_that_is_stored_is_not_sent_again_by_anybody() -> None:
    a = Durable()
    a.send(b"1", b"2")
    a.hear(stored(1))
    a.down()
    assert copies(a.up()) == [(2, False)]


def test_stored_lifts_a_hold() -> None:
    a = Durable()
    a.send(b"1", b"2")
    a.hear(wait(1))
    a.hear(wait(2))
    assert copies(a.at(1.0)) == []
    assert copies(a.hear(stored(1))) == [(2, False)]


def test_what_was_stored_before_the_held_number_lifts_nothing() -> None:
    a = Durable()
    a.send(b"1", b"2", b"3")
    a.hear(wait(3))
    assert copies(a.hear(stored(1))) == []
    assert copies(a.hear(stored(3))) == []
    assert copies(a.send(b"4")) == [(4, False)]


def test_stored_of_another_run_or_of_nothing_new_changes_nothing() -> None:
    a = Durable()
    a.send(b"1")
    for told in (stored(1, run=RUN - 1), stored(2), stored(5)):
        a.hear(told)
    assert not [event for event in a.events if isinstance(event, Stored)]


def test_history_29_the_application_hears_once_that_nothing_can_be_stored() -> None:
    a = Durable()
    a.send(b"1", b"2")
    a.hear(unavailable(1))
    a.hear(unavailable(2))
    assert [event for event in a.events if isinstance(event, StorageTrouble)] == [
        StorageTrouble(ErrorCode.UNAVAILABLE)
    ]
    assert a.link.unsettled == 2, "it is kept here"


def test_what_was_turned_away_is_asked_to_be_stored_again() -> None:
    """The disk was full when 1 was to be stored; bob comes, 1 goes live, and he does not acknowledge it."""
    a = Durable()
    a.send(b"1")
    assert copies(a.at(AFTER)) == [(1, True)]
    a.hear(unavailable(1))
    a.hear(here())
    back = a.now
    assert copies(a.turn()) == [] and copies(a.at(back + AFTER)) == [(1, True)]


def test_while_it_is_told_to_wait_nothing_is_asked_to_be_stored() -> None:
    a = Durable()
    a.send(b"1", b"2")
    a.hear(wait(1))
    assert copies(a.at(1.9)) == []


def test_a_full_mailbox_is_the_end_of_a_number_nobody_else_has() -> None:
    a = Durable()
    a.send(b"1")
    a.hear(Error(code=ErrorCode.MAILBOX_FULL, message="", to="B", run=RUN, seq=1))
    assert a.heard() == [(1, "mailbox_full", True)]
    assert a.link.unsettled == 0


def test_a_full_mailbox_waits_for_the_receivers_word_when_a_copy_is_out() -> None:
    a = Durable()
    a.hear(here())
    a.send(b"1")
    a.at(AFTER)
    a.heard()
    a.hear(Error(code=ErrorCode.MAILBOX_FULL, message="", to="B", run=RUN, seq=1))
    assert a.heard() == [] and a.link.unsettled == 1
    a.hear(ack(1))
    assert a.heard() == [(1, "delivered", True)], "it had come"


def test_another_connection_asks_for_itself() -> None:
    a = Durable()
    a.send(b"1")
    a.at(AFTER)
    a.down()
    a.at(10.0)
    assert copies(a.up()) == [(1, False)]
    assert copies(a.at(10.0 + AFTER)) == [(1, True)]


def test_a_sender_that_reconnects_often_sends_a_window_each_time_and_no_more() -> None:
    a = Durable(window=8)
    a.send(*[b"1"] * 8)
    a.hear(stored(3))
    for turn in range(50):
        a.down()
        assert copies(a.up()) == [(seq, False) for seq in range(4, 9)], turn
        a.at(a.now + 0.1)


def test_a_mailbox_that_asks_for_a_hole_gets_it() -> None:
    a = Durable()
    a.send(b"1", b"2", b"3")
    a.hear(wait(3))
    out = a.hear(ack(0, received=1, want=True))
    assert copies(out) == [(2, False), (3, False)]


# --- whom it speaks for ----------------------------------------------------------------------------


def test_history_7_a_mailbox_that_asks_does_not_open_the_other_ways() -> None:
    """B restarts while its data channel to A is open already. The server, before it sends the younger process
    anything, asks A to begin where the mailbox is. That is not B's word: a data channel would lead to a
    process that does not know this run, and drops it."""
    a = Durable()
    a.up("d1", PathKind.DIRECT)
    a.prove()
    a.link._opened = False
    a.send(b"1", b"2")
    a.hear(wait(1))
    a.said.clear()
    a.hear(ack(0, received=1, want=True))
    assert {path for path, m in a.said if isinstance(m, LinkMessage)} == {SERVER}


def test_history_7_who_is_not_understood_on_a_data_channel_knocks_at_the_server() -> None:
    """The server said wait, so that everything goes to a data channel, whose far end does not know the run.
    Nothing is acknowledged: then the server is tried too, though it said wait."""
    a = Durable()
    a.hear(here())
    a.prove()
    a.send(b"1")
    a.link.receive(wait(1), SERVER, a.now)
    a.said.clear()
    for _ in range(14):  # the data channel itself is well
        for ping in [m for m in a.at(a.now + 0.5) if isinstance(m, Ping)]:
            a.hear(Pong(id=ping.id), "d1")
    assert {path for path, m in a.said if isinstance(m, LinkMessage)} == {SERVER}


# --- the receiver ----------------------------------------------------------------------------------


def probe(seq: int = 0, **how: Any) -> Probe:
    how.setdefault("run", PEER_RUN)
    how.setdefault("base", 1)
    return Probe(seq=seq, sender="B", **how)


def test_history_2_a_receiver_without_memory_begins_where_the_mailbox_says() -> None:
    b = Durable()
    b.hear(probe(50, start=51))
    b.hear(message(51, base=1))
    assert b.heard() == [51]


def test_it_tells_what_an_earlier_process_of_it_had_told_as_lost() -> None:
    b = Durable()
    lost = [LostRange(3, 4, "expired"), LostRange(60, 61, "expired")]
    (told,) = b.hear(probe(50, start=51, lost=lost))
    assert isinstance(told, Ack)
    assert (told.seq, told.lost, told.by) == (50, [LostRange(3, 4, "expired")], RUN)
    b.hear(message(51, base=51))
    b.finish(message(51))
    assert all(not m.lost for m in b.at(1.0) if isinstance(m, Ack)), "base has passed it"


def test_a_receiver_that_is_further_than_the_start_goes_on_where_it_is() -> None:
    b = Durable()
    for seq in (1, 2, 3):
        b.hear(message(seq))
    b.hear(probe(1, start=2))
    b.hear(message(2))
    b.hear(message(4))
    assert b.heard() == [1, 2, 3, 4]


def test_what_lies_below_the_start_and_has_not_come_is_lost_and_told() -> None:
    """A server without memory was restarted: a user's other client had finished with 2, which this one waits
    for, and its sender has forgotten. Else 3 would wait for ever, or 2 be called delivered by this one."""
    b = Durable()
    b.hear(message(1))
    b.hear(message(4))
    b.hear(probe(5, start=6))
    b.hear(message(6))
    assert b.heard() == [1, (2, 3, "gone"), 4, (5, 5, "gone"), 6]
    for seq in (1, 4, 6):
        b.finish(message(seq))
    told = [m for m in b.at(1.0) if isinstance(m, Ack)][-1]
    assert (told.seq, [(each.first, each.last) for each in told.lost]) == (6, [(2, 3), (5, 5)])


def test_a_lane_to_which_nothing_has_come_begins_at_a_later_start_without_a_word() -> None:
    """A killed server has forgotten that an earlier process had finished with 1 … 41, and says start 1; the
    sender, which knows, then sends base 42. Nobody has lost anything."""
    b = Durable()
    b.hear(probe(0, start=1))
    b.hear(probe(41, start=42))
    b.hear(message(42, base=1))
    assert b.heard() == [42]
    b.finish(message(42))
    told = [m for m in b.at(1.0) if isinstance(m, Ack)][-1]
    assert (told.seq, told.lost) == (42, [])


def test_what_has_come_is_handed_over_whatever_a_later_start_says() -> None:
    b = Durable()
    b.hear(probe(0, start=1))
    b.hear(message(3))
    b.hear(probe(5, start=6))
    assert b.heard() == [(1, 2, "gone"), 3, (4, 5, "gone")]


def test_a_start_far_away_costs_nothing() -> None:
    b = Durable()
    b.hear(message(1))
    b.hear(probe(2**50, start=2**50 + 1))
    b.hear(message(2**50 + 1))
    assert b.heard() == [1, (2, 2**50, "gone"), 2**50 + 1]


def test_each_lane_begins_by_itself() -> None:
    b = Durable()
    b.hear(message(1))
    b.hear(probe(9, start=10, lane="bulk"))
    b.hear(message(10, lane="bulk"))
    assert b.heard() == [1, 10]


def test_what_comes_for_a_user_is_acknowledged_as_his() -> None:
    b = Durable(user="@u")
    assert b.link.key == "B\n@u"
    b.hear(probe(0, start=1, user="@u"))
    b.hear(message(1, user="@u"))
    b.finish(message(1))
    (told,) = [m for m in b.at(1.0) if isinstance(m, Ack)]
    assert (told.user, told.to, told.seq) == ("@u", "B", 1)


# --- timers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("online", [False, True])
def test_a_link_that_was_just_asked_has_nothing_to_do(durable: bool, online: bool) -> None:
    """Else its driver turns in a circle: whatever is due, one `take` does it."""
    a = Durable(online=online) if durable else End(online=online)
    steps: list[Any] = [
        lambda: a.send(b"1", b"2"),
        lambda: a.send(b"3", expires=a.now + 0.3),
        lambda: a.hear(wait(1)) if online else None,
        lambda: a.hear(message(1)),
        lambda: a.hear(message(3)),
        lambda: a.finish(message(1)),
        lambda: a.up("d1", PathKind.DIRECT),
        lambda: a.hear(stored(1)) if online else None,
        lambda: a.hear(here()) if online else None,
        lambda: a.hear(message(1, run=PEER_RUN + 1)),
        lambda: a.finish(message(3)),
        lambda: a.down(),
        lambda: a.down("d1"),
        lambda: a.up(),
    ]
    for step in steps:
        step()
        for _ in range(200):
            a.turn()
            timer = a.link.next_timer(a.now)
            assert timer > a.now
            if timer == inf or timer > a.now + 40:
                break
            a.now = min(timer, a.now + 0.5)


def test_one_bodys_bytes_count_until_it_is_stored() -> None:
    a = Durable()
    a.link.adapt(8, 10, True)
    a.link.submit(Raw(b"1" * 8))
    a.link.submit(Raw(b"1"))
    assert not a.link.has_room(2)
    a.turn()
    a.hear(stored(1))
    assert a.link.has_room(9) and seqs(a.at(AFTER)) == [2]


# --- another database ------------------------------------------------------------------------------


def test_what_another_database_has_forgotten_is_skipped_as_lost() -> None:
    """1–3 were stored, and the server comes back with an empty database: without their bodies nobody can fill
    the hole, and 4 would wait for ever."""
    a = Durable()
    a.send(b"1", b"2", b"3")
    a.hear(stored(3))
    a.send(b"4")
    out = a.hear(Ack(run=RUN, seq=0, sender="B", want=True, kept=0))
    assert copies(out) == [((1, 3), False), (4, False)]
    assert [m.reason for m in out if isinstance(m, Skip)] == ["storage_lost"]
    assert a.link.unsettled == 4, "what became of them, their receiver is to say"


def test_what_the_receiver_has_of_it_is_delivered_all_the_same() -> None:
    a = Durable()
    a.send(b"1", b"2")
    a.hear(stored(2))
    a.hear(Ack(run=RUN, seq=0, sender="B", want=True, kept=0))
    a.events.clear()
    a.hear(Ack(run=RUN, seq=2, sender="B", lost=[LostRange(2, 2, "storage_lost")], by=3))
    assert a.heard() == [(1, "delivered", True), (2, "storage_lost", False)]


def test_a_mailbox_that_has_what_it_had_loses_nothing() -> None:
    a = Durable()
    a.send(b"1", b"2")
    a.hear(stored(2))
    assert copies(a.hear(Ack(run=RUN, seq=0, sender="B", received=2, kept=2))) == []
    assert copies(a.hear(Ack(run=RUN, seq=0, sender="B", want=True))) == [], (
        "a receiver's word is no mailbox's"
    )
