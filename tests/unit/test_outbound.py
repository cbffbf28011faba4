"""The sending half of a lane: every number ends, once, and truly."""

from math import inf

import pytest
from msgspec import Raw

from duolink.protocol.codes import LossReason
from duolink.protocol.messages import Ack, LinkMessage, LostRange, Skip
from duolink.protocol.outbound import Outbound, Settled, WindowFull

RUN, PEER_RUN = 7, 3


def outbound(window: int = 8, window_bytes: int = 100) -> Outbound:
    half = Outbound("B", "messages", RUN, window, window_bytes)
    half.meet(PEER_RUN)
    return half


def fill(half: Outbound, count: int, expires: float = inf) -> None:
    for _ in range(count):
        half.submit(Raw(b"1"), expires=expires)


def ack(seq: int, received: int = 0, *lost: LostRange, want: bool = False, run: int = RUN) -> Ack:
    return Ack(run=run, seq=seq, received=received, want=want, lost=list(lost), by=PEER_RUN if lost else 0)


def ends(settled: list[Settled]) -> list[tuple[int, str, bool]]:
    return [(end.entry.seq, end.reason, end.certain) for end in settled]


def sent(half: Outbound, first: int = 1, last: int = 99) -> list[tuple[int, int] | int]:
    return [
        message.seq if isinstance(message, LinkMessage) else (message.seq, message.last)
        for message in half.transmit(first, last)
    ]


def test_numbers_are_1_2_3_and_base_is_the_lowest_not_settled() -> None:
    half = outbound()
    assert half.base == 1
    fill(half, 3)
    assert (half.base, half.next_seq, half.unsettled) == (1, 4, 3)
    half.acknowledge(ack(2))
    assert (half.base, half.unsettled) == (3, 1)
    half.acknowledge(ack(3))
    assert (half.base, half.unsettled) == (4, 0)


def test_an_acknowledged_number_is_delivered_once() -> None:
    half = outbound()
    fill(half, 3)
    assert ends(half.acknowledge(ack(2))) == [(1, "", True), (2, "", True)]
    assert ends(half.acknowledge(ack(2))) == []
    assert ends(half.acknowledge(ack(1))) == [], "an old acknowledgement"


@pytest.mark.parametrize("wrong", [ack(1, run=6), ack(4), ack(1, received=4)])
def test_an_acknowledgement_of_another_run_or_of_numbers_never_given_changes_nothing(wrong: Ack) -> None:
    half = outbound()
    fill(half, 3)
    assert half.acknowledge(wrong) == [] and (half.base, half.received) == (1, 0)


@pytest.mark.parametrize(("run", "seq"), [(6, 1), (RUN, 4), (RUN, 0)])
def test_nor_does_a_cursor_that_rode(run: int, seq: int) -> None:
    half = outbound()
    fill(half, 3)
    assert half.acknowledge_cursor(run, seq) == []
    assert ends(half.acknowledge_cursor(RUN, 2)) == [(1, "", True), (2, "", True)]


def test_the_window_counts_numbers_and_bytes_and_always_lets_one_through() -> None:
    half = outbound(window=3, window_bytes=10)
    half.submit(Raw(b"1" * 50))
    assert not half.has_room(1)
    with pytest.raises(WindowFull, match="1 numbers to B"):
        half.submit(Raw(b"1"))
    assert half.next_seq == 2, "nothing was numbered"
    half.acknowledge(ack(1))
    fill(half, 3)
    assert not half.has_room(0)
    half.acknowledge(ack(2))
    assert half.has_room(8) and not half.has_room(9)


def test_what_is_stored_frees_the_window_and_is_not_sent_again() -> None:
    half = outbound(window=2)
    fill(half, 2)
    assert [stored.entry.seq for stored in half.store(2)] == [1, 2]
    assert half.store(2) == [] and half.store(9) == []
    assert half.base == 1, "storing does not move it"
    fill(half, 2)
    assert sent(half) == [3, 4]
    assert ends(half.acknowledge(ack(4))) == [(seq, "", True) for seq in (1, 2, 3, 4)]


