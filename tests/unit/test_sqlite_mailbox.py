"""What is particular to mailboxes on disk: what is written, when, and what is not read."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from duolink.engines.base import Engines, Failure, Holding, Row, Stream, Verdict
from duolink.engines.sqlite import mailbox as module
from duolink.engines.sqlite import schema, shelf
from duolink.engines.sqlite.database import open_read_only
from duolink.engines.sqlite.engines import sqlite_engines
from duolink.engines.sqlite.inline import Inline
from duolink.engines.sqlite.invariants import check

BOB = Stream("bob", "alice", "messages", 1)


class Clock:
    def monotonic(self) -> float:
        return 1000.0

    def wall_ms(self) -> int:
        return 1_000_000


class World:
    """An engine whose batch is what was asked since `write`, and a look at its file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "test.db")
        self.works: deque[Callable[[], Callable[[], None]]] = deque()
        self.answers: list[Any] = []
        self.engines = self.begin()

    def begin(self) -> Engines:
        names = random.Random(1)
        return sqlite_engines(
            self.path, clock=Clock(), new_epoch=lambda: f"{names.random()}", runner=Inline(self)
        )

    def restart(self) -> None:
        self.engines.close()
        self.engines = self.begin()

    def submit(self, queue: str, work: Callable[[], Callable[[], None]]) -> None:
        self.works.append(work)

    def write(self) -> None:
        while self.works:
            self.works.popleft()()()

    def store(self, first: int, last: int, stream: Stream = BOB) -> None:
        for seq in range(first, last + 1):
            self.engines.mailbox.store(stream, Row(seq, seq, b"x"), 1, self.answers.append)

    def skip(self, seq: int, reason: str = "expired") -> None:
        self.engines.mailbox.store(BOB, Row(seq, seq, reason=reason), 1, self.answers.append)

    def acknowledge(self, seq: int, stream: Stream = BOB) -> None:
        self.engines.mailbox.acknowledge(stream, stream.receiver, seq, (), 5)

    def statements(self) -> list[str]:
        """Write, and return the statements that it took."""
        db = next(
            each
            for each in apsw.connections()
            if each.filename == self.path and not each.pragma("query_only")
        )
        seen: list[str] = []
        db.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: seen.append(event["sql"].split("(")[0]))
        self.write()
        db.trace_v2(0, None)
        return seen

    def query(self, text: str) -> list[tuple[Any, ...]]:
        db = apsw.Connection(self.path, apsw.SQLITE_OPEN_READONLY)
        try:
            return list(db.execute(text))
        finally:
            db.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.engines.close()


def test_a_row_that_comes_and_is_finished_with_in_one_batch_is_never_written(world):
    world.store(1, 50)
    world.acknowledge(50)
    world.engines.mailbox.standing(BOB, world.answers.append)
    assert not [text for text in world.statements() if " mail " in text]
    assert world.query("SELECT stored, settled, messages FROM standings") == [(50, 50, 0)]


def test_a_batch_takes_few_statements(world):
    streams = [BOB._replace(receiver=f"bob{number}") for number in range(64)]
    for stream in streams:
        world.store(1, 1, stream)
    world.write()
    for stream in streams:
        world.store(2, 3, stream)
    assert len(world.statements()) <= 7  # begin, rows, standings, mailboxes, totals, commit
    for stream in streams:
        world.acknowledge(2, stream)
    world.engines.mailbox.turn()
    assert len(world.statements()) <= 7
    assert world.query("SELECT count(*), min(seq), max(seq) FROM mail") == [(64, 3, 3)]


def test_acknowledgements_wait_for_company_or_for_the_next_turn(world):
    world.store(1, 3)
    world.write()
    world.acknowledge(1)
    world.write()
    assert world.query("SELECT settled FROM standings") == [(0,)]
    world.store(4, 4)
    world.write()
    assert world.query("SELECT settled FROM standings") == [(1,)]
    world.acknowledge(2)
    world.engines.mailbox.turn()
    world.write()
    assert world.query("SELECT settled FROM standings") == [(2,)]
    world.acknowledge(3)
    world.engines.close()
    assert world.query("SELECT settled FROM standings") == [(3,)]


def test_many_acknowledgements_do_not_wait(world, monkeypatch):
    monkeypatch.setattr(module, "MAX_HELD", 3)
    for seq in (1, 2, 3):
        world.acknowledge(seq)
    world.write()
    assert world.query("SELECT settled FROM standings") == [(3,)]


def test_history_29_a_failed_disk_answers_nothing_as_kept_and_loses_no_acknowledgement(world):
    world.store(1, 3)
    world.write()
    world.answers.clear()
    mailbox = world.engines.mailbox

    def fails(db: apsw.Connection) -> None:
        del mailbox.flush
        raise apsw.FullError("database or disk is full")

    mailbox.flush = fails
    world.store(4, 5)
    world.acknowledge(2)
    world.engines.mailbox.standing(BOB, world.answers.append)
    world.write()
    assert all(isinstance(answer, Failure) for answer in world.answers) and len(world.answers) == 3
    assert world.engines.mailbox.totals() == (3, 3)
    world.store(4, 4)
    world.write()
    assert world.answers[-1].verdict is Verdict.KEPT
    assert world.engines.mailbox.totals() == (2, 2)


