"""Exact recovery: from a subscriber's position to the live stream, without a hole and without a repeat.

While anyone recovers, a channel remembers what is published (`Recovery.recent`). The history behind the
position is read page by page, one read for all who stand at the same place; when it reaches what is
remembered, or the channel's newest offset, the subscriber is told where its stream begins, gets
what it missed, and is live in the same instant. What cannot be had is a typed gap.

A connection recovers one channel at a time, and none while it is full: what it holds is bounded by one
recovery, however many channels it has.
"""

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from duolink.engines.base import Failure, Log, Page
from duolink.protocol import limits
from duolink.protocol.messages import Gap, Position, Subscribed

if TYPE_CHECKING:
    from duolink.server.channels import Channel, Channels, Line, Subscription
    from duolink.server.connection import Connection

MAX_RECOVERED: Final = limits.MAX_HISTORY_PAGE
"""Publications one recovery may send; who missed more is better served by a snapshot."""

MAX_RECOVERED_BYTES: Final = 512 * 1024
"""Bytes of them: half of what may wait for one connection."""

MAX_RECENT: Final = 1024
"""Publications a channel remembers while someone recovers; who needs older ones reads again."""

MAX_RECENT_BYTES: Final = 1024 * 1024
"""Bytes of them."""

PAGE: Final = 100
"""Publications of one read."""


class Recovery:
    """What a channel keeps while anyone recovers in it."""

    __slots__ = ("_channel", "_log", "_reads", "_size", "recent", "users")

    def __init__(self, channel: "Channel", log: Log) -> None:
        self._channel = channel
        self._log = log
        self._reads: dict[int, list[tuple[Recoveries, _Course]]] = {}
        self.recent: deque[Line] = deque()
        self._size = 0
        self.users = 0

    def add(self, line: "Line") -> None:
        """Remember a publication that went to those who are live."""
        recent = self.recent
        recent.append(line)
        self._size += len(line.data)
        while len(recent) > MAX_RECENT or self._size > MAX_RECENT_BYTES:
            self._size -= len(recent.popleft().data)

    def after(self, offset: int) -> "list[Line] | None":
        """What is remembered after an offset; None if it does not follow without a hole."""
        recent = self.recent
        if not recent or recent[0].offset > offset + 1:
            return None
        return [line for line in recent if line.offset > offset]

    def read(self, after: int, who: "Recoveries", course: "_Course") -> None:
        """Read the page after an offset, for everybody who asks before it comes."""
        waiting = self._reads.get(after)
        if waiting is not None:
            waiting.append((who, course))
            return
        self._reads[after] = [(who, course)]
        channel = self._channel
        self._log.read(channel.name, channel.epoch, after, PAGE, partial(self._done, after))

    def _done(self, after: int, page: Page | Failure) -> None:
        waiting = self._reads.pop(after)
        channel = self._channel
        lines: list[Line] = []
        if isinstance(page, Page):
            lines = [channel.line(entry) for entry in page.entries]
        for who, course in waiting:
            who.page(course, page, lines)


class _Course:
    """One subscription on its way to being live."""

    __slots__ = ("gap", "lines", "lost", "position", "reached", "size", "subscription")

    def __init__(self, subscription: "Subscription", position: Position, lost: bool) -> None:
        self.subscription, self.position, self.lost = subscription, position, lost
        self.reached = position.offset
        self.lines: list[Line] = []
        self.size = 0
        self.gap: Gap | None = None


