"""A client's channels: what it wants, what it has, and where it stands in each."""

from typing import NamedTuple

from duolink.protocol import codec, limits
from duolink.protocol.messages import (
    Error,
    Gap,
    Join,
    Leave,
    Position,
    PresenceList,
    Publication,
    Snapshot,
    Subscribe,
    Subscribed,
    Unsubscribed,
)


class ChannelJoined(NamedTuple):
    """The subscription stands: everything after `offset` follows. `recovered`: nothing was missed;
    `gap`: what was, and why; neither: it began now. `state`: the whole shared state at `offset`, one
    publication for each name; None if it was not asked for, or what was missed follows."""

    channel: str
    epoch: str
    offset: int
    recovered: bool
    gap: Gap | None
    state: tuple[Publication, ...] | None = None


class ChannelRefused(NamedTuple):
    """The server does not let this client have the channel; it is no longer wanted."""

    channel: str
    code: str
    reason: str


class Published(NamedTuple):
    """The channel's next publication."""

    channel: str
    publication: Publication


class PresenceChanged(NamedTuple):
    """Who is there: the whole list, or one who joined or left."""

    channel: str
    clients: tuple[str, ...] = ()
    more: int = 0  # how many more there are than the list names
    joined: str = ""
    left: str = ""


ChannelEvent = ChannelJoined | ChannelRefused | Published | PresenceChanged


class _Subscription:
    __slots__ = ("asked", "count", "entries", "epoch", "head", "joined", "offset", "presence", "state")

    def __init__(self, epoch: str, offset: int, presence: bool, state: bool) -> None:
        self.epoch, self.offset, self.presence, self.state = epoch, offset, presence, state
        self.joined = False
        self.head: Subscribed | None = None  # it stands when the snapshot that comes with this is whole
        self.count = -1
        self.entries: list[Publication] = []
        self.asked = -1  # the id of the command (0: hello) whose answer counts; -1: not asked yet


class TooManySubscriptions(Exception):
    """The server takes no more channels of one client."""


