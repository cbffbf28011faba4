"""`duolink publish` and `duolink subscribe`: channels for scripts."""

import asyncio
import json
import os
import secrets
from collections import deque
from collections.abc import AsyncIterator

import click

from duolink.cli.options import EXIT_LOST, EXIT_REFUSED, EXIT_SAFE, EXIT_USAGE, Failed, connection_options
from duolink.cli.terminal import (
    Lines,
    checked,
    client,
    emit,
    json_line,
    printable,
    run,
    say,
    text_line,
    until_stopped,
    value_of,
)
from duolink.client.channel import Channel
from duolink.client.client import Client
from duolink.client.errors import CommandFailed, CommandTimeout, InvalidData
from duolink.client.events import ChannelGap, Event, PresenceChanged
from duolink.client.publication import Position
from duolink.client.state import StateDeleted
from duolink.client.subscription import Subscription
from duolink.protocol.codes import ErrorCode

IN_FLIGHT = 64
"""Publications under way at once."""

RIGHTS = (ErrorCode.FORBIDDEN, ErrorCode.UNKNOWN_CHANNEL)
"""The errors that say: not with these rights."""

name_option = click.option("--name", metavar="ME", help="This client's name.  [default: a random one]")


@click.command()
@click.argument("channel")
@click.option(
    "--data", multiple=True, metavar="TEXT", help="Publish this instead of standard input; repeatable."
)
@name_option
@connection_options
def publish(
    channel: str, data: tuple[str, ...], name: str | None, url: str, token: str | None, as_json: bool
) -> None:
    """Publish lines of standard input to a channel, in order.

    Each line is a JSON string (with --json: the JSON it is). Ends with `N published, K failed`; with
    --json the position of each is printed, too.
    """
    run(_publish(client(url, name or random_name(), token), channel, data, as_json))


async def _publish(connected: Client, name: str, data: tuple[str, ...], as_json: bool) -> int:
    published = failed = refused = 0
    code = EXIT_SAFE

    async def work(channel: Channel) -> None:
        nonlocal published, failed, code
        under_way: deque[asyncio.Task[Position]] = deque()

        async def finish() -> None:
            nonlocal published, failed, refused
            try:
                position = await under_way.popleft()
            except (CommandFailed, CommandTimeout, InvalidData) as error:
                failed += 1
                refused += isinstance(error, CommandFailed) and error.code in RIGHTS
                say(f"not published: {error}")
                return
            published += 1
            if as_json:
                emit(json.dumps(position._asdict()).encode())

        try:
            async for line in _lines(data):
                value = value_of(line, as_json)
                under_way.append(asyncio.create_task(channel.publish(value)))
                if len(under_way) >= IN_FLIGHT:
                    await finish()
        except InvalidData as error:
            say(str(error))
            code = EXIT_USAGE
        while under_way:
            await finish()

    async with connected:
        await until_stopped(connected, work(checked(lambda: connected.channel(name))))
    if as_json:
        emit(json.dumps({"published": published, "failed": failed}).encode())
    else:
        emit(f"{published} published, {failed} failed".encode())
    if refused and not published and refused == failed:
        return code or EXIT_REFUSED
    return code or (EXIT_LOST if failed else EXIT_SAFE)


async def _lines(data: tuple[str, ...]) -> AsyncIterator[bytes]:
    if data:
        for text in data:
            yield os.fsencode(text)  # as it was given: what is no text is refused like any other line
    else:
        async for line in Lines():
            yield line


def _position(ctx: click.Context, param: click.Parameter, value: str | None) -> Position | None:
    if value is None:
        return None
    epoch, colon, offset = value.rpartition(":")
    if not colon or not epoch or not offset.isdecimal():
        raise click.BadParameter("expected EPOCH:OFFSET, as --json prints them")
    return Position(epoch, int(offset))


@click.command()
@click.argument("channel")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Leave after N publications.")
@click.option("--since", callback=_position, metavar="EPOCH:OFFSET", help="Go on after this position.")
@click.option("--presence", is_flag=True, help="Tell who joins and leaves.")
@name_option
@connection_options
def subscribe(
    channel: str,
    count: int | None,
    since: Position | None,
    presence: bool,
    name: str | None,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Print what is published to a channel.

    With --json each line is {"channel": …, "epoch": …, "offset": …, "from": …, "time": …, "data": …}; what
    was missed and cannot be had appears as {"channel": …, "gap": …}, presence as "joined", "left", "present";
    what changes the shared state has a "name", and "deleted".
    """
    made = client(url, name or random_name(), token)
    run(_subscribe(made, channel, count, since, presence, as_json))


async def _subscribe(
    connected: Client, name: str, count: int | None, since: Position | None, presence: bool, as_json: bool
) -> int:
    if presence:
        connected.on_event(lambda event: _tell_presence(event, as_json))
    async with connected:
        channel = checked(lambda: connected.channel(name))
        try:
            async with channel.subscribe(since=since, presence=presence) as subscription:
                await until_stopped(connected, _print(subscription, count, as_json))
        except CommandFailed as error:
            raise Failed(f"{name}: {error}", EXIT_REFUSED) from None
    return EXIT_SAFE


async def _print(subscription: Subscription, count: int | None, as_json: bool) -> None:
    printed = 0
    async for item in subscription:
        if isinstance(item, ChannelGap):
            gap = {"reason": item.reason, "first": item.first, "last": item.last}
            if as_json:
                head = {"channel": item.channel, "gap": gap, "epoch": item.epoch, "offset": item.offset}
                emit(json.dumps(head, ensure_ascii=False).encode())
            else:
                say(f"missed ({item.reason}): {item.first} … {item.last}")
            continue
        if as_json:
            head = {
                "channel": item.channel,
                "epoch": item.epoch,
                "offset": item.offset,
                "from": item.sender,
                "time": item.time,
            }
            if item.name:
                head |= {"name": item.name, "deleted": isinstance(item, StateDeleted)}
            emit(json_line(head, item.raw, item.binary))
        elif isinstance(item, StateDeleted):
            emit(f"{printable(item.name)} deleted".encode())
        else:
            start = f"{printable(item.name)} = " if item.name else ""
            emit(start.encode() + text_line(item.raw, item.binary))
        printed += 1
        if printed == count:
            return


def _tell_presence(event: Event, as_json: bool) -> None:
    if not isinstance(event, PresenceChanged):
        return
    change: dict[str, object] = {"channel": event.channel}
    if event.joined:
        change["joined"] = event.joined
    elif event.left:
        change["left"] = event.left
    else:
        change["present"] = sorted(event.present)
    if as_json:
        emit(json.dumps(change, ensure_ascii=False).encode())
    elif event.joined or event.left:
        say(f"{event.joined or event.left} {'joined' if event.joined else 'left'}")
    else:
        say(f"here: {', '.join(sorted(event.present))}")


def random_name() -> str:
    """Return a name for a client whose name is nobody's business."""
    return f"cli-{secrets.token_hex(4)}"
