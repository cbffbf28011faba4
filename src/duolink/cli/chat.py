"""`duolink chat`: two people, line by line."""

import asyncio
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol

import click

from duolink.cli.options import EXIT_LOST, EXIT_SAFE, EXIT_USAGE, Failed, connection_options
from duolink.cli.terminal import Lines, checked, emit, printable, run, say, until_stopped, value_of
from duolink.client.client import Client, connect
from duolink.client.errors import ClientClosed, InvalidData, Lost, Unsettled
from duolink.client.events import Event, MessagesLost, PeerChanged, State, StateChanged
from duolink.client.link import Link
from duolink.client.message import Fate, Message, Sent
from duolink.protocol.codes import PeerState

TYPING_EVERY: Final = 2.0
"""Seconds between two signs that somebody is typing."""

TYPING_SHOWN: Final = 4.0
"""Seconds for which such a sign is shown."""

MARKS: Final[dict[Fate, str]] = {"pending": "·", "stored": "✓", "delivered": "✓✓", "lost": "✗ lost"}
"""What became of a line: on its way, kept for the other side, read by it, lost."""

AHEAD: Final = 256
"""Lines that may wait to be sent before typing waits."""


class Face(Protocol):
    """How a conversation is shown."""

    def news(self, text: str) -> None:
        """Something about the connection or the other side."""

    def heard(self, who: str, text: str) -> None:
        """The other side said something."""

    def said(self, text: str) -> Any:
        """This side said something; returns what `fate` names it by."""

    def fate(self, said: Any, text: str, fate: Fate) -> None:
        """What became of it."""

    def status(self, connection: State, peer: PeerState, typing: bool) -> None:
        """How things stand."""


@click.command()
@click.argument("me")
@click.argument("other")
@connection_options
def chat(me: str, other: str, url: str, token: str | None, as_json: bool) -> None:
    """Talk to another client, line by line; Ctrl-D ends it.

    Behind each of your lines: · on its way, ✓ stored for the other side, ✓✓ received there.
    """
    if as_json:
        raise Failed("chat is for people; use send and listen for JSON", EXIT_USAGE)
    client = checked(lambda: connect(url, client_id=me, token=token))
    run(_chat(client, other))


async def _chat(client: Client, other: str) -> int:
    talk = Talk(client, other)
    try:
        async with client:
            await talk.run()
    except Unsettled as error:
        say(str(error))
        return EXIT_LOST
    except InvalidData as error:
        say(str(error))
        return EXIT_USAGE
    finally:
        await talk.finish()
    return EXIT_SAFE


