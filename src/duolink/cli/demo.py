"""`duolink demo`: a conversation with a cut and a restart, played in one terminal, explained and checked."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Final

import click
from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from duolink.cli.options import EXIT_LOST, EXIT_SAFE, EXIT_UNREACHABLE, Failed
from duolink.client.client import Client, connect
from duolink.client.errors import DuolinkError
from duolink.client.events import Event, PeerChanged, State, StateChanged
from duolink.client.message import Message, Sent
from duolink.protocol.codes import PeerState
from duolink.protocol.options import Options

PATIENCE: Final = 15.0
"""Seconds for any single thing to happen."""

SERVER_START: Final = 10.0
"""Seconds for a server to be there."""

PAUSE: Final = 1.5
"""Seconds before each act, for who reads along on a terminal."""

HASTY: Final = Options(backoff_initial=0.4, backoff_cap=1.0)
"""A demonstration does not wait as long between attempts as clients of a busy server should."""

COLOURS: Final = {"alice": "cyan", "bob": "magenta", "server": "yellow"}


class Failure(Exception):
    """What the demonstration claims did not happen."""


@click.command()
def demo() -> None:
    """Play a conversation with a cut and a restart, and explain it.

    Starts a server of its own on a free port of this machine. Exits with 0 only if every message arrived
    once and in order.
    """
    console = Console(highlight=False)
    try:
        asyncio.run(Play(console).run())
    except (Failure, DuolinkError, TimeoutError) as error:
        console.print(f"\n[bold red]✗ {escape(str(error) or 'it took too long')}[/]")
        raise SystemExit(EXIT_LOST) from None
    raise SystemExit(EXIT_SAFE)


class Server:
    """A server process on a port of its own, which it keeps over restarts. Without a database, all is in
    its memory."""

    def __init__(self, database: str | None = None) -> None:
        self.database = database
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it accepts connections. Raises `Failed` when it does not."""
        process = self._process = self._spawn()
        deadline = asyncio.get_running_loop().time() + SERVER_START
        while asyncio.get_running_loop().time() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
                return
            await asyncio.sleep(0.05)
        raise Failed("the server did not start; try `duolink serve` to see why", EXIT_UNREACHABLE)

    def _spawn(self) -> subprocess.Popen[bytes]:
        storage = ["--memory"] if self.database is None else ["--database", self.database]
        command = [sys.executable, "-m", "duolink.cli.main", "serve", *storage]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "error"]
        settings = {name: value for name, value in os.environ.items() if not name.startswith("DUOLINK_")}
        null = subprocess.DEVNULL
        return subprocess.Popen(command, stdin=null, stdout=null, stderr=null, env=settings)

    def kill(self) -> None:
        """End it with SIGKILL: it can neither save anything nor say goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Person:
    """One side of the conversation: what it said and heard."""

    def __init__(self, client: Client, tell: Callable[[str, str], None]) -> None:
        self.client, self._tell = client, tell
        self.name = client.client_id
        self.said: list[str] = []
        self.heard: list[str] = []
        self._sent: list[Sent] = []
        self._changed = asyncio.Event()
        client.on_event(self._event)

    def listen(self, other: str) -> None:
        """Take what the other says from here on."""
        self.link = self.client.link(other)
        self.link.on_message(self._message)

    def _message(self, message: Message) -> None:
        self.heard.append(message.data)
        self._tell(self.name, f"hears “{message.data}”")
        self._changed.set()

    def _event(self, event: Event) -> None:
        if isinstance(event, StateChanged) and event.state is not State.CLOSED:
            reason = f" ({event.reason})" if event.reason else ""
            self._tell(self.name, f"is {event.state}{reason}")
        elif isinstance(event, PeerChanged):
            self._tell(self.name, f"sees that {event.peer} is {event.state}")
        self._changed.set()

    async def say(self, *texts: str) -> None:
        """Send lines; each has its number when this returns."""
        for text in texts:
            self.said.append(text)
            self._tell(self.name, f"says “{text}”")
            self._sent.append(await self.link.send(text))

    async def delivered(self) -> None:
        """Wait until everything said so far is delivered."""
        async with asyncio.timeout(PATIENCE):
            for sent in self._sent:
                await sent.delivered()
        self._sent.clear()

    async def until(self, happened: Callable[[], bool], what: str) -> None:
        """Wait for something. Raises `Failure` when it does not happen."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not happened():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise Failure(f"{self.name} waited in vain: {what}") from None


