"""The writer: batches, failures, disks that come back; with a thread and without."""

import asyncio
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import apsw
import pytest
from tests.disk import Disk

from duolink.engines.base import Failure
from duolink.engines.memory import AtOnce, Late
from duolink.engines.sqlite import threads, writer
from duolink.engines.sqlite.database import Database, DatabaseError
from duolink.engines.sqlite.inline import Inline
from duolink.engines.sqlite.rows import Rows
from duolink.engines.sqlite.threads import Threads
from duolink.engines.sqlite.writer import Transactions, describe, look

TIMEOUT = 20.0


class Notes:
    """A part: writes numbers down, and fails when it is told to."""

    def __init__(self) -> None:
        self.picture: list[int] = []
        self.batches: list[int] = []
        self.rollbacks = 0
        self.fail: Callable[[], None] = lambda: None
        self.fail_at = ""

    def apply(self, db: apsw.Connection, request: Any) -> Any:
        if request == self.fail_at:
            self.fail()
        self.picture.append(request)
        return f"did {request}"

    def flush(self, db: apsw.Connection) -> None:
        if not self.fail_at:
            self.fail()
        _ROWS.write(db, [(number, number) for number in self.picture])

    def committed(self) -> None:
        self.batches.append(len(self.picture))
        self.picture.clear()

    def rolled_back(self) -> None:
        self.rollbacks += 1
        self.picture.clear()


_ROWS = Rows("INSERT INTO notes VALUES {rows}", 2)


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def open_database(path: str, **options: Any) -> Database:
    database = Database(path, **options)
    database.writer.execute("CREATE TABLE IF NOT EXISTS notes (number INTEGER, same INTEGER)")
    return database


def written(db: apsw.Connection) -> list[int]:
    return [row[0] for row in db.execute("SELECT number FROM notes ORDER BY number")]


class Bench:
    """A writer without threads, over a disk that can fail, and everything that was heard of it."""

    made: ClassVar[list["Bench"]] = []

    def __init__(self, disk: Disk, late: Late | None = None, timer: bool = False) -> None:
        self.made.append(self)
        self.disk = disk
        self.heard: list[Any] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.database = open_database("test.db", vfs=disk.vfs)
        self.part = Notes()
        after = (lambda seconds, action: self.timers.append((seconds, action))) if timer else None
        runner = Inline(AtOnce() if late is None else late, after)
        self.writer = runner.writer(
            Transactions(self.database), self.heard.append, lambda: self.heard.append("recovered")
        )
        self.reader = runner.reader(self.database)

    def bury(self) -> None:
        """Let go of what a power cut has killed."""
        with suppress(apsw.Error):
            self.database.writer.close(True)

    def submit(self, *numbers: Any) -> None:
        for number in numbers:
            self.writer.submit(self.part, number, self.heard.append)

    def answers(self) -> list[Any]:
        heard, self.heard[:] = list(self.heard), []
        return heard


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while Bench.made:
        bench = Bench.made.pop()
        bench.disk.full = bench.disk.sync_fails = bench.disk.unreadable = False
        bench.disk.cut()
        bench.bury()


# --- batches -----------------------------------------------------------------------------------


def test_an_answer_comes_after_the_commit():
    bench = Bench(Disk())
    seen: list[Any] = []
    bench.writer.submit(bench.part, 1, lambda answer: seen.append((answer, written(bench.database.writer))))
    assert seen == [("did 1", [1])]
    assert not bench.database.writer.in_transaction


def test_what_waits_is_one_transaction_and_is_answered_in_order():
    late = Late(random.Random(3))
    bench = Bench(Disk(), late)
    bench.submit(*range(100))
    late.run()
    assert bench.answers() == [f"did {number}" for number in range(100)]
    assert bench.part.batches == [100]


def test_a_batch_is_bounded(monkeypatch):
    monkeypatch.setattr("duolink.engines.sqlite.inline.MAX_BATCH", 3)
    late = Late(random.Random(3))
    bench = Bench(Disk(), late)
    bench.submit(*range(8))
    late.run()
    assert bench.part.batches == [3, 3, 2]
    assert len(bench.answers()) == 8


