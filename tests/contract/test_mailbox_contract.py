"""What every `Mailbox` promises."""

import random
from typing import Any

import pytest

from duolink.engines import box, mailroom
from duolink.engines.base import Box, Holding, MailboxLimits, Row, Standing, StoreResult, Stream, Verdict
from duolink.protocol import limits
from duolink.protocol.messages import LostRange

BOB = Stream("bob", "alice", "messages", 1)
KEPT, HOLE, FULL, NOBODY = Verdict.KEPT, Verdict.HOLE, Verdict.FULL, Verdict.NOBODY


def store(
    bench, seq: int, base: int = 1, body: bytes = b"x", stream: Stream = BOB, **row: Any
) -> StoreResult:
    row.setdefault("last", seq)
    result = bench.ask(bench.engines.mailbox.store, stream, Row(seq, body=body, **row), base)
    assert isinstance(result, StoreResult)
    return result


def skip(
    bench, first: int, last: int, reason: str = "expired", base: int = 1, stream: Stream = BOB
) -> Verdict:
    return store(bench, first, base, b"", stream, last=last, reason=reason).verdict


def fill(bench, last: int, stream: Stream = BOB) -> None:
    for seq in range(1, last + 1):
        assert store(bench, seq, stream=stream).verdict is KEPT


def standing(bench, stream: Stream = BOB) -> Standing:
    result = bench.ask(bench.engines.mailbox.standing, stream)
    assert isinstance(result, Standing)
    return result


def ack(bench, seq: int, client: str = "bob", stream: Stream = BOB, lost=(), by: int = 50) -> None:
    bench.engines.mailbox.acknowledge(stream, client, seq, tuple(LostRange(*each) for each in lost), by)
    standing(bench, stream)  # what is asked afterwards is answered after it


def opened(bench, client: str = "bob", user: str = "", run: int = 100) -> list[Box]:
    return list(bench.ask(bench.engines.mailbox.open, client, user, run))


def read(bench, after: int = 0, limit: int = 100, size: int = 1 << 20, client="bob", stream=BOB) -> list[Row]:
    return list(bench.ask(bench.engines.mailbox.read, stream, client, after, limit, size))


def seen(bench, **arguments: Any) -> list[tuple[int, int, str]]:
    return [(row.seq, row.last, row.reason) for row in read(bench, **arguments)]


def register(bench, *clients: str, user: str) -> None:
    for client in clients:
        bench.clock.seconds += 100_000  # later is seen later
        bench.ask(bench.engines.registry.issue_run, client, user, bench.clock.wall_ms())


def pass_time(bench, seconds: float) -> None:
    """Time passes, and whatever is done then is done."""
    bench.clock.seconds += seconds
    if hasattr(bench.engines.mailbox, "sweep"):
        bench.engines.mailbox.sweep()
    for _ in range(30):
        standing(bench, Stream("nobody", "nobody", "messages", 1))


# --- storing ---------------------------------------------------------------------------------


def test_what_was_stored_is_read_back_as_it_was_in_order(bench):
    store(bench, 1, body=b'{"type":"message"}')
    store(bench, 2, body=b"\x00\xff\n", binary=True)
    rows = [row._replace(expires=0, time=0) for row in read(bench)]
    assert rows == [Row(1, 1, b'{"type":"message"}'), Row(2, 2, b"\x00\xff\n", binary=True)]


def test_a_row_is_stored_and_not_settled(bench):
    assert store(bench, 1) == StoreResult(KEPT, Standing(1, 0))
    assert standing(bench) == Standing(1, 0)


def test_nothing_is_known_of_an_unknown_stream(bench):
    assert standing(bench) == Standing()
    assert opened(bench) == [] and read(bench) == []


def test_a_new_stream_begins_at_its_base(bench):
    assert store(bench, 51, base=51) == StoreResult(KEPT, Standing(51, 50))
    assert seen(bench) == [(51, 51, "")]


def test_history_2_a_hole_is_not_taken(bench):
    """1 … 5 went another way and are not settled; 6 is to be stored."""
    assert store(bench, 6, base=1) == StoreResult(HOLE, Standing(0, 0))
    assert standing(bench) == Standing() and read(bench) == []
    fill(bench, 3)
    assert store(bench, 5) == StoreResult(HOLE, Standing(3, 0))
    assert store(bench, 4).verdict is KEPT and store(bench, 5).verdict is KEPT
    assert [row.seq for row in read(bench)] == [1, 2, 3, 4, 5]


def test_numbers_below_base_are_settled_and_fill_the_hole(bench):
    fill(bench, 2)
    assert store(bench, 8, base=8) == StoreResult(KEPT, Standing(8, 7))
    assert seen(bench) == [(8, 8, "")]
    assert bench.engines.mailbox.totals() == (1, 1)


def test_a_base_that_comes_late_changes_nothing(bench):
    store(bench, 8, base=8)
    assert store(bench, 9, base=3) == StoreResult(KEPT, Standing(9, 7))


def test_a_repeat_is_kept_once(bench):
    fill(bench, 3)
    assert store(bench, 2, body=b"another").verdict is KEPT
    assert [row.body for row in read(bench)] == [b"x", b"x", b"x"]
    assert bench.engines.mailbox.totals() == (3, 3)


def test_skips_take_their_place(bench):
    store(bench, 1)
    assert skip(bench, 2, 5, "cancelled") is KEPT
    store(bench, 6)
    assert seen(bench) == [(1, 1, ""), (2, 5, "cancelled"), (6, 6, "")]
    assert standing(bench).stored == 6
    assert bench.engines.mailbox.totals() == (2, 2)


