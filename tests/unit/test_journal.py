"""The journal: what it keeps, who may open it, and what a client does with it."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec import Raw
from tests.unit.client_world import RUN, FakeServer, make, play, turns

import duolink
from duolink import ClientClosed, JournalError, Lost, MessagesLost, Trouble
from duolink.client import journal as room
from duolink.client.client import Client
from duolink.client.events import HandlerFailed
from duolink.client.journal import Journal, Records
from duolink.protocol import ledger as ledger_room
from duolink.protocol import limits
from duolink.protocol.ledger import Ledger
from duolink.protocol.link import Link
from duolink.protocol.messages import (
    Ack,
    Error,
    Goodbye,
    Hello,
    LinkMessage,
    LostRange,
    Probe,
    Publish,
    Skip,
    Stored,
)
from duolink.protocol.paths import PathKind
from duolink.protocol.records import Changes, Saved, SavedCursor, SavedEntry, SavedLane

Patch = pytest.MonkeyPatch


class Disk:
    """In place of the journal's thread: writes at once, or when it is told to."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.held: list[Callable[[], None]] | None = None

    def submit(self, work: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()

        def do() -> None:
            try:
                future.set_result(work(*arguments))
            except Exception as error:
                future.set_exception(error)

        if self.held is None:
            do()
        else:
            self.held.append(do)
        return future

    def hold(self) -> None:
        self.held = []

    def release(self) -> None:
        held, self.held = self.held or [], None
        for do in held:
            do()

    def shutdown(self, wait: bool) -> None:
        self.release()


@pytest.fixture(autouse=True)
def disk(monkeypatch: Patch) -> None:
    monkeypatch.setattr(room, "ThreadPoolExecutor", Disk)


def disk_of(client: Client) -> Disk:
    assert client._driver is not None and client._driver._journal is not None
    thread: Any = client._driver._journal._thread
    assert isinstance(thread, Disk)
    return thread


def sent_by(server: FakeServer) -> list[tuple[int, int, Any]]:
    return [
        (message.run, message.seq, bytes(message.data))
        for message in server.got
        if isinstance(message, LinkMessage)
    ]


async def killed(client: Client) -> None:
    """End it as a crash would: nothing more leaves, the file is let go."""
    assert client._driver is not None and client._driver._journal is not None
    client._session.links.clear()
    client._session.ledger = None
    client.close_timeout = 0.0
    client._outbox.unsafe = 0
    await client.close()


# --- the tables ------------------------------------------------------------------------------------------


def entry(seq: int, **fields: Any) -> SavedEntry:
    made = SavedEntry(seq, b'"x"', False, inf, "", False, "", "", False, False, "")
    return made._replace(**fields)


def changes_of(link: Link, run: int = 5, begun: bool = False) -> Changes:
    return Changes(run, begun, tuple(link.lane_changes()), tuple(link.cursor_changes()))


def journaled(records: Records) -> tuple[Ledger, Link]:
    saved = records.open(0.0)
    ledger = Ledger(saved)
    ledger.welcomed(saved.run or 5)
    link = Link("bob", saved.run or 5, journaled=True)
    ledger.furnish(link)
    return ledger, link


def test_what_is_kept_is_what_comes_back() -> None:
    records = Records(apsw.Connection(":memory:"), "alice")
    assert records.open(0.0) == Saved(0, 1, (), ())
    link = Link("bob", 5, journaled=True)
    link.submit(Raw(b'"1"'), tag="one")
    link.submit(Raw(b"2"), binary=True, expires=7.5, collapse="key")
    link.submit(Raw(b'"3"'), request="r1", deadline=5)
    link.submit(Raw(b'"4"'), reply="q1", failed=True, lane="bulk")
    link.receive(LinkMessage(run=9, seq=1, base=1, data=Raw(b"1"), sender=""), "server", 0.0)
    link.receive(Skip(run=9, seq=2, last=2, base=1, reason="expired"), "server", 0.0)
    link.finish(LinkMessage(run=9, seq=1, base=1, data=Raw(b"1")), 0.0)
    records.keep([(changes_of(link, begun=True), 100.0)], 1)
    assert records.open(100.0) == Saved(
        5,
        2,
        (
            SavedLane("bob", "bulk", 2, "", (entry(1, data=b'"4"', reply="q1", failed=True),)),
            SavedLane(
                "bob",
                "messages",
                4,
                "one",
                (
                    entry(1, data=b'"1"', tag="one"),
                    entry(2, data=b"2", binary=True, expires=7.5, collapse="key"),
                    entry(3, data=b"", request=True),
                ),
            ),
        ),
        (SavedCursor("bob", "", "messages", 9, 2, (LostRange(2, 2, "expired"),)),),
    )
    assert records.open(90.0).lanes[1].entries[1].expires == 17.5


def test_what_is_stored_keeps_its_number_what_is_settled_nothing() -> None:
    records = Records(apsw.Connection(":memory:"), "alice")
    _, link = journaled(records)
    for number in range(4):
        link.submit(Raw(b"%d" % number))
    link.submit(Raw(b"5"), expires=1.0)
    (lane,) = link.lane_changes()
    lane.outbound.kept(lane)
    records.keep([(Changes(5, True, (lane,), ()), 0.0)], 1)
    link.receive(Stored(to="bob", lane="messages", run=5, seq=3), "server", 0.0)
    link.receive(Ack(run=5, seq=1), "server", 0.0)
    link.take(2.0)
    records.keep([(changes_of(link), 0.0)], 1)
    (saved,) = records.open(0.0).lanes
    assert saved.next_seq == 6
    assert saved.entries == (
        entry(2, data=b"", stored=True),
        entry(3, data=b"", stored=True),
        entry(4, data=b"3"),
        entry(5, data=b"", expires=1.0, reason="expired"),
    )
    _, again = journaled(records)
    assert [(each.seq, each.stored) for each in again.outstanding()] == [(2, True), (3, True), (4, False)]
    assert again.unsettled == 4, "the place of a lost number stays until the receiver has passed it"
    assert link.lane_changes() == [], "told once"


def test_a_run_begun_anew_forgets_the_numbers_and_keeps_the_cursors() -> None:
    records = Records(apsw.Connection(":memory:"), "alice")
    _, link = journaled(records)
    link.submit(Raw(b"1"))
    link.receive(LinkMessage(run=9, seq=1, base=1, data=Raw(b"1")), "server", 0.0)
    link.finish(LinkMessage(run=9, seq=1, base=1, data=Raw(b"1")), 0.0)
    records.keep([(changes_of(link, begun=True), 0.0)], 1)
    records.keep([(Changes(6, True, (), ()), 0.0)], 1)
    saved = records.open(0.0)
    assert (saved.run, saved.lanes) == (6, ())
    assert [cursor.finished for cursor in saved.cursors] == [1]


def test_old_cursors_make_way(monkeypatch: Patch) -> None:
    monkeypatch.setattr(room, "MAX_CURSORS", 2)
    db = apsw.Connection(":memory:")
    records = Records(db, "alice")
    for number in range(4):
        db.execute(
            "INSERT INTO cursor VALUES (?, '', 'messages', 1, 1, '[]', ?)", (f"p{number}", 10 - number)
        )
    assert [cursor.peer for cursor in records.open(0.0).cursors] == ["p0", "p1"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("PRAGMA user_version = 9", "newer duolink .format 9."),
        ("UPDATE owner SET client_id = 'carol'", "journal of 'carol', not of 'alice'"),
        ("PRAGMA application_id = 7", "another program"),
        ("INSERT INTO lane VALUES ('bob', 'messages', 9, '')", None),
        ("DELETE FROM entry WHERE seq = 2", "numbers to 'bob' are missing"),
        ("DELETE FROM lane", "numbers of no lane"),
        ("UPDATE cursor SET lost = '?'", "damaged, or no journal"),
    ],
)
def test_what_is_no_journal_of_this_client_is_refused(
    tmp_path: Path, damage: str, problem: str | None
) -> None:
    path = tmp_path / "alice.journal"
    db = apsw.Connection(str(path))
    records = Records(db, "alice")
    _, link = journaled(records)
    for number in range(3):
        link.submit(Raw(b"%d" % number))
    link.receive(LinkMessage(run=9, seq=1, base=1, data=Raw(b"1")), "server", 0.0)
    link.finish(LinkMessage(run=9, seq=1, base=1, data=Raw(b"1")), 0.0)
    records.keep([(changes_of(link, begun=True), 0.0)], 1)
    if problem is not None:
        db.execute(damage)
    db.close()
    if problem is None:
        open_and_close(path)
        return
    with pytest.raises(JournalError, match=problem):
        open_and_close(path)
    with pytest.raises(JournalError, match=problem):  # and it is not held
        open_and_close(path)