def test_adjacent_losses_are_one_row_on_disk_across_restarts(world):
    for seq in range(1, 10):
        world.skip(seq)
        if seq % 3 == 0:
            world.write()
        if seq % 4 == 0:
            world.write()
            world.restart()
    world.write()
    assert world.query("SELECT seq, last FROM mail") == [(1, 9)]
    assert world.query("SELECT losses FROM standings") == [(1,)]


def test_a_loss_that_grows_on_disk_keeps_its_reason_when_another_follows_in_the_batch(world):
    """1 is on disk; 2 becomes one with it; when both are written, 3, for another reason, is the last one."""
    world.skip(1)
    world.write()
    world.skip(2)
    world.skip(3, "cancelled")
    world.write()
    assert world.query("SELECT seq, last, reason FROM mail") == [(1, 2, "expired"), (3, 3, "cancelled")]


def test_streams_that_leave_the_picture_are_found_again(world, monkeypatch):
    monkeypatch.setattr(shelf, "MAX_ACCOUNTS", 8)
    streams = [BOB._replace(receiver=f"bob{number}") for number in range(40)]
    for seq in (1, 2, 3):
        for stream in streams:
            world.store(seq, seq, stream)
            world.write()
    assert [answer.standing.stored for answer in world.answers] == [1] * 40 + [2] * 40 + [3] * 40
    assert world.engines.mailbox.totals() == (120, 120)
    assert len(world.engines.mailbox._shelf._accounts) <= 9


PARTS = ("_LAST", "_CURSORS", "_ACCOUNT", "_TABLES", "_PASSED", "_SUMS", "_META")
QUERIES = {
    name: text
    for name, text in (vars(shelf) | vars(module)).items()
    if isinstance(text, str) and "SELECT" in text and name.startswith("_") and name not in PARTS
}


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_no_statement_scans_all_streams_or_rows(world, name):
    db = apsw.Connection(world.path, apsw.SQLITE_OPEN_READONLY)
    text = QUERIES[name]
    count = next(n for n in range(9) if apsw_takes(db, text, n))
    plan = [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + text, (1,) * count)]
    db.close()
    assert plan and not [step for step in plan if step.startswith(("SCAN mail", "SCAN st", "SCAN cu"))], plan


def apsw_takes(db: apsw.Connection, text: str, count: int) -> bool:
    try:
        db.execute("EXPLAIN QUERY PLAN " + text, (1,) * count).fetchall()
    except apsw.BindingsError:
        return False
    return True


def test_opening_a_mailbox_reads_none_of_its_rows(world):
    """The root of its rows is damaged, and everything works but taking them."""
    world.store(1, 300)
    world.write()
    root = world.query("SELECT rootpage FROM sqlite_schema WHERE name = 'mail'")[0][0]
    world.engines.close()
    with open(world.path, "r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    world.engines = world.begin()
    assert world.engines.mailbox.totals() == (300, 300)
    world.answers.clear()
    world.engines.mailbox.read(BOB, "bob", 0, 10, 1000, world.answers.append)
    world.write()
    assert isinstance(world.answers[0], Failure)


# --- formats ---------------------------------------------------------------------------------


def test_a_file_of_format_1_keeps_its_messages_and_lists_them(tmp_path):
    with closing(apsw.Connection(str(tmp_path / "test.db"))) as db:
        schema.migrate(db, schema.MIGRATIONS[:1])
        db.execute("""
            INSERT INTO meta VALUES ('epoch', 'e'), ('epoch_since', 1), ('keys_since', 1),
                ('mail_messages', 3), ('mail_size', 6), ('mailboxes', 2);
            INSERT INTO streams VALUES (1, 'bob', 'alice', 'messages', 1), (2, 'bob', 'eve', 'messages', 1),
                (3, 'carol', 'alice', 'messages', 1);
            INSERT INTO standings VALUES (1, 3, 0, '', 0, 2, 4, 1, 2000000000, 1, 0, 0, 0, 0, 0),
                (2, 1, 1, '', 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0),
                (3, 1, 0, '', 0, 1, 2, 0, 2000000000, 1, 0, 0, 0, 0, 0);
            INSERT INTO mail VALUES (1, 1, 1, 'expired', 0, 0, NULL, x''),
                (1, 2, 2, '', 2000000000, 1, 'k', x'0102'), (1, 3, 3, '', 2000000000, 0, NULL, x'0304'),
                (3, 1, 1, '', 2000000000, 0, NULL, x'0506');
        """)
    world = World(tmp_path)
    found: list[Any] = []
    mailbox = world.engines.mailbox
    mailbox.listing("", 10, found.append)
    mailbox.read(BOB, "bob", 0, 10, 1000, found.append)
    world.write()
    assert found[0] == (Holding("bob", 2, 4, 1, 0), Holding("carol", 1, 2, 1, 0)), "times are not known"
    assert found[1] == (
        Row(1, 1, reason="expired"),
        Row(2, 2, b"\x01\x02", True, expires=2_000_000_000, collapse="k"),
        Row(3, 3, b"\x03\x04", expires=2_000_000_000),
    )
    mailbox.acknowledge(BOB, "bob", 3, (), 0)
    mailbox.store(BOB._replace(sender="eve"), Row(2, 2, b"x"), 1, found.append)
    mailbox.listing("", 10, found.append)
    world.write()
    assert found[-1] == (Holding("bob", 1, 1, 1, 1_000_000), Holding("carol", 1, 2, 1, 0))
    world.engines.close()
    with closing(open_read_only(world.path)) as db:
        assert not [fault for _, faults in check(db) for fault in faults]
