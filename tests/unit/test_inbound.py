"""The receiving half of a lane: once, in order, or as lost."""

from math import inf

import pytest
from msgspec import Raw

from duolink.protocol import limits
from duolink.protocol.codes import LossReason
from duolink.protocol.inbound import BeyondCredit, Inbound, Lost, Received
from duolink.protocol.messages import LinkMessage, LostRange, Skip

RUN, ME = 3, 7


def inbound(base: int = 1, window: int = 8, window_bytes: int = 1000) -> Inbound:
    return Inbound("messages", RUN, base, window, window_bytes)


def message(seq: int, base: int = 1, *, ask: bool = False, size: int = 1) -> LinkMessage:
    return LinkMessage(run=RUN, seq=seq, base=base, ask=ask, data=Raw(b"1" * size))


def skip(first: int, last: int, base: int = 1, reason: str = "expired") -> Skip:
    return Skip(run=RUN, seq=first, last=last, base=base, reason=reason)


def heard(items: list[Received | Lost]) -> list[int | tuple[int, int, str]]:
    return [
        item.message.seq if isinstance(item, Received) else (item.first, item.last, item.reason)
        for item in items
    ]


def take(half: Inbound, *seqs: int, finish: bool = True) -> list[int | tuple[int, int, str]]:
    got = []
    for seq in seqs:
        items = half.message(message(seq), 0.0)
        got += heard(items)
        for item in items:
            if finish and isinstance(item, Received):
                half.finish(item.message.seq, 0.0)
    return got


def test_numbers_come_in_order_whatever_order_they_arrive_in() -> None:
    assert take(inbound(), 2, 4, 1, 3, 6, 5) == [1, 2, 3, 4, 5, 6]


def test_a_repeat_is_dropped_and_acknowledged_at_once() -> None:
    half = inbound()
    take(half, 1, 3)
    half.ack("B", ME)
    assert take(half, 1) == [] and half.poll(0.0)
    half.ack("B", ME)
    assert take(half, 3) == [] and half.poll(0.0), "also one that is still held"


def test_nothing_known_starts_at_base() -> None:
    """History 2: a receiver without memory first sees 51; an earlier process had the others."""
    half = inbound(base=51)
    assert heard(half.message(message(51, base=51), 0.0)) == [51]
    assert heard(half.message(message(50, base=50), 0.0)) == []


def test_what_the_sender_settled_meanwhile_is_gone() -> None:
    half = inbound()
    take(half, 1)
    assert heard(half.message(message(5, base=4), 0.0)) == [(2, 3, LossReason.GONE)]
    assert heard(half.message(message(4, base=4), 0.0)) == [4, 5]


def test_held_numbers_below_a_new_base_are_handed_over() -> None:
    """They came; only the hole before them is gone."""
    half = inbound()
    take(half, 3, 4)
    assert heard(half.message(message(7, base=7), 0.0)) == [(1, 2, "gone"), 3, 4, (5, 6, "gone"), 7]


def test_a_base_far_ahead_costs_no_memory() -> None:
    """An hour of expired numbers: one loss, and the cursor is there at once."""
    half = inbound()
    take(half, 1, finish=False)
    top = 2**53 - 1
    assert heard(half.message(message(top, base=top), 0.0)) == [(2, top - 1, "gone"), top]
    half.finish(top, 0.0)
    assert half.finished == top


def test_a_skip_takes_its_place_in_the_sequence() -> None:
    """History 1: B waits for 2 for ever, unless 2 ends as lost; every number ends, in sequence."""
    half = inbound()
    take(half, 1, 4)
    assert heard(half.skip(skip(2, 3), 0.0)) == [(2, 2, "expired"), (3, 3, "expired"), 4]
    half.finish(4, 0.0)
    ack = half.ack("B", ME)
    assert (ack.seq, [tuple(lost.__struct_fields__ and (lost.first, lost.last)) for lost in ack.lost]) == (
        4,
        [(2, 3)],
    )
    assert ack.by == ME