class Subscriptions:
    """The full desired set, and the positions in it.

    A publication that is not the next one shows a hole: the channel is given up and wanted again from its
    position, so that the server closes the hole or names it. With `state`, who has a position has the shared
    state as of there: the position moves to that of a snapshot when all of it has come.
    """

    __slots__ = ("_postponed", "_rejoin", "_sent", "_wanted", "changed", "maximum", "retry_after")

    def __init__(self) -> None:
        self._wanted: dict[str, _Subscription] = {}
        self._sent: set[str] = set()  # the set as the server last heard it
        self._rejoin: set[str] = set()
        self._postponed: set[str] = set()  # the server could not serve them now
        self.retry_after = 0  # milliseconds until they should be asked for again; 0: none
        self.changed = False
        self.maximum = limits.MAX_SUBSCRIPTIONS

    def __contains__(self, channel: str) -> bool:
        return channel in self._wanted

    def __len__(self) -> int:
        return len(self._wanted)

    def want(
        self,
        channel: str,
        *,
        epoch: str = "",
        offset: int = 0,
        presence: bool = False,
        state: bool = False,
    ) -> None:
        """Subscribe, from a position or from now on. `state`: hear the shared state first, unless everything
        behind the position follows.

        Raises `ValueError` for what cannot be a channel, `TooManySubscriptions`.
        """
        if not codec.is_id(channel, limits.MAX_CHANNEL):
            raise ValueError(f"{channel!r} cannot be a channel")
        if channel not in self._wanted and len(self._wanted) >= self.maximum:
            raise TooManySubscriptions(f"at most {self.maximum} channels")
        self._wanted[channel] = _Subscription(epoch, offset, presence, state)
        if channel in self._sent:
            self._rejoin.add(channel)
        self.changed = True

    def drop(self, channel: str) -> None:
        """Unsubscribe."""
        if self._wanted.pop(channel, None) is not None:
            self.changed = True

    def position(self, channel: str) -> tuple[str, int]:
        """The (epoch, offset) up to which the application has been told everything."""
        subscription = self._wanted[channel]
        return subscription.epoch, subscription.offset

    def hello(self) -> list[Position]:
        """The full set for a hello: every channel is answered anew."""
        self.changed = False
        self._rejoin.clear()
        self._sent = set(self._wanted)
        for subscription in self._wanted.values():
            subscription.joined = False
            subscription.head = None
            subscription.asked = 0
        return self._positions(self._wanted)

    def forget_asked(self) -> None:
        """The hello could not carry the set: it is yet to be said."""
        self._sent.clear()
        for subscription in self._wanted.values():
            subscription.asked = -1
        self.changed = True

    def commands(self, next_id: int) -> list[Subscribe]:
        """The commands that tell the server of the change: one, or two when a channel must be given up
        first to begin again."""
        if not self.changed:
            return []
        self.changed = False
        commands = []
        rejoin = self._rejoin & self._wanted.keys()
        if rejoin:
            kept = [channel for channel in self._wanted if channel in self._sent and channel not in rejoin]
            commands.append(Subscribe(id=next_id, channels=self._positions(kept)))
            self._sent = set(kept)
        final = next_id + len(commands)
        for channel, subscription in self._wanted.items():
            if channel not in self._sent:
                subscription.asked = final
        commands.append(Subscribe(id=final, channels=self._positions(self._wanted)))
        self._sent = set(self._wanted)
        self._rejoin.clear()
        return commands

    def _positions(self, channels: dict[str, _Subscription] | list[str]) -> list[Position]:
        return [
            Position(channel, each.epoch, each.offset, each.presence, each.state)
            for channel, each in ((channel, self._wanted[channel]) for channel in channels)
        ]

    def receive(self, message: object) -> ChannelEvent | None:
        """Take what the server says of a channel. Returns what the application should hear, if anything."""
        if type(message) is Publication:
            return self._publication(message)
        if type(message) is Subscribed:
            return self._subscribed(message)
        if type(message) is Snapshot:
            return self._snapshot(message)
        if type(message) is PresenceList:
            return PresenceChanged(message.channel, tuple(message.clients), message.more)
        if type(message) is Join:
            return PresenceChanged(message.channel, joined=message.client_id)
        if type(message) is Leave:
            return PresenceChanged(message.channel, left=message.client_id)
        if type(message) is Unsubscribed:
            return self._unsubscribed(message)
        if type(message) is Error:
            return self._refused(message)
        return None

    def _publication(self, publication: Publication) -> Published | ChannelJoined | None:
        subscription = self._wanted.get(publication.channel)
        if publication.state:
            return self._entry(subscription, publication)
        if subscription is None or not subscription.joined or publication.offset <= subscription.offset:
            return None
        if publication.offset != subscription.offset + 1:
            self._again(publication.channel, subscription)
            return None
        subscription.offset = publication.offset
        return Published(publication.channel, publication)

    def _asked(self, channel: str, number: int) -> _Subscription | None:
        subscription = self._wanted.get(channel)
        if subscription is None or subscription.joined or subscription.asked != number:
            return None
        return subscription

    def _subscribed(self, message: Subscribed) -> ChannelJoined | None:
        subscription = self._asked(message.channel, message.id)
        if subscription is None:
            return None
        if subscription.state and not message.recovered:
            subscription.head, subscription.count, subscription.entries = message, -1, []
            return None
        return self._join(subscription, message, None)

    def _snapshot(self, message: Snapshot) -> ChannelJoined | None:
        subscription = self._wanted.get(message.channel)
        if subscription is None or subscription.head is None or subscription.head.id != message.id:
            return None
        subscription.count = message.count
        return self._pictured(subscription)

    def _entry(self, subscription: _Subscription | None, publication: Publication) -> ChannelJoined | None:
        if subscription is None or subscription.head is None or subscription.count < 0:
            return None
        subscription.entries.append(publication)
        return self._pictured(subscription)

    def _pictured(self, subscription: _Subscription) -> ChannelJoined | None:
        head, entries = subscription.head, subscription.entries
        if head is None or len(entries) < subscription.count:
            return None
        subscription.head, subscription.entries = None, []
        return self._join(subscription, head, tuple(entries))

    def _join(
        self, subscription: _Subscription, message: Subscribed, state: tuple[Publication, ...] | None
    ) -> ChannelJoined:
        subscription.joined = True
        subscription.epoch, subscription.offset = message.epoch, message.offset
        return ChannelJoined(
            message.channel, message.epoch, message.offset, message.recovered, message.gap, state
        )

    def _refused(self, error: Error) -> ChannelRefused | None:
        if self._asked(error.channel, error.id) is None:
            return None
        if error.retry_after:
            self._postponed.add(error.channel)
            self.retry_after = error.retry_after
            return None
        self._forget(error.channel)
        return ChannelRefused(error.channel, error.code, error.message)

    def _unsubscribed(self, message: Unsubscribed) -> ChannelRefused | None:
        subscription = self._wanted.get(message.channel)
        if subscription is None:
            return None
        if message.resubscribe:
            self._again(message.channel, subscription)
            return None
        self._forget(message.channel)
        return ChannelRefused(message.channel, message.code, "the server ended the subscription")

    def retry(self) -> None:
        """Ask again for what the server could not serve."""
        self.retry_after = 0
        for channel in sorted(self._postponed & self._wanted.keys()):
            if not self._wanted[channel].joined:
                self._again(channel, self._wanted[channel])
        self._postponed.clear()

    def _again(self, channel: str, subscription: _Subscription) -> None:
        self.want(
            channel,
            epoch=subscription.epoch,
            offset=subscription.offset,
            presence=subscription.presence,
            state=subscription.state,
        )

    def _forget(self, channel: str) -> None:
        del self._wanted[channel]
        self._rejoin.discard(channel)
        self.changed = True  # what is under way may have it begin again
