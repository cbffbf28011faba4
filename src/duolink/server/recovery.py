"""Exact recovery: from a subscriber's position to the live stream, without a hole and without a repeat.

While anyone recovers, a channel remembers what is published (`Recovery.recent`). The history behind the
position is read page by page, one read for all who stand at the same place. With the first page the
subscriber is told where its stream begins; when history reaches what is remembered, or the channel's
newest offset, it is live in the same instant. What cannot be had is a typed gap.

Who wants the shared state and does not get everything it has missed begins with a snapshot, read and encoded
once for all who can begin there: as long as what is remembered follows it without a hole.

A connection recovers one channel at a time, and is sent no more while it is full: what waits for it is
bounded however much it missed.
"""

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from duolink.engines.base import Failure, Log, Page
from duolink.engines.base import Snapshot as Read
from duolink.protocol.messages import Gap, Position, Snapshot, Subscribed
from duolink.server.channel import Line

if TYPE_CHECKING:
    from duolink.server.channel import Channel, Subscription
    from duolink.server.channels import Channels
    from duolink.server.connection import Connection

MAX_RECOVERED: Final = 10_000
"""Publications one recovery may send; who missed more is better served by a snapshot."""

BURST: Final = 64 * 1024
"""Bytes sent between two looks at whether the connection is full."""

MAX_RECENT: Final = 1024
"""Publications a channel remembers while someone recovers; who needs older ones reads again."""

MAX_RECENT_BYTES: Final = 1024 * 1024
"""Bytes of them."""

PAGE: Final = 50
"""Publications of one read: at most 3 MiB, shared by everybody at the same place."""


class State(NamedTuple):
    """A channel's shared state at an offset, encoded."""

    offset: int
    lines: "list[Line]"


class Recovery:
    """What a channel keeps while anyone recovers in it."""

    __slots__ = ("_asking", "_channel", "_log", "_reads", "_size", "_state", "ahead", "recent", "users")

    def __init__(self, channel: "Channel", log: Log) -> None:
        self._channel = channel
        self._log = log
        self._reads: dict[int, list[tuple[Recoveries, _Course]]] = {}
        self._asking: list[tuple[Recoveries, _Course]] = []
        self._state: State | None = None
        self.ahead: list[tuple[Recoveries, _Course]] = []
        """Those whose position the log has reached, and the channel not yet."""
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

    def catch_up(self) -> None:
        """The channel's offset has moved on: release those it has reached."""
        reached = [pair for pair in self.ahead if pair[1].reached <= self._channel.offset]
        if reached:
            self.ahead = [pair for pair in self.ahead if pair not in reached]
        for who, course in reached:
            who.advance(course)

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

    def state(self, who: "Recoveries", course: "_Course") -> None:
        """Give the shared state that was read for another, or read it for all who ask before it comes."""
        state = self._state
        if state is not None and (
            state.offset >= self._channel.offset or self.after(state.offset) is not None
        ):
            who.state(course, state)
            return
        self._asking.append((who, course))
        if len(self._asking) == 1:
            self._log.state(self._channel.name, self._stated)

    def _stated(self, read: Read | Failure) -> None:
        asking, self._asking = self._asking, []
        channel, state = self._channel, None
        if isinstance(read, Read) and read.top.epoch == channel.epoch:
            lines = [Line(channel.name, entry, state=True) for entry in read.entries]
            state = self._state = State(read.top.offset, lines)
        for who, course in asking:
            who.state(course, state)


class _Course:
    """One subscription on its way to being live."""

    __slots__ = ("announced", "gap", "lines", "lost", "position", "reached", "state", "subscription")

    def __init__(self, subscription: "Subscription", position: Position, lost: bool) -> None:
        self.subscription, self.position, self.lost = subscription, position, lost
        self.reached = position.offset
        """The newest publication that was sent, or is in `lines`."""
        self.lines: deque[Line] = deque()
        self.announced = False
        self.gap: Gap | None = None
        self.state: State | None = None
        """What it begins with, behind that gap, when the channel is where it was taken."""