def test_a_stored_number_expires_in_the_mailbox_not_here() -> None:
    half = outbound()
    fill(half, 2, expires=5.0)
    half.store(1)
    assert ends(half.expire(5.0)) == [(2, "expired", True)]
    assert half.refuse(1) == []


def test_skipped_numbers_are_sent_as_ranges() -> None:
    """History 1: the skip takes the number's place, and repeats like a message until acknowledged."""
    half = outbound()
    fill(half, 1)
    fill(half, 3, expires=1.0)
    fill(half, 1)
    assert sent(half) == [1, 2, 3, 4, 5]
    half.expire(1.0)
    half.refuse(4)
    assert sent(half) == [1, (2, 4), 5]
    assert sent(half, 3) == [(3, 4), 5], "and again, from anywhere"
    assert sent(half, 2, 3) == [(2, 3)], "and to anywhere"


def test_skips_with_different_reasons_are_different_skips() -> None:
    half = outbound()
    fill(half, 1)
    fill(half, 1, expires=1.0)
    fill(half, 2)
    list(half.transmit(1, 4))
    half.expire(1.0)
    list(half.transmit(3, 3))  # another copy of 3, so that its refusal is not yet certain
    half.refuse(3)
    skips = [message for message in half.transmit(1, 4) if isinstance(message, Skip)]
    assert [(one.seq, one.last, one.reason) for one in skips] == [(2, 2, "expired"), (3, 3, "refused")]


def test_a_stored_number_between_two_skips_divides_them() -> None:
    half = outbound()
    fill(half, 1)
    half.submit(Raw(b"1"), expires=1.0)
    list(half.transmit(1, 2))
    half.expire(1.0)
    half.store(2)
    fill(half, 1)
    assert sent(half) == [(2, 2), 3]


def test_a_number_nobody_has_is_lost_at_once_and_for_certain() -> None:
    """History 30: every copy was answered by wait; an absent receiver does not fill the window."""
    half = outbound()
    fill(half, 2, expires=5.0)
    list(half.transmit(1, 2))
    list(half.transmit(1, 1))
    assert half.dropped(1, 2) == [] and half.expire(4.9) == []
    assert ends(half.expire(5.0)) == [(2, "expired", True)], "of 1 a copy is still out"
    assert half.base == 1
    assert ends(half.dropped(1, 1)) == [(1, "expired", True)]
    assert half.base == 3 and half.dropped(1, 9) == []


def test_a_copy_that_is_out_is_decided_by_the_receiver() -> None:
    """Expired on its way: the acknowledgement says which it was."""
    half = outbound()
    fill(half, 3, expires=1.0)
    list(half.transmit(1, 3))
    assert half.expire(1.0) == []
    got = half.acknowledge(ack(3, 0, LostRange(2, 2, "expired")))
    assert [(end.entry.seq, end.reason) for end in got] == [(1, ""), (2, "expired"), (3, "")]


def test_a_certain_loss_behind_an_open_number_is_told_once() -> None:
    half = outbound()
    fill(half, 1)
    fill(half, 1, expires=1.0)
    fill(half, 1)
    list(half.transmit(1, 1))
    assert ends(half.expire(1.0)) == [(2, "expired", True)]
    assert half.dropped(2, 2) == [], "a wait for a copy that never was"
    assert ends(half.acknowledge(ack(3))) == [(1, "", True), (3, "", True)]


def test_a_loss_is_certain_only_by_the_word_of_all_who_may_have_the_body() -> None:
    """An earlier process of the receiver may have had it: its successor's word is no proof."""
    half = outbound()
    fill(half, 2, expires=1.0)
    list(half.transmit(1, 1))
    half.meet(12)
    list(half.transmit(1, 2))
    half.expire(1.0)
    word = Ack(run=RUN, seq=2, lost=[LostRange(1, 2, "expired")], by=12)
    assert ends(half.acknowledge(word)) == [(1, "expired", False), (2, "expired", True)]


def test_a_receiver_that_cannot_tell_its_losses_apart_proves_nothing() -> None:
    half = outbound()
    half.meet(12)
    fill(half, 2)
    list(half.transmit(1, 2))
    word = Ack(run=RUN, seq=2, lost=[LostRange(1, 1, "unclear"), LostRange(2, 2, "replaced")], by=12)
    assert ends(half.acknowledge(word)) == [(1, "unclear", False), (2, "replaced", True)]


