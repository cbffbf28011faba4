"""A channel, as an application sees it: publish, subscribe, history, presence."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from duolink.client.errors import Busy, ClientClosed, CommandFailed
from duolink.client.events import ChannelGap, PresenceChanged, SubscriptionEnded
from duolink.client.message import decode
from duolink.client.stream import Bell
from duolink.protocol import limits
from duolink.protocol.messages import Ephemeral, History, PresenceQuery, Publish
from duolink.protocol.messages import Publication as Wire
from duolink.protocol.subscriptions import (
    ChannelEvent,
    ChannelJoined,
    ChannelRefused,
    Published,
    TooManySubscriptions,
)
from duolink.protocol.subscriptions import PresenceChanged as PresenceEvent

if TYPE_CHECKING:
    from duolink.client.client import Client

COMMAND_TIMEOUT: Final = 60.0
"""Seconds a command waits for the server's answer, connections lost and regained included."""

QUEUE: Final = 1024
QUEUE_BYTES: Final = 4 * 1024 * 1024
"""Publications (and their bytes) a subscription holds for a slow reader. Beyond them it stops taking,
and recovers from its position when the reader has caught up: nothing is dropped silently."""

_UNREAD: Final = object()


class Position(NamedTuple):
    """A place in a channel's log: everything up to and including `offset` of `epoch`."""

    epoch: str
    offset: int


class Publication:
    """One entry of a channel's log."""

    __slots__ = ("_data", "_wire", "epoch")

    def __init__(self, wire: Wire, epoch: str) -> None:
        self._wire = wire
        self._data: Any = _UNREAD
        self.epoch = epoch

    @property
    def data(self) -> Any:
        """The value: what the JSON says, or bytes. Raises `InvalidData`."""
        if self._data is _UNREAD:
            self._data = decode(self._wire.data, self._wire.binary)
        return self._data

    @property
    def raw(self) -> bytes:
        """The data as it travelled."""
        return bytes(self._wire.data)

    @property
    def binary(self) -> bool:
        """Whether it is bytes."""
        return self._wire.binary

    @property
    def channel(self) -> str:
        """The channel's name."""
        return self._wire.channel

    @property
    def sender(self) -> str:
        """Who published it; the server's word."""
        return self._wire.sender

    @property
    def time(self) -> int:
        """When, in milliseconds since 1970, by the server's clock."""
        return self._wire.time

    @property
    def offset(self) -> int:
        """Its place in the log."""
        return self._wire.offset

    @property
    def position(self) -> Position:
        """Where a subscription goes on that has seen this."""
        return Position(self.epoch, self.offset)

    def __repr__(self) -> str:
        return f"<Publication {self.offset} of {self.channel!r} by {self.sender!r}>"


class HistoryPage(NamedTuple):
    """A piece of a channel's log. `top` is its newest position, `gap` what was asked for and is gone."""

    publications: tuple[Publication, ...]
    top: Position
    gap: ChannelGap | None


class Channel:
    """A named publish/subscribe topic. Made by `client.channel(name)`."""

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
        if len(key.encode()) > limits.MAX_KEY:
            raise ValueError(f"a key has at most {limits.MAX_KEY} bytes")
        message = Publish(
            id=0, channel=self.name, key=key or self._client._new_name(), binary=binary, data=body
        )
        answer, _ = await self._client._command(message, timeout)
        return Position(answer.epoch, answer.offset)

    async def history(
        self,
        limit: int = 100,
        *,
        since: Position | None = None,
        timeout: float = COMMAND_TIMEOUT,  # noqa: ASYNC109
    ) -> HistoryPage:
        """Return up to `limit` publications: those after `since`, else the newest ones.

        Raises `CommandFailed`, `CommandTimeout`, `ClientClosed`, `ValueError` for an impossible limit.
        """
        if not 0 <= limit <= limits.MAX_HISTORY_PAGE:
            raise ValueError(f"a page of history has 0 … {limits.MAX_HISTORY_PAGE} publications")
        message = History(id=0, channel=self.name, limit=limit, last=since is None)
        if since is not None:
            message.epoch, message.offset = since
        page, publications = await self._client._command(message, timeout)
        gap = ChannelGap.of(self.name, page.gap, page.epoch, page.offset) if page.gap else None
        entries = tuple(Publication(each, page.epoch) for each in publications)
        return HistoryPage(entries, Position(page.epoch, page.offset), gap)

    async def presence(self, *, timeout: float = COMMAND_TIMEOUT) -> list[str]:  # noqa: ASYNC109
        """Return who is subscribed. Raises `CommandFailed`, `CommandTimeout`, `ClientClosed`."""
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

    def subscribe(self, *, since: Position | None = None, presence: bool = False) -> "Subscription":
        """Subscribe: use it with `async with`, which waits until the subscription stands, and iterate.

        `since`: go on after that position; `presence`: hear who joins and leaves.
        """
        return Subscription(self._client, self.name, since, presence)

    def __aiter__(self) -> "Subscription":
        """Iterate over the subscription there is, or over one for the length of the loop."""
        return self._client._subscriptions.get(self.name) or self.subscribe()

    def __repr__(self) -> str:
        return f"<Channel {self.name!r}>"


