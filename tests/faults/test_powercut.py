"""The power is cut: at every write and sync of a story, and anywhere in many stories. What is left must be a
past that was told, and everything must go on from there.

`.venv/bin/pytest tests/faults/test_powercut.py -k "[17]"` plays the cuts of seed 17 again.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import apsw
import pytest

from duolink.engines.sqlite import inline, shelf, writer
from duolink.engines.sqlite.database import Database
from duolink.engines.sqlite.keys import Keys
from duolink.engines.sqlite.registry import Clients
from duolink.engines.sqlite.writer import Transactions

from .machine import DATABASE, RECEIVERS, Machine, Story, audit_image, drain
from .past import Past, Violation
from .powercut import Disk, Fault, Image

ROUNDS = int(os.environ.get("ROUNDS", "50"))
CUTS = 10
"""Cuts of one story."""


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints within a story that writes little."""
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 40)


def play(seed: int, begun: Callable[[Disk], None] = lambda disk: None) -> Machine:
    """Play a story to its end."""
    machine = Machine(Disk(), Past(), seed)
    begun(machine.disk)
    story = Story(machine, Random(seed))
    story.play()
    machine.played = Counter(story.played)
    return machine


class Moments:
    """The moments of what a machine has done, in order: what was told, and what a cut would leave."""

    def __init__(self, machine: Machine, before: Past) -> None:
        self.machine, self.past = machine, before
        self._platter = machine.disk.platter()
        self._played = self._noted = 0

    def go_to(self, changes: int) -> None:
        """Go on to before the change with that number."""
        history, notes = self.machine.disk.history, self.machine.notes
        while self._played < changes:
            self._platter.play(history[self._played])
            self._played += 1
        while self._noted < len(notes) and notes[self._noted].changes <= changes:
            self.past.note(notes[self._noted])
            self._noted += 1

    def cut(self, torn: Random | None = None) -> Image:
        return self._platter.cut(torn)


def survive(image: Image, past: Past, random: Random, tally: Counter[str], depth: int = 0) -> None:
    """Look at what a cut has left; then all come back, and everything goes on: to its end, or, now and then,
    to another cut."""
    audit_image(image, past)
    tally["cuts"] += 1
    restarted = frozenset(name for name in RECEIVERS if random.random() < 0.3)
    before = past.copy()
    machine = Machine(Disk(image), past, random.randrange(1000))
    drain(machine, restarted)
    machine.close()
    again = depth < 2 and random.random() < 0.3
    moments = Moments(machine, before)
    length = len(machine.disk.history)
    moments.go_to(random.randrange(length + 1) if again else length)
    left = moments.cut(random if random.random() < 0.5 else None)
    if again:
        tally["cuts after cuts"] += 1
        survive(left, moments.past, random, tally, depth + 1)
    else:
        audit_image(left, moments.past)


def cut_anywhere(
    seed: int, tally: Counter[str], begun: Callable[[Disk], None] = lambda disk: None
) -> Iterator[str]:
    """Play a story and cut it at random moments; yield what is wrong afterwards."""
    random = Random(-1 - seed)
    machine = play(seed, begun)
    machine.disk.forget()
    _count(machine, tally)
    history = machine.disk.history
    moments = Moments(machine, Past())
    for changes in sorted(random.sample(range(len(history) + 1), CUTS)):
        moments.go_to(changes)
        torn = random if random.random() < 0.6 else None
        tally["torn"] += torn is not None
        try:
            survive(moments.cut(torn), moments.past.copy(), random, tally)
        except Violation as violation:
            yield f"{violation} (cut {changes})"


def _count(machine: Machine, tally: Counter[str]) -> None:
    past = machine.past
    tally.update(machine.played)
    tally["checkpoints"] += any(each.what == "truncate" for each in machine.disk.history)
    tally["conflicts"] += "conflict" in past.refused.values()
    tally["repeated answers"] += any(past.answers[each] > 1 for each in past.answered)
    tally["replaced"] += any(
        lost.reason == "replaced" for _, outbox in past.outboxes() for lost in outbox.lost
    )
    tally["finished at once"] += any(outbox.settled > outbox.stored for _, outbox in past.outboxes())
    tally["deleted"] += any(getattr(asked, "deleted", False) for asked in past.asked.values())