def test_a_skip_of_what_has_come_changes_nothing() -> None:
    """A message that was handed over stays delivered, one that is held too: the ack says which it was."""
    half = inbound()
    take(half, 1, 3)
    assert heard(half.skip(skip(1, 4), 0.0)) == [(2, 2, "expired"), 3, (4, 4, "expired")]
    half.finish(3, 0.0)
    assert [(lost.first, lost.last) for lost in half.ack("B", ME).lost] == [(2, 2), (4, 4)]


def test_losses_are_told_until_base_has_passed_them() -> None:
    """History 1: loss events repeat until acknowledged; an ack may be lost."""
    half = inbound()
    half.skip(skip(1, 2), 0.0)
    for _ in range(3):
        assert half.ack("B", ME).lost
        assert not half.may_ride(), "a cursor that rides cannot say what was lost"
    half.message(message(3, base=3), 0.0)
    assert not half.ack("B", ME).lost and half.may_ride()


def test_different_losses_stay_apart() -> None:
    half = inbound()
    half.skip(skip(1, 2, reason="expired"), 0.0)
    half.skip(skip(3, 3, reason="refused"), 0.0)
    half.skip(skip(4, 4, reason="refused"), 0.0)
    lost = half.ack("B", ME).lost
    assert [(one.first, one.last, one.reason) for one in lost] == [(1, 2, "expired"), (3, 4, "refused")]


def test_losses_that_nobody_settles_are_bounded() -> None:
    """A sender that is away settles nothing, and its base stays 1: what is remembered fits one ack, and the
    receiver goes on. The oldest losses can be told apart no more, and none of them passes for delivered."""
    half = inbound()
    numbers = 3 * limits.MAX_LOST
    for seq in range(1, numbers + 1):
        assert heard(half.skip(skip(seq, seq, reason=f"r{seq % 2}"), 0.0)) == [(seq, seq, f"r{seq % 2}")]
    ack = half.ack("B", ME)
    apart = limits.MAX_LOST - 1
    assert ack.seq == numbers and ack.lost[0] == LostRange(1, numbers - apart, "unclear")
    assert ack.lost[1:] == [LostRange(n, n, f"r{n % 2}") for n in range(numbers - apart + 1, numbers + 1)]


def test_losses_told_by_an_earlier_process_are_bounded_like_ones_own() -> None:
    half = inbound()
    half.message(message(5000, base=5000), 0.0)
    half.finish(5000, 0.0)
    half.inherit([LostRange(n, n, "expired") for n in range(1, 4001, 2)])
    lost = half.ack("B", ME).lost
    assert len(lost) == limits.MAX_LOST and (lost[0].first, lost[0].reason) == (1, "unclear")
    assert lost[1:] == [LostRange(n, n, "expired") for n in range(lost[0].last + 2, 4001, 2)]


def test_a_skip_over_everything_costs_no_memory() -> None:
    half = inbound()
    assert heard(half.skip(skip(1, 2**53 - 1), 0.0)) == [], "no sender skips more than its window"
    assert heard(half.message(message(1), 0.0)) == [1]


def test_credit() -> None:
    """History 5: 10,001 on a direct path is past what the receiver granted: a protocol error there."""
    half = inbound()
    take(half, 1)
    assert half.limit == 9
    with pytest.raises(BeyondCredit):
        half.message(message(10), 0.0, granting=True)
    with pytest.raises(BeyondCredit):
        half.skip(skip(9, 10), 0.0, granting=True)
    assert heard(half.message(message(9), 0.0, granting=True)) == [], "held"
    assert heard(half.message(message(10), 0.0)) == [], "from the server: dropped, it comes again"


def test_a_base_that_ran_ahead_is_within_the_credit() -> None:
    """Certain losses move the sender's base without a word from here: no protocol error."""
    half = inbound()
    assert heard(half.message(message(5000, base=5000), 0.0, granting=True)) == [(1, 4999, "gone"), 5000]