def test_expiry_is_known_to_the_timer() -> None:
    half = outbound()
    assert half.next_expiry() == inf
    fill(half, 1, expires=9.0)
    fill(half, 1, expires=5.0)
    assert half.next_expiry() == 5.0
    half.expire(5.0)
    assert half.next_expiry() == 9.0
    half.expire(9.0)
    assert half.next_expiry() == inf


def test_a_refused_number_is_lost_at_once_if_its_only_copy_was_the_one_refused() -> None:
    """History 1: a permanent refusal of n makes the sender send skip(n); nothing waits behind it."""
    half = outbound()
    fill(half, 3)
    list(half.transmit(1, 3))
    assert ends(half.refuse(2)) == [(2, LossReason.REFUSED, True)]
    assert half.refuse(2) == [] and half.refuse(99) == []
    assert sent(half) == [1, (2, 2), 3]


def test_skipped_bodies_are_forgotten() -> None:
    half = outbound(window_bytes=10)
    half.submit(Raw(b"1" * 10), expires=1.0)
    list(half.transmit(1, 1))
    assert not half.has_room(1)
    half.expire(1.0)
    assert half.has_room(10)


def test_a_mailbox_does_not_store_what_was_skipped() -> None:
    half = outbound()
    fill(half, 1)
    fill(half, 1, expires=1.0)
    half.expire(1.0)
    assert [stored.entry.seq for stored in half.store(2)] == [1]


def test_giving_up_says_what_is_certain() -> None:
    half = outbound()
    fill(half, 1)
    fill(half, 1, expires=1.0)
    fill(half, 2)
    list(half.transmit(1, 2))
    list(half.transmit(4, 4))
    half.expire(1.0)
    assert ends(half.abandon("closed")) == [
        (1, "closed", False),
        (2, "expired", False),
        (3, "closed", True),
        (4, "closed", False),
    ]
    assert half.unsettled == 0 and half.abandon("closed") == []


def test_another_process_of_the_receiver_begins_at_base() -> None:
    """History 2: what the old process had received, the new one does not have."""
    half = outbound()
    fill(half, 4)
    half.acknowledge(ack(1, received=4))
    half.meet(PEER_RUN)
    assert half.received == 4
    half.meet(12)
    assert half.received == 1


def test_a_receiver_that_wants_may_lower_its_cursor() -> None:
    half = outbound()
    fill(half, 4)
    half.acknowledge(ack(1, received=4))
    half.acknowledge(ack(1, received=3))
    assert half.received == 4, "an old acknowledgement"
    half.acknowledge(ack(1, received=2, want=True))
    assert half.received == 2


def test_the_wire_message_carries_what_the_entry_says() -> None:
    half = outbound()
    entry = half.submit(Raw(b"x"), binary=True)
    entry.ask, entry.request, entry.deadline, entry.reply, entry.failed = True, "r", 9, "q", True
    (message,) = half.transmit(1, 1)
    wanted = LinkMessage(run=RUN, seq=1, base=1, to="B", ask=True, request="r", deadline=9, data=Raw(b"x"))
    wanted.reply, wanted.failed, wanted.binary = "q", True, True
    assert message == wanted
    assert list(half.transmit(5, 9)) == [] and list(half.transmit(2, 1)) == []


def test_a_skip_that_overtakes_its_number_on_another_path_makes_no_loss_certain() -> None:
    """A copy is on its way to the server when the number expires; the skip goes by a data channel, and the
    receiver's process says lost; it restarts, and the server hands the copy to the next one."""
    for server, certain in ((True, True), (False, False)):
        half = Outbound("B", "messages", 7, 8, 65536)
        half.meet(3)
        half.submit(Raw(b"1"), expires=1.0)
        list(half.transmit(1, 1, 0.0, server=True))
        assert half.expire(1.0) == []
        (skip,) = half.transmit(1, 1, 1.0, server=server)
        assert isinstance(skip, Skip)
        (settled,) = half.acknowledge(Ack(run=7, seq=1, lost=[LostRange(1, 1, "expired")], by=3))
        assert (settled.reason, settled.certain) == ("expired", certain)