# --- every cut -------------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(4))
def test_a_cut_at_every_write_and_every_sync_leaves_what_was_told_and_all_goes_on_from_there(
    part: int,
) -> None:
    """Each moment is looked at twice, forgotten and torn; from every second one all goes on."""
    random, tally = Random(part), Counter[str]()
    machine = play(5)
    machine.disk.forget()
    history = machine.disk.history
    moments = Moments(machine, Past())
    for changes in range(part, len(history) + 1, 4):
        moments.go_to(changes)
        audit_image(moments.cut(), moments.past)
        audit_image(moments.cut(random), moments.past)
        tally["looks"] += 2
        if changes // 4 % 2 or history[changes - 1].what == "sync":
            torn = random if random.random() < 0.7 else None
            survive(moments.cut(torn), moments.past.copy(), random, tally, depth=2)
    kinds = Counter(each.what for each in history)
    assert kinds["write"] > 300 and kinds["sync"] > 50 and kinds["create"] == 3 and kinds["truncate"]
    assert tally["looks"] > 200 and tally["cuts"] > 50


@pytest.mark.parametrize("seed", range(30))
def test_a_cut_anywhere_leaves_what_was_told_and_all_goes_on_from_there(seed: int) -> None:
    assert not list(cut_anywhere(seed, Counter()))


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(1000, 1000 + 20 * ROUNDS))
def test_many_more_cuts(seed: int) -> None:
    assert not list(cut_anywhere(seed, Counter()))


def test_the_stories_have_what_is_hard_in_them() -> None:
    tally: Counter[str] = Counter()
    for seed in range(40):
        machine = play(seed)
        machine.close()
        _count(machine, tally)
    missing = {name for name, number in tally.items() if not number}
    assert not missing, missing
    assert tally["finish"] > 100 and tally["come"] > 100 and tally["replaced"] > 10


# --- what was found --------------------------------------------------------------------------


def test_a_new_process_of_a_users_client_is_told_to_begin_behind_what_an_earlier_one_has_finished() -> None:
    # Both clients of the user have finished with 1 and 2, and their sender has not heard it. One of them
    # starts again. The sender comes back and sends 3: a client that was told to begin at 1 would miss 1 and 2
    # for ever, and at last take 3 for gone.
    machine = Machine(Disk(), Past())
    carols = [machine.enter(name) for name in RECEIVERS[1:]]
    alice = machine.enter("alice")
    outbox = alice.process.outbox("@carol")
    alice.send(outbox.message(1), outbox.message(2))
    alice.cut()
    machine.settle()
    for carol in carols:
        assert carol.acknowledge()
        carol.leave()
    machine.settle()
    carol = machine.enter("carol:1", run=0)
    alice = machine.enter("alice")
    assert outbox.settled == 0
    alice.send(outbox.message(3))
    machine.settle()
    (inbox,) = carol.process.inboxes.values()
    assert list(inbox.taken) == [3]
    machine.close()


# --- controls --------------------------------------------------------------------------------


def _not_synced_at_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = Database._connect

    def normal(self: Database, cache: int) -> apsw.Connection:
        db = connect(self, cache)
        db.pragma("synchronous", "normal")
        return db

    monkeypatch.setattr(Database, "_connect", normal)


