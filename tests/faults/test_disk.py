"""A disk that fails at any call: nothing is acknowledged that is not there, everything is answered once, live
traffic goes on, and once the disk is well all that waited arrives, without anybody's help."""

import os
import re
from collections import Counter
from collections.abc import Callable
from random import Random

import apsw
import pytest

from duolink.engines.base import Failure
from duolink.engines.sqlite import writer
from duolink.engines.sqlite.database import DatabaseError
from duolink.engines.sqlite.inline import InlineWriter
from duolink.engines.sqlite.mailbox import SqliteMailbox
from duolink.server.mailbox import Mailboxes

from .machine import DATABASE, RECEIVERS, Machine, Story, audit_image, check_taken, drain
from .past import Past, Violation
from .powercut import Disk, Fault, Image

ROUNDS = int(os.environ.get("ROUNDS", "50"))
NUMBERS = 16
"""What alice sends in a story; short, for it is played once for each call that fails."""

STORY = 3
"""A seed whose short story has all kinds of calls."""


def eio(name: str) -> Exception:
    return apsw.IOError(f"{name} fails")


def enospc(name: str) -> Exception:
    return apsw.FullError(f"no room for {name}")


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints within a story that writes little."""
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 20)


class Flaky(Fault):
    """A disk of whose calls some fail, at random, from call `at` on."""

    def __init__(self, at: int, random: Random) -> None:
        super().__init__(at, eio)
        self.random = random

    def strikes(self, number: int, name: str) -> bool:
        if number < self.at or self.random.random() < 0.85:
            return False
        self.error = self.random.choice((eio, enospc))
        self.short = name.startswith("xWrite") and self.random.random() < 0.5
        self.hit = name
        return True


class Trial:
    """A story on a disk that fails, with dora and emil, who talk live."""

    def __init__(self, seed: int = STORY, numbers: int = NUMBERS) -> None:
        self.machine = Machine(Disk(), Past(), seed)
        self.story = Story(self.machine, Random(seed), numbers)
        self.emil = self.machine.enter("emil")
        self.dora = self.machine.enter("dora")
        self._talk()
        self.began = len(self.machine.disk.calls)
        self.problems: list[str] = []

    def play(self, fault: Fault, healed_after: int = 0) -> None:
        """Play the story while the disk fails as it is to; a fault that lasts is over `healed_after` steps
        after the engine has noticed it. Then let everything come to its end."""
        machine = self.machine
        machine.disk.fault = fault
        left = healed_after
        while self.story.left > 0:
            self.story.step()
            problem = machine.engines.problem()
            if problem:
                self._talk()
                if not self.problems:
                    self._cut(issued=False)
                self.problems.append(problem)
                left -= 1
            if left < 0:
                machine.disk.fault = None
        machine.settle()
        machine.disk.fault = None
        self._recover()

    def _talk(self) -> None:
        """What is sent live arrives at once, whatever the disk does."""
        outbox = self.dora.process.outbox("emil")
        seq = outbox.top + 1
        self.dora.send(outbox.message(seq))
        (inbox,) = self.emil.process.inboxes.values() if self.emil.process.inboxes else (None,)
        if inbox is None or seq not in inbox.taken:
            if self.began_talking:
                raise Violation(f"dora's {seq} has not come to emil")
            self.machine.settle()
            self.dora.pump()
            self.machine.settle()
        assert self.emil.acknowledge()
        assert outbox.settled == seq

    @property
    def began_talking(self) -> bool:
        return hasattr(self, "began")

    def _cut(self, issued: bool) -> None:
        """If the power went now, everything acknowledged would be there."""
        audit_image(left_of(self.machine.disk), self.machine.past, issued)

    def _recover(self) -> None:
        """The disk is well. Nobody does anything but what the server asks for."""
        machine, alice = self.machine, self.story.alice
        for _ in range(6):
            machine.advance(1.0)
            while alice.pump():
                machine.settle()
            alice.insist()
            machine.settle()
        if machine.engines.problem():
            raise Violation(f"it does not recover: {machine.engines.problem()}")
        for _, outbox in machine.past.outboxes():
            if max(outbox.stored, outbox.settled) < outbox.top:
                raise Violation(f"stuck: {outbox.name} is safe up to {outbox.stored} of {outbox.top}")
        machine.advance(31.0)
        if machine.asked.open:
            raise Violation(f"{machine.asked.open} requests have no answer")
        for command in machine.past.asked:
            if not machine.past.answers[command]:
                raise Violation(f"publish {command} has no answer")
        self._cut(issued=True)

    def end(self) -> None:
        """Cut the power; everybody comes back to another server on what is left, and has everything once."""
        machine = self.machine
        machine.close()
        again = Machine(Disk(left_of(machine.disk)), machine.past)
        drain(again)
        for sender, outbox in machine.past.outboxes():
            if sender == "alice":
                clients = RECEIVERS[1:] if outbox.name[0] == "@carol" else RECEIVERS[:1]
                for client_id in clients:
                    check_taken(machine.past, sender, outbox, client_id, outbox.top)
        again.close()


def _calls() -> list[str]:
    """The calls of a story without faults."""
    trial = Trial()
    trial.play(Fault(-1, eio))
    trial.end()
    return trial.machine.disk.calls[trial.began :]


def test_a_story_on_a_good_disk_has_every_kind_of_call() -> None:
    calls = Counter(_calls())
    assert calls["xWrite wal"] > 100 and calls["xSync wal"] > 20
    assert calls["xWrite db"] and calls["xSync db"] and calls["xRead wal"] + calls["xRead db"]


# --- one call fails --------------------------------------------------------------------------


CALLS: list[str] = []


def calls() -> list[str]:
    if not CALLS:
        CALLS.extend(_calls())
    return CALLS


def suffer(
    fault: Callable[[Trial], Fault], healed_after: int = 0, seed: int = STORY, numbers: int = NUMBERS
) -> Trial:
    """Play a story on a disk that fails, and what follows. Raises `Violation`."""
    trial = Trial(seed, numbers)
    trial.play(fault(trial), healed_after)
    trial.end()
    for problem in trial.problems:
        assert re.fullmatch(r"the (disk|database) [^\n]+", problem), problem
    return trial


@pytest.mark.parametrize("part", range(6))
def test_an_error_of_any_single_call_costs_nothing_that_was_acknowledged_and_ends_by_itself(
    part: int,
) -> None:
    noticed = 0
    for at in range(part, len(calls()), 6):
        noticed += bool(suffer(lambda trial, at=at: Fault(trial.began + at, eio)).problems)  # type: ignore[misc]
    assert noticed > len(calls()) / 6 / 2


@pytest.mark.parametrize("part", range(4))
def test_a_disk_that_is_full_at_any_write_costs_nothing_either(part: int) -> None:
    """Half of them with a write that is cut short."""
    writes = [at for at, name in enumerate(calls()) if name.startswith(("xWrite", "xSync", "xTruncate"))]
    for at in writes[part :: 4 * 2]:
        suffer(lambda trial, at=at: Fault(trial.began + at, enospc))  # type: ignore[misc]
    for at in [at for at in writes if calls()[at].startswith("xWrite")][part + 4 :: 4 * 2]:
        suffer(lambda trial, at=at: Fault(trial.began + at, enospc, short=True))  # type: ignore[misc]


@pytest.mark.parametrize("error", [eio, enospc])
def test_calls_that_fail_until_the_disk_is_mended_cost_nothing(error: Callable[[str], Exception]) -> None:
    turned_away = 0
    for at in range(0, len(calls()), 8):
        trial = suffer(lambda trial, at=at: Fault(trial.began + at, error, lasting=True), healed_after=3)  # type: ignore[misc]
        turned_away += sum(outbox.trouble for _, outbox in trial.machine.past.outboxes())
    assert turned_away > 20


@pytest.mark.parametrize("seed", range(20))
def test_a_disk_of_whose_calls_many_fail_costs_nothing(seed: int) -> None:
    suffer(lambda trial: Flaky(trial.began + 20 * (seed % 5), Random(seed)), 4, seed)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(1000, 1000 + 20 * ROUNDS))
def test_many_more_disks_that_fail(seed: int) -> None:
    random = Random(seed)
    at, error = random.randrange(600), random.choice((eio, enospc))
    faults = (
        lambda trial: Flaky(trial.began + at, random),
        lambda trial: Fault(trial.began + at, error, lasting=True),
        lambda trial: Fault(trial.began + at, error, short=random.random() < 0.5),
    )
    suffer(random.choice(faults), random.randrange(6), seed, 50)


def test_a_sender_is_told_to_wait_and_called_back_when_there_is_room_again() -> None:
    machine = Machine(Disk(), Past())
    alice = machine.enter("alice")
    outbox = alice.process.outbox("bob")
    alice.send(outbox.message(1))
    machine.settle()
    machine.disk.fault = Fault(len(machine.disk.calls), enospc, lasting=True)
    alice.send(outbox.message(2), outbox.message(3))
    machine.settle()
    assert (outbox.stored, outbox.trouble, outbox.waits) == (1, 2, True)
    assert machine.engines.problem() == "the disk is full"
    machine.advance(5.0)
    assert (outbox.waits, outbox.trouble) == (True, 2)  # it is not asked to try while there is no room
    machine.disk.fault = None
    machine.advance(2.0)  # one for the engine, one for the node
    assert not outbox.waits and not machine.engines.problem()
    assert alice.pump()
    machine.settle()
    assert outbox.stored == 3
    bob = machine.enter("bob")
    (inbox,) = bob.process.inboxes.values()
    assert list(inbox.taken) == [1, 2, 3]
    machine.close()


def test_a_sender_with_a_hole_is_asked_to_fill_it_though_its_receivers_session_ends_meanwhile() -> None:
    # 1 goes live to bob, who leaves without a word. 2 is to be stored; while the disk is asked, bob's session
    # ends. The mailbox misses 1: without being asked for it, alice would wait for what nobody will tell her.
    machine = Machine(Disk(), Past())
    bob, alice = machine.enter("bob"), machine.enter("alice")
    outbox = alice.process.outbox("bob")
    alice.send(outbox.message(1))
    assert next(iter(bob.process.inboxes.values())).taken
    bob.cut()
    alice.send(outbox.message(2))
    machine.clock.seconds += 31.0
    machine.node.poll(machine.clock.seconds)
    machine.turn()
    machine.settle()
    assert not outbox.waits
    assert alice.pump()
    machine.settle()
    assert outbox.stored == 2
    machine.close()


# --- controls --------------------------------------------------------------------------------


def _answers_though_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: writer.Transactions, batch: list[writer.Request]) -> list[object]:
        db = self._database.writer
        answers: list[object] = []
        try:
            db.execute("BEGIN IMMEDIATE")
            answers += [request.part.apply(db, request.body) for request in batch]
            for request in batch:
                request.part.flush(db)
            db.execute("COMMIT")
        except apsw.Error as error:
            self._failed(error)
            self._roll_back(db)
            for request in batch:
                request.part.rolled_back()
        return answers + [Failure(self.problem)] * (len(batch) - len(answers))

    monkeypatch.setattr(writer.Transactions, "write", write)


def _tells_nobody_that_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = InlineWriter._answer

    def silent(self: InlineWriter, batch: list[writer.Request], answers: list[object], failed: bool) -> None:
        told = [each for each in zip(batch, answers, strict=True) if not isinstance(each[1], Failure)]
        answer(self, [request for request, _ in told], [result for _, result in told], failed)

    monkeypatch.setattr(InlineWriter, "_answer", silent)


def _calls_nobody_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mailboxes, "call_back", lambda self: None)


def _keeps_its_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteMailbox, "rolled_back", lambda self: None)


CONTROLS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "an answer though the commit failed": (_answers_though_it_failed, "lost: .* was stored up to"),
    "no answer when it failed": (_tells_nobody_that_it_failed, ".* no answer|stuck"),
    "nobody is called back": (_calls_nobody_back, "stuck: "),
    "a picture survives a rollback": (_keeps_its_picture, "damaged: .*count their messages"),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_planted_defect_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = calls()
    plant, complaint = CONTROLS[name]
    plant(monkeypatch)
    syncs = [at for at, call in enumerate(expected) if call == "xSync wal"]
    found = []
    for at in syncs:
        try:
            suffer(lambda trial, at=at: Fault(trial.began + at, eio))  # type: ignore[misc]
        except Violation as violation:
            found.append(str(violation))
    assert any(re.match(complaint, each) for each in found), found


# --- at the start ----------------------------------------------------------------------------


def start(disk: Disk) -> str:
    """Start and stop a server on a disk; return why it would not start."""
    try:
        machine = Machine(disk, Past())
    except DatabaseError as refusal:
        return str(refusal)
    finally:
        disk.forget()
    machine.engines.close()
    return ""


def left_of(disk: Disk) -> Image:
    platter = disk.platter()
    for change in disk.history:
        platter.play(change)
    return platter.cut()


@pytest.mark.parametrize("error", [eio, enospc])
def test_a_disk_that_fails_at_the_start_is_told_in_one_sentence_and_the_next_start_is_well(
    error: Callable[[str], Exception],
) -> None:
    machine = Machine(Disk(), Past(), 1)
    Story(machine, Random(1), 10).play()
    used = left_of(machine.disk)
    machine.disk.forget()
    new: Image = {}
    for image in (new, used):
        whole = Disk(image)
        assert start(whole) == ""
        refusals = []
        for at in range(len(whole.calls)):
            disk = Disk(image)
            disk.fault = Fault(at, error, lasting=True)
            refusals.append(start(disk))
            audit_image(left_of(disk), machine.past if image else Past())
        told = [each for each in refusals if each]
        assert len(told) > 10 and all(re.fullmatch(rf"{DATABASE} [^\n]+\.", each) for each in told), told