def test_what_is_held_is_bounded_in_bytes() -> None:
    """A stranger's window of large messages behind a hole is not kept; the next in order always is."""
    half = inbound(window_bytes=1000)
    for seq in range(2, 8):
        half.message(message(seq, size=400), 0.0)
    assert heard(half.message(message(1, size=5000), 0.0)) == [1, 2, 3]


def test_the_end_of_a_run_hands_over_what_is_held_and_names_the_holes() -> None:
    """History 7: lost (sender_restarted), in sequence, then nothing of that run any more."""
    half = inbound()
    take(half, 1, 3, 6)
    assert heard(half.end()) == [(2, 2, "sender_restarted"), 3, (4, 5, "sender_restarted"), 6]
    assert half.end() == []


def test_finishing_in_any_order_moves_the_cursor_without_holes() -> None:
    half = inbound()
    take(half, 1, 2, 3, finish=False)
    for seq, cursor in [(3, 0), (3, 0), (1, 1), (1, 1), (2, 3), (9, 3), (0, 3)]:
        half.finish(seq, 0.0)
        assert half.finished == cursor


def test_an_acknowledgement_waits_20_ms_for_company() -> None:
    half = inbound()
    half.message(message(1), 5.0)
    assert half.ack_at == inf, "not before it is finished"
    half.finish(1, 5.0)
    assert not half.poll(5.0 + limits.ACK_DELAY / 2) and half.poll(5.0 + limits.ACK_DELAY)
    half.rode()
    assert half.ack_at == inf


def test_it_does_not_wait_after_32_messages() -> None:
    half = inbound(window=100)
    for seq in range(1, limits.ACK_EVERY + 1):
        assert not half.poll(0.0)
        take(half, seq)
    assert half.poll(0.0)


def test_it_does_not_wait_when_asked() -> None:
    half = inbound()
    half.message(message(1, ask=True), 0.0)
    half.message(message(2), 0.0)
    half.finish(2, 0.0)
    half.finish(1, 0.0)
    assert half.poll(0.0)
    half.ack("B", ME)
    half.message(message(3), 0.0)
    half.finish(3, 0.0)
    assert not half.poll(0.0), "asked once, answered once"


def test_a_question_outlives_an_acknowledgement_that_does_not_answer_it() -> None:
    half = inbound()
    half.message(message(1), 0.0)
    half.message(message(2, ask=True), 0.0)
    half.finish(1, 0.0)
    half.ack("B", ME)
    half.finish(2, 0.0)
    assert half.poll(0.0)


def test_an_old_hole_is_asked_for_less_and_less_often() -> None:
    """History 3: the socket died with 2; a gap older than 1 s pulls, then 2, 4 … 30 s later."""
    half = inbound()
    take(half, 1, 3)
    half.ack("B", ME)
    asked = []
    while half.pull_at < 100:
        now = half.pull_at
        assert half.poll(now)
        ack = half.ack("B", ME)
        assert ack.want and (ack.seq, ack.received) == (1, 0)
        asked.append(now)
    assert asked == [1, 3, 7, 15, 31, 61, 91]
    take(half, 2)
    assert half.pull_at == inf, "filled"
    take(half, 5)
    assert half.pull_at == 1.0, "a new hole begins anew"


def test_a_probe_is_answered_at_once_and_asks_for_what_is_missing() -> None:
    half = inbound()
    take(half, 1, 2)
    half.probe(2, 1, 9.0)
    assert half.poll(9.0) and not half.ack("B", ME).want
    half.probe(4, 1, 9.0)
    assert half.poll(9.0) and half.ack("B", ME).want
    assert heard(half.probe(4, 5, 9.0)) == [(3, 4, "gone")]


def test_the_credit_is_granted_where_it_is_asked_for() -> None:
    half = inbound()
    take(half, 1)
    assert half.ack("B", ME).limit == 0
    assert half.ack("B", ME, granting=True).limit == 9