def open_and_close(path: Path, client_id: str = "alice") -> Saved:
    async def work() -> Saved:
        journal = Journal(str(path), client_id, kept=lambda changes: None, failed=lambda error: None)
        try:
            return await journal.open(0.0)
        finally:
            await journal.close()

    return asyncio.run(work())


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "alice.journal"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    with pytest.raises(JournalError, match=r"alice\.journal is damaged, or no journal"):
        open_and_close(path)
    with pytest.raises(JournalError, match="No such file or directory"):
        open_and_close(tmp_path / "nowhere" / "alice.journal")
    (tmp_path / "directory").mkdir()
    with pytest.raises(JournalError, match="cannot be opened"):
        open_and_close(tmp_path / "directory")


def test_a_damaged_page_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "alice.journal"
    open_and_close(path)
    data = bytearray(path.read_bytes())
    data[2 * 4096 - 100 : 2 * 4096] = b"\xff" * 100
    data[4096 : 4096 + 12] = b"\x0d\x00\x00\x00\x40\x00\x10\x00\x00\x00\x10\x00"
    path.write_bytes(data)
    with pytest.raises(JournalError, match="damaged"):
        open_and_close(path)


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    open_and_close(tmp_path / "alice.journal")
    assert (tmp_path / "alice.journal").stat().st_mode & 0o777 == 0o600