class Recoveries:
    """The subscriptions of one connection that are not live yet, in order."""

    __slots__ = ("_channels", "_connection", "_current", "_log", "_queue", "_running")

    def __init__(self, connection: "Connection", channels: "Channels", log: Log) -> None:
        self._connection: Connection | None = connection
        self._channels = channels
        self._log = log
        self._queue: dict[Subscription, _Course] = {}
        self._current: _Course | None = None
        self._running = False

    def begin(self, subscription: "Subscription", position: Position, lost: bool) -> None:
        """Bring a subscription from its position to the live stream, after those before it. `lost`: the
        position is not known though there was one."""
        self._queue.pop(subscription, None)
        self._queue[subscription] = _Course(subscription, position, lost)
        self.run()

    def run(self) -> None:
        """Go on as far as the connection can take it: with what has been read, then with the next."""
        if self._running:
            return
        self._running = True
        if self._current is not None and self._current.lines:
            self.advance(self._current)
        while self._current is None and self._queue and self._connection is not None:
            if self._connection.full:
                break  # goes on when it has drained
            course = self._queue.pop(next(iter(self._queue)))
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
        self._queue.pop(subscription, None)
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
        missed = channel.offset - position.offset
        if not position.epoch:
            self._jump(course, Gap("evicted", 0, channel.offset) if course.lost else None)
        elif position.epoch != channel.epoch:
            self._jump(course, Gap("epoch"))
        elif missed > MAX_RECOVERED:
            self._jump(course, Gap("overflow", position.offset + 1, channel.offset))
        elif missed < 0:
            # From the future, or read from a log whose answer to the publisher is still under way.
            assert channel.recovery is not None
            channel.recovery.read(position.offset, self, course)
        else:
            self.advance(course)

    def _jump(self, course: _Course, gap: Gap | None) -> None:
        """Begin at the channel's newest offset, or with the shared state."""
        if course.subscription.state:
            recovery = course.subscription.channel.recovery
            assert recovery is not None
            course.gap = gap
            recovery.state(self, course)
            return
        course.reached = course.subscription.channel.offset
        self._announce(course, gap)
        self.advance(course)

    def _announce(self, course: _Course, gap: Gap | None) -> None:
        """Tell where the stream begins: behind what was sent so far, which is nothing."""
        assert self._connection is not None
        course.announced = True
        channel = course.subscription.channel
        asked = bool(course.position.epoch)
        self._connection.tell(
            Subscribed(
                id=course.subscription.command,
                channel=channel.name,
                epoch=channel.epoch,
                offset=course.reached,
                recovered=asked and gap is None,
                gap=gap,
            )
        )
        self._channels.recovered(asked or course.lost, gap)

    def advance(self, course: _Course) -> None:
        """Send what has been read, as far as the connection takes it; then read on, or go live."""
        connection = self._connection
        if course is not self._current or connection is None:
            return
        channel = course.subscription.channel
        assert channel.recovery is not None
        if course.state is not None:
            self._picture(course, course.state)
        while True:
            if not self._send(course, connection):
                return  # goes on when the connection has drained
            if course.reached == channel.offset:
                break
            recent = channel.recovery.after(course.reached)
            if recent is None:
                channel.recovery.read(course.reached, self, course)
                return
            self._take(course, recent)
        if not course.announced:
            self._announce(course, None)
        self._channels.go_live(course.subscription, connection)
        self._finish()

    def _picture(self, course: _Course, state: State) -> None:
        course.state = None
        self._announce(course, course.gap)
        assert self._connection is not None
        name, count = course.subscription.channel.name, len(state.lines)
        self._connection.tell(Snapshot(channel=name, count=count, id=course.subscription.command))
        course.lines.extend(state.lines)

    def _send(self, course: _Course, connection: "Connection") -> bool:
        """Send the lines; return False, with some left, when the connection is full."""
        lines = course.lines
        while lines:
            if connection.full:
                return False
            part, size = [], 0
            while lines and size < BURST:
                size += len(lines[0].data)
                part.append(lines.popleft())
            connection.extend(part)
            connection.relieve()
            if course is not self._current:
                return False  # it was too much
        return True

    def _take(self, course: _Course, lines: "list[Line]") -> None:
        if not course.announced:
            self._announce(course, None)
        course.lines.extend(lines)
        course.reached = lines[-1].offset

    def page(self, course: _Course, page: Page | Failure, lines: "list[Line]") -> None:
        """A page of history has come; a stale one is dropped."""
        if course is not self._current:
            return
        channel = course.subscription.channel
        if isinstance(page, Failure) or page.top.epoch != channel.epoch:
            self._fail(course)
        elif course.reached > channel.offset:
            self._from_ahead(course, page)
        elif not lines and page.gap is None:
            self._fail(course)  # the log lacks what it has appended
        elif page.gap is not None and course.announced:
            # Retention was faster: its client asks again from where it stands, and hears what is gone.
            self._channels.restart(course.subscription)
        elif page.gap is not None and course.subscription.state:
            self._jump(course, Gap("evicted", course.reached + 1))
        else:
            # The log may be ahead of the channel: what that will still fan out is not taken from here.
            if page.gap is not None:
                first, course.reached = course.reached + 1, min(page.gap[1], channel.offset)
                self._announce(course, Gap("evicted", first, course.reached))
            lines = [line for line in lines if line.offset <= channel.offset]
            if lines:
                self._take(course, lines)
            self.advance(course)

    def state(self, course: _Course, state: State | None) -> None:
        """The shared state has come (None: it cannot be had); a stale one is dropped."""
        if course is not self._current:
            return
        channel, gap = course.subscription.channel, course.gap
        assert channel.recovery is not None
        if state is None:
            self._fail(course)
            return
        if gap is not None and gap.reason != "epoch":
            if state.offset < gap.first:  # it was on its way to another before this one came
                channel.recovery.state(self, course)
                return
            course.gap = Gap(gap.reason, gap.first, state.offset)
        course.state, course.reached = state, state.offset
        if course.reached > channel.offset:
            channel.recovery.ahead.append((self, course))
        else:
            self.advance(course)

    def _fail(self, course: _Course) -> None:
        """The engine could not serve it. Who has been told where it begins goes on from there."""
        if course.announced:
            self._channels.restart(course.subscription)
        else:
            self._channels.fail(course.subscription)

    def _from_ahead(self, course: _Course, page: Page) -> None:
        channel = course.subscription.channel
        assert channel.recovery is not None
        if page.top.offset < course.reached:
            self._jump(course, Gap("epoch"))
        else:
            channel.recovery.ahead.append((self, course))

    def _finish(self) -> None:
        course, self._current = self._current, None
        assert course is not None
        channel = course.subscription.channel
        if channel.recovery is not None:
            channel.recovery.users -= 1
            if channel.recovery.users == 0:
                channel.recovery = None
        self.run()