class Subscription:
    """Everything published to a channel, in order: an asynchronous iterator over `Publication`, with a
    `ChannelGap` in the place of what was missed and cannot be had. Reconnecting is not seen."""

    def __init__(self, client: "Client", name: str, since: Position | None, presence: bool) -> None:
        self._client, self.channel = client, name
        self._presence = presence
        self._since = since
        self._started = False
        self._failure: Exception | None = None
        self._items: deque[Publication | ChannelGap] = deque()
        self._bytes = 0
        self._queued = since or Position("", 0)  # up to where it is in `_items` or beyond
        self._behind = False  # the reader is too slow: what comes now is fetched later
        self._bell = Bell()
        self._joined: asyncio.Future[None] | None = None
        self._standing = False
        self.present: frozenset[str] = frozenset()
        """Who is subscribed, with `presence=True`."""
        self.position = self._queued
        """The position of the last item the application took; where another subscription would go on."""

    # --- life ----------------------------------------------------------------------------------

    def _start(self) -> None:
        client = self._client
        client._check_open()
        if self._started:
            raise Busy("a subscription is used once")
        if self.channel in client._subscriptions:
            raise Busy(f"{self.channel} has a subscription already")
        try:
            self._want(self._queued)
        except TooManySubscriptions as error:
            raise ValueError(str(error)) from None
        self._started = True
        client._subscriptions[self.channel] = self

    def _want(self, position: Position) -> None:
        self._client._session.subscriptions.want(
            self.channel, epoch=position.epoch, offset=position.offset, presence=self._presence
        )
        self._client._flush()

    async def __aenter__(self) -> "Subscription":
        self._start()
        self._joined = asyncio.get_running_loop().create_future()
        try:
            await self._joined
            if self._failure is not None:
                raise self._failure
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unsubscribe."""
        if self._started and self._client._subscriptions.get(self.channel) is self:
            del self._client._subscriptions[self.channel]
            self._client._session.subscriptions.drop(self.channel)
            self._client._flush()
        self._fail(ClientClosed("the subscription is closed"))

    def __del__(self) -> None:
        if self._started and self._failure is None:
            # Already out of the client's weak map: say what `close` would.
            self._client._session.subscriptions.drop(self.channel)
            self._client._flush()

    # --- reading -------------------------------------------------------------------------------

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Publication | ChannelGap:
        if self._bell.waiter is not None:
            raise Busy("this subscription has a reader already")
        if not self._started:
            self._start()
        while not self._items:
            if self._failure is not None:
                self._client._check_stream()
                raise self._failure
            if self._behind:
                self._behind = False
                self._want(self._queued)
            await self._bell.wait()
        item = self._items.popleft()
        if isinstance(item, Publication):
            self._bytes -= len(item.raw)
            self.position = item.position
        else:
            self.position = Position(item.epoch, item.offset)
        return item

    def _put(self, item: Publication | ChannelGap) -> None:
        self._items.append(item)
        self._bell.wake()

    def _fail(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure
            self._bell.wake()
            self._rise()

    def _rise(self) -> None:
        if self._joined is not None and not self._joined.done():
            self._joined.set_result(None)

    def _end(self) -> None:
        """The client is closed."""
        self._fail(self._client._ending())

    # --- what happened -------------------------------------------------------------------------

    def _event(self, event: ChannelEvent) -> None:
        if type(event) is Published:
            self._published(event.publication)
        elif type(event) is ChannelJoined:
            self._joined_at(event)
        elif type(event) is PresenceEvent:
            self._presence_changed(event)
        elif type(event) is ChannelRefused:
            self._client._subscriptions.pop(self.channel, None)
            self._fail(CommandFailed(event.code, event.reason))
            self._client._tell(SubscriptionEnded(self.channel, event.code, event.reason))

    def _published(self, wire: Wire) -> None:
        if self._behind:
            return
        size = len(bytes(wire.data))
        if len(self._items) >= QUEUE or (self._items and self._bytes + size > QUEUE_BYTES):
            self._behind = True
            return
        self._bytes += size
        self._queued = Position(self._queued.epoch, wire.offset)
        self._put(Publication(wire, self._queued.epoch))

    def _joined_at(self, event: ChannelJoined) -> None:
        if self._behind:
            return  # it asks again, from where its reader is
        self._queued = Position(event.epoch, event.offset)
        if event.gap is not None:
            gap = ChannelGap.of(self.channel, event.gap, event.epoch, event.offset)
            self._put(gap)
            self._client._tell(gap)
        elif not self._standing and not self._items:
            self.position = self._queued
        self._standing = True
        self._rise()

    def _presence_changed(self, event: PresenceEvent) -> None:
        if event.joined:
            self.present |= {event.joined}
        elif event.left:
            self.present -= {event.left}
        else:
            self.present = frozenset(event.clients)
        change = PresenceChanged(self.channel, self.present, event.joined, event.left)
        self._client._tell(change)

    def __repr__(self) -> str:
        return f"<Subscription to {self.channel!r} at {self.position.offset}>"
