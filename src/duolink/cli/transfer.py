"""`duolink send` and `duolink listen`: messages for scripts."""

import asyncio
import json
import sys
from collections import deque
from contextlib import suppress

import click

from duolink.cli.options import EXIT_LOST, EXIT_REFUSED, EXIT_SAFE, EXIT_USAGE, Failed, connection_options
from duolink.cli.terminal import (
    Lines,
    checked,
    client,
    emit,
    json_line,
    run,
    say,
    text_line,
    until_stopped,
    value_of,
)
from duolink.client.client import Client
from duolink.client.errors import ClientClosed, InvalidData, Refused, Unsettled, WindowFull
from duolink.client.events import MessagesLost
from duolink.client.link import Link
from duolink.client.message import Sent
from duolink.client.stream import MessageStream
from duolink.protocol.codes import PeerState

PROGRESS: float = 0.5
"""Seconds between two looks at the progress, on a terminal."""

SILENCE: float = 2.0
"""Seconds after which somebody wants to know what a command waits for."""


@click.command()
@click.argument("sender", metavar="FROM")
@click.argument("receiver", metavar="TO")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Longest wait for room, and at the end for safety; what is not safe then counts as lost.",
)
@click.option(
    "--journal",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep what is not safe, and how many lines were taken, in a file; see above.",
)
@connection_options
def send(
    sender: str,
    receiver: str,
    timeout: float | None,
    journal: str | None,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Send the lines of standard input from one client to another.

    Each line is sent as a JSON string (with --json: as the JSON it is), in order. Ends with
    `N delivered, M stored, K lost` when all of them are safe.

    With --journal, the same command with the same input goes on where the one before ended, however it
    ended: lines it had taken are skipped, and what of them was not safe is sent on. Nothing is lost or
    repeated. A journal is for one input: for another one take another file.
    """
    connected = client(url, sender, token, journal)
    run(_send(connected, receiver, timeout, as_json, journal is not None))


async def _send(
    connected: Client, receiver: str, patience: float | None, as_json: bool, journaled: bool
) -> int:
    tally = _Tally(journaled)
    code = EXIT_SAFE
    watching: asyncio.Task[None] | None = None
    telling: asyncio.TimerHandle | None = None
    await connected.open()
    try:
        link = checked(lambda: connected.link(receiver))
        telling = asyncio.get_running_loop().call_later(SILENCE, _tell_why_it_waits, connected, link)
        if sys.stderr.isatty():
            watching = asyncio.create_task(tally.show())
        code = await _pass_on(connected, link, tally, patience, as_json)
    finally:
        if telling is not None:
            telling.cancel()
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])
        connected.close_timeout = 0.0  # what is not safe by now was given up
        with suppress(Unsettled):
            await connected.close()
    tally.give_up()
    counts = {"delivered": tally.delivered, "stored": tally.stored, "lost": tally.lost}
    if journaled:
        counts["kept"] = tally.kept
    line = json.dumps(counts) if as_json else ", ".join(f"{count} {what}" for what, count in counts.items())
    emit(line.encode())
    return code or (EXIT_LOST if tally.lost or tally.kept else EXIT_SAFE)


def _tell_why_it_waits(connected: Client, link: Link) -> None:
    if connected.welcome is not None and not connected.welcome.durable and link.state is not PeerState.HERE:
        say(f"{link.peer} is not here, and this server keeps nothing: what is sent waits in this command")


async def _pass_on(
    connected: Client, link: Link, tally: "_Tally", patience: float | None, as_json: bool
) -> int:
    code = EXIT_SAFE
    taken = _resume(connected, link, tally)

    async def work() -> None:
        nonlocal code
        try:
            number = 0
            async for line in Lines():
                number += 1
                if number <= taken:
                    continue
                value = value_of(line, as_json)
                tag = str(number) if tally.journaled else ""
                try:  # that a journal has it need not be awaited: else the line was not taken either
                    tally.add(link.try_send(value, tag=tag))
                except WindowFull:
                    async with asyncio.timeout(patience):
                        tally.add(await link.send(value, tag=tag))
        except InvalidData as error:
            say(f"line {number or 1}: {error}")
            code = EXIT_USAGE
        except TimeoutError:
            say(f"no room for line {number} within {patience:g} s; stopping there")
            tally.lost += not tally.journaled
            return
        async with asyncio.timeout(patience):
            await tally.all_safe()

    try:
        if await until_stopped(connected, work()):
            say("stopped")
            code = code or EXIT_LOST
    except TimeoutError:
        say(f"not everything is safe within {patience:g} s")
    except Refused as error:
        say(str(error))
        code = EXIT_REFUSED
    except ClientClosed as error:
        say(str(error))
        code = EXIT_LOST
    return code


def _resume(connected: Client, link: Link, tally: "_Tally") -> int:
    """Return how many lines were taken by commands with the same journal; what of them is under way is
    counted with this command's."""
    try:
        taken = int(link.newest_tag() or 0)
    except ValueError:
        raise Failed("the journal is another program's: its tags are no line numbers", EXIT_USAGE) from None
    for sent in connected.restored:
        tally.add(sent)
    if taken:
        say(f"going on after line {taken}; {len(connected.restored)} before it are under way")
    return taken


class _Tally:
    """Counts what became of the messages sent. `journaled`: what is not safe is not lost, but kept."""

    def __init__(self, journaled: bool) -> None:
        self.journaled = journaled
        self.delivered = self.stored = self.lost = self.kept = 0
        self._pending: deque[Sent] = deque()

    def add(self, sent: Sent) -> None:
        self._pending.append(sent)
        self.count()

    def count(self) -> None:
        """Take the oldest ones whose end, or whose safety, is known."""
        while self._pending and self._pending[0].fate != "pending":
            fate = self._pending.popleft().fate
            self.delivered += fate == "delivered"
            self.stored += fate == "stored"
            self.lost += fate == "lost"

    async def all_safe(self) -> None:
        """Wait until none is pending."""
        while self._pending:
            await self._pending[0].resolved()
            self.count()

    def give_up(self) -> None:
        """What is not known to be safe counts as lost, or kept."""
        self.count()
        for sent in self._pending:
            self.delivered += sent.fate == "delivered"
            self.stored += sent.fate == "stored"
            self.lost += sent.fate == "lost" or (sent.fate == "pending" and not self.journaled)
            self.kept += sent.fate == "pending" and self.journaled
        self._pending.clear()

    async def show(self) -> None:
        """Show the progress on a terminal."""
        try:
            while True:
                await asyncio.sleep(PROGRESS)
                safe = self.delivered + self.stored
                sys.stderr.write(f"\r{safe + len(self._pending)} sent, {safe} safe\x1b[K")
                sys.stderr.flush()
        finally:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@click.command()
@click.argument("name", metavar="ME")
@click.option(
    "--count",
    type=click.IntRange(min=0),
    metavar="N",
    help="Leave after N messages; 0: only register the name.",
)
@click.option("--from", "sender", metavar="PEER", help="Take messages of this client only.")
@click.option(
    "--journal",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep in a file what was printed, so that the next command with it does not print it again.",
)
@connection_options
def listen(
    name: str,
    count: int | None,
    sender: str | None,
    journal: str | None,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Print what other clients send.

    A message counts as delivered when it has been printed. With --json each line is
    {"from": …, "seq": …, "data": …}, or "base64" instead of "data" for bytes.
    """
    run(_listen(client(url, name, token, journal), count, sender, as_json))


async def _listen(connected: Client, count: int | None, sender: str | None, as_json: bool) -> int:
    async with connected:
        if count == 0:
            return EXIT_SAFE
        source = checked(lambda: connected.link(sender)) if sender is not None else connected
        await until_stopped(connected, _print(source.messages(acks="manual", losses=True), count, as_json))
    return EXIT_SAFE


async def _print(messages: MessageStream, count: int | None, as_json: bool) -> None:
    printed = 0
    async for message in messages:
        if isinstance(message, MessagesLost):
            say(f"lost from {message.peer}: {message.first} … {message.last} ({message.reason})")
            continue
        if as_json:
            emit(json_line({"from": message.sender, "seq": message.seq}, message.raw, message.binary))
        else:
            emit(text_line(message.raw, message.binary))
        message.ack()
        printed += 1
        if printed == count:
            return