def test_of_a_skip_that_was_partly_there_the_rest_is_taken(bench):
    fill(bench, 3)
    assert skip(bench, 2, 6) is KEPT
    assert seen(bench) == [(1, 1, ""), (2, 2, ""), (3, 3, ""), (4, 6, "expired")]
    assert skip(bench, 9, 9) is HOLE


def test_adjacent_losses_with_one_reason_are_one_row(bench):
    for seq in range(1, 8):
        skip(bench, seq, seq, "cancelled" if seq == 4 else "expired")
    assert seen(bench) == [(1, 3, "expired"), (4, 4, "cancelled"), (5, 7, "expired")]


def test_lanes_senders_and_runs_have_their_own_numbers(bench):
    streams = [
        BOB,
        BOB._replace(lane="bulk"),
        BOB._replace(sender="carol"),
        BOB._replace(run=2),
        BOB._replace(receiver="dave"),
    ]
    for stream in streams:
        fill(bench, 2, stream)
    ack(bench, 2)
    assert [standing(bench, stream).settled for stream in streams] == [2, 0, 0, 0, 0]


def test_stores_under_way_are_answered_in_order(bench):
    answers: list[int] = []
    for seq in range(1, 21):
        bench.engines.mailbox.store(BOB, Row(seq, seq, b"x"), 1, lambda r: answers.append(r.standing.stored))
    bench.settle()
    assert answers == list(range(1, 21))


# --- acknowledging -----------------------------------------------------------------------------


def test_what_is_acknowledged_is_gone(bench):
    fill(bench, 5)
    ack(bench, 3)
    assert standing(bench) == Standing(5, 3)
    assert seen(bench) == [(4, 4, ""), (5, 5, "")]
    assert bench.engines.mailbox.totals() == (2, 2)
    ack(bench, 5)
    assert seen(bench) == [] and bench.engines.mailbox.totals() == (0, 0)


def test_history_4_a_store_behind_the_acknowledgement_of_its_number_does_nothing(bench):
    """The insert of 5 is under way, B acknowledges 5, A hears `delivered`, the insert comes late."""
    fill(bench, 4)
    ack(bench, 5)
    assert store(bench, 5) == StoreResult(KEPT, Standing(5, 5))
    assert seen(bench) == [] and opened(bench) == []


def test_history_4_an_acknowledgement_behind_its_store_wins_at_once(bench):
    mailbox = bench.engines.mailbox
    answers: list[StoreResult] = []
    for seq in (1, 2, 3):
        mailbox.store(BOB, Row(seq, seq, b"x"), 1, answers.append)
    mailbox.acknowledge(BOB, "bob", 2, (), 50)
    mailbox.store(BOB, Row(2, 2, b"x"), 1, answers.append)
    bench.settle()
    assert [answer.verdict for answer in answers] == [KEPT] * 4
    assert seen(bench) == [(3, 3, "")] and mailbox.totals() == (1, 1)


def test_an_unknown_stream_is_remembered_from_its_acknowledgement_on(bench):
    ack(bench, 7)
    assert standing(bench) == Standing(7, 7)
    assert store(bench, 7, base=2).verdict is KEPT
    assert seen(bench) == []
    assert store(bench, 9, base=2).verdict is HOLE


def test_a_stale_cursor_changes_nothing(bench):
    fill(bench, 5)
    ack(bench, 4, lost=[(2, 3, "expired")])
    ack(bench, 3, lost=[(1, 1, "refused")], by=60)
    assert standing(bench) == Standing(5, 4, (LostRange(2, 3, "expired"),), 50)
    assert seen(bench) == [(5, 5, "")]


def test_nobody_acknowledges_for_a_client(bench):
    fill(bench, 2)
    ack(bench, 2, client="mallory")
    assert standing(bench) == Standing(2, 0) and len(read(bench)) == 2


def test_a_cursor_beyond_what_is_stored_is_believed(bench):
    fill(bench, 2)
    ack(bench, 10)
    assert standing(bench) == Standing(10, 10)
    assert store(bench, 11).verdict is KEPT


def test_whoever_comes_hears_what_was_told_lost_of_the_stream(bench):
    fill(bench, 3)
    ack(bench, 2, lost=[(1, 1, "refused")])
    assert opened(bench) == [Box(BOB, 3, 3, (LostRange(1, 1, "refused"),))]


def test_what_ended_as_lost_is_told_until_base_has_passed_it(bench):
    fill(bench, 9)
    ack(bench, 4, lost=[(2, 3, "expired"), (4, 9, "poison")])
    ack(bench, 8, lost=[(2, 3, "expired"), (6, 6, "refused")])
    lost = (LostRange(2, 3, "expired"), LostRange(4, 4, "poison"), LostRange(6, 6, "refused"))
    assert standing(bench) == Standing(9, 8, lost, 50)
    store(bench, 10, base=4)
    assert standing(bench).lost == lost[1:]
    store(bench, 11, base=7)
    assert standing(bench).lost == ()


def test_the_word_of_two_processes_is_nobodys(bench):
    fill(bench, 4)
    ack(bench, 2, lost=[(2, 2, "expired")], by=50)
    ack(bench, 3, lost=[], by=60)
    assert standing(bench).by == 50
    ack(bench, 4, lost=[(4, 4, "expired")], by=60)
    assert standing(bench).by == 0 and len(standing(bench).lost) == 2


