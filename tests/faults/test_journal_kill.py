"""kill -9 of `duolink send` and `duolink listen` with journals, and of the server between them: every line
arrives once, whoever dies. What is printed twice was printed in the instant before a receiver's death, and
its journal, read by the test after the death, says exactly which lines that are.

A round replays with `ROUNDS=… pytest -m torture -k "journal and [SEED]"`, as far as the machine's own timing
allows.
"""

import asyncio
import os
from pathlib import Path
from random import Random

import apsw
import pytest

from .process import TIMEOUT, Listener, Sender, Server

ROUNDS = int(os.environ.get("ROUNDS", "50"))
LINES = 1500
PAD = "x" * 400

VICTIMS = (
    ("sender",),
    ("receiver", "sender"),
    ("server", "receiver", "sender"),
    ("sender", "sender", "receiver"),
    ("receiver", "server"),
)


class Play:
    """One stream from alice to bob, each with a journal."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self.journals = {name: directory / f"{name}.journal" for name in ("alice", "bob")}
        self.server = Server(directory / "server.db" if durable else None)
        self.moved = asyncio.Event()
        self.sender = self._sender()
        self.listeners: list[Listener] = []
        self.begins: list[int] = []
        """For each life of the receiver, the number after its predecessor's cursor."""

    def _sender(self) -> Sender:
        lines = [f"{number} {PAD}" for number in range(1, LINES + 1)]
        sender = Sender(1, lines)
        sender.words = (*sender.words, "--journal", str(self.journals["alice"]))
        return sender

    async def listen(self) -> None:
        """Begin a life of the receiver."""
        self.begins.append(self.cursor() + 1)
        listener = Listener(self.moved.set)
        listener.words = (*listener.words, "--journal", str(self.journals["bob"]))
        self.listeners.append(listener)
        await listener.start(self.server.port)

    def ask(self, name: str, question: str) -> int:
        """Read a number in a journal; 0 if it is not there."""
        if not self.journals[name].exists():
            return 0
        db = apsw.Connection(str(self.journals[name]), apsw.SQLITE_OPEN_READWRITE)
        try:
            db.set_busy_timeout(5000)
            return int(str(db.execute(question).get or 0))
        finally:
            db.close()

    def cursor(self) -> int:
        """How far the receiver's journal says it has come."""
        return self.ask("bob", "SELECT finished FROM cursor WHERE peer = 'alice'")

    async def printed(self, count: int) -> None:
        """Wait until that line is printed."""
        while max((each["seq"] for life in self.listeners for each in life.printed), default=0) < count:
            self.moved.clear()
            await asyncio.wait_for(self.moved.wait(), TIMEOUT)

    async def kill(self, victim: str) -> None:
        """End one, and let it come back."""
        if victim == "server":
            self.server.kill()
            await self.server.start()
        elif victim == "receiver":
            await self.listeners[-1].kill()
            await self.listen()
        else:
            await self.sender.kill()
            self.sender = self._sender()
            await self.sender.start(self.server.port)

    async def begin(self) -> None:
        await self.server.start()
        await self.listen()
        await self.sender.start(self.server.port)

    async def finish(self) -> None:
        """Let the stream end, and check all of it."""
        report = await self.sender.report()
        assert (report["lost"], report["kept"]) == (0, 0)
        await self.printed(LINES)
        assert await self.listeners[-1].stop() == 0
        self.check()
        assert self.ask("alice", "SELECT next_seq FROM lane") == LINES + 1
        assert self.ask("alice", "SELECT count(*) FROM entry WHERE stored = 0") == 0
        assert self.cursor() == LINES

    def check(self) -> None:
        """Every line has its number, in order, once for every receiver that knows of it."""
        reached = 0
        for begin, listener in zip(self.begins, self.listeners, strict=True):
            numbers = [each["seq"] for each in listener.printed]
            assert numbers == list(range(begin, begin + len(numbers))), f"a life that begins at {begin}"
            assert [each["data"].split()[0] for each in listener.printed] == [
                str(number) for number in numbers
            ]
            assert begin <= reached + 1
            reached = max(reached, begin + len(numbers) - 1)
        assert reached == LINES

    async def end(self) -> None:
        self.server.kill()
        await self.sender.kill()
        for listener in self.listeners:
            await listener.kill()


async def play(seed: int, directory: Path) -> None:
    random = Random(seed)
    victims = VICTIMS[seed % len(VICTIMS)]
    moments = sorted(random.sample(range(1, LINES * 3 // 4), len(victims)))
    stream = Play(directory, durable=seed % 2 == 1)
    try:
        await stream.begin()
        for victim, moment in zip(victims, moments, strict=True):
            await stream.printed(moment)
            await stream.kill(victim)
        await stream.finish()
    finally:
        await stream.end()


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_with_journals_survives_kills(seed: int, tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(play(seed, tmp_path), 4 * TIMEOUT))


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(2000, 2000 + ROUNDS))
def test_a_stream_with_journals_survives_many_kills(seed: int, tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(play(seed, tmp_path), 4 * TIMEOUT))


def test_what_was_printed_while_nobody_could_acknowledge_is_not_printed_again(tmp_path: Path) -> None:
    """The server dies and takes the acknowledgements along; then the receiver, its journal up to date."""

    async def work() -> None:
        stream = Play(tmp_path, durable=False)
        try:
            await stream.begin()
            await stream.printed(LINES // 2)
            stream.server.kill()
            printed = stream.listeners[0].printed[-1]["seq"]
            async with asyncio.timeout(TIMEOUT):
                while stream.cursor() < printed:  # noqa: ASYNC110 - another process's disk tells nobody
                    await asyncio.sleep(0)
            await stream.listeners[0].kill()
            await stream.server.start()
            await stream.listen()
            await stream.finish()
            assert stream.begins[1] > printed
        finally:
            await stream.end()

    asyncio.run(asyncio.wait_for(work(), 4 * TIMEOUT))
