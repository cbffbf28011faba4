"""Processes for tests that kill them: the server, `duolink send` and `duolink listen`, on pipes."""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from duolink.cli import demo

PORTS = range(20_000, 32_000)
"""Below the ports that Linux gives to outgoing connections: while the server is dead nobody else, not even
a client that knocks at its port, is given it."""

SMALL = 4096
"""Bytes that wait in a sender's pipe: what it was given it has read, or soon will have."""

CUT_OFF = re.compile(r"lost from (\S+): (\d+) … (\d+) \(sender_restarted\)")
"""What `listen` says of messages whose sender died before they were safe."""

TIMEOUT = 30.0
"""Seconds for one step; no test waits so long unless it fails."""


def free_port() -> int:
    """Return a port that stays the caller's over restarts."""
    random = Random(os.getpid())
    while True:
        port = random.choice(PORTS)
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Server(demo.Server):
    """`duolink serve`, on the same port (and database, if it has one) in each of its lives."""

    def __init__(self, database: Path | None = None) -> None:
        super().__init__(None if database is None else str(database))
        self.port = free_port()


def is_online(port: int, name: str) -> bool:
    """Whether the server knows a client of that name with a connection."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/clients/{name}", timeout=TIMEOUT) as answer:
            state: str = json.load(answer)["state"]
            return state == "active"
    except OSError:  # 404, or no server
        return False


class Command:
    """A `duolink` command on pipes, and whoever waits for it."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.process: asyncio.subprocess.Process
        self.said: asyncio.Task[bytes]
        """What it has told people, when it has ended."""

    async def start(self, port: int) -> None:
        """Start it, and wait until it is online: a first connect gives up after some seconds, which a server
        that is killed meanwhile may need to come back on a busy machine."""
        await self._spawn(port)
        online = partial(asyncio.to_thread, is_online, port, self.words[1])
        while self.process.returncode is None and not await online():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)

    async def _spawn(self, port: int) -> None:
        pipe = asyncio.subprocess.PIPE
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DUOLINK_")}
        arguments = [*self.words, "--url", f"ws://127.0.0.1:{port}"]
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "duolink.cli.main", *arguments,
            stdin=pipe, stdout=pipe, stderr=pipe, env=clean,
        )  # fmt: skip
        assert self.process.stderr is not None
        self.said = asyncio.create_task(self.process.stderr.read())

    async def kill(self) -> None:
        """SIGKILL: it can neither save anything nor say goodbye."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


class Sender(Command):
    """`duolink send`, fed with lines as fast as it takes them."""

    def __init__(self, life: int, lines: Iterable[str], name: str = "alice", to: str = "bob") -> None:
        super().__init__("send", name, to, "--json")
        self.life = life
        self.lines = lines
        self._feeding: asyncio.Task[None]

    async def start(self, port: int) -> None:
        """Start it, and feed it."""
        await super().start(port)
        pipe = self.process.stdin
        assert pipe is not None
        pipe.transport.set_write_buffer_limits(0)
        fcntl.fcntl(pipe.get_extra_info("pipe"), fcntl.F_SETPIPE_SZ, SMALL)
        self._feeding = asyncio.create_task(self._feed())

    async def _feed(self) -> None:
        pipe = self.process.stdin
        assert pipe is not None
        try:
            for line in self.lines:
                pipe.write(json.dumps(line).encode() + b"\n")
                await pipe.drain()
                await asyncio.sleep(0)  # a pipe with room never waits, and the lines may have no end
            pipe.close()
        except ConnectionError:
            pass  # it was killed

    async def kill(self) -> None:
        """See `Command.kill`."""
        await super().kill()
        with contextlib.suppress(asyncio.CancelledError):  # by a test that waited for the report
            await self._feeding

    async def report(self) -> dict[str, int]:
        """Wait for its end; return what it says became of its lines."""
        await asyncio.wait_for(self._feeding, TIMEOUT)
        assert self.process.stdout is not None
        out = await asyncio.wait_for(self.process.stdout.read(), TIMEOUT)
        assert await self.process.wait() == 0, (out, await self.said)
        report: dict[str, int] = json.loads(out)
        return report


class Listener(Command):
    """`duolink listen --json`; `printed` is what it has put out, as far as it was read."""

    def __init__(self, seen: Callable[[], None], name: str = "bob") -> None:
        super().__init__("listen", name, "--json")
        self.printed: list[dict[str, Any]] = []
        self._seen = seen
        self._reading: asyncio.Task[None]

    async def start(self, port: int) -> None:
        """Start it, and read it."""
        await super().start(port)
        self._reading = asyncio.create_task(self._read())

    @property
    def cut_off(self) -> list[tuple[str, int, int]]:
        """(Sender, first, last) of what it has called lost because its sender has another life."""
        said = self.said.result().decode() if self.said.done() else ""
        return [(sender, int(first), int(last)) for sender, first, last in CUT_OFF.findall(said)]

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            if line.endswith(b"\n"):  # a killed process may leave half a line
                self.printed.append(json.loads(line))
                self._seen()

    async def kill(self) -> None:
        """See `Command.kill`; what it had printed is still read."""
        await super().kill()
        await self._reading
        await self.said

    async def stop(self) -> int:
        """Ask it to end, read the rest, return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(self.process.wait(), TIMEOUT)
        await self._reading
        await self.said
        return code
