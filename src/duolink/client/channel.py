"""A channel, as an application sees it: publish, subscribe, history, presence, shared state."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import UNSET

from duolink.client.errors import CommandTimeout
from duolink.client.events import ChannelGap
from duolink.client.publication import Position, Publication
from duolink.client.state import StateSet, publication
from duolink.client.subscription import Subscription
from duolink.protocol import codec, limits
from duolink.protocol.messages import NO_DATA, Ephemeral, History, PresenceQuery, Publish, Set

if TYPE_CHECKING:
    from duolink.client.client import Client

COMMAND_TIMEOUT: Final = 60.0
"""Seconds a command waits for the server's answer, connections lost and regained included."""


class HistoryPage(NamedTuple):
    """A piece of a channel's log. `top` is its newest position, `gap` what was asked for and is gone."""

    publications: tuple[Publication, ...]
    top: Position
    gap: ChannelGap | None


class Channel:
    """A named publish/subscribe topic. Made by `client.channel(name)`.

        channel = client.channel("doc")
        await channel.publish({"text": "hi"})
        async for item in channel:
            print(item.data)

    It may have shared state, names with values; `subscribe(state=True)` follows it:

        version = await channel.set("title", {"text": "Plan"})  # the last write counts
        await channel.set("title", {"text": "B"}, expect=version)  # Conflict if another was faster
        await channel.set("lock", "alice", expect=0)  # Conflict if it is there
        await channel.delete("lock")
    """

    def __init__(self, client: "Client", name: str) -> None:
        self._client = client
        self.name = name
        self._on_ephemeral: Callable[[Any, str], Any] | None = None

    async def publish(
        self,
        data: Any,
        *,
        key: str = "",
        timeout: float = COMMAND_TIMEOUT,  # noqa: ASYNC109
    ) -> Position:
        """Append to the channel; return where. It is appended once, over as many connections as it takes;
        a `key` of one's own makes that hold over repeated calls, too (for 5 minutes).

        Raises `CommandFailed` (`uncertain`: nobody knows whether it was), `CommandTimeout`,
        `InvalidData`, `ClientClosed`.
        """
        body, binary = self._client._encode(data)
        message = Publish(id=0, channel=self.name, key=self._key(key), binary=binary, data=body)
        answer, _ = await self._client._command(message, timeout)
        return Position(answer.epoch, answer.offset)

    def _key(self, key: str) -> str:
        if key and not codec.is_id(key, limits.MAX_KEY):
            raise ValueError(f"{key!r} cannot be a key")
        return key or self._client._new_name()

    async def set(
        self,
        name: str,
        value: Any,
        *,
        expect: int | None = None,
        key: str = "",
        timeout: float = COMMAND_TIMEOUT,  # noqa: ASYNC109
    ) -> int:
        """Give a name of the shared state a value; return its version. With `expect` only if the name has
        that version now (0: is not there). It is done once, as a publication is appended.

        Raises `Conflict` (another version is there, and nothing was done), `CommandFailed` (`state_full`: no
        room for it), `CommandTimeout`, `InvalidData`, `ClientClosed`, `ValueError` for an impossible name.
        """
        body, binary = self._client._encode(value)
        message = self._write(name, expect, key)
        message.data, message.binary = body, binary
        answer, _ = await self._client._command(message, timeout)
        return int(answer.offset)

    async def delete(
        self,
        name: str,
        *,
        expect: int | None = None,
        key: str = "",
        timeout: float = COMMAND_TIMEOUT,  # noqa: ASYNC109
    ) -> None:
        """Take a name out of the shared state. With `expect` only if it has that version. What is not there
        may be deleted. Raises as `set` does."""
        message = self._write(name, expect, key)
        message.deleted = True
        await self._client._command(message, timeout)

    def _write(self, name: str, expect: int | None, key: str) -> Set:
        if not codec.is_id(name, limits.MAX_STATE_NAME):
            raise ValueError(f"{name!r} cannot be a name in the shared state")
        if expect is not None and not _is_count(expect, limits.MAX_INTEGER):
            raise ValueError(f"{expect} cannot be a version")
        return Set(
            id=0,
            channel=self.name,
            name=name,
            key=self._key(key),
            expect=UNSET if expect is None else expect,
            data=NO_DATA,
        )

    async def state(self, *, timeout: float = COMMAND_TIMEOUT) -> dict[str, StateSet]:  # noqa: ASYNC109
        """Return the shared state as it is now, by a subscription that is gone again afterwards.

        Raises `CommandFailed`, `CommandTimeout`, `ClientClosed`, and `Busy` where there is a subscription:
        use its `state`.
        """
        try:
            async with asyncio.timeout(timeout), self.subscribe(state=True) as subscription:
                return dict(subscription.state)
        except TimeoutError:
            raise CommandTimeout(f"no answer from the server within {timeout:g} s") from None

    async def history(
        self,
        limit: int = 100,
        *,
        since: Position | None = None,
        timeout: float = COMMAND_TIMEOUT,  # noqa: ASYNC109
    ) -> HistoryPage:
        """Return up to `limit` publications: those after `since`, else the newest ones.

        Raises `CommandFailed`, `CommandTimeout`, `ClientClosed`, `ValueError` for an impossible limit or
        position.
        """
        if not _is_count(limit, limits.MAX_HISTORY_PAGE):
            raise ValueError(f"a page of history has 0 … {limits.MAX_HISTORY_PAGE} publications")
        if since is not None:
            _check_position(since)
        message = History(id=0, channel=self.name, limit=limit, last=since is None)
        if since is not None:
            message.epoch, message.offset = since
        page, publications = await self._client._command(message, timeout)
        gap = ChannelGap.of(self.name, page.gap, page.epoch, page.offset) if page.gap else None
        entries = tuple(publication(each, page.epoch) for each in publications)
        return HistoryPage(entries, Position(page.epoch, page.offset), gap)

    async def presence(self, *, timeout: float = COMMAND_TIMEOUT) -> list[str]:  # noqa: ASYNC109
        """Return who is subscribed; of very many (thousands) as many as fit into one message. Raises
        `CommandFailed`, `CommandTimeout`, `ClientClosed`."""
        answer, _ = await self._client._command(PresenceQuery(id=0, channel=self.name), timeout)
        return sorted(answer.clients)

    async def ephemeral(self, data: Any) -> bool:
        """Send to the subscribers at most once, outside the log. Returns whether it left."""
        body, binary = self._client._encode(data)
        return self._client._send_once(Ephemeral(channel=self.name, data=body, binary=binary))

    def on_ephemeral(self, handler: Callable[[Any, str], Any] | None) -> Callable[[Any, str], Any] | None:
        """Hand (data, sender) of what is sent outside the log to a function."""
        self._on_ephemeral = handler
        return handler

    def subscribe(
        self, *, since: Position | None = None, presence: bool = False, state: bool = False
    ) -> Subscription:
        """Subscribe: use it with `async with`, which waits until the subscription stands, and iterate.

        `since`: go on after that position; `presence`: hear who joins and leaves; `state`: follow the shared
        state (see `Subscription.state`), which begins now: raises `ValueError` together with `since`.
        """
        if since is not None:
            _check_position(since)
        if state and since is not None:
            raise ValueError("who follows the shared state begins now: the state at `since` is not known")
        return Subscription(self._client, self.name, since, presence, state)

    def __aiter__(self) -> Subscription:
        """Iterate over the subscription there is, or over one for the length of the loop."""
        return self._client._subscriptions.get(self.name) or self.subscribe()

    def __repr__(self) -> str:
        return f"<Channel {self.name!r}>"


def _is_count(number: object, most: int) -> bool:
    return isinstance(number, int) and 0 <= number <= most


def _check_position(position: Position) -> None:
    epoch, offset = position
    if (epoch and not codec.is_id(epoch, limits.MAX_KEY)) or not _is_count(offset, limits.MAX_INTEGER):
        raise ValueError(f"{position} cannot be a position")
