"""From a mailbox to a client that is here: what was kept for it, in order, as fast as it takes it.

One `Delivery` per connection that has something to catch up with, one `Backlog` per stream. A backlog is
read in pages, at most a window beyond what the receiver has acknowledged; when it has reached what is
stored the stream is clear, and its next messages go live. What is on its way to the disk then follows when
it is there; the receiver puts it in its place. (Not before: a store that fails is answered by `wait`, which
says that nobody has the copy.) Of one sender, a run is handed over after those before it, since a receiver
that has heard of a run drops what comes of an earlier one.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from duolink.engines.base import Box, Failure, Row, Stream
from duolink.protocol import limits
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

MAX_EARLY: Final = 4096
"""Streams whose acknowledgements are kept until it is known what there is. A client that resumes may have as
many; what is beyond them is handed over once more, and acknowledged again."""

RETRY: Final = 1.0
"""Seconds after which a failed read is tried again."""


Sender = tuple[str, str]
"""(receiver, sender)"""


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
        "_behind",
        "_blocked",
        "_due",
        "_early",
        "_mailboxes",
        "_reads",
        "_retrying",
        "_running",
        "_streams",
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
        self._streams: dict[Stream, Backlog] = {}
        self._behind: dict[Sender, list[Backlog]] = {}  # those that have to catch up, by run
        self._early: dict[Stream, Ack] = {}  # acknowledged before it was known what there is
        self._due: dict[Sender, None] = {}  # to be gone on with
        self._blocked: dict[Sender, None] = {}  # would read, if fewer did
        self._reads = 0
        self._running = False
        self._retrying = False  # the disk has failed: it is left alone for a while

    @property
    def idle(self) -> bool:
        """Whether there is nothing to deliver, and nothing to wait for."""
        return self.listed and not self._streams

    def open(self, now: float = 0.0) -> None:
        """Ask what there is."""
        self._retrying = False
        if self.connection is not None:
            session = self.session
            self._mailboxes.engine.open(session.client_id, session.user, session.run, self._opened)

    def close(self) -> None:
        """The connection no longer carries the session."""
        self.connection = None
        for table in (self._streams, self._behind, self._early, self._due, self._blocked):
            table.clear()

    def may_begin(self, stream: Stream) -> bool:
        """Whether the client may hear of a stream's run: nothing of an earlier one waits."""
        behind = self._behind.get(stream[:2])
        return self.listed and (not behind or behind[0].stream.run >= stream.run)

    def clear(self, stream: Stream) -> bool:
        """Whether a stream's next message may go to the connection at once: nothing before it waits."""
        if not self.listed:
            return False
        return not any(
            other.stream.lane == stream.lane or other.stream.run != stream.run
            for other in self._behind.get(stream[:2], ())
        )

    # --- what there is -----------------------------------------------------------------------

    def _opened(self, boxes: tuple[Box, ...] | Failure) -> None:
        if self.connection is None or self.listed:
            return
        if isinstance(boxes, Failure):
            self._later(self.open)
            return
        self.listed = True
        for box in boxes:
            backlog = self._streams.get(box.stream)
            if backlog is None:
                backlog = self._add(Backlog(box.stream, box.first - 1, box.first - 1), caught_up=False)
            backlog.acked = backlog.sent = box.first - 1
            backlog.lost = list(box.lost)
            backlog.top = max(backlog.top, box.top)
        early, self._early = self._early, {}
        for stream, ack in early.items():
            self._acknowledged(stream, ack)
        self.run()
        self._mailboxes.looked_at(self)

    def _add(self, backlog: Backlog, caught_up: bool) -> Backlog:
        self._streams[backlog.stream] = backlog
        backlog.caught_up = True
        if not caught_up:
            self._falls_behind(backlog)
        return backlog

    def _falls_behind(self, backlog: Backlog) -> None:
        if backlog.caught_up:
            backlog.caught_up = False
            insort(self._behind.setdefault(backlog.stream[:2], []), backlog, key=_run)

    def _catches_up(self, backlog: Backlog) -> None:
        if not backlog.caught_up:
            backlog.caught_up = True
            sender = backlog.stream[:2]
            behind = self._behind[sender]
            behind.remove(backlog)
            if not behind:
                del self._behind[sender]

    def settle(self, stream: Stream) -> None:
        """Forget a stream that has nothing more: all that is stored is finished with, and nothing is on its
        way to the disk."""
        backlog = self._streams.get(stream)
        if backlog is not None and self.listed and backlog.acked >= backlog.top:
            if self._mailboxes.is_under_way(stream):
                return
            del self._streams[stream]
            if not backlog.caught_up:
                self._catches_up(backlog)
                self._go_on(stream)  # a later run may have waited for it
        self._mailboxes.looked_at(self)

    # --- what happens ------------------------------------------------------------------------

    def kept(self, stream: Stream, row: Row, handed: bool) -> None:
        """A row is stored. `handed`: an earlier copy of it went to this connection."""
        backlog = self._streams.get(stream)
        if backlog is None:
            # What is below was finished with: else it was listed, or has been stored on this connection.
            # (Not what the sender knows to be settled: a user's client may have joined since.)
            backlog = Backlog(stream, row.seq - 1, row.seq - 1)
            self._add(backlog, caught_up=self.listed)
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
            and self.may_begin(stream)
            and self._hand(backlog, row, connection)
        ):
            return
        self._again_from(backlog, backlog.sent)

    def acknowledged(self, sender: str, user: str, lane: str, run: int, ack: Ack | int) -> None:
        """The client has finished with more of a stream, or misses some of it. What it says of another user's
        changes nothing."""
        session = self.session
        if user and user != f"@{session.user}":
            return
        stream = Stream(user or session.client_id, sender, lane, run)
        if type(ack) is int:
            ack = Ack(run=run, seq=ack)
        assert isinstance(ack, Ack)
        if self.listed:
            self._acknowledged(stream, ack)
        elif stream in self._early:
            before = self._early[stream]
            if (ack.seq, ack.want) >= (before.seq, before.want):
                self._early[stream] = ack
        elif len(self._early) < MAX_EARLY:
            self._early[stream] = ack

    def _acknowledged(self, stream: Stream, ack: Ack) -> None:
        backlog = self._streams.get(stream)
        if backlog is None:
            if stream.receiver[0] == "@" or not self._mailboxes.is_under_way(stream):
                return
            # What is on its way to the disk has come all the same: the disk is to know, behind it.
            backlog = self._add(Backlog(stream, 0, ack.seq), caught_up=True)
            backlog.top = 0
        seq = ack.seq
        if stream.receiver[0] == "@":
            seq = min(seq, backlog.top)  # nothing else has ever come to it
        if seq > backlog.acked:
            backlog.acked = seq
            lost = tuple(ack.lost)
            self._mailboxes.engine.acknowledge(stream, self.session.client_id, seq, lost, ack.by)
            if stream.receiver[0] == "@":
                self._mailboxes.tell_settled(stream)
        if ack.want:
            # What is beyond the top, its sender sends again.
            received = max(ack.received, backlog.acked)
            if received < min(backlog.sent, backlog.top):
                self._again_from(backlog, received)
                return
        self.settle(stream)
        self._go_on(stream)

    def _again_from(self, backlog: Backlog, sent: int) -> None:
        """What is behind a number is read, and what comes meanwhile is stored."""
        backlog.sent = sent
        if backlog.caught_up:
            self._falls_behind(backlog)
            self._mailboxes.behind(backlog.stream)
        self._go_on(backlog.stream)

    def run(self) -> None:
        """Go on with everything, as far as the connection takes it."""
        self._due.update(dict.fromkeys(self._behind))
        self._run()

    # --- handing over ------------------------------------------------------------------------

    def _go_on(self, stream: Stream) -> None:
        """Go on with what one sender has sent."""
        if not self._running and not self._behind:
            return
        self._due[stream[:2]] = None
        self._run()

    def _run(self) -> None:
        if self._running or not self.listed:
            return
        self._running = True
        try:
            while self._due:
                sender = next(iter(self._due))
                del self._due[sender]
                self._advance_runs(sender)
        finally:
            self._running = False

    def _advance_runs(self, sender: Sender) -> None:
        """Advance the lanes of the lowest run that is behind; of the next when they have caught up."""
        while behind := self._behind.get(sender):
            run = behind[0].stream.run
            for backlog in [each for each in behind[: len(limits.LANES)] if each.stream.run == run]:
                self._advance(backlog)
            behind = self._behind.get(sender)
            if not behind or behind[0].stream.run == run:
                return

    def _room(self, backlog: Backlog) -> int:
        return self._mailboxes.window - (backlog.sent - backlog.acked)

    def _advance(self, backlog: Backlog) -> None:
        connection = self.connection
        while connection is not None and not backlog.caught_up and not backlog.reading:
            if connection.full or self._retrying:
                return  # goes on when it has drained, or the disk is asked again
            if backlog.sent >= backlog.top:
                self._catches_up(backlog)
                self.settle(backlog.stream)
                return
            room = self._room(backlog)
            if room <= 0:
                return  # goes on with the next acknowledgement
            if self._reads >= MAX_READS:
                self._blocked[backlog.stream[:2]] = None
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
            connection = self.connection

    def _page(self, backlog: Backlog, top: int, rows: tuple[Row, ...] | Failure) -> None:
        self._reads -= 1
        backlog.reading = False
        fresh, backlog.fresh = backlog.fresh, None
        connection = self.connection
        if connection is None:
            return
        if isinstance(rows, Failure):
            self._later(self._again)
        elif self._streams.get(backlog.stream) is backlog:
            self._take(backlog, top, rows, fresh or (), connection)
            connection.relieve()
        self._due[backlog.stream[:2]] = None
        self._due.update(self._blocked)
        self._blocked.clear()
        self._run()

    def _take(
        self, backlog: Backlog, top: int, rows: Sequence[Row], fresh: Sequence[Row], connection: "Connection"
    ) -> None:
        if not rows:  # whatever was there has been finished with, or forgotten
            if backlog.acked >= backlog.sent:
                backlog.acked = max(backlog.acked, top)
            backlog.sent = max(backlog.sent, top)
        for row in rows:
            if row.last > backlog.sent and (connection.full or not self._hand(backlog, row, connection)):
                return
        for row in fresh:  # if the page has not come up to them, they are read
            if row.last > backlog.sent:
                if row.seq > backlog.sent + 1 or self._room(backlog) <= 0 or connection.full:
                    return
                if not self._hand(backlog, row, connection):
                    return

    def _hand(self, backlog: Backlog, row: Row, connection: "Connection") -> bool:
        """Hand a row over; of many numbers that were lost as many as a receiver takes at once. Returns
        whether that was all."""
        stream = backlog.stream
        user = stream.receiver if stream.receiver[0] == "@" else ""
        jump = row.seq > max(backlog.acked, backlog.sent) + 1
        if jump or not backlog.announced:
            # Where it begins, for a receiver that has no memory of the stream; to another it is no news.
            # Again where numbers are missing: they are settled, as nothing else leaves a hole in a mailbox.
            backlog.announced = True
            before = row.seq - 1 if jump else backlog.acked
            connection.send(encode(beginning(stream, before, backlog.lost)))
        last = row.last
        if row.reason:
            first = max(row.seq, backlog.sent + 1)
            last = min(last, first + self._mailboxes.window - 1)
            skip = Skip(
                run=stream.run,
                seq=first,
                last=last,
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
        backlog.sent = max(backlog.sent, last)
        self._mailboxes.handed(stream, row)
        return last == row.last

    # --- when the disk fails -----------------------------------------------------------------

    def _later(self, action: Callable[[float], None]) -> None:
        if not self._retrying:
            self._retrying = True
            node = self._mailboxes.node
            node.timers.at(node.now + RETRY, action)

    def _again(self, now: float) -> None:
        self._retrying = False
        if self.connection is not None:
            self.run()


def beginning(stream: Stream, settled: int, lost: Iterable[LostRange]) -> Probe:
    """Say that a stream begins behind what is settled, for a receiver that has no memory of it. (By `start`:
    a `base` would say that the sender has heard of what the receiver has lost.)"""
    return Probe(
        run=stream.run,
        seq=settled,
        base=1,
        sender=stream.sender,
        lane=stream.lane,
        start=settled + 1,
        lost=list(lost),
        user=stream.receiver if stream.receiver[0] == "@" else "",
    )


def _run(backlog: Backlog) -> int:
    return backlog.stream.run
