"""From a mailbox to a client that is here: what was kept for it, in order, as fast as it takes it.

One `Delivery` per connection that has something to catch up with, one `Backlog` per stream. A backlog is
read in pages, at most a window beyond what the receiver has acknowledged; when it has reached what is
stored the stream is clear, and its next messages go live. What is on its way to the disk then follows when
it is there; the receiver puts it in its place. (Not before: a store that fails is answered by `wait`, which
says that nobody has the copy.) Of one sender, a run is handed over after those before it, since a receiver
that has heard of a run drops what comes of an earlier one.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from duolink.engines.base import Box, Failure, Row, Stream
from duolink.protocol.codec import encode
from duolink.protocol.messages import Ack, LostRange, Probe, Skip
from duolink.server.registry import Session

if TYPE_CHECKING:
    from duolink.server.connection import Connection
    from duolink.server.mailbox import Mailboxes

PAGE: Final = 128
"""Rows of one read: half a window, so that the next page is read while this one is being taken."""

PAGE_BYTES: Final = 256 * 1024
"""Bytes of one read; a quarter of a connection's send buffer."""

MAX_READS: Final = 8
"""Streams of one client read at once; the others have their turn."""

MAX_FRESH: Final = 256
"""Rows kept at hand that were stored while a page was being read; with more, another page is read."""

RETRY: Final = 1.0
"""Seconds after which a failed read is tried again."""


class Backlog:
    """One stream on its way to one client."""

    __slots__ = ("acked", "announced", "caught_up", "fresh", "lost", "reading", "sent", "stream", "top")

    def __init__(self, stream: Stream, acked: int, sent: int) -> None:
        self.stream = stream
        self.acked = acked
        """The client has finished with everything up to here."""
        self.sent = sent
        """Everything up to here was handed to the connection."""
        self.top = sent
        """Everything up to here is stored."""
        self.caught_up = False
        """Whether everything that is stored was handed over."""
        self.reading = False
        self.fresh: list[Row] | None = None
        self.lost: list[LostRange] = []
        self.announced = False