def test_two_parts_share_a_transaction():
    late = Late(random.Random(3))
    bench, other = Bench(Disk(), late), Notes()
    bench.submit(1)
    bench.writer.submit(other, 2, bench.heard.append)
    bench.submit(3)
    late.run()
    assert bench.answers() == ["did 1", "did 2", "did 3"]
    assert (bench.part.batches, other.batches) == ([2], [1])


@pytest.mark.parametrize("count", [1, 2, 3, 100, 255, 256, 257, 1000])
def test_rows_are_written_in_order_whatever_their_number(tmp_path, count):
    with closing(open_database(str(tmp_path / "test.db"))) as database:
        _ROWS.write(database.writer, [(number, number) for number in range(count)])
        rows = database.writer.execute("SELECT number, same FROM notes ORDER BY rowid").fetchall()
        assert rows == [(number, number) for number in range(count)]


# --- failures ----------------------------------------------------------------------------------


def test_a_failed_batch_fails_all_its_answers_and_nothing_else():
    late = Late(random.Random(3))
    bench, other = Bench(Disk(), late), Notes()
    bench.submit(1)
    late.run()
    bench.part.fail = raising(apsw.FullError("no room"))
    bench.submit(2, 3)
    bench.writer.submit(other, 4, bench.heard.append)
    late.run()
    bench.part.fail = lambda: None
    bench.submit(5)
    late.run()
    full = Failure("the disk is full")
    assert bench.answers() == ["did 1", "the disk is full", full, full, full, "recovered", "did 5"]
    assert written(bench.database.writer) == [1, 5]
    assert (bench.part.rollbacks, other.rollbacks) == (1, 1)


def test_a_request_that_cannot_read_fails_its_batch():
    bench = Bench(Disk(), late := Late(random.Random(3)))
    bench.part.fail, bench.part.fail_at = raising(apsw.IOError("bad sector")), "bad"
    bench.submit(1, "bad", 2)
    late.run()
    problem = "the disk fails (bad sector)"
    assert bench.answers() == [problem, *[Failure(problem)] * 3]
    assert written(bench.database.writer) == []


def test_a_failed_commit_is_uncertain_and_nothing_else_is():
    disk = Disk()
    bench = Bench(disk)
    disk.sync_fails = True
    bench.submit(1)
    problem, failure = bench.answers()
    assert failure == Failure(problem, uncertain=True) and "the disk fails" in problem
    bench.submit(2)
    assert bench.answers() == [Failure(bench.writer.problem)]  # tried again before, in vain


def test_while_there_is_a_problem_requests_fail_and_the_writer_tries_by_itself():
    disk = Disk()
    bench = Bench(disk, timer=True)
    disk.full = True
    bench.submit(1)
    bench.submit(2)
    full = "the disk is full"
    assert bench.answers() == [full, Failure(full, uncertain=True), Failure(full)]
    assert bench.writer.problem == "the disk is full"
    for _ in range(3):
        ((seconds, again),) = bench.timers
        assert seconds == writer.RETRY_EVERY
        bench.timers.clear()
        again()
    assert bench.answers() == []
    disk.full = False
    bench.timers.pop()[1]()
    assert bench.answers() == ["recovered"] and bench.writer.problem == "" and not bench.timers
    bench.submit(3)
    assert bench.answers() == ["did 3"]


def test_what_can_be_read_is_answered_though_nothing_can_be_written():
    """In its place among the answers, and as of the last commit."""
    disk = Disk()
    bench = Bench(disk, late := Late(random.Random(3)))

    def ask(number: int, peek: Callable[[apsw.Connection], Any]) -> None:
        bench.writer.submit(bench.part, number, bench.heard.append, 0, peek)

    bench.submit(1)
    ask(2, written)
    late.run()
    assert bench.answers() == ["did 1", "did 2"]
    disk.full = True
    bench.submit(3)
    ask(4, written)
    bench.submit(5)
    ask(6, lambda db: None)
    late.run()
    full, *answers = bench.answers()
    assert [type(answer) for answer in answers] == [Failure, list, Failure, Failure]
    assert full == "the disk is full" and answers[1] == [1, 2]
    ask(7, written)  # now that it is known that nothing can be written
    late.run()
    assert bench.answers() == [[1, 2]]
    bench.database.writer.execute("PRAGMA shrink_memory")
    disk.unreadable = True
    ask(8, written)
    late.run()
    assert bench.answers() == [Failure(bench.writer.problem)]
    disk.full = disk.unreadable = False
    ask(9, written)
    late.run()
    assert bench.answers() == ["recovered", "did 9"]
    assert not bench.database.writer.in_transaction


