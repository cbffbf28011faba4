"""The rules of one stream's account and its rows, without an engine."""

from math import inf
from typing import Any

import pytest

from duolink.engines import box
from duolink.engines.base import MailboxLimits, Row, Standing, Stream
from duolink.engines.box import Account, Cursor, Folded, Meta, Tally, fold, seen
from duolink.protocol.messages import LostRange

HOUR = 3_600_000


def make(stored: int = 0, *clients: str) -> Account:
    stream = Stream("@bob" if clients else "bob", "alice", "messages", 1)
    account = Account(1, stream, (Tally(), Tally(), Tally(), Tally()), stored, 0)
    account.cursors = {client: Cursor(stored, start=stored) for client in clients or ("bob",)}
    return account


def message(seq: int, size: int = 1, expires: int = HOUR) -> Row:
    return Row(seq, seq, b"x" * size, expires=expires)


def loss(seq: int, last: int, reason: str = "expired") -> Row:
    return Row(seq, last, reason=reason)


# --- appending, counting -----------------------------------------------------------------------


def test_rows_are_counted_for_everybody_they_concern():
    account = make()
    for row in (message(1, 5), message(2, 7), loss(3, 9)):
        account.append(row)
    tallies = (account.receiver, account.pair, account.sender, account.total)
    assert {(tally.messages, tally.size, tally.losses) for tally in tallies} == {(2, 12, 1)}
    assert (account.messages, account.size, account.losses, account.top) == (2, 12, 1, 9)
    assert account.total.mailboxes == 1


def test_an_account_without_rows_has_nothing_that_is_due():
    account = make()
    account.append(message(1, expires=500))
    account.append(message(2, expires=400))
    assert account.due == 400
    account.count(-2, -2, 0)
    assert (account.due, account.top, account.rows, account.total.mailboxes) == (inf, 0, 0, 0)


def test_a_loss_behind_its_like_becomes_one_with_it():
    account = make()
    assert account.append(loss(1, 3)) == loss(1, 3)
    assert account.append(loss(4, 4)) == loss(1, 4)
    assert account.append(loss(5, 5, "refused")) == loss(5, 5, "refused")
    assert account.append(loss(6, 6)) == loss(6, 6)
    account.append(message(7))
    assert account.append(loss(8, 8)) == loss(8, 8)
    assert account.losses == 4


def test_losses_that_do_not_meet_stay_apart():
    account = make()
    account.append(loss(1, 3))
    account.stored = 7  # its sender said so
    assert account.append(loss(8, 8)) == loss(8, 8)


def test_too_many_losses_become_one_whatever_they_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(box, "MAX_LOSSES", 2)
    account = make()
    rows = [account.append(loss(seq, seq, f"{seq}")) for seq in (1, 2, 3, 4)]
    assert rows[2:] == [loss(2, 3, "2"), loss(2, 4, "2")] and account.losses == 2


def test_each_quota_binds_at_its_number():
    account = make()
    account.append(message(1, 4))

    def at(name: str, value: Any) -> MailboxLimits:
        return MailboxLimits()._replace(**{name: value})

    assert account.fits(MailboxLimits(), 4)
    for name in ("messages", "pair_messages", "sender_messages"):
        assert not account.fits(at(name, 1), 4)
        assert account.fits(at(name, 1), 4, freed=1)
        assert account.fits(at(name, 2), 4)
    for name in ("size", "pair_size", "sender_size"):
        assert not account.fits(at(name, 7), 4)
        assert account.fits(at(name, 7), 4, freed=1, freed_size=1)
        assert account.fits(at(name, 8), 4)


# --- cursors -------------------------------------------------------------------------------------


def test_a_cursor_moves_forward_only():
    account = make()
    assert account.finish("bob", 5, (), 9) and not account.finish("bob", 5, (), 9)
    assert not account.finish("bob", 4, (), 9)
    assert account.standing == Standing(5, 5) and account.floor == 5


def test_nobody_finishes_for_a_client():
    account = make()
    assert not account.finish("carol", 5, (), 9) and account.standing == Standing()


def test_what_is_below_base_is_settled_for_a_client_and_forgotten():
    account = make(4)
    account.finish("bob", 7, (LostRange(5, 6, "refused"),), 9)
    assert not account.rebase(6) and len(account.lost) == 1
    assert not account.rebase(7) and not account.lost
    assert account.rebase(20) and account.standing == Standing(19, 19, (), 9)


def test_what_is_below_base_moves_no_client_of_a_user():
    account = make(0, "phone", "laptop")
    assert not account.rebase(4)
    assert account.standing == Standing(3, 3) and account.floor == 0


def test_the_first_client_settles_and_the_last_one_lets_go():
    account = make(0, "phone", "laptop")
    account.finish("phone", 4, (), 9)
    account.finish("laptop", 2, (), 9)
    assert (account.settled, account.floor) == (4, 2)