class Recoveries:
    """The subscriptions of one connection that are not live yet, in order."""

    __slots__ = ("_channels", "_connection", "_current", "_log", "_queue", "_running")

    def __init__(self, connection: "Connection", channels: "Channels", log: Log) -> None:
        self._connection: Connection | None = connection
        self._channels = channels
        self._log = log
        self._queue: deque[_Course] = deque()
        self._current: _Course | None = None
        self._running = False

    def begin(self, subscription: "Subscription", position: Position, lost: bool) -> None:
        """Bring a subscription from its position to the live stream, after those before it. `lost`: the
        position is not known though there was one."""
        self._queue.append(_Course(subscription, position, lost))
        self.run()

    def run(self) -> None:
        """Go on with the next subscription if the connection can take it."""
        if self._running:
            return
        self._running = True
        while self._current is None and self._queue and self._connection is not None:
            if self._connection.full:
                break  # goes on when it has drained
            course = self._queue.popleft()
            if course.subscription.active:
                self._current = course
                channel = course.subscription.channel
                if channel.recovery is None:
                    channel.recovery = Recovery(channel, self._log)
                channel.recovery.users += 1
                self._start(course)
        self._running = False

    def opened(self, subscription: "Subscription") -> None:
        """The channel is open: go on with it, if it is the one that waited."""
        if self._current is not None and self._current.subscription is subscription:
            self._start(self._current)

    def cancel(self, subscription: "Subscription") -> None:
        """The subscription has ended."""
        if self._current is not None and self._current.subscription is subscription:
            self._finish()

    def close(self) -> None:
        """The connection is gone."""
        self._connection = None
        self._queue.clear()
        if self._current is not None:
            self._finish()

    def _start(self, course: _Course) -> None:
        channel, position = course.subscription.channel, course.position
        if not channel.epoch:
            return  # `opened` comes
        if not position.epoch:
            self._release(course, channel.offset, Gap("evicted", 0, channel.offset) if course.lost else None)
        elif position.epoch != channel.epoch or position.offset > channel.offset:
            self._release(course, channel.offset, Gap("epoch"))
        else:
            self._advance(course)

    def _advance(self, course: _Course) -> None:
        channel = course.subscription.channel
        assert channel.recovery is not None
        first = course.position.offset + 1
        if channel.offset - course.reached > MAX_RECOVERED or course.size > MAX_RECOVERED_BYTES:
            course.lines = []
            self._release(course, channel.offset, Gap("overflow", first, channel.offset))
            return
        if course.reached < channel.offset:
            recent = channel.recovery.after(course.reached)
            if recent is None:
                channel.recovery.read(course.reached, self, course)
                return
            course.lines += recent
        self._release(course, course.position.offset if course.gap is None else course.gap.last, course.gap)

    def page(self, course: _Course, page: Page | Failure, lines: "list[Line]") -> None:
        """A page of history has come; a stale one is dropped."""
        if course is not self._current:
            return
        channel = course.subscription.channel
        if isinstance(page, Failure) or page.top.epoch != channel.epoch or not (lines or page.gap):
            self._channels.fail(course.subscription)
            return
        if page.gap is not None:
            course.lines, course.size = [], 0
            course.gap = Gap("evicted", course.position.offset + 1, page.gap[1])
            course.reached = page.gap[1]
        course.lines += lines
        course.size += sum(len(line.data) for line in lines)
        if lines:
            course.reached = lines[-1].offset
        self._advance(course)

    def _release(self, course: _Course, offset: int, gap: Gap | None) -> None:
        """Say where the stream begins, send what was missed, and let the rest follow live."""
        subscription, connection = course.subscription, self._connection
        assert connection is not None
        channel = subscription.channel
        asked = bool(course.position.epoch)
        connection.tell(
            Subscribed(
                channel=channel.name,
                epoch=channel.epoch,
                offset=offset,
                recovered=asked and gap is None,
                gap=gap,
            )
        )
        connection.extend(course.lines)
        self._channels.go_live(subscription, connection)
        self._channels.recovered(asked or course.lost, gap)
        self._finish()

    def _finish(self) -> None:
        course, self._current = self._current, None
        assert course is not None
        channel = course.subscription.channel
        if channel.recovery is not None:
            channel.recovery.users -= 1
            if channel.recovery.users == 0:
                channel.recovery = None
        self.run()
