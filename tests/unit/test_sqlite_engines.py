"""The durable engine as a whole: opening, timers, closing, recovering."""

import asyncio
import secrets
import threading
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest
from tests.disk import Disk
from tests.unit.sqlite_world import KEEP, World

from duolink.engines.base import Appended, Draft, Engines, Failure, Row, Stream
from duolink.engines.memory import Late
from duolink.engines.sqlite import engines as module
from duolink.engines.sqlite.database import Database, DatabaseError, open_read_only
from duolink.engines.sqlite.engines import sqlite_engines
from duolink.engines.sqlite.invariants import check
from duolink.engines.sqlite.threads import Threads
from duolink.testing.clock import VirtualClock


def open_engines(path: Path, **options: Any) -> Engines:
    return sqlite_engines(
        str(path / "test.db"),
        clock=VirtualClock(Random(1)),
        new_epoch=lambda: secrets.token_hex(8),
        runner=Threads(asyncio.get_running_loop()),
        **options,
    )


async def append(engines: Engines, data: bytes = b"1") -> Any:
    answer = asyncio.get_running_loop().create_future()
    engines.log.append("room", Draft("alice", data), KEEP, answer.set_result)
    return await asyncio.wait_for(answer, 20)


def no_threads() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("duolink")]


def test_it_says_it_is_durable_and_has_no_problem():
    world = World()
    assert world.engines.durable and world.engines.problem() == ""
    world.disk.full = True
    world.append()
    assert world.engines.problem() == "the disk is full" and world.news == ["the disk is full"]
    world.disk.full = False
    world.turn()
    assert world.engines.problem() == "" and world.news[1:] == ["recovered"]


def test_who_comes_while_the_disk_is_full_hears_what_waits_if_it_need_not_be_noted():
    world = World()
    mailbox, registry = world.engines.mailbox, world.engines.registry
    alices, carols = Stream("bob", "alice", "messages", 1), Stream("@carol", "alice", "messages", 1)

    def waits(client_id: str, user: str) -> Any:
        boxes = world.ask(mailbox.open, client_id, user, 9)
        return boxes if isinstance(boxes, Failure) else [(box.stream, box.first, box.top) for box in boxes]

    world.ask(registry.issue_run, "bob", "", 1)
    world.ask(registry.issue_run, "carol:1", "carol", 1)
    for stream in (alices, carols):
        for seq in (1, 2, 3):
            world.ask(mailbox.store, stream, Row(seq, seq, b"x"), 1)
    mailbox.acknowledge(alices, "bob", 1, (), 5)
    world.ask(mailbox.standing, alices)  # writes the acknowledgement, too
    world.disk.full = True
    mailbox.acknowledge(alices, "bob", 2, (), 5)
    assert waits("bob", "") == [(alices, 3, 3)], "the acknowledgement is not written, but known"
    mailbox.acknowledge(alices, "bob", 3, (), 5)
    assert waits("bob", "") == []
    mailbox.acknowledge(alices, "bob", 1, (), 4)  # late
    assert waits("bob", "") == []
    assert waits("carol:1", "carol") == [(carols, 1, 3)]
    assert waits("dave", "") == []
    full = Failure("the disk is full")
    world.ask(registry.issue_run, "carol:2", "carol", 1)
    assert waits("carol:2", "carol") == full, "it has no place in what there is"
    world.ask(registry.issue_run, "erin:1", "erin", 1)
    assert waits("erin:1", "erin") == full, "it would have none in what comes"
    world.disk.full = False
    world.turn()
    assert waits("bob", "") == []
    assert waits("carol:2", "carol") == waits("erin:1", "erin") == []


def test_no_thread_is_left_after_close_and_the_file_can_be_opened_again(tmp_path):
    async def main() -> None:
        for offset in (1, 2, 3):
            engines = open_engines(tmp_path)
            assert (await append(engines)).entry.offset == offset
            engines.close()
            assert no_threads()

    asyncio.run(main())


def test_close_while_much_is_under_way_keeps_what_was_answered_and_answers_nothing_after_it(tmp_path):
    async def main() -> int:
        engines = open_engines(tmp_path)
        answered: list[Any] = []
        for _ in range(50):
            for _ in range(100):
                engines.log.append("room", Draft("alice", b"1"), KEEP, answered.append)
            await asyncio.sleep(0)
        count = len(answered)
        engines.close()
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(answered) == count
        return count

    count = asyncio.run(main())
    with closing(open_read_only(str(tmp_path / "test.db"))) as db:
        assert db.execute("SELECT top FROM channels").get >= count
        assert not [fault for _, faults in check(db) for fault in faults]


def test_what_cannot_be_opened_leaves_neither_threads_nor_locks(tmp_path):
    async def main() -> None:
        engines = open_engines(tmp_path)
        with pytest.raises(DatabaseError, match="in use"):
            open_engines(tmp_path)
        engines.close()
        assert no_threads()

    asyncio.run(main())
    Database(str(tmp_path / "test.db")).close()