def _answered_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is committed when the next one comes."""

    def write(self: Transactions, batch: Any) -> list[Any]:
        db = self._database.writer
        if db.in_transaction:
            db.execute("COMMIT")
        db.execute("BEGIN IMMEDIATE")
        answers = [request.part.apply(db, request.body) for request in batch]
        for part in {request.part: None for request in batch}:
            part.flush(db)
            part.committed()
        return answers

    monkeypatch.setattr(Transactions, "write", write)
    monkeypatch.setattr(Transactions, "checkpoint", lambda self: True)
    monkeypatch.setattr(inline, "look", lambda db, work: work(db))


def _cursors_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    standing = shelf._standing

    def forgetful(account: Any) -> tuple[Any, ...]:
        row = standing(account)
        return (*row[:10], 0, *row[11:])

    monkeypatch.setattr(shelf, "_standing", forgetful)


def _cursors_of_users_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    put, first = shelf._PUT_CURSORS.write, set[Any]()

    def write(db: apsw.Connection, rows: list[Any]) -> None:
        put(db, [row for row in rows if row[:2] not in first and not first.add(row[:2])])  # type: ignore[func-returns-value]

    monkeypatch.setattr(shelf, "_PUT_CURSORS", _Writes(write))


def _cursors_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    standing = shelf._standing

    def ahead(account: Any) -> tuple[Any, ...]:
        row = standing(account)
        return (*row[:10], min(row[10] + (row[10] > 0), row[1]), *row[11:])

    monkeypatch.setattr(shelf, "_standing", ahead)


def _keys_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Keys, "flush", lambda self, db: self._new.clear())


def _runs_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clients, "flush", lambda self, db: self._dirty.clear())


class _Writes:
    """Stands for `Rows`."""

    def __init__(self, write: Callable[[apsw.Connection, list[Any]], None]) -> None:
        self.write = write


def complaints(begun: Callable[[Disk], None] = lambda disk: None) -> Iterator[str]:
    for seed in range(5):
        yield from cut_anywhere(seed, Counter(), begun)


CONTROLS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "synchronous=NORMAL": (_not_synced_at_commits, "lost: .* was stored up to"),
    "an answer before the commit": (_answered_before_the_commit, "lost: .* was stored up to"),
    "cursors of clients not written": (_cursors_not_written, "lost: |a hole: "),
    "cursors of users not written": (_cursors_of_users_not_written, "lost: .*@carol|a hole: .*@carol"),
    "cursors written ahead": (_cursors_ahead, "ahead: bob"),
    "keys not written": (_keys_not_written, "and then Published"),
    "runs not written": (_runs_not_written, "forgotten: "),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_planted_defect_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, complaint = CONTROLS[name]
    plant(monkeypatch)
    assert any(re.search(complaint, found) for found in complaints())


def test_a_disk_that_ignores_syncs_is_found() -> None:
    def ignore(disk: Disk) -> None:
        disk.syncs = False

    assert any(re.search("forgotten: |lost: |damaged: ", found) for found in complaints(ignore))


# --- the disk itself -------------------------------------------------------------------------


def _files(disk: Disk, torn: Random | None = None) -> Iterator[Image]:
    platter = disk.platter()
    for change in disk.history:
        platter.play(change)
        yield platter.cut(torn)


def test_what_is_not_synced_is_forgotten_and_torn_some_sectors_survive() -> None:
    disk = Disk({"a": bytes(1024)})
    number = disk.open("a", create=False)
    disk.write("a", number, b"x" * 1024, 0)
    assert list(_files(disk)) == [{"a": bytes(1024)}]
    seen = {left["a"] for seed in range(200) for left in _files(disk, Random(seed))}
    zero, new = bytes(512), b"x" * 512
    assert seen == {zero + zero, zero + new, new + zero, new + new}
    disk.sync("a", number, directory=False)
    assert list(_files(disk))[-1] == {"a": b"x" * 1024}
    disk.forget()


def test_a_file_is_there_once_its_directory_is_synced_and_a_deleted_one_until_then() -> None:
    disk = Disk({"old": b"o"})
    number = disk.open("new", create=True)
    disk.sync("new", number, directory=False)
    disk.delete("old", directory=False)
    assert list(_files(disk))[-1] == {"old": b"o"}
    disk.sync("new", number, directory=True)
    assert list(_files(disk))[-1] == {"new": b""}
    disk.forget()


def test_a_sync_that_failed_has_lost_what_it_should_have_written() -> None:
    disk = Disk({DATABASE: b"old"})
    number = disk.open(DATABASE, create=False)
    disk.write(DATABASE, number, b"new", 0)
    disk.fault = Fault(len(disk.calls), apsw.IOError)
    with pytest.raises(apsw.IOError):
        disk.sync(DATABASE, number, directory=False)
    disk.sync(DATABASE, number, directory=False)
    assert bytes(disk.content(DATABASE, number)) == b"new"
    assert list(_files(disk))[-1] == {DATABASE: b"old"}
    disk.forget()