class Talk:
    """One conversation: passes on what is typed, shows what comes."""

    def __init__(self, client: Client, other: str) -> None:
        self.client, self.other = client, other
        self.face: Face = PlainFace()
        self._link: Link | None = None
        self._unsent: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(AHEAD)
        self._ended = asyncio.Event()
        self._followers: set[asyncio.Task[None]] = set()
        self._peer: PeerState | None = None
        self._typing_until: asyncio.TimerHandle | None = None
        self._typed_at = 0.0

    async def run(self) -> None:
        """Talk until standard input ends or the command is interrupted."""
        self._link = checked(lambda: self.client.link(self.other))
        screen: Any = None
        if sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
            from duolink.cli.screen import Screen

            screen = Screen(self.enter, self._typing, self._ended.set)
            self.face = ScreenFace(screen, self.client.client_id, self.other)
        stop = self.client.on_event(self._event)
        try:
            self.face.news(f"online as {self.client.client_id}; Ctrl-D ends the conversation")
            self._status()
            self._link.on_message(self._message)
            self._link.on_ephemeral(self._ephemeral)
            await until_stopped(self.client, self._work(screen is None))
        finally:
            stop()
            if self._typing_until is not None:
                self._typing_until.cancel()
            if screen is not None:
                screen.close()
                self.face = PlainFace()

    async def finish(self) -> None:
        """Tell the fate of the last lines."""
        if self._followers:
            await asyncio.wait(self._followers)

    async def _work(self, plain: bool) -> None:
        sending = asyncio.create_task(self._send())
        ending = asyncio.create_task(self._read() if plain else self._ended.wait())
        try:
            await asyncio.wait([sending, ending], return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                joining = asyncio.create_task(self._unsent.join())  # what was said still leaves
                await asyncio.wait([sending, joining], return_when=asyncio.FIRST_COMPLETED)
                joining.cancel()
            if sending.done():
                sending.result()
            if ending.done():
                ending.result()  # raises what ended the input before its end
        finally:
            sending.cancel()
            ending.cancel()
            await asyncio.wait([sending, ending])

    async def _read(self) -> bool:
        async for line in Lines():
            try:
                text = str(value_of(line, as_json=False))
            except InvalidData as error:
                say(f"not sent: {error}")
                continue
            if text:
                await self._unsent.put((text, self.face.said(text)))
        return True

    # --- what is said --------------------------------------------------------------------------

    def enter(self, text: str) -> None:
        """A line was typed."""
        if self._unsent.full():
            self.face.news("too many lines wait to be sent; this one was not taken")
        else:
            self._unsent.put_nowait((text, self.face.said(text)))

    async def _send(self) -> None:
        assert self._link is not None
        while True:
            text, said = await self._unsent.get()
            try:
                sent = await self._link.send(text)
            except InvalidData as error:
                self.face.news(f"not sent: {error}")
            else:
                self._spawn(self._follow(sent, text, said))
            finally:
                self._unsent.task_done()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)

    async def _follow(self, sent: Sent, text: str, said: Any) -> None:
        if await sent.resolved() == "stored":
            self.face.fate(said, text, "stored")
        with suppress(Lost):
            await sent.delivered()
        self.face.fate(said, text, sent.fate)

    def _typing(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._link is not None and now >= self._typed_at + TYPING_EVERY and self._peer is PeerState.HERE:
            self._typed_at = now
            self._spawn(self._tell_typing(self._link))

    async def _tell_typing(self, link: Link) -> None:
        with suppress(ClientClosed):
            await link.ephemeral({"typing": True})

    # --- what is heard -------------------------------------------------------------------------

    def _message(self, message: Message) -> None:
        self._typing_ended()
        data = message.data
        text = data if isinstance(data, str) else message.raw.decode("utf-8", "backslashreplace")
        for line in text.split("\n"):
            self.face.heard(self.other, line)

    def _ephemeral(self, data: Any) -> None:
        if isinstance(data, dict) and data.get("typing") is True:
            self._typing_ended()
            loop = asyncio.get_running_loop()
            self._typing_until = loop.call_later(TYPING_SHOWN, self._typing_ended)
            self._status()

    def _typing_ended(self) -> None:
        if self._typing_until is not None:
            self._typing_until.cancel()
            self._typing_until = None
            self._status()

    def _event(self, event: Event) -> None:
        if isinstance(event, StateChanged):
            because = f" ({event.reason})" if event.reason else ""
            self.face.news(f"{event.state}{because}")
        elif isinstance(event, PeerChanged) and event.peer == self.other:
            again = ", in a new process" if event.restarted else ""
            self._peer = event.state
            self.face.news(f"{event.peer} is {event.state}{again}")
        elif isinstance(event, MessagesLost) and event.peer == self.other:
            count = event.last - event.first + 1
            self.face.news(f"{count} of {event.peer}'s lines are lost ({event.reason})")
        self._status()

    def _status(self) -> None:
        self.face.status(self.client.state, self._peer or PeerState.AWAY, self._typing_until is not None)


class PlainFace:
    """Without a terminal: what is heard to standard output, all else to standard error."""

    def news(self, text: str) -> None:
        say(text)

    def heard(self, who: str, text: str) -> None:
        line = f"{who}: {text}"
        emit((printable(line) if sys.stdout.isatty() else line).encode("utf-8", "replace"))

    def said(self, text: str) -> None:
        return None

    def fate(self, said: Any, text: str, fate: Fate) -> None:
        say(f"{fate}: {text}")

    def status(self, connection: State, peer: PeerState, typing: bool) -> None:
        return None


class ScreenFace:
    """On a terminal."""

    def __init__(self, screen: Any, me: str, other: str) -> None:
        self._screen, self._me, self._other = screen, me, other

    def news(self, text: str) -> None:
        self._screen.print(f"— {text}")

    def heard(self, who: str, text: str) -> None:
        self._screen.print(f"{who}: {text}")

    def said(self, text: str) -> Any:
        return self._screen.print(f"{self._me}: {text}", MARKS["pending"])

    def fate(self, said: Any, text: str, fate: Fate) -> None:
        if not self._screen.mark(said, MARKS[fate]) and fate != "stored":
            self._screen.print(f"— {fate}: {text[:40]}")

    def status(self, connection: State, peer: PeerState, typing: bool) -> None:
        state = "" if connection is State.ONLINE else f"({connection}) "
        note = f"{self._other} is typing…" if typing else f"{self._other} is {peer}"
        self._screen.prompt(f"{state}{self._me}> ", note)