def test_an_error_of_sqlite_while_opening_is_one_sentence(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise apsw.FullError("database or disk is full")

    async def main() -> None:
        monkeypatch.setattr(module, "_initialize", fail)
        with pytest.raises(DatabaseError, match=r"test.db cannot be opened: the disk is full\."):
            open_engines(tmp_path)

    asyncio.run(main())
    Database(str(tmp_path / "test.db")).close()


def test_a_thread_that_fails_and_recovers_is_heard_of(tmp_path, monkeypatch):
    monkeypatch.setattr("duolink.engines.sqlite.threads.RETRY_EVERY", 0.001)

    async def main() -> None:
        news: asyncio.Queue[str] = asyncio.Queue()
        engines = open_engines(
            tmp_path, on_problem=news.put_nowait, on_recovered=lambda: news.put_nowait("recovered")
        )
        writer: Any = engines.log._writer  # type: ignore[attr-defined]
        database = writer._transactions._database
        pages = database.writer.pragma("page_count")
        database.writer.pragma("max_page_count", pages)  # as if the disk were full
        assert isinstance(await append(engines, bytes(100_000)), Failure)
        assert await asyncio.wait_for(news.get(), 20) == "the disk is full"
        assert await asyncio.wait_for(news.get(), 20) == "recovered"
        assert (await append(engines)).entry.offset == 1
        engines.close()

    asyncio.run(main())


def test_the_invariants_hold_after_everything_and_notice_what_is_wrong():
    world = World()
    for number in range(300):
        world.append(bytes(number), name="ab"[number % 2] if number % 3 else "", key=f"k{number}")
    stream = Stream("bob", "alice", "messages", 1)
    for seq in (1, 2, 3):
        world.ask(world.engines.mailbox.store, stream, Row(seq, seq, b"body"), 1)
    world.engines.close()
    with closing(Database("test.db", vfs=world.disk.vfs)) as database:
        db = database.writer
        assert not [fault for _, faults in check(db) for fault in faults]
        for statement, problem in {
            "INSERT INTO entries VALUES (77, 1, 0, 0, 0, '', '', x'')": "of a channel that is not there",
            "UPDATE channels SET top = 5": "outside of their channel's offsets",
            "DELETE FROM entries WHERE offset = 290": "history has holes",
            "UPDATE channels SET first = lowest - 1": "offsets are out of order",
            "UPDATE channels SET state_size = 1": "count their shared state wrong",
            "UPDATE state SET version = 1000": "or newer than it",
            "UPDATE keys SET offset = 1000": "keys newer than their channel",
            "DELETE FROM standings": "known by halves",
            "UPDATE mail SET stream = 9": "of a stream that is not there",
            "UPDATE standings SET settled = 4": "above what is stored",
            "UPDATE standings SET cursor = 4": "above what is stored",
            "DELETE FROM mail WHERE seq = 2": "count their messages wrong",
            "UPDATE mail SET body = x'' WHERE seq = 2": "count their messages wrong",
            "UPDATE meta SET value = 2 WHERE name = 'mail_messages'": "counted wrong together",
            "UPDATE mailboxes SET messages = 2": "listed wrong",
            "UPDATE mailboxes SET senders = 2": "listed wrong",
            "UPDATE mailboxes SET size = 0": "listed wrong",
            "DELETE FROM mailboxes": "listed wrong",
            "INSERT INTO mailboxes VALUES ('nobody', 1, 1, 1)": "listed wrong",
        }.items():
            db.execute("BEGIN")
            db.execute(statement)
            faults = [fault for _, found in check(db) for fault in found]
            assert any(problem in fault for fault in faults), (statement, faults)
            db.execute("ROLLBACK")


@pytest.mark.parametrize("seed", range(20))
def test_what_was_answered_survives_power_cuts_and_the_invariants_hold(seed, monkeypatch):
    monkeypatch.setattr("duolink.engines.sqlite.writer.CHECKPOINT_PAGES", 8)
    monkeypatch.setattr("duolink.engines.sqlite.channels.TRIM_AFTER", 5)
    chance = Random(seed)
    late = Late(chance)
    world = World(late, Disk(chance))
    appended: dict[int, bytes] = {}
    runs = [0]

    def answered(result: Any) -> None:
        if isinstance(result, Appended):
            appended[result.entry.offset] = result.entry.data

    for life in range(4):
        for number in range(chance.randrange(60)):
            match chance.randrange(4):
                case 0:
                    body = b"%d of %d" % (number, life)
                    name = chance.choice(("", "", "a", "b"))
                    world.engines.log.append("room", Draft("alice", body, name=name), KEEP, answered)
                case 1:
                    world.engines.registry.issue_run("alice", "alice", 0, runs.append)  # type: ignore[arg-type]
                case _:
                    late.step()
        world.schedule = late = Late(chance)  # what was under way died with the process
        world.restart(cut=True)
        pages: list[Any] = []
        world.engines.log.read("room", "", 0, 1000, pages.append)
        world.engines.registry.issue_run("alice", "alice", 0, runs.append)  # type: ignore[arg-type]
        late.run()
        read = {entry.offset: entry.data for entry in pages[0].entries}
        first = min(read, default=1)
        assert {offset: body for offset, body in appended.items() if offset >= first}.items() <= read.items()
        assert runs == sorted(set(runs))
    world.engines.close()
    with closing(Database("test.db", vfs=world.disk.vfs)) as database:
        assert not [fault for _, faults in check(database.writer) for fault in faults]