def test_our_own_fault_in_looking_is_a_failure_and_is_not_hidden():
    disk = Disk()
    bench = Bench(disk)
    disk.full = True
    with pytest.raises(KeyError):
        bench.writer.submit(bench.part, 1, bench.heard.append, 0, lambda db: raising(KeyError("a defect"))())
    assert bench.writer.problem == "the disk is full" and not bench.database.writer.in_transaction


@pytest.mark.parametrize("torn", [None, 1, 2, 3, 4, 5])
def test_after_a_failed_sync_what_is_acknowledged_survives_a_power_cut(torn):
    """1 is committed; the sync of 2 fails, its pages never reach the disk; 3 is committed; the power goes."""
    disk = Disk(None if torn is None else random.Random(torn))
    bench = Bench(disk)
    bench.submit(1)
    disk.sync_fails = True
    bench.submit(2)
    disk.sync_fails = False
    bench.submit(3)
    assert [answer for answer in bench.answers() if isinstance(answer, str)][-1] == "did 3"
    disk.cut()
    with closing(open_database("test.db", vfs=disk.vfs)) as database:
        assert set(written(database.writer)) - {2} == {1, 3}
        assert database.writer.pragma("integrity_check") == "ok"


def test_a_failed_sync_costs_the_connection_and_the_log_before_anything_is_acknowledged():
    disk = Disk()
    bench = Bench(disk)
    bench.submit(1)
    before = bench.database.writer
    disk.sync_fails = True
    bench.submit(2)
    disk.sync_fails = False
    bench.submit(3)
    assert bench.database.writer is not before
    with pytest.raises(apsw.ConnectionClosedError):
        before.execute("SELECT 1")
    assert written(bench.database.writer) == [1, 3]


@pytest.mark.parametrize("seed", range(20))
def test_power_cuts_lose_nothing_that_was_acknowledged(seed, monkeypatch):
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 5)
    chance = random.Random(seed)
    disk, number = Disk(chance), 0
    acknowledged: list[int] = []
    for _ in range(4):
        late = Late(chance)
        bench = Bench(disk, late)
        assert bench.database.writer.pragma("integrity_check") == "ok"
        assert set(acknowledged) <= set(written(bench.database.writer))
        for _ in range(chance.randrange(60)):
            if chance.random() < 0.4:
                number += 1
                bench.writer.submit(
                    bench.part, number, lambda answer: acknowledged.append(int(str(answer)[4:]))
                )
            late.step()
        disk.cut()
        bench.bury()
    assert acknowledged


def test_our_own_fault_fails_the_batch_and_is_not_hidden():
    bench = Bench(Disk())
    bench.part.fail = raising(KeyError("a defect"))
    with pytest.raises(KeyError):
        bench.submit(1)
    assert bench.writer.problem == "" and bench.part.rollbacks == 1
    assert not bench.database.writer.in_transaction


def test_the_log_is_copied_back_when_it_is_long_and_only_then(monkeypatch):
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 10)
    disk = Disk()
    bench = Bench(disk)
    size = len(disk.live["test.db"])
    wal = "test.db-wal"
    bench.submit(*range(100))
    assert len(disk.live[wal]) < 40 * 4096
    assert len(disk.live["test.db"]) > 0 and size
    assert len(written(bench.database.writer)) == 100