def test_the_number_of_remembered_losses_is_bounded(bench):
    for part in range(3):
        first = part * 1600
        ack(bench, first + 1600, lost=[(n, n, "expired") for n in range(first + 2, first + 1600, 2)])
    lost = standing(bench).lost
    assert len(lost) == limits.MAX_LOST and lost[-1] == LostRange(4798, 4798, "expired")
    assert lost[0] == LostRange(2, lost[1].first - 2, "unclear"), "not called delivered"


# --- taking --------------------------------------------------------------------------------------


def test_history_3_whoever_comes_is_shown_what_is_there(bench):
    fill(bench, 5)
    ack(bench, 2)
    fill(bench, 3, BOB._replace(sender="carol", lane="bulk"))
    fill(bench, 1, BOB._replace(receiver="dave"))
    assert opened(bench) == [Box(BOB, 3, 5), Box(BOB._replace(sender="carol", lane="bulk"), 1, 3)]


def test_history_7_the_runs_of_a_sender_come_in_order(bench):
    for run in (30, 4, 200):
        fill(bench, 1, BOB._replace(run=run))
        fill(bench, 1, BOB._replace(run=run, sender="zoe"))
    runs = [(box.stream.sender, box.stream.run) for box in opened(bench)]
    assert runs == [(sender, run) for sender in ("alice", "zoe") for run in (4, 30, 200)]


def test_a_page_begins_behind_a_number_and_is_bounded(bench):
    fill(bench, 10)
    assert [row.seq for row in read(bench, after=3, limit=4)] == [4, 5, 6, 7]
    assert [row.seq for row in read(bench, after=9)] == [10]
    assert read(bench, after=10) == []
    assert len(read(bench)) == 10  # reading changes nothing


def test_a_page_has_about_so_many_bytes_but_always_a_row(bench):
    for seq in range(1, 6):
        store(bench, seq, body=b"x" * 100)
    assert [row.seq for row in read(bench, size=1)] == [1]
    assert [row.seq for row in read(bench, size=150)] == [1, 2]
    assert len(read(bench, size=500)) == 5


def test_a_loss_in_which_the_reader_stands_is_read_from_there_on(bench):
    skip(bench, 1, 9)
    store(bench, 10)
    assert seen(bench, after=4) == [(5, 9, "expired"), (10, 10, "")]
    ack(bench, 6)
    assert opened(bench) == [Box(BOB, 7, 10)]
    assert seen(bench) == [(7, 9, "expired"), (10, 10, "")]
    skip(bench, 11, 12)
    ack(bench, 12)
    assert opened(bench) == []


def test_a_large_page_is_whole(bench):
    draw = random.Random(5)
    bodies = [draw.randbytes(draw.randrange(400)) for _ in range(300)]
    for seq, body in enumerate(bodies, 1):
        bench.engines.mailbox.store(BOB, Row(seq, seq, body, binary=True), 1, lambda _: None)
    bench.settle()
    assert [row.body for row in read(bench, limit=1000)] == bodies
    assert bench.engines.mailbox.totals() == (300, sum(map(len, bodies)))


# --- quotas ----------------------------------------------------------------------------------------


def test_history_1_a_full_mailbox_refuses_the_newest_and_remembers_it_as_lost(bench):
    bench.begin(MailboxLimits(messages=3))
    fill(bench, 3)
    assert store(bench, 4) == StoreResult(FULL, Standing(4, 0))
    assert store(bench, 5).verdict is FULL and store(bench, 4).verdict is KEPT
    lost = [(1, 1, ""), (2, 2, ""), (3, 3, ""), (4, 5, "mailbox_full")]
    assert seen(bench) == lost
    ack(bench, 1)
    assert store(bench, 6).verdict is KEPT
    assert seen(bench) == [*lost[1:], (6, 6, "")]
    assert store(bench, 7).verdict is FULL