class Delivery:
    """What one connection is to be given from mailboxes: its client's own, and its user's."""

    __slots__ = (
        "_blocked",
        "_early",
        "_mailboxes",
        "_queues",
        "_reads",
        "_running",
        "connection",
        "listed",
        "session",
    )

    def __init__(self, mailboxes: "Mailboxes", session: Session, connection: "Connection") -> None:
        self._mailboxes = mailboxes
        self.session = session
        self.connection: Connection | None = connection
        self.listed = False
        """Whether it is known what there is."""
        self._queues: dict[tuple[str, str], list[Backlog]] = {}  # (receiver, sender) → by run
        self._early: dict[Stream, Ack] = {}  # acknowledged before it was known what there is
        self._blocked: deque[Stream] = deque()  # would read, if fewer did
        self._reads = 0
        self._running = False

    @property
    def idle(self) -> bool:
        """Whether there is nothing to deliver, and nothing to wait for."""
        return self.listed and not self._queues

    def open(self, now: float = 0.0) -> None:
        """Ask what there is."""
        if self.connection is not None:
            session = self.session
            self._mailboxes.engine.open(session.client_id, session.user, session.run, self._opened)

    def close(self) -> None:
        """The connection no longer carries the session."""
        self.connection = None
        self._queues.clear()

    def clear(self, stream: Stream) -> bool:
        """Whether a stream's next message may go to the connection at once: nothing before it waits."""
        if not self.listed:
            return False
        for backlog in self._queues.get(stream[:2], ()):
            other = backlog.stream
            if not backlog.caught_up and (other.lane == stream.lane or other.run != stream.run):
                return False
        return True

    # --- what there is -----------------------------------------------------------------------

    def _opened(self, boxes: tuple[Box, ...] | Failure) -> None:
        if self.connection is None or self.listed:
            return
        if isinstance(boxes, Failure):
            self._later(self.open)
            return
        self.listed = True
        for box in boxes:
            backlog = self._find(box.stream)
            if backlog is None:
                backlog = self._add(Backlog(box.stream, box.first - 1, box.first - 1))
            backlog.acked = backlog.sent = box.first - 1
            backlog.lost = list(box.lost)
            backlog.top = max(backlog.top, box.top)
        early, self._early = self._early, {}
        for ack in early.values():
            self.acknowledged(ack.to, ack.user, ack.lane, ack.run, ack)
        self.run()
        self._mailboxes.looked_at(self)

    def _find(self, stream: Stream) -> Backlog | None:
        for backlog in self._queues.get(stream[:2], ()):
            if backlog.stream == stream:
                return backlog
        return None

    def _add(self, backlog: Backlog) -> Backlog:
        queue = self._queues.setdefault(backlog.stream[:2], [])
        queue.append(backlog)
        queue.sort(key=lambda each: each.stream.run)
        return backlog

    def _drop(self, backlog: Backlog) -> None:
        queue = self._queues[backlog.stream[:2]]
        queue.remove(backlog)
        if not queue:
            del self._queues[backlog.stream[:2]]
            self._mailboxes.looked_at(self)

    # --- what happens ------------------------------------------------------------------------

    def kept(self, stream: Stream, row: Row, base: int, handed: bool) -> None:
        """A row is stored. `handed`: an earlier copy of it went to this connection."""
        backlog = self._find(stream)
        if backlog is None:
            backlog = self._add(Backlog(stream, min(base, row.seq) - 1, row.seq - 1))
            backlog.caught_up = self.listed
        backlog.top = max(backlog.top, row.last)
        if handed and row.seq <= backlog.sent + 1:
            backlog.sent = max(backlog.sent, row.last)
        if row.last <= backlog.sent:
            return
        if backlog.fresh is not None and len(backlog.fresh) < MAX_FRESH:
            backlog.fresh.append(row)
            return
        backlog.fresh = None
        connection = self.connection
        assert connection is not None
        if (
            backlog.caught_up
            and row.seq <= backlog.sent + 1
            and self._room(backlog) > 0
            and not connection.full
            and self._first(backlog)
        ):
            self._hand(backlog, row, connection)
        elif backlog.caught_up:
            backlog.caught_up = False
            self._mailboxes.behind(stream)
            self._go_on(stream)

    def acknowledged(self, sender: str, user: str, lane: str, run: int, ack: Ack | int) -> None:
        """The client has finished with more of a stream, or misses some of it."""
        stream = Stream(user or self.session.client_id, sender, lane, run)
        if not self.listed:
            if isinstance(ack, Ack):
                self._early[stream] = ack
            return
        backlog = self._find(stream)
        if backlog is None:
            return
        seq, lost, by, want = (ack, (), 0, False) if isinstance(ack, int) else _parts(ack)
        if seq > backlog.acked or lost:
            backlog.acked = max(backlog.acked, seq)
            self._mailboxes.engine.acknowledge(stream, self.session.client_id, seq, lost, by)
        if backlog.acked >= backlog.top and not self._mailboxes.is_under_way(stream):
            self._drop(backlog)
            self._go_on(stream)  # a later run may have waited for it
            return
        if want and isinstance(ack, Ack):
            received = max(ack.received, backlog.acked)
            if received < min(backlog.sent, backlog.top):  # what is beyond the top, its sender sends again
                backlog.sent = received
                backlog.caught_up = False
                self._mailboxes.behind(stream)
        self._go_on(stream)

    def run(self) -> None:
        """Go on with everything, as far as the connection takes it."""
        for receiver, sender in list(self._queues):
            self._go_on(Stream(receiver, sender, "", 0))

    # --- handing over ------------------------------------------------------------------------

    def _go_on(self, stream: Stream) -> None:
        """Go on with what one sender has sent."""
        if self._running or not self.listed:
            return
        self._running = True
        runs = list(self._queues.get(stream[:2], ()))
        for backlog in runs:
            if self._first(backlog):
                self._advance(backlog)
        self._running = False

    def _first(self, backlog: Backlog) -> bool:
        """Whether nothing of an earlier run of its sender waits."""
        stream = backlog.stream
        queue = self._queues[stream[:2]]
        return all(other.caught_up for other in queue if other.stream.run < stream.run)

    def _room(self, backlog: Backlog) -> int:
        return self._mailboxes.window - (backlog.sent - backlog.acked)

    def _advance(self, backlog: Backlog) -> None:
        connection = self.connection
        while connection is not None and not backlog.caught_up and not backlog.reading:
            if connection.full:
                return  # goes on when it has drained
            if backlog.sent >= backlog.top:
                backlog.caught_up = True
                return
            room = self._room(backlog)
            if room <= 0:
                return  # goes on with the next acknowledgement
            if self._reads >= MAX_READS:
                self._blocked.append(backlog.stream)
                return
            self._reads += 1
            backlog.reading = True
            backlog.fresh = []
            self._mailboxes.engine.read(
                backlog.stream,
                self.session.client_id,
                backlog.sent,
                min(room, PAGE),
                PAGE_BYTES,
                partial(self._page, backlog, backlog.top),
            )

    def _page(self, backlog: Backlog, top: int, rows: tuple[Row, ...] | Failure) -> None:
        self._reads -= 1
        backlog.reading = False
        fresh, backlog.fresh = backlog.fresh, None
        connection = self.connection
        if connection is None or self._find(backlog.stream) is not backlog:
            return
        if isinstance(rows, Failure):
            self._later(self._again)
            return
        if not rows:  # whatever was there has been finished with, or forgotten
            backlog.sent = max(backlog.sent, top)
        for row in (*rows, *(fresh or ())):
            if connection.full or (row.last > backlog.sent and row.seq > max(backlog.sent, top) + 1):
                break
            if row.last > backlog.sent:
                self._hand(backlog, row, connection)
        connection.relieve()
        if not self._running:
            self._go_on(backlog.stream)
            if self._blocked and self._reads < MAX_READS:
                self._go_on(self._blocked.popleft())

    def _hand(self, backlog: Backlog, row: Row, connection: "Connection") -> None:
        stream = backlog.stream
        user = stream.receiver if stream.receiver[0] == "@" else ""
        if not backlog.announced:
            # Where it begins, for a receiver that has no memory of the stream; to another it is no news.
            backlog.announced = True
            probe = Probe(
                run=stream.run,
                seq=backlog.acked,
                base=1,
                sender=stream.sender,
                lane=stream.lane,
                start=backlog.acked + 1,
                lost=backlog.lost,
                user=user,
            )
            connection.send(encode(probe))
        backlog.sent = max(backlog.sent, row.last)
        if row.reason:
            for seq in range(row.seq, row.last + 1, self._mailboxes.window):  # no receiver takes more at once
                skip = Skip(
                    run=stream.run,
                    seq=seq,
                    last=min(seq + self._mailboxes.window - 1, row.last),
                    base=1,
                    reason=row.reason,
                    sender=stream.sender,
                    lane=stream.lane,
                    user=user,
                )
                connection.send(encode(skip))
        elif row.binary:
            connection.send_binary(row.body)
        else:
            connection.send(row.body)
        self._mailboxes.handed(stream, row)

    # --- when the disk fails -----------------------------------------------------------------

    def _later(self, action: Callable[[float], None]) -> None:
        node = self._mailboxes.node
        node.timers.at(node.now + RETRY, action)

    def _again(self, now: float) -> None:
        if self.connection is not None:
            self.run()


def _parts(ack: Ack) -> tuple[int, tuple[LostRange, ...], int, bool]:
    return ack.seq, tuple(ack.lost), ack.by, ack.want
