"""Channels: who subscribes, who is present, and how a publication reaches everyone.

A publication is appended to the log first; when that completes it is encoded once, framed once per kind
of wire, and written to every live subscriber. A subscription that is not live yet (its channel is
being opened, or it recovers, see `recovery`) is a member without being in `live`.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from duolink.engines.base import Answer, Appended, Draft, Failure, Log, Retention, Top
from duolink.protocol import limits
from duolink.protocol.codec import encode, encode_binary, is_id
from duolink.protocol.codes import ErrorCode
from duolink.protocol.messages import (
    Ephemeral,
    Gap,
    Join,
    Leave,
    Message,
    Position,
    PresenceList,
    PresenceQuery,
    Publish,
    Set,
    Subscribe,
    Subscribing,
    Unsubscribed,
)
from duolink.server import publishing
from duolink.server.channel import Channel, FanOut, Line, Subscription
from duolink.server.names import Names
from duolink.server.recovery import Recoveries
from duolink.server.registry import Session
from duolink.server.timers import SLICE

if TYPE_CHECKING:
    from duolink.server.connection import Connection
    from duolink.server.node import Node

MAX_IN_FLIGHT: Final = 128
"""Commands of one connection that wait for the engine; more are answered `overloaded`."""

MAX_PENDING: Final = 1000
"""Publications collected for one write: below `limits.MAX_BATCH`."""

MAX_PENDING_BYTES: Final = limits.MAX_MESSAGE
"""Bytes of them: two messages of the largest size stay far below `limits.MAX_PAYLOAD`."""

MAX_FANOUTS: Final = 16
"""Writes to a large channel that may be under way in slices; a publisher who is faster waits for them. As
many ephemeral messages may be; more are dropped."""

TOLD_PER_EFFORT: Final = 64
"""Connections that are told something for the effort of one change (see `ratelimit.EFFORT_BURST`)."""

PRESENCE_BYTES: Final = limits.MAX_MESSAGE - 1024
"""Bytes of client ids in one `presence_list`; it names the first that fit."""


class Channels:
    """The channels of a node."""

    def __init__(self, node: "Node", log: Log) -> None:
        self._node = node
        self._log = log
        self._config = node.config
        self._max_message = node.config.wire.max_message
        self._surely_fits = self._max_message - publishing.ENVELOPE
        self._counts = node.counts
        self._channels: dict[str, Channel] = {}
        self.names = Names()
        """Channels with members, in order."""
        self.subscriptions = 0
        """Memberships there are now."""

    def __len__(self) -> int:
        """How many channels have members."""
        return len(self._channels)

    @property
    def log(self) -> Log:
        """Where publications and shared state are."""
        return self._log

    def get(self, name: str) -> Channel | None:
        """The channel of that name, if it has members."""
        return self._channels.get(name)

    def positions(self) -> dict[str, tuple[str, int]]:
        """Channel → the (epoch, offset) its live subscribers stand at, for those with members."""
        return {name: (channel.epoch, channel.offset) for name, channel in self._channels.items()}

    # --- membership --------------------------------------------------------------------------

    def subscribe(self, connection: "Connection", message: Subscribe) -> None:
        """Take the full desired set; what is there already goes on."""
        self._take(connection, message.channels, message.id, fresh=False)

    def restore(self, connection: "Connection", positions: list[Position] | None) -> None:
        """After a hello: every channel of the set begins at its position. None keeps the set the session
        has, but nobody knows then what was missed while it was away, and that is said."""
        session = connection.session
        assert session is not None
        if positions is not None:
            self._take(connection, positions, 0, fresh=True)
            return
        for subscription in list(session.subscriptions.values()):
            name = subscription.channel.name
            if self._may_subscribe(session, name):
                self._begin(connection, subscription, Position(name), 0, lost=True)
            else:
                self._remove(subscription)
                connection.error(ErrorCode.FORBIDDEN, "no right to subscribe", channel=name)

    def _take(self, connection: "Connection", positions: list[Position], command: int, fresh: bool) -> None:
        session = connection.session
        assert session is not None
        wanted = {position.channel: position for position in reversed(positions)}
        maximum = self._config.limits.subscriptions_per_client
        if len(wanted) > maximum:
            connection.error(ErrorCode.LIMIT, f"at most {maximum} channels", id=command)
            return
        ended = [each for name, each in session.subscriptions.items() if name not in wanted]
        if not fresh and not connection.afford(self._effort(session, wanted, ended)):
            connection.exhaust("subscriptions")
            return
        for each in ended:
            self._remove(each)
        if not fresh:
            connection.tell(Subscribing(id=command))
        for position in reversed(wanted.values()):
            subscription = session.subscriptions.get(position.channel)
            if subscription is not None and not fresh:
                continue
            problem = self._problem(session, position.channel)
            if problem is not None:
                if subscription is not None:
                    self._remove(subscription)
                connection.error(*problem, id=command, channel=position.channel[: limits.MAX_CHANNEL])
                continue
            if subscription is None:
                subscription = self._add(session, position.channel)
            subscription.presence, subscription.state = position.presence, position.state
            self._begin(connection, subscription, position, command, lost=False)

    def _effort(self, session: Session, wanted: Iterable[str], ended: list[Subscription]) -> float:
        """What a change of subscriptions takes: each is begun or ended, and its watchers are told."""
        begun = [name for name in wanted if name not in session.subscriptions]
        changed = [self._channels.get(name) for name in begun] + [each.channel for each in ended]
        told = sum(len(channel.watchers) for channel in changed if channel is not None)
        return len(changed) + told / TOLD_PER_EFFORT

    def _begin(
        self,
        connection: "Connection",
        subscription: Subscription,
        position: Position,
        command: int,
        lost: bool,
    ) -> None:
        subscription.command = command
        if connection.recoveries is None:
            connection.recoveries = Recoveries(connection, self, self._log)
        connection.recoveries.begin(subscription, position, lost)

    def _problem(self, session: Session, name: str) -> tuple[ErrorCode, str] | None:
        if not is_id(name, limits.MAX_CHANNEL):
            return ErrorCode.UNKNOWN_CHANNEL, "not a name a channel can have"
        if not self._may_subscribe(session, name):
            return ErrorCode.FORBIDDEN, "no right to subscribe"
        maximum = self._config.channel(name).max_subscribers
        channel = self._channels.get(name)
        members = channel.members if channel is not None else {}
        if 0 < maximum <= len(members) and session.client_id not in members:
            return ErrorCode.LIMIT, f"the channel has room for {maximum} subscribers"
        return None

    def _may_subscribe(self, session: Session, name: str) -> bool:
        return self._node.authorize(session.identity, "subscribe", name, session.identity.may_subscribe(name))

    def _add(self, session: Session, name: str) -> Subscription:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, self._retention(name))
            self.names.add(name)
        subscription = Subscription(channel, session)
        session.subscriptions[channel.name] = subscription
        joined = session.client_id not in channel.members
        channel.members[session.client_id] = subscription
        self.subscriptions += 1
        if joined:
            self._tell_watchers(channel, Join(channel=channel.name, client_id=session.client_id))
        if len(channel.members) == 1 and not channel.opening:
            self._open(channel)
        return subscription

    def _remove(self, subscription: Subscription) -> None:
        """End a membership: nothing is delivered to it any more."""
        channel, session = subscription.channel, subscription.session
        subscription.active = False
        session.subscriptions.pop(channel.name, None)
        self.subscriptions -= 1
        if session.connection is not None:
            self._quiet(channel, session.connection)
            if session.connection.recoveries is not None:
                session.connection.recoveries.cancel(subscription)
        if channel.members.get(session.client_id) is subscription:
            del channel.members[session.client_id]
            self._tell_watchers(channel, Leave(channel=channel.name, client_id=session.client_id))
        if not channel.members and self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            self.names.discard(channel.name)
            self._log.release(channel.name)

    def _quiet(self, channel: Channel, connection: "Connection") -> None:
        channel.live.pop(connection, None)
        channel.watchers.pop(connection, None)

    def detached(self, session: Session, connection: "Connection") -> None:
        """The session lost this connection: it stays a member, and receives nothing."""
        for subscription in session.subscriptions.values():
            self._quiet(subscription.channel, connection)

    def ended(self, session: Session) -> None:
        """The session is over: it leaves every channel."""
        for subscription in list(session.subscriptions.values()):
            self._remove(subscription)

    def rights_changed(self, session: Session) -> None:
        """End the subscriptions the session's new identity has no right to."""
        for subscription in list(session.subscriptions.values()):
            name = subscription.channel.name
            if not self._may_subscribe(session, name):
                self._remove(subscription)
                if session.connection is not None:
                    session.connection.tell(Unsubscribed(channel=name, code=ErrorCode.FORBIDDEN))

    def _open(self, channel: Channel) -> None:
        channel.opening = True
        self._log.hold(channel.name)

        def done(top: Top | Failure) -> None:  # by then another channel may have the name
            self._opened(channel, top)

        self._log.top(channel.name, done)

    def _opened(self, channel: Channel, top: Top | Failure) -> None:
        if self._channels.get(channel.name) is not channel:
            return
        if isinstance(top, Failure):
            for subscription in list(channel.members.values()):
                self.fail(subscription)
            return
        channel.epoch, channel.offset = top.epoch, top.offset
        early, channel.early = channel.early, []
        for appended in early:
            self._accept(channel, appended)
        for subscription in list(channel.members.values()):
            connection = subscription.session.connection
            if connection is not None and connection.recoveries is not None:
                connection.recoveries.opened(subscription)

    def fail(self, subscription: Subscription) -> None:
        """The engine could not serve a subscription: it ends, and its client may try again."""
        self._remove(subscription)
        connection = subscription.session.connection
        if connection is not None:
            connection.error(
                ErrorCode.UNAVAILABLE,
                "try again",
                id=subscription.command,
                channel=subscription.channel.name,
                retry_after=1000,
            )

    def restart(self, subscription: Subscription) -> None:
        """End a subscription whose client must begin again from where it stands."""
        connection = subscription.session.connection
        self._remove(subscription)
        if connection is not None:
            name = subscription.channel.name
            connection.tell(Unsubscribed(channel=name, code="gap", resubscribe=True))

    def recovered(self, asked: bool, gap: Gap | None) -> None:
        """Count a subscription that named a position, or should have."""
        if asked:
            self._counts.recovery("complete" if gap is None else "gap")

    def go_live(self, subscription: Subscription, connection: "Connection") -> None:
        """Everything up to the channel's offset is with this subscription: from now on it hears the rest."""
        channel = subscription.channel
        self.flush(channel)
        channel.live[connection] = subscription
        if subscription.presence and self._config.channel(channel.name).presence:
            connection.send(self._presence_list(channel, 0))
            channel.watchers[connection] = None

    # --- presence ----------------------------------------------------------------------------

    def presence(self, connection: "Connection", query: PresenceQuery) -> None:
        """Tell who is subscribed."""
        session = connection.session
        assert session is not None
        allowed = is_id(query.channel, limits.MAX_CHANNEL) and self._may_subscribe(session, query.channel)
        if not allowed or not self._config.channel(query.channel).presence:
            connection.error(ErrorCode.FORBIDDEN, "no right to see who is here", id=query.id)
            return
        channel = self._channels.get(query.channel)
        if channel is not None and not connection.afford(len(channel.members) / TOLD_PER_EFFORT):
            connection.error(ErrorCode.OVERLOADED, "too many questions", id=query.id, retry_after=1000)
        elif channel is None:
            connection.tell(PresenceList(channel=query.channel, clients=[], id=query.id))
        else:
            connection.send(self._presence_list(channel, query.id))

    def _presence_list(self, channel: Channel, command: int) -> bytes:
        clients, room = [], PRESENCE_BYTES
        for client_id in channel.members:
            room -= 6 * len(client_id.encode()) + 3  # at worst every byte is escaped
            if room < 0:
                break
            clients.append(client_id)
        more = len(channel.members) - len(clients)
        return encode(PresenceList(channel=channel.name, clients=clients, id=command, more=more))

    def _tell_watchers(self, channel: Channel, message: Message) -> None:
        if channel.watchers:
            self._node.work.start(self._tell(channel, encode(message), list(channel.watchers)))

    def _tell(self, channel: Channel, line: bytes, watchers: "list[Connection]") -> Iterator[None]:
        for connection in watchers:
            if connection in channel.watchers:
                connection.send(line)
            yield

    # --- publishing --------------------------------------------------------------------------

    def publish(self, connection: "Connection", message: Publish | Set) -> None:
        """Append to a channel, or write to its shared state; the answer comes when the log has it."""
        session = connection.session
        assert session is not None
        name, command = message.channel, message.id
        self._counts.channel_in += 1
        if not is_id(name, limits.MAX_CHANNEL):
            connection.error(ErrorCode.UNKNOWN_CHANNEL, "not a name a channel can have", id=command)
            return
        if not self._may_publish(session, name):
            connection.error(ErrorCode.FORBIDDEN, "no right to publish", id=command)
            return
        channel = self._channels.get(name)
        retention = self._retention(name) if channel is None else channel.retention
        data = bytes(message.data)
        draft = Draft(session.client_id, data, message.binary, message.key, message.age / 1000)
        if len(data) > self._surely_fits or type(message) is Set:
            draft = publishing.written(draft, message)
            problem = publishing.problem(message, draft, retention, self._max_message)
            if problem is not None:
                connection.error(*problem, id=command)
                return
        if connection.in_flight >= MAX_IN_FLIGHT:
            connection.error(ErrorCode.OVERLOADED, "too many commands at once", id=command, retry_after=1000)
            return
        connection.in_flight += 1

        def done(result: Answer | Failure) -> None:
            connection.in_flight -= 1
            self._appended(name, result)
            if connection.session is session:  # else its client has gone, or come back elsewhere
                publishing.answer(connection, command, result)

        self._log.append(name, draft, retention, done)

    def _may_publish(self, session: Session, name: str) -> bool:
        return self._node.authorize(session.identity, "publish", name, session.identity.may_publish(name))

    def _retention(self, name: str) -> Retention:
        return publishing.retention(self._config.channel(name))

    def _appended(self, name: str, result: Answer | Failure) -> None:
        if not isinstance(result, Appended) or result.repeated:
            return
        self._counts.publications += 1
        self._node.published(name, result.entry)
        channel = self._channels.get(name)
        if channel is None:
            return
        if not channel.epoch:
            channel.early.append(result)
        else:
            self._accept(channel, result)

    def _accept(self, channel: Channel, appended: Appended) -> None:
        entry = appended.entry
        if appended.epoch != channel.epoch or entry.offset > channel.offset + 1:
            self._break(channel, appended)
            return
        if entry.offset <= channel.offset:
            return  # the top that opened the channel counted it already
        channel.offset = entry.offset
        line = Line(channel.name, entry)
        if channel.recovery is not None:
            channel.recovery.add(line)
        if not channel.pending:
            self._node.dirty_channels.append(channel)
            self._node.wake()
        channel.pending.append(line)
        channel.pending_bytes += len(line.data)
        if len(channel.pending) >= MAX_PENDING or channel.pending_bytes >= MAX_PENDING_BYTES:
            self.flush(channel)
        if channel.recovery is not None and channel.recovery.ahead:
            channel.recovery.catch_up()

    def _break(self, channel: Channel, appended: Appended) -> None:
        """The log has jumped: everyone begins again from where they stand."""
        channel.epoch, channel.offset = appended.epoch, appended.entry.offset
        channel.pending, channel.pending_bytes = [], 0
        for subscription in list(channel.members.values()):
            if subscription.session.connection is not None:  # who is away finds out at the next hello
                self.restart(subscription)

    def ephemeral(self, connection: "Connection", message: Ephemeral) -> None:
        """Send an unnumbered message to everyone else in a channel, at most once."""
        session = connection.session
        assert session is not None
        self._counts.ephemeral_in += 1
        if message.sender:
            connection.forged(message)
            return
        channel = self._channels.get(message.channel)
        if not self._may_publish(session, message.channel):
            connection.error(ErrorCode.FORBIDDEN, "no right to publish", channel=message.channel)
            return
        if channel is None or channel.spreads >= MAX_FANOUTS:
            return
        if not connection.afford(len(channel.live) / TOLD_PER_EFFORT):
            return
        message.sender = session.client_id
        message.to = ""
        payload = encode_binary(message) if message.binary else encode(message)
        if len(payload) <= self._max_message:
            others = [other for other in channel.live if other is not connection]
            self._node.work.start(self._spread(channel, payload, message.binary, others))

    def _spread(
        self, channel: Channel, payload: bytes, binary: bool, others: "list[Connection]"
    ) -> Iterator[None]:
        channel.spreads += 1
        try:
            for connection in others:
                if connection in channel.live and not connection.full:
                    (connection.send_binary if binary else connection.send)(payload)
                    self._counts.ephemeral_out += 1
                yield
        finally:
            channel.spreads -= 1

    # --- fan-out -----------------------------------------------------------------------------

    def flush_all(self) -> None:
        """Write what was published in this turn."""
        node = self._node
        dirty, node.dirty_channels = node.dirty_channels, []
        alone = len(dirty) == 1
        for channel in dirty:
            self.flush(channel, alone)

    def flush(self, channel: Channel, alone: bool = False) -> None:
        """Write a channel's pending publications. `alone`: nothing else is likely to go to the same
        subscribers in this turn, so that a prepared frame may go straight to the wire."""
        lines, channel.pending = channel.pending, []
        channel.pending_bytes = 0
        if not lines or not channel.live:
            return
        if len(channel.live) <= SLICE and not channel.fanouts:
            self._deliver(lines, list(channel.live), alone)
            return
        while len(channel.fanouts) >= MAX_FANOUTS:
            self._fan_out_slice(channel, alone=False)
        channel.fanouts.append(FanOut(lines, list(channel.live.items())))
        if len(channel.fanouts) == 1:
            self._node.work.start(self._fan_out(channel, alone), 1)

    def _fan_out(self, channel: Channel, alone: bool) -> Iterator[None]:
        while channel.fanouts:
            self._fan_out_slice(channel, alone)
            yield

    def _fan_out_slice(self, channel: Channel, alone: bool) -> None:
        fanout = channel.fanouts[0]
        part = fanout.targets[fanout.done : fanout.done + SLICE]
        fanout.done += SLICE
        if fanout.done >= len(fanout.targets):
            channel.fanouts.popleft()
        live = channel.live  # without those who left since, even if they are back: they recover
        self._deliver(fanout.lines, [who for who, then in part if live.get(who) is then], alone)

    def _deliver(self, lines: list[Line], connections: "list[Connection]", alone: bool) -> None:
        """Write lines to connections: a copy of who is live, since writing may close one."""
        frames: dict[str, bytes] = {}
        wrote = 0
        for connection in connections:
            if connection.lines or not alone:
                connection.extend(lines)
                continue
            frame = frames.get(connection.kind)
            if frame is None:
                frame = frames[connection.kind] = connection.frame_lines(lines)
            connection.write(frame, len(lines))
            wrote += len(frame)
        self._counts.bytes_out += wrote
        self._counts.channel_out += len(connections) * len(lines)