def test_a_checkpoint_that_fails_is_a_problem(monkeypatch):
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 1)
    with closing(Database("test.db", vfs=(disk := Disk()).vfs)) as database:
        transactions = Transactions(database)
        database.writer.execute("CREATE TABLE t (a)")
        disk.sync_fails = True
        assert not transactions.checkpoint()
        assert "the disk fails" in transactions.problem
        disk.sync_fails = False
        assert transactions.recover() and transactions.problem == ""


def test_a_checkpoint_that_finds_the_disk_full_is_none_while_the_log_has_room(monkeypatch):
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 10)
    disk = Disk()
    bench = Bench(disk, timer=True)
    size = disk.sizes["test.db"] = len(disk.live["test.db"])
    bench.submit(*range(2000))
    assert bench.answers() == [f"did {number}" for number in range(2000)]
    assert bench.writer.problem == "" and len(disk.live["test.db"]) == size
    del disk.sizes["test.db"]
    bench.submit(*range(2000, 2100))
    assert len(disk.live["test.db"]) > size
    disk.cut()
    reopened = open_database("test.db", vfs=disk.vfs)
    assert len(written(reopened.writer)) == 2100
    reopened.close()


def test_problems_are_told_in_words():
    assert describe(apsw.FullError()) == "the disk is full"
    assert describe(apsw.BusyError()) == "the database is locked by another program"
    assert describe(apsw.ReadOnlyError()) == "the database cannot be written"
    assert describe(apsw.CorruptError("page 7")) == "the database is damaged (page 7)"
    assert describe(apsw.IOError("x")) == "the disk fails (x)"
    assert describe(apsw.SQLError("x")) == "the database fails (x)"


# --- reading -----------------------------------------------------------------------------------


def test_a_read_sees_one_moment(tmp_path):
    with closing(open_database(str(tmp_path / "test.db"))) as database, closing(database.reader()) as db:

        def work(db: apsw.Connection) -> tuple[list[int], list[int]]:
            first = written(db)
            database.writer.execute("INSERT INTO notes VALUES (1, 1)")
            return first, written(db)

        assert look(db, work) == ([], [])
        assert look(db, written) == [1]


def test_a_read_that_fails_is_a_failure_and_the_next_one_is_well():
    disk = Disk()
    bench = Bench(disk)
    bench.database.writer.execute("PRAGMA shrink_memory")
    disk.unreadable = True
    bench.reader.read(written, bench.heard.append)
    disk.unreadable = False
    bench.reader.read(written, bench.heard.append)
    failure, rows = bench.answers()
    assert isinstance(failure, Failure) and "the disk fails" in failure.reason and rows == []


def test_without_threads_too_nothing_is_answered_after_close():
    late = Late(random.Random(3))
    bench = Bench(Disk(), late)
    bench.submit(1, 2)
    bench.reader.read(written, bench.heard.append)
    bench.writer.close()
    bench.writer.close()
    bench.reader.close()
    bench.submit(3)
    late.run()
    assert bench.answers() == []
    assert written(bench.database.writer) == [1, 2]


# --- with threads ------------------------------------------------------------------------------


class Loop:
    """A writer and a reader with threads on a running loop."""

    def __init__(self, path: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.part = Notes()
        self.heard: list[Any] = []
        self.news: asyncio.Queue[str] = asyncio.Queue()
        self.database = open_database(path)
        runner = Threads(self.loop)
        self.writer = runner.writer(
            Transactions(self.database), self.news.put_nowait, lambda: self.news.put_nowait("recovered")
        )
        self.reader = runner.reader(self.database)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()
        self.database.close()

    async def submit(self, *numbers: Any) -> list[Any]:
        futures = [self.loop.create_future() for _ in numbers]
        for number, future in zip(numbers, futures, strict=True):
            self.writer.submit(self.part, number, future.set_result)
        return await asyncio.wait_for(asyncio.gather(*futures), TIMEOUT)

    async def read(self, work: Callable[[apsw.Connection], Any]) -> Any:
        future = self.loop.create_future()
        self.reader.read(work, future.set_result)
        return await asyncio.wait_for(future, TIMEOUT)

    async def hear(self) -> str:
        return await asyncio.wait_for(self.news.get(), TIMEOUT)


@contextmanager
def with_threads(path: Any) -> Iterator[Loop]:
    bench = Loop(str(path / "test.db"))
    try:
        yield bench
    finally:
        bench.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("duolink")]


