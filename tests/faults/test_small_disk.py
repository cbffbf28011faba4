"""Real servers on real disks that are full, fail, or cannot be used."""

import asyncio
from collections.abc import Awaitable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import CliRunner

from duolink import Options
from duolink.cli.main import cli
from duolink.client.client import Client, connect
from duolink.client.events import MessagesLost, Trouble
from duolink.client.message import Message, Sent
from duolink.engines.sqlite import schema
from duolink.engines.sqlite.database import Database

from .process import TIMEOUT, free_port
from .small_disk import Server, find_strace, launch, serving, small_disk

HASTY = Options(backoff_initial=0.05, backoff_cap=0.2)
TEXT = "x" * 8000


class Sender:
    """alice: what she has sent to bob, who is away, and what troubles her."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.sent: list[Sent] = []
        self.lost: list[MessagesLost] = []
        self.troubles: list[str] = []
        self.troubled = asyncio.Event()
        client.on_event(self._event)

    def _event(self, event: Any) -> None:
        if isinstance(event, Trouble):
            self.troubles.append(event.code)
            self.troubled.set()
        elif isinstance(event, MessagesLost):
            self.lost.append(event)

    async def send(self) -> None:
        number = len(self.sent) + 1
        self.sent.append(await self.client.link("bob").send(f"{number} {TEXT}"))

    async def send_until_troubled(self) -> None:
        """Send as fast as it is stored, until it cannot be."""
        while not self.troubled.is_set():
            sending = asyncio.ensure_future(self.send())
            trouble = asyncio.ensure_future(self.troubled.wait())
            await asyncio.wait({sending, trouble}, return_when=asyncio.FIRST_COMPLETED)
            trouble.cancel()
            if not sending.done():
                sending.cancel()


async def talk(dora: Client, emil: Client, count: int) -> None:
    """Send live messages, one after the other; each is delivered before the next one leaves."""
    stream = emil.link("dora").messages()
    for number in range(count):
        sent = await dora.link("emil").send(number)
        message = await anext(stream)
        assert isinstance(message, Message) and message.data == number
        message.ack()
        await sent.delivered()
    await stream.aclose()


async def take(server: Server, count: int) -> list[int]:
    """bob comes, and takes what is kept for him."""
    numbers = []
    async with connect(server.url, client_id="bob", options=HASTY) as bob:
        async for message in bob.link("alice").messages(losses=True):
            assert isinstance(message, Message)
            number, text = message.data.split()
            assert text == TEXT
            numbers.append(int(number))
            if len(numbers) == count:
                message.ack()
                break
    return numbers


def run(main: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main, 2 * TIMEOUT)

    asyncio.run(bounded())


def check(database: Path) -> str:
    """`duolink db check`."""
    result = CliRunner().invoke(cli, ["db", "check", "--database", str(database)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("kind", ["ext4", "limit"])
def test_a_full_disk_keeps_nobody_from_talking_and_when_there_is_room_everything_arrives_once(
    kind: str, tmp_path: Path
) -> None:
    async def main() -> None:
        with small_disk(kind, tmp_path) as disk:
            database = disk.path / "duolink.db"
            async with (
                serving(database, limit=disk.limit) as server,
                connect(server.url, client_id="dora", options=HASTY) as dora,
                connect(server.url, client_id="emil", options=HASTY) as emil,
                connect(server.url, client_id="alice", options=HASTY) as client,
            ):
                await talk(dora, emil, 3)
                alice = Sender(client)
                await alice.send_until_troubled()
                assert "unavailable" in alice.troubles
                status, answer = await server.readiness()
                (reason,) = answer["reasons"]
                assert status == 503 and reason.startswith("storage: the disk ")
                await talk(dora, emil, 20)
                async with connect(server.url, client_id="late", options=HASTY):
                    pass  # who is new comes in all the same
                emil.cut()
                await talk(dora, emil, 5)  # who comes back is given what is live, too
                assert len(await take(server, 3)) == 3  # … and what waits for him, as far as he goes
                stored = sum(sent.fate == "stored" for sent in alice.sent)
                assert 0 < stored < len(alice.sent)
                assert client.link("bob").unsettled == len(alice.sent) - 3
                disk.free(server)
                async with asyncio.timeout(TIMEOUT):
                    for sent in alice.sent:
                        await sent.stored()
                await server.until_ready()
                numbers = await take(server, len(alice.sent) - 3)
                assert numbers == list(range(4, len(alice.sent) + 1))
                async with asyncio.timeout(TIMEOUT):
                    for sent in alice.sent:
                        await sent.delivered()
                assert not alice.lost
            check(database)

    run(main())


@pytest.mark.parametrize(
    ("call", "error", "when"),
    [("fdatasync", "EIO", "4..5"), ("pwrite64", "ENOSPC", "30..31")],
)
def test_system_calls_that_fail_cost_nothing(call: str, error: str, when: str, tmp_path: Path) -> None:
    """Of the writer's thread: strace counts the calls of each by itself."""
    database, trace = tmp_path / "duolink.db", tmp_path / "trace"
    Database(str(database)).close()  # so that the start makes few of these calls
    strace = (
        *(find_strace(), "-D", "-f", "-qq", "--seccomp-bpf", "-o", str(trace), "-e", f"trace={call}"),
        *("-e", f"inject={call}:error={error}:when={when}"),
    )

    async def main() -> None:
        async with (
            serving(database, before=strace) as server,
            connect(server.url, client_id="dora", options=HASTY) as dora,
            connect(server.url, client_id="emil", options=HASTY) as emil,
            connect(server.url, client_id="alice", options=HASTY) as client,
        ):
            alice = Sender(client)
            await alice.send_until_troubled()
            assert "unavailable" in alice.troubles
            await talk(dora, emil, 5)
            for _ in range(5):
                await alice.send()
            async with asyncio.timeout(TIMEOUT):
                for sent in alice.sent:
                    await sent.stored()
            await server.until_ready()
            assert await take(server, len(alice.sent)) == list(range(1, len(alice.sent) + 1))
            async with asyncio.timeout(TIMEOUT):
                for sent in alice.sent:
                    await sent.delivered()
            assert not alice.lost

    run(main())
    assert "(INJECTED)" in trace.read_text()
    check(database)


def test_a_database_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.db" for name in ("damaged", "no database", "newer", "in use", "other")}
    for name in ("damaged", "newer", "in use"):
        Database(str(paths[name])).close()
    with paths["damaged"].open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 500)
    paths["no database"].write_bytes(b"not a database at all\n" * 1000)
    with closing(apsw.Connection(str(paths["newer"]))) as db:
        db.pragma("user_version", schema.VERSION + 1)
    with closing(apsw.Connection(str(paths["other"]))) as db:
        db.execute("CREATE TABLE theirs (a)")
    refusals = {
        "damaged": "is damaged; restore a backup.",
        "no database": "is not a database.",
        "newer": f"was written by a newer duolink (format {schema.VERSION + 1}; this one ",
        "in use": "is in use by another server (process ",
        "other": "is a database of another program.",
    }

    async def refused(name: str) -> None:
        before = paths[name].read_bytes()
        process = await launch(paths[name], free_port())
        out, error = await asyncio.wait_for(process.communicate(), TIMEOUT)
        text = error.decode()
        assert process.returncode == 2 and out == b"" and text.count("\n") == 1, text
        assert f"{paths[name]} {refusals[name]}" in text
        assert paths[name].read_bytes() == before

    async def main() -> None:
        with closing(Database(str(paths["in use"]))):
            await asyncio.gather(*(refused(name) for name in refusals))

    run(main())