# --- one process at a time -------------------------------------------------------------------------------


def test_a_second_client_is_refused_as_long_as_the_first_lives(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        path = tmp_path / "alice.journal"
        async with make(server, journal=path):
            with pytest.raises(JournalError, match="in use by another client"):
                await make(server, journal=str(path)).open()
        async with make(server, journal=path):
            pass
        with pytest.raises(JournalError, match="journal of 'alice', not of 'bob'"):
            await make(server, "bob", journal=path).open()
        server.failures = [OSError(1, "no") for _ in range(9)]
        with pytest.raises(duolink.Unreachable):
            await make(server, journal=path).open()
        server.failures.clear()
        async with make(server, journal=path):
            pass

    play(monkeypatch, work())


def test_a_forked_child_does_not_keep_the_file(tmp_path: Path) -> None:
    """A child that lives on must not keep the journal from its parent's successor."""

    async def work() -> None:
        path = str(tmp_path / "alice.journal")
        journal = Journal(path, "alice", kept=lambda changes: None, failed=lambda error: None)
        await journal.open(0.0)
        read, write = os.pipe()
        forked, tell = os.pipe()
        child = os.fork()
        if not child:
            os.write(tell, b".")
            os.read(read, 1)
            os._exit(0)
        try:
            os.read(forked, 1)
            os.close(journal._lock)  # as the end of the process would
            journal._lock = -1
            room._HELD.discard(journal)
            other = Journal(path, "alice", kept=lambda changes: None, failed=lambda error: None)
            await other.open(0.0)
            await other.close()
        finally:
            await journal.close()
            os.write(write, b".")
            os.waitpid(child, 0)  # noqa: ASYNC222 - it is about to exit
            for end in (read, write, forked, tell):
                os.close(end)

    asyncio.run(work())


# --- sending ---------------------------------------------------------------------------------------------


def test_send_returns_and_leaves_when_it_is_on_disk(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            link = client.link("bob")
            await turns()
            disk_of(client).hold()
            at_once = link.try_send(1)
            later = asyncio.ensure_future(link.send(2))
            await turns()
            assert sent_by(server) == [] and not later.done() and at_once.fate == "pending"
            disk_of(client).release()
            assert (await later).seq == 2
            await turns()
            assert sent_by(server) == [(RUN, 1, b"1"), (RUN, 2, b"2")]

    play(monkeypatch, work())


def test_turns_that_wait_for_the_disk_share_a_commit(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        batches: list[int] = []
        keep = Records.keep

        def counted(self: Records, batch: Any, now_ms: int) -> None:
            batches.append(len(batch))
            keep(self, batch, now_ms)

        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            link = client.link("bob")
            await turns()
            monkeypatch.setattr(Records, "keep", counted)
            disk_of(client).hold()
            for number in range(3):
                link.try_send(number)
                await turns()
            disk_of(client).release()
            await turns(10)
            assert batches == [1, 2]
            assert [seq for _, seq, _ in sent_by(server)] == [1, 2, 3]

    play(monkeypatch, work())


def test_what_has_expired_before_the_commit_is_lost_and_send_returns(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            link = client.link("bob")
            await turns()
            disk_of(client).hold()
            link.try_send(0)
            await turns()
            sent = await link.send(1, expires=0.0)
            assert sent.fate == "lost"
            disk_of(client).release()
            await turns()
            assert sent_by(server) == [(RUN, 1, b"0")]

    play(monkeypatch, work())


def test_the_next_process_goes_on_with_run_numbers_and_what_is_not_safe(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    async def work() -> None:
        server = FakeServer()
        client = make(server, journal=tmp_path / "j")
        await client.open()
        link = client.link("bob")
        assert link.newest_tag() == ""
        for number in range(1, 4):
            await link.send(number, tag=f"order-{number}")
        server.line.deliver(server.ack("bob", 1))
        await turns()
        await killed(client)
        server.got.clear()

        async with make(server, journal=tmp_path / "j") as client:
            assert server.hellos[-1].run == RUN and server.hellos[-1].session == ""
            assert [(sent.peer, sent.seq, sent.tag, sent.fate) for sent in client.restored] == [
                ("bob", 2, "order-2", "pending"),
                ("bob", 3, "order-3", "pending"),
            ]
            link = client.link("bob")
            assert link.newest_tag() == "order-3" and link.newest_tag("bulk") == ""
            await link.send(4)
            await turns()
            assert sent_by(server) == [(RUN, 2, b"2"), (RUN, 3, b"3"), (RUN, 4, b"4")]
            assert link.newest_tag() == "order-3"
            server.line.deliver(server.ack("bob", 4))
            await client.restored[1].delivered()
            assert client.restored[0].fate == "delivered"
        async with make(server, journal=tmp_path / "j") as client:
            assert client.restored == []
            assert (await client.link("bob").send(5)).seq == 5
            server.line.deliver(server.ack("bob", 5))

    play(monkeypatch, work())


def test_leaving_keeps_what_is_not_safe_and_does_not_complain(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server, journal=tmp_path / "j", close_timeout=0.5) as client:
            sent = await client.link("bob").send(1)
            unwritten = client.link("bob").try_send(2)
            waiting = asyncio.ensure_future(sent.delivered())
            await turns()
        assert unwritten.fate == sent.fate == "pending"
        for look in (waiting, sent.stored(), unwritten.delivered()):
            with pytest.raises(ClientClosed):
                await look
        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            assert [sent.seq for sent in client.restored] == [1, 2]

    play(monkeypatch, work())


def test_what_a_mailbox_has_stays_stored(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server, journal=tmp_path / "j") as client:
            sent = await client.link("bob").send(1)
            await turns()
            server.line.deliver(Stored(to="bob", lane="messages", run=RUN, seq=1))
            await sent.stored()
        server.got.clear()
        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            (sent,) = client.restored
            assert sent.fate == "stored"
            await sent.stored()
            await turns()
            assert sent_by(server) == [], "it is the mailbox's to send"
            server.line.deliver(server.ack("bob", 1))
            await sent.delivered()

    play(monkeypatch, work())


def test_what_has_expired_meanwhile_is_lost_unless_it_was_delivered(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    async def work() -> None:
        server = FakeServer()
        client = make(server, journal=tmp_path / "j")
        await client.open()
        await client.link("bob").send(1, expires=5.0)
        await client.link("bob").send(2, expires=5.0)
        await turns()
        await killed(client)
        await asyncio.sleep(60)
        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            first, second = client.restored
            (skip,) = await server.expect(Skip)
            assert (skip.seq, skip.last, skip.reason) == (1, 2, "expired")
            server.line.deliver(server.ack("bob", 2, lost=[LostRange(2, 2, "expired")], by=9))
            await first.delivered()
            with pytest.raises(Lost, match="expired") as caught:
                await second.delivered()
            assert not caught.value.certain, "another process of bob may have had it"

    play(monkeypatch, work())


def test_a_request_ends_with_its_process_a_reply_does_not(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        client = make(server, journal=tmp_path / "j")
        await client.open()
        asking = asyncio.ensure_future(client.link("bob").request("?"))
        await turns()
        client.on_request(lambda message: "!")
        server.line.deliver(server.message("bob", 1, "?", request="q1"))
        await turns(10)
        assert len(sent_by(server)) == 2
        await killed(client)
        with pytest.raises(ClientClosed):
            await asking
        server.got.clear()
        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            assert [sent.fate for sent in client.restored] == ["pending"], "the reply"
            await turns()
            (skip,) = await server.expect(Skip)
            assert (skip.seq, skip.last, skip.reason) == (1, 1, "sender_restarted")
            (reply,) = await server.expect(LinkMessage)
            assert (reply.seq, reply.reply, bytes(reply.data)) == (2, "q1", b'"!"')
            server.line.deliver(server.ack("bob", 2))
            await client.restored[0].delivered()

    play(monkeypatch, work())


def test_the_processes_of_a_run_use_different_names(monkeypatch: Patch, tmp_path: Path) -> None:
    """A publish's key or a request's name that comes again would get the answer of the first."""

    async def work() -> None:
        server = FakeServer()
        for _ in range(2):
            async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
                task = asyncio.ensure_future(client.channel("news").publish(1))
                await turns()
                task.cancel()
        keys = [message.key for message in server.got if isinstance(message, Publish)]
        assert keys == [f"{RUN:x}-1-1", f"{RUN:x}-2-1"]

    play(monkeypatch, work())


def test_a_superseded_run_is_begun_anew_with_what_was_not_safe(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        client = make(server, journal=tmp_path / "j")
        await client.open()
        link = client.link("bob")
        for number in range(1, 5):
            await link.send(number, tag=str(number))
        await client.link("carol").send("x", tag="c")
        asking = asyncio.ensure_future(link.request("?"))
        await turns()
        server.line.deliver(Stored(to="bob", lane="messages", run=RUN, seq=2), server.ack("carol", 1))
        await turns()
        await killed(client)
        with pytest.raises(ClientClosed):
            await asking
        server.got.clear()

        def refuse(line: Any, hello: Hello) -> bool:
            if hello.run == RUN:
                line.deliver(Error(code="superseded", message="newer", fatal=True))
                line.end(3502, "newer")
                return True
            welcome = server.welcome(hello)
            welcome.run = RUN + 7
            line.deliver(welcome)
            return True

        server.on_hello = refuse
        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            assert [hello.run for hello in server.hellos[-2:]] == [RUN, 0]
            assert [(sent.seq, sent.tag) for sent in client.restored] == [(1, "3"), (2, "4")]
            assert client.link("bob").newest_tag() == "4" and client.link("carol").newest_tag() == "c"
            await turns()
            assert sent_by(server) == [(RUN + 7, 1, b"3"), (RUN + 7, 2, b"4")]
        server.on_hello = lambda line, hello: False
        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            assert server.hellos[-1].run == RUN + 7
            assert [(sent.seq, sent.tag) for sent in client.restored] == [(1, "3"), (2, "4")]
            assert client.link("carol").newest_tag() == "c"

    play(monkeypatch, work())


def test_a_client_that_is_superseded_later_ends_and_keeps_its_numbers(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server, journal=tmp_path / "j") as client:
            sent = await client.link("bob").send(1)
            server.line.deliver(Error(code="superseded", message="newer", fatal=True))
            server.line.end(3502, "newer")
            with pytest.raises(duolink.Refused, match="superseded"):
                await sent.delivered()
        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            assert [sent.seq for sent in client.restored] == [1]

    play(monkeypatch, work())


def test_a_run_with_very_many_quiet_lanes_is_begun_anew(monkeypatch: Patch) -> None:
    monkeypatch.setattr(ledger_room, "MAX_QUIET", 1)
    lanes = (SavedLane("a", "messages", 3, "", ()), SavedLane("b", "messages", 3, "", ()))
    assert Ledger(Saved(5, 1, lanes, ())).run == 0
    assert Ledger(Saved(5, 1, lanes[:1], ())).run == 5
    busy = (*lanes, SavedLane("c", "messages", 2, "", (entry(1),)))
    assert Ledger(Saved(5, 1, busy, ())).run == 5


def test_a_tag_has_a_length() -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            with pytest.raises(ValueError, match="255 bytes"):
                await client.link("bob").send(1, tag="ü" * 128)

    asyncio.run(work())


def test_the_acknowledgement_of_a_number_that_cannot_have_left_changes_nothing() -> None:
    records = Records(apsw.Connection(":memory:"), "alice")
    _, link = journaled(records)
    link.path_up("server", PathKind.SERVER, 0.0)
    link.submit(Raw(b"1"))
    assert link.take(0.0) == [], "it has not left"
    link.receive(Ack(run=5, seq=1), "server", 0.0)
    link.receive(Stored(to="bob", lane="messages", run=5, seq=1), "server", 0.0)
    riding = LinkMessage(run=9, seq=1, base=1, data=Raw(b"1"), ack_run=5, ack=1)
    link.receive(riding, "server", 0.0)
    assert link.unsettled == 1 and not link.outstanding()[0].stored


# --- receiving -------------------------------------------------------------------------------------------


def test_an_acknowledgement_waits_for_the_disk(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server, journal=tmp_path / "j") as client:
            disk_of(client).hold()
            client.on_message(lambda message: None)
            server.line.deliver(server.message("bob", 1, 1, ask=True))
            await turns(10)
            server.line.deliver(Probe(run=7, seq=1, base=1, sender="bob"))
            await turns()
            assert [ack.seq for ack in server.got if isinstance(ack, Ack)] == [0]
            disk_of(client).release()
            await turns()
            assert [ack.seq for ack in server.got if isinstance(ack, Ack)] == [0, 1]

    play(monkeypatch, work())


def test_what_was_finished_does_not_come_again_what_was_not_does(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        got: list[Any] = []
        client = make(server, journal=tmp_path / "j")
        await client.open()
        reader = client.messages(acks="manual")
        server.line.deliver(*(server.message("bob", seq, seq) for seq in (1, 2, 3)))
        for number in range(3):
            message = await anext(reader)
            assert isinstance(message, duolink.Message)
            if number < 2:
                message.ack()
        await turns()
        await killed(client)
        server.got.clear()
        async with make(server, journal=tmp_path / "j") as client:
            client.on_message(lambda message: got.append(message.data))
            server.line.deliver(*(server.message("bob", seq, seq) for seq in (1, 2, 3)))
            await turns()
            server.line.deliver(server.message("bob", 1, "old", run=6))
            (first, *_) = await server.expect(Ack)
            assert first.seq == 2, "a repeat is acknowledged"
            await turns()
        assert got == [3]

    play(monkeypatch, work())


def test_a_hole_after_a_restart_is_asked_for_at_once(monkeypatch: Patch, tmp_path: Path) -> None:
    """What the process before had taken and not finished with is gone with it; its sender may not know."""

    async def work() -> None:
        server = FakeServer()
        client = make(server, journal=tmp_path / "j")
        await client.open()
        client.on_message(lambda message: None)
        server.line.deliver(server.message("bob", 1, 1))
        await turns(10)
        await killed(client)
        server.got.clear()
        async with make(server, journal=tmp_path / "j") as client:
            began = asyncio.get_running_loop().time()
            server.line.deliver(server.message("bob", 3, 3))
            (ack,) = await server.expect(Ack)
            assert (ack.seq, ack.want) == (1, True)
            assert asyncio.get_running_loop().time() - began < 0.1

    play(monkeypatch, work())


def test_what_was_lost_is_told_again_after_a_restart(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        client = make(server, journal=tmp_path / "j")
        await client.open()
        server.line.deliver(Skip(run=7, seq=1, last=2, base=1, reason="expired", sender="bob"))
        await turns(10)
        await killed(client)
        server.got.clear()
        events: list[Any] = []
        async with make(server, journal=tmp_path / "j") as client:
            client.on_event(events.append)
            probe = Probe(run=7, seq=2, base=1, sender="bob", start=3, lost=[LostRange(1, 2, "expired")])
            server.line.deliver(probe)
            (ack,) = await server.expect(Ack)
            assert (ack.seq, ack.lost) == (2, [LostRange(1, 2, "expired")])
        assert not [event for event in events if isinstance(event, MessagesLost)]

    play(monkeypatch, work())


def test_the_server_knows_better_where_another_process_was() -> None:
    """A process without the journal has taken some meanwhile: what the mailbox says is finished, is."""
    link = Link("bob", 5, journaled=True)
    link.restore((), (SavedCursor("bob", "", "messages", 7, 3, ()),), anew=False)
    link.receive(Probe(run=7, seq=9, base=2, start=8), "server", 0.0)
    link.receive(LinkMessage(run=7, seq=8, base=2, data=Raw(b"8")), "server", 0.0)
    events: list[Any] = link.events()
    assert [event.message.seq for event in events] == [8]


def test_cursors_of_an_older_run_do_not_count() -> None:
    link = Link("bob", 5, journaled=True)
    cursors = (SavedCursor("bob", "", "messages", 7, 3, ()), SavedCursor("bob", "", "bulk", 9, 4, ()))
    link.restore((), (*cursors, SavedCursor("bob", "", "bulk", 8, 9, ())), anew=False)
    link.receive(LinkMessage(run=8, seq=10, base=10, lane="bulk", data=Raw(b"1")), "server", 0.0)
    assert link.events() == []
    link.receive(LinkMessage(run=9, seq=1, base=1, data=Raw(b"1")), "server", 0.0)
    link.receive(LinkMessage(run=9, seq=4, base=1, lane="bulk", data=Raw(b"1")), "server", 0.0)
    assert len(link.events()) == 1
    link.receive(LinkMessage(run=10, seq=1, base=1, lane="bulk", data=Raw(b"1")), "server", 0.0)
    assert len(link.events()) == 1, "a newer run of the peer begins"


def test_a_commit_that_comes_after_the_end_of_a_run_changes_nothing() -> None:
    link = Link("bob", 5, journaled=True)
    link.path_up("server", PathKind.SERVER, 0.0)
    messages = [LinkMessage(run=7, seq=seq, base=1, data=Raw(b"1")) for seq in (1, 2)]
    for message in messages:
        link.receive(message, "server", 0.0)
    link.finish(messages[0], 0.0)
    ((inbound, cursor),) = link.cursor_changes()
    link.receive(LinkMessage(run=8, seq=1, base=1, data=Raw(b"1")), "server", 0.0)
    inbound.keep(cursor.finished, 0.0)
    link.finish(messages[1], 0.0)
    acks: list[Any] = [message for _, message in link.take(1.0)]
    assert [(ack.run, ack.seq) for ack in acks] == [(7, 2)]


# --- a disk that fails -----------------------------------------------------------------------------------


def test_a_journal_that_cannot_be_written_closes_the_client(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        events: list[Any] = []

        def full(self: Records, batch: Any, now_ms: int) -> None:
            raise apsw.FullError("database or disk is full")

        async with make(server, journal=tmp_path / "j") as client:
            client.on_event(events.append)
            link = client.link("bob")
            await turns()
            monkeypatch.setattr(Records, "keep", full)
            reading = asyncio.ensure_future(anext(client.messages()))
            with pytest.raises(JournalError, match="cannot be written: database or disk is full"):
                await link.send(1)
            with pytest.raises(JournalError):
                await link.send(2)
            with pytest.raises(JournalError):
                await reading
            assert sent_by(server) == [], "what is not kept does not leave"
        assert [event.what for event in events if isinstance(event, HandlerFailed)] == ["journal"]
        assert not [event for event in events if isinstance(event, Trouble)]

    play(monkeypatch, work())


def test_closing_while_the_disk_is_slow_waits_for_it(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            link = client.link("bob")
            await turns()
            disk_of(client).hold()
            link.try_send(1)
            await turns()
            link.try_send(2)
            asyncio.get_running_loop().call_later(1.0, disk_of(client).release)
        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            assert [sent.seq for sent in client.restored] == [1, 2]

    play(monkeypatch, work())


def test_leaving_acknowledges_what_is_finished_and_kept(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server, journal=tmp_path / "j") as client:
            client.on_message(lambda message: None)
            disk_of(client).hold()
            server.line.deliver(server.message("bob", 1, 1))
            await turns(10)
            asyncio.get_running_loop().call_later(1.0, disk_of(client).release)
        assert [(type(message), getattr(message, "seq", 0)) for message in server.got][-2:] == [
            (Ack, 1),
            (Goodbye, 0),
        ]

    play(monkeypatch, work())


def test_who_is_cancelled_while_leaving_leaves_everything_kept(monkeypatch: Patch, tmp_path: Path) -> None:
    async def work() -> None:
        server = FakeServer()
        client = make(server, journal=tmp_path / "j", close_timeout=0.0)
        await client.open()
        link = client.link("bob")
        await turns()
        disk_of(client).hold()
        for number in (1, 2):
            link.try_send(number)
            await turns()
        closing = asyncio.ensure_future(client.close())
        await turns()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        async with make(server, journal=tmp_path / "j", close_timeout=0.0) as client:
            assert [sent.seq for sent in client.restored] == [1, 2]

    play(monkeypatch, work())


def test_no_more_links_are_restored_than_may_be(monkeypatch: Patch) -> None:
    monkeypatch.setattr(limits, "MAX_LINKS", 2)
    lanes = tuple(SavedLane(f"p{number}", "messages", 2, "tag", (entry(1),)) for number in range(4))
    assert Ledger(Saved(5, 1, lanes, ())).welcomed(6) == ["p0", "p1"]