def test_what_comes_in_one_turn_of_the_loop_is_one_transaction(tmp_path):
    async def main() -> None:
        with with_threads(tmp_path) as bench:
            assert await bench.submit(*range(500)) == [f"did {number}" for number in range(500)]
            assert bench.part.batches == [500]
            assert await bench.read(written) == list(range(500))

    asyncio.run(main())


def test_what_is_submitted_while_a_commit_runs_is_the_next_transaction(tmp_path):
    async def main() -> None:
        with with_threads(tmp_path) as bench:
            begun, go_on = threading.Event(), threading.Event()

            def block() -> None:
                begun.set()
                assert go_on.wait(TIMEOUT)

            bench.part.fail = block
            first = bench.loop.create_task(bench.submit(0))
            await bench.loop.run_in_executor(None, begun.wait, TIMEOUT)
            rest = []
            for number in range(1, 10):
                rest.append(bench.loop.create_task(bench.submit(number)))
                await asyncio.sleep(0)
            go_on.set()
            await asyncio.gather(first, *rest)
            assert bench.part.batches == [1, 9]

    asyncio.run(main())


def test_batches_are_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "MAX_BATCH_SIZE", 100)

    async def main() -> None:
        with with_threads(tmp_path) as bench:
            last = bench.loop.create_future()
            for number in range(9):
                done = last.set_result if number == 8 else bench.heard.append
                bench.writer.submit(bench.part, number, done, 40)
            await asyncio.wait_for(last, TIMEOUT)
            assert bench.part.batches == [3, 3, 3]

    asyncio.run(main())


def test_too_much_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "MAX_WAITING", 2)
    monkeypatch.setattr(threads, "MAX_WAITING_SIZE", 1000)

    async def main() -> None:
        with with_threads(tmp_path) as bench:
            bench.writer.submit(bench.part, 0, bench.heard.append, 1001)
            answers = [bench.loop.create_future() for _ in range(2)]
            for number, answer in enumerate(answers):
                bench.writer.submit(bench.part, number, answer.set_result)
            bench.writer.submit(bench.part, 3, bench.heard.append)
            assert bench.heard == [Failure("too much is waiting for the disk")] * 2
            assert await asyncio.gather(*answers) == ["did 0", "did 1"]

    asyncio.run(main())


def test_the_thread_recovers_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "RETRY_EVERY", 0.001)

    async def main() -> None:
        with with_threads(tmp_path) as bench:
            bench.part.fail = raising(apsw.IOError("gone"))
            assert await bench.submit(1, 2) == [Failure("the disk fails (gone)")] * 2
            assert await bench.hear() == "the disk fails (gone)"
            assert await bench.hear() == "recovered"
            bench.part.fail = lambda: None
            assert await bench.submit(3) == ["did 3"]
            assert await bench.read(written) == [3]

    asyncio.run(main())


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_written_into_a_file_that_nobody_finds_again(tmp_path, monkeypatch, suffix, replaced):
    monkeypatch.setattr(threads, "RETRY_EVERY", 0.001)

    async def main() -> None:
        with with_threads(tmp_path) as bench:
            assert await bench.submit(1) == ["did 1"]
            file, aside = Path(f"{bench.database.path}{suffix}"), tmp_path / "aside"
            os.rename(file, aside)
            if replaced:
                shutil.copy(aside, file)
            [failure] = await bench.submit(2)
            assert isinstance(failure, Failure) and "was removed or replaced" in failure.reason
            assert await bench.hear() == failure.reason
            with pytest.raises(DatabaseError, match="removed or replaced"):
                bench.database.reader()
            assert await bench.read(written) == [1]
            os.rename(aside, file)
            assert await bench.hear() == "recovered"
            assert await bench.submit(3) == ["did 3"]
            assert await bench.read(written) == [1, 3]

    asyncio.run(main())