@pytest.mark.parametrize(
    ("limits", "stored"),
    [
        (MailboxLimits(messages=4), [4, 0, 4, 4]),
        (MailboxLimits(size=8), [4, 0, 4, 4]),
        (MailboxLimits(pair_messages=3), [3, 3, 3, 3]),
        (MailboxLimits(pair_size=6), [3, 3, 3, 3]),
        (MailboxLimits(sender_messages=5), [5, 5, 0, 0]),
        (MailboxLimits(sender_size=10), [5, 5, 0, 0]),
    ],
    ids=["messages", "size", "pair_messages", "pair_size", "sender_messages", "sender_size"],
)
def test_history_23_quotas_bound_mailboxes_pairs_and_senders(bench, limits, stored):
    """5 messages of 2 bytes, over two lanes, from two senders to one receiver and to two others."""
    bench.begin(limits)
    taken = []
    for receiver, sender in (("bob", "alice"), ("bob", "carol"), ("dave", "alice"), ("erin", "alice")):
        count = 0
        for seq in range(1, 6):
            lane, number = ("bulk", seq // 2) if seq % 2 == 0 else ("messages", seq // 2 + 1)
            stream = Stream(receiver, sender, lane, 1)
            count += store(bench, number, body=b"xy", stream=stream).verdict is KEPT
        taken.append(count)
    assert taken == stored
    assert bench.engines.mailbox.totals() == (sum(stored), 2 * sum(stored))


def test_one_message_less_makes_room_for_one(bench):
    bench.begin(MailboxLimits(sender_size=10))
    store(bench, 1, body=b"123456")
    assert store(bench, 2, body=b"12345").verdict is FULL
    assert store(bench, 3, body=b"1234").verdict is KEPT
    other = BOB._replace(receiver="dave")
    assert store(bench, 1, stream=other).verdict is FULL
    ack(bench, 1)
    assert store(bench, 2, stream=other, body=b"123456").verdict is KEPT
    assert store(bench, 3, stream=other).verdict is FULL


def test_skips_cost_no_quota_and_cannot_grow_without_bound(bench, monkeypatch):
    monkeypatch.setattr(box, "MAX_LOSSES", 10)
    bench.begin(MailboxLimits(messages=1))
    store(bench, 1)
    for seq in range(2, 42):
        assert skip(bench, seq, seq, f"{seq % 2}") is KEPT
    rows = seen(bench)
    assert rows[:3] == [(1, 1, ""), (2, 2, "0"), (3, 3, "1")] and rows[-1][1] == 41
    assert len(rows) == 11
    assert bench.engines.mailbox.totals() == (1, 1)


def test_where_anybody_may_have_a_mailbox_their_number_is_bounded(bench):
    bench.begin(MailboxLimits(mailboxes=2))
    names = [BOB._replace(receiver=name) for name in ("bob", "carol", "dave")]
    assert [store(bench, 1, stream=stream).verdict for stream in names] == [KEPT, KEPT, NOBODY]
    assert standing(bench, names[2]) == Standing()
    assert skip(bench, 1, 1, stream=names[2]) is NOBODY
    assert store(bench, 2, stream=names[0]).verdict is KEPT
    ack(bench, 1, client="carol", stream=names[1])
    assert store(bench, 1, stream=names[2]).verdict is KEPT
    assert store(bench, 2, stream=names[1]) == StoreResult(NOBODY, Standing(1, 1))


def test_history_23_where_only_known_clients_have_a_mailbox_others_have_none(bench):
    bench.begin(MailboxLimits(known_only=True, mailboxes=1))
    assert store(bench, 1) == StoreResult(NOBODY)
    assert read(bench) == [] and standing(bench) == Standing()
    register(bench, "bob", "carol", user="bob")
    assert store(bench, 1).verdict is KEPT
    assert store(bench, 1, stream=BOB._replace(receiver="carol")).verdict is KEPT


# --- users -----------------------------------------------------------------------------------------

USER = Stream("@bob", "alice", "messages", 1)


def test_a_user_without_clients_has_no_mailbox(bench):
    assert store(bench, 1, stream=USER).verdict is NOBODY
    register(bench, "phone", user="bob")
    assert store(bench, 1, stream=USER).verdict is KEPT


def test_every_client_of_a_user_gets_every_message_and_the_first_one_settles_it(bench):
    register(bench, "phone", "laptop", user="bob")
    fill(bench, 4, USER)
    ack(bench, 3, "phone", USER, lost=[(2, 2, "poison")])
    assert standing(bench, USER) == Standing(4, 3, (LostRange(2, 2, "poison"),), 50)
    ack(bench, 1, "laptop", USER, lost=[(1, 1, "refused")])
    assert standing(bench, USER) == Standing(4, 3, (LostRange(2, 2, "poison"),), 50)
    lost = standing(bench, USER).lost
    assert opened(bench, "phone", "bob") == [Box(USER, 4, 4, lost)]
    assert opened(bench, "laptop", "bob") == [Box(USER, 2, 4, lost)]
    assert [row.seq for row in read(bench, client="phone", stream=USER)] == [4]
    assert [row.seq for row in read(bench, client="laptop", stream=USER)] == [2, 3, 4]
    assert bench.engines.mailbox.totals() == (3, 3)
    ack(bench, 4, "laptop", USER)
    assert bench.engines.mailbox.totals() == (1, 1)
    ack(bench, 4, "phone", USER)
    assert bench.engines.mailbox.totals() == (0, 0)


def test_a_client_that_registers_later_gets_what_is_newer(bench):
    register(bench, "phone", user="bob")
    fill(bench, 2, USER)
    register(bench, "laptop", user="bob")
    assert read(bench, client="laptop", stream=USER) == []
    assert opened(bench, "laptop", "bob") == []
    store(bench, 3, stream=USER)
    assert opened(bench, "laptop", "bob") == [Box(USER, 3, 3)]
    assert opened(bench, "phone", "bob") == [Box(USER, 1, 3)]
    ack(bench, 3, "phone", USER)
    assert bench.engines.mailbox.totals() == (1, 1)


def test_a_client_that_came_late_has_not_finished_with_what_was_there_before(bench):
    register(bench, "phone", user="bob")
    fill(bench, 3, USER)
    register(bench, "laptop", user="bob")
    opened(bench, "laptop", "bob")
    fill(bench, 5, USER)
    ack(bench, 5, "laptop", USER)
    assert standing(bench, USER) == Standing(5, 0)
    ack(bench, 2, "phone", USER)
    assert standing(bench, USER) == Standing(5, 2)
    ack(bench, 3, "phone", USER)
    assert standing(bench, USER) == Standing(5, 5)
    assert opened(bench, "phone", "bob") == [Box(USER, 4, 5)]


def test_a_client_that_acknowledges_what_it_got_live_goes_on_from_there(bench):
    register(bench, "phone", user="bob")
    fill(bench, 5, USER)
    register(bench, "laptop", user="bob")
    ack(bench, 3, "laptop", USER)
    assert standing(bench, USER) == Standing(5, 3)
    assert opened(bench, "laptop", "bob") == [Box(USER, 4, 5)]


def test_a_sender_whose_number_the_first_client_settled_takes_it_from_no_other(bench):
    register(bench, "phone", "laptop", user="bob")
    fill(bench, 3, USER)
    ack(bench, 3, "phone", USER)
    assert store(bench, 4, base=4, stream=USER) == StoreResult(KEPT, Standing(4, 3))
    assert [row.seq for row in read(bench, client="laptop", stream=USER)] == [1, 2, 3, 4]


def test_an_acknowledgement_for_a_user_can_be_the_first_thing_heard_of_a_stream(bench):
    register(bench, "phone", "laptop", user="bob")
    ack(bench, 5, "phone", USER)
    assert standing(bench, USER) == Standing(5, 5)
    assert store(bench, 6, base=6, stream=USER).verdict is KEPT
    assert opened(bench, "phone", "bob") == opened(bench, "laptop", "bob") == [Box(USER, 6, 6)]


def test_a_client_is_shown_its_own_mailbox_and_its_users(bench):
    register(bench, "phone", user="bob")
    fill(bench, 1, USER)
    fill(bench, 2, BOB._replace(receiver="phone"))
    own = Box(BOB._replace(receiver="phone"), 1, 2)
    assert sorted(opened(bench, "phone", "bob")) == [Box(USER, 1, 1), own]
    assert opened(bench, "phone") == [own]
    assert opened(bench, "stranger", "carol") == []


# --- expiry, collapse, poison -----------------------------------------------------------------------


def test_history_1_what_expires_is_lost_in_its_place(bench):
    soon = bench.clock.wall_ms() + 5000
    store(bench, 1)
    for seq in (2, 3):
        store(bench, seq, expires=soon)
    store(bench, 4)
    bench.clock.seconds += 4.999
    assert [row.reason for row in read(bench)] == ["", "", "", ""]
    bench.clock.seconds += 0.001
    assert seen(bench) == [(1, 1, ""), (2, 3, "expired"), (4, 4, "")]
    assert [row.body for row in read(bench)] == [b"x", b"", b"x"]
    assert standing(bench) == Standing(4, 0)


def test_what_has_expired_frees_its_quota_and_is_still_lost(bench):
    bench.begin(MailboxLimits(sender_messages=3, retention=60))
    fill(bench, 3)
    pass_time(bench, 61)
    assert bench.engines.mailbox.totals() == (0, 0)
    assert seen(bench) == [(1, 3, "expired")]
    assert [store(bench, seq, stream=BOB._replace(receiver="dave")).verdict for seq in (1, 2, 3)] == [
        KEPT
    ] * 3


def test_a_full_stream_looks_at_what_has_expired_first(bench):
    bench.begin(MailboxLimits(messages=3, retention=60))
    fill(bench, 3)
    bench.clock.seconds += 60
    assert store(bench, 4).verdict is KEPT
    assert seen(bench) == [(1, 3, "expired"), (4, 4, "")]


def test_retention_ends_what_its_sender_wanted_to_keep_for_longer(bench):
    bench.begin(MailboxLimits(retention=60))
    store(bench, 1, expires=bench.clock.wall_ms() + 1_000_000)
    store(bench, 2)
    bench.clock.seconds += 60
    assert seen(bench) == [(1, 2, "expired")]


def test_what_comes_expired_takes_its_place_as_lost(bench):
    assert store(bench, 1, expires=5).verdict is KEPT
    assert seen(bench) == [(1, 1, "expired")]
    assert bench.engines.mailbox.totals() == (0, 0)


def test_messages_that_expire_one_after_the_other_become_one_loss(bench):
    bench.begin(MailboxLimits(retention=10))
    for seq in range(1, 41):
        store(bench, seq)
        bench.clock.seconds += 1
    pass_time(bench, 20)
    assert seen(bench) == [(1, 40, "expired")] and len(read(bench, limit=2)) == 1
    store(bench, 41)
    assert seen(bench) == [(1, 40, "expired"), (41, 41, "")]


def test_many_that_expire_are_looked_at_in_parts(bench, monkeypatch):
    monkeypatch.setattr(mailroom, "SWEEP_ROWS", 10)
    bench.begin(MailboxLimits(retention=100))
    for seq in range(1, 36):
        store(bench, seq, expires=bench.clock.wall_ms() + (50_000 if seq % 20 else 200_000))
    pass_time(bench, 50)
    assert bench.engines.mailbox.totals() == (1, 1)
    assert seen(bench) == [(1, 19, "expired"), (20, 20, ""), (21, 35, "expired")]
    pass_time(bench, 50)
    assert bench.engines.mailbox.totals() == (0, 0)
    assert seen(bench) == [(1, 35, "expired")]


def test_a_newer_message_replaces_an_older_with_its_key(bench):
    store(bench, 1, collapse="place")
    store(bench, 2)
    store(bench, 3, collapse="place")
    store(bench, 4, collapse="mood")
    assert seen(bench) == [(1, 1, "replaced"), (2, 2, ""), (3, 3, ""), (4, 4, "")]
    store(bench, 5, collapse="place")
    assert seen(bench) == [(1, 1, "replaced"), (2, 2, ""), (3, 3, "replaced"), (4, 4, ""), (5, 5, "")]
    assert bench.engines.mailbox.totals() == (3, 3)


def test_what_had_expired_before_it_was_replaced_is_expired(bench):
    """It is not swept yet; but its sender was told a time, and that was over first."""
    store(bench, 1, collapse="place", expires=bench.clock.wall_ms() + 1000)
    bench.clock.seconds += 2
    store(bench, 2, collapse="place")
    assert seen(bench) == [(1, 1, "expired"), (2, 2, "")]


def test_a_key_replaces_across_runs_but_not_lanes_senders_or_receivers(bench):
    others = [BOB._replace(lane="bulk"), BOB._replace(sender="carol"), BOB._replace(receiver="dave")]
    for stream in (BOB, *others):
        store(bench, 1, stream=stream, collapse="place")
    store(bench, 1, stream=BOB._replace(run=2), collapse="place")
    assert seen(bench) == [(1, 1, "replaced")]
    for stream in others:
        assert seen(bench, stream=stream, client=stream.receiver) == [(1, 1, "")]


def test_what_is_replaced_makes_room_for_what_replaces_it(bench):
    bench.begin(MailboxLimits(pair_messages=1, pair_size=4))
    store(bench, 1, collapse="place", body=b"1234")
    assert store(bench, 2, collapse="place", body=b"1234").verdict is KEPT
    assert seen(bench) == [(1, 1, "replaced"), (2, 2, "")]
    assert store(bench, 3, collapse="place", body=b"12345").verdict is FULL
    assert seen(bench) == [(1, 1, "replaced"), (2, 2, ""), (3, 3, "mailbox_full")]


def test_a_message_replaced_again_and_again_leaves_one_loss(bench):
    for seq in range(1, 31):
        store(bench, seq, collapse="place")
    assert len(read(bench, limit=2)) == 2
    assert seen(bench) == [(1, 29, "replaced"), (30, 30, "")]
    ack(bench, 30)
    store(bench, 31, collapse="place")
    assert seen(bench) == [(31, 31, "")]


def start_and_crash(bench, times: int, apart: float = 61, **who: Any) -> None:
    for _ in range(times):
        bench.clock.seconds += apart
        opened(bench, run=bench.clock.wall_ms(), **who)


def test_history_12_a_row_that_no_process_finishes_is_poison(bench):
    bench.begin(MailboxLimits(poison_after=3))
    fill(bench, 3)
    start_and_crash(bench, 3)
    assert seen(bench)[0] == (1, 1, "")
    start_and_crash(bench, 1)
    assert seen(bench) == [(1, 1, "poison"), (2, 2, ""), (3, 3, "")]
    assert bench.engines.mailbox.totals() == (2, 2)
    start_and_crash(bench, 2)
    assert seen(bench)[1] == (2, 2, "")
    start_and_crash(bench, 1)
    assert seen(bench) == [(1, 2, "poison"), (3, 3, "")]


def test_processes_that_begin_shortly_one_after_the_other_count_as_one(bench):
    bench.begin(MailboxLimits(poison_after=3))
    fill(bench, 1)
    start_and_crash(bench, 100, apart=1)
    assert seen(bench) == [(1, 1, "")]


def test_a_process_that_comes_back_counts_once(bench):
    bench.begin(MailboxLimits(poison_after=3))
    fill(bench, 1)
    for _ in range(10):
        bench.clock.seconds += 100
        opened(bench, run=7)
    assert seen(bench) == [(1, 1, "")]


def test_progress_starts_the_count_anew(bench):
    bench.begin(MailboxLimits(poison_after=3))
    fill(bench, 9)
    for seq in range(1, 6):
        start_and_crash(bench, 3)
        ack(bench, seq)
    assert [reason for _, _, reason in seen(bench)] == [""] * 4


def test_poison_behind_a_loss_is_found(bench):
    bench.begin(MailboxLimits(poison_after=2))
    skip(bench, 1, 5)
    store(bench, 6)
    start_and_crash(bench, 3)
    assert seen(bench) == [(1, 5, "expired"), (6, 6, "poison")]


def test_without_a_limit_nothing_is_poison(bench):
    bench.begin(MailboxLimits(poison_after=0))
    fill(bench, 1)
    start_and_crash(bench, 50)
    assert seen(bench) == [(1, 1, "")]


def test_the_clients_of_a_user_count_for_themselves(bench):
    bench.begin(MailboxLimits(poison_after=3))
    register(bench, "phone", "laptop", user="bob")
    fill(bench, 1, USER)
    for client in ("phone", "laptop"):
        start_and_crash(bench, 3, client=client, user="bob")
        assert seen(bench, client=client, stream=USER) == [(1, 1, "")]
    start_and_crash(bench, 1, client="phone", user="bob")
    assert seen(bench, client="laptop", stream=USER) == [(1, 1, "poison")]


# --- forgetting ----------------------------------------------------------------------------------------


def test_a_finished_older_run_is_forgotten_once_there_is_a_newer_one(bench):
    newer = BOB._replace(run=2)
    fill(bench, 2)
    ack(bench, 2)
    pass_time(bench, 1000)
    assert standing(bench) == Standing(2, 2)
    fill(bench, 1, newer)
    pass_time(bench, 1000)
    assert standing(bench) == Standing()
    assert standing(bench, newer) == Standing(1, 0)


def test_an_older_run_that_has_rows_is_not_forgotten(bench):
    fill(bench, 2)
    fill(bench, 1, BOB._replace(run=2))
    pass_time(bench, 1000)
    assert len(read(bench)) == 2


def test_what_nobody_uses_is_forgotten_with_what_it_holds(bench):
    bench.begin(MailboxLimits(forget_after=5000, retention=1_000_000))
    fill(bench, 2)
    skip(bench, 3, 3)
    fill(bench, 2, BOB._replace(sender="carol"))
    ack(bench, 2, stream=BOB._replace(sender="carol"))
    pass_time(bench, 3000)
    fill(bench, 1, BOB._replace(sender="dave"))
    pass_time(bench, 2001)
    assert standing(bench) == standing(bench, BOB._replace(sender="carol")) == Standing()
    assert [box.stream.sender for box in opened(bench)] == ["dave"]
    assert bench.engines.mailbox.totals() == (1, 1)


def test_forgetting_much_takes_many_steps(bench, monkeypatch):
    monkeypatch.setattr(mailroom, "SWEEP_ROWS", 10)
    bench.begin(MailboxLimits(forget_after=5000, retention=1_000_000))
    for number in range(6):
        fill(bench, 5, BOB._replace(receiver=f"bob{number}"))
    swept: list[int] = []
    sweep = mailroom.Mailroom.sweep

    def look(room: mailroom.Mailroom, now: int) -> bool:
        before = room._shelf.total.messages
        whole = sweep(room, now)
        swept.append(before - room._shelf.total.messages)
        return whole

    monkeypatch.setattr(mailroom.Mailroom, "sweep", look)
    pass_time(bench, 5001)
    assert bench.engines.mailbox.totals() == (0, 0)
    assert max(swept) == 10 and sum(swept) == 30


# --- lives ---------------------------------------------------------------------------------------------


def outlives(bench, limits: MailboxLimits) -> bool:
    """Begin anew; return whether that finds what there was. In memory there must be nothing."""
    bench.begin(limits)
    if not bench.engines.durable:
        assert bench.engines.mailbox.totals() == (0, 0) and opened(bench) == []
    return bool(bench.engines.durable)


def test_everything_outlives_the_process(bench):
    register(bench, "phone", "laptop", user="bob")
    fill(bench, 5)
    fill(bench, 3, USER)
    skip(bench, 6, 7, "cancelled")
    ack(bench, 2, lost=[(2, 2, "expired")])
    bench.engines.mailbox.acknowledge(USER, "phone", 2, (), 60)
    before = read(bench, after=2)
    if not outlives(bench, MailboxLimits(messages=6)):
        return
    assert bench.engines.mailbox.totals() == (6, 6)
    assert standing(bench) == Standing(7, 2, (LostRange(2, 2, "expired"),), 50)
    assert standing(bench, USER) == Standing(3, 2)
    assert read(bench) == before
    assert opened(bench, "phone", "bob") == [Box(USER, 3, 3)]
    assert skip(bench, 8, 8, "cancelled") is KEPT
    assert seen(bench)[-1] == (6, 8, "cancelled")
    assert [store(bench, seq).verdict for seq in range(9, 13)] == [KEPT, KEPT, KEPT, FULL]


def test_quotas_of_senders_and_the_number_of_mailboxes_outlive_the_process(bench):
    fill(bench, 3)
    fill(bench, 2, BOB._replace(receiver="dave"))
    if not outlives(bench, MailboxLimits(sender_messages=6, mailboxes=2)):
        return
    assert store(bench, 1, stream=BOB._replace(receiver="erin")).verdict is NOBODY
    assert [store(bench, seq).verdict for seq in (4, 5)] == [KEPT, FULL]


def test_poison_is_found_by_processes_of_different_servers(bench):
    fill(bench, 1)
    for _ in range(4):
        if not outlives(bench, MailboxLimits(poison_after=3)):
            return
        start_and_crash(bench, 1)
    assert seen(bench) == [(1, 1, "poison")]


def test_what_was_forgotten_is_not_counted_by_the_next_process(bench):
    limits = MailboxLimits(forget_after=5000, retention=1_000_000, mailboxes=1)
    bench.begin(limits)
    fill(bench, 2)
    pass_time(bench, 5001)
    assert bench.engines.mailbox.totals() == (0, 0)
    outlives(bench, limits)
    assert bench.engines.mailbox.totals() == (0, 0)
    assert store(bench, 1, stream=BOB._replace(receiver="dave")).verdict is KEPT


# --- listings --------------------------------------------------------------------------------


def listing(bench, after: str = "", limit: int = 100) -> list[Holding]:
    return list(bench.ask(bench.engines.mailbox.listing, after, limit))


def deepest(bench, limit: int = 100) -> list[Holding]:
    return list(bench.ask(bench.engines.mailbox.deepest, limit))


def holdings(bench, *receivers: str) -> dict[str, Holding]:
    found = bench.ask(bench.engines.mailbox.holdings, receivers)
    return {holding.receiver: holding for holding in found}


def to(receiver: str, sender: str = "alice", run: int = 1) -> Stream:
    return Stream(receiver, sender, "messages", run)


def test_nobody_holds_anything_at_first(bench):
    assert listing(bench) == [] and deepest(bench) == [] and holdings(bench, "bob") == {}
    assert bench.engines.mailbox.receivers() == 0


def test_mailboxes_are_listed_by_name_page_by_page(bench):
    names = ["zoe", "bob", "über", "Bob", "b/ob", "é", "日本", "bo b"]
    for name in names:
        store(bench, 1, stream=to(name))
    assert [each.receiver for each in listing(bench)] == sorted(names)
    assert [each.receiver for each in listing(bench, "Bob", 3)] == ["b/ob", "bo b", "bob"]
    assert [each.receiver for each in listing(bench, "zz")] == ["é", "über", "日本"]
    assert listing(bench, "日本") == []
    assert bench.engines.mailbox.receivers() == len(names)


def test_the_deepest_mailboxes_come_first_and_equals_by_name(bench):
    for name, count in (("bob", 2), ("carol", 3), ("anna", 2), ("dave", 1)):
        fill(bench, count, to(name))
    assert [(each.receiver, each.messages) for each in deepest(bench)] == [
        ("carol", 3), ("anna", 2), ("bob", 2), ("dave", 1),
    ]  # fmt: skip
    assert [each.receiver for each in deepest(bench, 2)] == ["carol", "anna"]
    fill(bench, 5, to("dave", "eve"))
    assert [each.receiver for each in deepest(bench, 2)] == ["dave", "carol"]
    ack(bench, 5, "dave", to("dave", "eve"))
    assert [each.receiver for each in deepest(bench, 2)] == ["carol", "anna"]


def test_a_holding_counts_messages_bytes_and_senders(bench):
    store(bench, 1, body=b"abc")
    store(bench, 2, body=b"d")
    skip(bench, 3, 9)  # a loss is no message
    store(bench, 1, body=b"ef", stream=to("bob", run=2))
    store(bench, 1, body=b"gh", stream=to("bob", "eve"))
    skip(bench, 1, 5, stream=to("bob", "carol"))
    assert listing(bench)[0][:4] == ("bob", 4, 8, 2)
    ack(bench, 1)
    assert listing(bench)[0][:4] == ("bob", 3, 5, 2)
    ack(bench, 9)
    ack(bench, 1, stream=to("bob", "eve"))
    assert listing(bench)[0][:4] == ("bob", 1, 2, 1)
    ack(bench, 1, stream=to("bob", run=2))
    assert listing(bench) == [] and deepest(bench) == []
    assert bench.engines.mailbox.receivers() == 1  # carol's loss is there


def test_the_oldest_is_the_time_of_the_oldest_message_that_waits(bench):
    skip(bench, 1, 1)
    first = bench.clock.wall_ms()
    store(bench, 2)
    bench.clock.seconds += 10
    second = bench.clock.wall_ms()
    store(bench, 3)
    store(bench, 1, stream=to("bob", "eve"))
    assert listing(bench)[0].oldest == first
    ack(bench, 2)
    assert listing(bench)[0].oldest == second
    bench.begin(MailboxLimits())
    if bench.engines.durable:
        assert listing(bench)[0].oldest == second
        assert listing(bench)[0][:4] == ("bob", 2, 2, 2)


def test_holdings_of_some_receivers_leave_out_those_without_messages(bench):
    register(bench, "phone", "laptop", user="bob")
    store(bench, 1, stream=to("@bob"))
    store(bench, 1, stream=to("bob", "eve"))
    skip(bench, 1, 2, stream=to("carol"))
    found = holdings(bench, "@bob", "carol", "nobody", "bob")
    assert sorted(found) == ["@bob", "bob"]
    assert found["@bob"].messages == 1 and found["@bob"].senders == 1


def test_what_expires_is_forgotten_or_replaced_is_not_listed(bench):
    now = bench.clock.wall_ms()
    store(bench, 1, expires=now + 1000)
    store(bench, 2, collapse="where")
    store(bench, 3, collapse="where")
    assert listing(bench)[0].messages == 2
    pass_time(bench, 60)
    assert listing(bench)[0].messages == 1
    bench.begin(MailboxLimits(forget_after=1000))
    if not bench.engines.durable:
        return
    assert listing(bench)[0].messages == 1
    pass_time(bench, 2000)
    assert listing(bench) == [] and bench.engines.mailbox.receivers() == 0


def test_a_forgotten_mailbox_takes_no_place_in_a_listing(bench):
    bench.begin(MailboxLimits(forget_after=1000))
    store(bench, 1, stream=to("a"))
    assert [each.receiver for each in listing(bench)] == [each.receiver for each in deepest(bench)] == ["a"]
    pass_time(bench, 2000)
    store(bench, 1, stream=to("b"))
    assert [each.receiver for each in listing(bench, limit=1)] == ["b"]
    assert [each.receiver for each in deepest(bench, limit=1)] == ["b"]


def test_listings_agree_with_the_mailboxes_whatever_happens(bench):
    choose = random.Random(7)
    names = [f"c{number}" for number in range(12)]
    tops: dict[Stream, int] = {}
    done: dict[Stream, int] = {}
    for _ in range(400):
        stream = to(choose.choice(names), choose.choice(["alice", "eve", "mallory"]), 1)
        top = tops.get(stream, 0)
        if choose.random() < 0.6:
            store(bench, top + 1, stream=stream)
            tops[stream] = top + 1
        elif top:
            done[stream] = choose.randint(done.get(stream, 0), top)
            ack(bench, done[stream], stream.receiver, stream)
    left = {stream: tops[stream] - done.get(stream, 0) for stream in tops}
    expected = {}
    for name in names:
        mine = {stream.sender: count for stream, count in left.items() if stream.receiver == name and count}
        if mine:
            expected[name] = (name, sum(mine.values()), sum(mine.values()), len(mine))
    assert [each[:4] for each in listing(bench)] == [expected[name] for name in sorted(expected)]
    assert {each[:4] for each in deepest(bench)} == set(expected.values())