def test_a_client_that_came_late_settles_only_from_where_it_came():
    account = make(0, "phone")
    account.stored = 5
    account.join("laptop")
    account.finish("laptop", 8, (), 9)
    assert account.settled == 0
    account.finish("phone", 5, (), 9)
    assert account.settled == 8


def test_losses_are_remembered_once_and_within_what_is_finished():
    account = make()
    account.finish("bob", 4, (LostRange(2, 9, "expired"),), 9)
    account.finish("bob", 6, (LostRange(2, 9, "expired"),), 9)
    assert account.lost == (LostRange(2, 4, "expired"), LostRange(5, 6, "expired")) and account.by == 9


def test_the_word_of_two_processes_is_nobodys():
    account = make()
    account.finish("bob", 2, (LostRange(2, 2, "expired"),), 9)
    account.finish("bob", 3, (), 10)
    assert account.by == 9
    account.finish("bob", 4, (LostRange(4, 4, "expired"),), 10)
    assert account.by == 0 and len(account.lost) == 2


def test_a_tail_that_became_a_loss_grows():
    account = make()
    for row in (loss(1, 1), message(2, 4)):
        account.append(row)
    account.folded(fold([Meta(1, 1, "expired", 0, 0), Meta(2, 2, "", 4, 9)], [2], "expired"))
    assert (account.messages, account.size, account.losses) == (0, 0, 1)
    assert account.append(loss(3, 3)) == loss(1, 3)


# --- poison --------------------------------------------------------------------------------------


def begin(cursor: Cursor, runs: int, first: int = 1, limit: int = 3, apart: int = 60_000) -> list[bool]:
    return [
        cursor.began(run, first, run * apart, limit) for run in range(cursor.run + 1, cursor.run + runs + 1)
    ]


def test_a_message_that_so_many_processes_did_not_finish_is_poison():
    assert begin(Cursor(0), 4) == [False, False, False, True]


def test_processes_count_if_they_began_a_minute_apart():
    assert not any(begin(Cursor(0), 100, apart=500))
    assert begin(Cursor(0), 7, apart=30_000) == [False] * 6 + [True]


def test_a_process_that_is_seen_again_or_an_older_one_does_not_count():
    cursor = Cursor(0)
    cursor.began(5, 1, 0, 1)
    assert not cursor.began(5, 1, HOUR, 1) and not cursor.began(4, 1, HOUR, 1)
    assert cursor.began(6, 1, HOUR, 1)


def test_another_first_message_and_progress_start_anew():
    cursor = Cursor(0)
    assert not any(begin(cursor, 3) + begin(cursor, 3, first=2))
    cursor.move(2)
    assert not any(begin(cursor, 3, first=2))
    assert begin(cursor, 1, first=2) == [True]


def test_without_a_message_or_a_limit_nothing_is_poison():
    assert not any(begin(Cursor(0), 20, first=0))
    assert not any(begin(Cursor(0), 20, limit=0))


# --- losing --------------------------------------------------------------------------------------


def rows_of(text: str) -> list[Meta]:
    """`.` a message of 10 bytes; a letter: a loss for that reason."""
    return [Meta(n, n, "" if c == "." else c, 10 * (c == "."), 0) for n, c in enumerate(text, 1)]


@pytest.mark.parametrize(
    ("before", "ending", "losses", "gone", "fewer"),
    [
        ("...", [2], ((2, 2, "x"),), (), -1),
        ("x..", [2], ((1, 2, "x"),), (2,), 0),
        ("..x", [2], ((2, 3, "x"),), (3,), 0),
        ("x.x", [2], ((1, 3, "x"),), (2, 3), 1),
        ("y.y", [2], ((2, 2, "x"),), (), -1),
        ("....", [1, 2, 4], ((1, 2, "x"), (4, 4, "x")), (2,), -2),
        (".y.", [], (), (), 0),
    ],
)
def test_what_ends_becomes_one_with_its_like(before, ending, losses, gone, fewer):
    count = len(ending)
    assert fold(rows_of(before), ending, "x") == Folded(losses, gone, count, 10 * count, fewer)


def test_tightly_all_neighbours_become_one():
    folded = fold(rows_of("y.z."), [2], "x", tight=True)
    assert folded == Folded(((1, 3, "y"),), (2, 3), 1, 10, 1)


def test_a_reader_sees_what_has_expired_as_lost_from_where_it_stands():
    rows = [loss(1, 5), message(6, expires=100), message(7, expires=101), loss(8, 9, "refused")]
    assert seen(rows, 2, 100) == (loss(3, 6), rows[2], rows[3])
    assert seen(rows, 2, 99) == (loss(3, 5), *rows[1:])