def test_a_file_that_nobody_finds_again_does_not_recover(tmp_path):
    """It could be written as before: only its name is gone."""
    with closing(Database(str(tmp_path / "test.db"))) as database:
        transactions = Transactions(database)
        os.rename(database.path, tmp_path / "aside")
        assert not transactions.recover()
        assert "was removed or replaced" in transactions.problem
        os.rename(tmp_path / "aside", database.path)
        assert transactions.recover() and transactions.problem == ""


def test_requests_fail_fast_while_the_disk_does(tmp_path):
    async def main() -> None:
        with with_threads(tmp_path) as bench:
            bench.part.fail = raising(apsw.FullError())
            await bench.submit(1)
            bench.part.fail = lambda: None
            assert bench.writer.problem == "the disk is full"
            assert await bench.submit(2) == [Failure("the disk is full")]
            assert bench.part.rollbacks == 1 and not bench.part.batches

    asyncio.run(main())


def test_a_defect_fails_its_batch_is_reported_and_the_thread_goes_on(tmp_path):
    async def main() -> None:
        with with_threads(tmp_path) as bench:
            reported: list[Any] = []
            bench.loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
            bench.part.fail = raising(KeyError("a defect"))
            assert await bench.submit(1) == [Failure("internal error")]
            bench.part.fail = lambda: None
            bench.writer.submit(bench.part, 2, lambda answer: raising(ValueError("of an answer"))())
            assert await bench.submit(3) == ["did 3"]
            assert await bench.read(lambda db: raising(KeyError("of a read"))()) == Failure("internal error")
            assert await bench.read(written) == [2, 3]
            assert list(map(type, reported)) == [KeyError, ValueError, KeyError]

    asyncio.run(main())


def test_a_failed_read_takes_a_new_connection(tmp_path):
    async def main() -> None:
        with with_threads(tmp_path) as bench:
            connections = []

            def work(db: apsw.Connection) -> None:
                connections.append(db)
                raise apsw.IOError("gone")

            for _ in range(5):
                assert await bench.read(work) == Failure("the disk fails (gone)")
            assert len(set(map(id, connections))) == 5
            assert await bench.read(written) == []

    asyncio.run(main())


def test_close_writes_what_was_submitted_and_answers_nothing(tmp_path):
    async def main() -> None:
        with with_threads(tmp_path) as bench:
            for number in range(5000):
                bench.writer.submit(bench.part, number, bench.heard.append)
                if number % 1000 == 0:
                    await asyncio.sleep(0)
            bench.reader.read(written, bench.heard.append)
            heard = len(bench.heard)
            bench.close()
            bench.writer.submit(bench.part, 5000, bench.heard.append)
            bench.reader.read(written, bench.heard.append)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(bench.heard) == heard
        with closing(open_database(str(tmp_path / "test.db"))) as database:
            assert written(database.writer) == list(range(5000))

    asyncio.run(main())


def test_a_loop_that_is_closed_first_is_no_trouble(tmp_path):
    loop = asyncio.new_event_loop()
    database = open_database(str(tmp_path / "test.db"))
    part = Notes()
    written_to = Threads(loop).writer(Transactions(database), print, print)
    written_to.submit(part, 1, print)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    written_to.close()
    assert written(database.writer) == [1]
    database.close()


def test_what_is_to_be_done_again_and_again_can_be_stopped():
    async def main() -> None:
        turns: asyncio.Queue[int] = asyncio.Queue()
        stop = Threads(asyncio.get_running_loop()).every(0.0, lambda: turns.put_nowait(1))
        for _ in range(3):
            await asyncio.wait_for(turns.get(), TIMEOUT)
        stop()
        before = turns.qsize()
        for _ in range(3):
            await asyncio.sleep(0)
        assert turns.qsize() == before

    asyncio.run(main())
    timers: list[Callable[[], None]] = []
    done: list[int] = []
    stop = Inline(AtOnce(), lambda _, action: timers.append(action)).every(1.0, lambda: done.append(1))
    timers.pop()()
    stop()
    timers.pop()()
    assert done == [1] and not timers
