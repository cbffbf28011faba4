"""A subscription to a channel: everything published to it, in order."""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from duolink.client.errors import Busy, ClientClosed, CommandFailed
from duolink.client.events import ChannelGap, PresenceChanged, SubscriptionEnded
from duolink.client.publication import Position, Publication
from duolink.client.state import SharedState, StateSet, publication
from duolink.client.stream import Bell
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

QUEUE: Final = 1024
QUEUE_BYTES: Final = 4 * 1024 * 1024
"""Publications (and their bytes) a subscription holds for a slow reader. Beyond them it stops taking,
and recovers from its position when the reader has caught up: nothing is dropped silently."""


class Subscription:
    """Everything published to a channel, in order: an asynchronous iterator over `Publication`, with a
    `ChannelGap` in the place of what was missed and cannot be had. Reconnecting is not seen.

    Writes to the channel's shared state are publications, too: `StateSet` and `StateDeleted`. With
    `state=True`, `state` is what they make."""

    def __init__(
        self, client: "Client", name: str, since: Position | None, presence: bool, state: bool
    ) -> None:
        self._client, self.channel = client, name
        self._presence = presence
        self._since = since
        self._started = False
        self._failure: Exception | None = None
        self._items: deque[Publication | ChannelGap] = deque()
        self._shared = SharedState() if state else None
        self._snapshots: deque[tuple[Wire, ...]] = deque()  # one for each gap in `_items`, with the state
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

    @property
    def state(self) -> Mapping[str, StateSet]:
        """The shared state at `position`: name → the write that has set it. It changes while items are taken
        (and is another one after a `ChannelGap`). Empty without `state=True`."""
        return self._shared.view if self._shared is not None else {}

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
            self.channel,
            epoch=position.epoch,
            offset=position.offset,
            presence=self._presence,
            state=self._shared is not None,
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
                if isinstance(self._failure, ClientClosed):
                    self._client._check_stream()
                raise self._failure
            if self._behind:
                self._behind = False
                self._want(self._queued)
            await self._bell.wait()
        item = self._items.popleft()
        if isinstance(item, ChannelGap):
            self.position = Position(item.epoch, item.offset)
            if self._shared is not None:
                snapshot = self._snapshots.popleft()
                self._bytes -= _size(snapshot)
                self._shared.replace(snapshot, item.epoch)
            return item
        self._bytes -= len(item.raw)
        self.position = item.position
        if self._shared is not None:
            self._shared.apply(item)
        return item

    def _has_room(self, size: int) -> bool:
        """Whether the reader has room for an item; from the first for which there is none it is behind."""
        items = self._items
        self._behind = len(items) >= QUEUE or (bool(items) and self._bytes + size > QUEUE_BYTES)
        return not self._behind

    def _put(self, item: Publication | ChannelGap, size: int) -> None:
        self._bytes += size
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
        if not self._has_room(size):
            return
        self._queued = Position(self._queued.epoch, wire.offset)
        self._put(publication(wire, self._queued.epoch), size)

    def _joined_at(self, event: ChannelJoined) -> None:
        if self._behind:
            return  # it asks again, from where its reader is
        snapshot = event.state or ()
        if event.gap is not None:
            size = _size(snapshot)
            if snapshot and not self._has_room(size):
                return
            gap = ChannelGap.of(self.channel, event.gap, event.epoch, event.offset)
            if self._shared is not None:
                self._snapshots.append(snapshot)
            self._put(gap, size)
            self._client._tell(gap)
        elif not self._standing and not self._items:
            self.position = Position(event.epoch, event.offset)
            if self._shared is not None:
                self._shared.replace(snapshot, event.epoch)
        self._queued = Position(event.epoch, event.offset)
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


def _size(snapshot: tuple[Wire, ...]) -> int:
    return sum(len(bytes(wire.data)) for wire in snapshot)
