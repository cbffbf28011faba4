"""`duolink state`: a channel's shared state for scripts."""

import json
from collections.abc import Iterable
from typing import Any

import click

from duolink.cli.channel import RIGHTS, name_option, random_name
from duolink.cli.options import EXIT_LOST, EXIT_REFUSED, EXIT_SAFE, EXIT_USAGE, Failed, connection_options
from duolink.cli.terminal import (
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
from duolink.client.errors import CommandFailed, CommandTimeout, Conflict
from duolink.client.events import ChannelGap
from duolink.client.publication import Publication
from duolink.client.state import StateDeleted, StateSet


@click.command()
@click.argument("channel")
@click.argument("key", metavar="[NAME]", required=False)
@click.option("--set", "value", metavar="JSON", help="Give NAME this value.")
@click.option("--delete", is_flag=True, help="Take NAME out.")
@click.option(
    "--expect", type=click.IntRange(min=0), metavar="VERSION", help="Only if NAME has this version."
)
@click.option("--watch", is_flag=True, help="Go on, and print what changes.")
@name_option
@connection_options
def state(
    channel: str,
    key: str | None,
    value: str | None,
    delete: bool,
    expect: int | None,
    watch: bool,
    name: str | None,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Print the shared state of a channel, or NAME's value; set or delete it.

    With --expect a write counts only if NAME has that version (0: is not there). Ends with 1 where it has
    another, and where the value asked for is not there. With --json each line is {"channel": …, "name": …,
    "version": …, "from": …, "time": …, "data": …}, or "deleted": true without data; what was missed is
    {"channel": …, "gap": …}, after which everything is told again.
    """
    writes = value is not None or delete
    if expect is not None and not writes:
        raise click.UsageError("--expect belongs to --set or --delete")
    if writes and (key is None or watch or (value is not None and delete)):
        raise click.UsageError("--set and --delete need a NAME, and exclude each other and --watch")
    made = client(url, name or random_name(), token)
    if writes and key is not None:
        data = None if value is None else checked(lambda: value_of(value.encode(), True))
        run(_write(made, channel, key, data, expect, as_json))
    else:
        run(_show(made, channel, key, watch, as_json))


async def _write(
    connected: Client, name: str, key: str, value: Any, expect: int | None, as_json: bool
) -> int:
    code = EXIT_SAFE

    def told(text: str, **fields: Any) -> None:
        if as_json:
            _emit(channel=name, name=key, **fields)
        else:
            say(text)

    async def work(channel: Channel) -> None:
        nonlocal code
        try:
            if value is None:
                await channel.delete(key, expect=expect)
                told(f"{key} deleted", deleted=True)
            else:
                version = await channel.set(key, value, expect=expect)
                told(f"{key} has version {version}", version=version)
        except Conflict as error:
            code = EXIT_LOST
            told(f"not written: {error}", conflict=error.version)
        except (CommandFailed, CommandTimeout) as error:
            refused = isinstance(error, CommandFailed) and error.code in RIGHTS
            code = EXIT_REFUSED if refused else EXIT_LOST
            say(f"not written: {error}")
        except ValueError as error:
            raise Failed(str(error), EXIT_USAGE) from None

    async with connected:
        channel = checked(lambda: connected.channel(name))
        await until_stopped(connected, work(channel))
    return code


async def _show(connected: Client, name: str, key: str | None, watch: bool, as_json: bool) -> int:
    found = False

    async def work(channel: Channel) -> None:
        nonlocal found
        async with channel.subscribe(state=True) as subscription:
            shown = Shown(key, as_json)
            found = shown.all(subscription.state.values()) or watch or key is None
            if not watch:
                return
            async for item in subscription:
                if isinstance(item, ChannelGap):
                    shown.gap(item)
                    shown.all(subscription.state.values())
                elif item.name:
                    shown.one(item)

    async with connected:
        channel = checked(lambda: connected.channel(name))
        try:
            await until_stopped(connected, work(channel))
        except CommandFailed as error:
            raise Failed(f"{name}: {error}", EXIT_REFUSED) from None
    if not found:
        say(f"{key} is not there")
    return EXIT_SAFE if found else EXIT_LOST


class Shown:
    """Prints the state: one name of it (its value alone), or all."""

    def __init__(self, only: str | None, as_json: bool) -> None:
        self._only, self._json = only, as_json

    def all(self, values: Iterable[StateSet]) -> bool:
        """Print what is there, by name. Returns whether there was something to print."""
        chosen = [value for value in values if self._only in (None, value.name)]
        for value in sorted(chosen, key=lambda value: value.name):
            self.one(value)
        return bool(chosen)

    def one(self, item: Publication) -> None:
        """Print what has become of a name."""
        if self._only not in (None, item.name):
            return
        deleted = isinstance(item, StateDeleted)
        if self._json:
            head = {
                "channel": item.channel,
                "name": item.name,
                "version": item.offset,
                "from": item.sender,
                "time": item.time,
            }
            if deleted:
                _emit(**head, deleted=True)
            else:
                emit(json_line(head, item.raw, item.binary))
            return
        name = printable(item.name)
        if deleted:
            (say if self._only is not None else _print)(f"{name} deleted")
        else:
            start = b"" if self._only is not None else f"{name} = ".encode()
            emit(start + text_line(item.raw, item.binary))

    def gap(self, gap: ChannelGap) -> None:
        """Tell that changes were missed."""
        missed = {"reason": gap.reason, "first": gap.first, "last": gap.last}
        if self._json:
            _emit(channel=gap.channel, gap=missed)
        else:
            say(f"missed ({gap.reason}): {gap.first} … {gap.last}")


def _emit(**fields: Any) -> None:
    emit(json.dumps(fields, ensure_ascii=False).encode())


def _print(text: str) -> None:
    emit(text.encode())