class Play:
    """The demonstration, act by act."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._server = Server()

    async def run(self) -> None:
        """Play. Raises `Failure` when something claimed is not so."""
        try:
            await self._play()
        finally:
            self._server.kill()

    async def _act(self, title: str, explanation: str) -> None:
        if self._console.is_terminal:
            await asyncio.sleep(PAUSE)
        self._console.print()
        self._console.print(Rule(f"[bold]{title}", align="left"))
        self._console.print(f"[dim]{explanation}[/]\n")

    def _tell(self, who: str, what: str) -> None:
        self._console.print(f"  [{COLOURS[who]}]{who:>6}[/] {escape(what)}")

    def _expect(self, claim: str, holds: bool) -> None:
        if not holds:
            raise Failure(f"not so: {claim}")
        self._console.print(f"  [green]✓[/] {escape(claim)}")

    async def _play(self) -> None:
        await self._act("1  A server and two clients", "alice and bob connect, and each watches the other.")
        await self._server.start()
        self._tell("server", f"listens on port {self._server.port}, process {self._server.pid}")
        url = f"ws://127.0.0.1:{self._server.port}"
        async with (
            connect(url, client_id="alice", options=HASTY) as one,
            connect(url, client_id="bob", options=HASTY) as two,
        ):
            alice, bob = Person(one, self._tell), Person(two, self._tell)
            alice.listen("bob")
            bob.listen("alice")
            for person in (alice, bob):
                await person.until(lambda p=person: p.link.state is PeerState.HERE, "the other to be here")  # type: ignore[misc]
            await self._talk(alice, bob)
            await self._cut(alice, bob)
            await self._restart(alice, bob)
            await self._act(
                "The end", "Both leave: acknowledgements and goodbyes go out, nothing is left behind."
            )
        count = len(alice.said) + len(bob.said)
        self._expect(
            f"all {count} messages arrived once, in order",
            alice.said == bob.heard and bob.said == alice.heard,
        )

    async def _talk(self, alice: Person, bob: Person) -> None:
        await self._act(
            "2  Messages both ways",
            "Every message has a number. It is delivered when the other application has finished with it.",
        )
        await alice.say("Hello, bob.", "How are you?")
        await bob.say("Fine, thank you.")
        await alice.delivered()
        await bob.delivered()
        self._expect("three messages sent, three delivered", len(alice.heard) + len(bob.heard) == 3)

    async def _cut(self, alice: Person, bob: Person) -> None:
        await self._act(
            "3  A cut connection",
            "bob's socket is torn off. His session survives for 30 s; alice goes on talking meanwhile.",
        )
        attachment = bob.client.welcome.attachment if bob.client.welcome else 0
        bob.client.cut()
        await bob.until(lambda: bob.client.state is State.RECONNECTING, "to notice the cut")
        await alice.say("Are you still there?", "I keep talking.", "You will hear it all.")
        await bob.until(lambda: bob.client.state is State.ONLINE, "to be back")
        await alice.delivered()
        welcome = bob.client.welcome
        resumed = welcome is not None and welcome.resumed and welcome.attachment == attachment + 1
        self._expect("bob resumed the same session on a new connection", resumed)
        self._expect("what alice said meanwhile arrived once, in order", bob.heard == alice.said)

    async def _restart(self, alice: Person, bob: Person) -> None:
        await self._act(
            "4  kill -9",
            "The server dies without a word, and all it knew is gone. Both keep talking; a new one starts.",
        )
        old = self._server.pid
        self._server.kill()
        self._tell("server", f"process {old} is dead")
        for person in (alice, bob):
            await person.until(lambda p=person: p.client.state is not State.ONLINE, "to notice it")  # type: ignore[misc]
        await alice.say("The server is gone.", "So I count, and wait.")
        await bob.say("So do I.", "Nothing gets lost.")
        await self._server.start()
        self._tell("server", f"is back as process {self._server.pid}")
        await alice.delivered()
        await bob.delivered()
        arrived = alice.said == bob.heard and bob.said == alice.heard
        self._expect("what both said meanwhile arrived once, in order", arrived)
