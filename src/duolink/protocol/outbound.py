"""The sending half of one lane of a link: numbers, bodies, and what became of them.

Every number ends `delivered` or `lost`, and its sender is told which, once. What is known of a number
is its entry here, from `submit` until the receiver's cursor has passed it:

    pending ── stored by a mailbox ──▶ stored ──┐
       │                                        ├── cursor passed, not listed as lost ──▶ delivered
       └── expired, refused ──▶ skipped ────────┴── cursor passed, listed as lost ──────▶ lost

An entry counts the copies of it that left and were not answered by `wait`. A skipped entry without
copies is lost for certain, at once; with copies, the receiver's acknowledgement says what it was.
"""

from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Any, Final, NamedTuple

from msgspec import Raw

from duolink.protocol.codes import LossReason
from duolink.protocol.messages import Ack, LinkMessage, Skip
from duolink.protocol.records import LaneChange, SavedEntry, SavedLane


class WindowFull(Exception):
    """There is no room for another number before something is stored or settled."""


class Outgoing:
    """One number of a lane, from its sender's side. `context` is the driver's own."""

    __slots__ = (
        "ask",
        "binary",
        "collapse",
        "context",
        "copies",
        "data",
        "deadline",
        "expires",
        "failed",
        "process",
        "reason",
        "relayed",
        "reply",
        "request",
        "sent",
        "seq",
        "size",
        "stored",
        "tag",
        "told",
    )

    def __init__(self, seq: int, data: Raw, binary: bool, expires: float) -> None:
        self.seq = seq
        self.data = data
        self.binary = binary
        self.size = len(bytes(data))
        self.expires = expires
        self.request = ""
        self.deadline = 0
        self.reply = ""
        self.failed = False
        self.ask = False
        self.collapse = ""
        self.tag = ""  # the application's own name for it
        self.context: Any = None
        self.copies = 0
        self.process = _NOBODY  # the receiver's process that may have the body, if it is one
        self.stored = False
        self.sent = NEVER  # when it first left
        self.relayed = NEVER  # when it first left on this connection to the server, and was not refused there
        self.reason = ""  # why it is skipped; empty: it is not
        self.told = False  # the application knows its end


NEVER: Final = -inf
"""A time before all others."""

_NOBODY = -1
_SEVERAL = -2


class Settled(NamedTuple):
    """The end of a number. `reason` is empty for delivered. A loss that is not `certain` may have been
    delivered all the same: copies are out and no acknowledgement can come any more, or the receiver
    that says it was lost may not be the process that had the copies."""

    entry: Outgoing
    reason: str = ""
    certain: bool = True


class Stored(NamedTuple):
    """A mailbox has the number now."""

    entry: Outgoing


class Record:
    """What a journal has of a lane, and what it was told. A number above `top` has not left, a base above
    `base` was not announced: the process that continues the run will not know of it."""

    __slots__ = ("base", "ended", "told", "top")

    def __init__(self) -> None:
        self.top, self.base = 0, 1
        self.told = (0, 1, 0, "")  # highest number, base, stored up to, tag
        self.ended: list[tuple[int, str]] = []


class Outbound:
    """One lane's numbers of one run, in order, from `base` on. `record`: a journal keeps them."""

    __slots__ = (
        "_entries",
        "_expires",
        "_unsafe_bytes",
        "lane",
        "next_seq",
        "peer",
        "process",
        "received",
        "record",
        "run",
        "stored",
        "sure",
        "tag",
        "window",
        "window_bytes",
    )

    def __init__(self, peer: str, lane: str, run: int, window: int, window_bytes: int) -> None:
        self.peer, self.lane, self.run = peer, lane, run
        self.window, self.window_bytes = window, window_bytes
        self.next_seq = 1
        self.process = 0  # the receiver's process (its run), as last told
        self.sure = False  # told on this connection
        self.received = 0  # the receiver's cursor of arrival, as far as acknowledged
        self.stored = 0  # the mailbox's
        self.tag = ""  # of the newest number
        self.record: Record | None = None
        self._entries: deque[Outgoing] = deque()
        self._unsafe_bytes = 0
        self._expires = inf

    # --- what is there -----------------------------------------------------------------------

    @property
    def base(self) -> int:
        """Lowest number not yet settled."""
        return self._entries[0].seq if self._entries else self.next_seq

    @property
    def ready(self) -> int:
        """Highest number that may leave."""
        record = self.record
        return self.next_seq - 1 if record is None else min(self.next_seq - 1, record.top)

    @property
    def announced(self) -> int:
        """The base that the receiver may hear of."""
        record = self.record
        return self.base if record is None else min(self.base, record.base)

    @property
    def unsettled(self) -> int:
        """How many numbers are not settled."""
        return len(self._entries)

    def next_expiry(self) -> float:
        """When the next entry expires."""
        return self._expires

    def has_room(self, size: int) -> bool:
        """Whether a body of that many bytes may be numbered now; one always may."""
        first_unsafe = max(self.base, self.stored + 1)
        if self.next_seq == first_unsafe:
            return True
        return self.next_seq < first_unsafe + self.window and self._unsafe_bytes + size <= self.window_bytes

    def between(self, first: int, last: int) -> Iterator[Outgoing]:
        """The entries numbered `first` … `last` that are still there."""
        if not self._entries or last < first:
            return
        start = max(first - self._entries[0].seq, 0)
        stop = min(last - self._entries[0].seq + 1, len(self._entries))
        for index in range(start, stop):
            yield self._entries[index]

    # --- what the application does -------------------------------------------------------------

    def submit(self, data: Raw, *, binary: bool = False, expires: float = inf) -> Outgoing:
        """Number a body. Raises `WindowFull`; nothing is numbered then."""
        size = len(bytes(data))
        if not self.has_room(size):
            raise WindowFull(f"{self.unsettled} numbers to {self.peer} are neither stored nor settled")
        entry = Outgoing(self.next_seq, data, binary, expires)
        self.next_seq += 1
        self._entries.append(entry)
        self._unsafe_bytes += entry.size
        self._expires = min(self._expires, expires)
        return entry

    # --- what the network says -----------------------------------------------------------------

    def acknowledge(self, ack: Ack) -> list[Settled]:
        """Take a receiver's cursors. Returns the numbers that are settled by them.

        Acknowledgements of another run, or of numbers never sent, change nothing.
        """
        if ack.run != self.run or max(ack.seq, ack.received) > self.ready:
            return []
        received = max(ack.received, ack.seq)
        self.received = received if ack.want else max(self.received, received)
        return self._settle(ack.seq, ack)

    def acknowledge_cursor(self, run: int, seq: int) -> list[Settled]:
        """Take a cursor that rode on a message: everything up to `seq` is delivered, nothing lost."""
        if run != self.run or not self._entries or not self._entries[0].seq <= seq <= self.ready:
            return []
        self.received = max(self.received, seq)
        return self._settle(seq, None)

    def _settle(self, seq: int, ack: Ack | None) -> list[Settled]:
        entries = self._entries
        settled = []
        while entries and entries[0].seq <= seq:
            entry = entries.popleft()
            if not entry.stored:
                self._unsafe_bytes -= entry.size
            if not entry.told:
                entry.told = True
                reason = _reason(ack, entry.seq)
                settled.append(Settled(entry, reason, not reason or _unseen(entry, ack, reason)))
        if not entries:
            self._expires = inf
        self._advance()
        return settled

    def store(self, seq: int) -> list[Stored]:
        """A mailbox has everything up to `seq`: bodies are forgotten, the window moves on."""
        if seq > self.ready or seq <= self.stored:
            return []
        first, self.stored = self.stored + 1, seq
        stored = []
        for entry in self.between(first, seq):
            if entry.reason:
                continue
            entry.stored = True
            self._unsafe_bytes -= entry.size
            entry.data, entry.size = Raw(b""), 0
            stored.append(Stored(entry))
        return stored

    def forgotten(self, kept: int) -> list[Settled]:
        """The mailbox has everything up to `kept`, though it has had more: its database is another one, or an
        older one. Those bodies are gone; what their receiver has not got, it will hear, is lost."""
        settled: list[Settled] = []
        for entry in self.between(kept + 1, self.stored):
            if entry.stored and not entry.reason:
                entry.reason = LossReason.STORAGE_LOST
                settled += self._conclude(entry)
        return settled

    def dropped(self, first: int, last: int) -> list[Settled]:
        """The server handed one copy of each of these numbers to nobody (`wait`)."""
        settled: list[Settled] = []
        for entry in self.between(first, last):
            entry.relayed = NEVER
            if entry.copies:
                entry.copies -= 1
                settled += self._conclude(entry)
        self._advance()
        return settled

    def meet(self, process: int) -> None:
        """The server tells which process answers for the receiver. What another one had received it
        does not have."""
        if self.process and process != self.process:
            self.received = self.base - 1
        self.process = process
        self.sure = True

    def refuse(self, seq: int, reason: LossReason = LossReason.REFUSED) -> list[Settled]:
        """The server will never take this number: it is skipped. The copy it refused went nowhere."""
        settled: list[Settled] = []
        for entry in self.between(seq, seq):
            entry.copies = max(entry.copies - 1, 0)
            settled += self._skip(entry, reason)
        self._advance()
        return settled

    def expire(self, now: float) -> list[Settled]:
        """Skip what has outlived its time. A stored number's time is the mailbox's matter."""
        if now < self._expires:
            return []
        settled: list[Settled] = []
        self._expires = inf
        for entry in self._entries:
            if entry.expires <= now and not entry.reason and not entry.stored:
                settled += self._skip(entry, LossReason.EXPIRED)
            elif not entry.reason and not entry.stored:
                self._expires = min(self._expires, entry.expires)
        self._advance()
        return settled

    def abandon(self, reason: str) -> list[Settled]:
        """The process gives up: every number not settled ends as lost, as certain as its copies say."""
        settled = [
            Settled(entry, entry.reason or reason, certain=not entry.copies and not entry.stored)
            for entry in self._entries
            if not entry.told
        ]
        self._entries.clear()
        self._unsafe_bytes = 0
        self._expires = inf
        return settled

    def _skip(self, entry: Outgoing, reason: LossReason) -> list[Settled]:
        if entry.reason or entry.stored:
            return []
        entry.reason = reason
        self._unsafe_bytes -= entry.size
        entry.data, entry.size = Raw(b""), 0
        return self._conclude(entry)

    def _conclude(self, entry: Outgoing) -> list[Settled]:
        if entry.copies or not entry.reason or entry.told:
            return []
        entry.told = True
        if self.record is not None:
            self.record.ended.append((entry.seq, entry.reason))
        return [Settled(entry, entry.reason)]

    def _advance(self) -> None:
        # Skipped numbers of which nobody has a copy need no acknowledgement: a receiver learns from
        # `base` that they are gone. Else an absent receiver would let them fill the window.
        entries = self._entries
        while entries and entries[0].told and not entries[0].copies:
            entries.popleft()

    # --- what a journal keeps ------------------------------------------------------------------

    def outstanding(self) -> list[Outgoing]:
        """The entries whose end was not told."""
        return [entry for entry in self._entries if not entry.told]

    def change(self) -> LaneChange | None:
        """Return, once, what the journal has not been told; None: nothing."""
        record = self.record
        assert record is not None
        now = (self.next_seq - 1, self.base, self.stored, self.tag)
        if now == record.told and not record.ended:
            return None
        before, record.told = record.told, now
        ended, record.ended = record.ended, []
        entries = tuple(self.between(before[0] + 1, now[0]))
        saved = tuple(map(_saved, entries))
        stored = self.stored if self.stored != before[2] else 0
        return LaneChange(self, now[0], self.base, stored, self.tag, entries, saved, tuple(ended))

    def kept(self, change: LaneChange) -> None:
        """The journal has it."""
        record = self.record
        assert record is not None
        record.top, record.base = change.top, change.base

    def restore(self, saved: SavedLane, *, anew: bool) -> None:
        """Take over, while this lane is empty, what an earlier process left of it. `anew`: this is another
        run, in which what that process did not bring to safety is numbered again, in order.

        Copies may be out of which nothing is known. The answer to a request would find nobody, so it is
        skipped, as one of a process that restarted.
        """
        assert self.record is not None and self.next_seq == 1
        self.tag = saved.tag
        for entry in saved.entries:
            if anew and (entry.stored or entry.request or entry.reason):
                continue
            seq = self.next_seq if anew else entry.seq
            self._entries.append(_restored(entry, seq))
            self.next_seq = seq + 1
            self._unsafe_bytes += self._entries[-1].size
            if entry.stored:
                self.stored = seq
            elif not self._entries[-1].reason:
                self._expires = min(self._expires, entry.expires)
        if not anew:
            self.next_seq = saved.next_seq
            self.record.top, self.record.base = saved.next_seq - 1, self.base
            self.record.told = (saved.next_seq - 1, self.base, self.stored, self.tag)
            self.received = self.base - 1

    # --- what leaves -------------------------------------------------------------------------

    def transmit(
        self, first: int, last: int, now: float = 0.0, *, server: bool = True, store: bool = False
    ) -> Iterator[LinkMessage | Skip]:
        """Yield what is to be sent of the numbers `first` … `last`, counting the copies. Stored
        numbers are the mailbox's to send. `server`: it goes to the server; `store`: to be kept there."""
        run: list[Outgoing] = []
        base = self.announced
        for entry in self.between(first, min(last, self.ready)):
            safe = entry.stored and not entry.reason
            if run and (entry.reason != run[0].reason or safe):
                yield self._skips(run, store)
                run = []
            if safe:
                continue
            entry.copies += 1
            if entry.sent == NEVER:
                entry.sent = now
            if server and entry.relayed == NEVER:
                entry.relayed = now
            if entry.reason:
                if not server and entry.process != _NOBODY:
                    entry.process = _SEVERAL  # the skip may overtake a copy, which another process then gets
                run.append(entry)
                continue
            # Where a path other than the server's leads, the server has told at another time.
            process = self.process if self.sure and server else 0
            if entry.process != process:
                entry.process = process if entry.process == _NOBODY else _SEVERAL
            yield LinkMessage(
                run=self.run,
                seq=entry.seq,
                base=base,
                to=self.peer,
                lane=self.lane,
                ask=entry.ask,
                request=entry.request,
                deadline=entry.deadline,
                reply=entry.reply,
                failed=entry.failed,
                store=store,
                ttl=0 if entry.expires == inf else max(int((entry.expires - now) * 1000), 1),
                collapse=entry.collapse,
                binary=entry.binary,
                data=entry.data,
            )
        if run:
            yield self._skips(run, store)

    def forget_relayed(self) -> None:
        """A connection to the server begins: nothing has left on it."""
        for entry in self._entries:
            entry.relayed = NEVER

    def _skips(self, entries: list[Outgoing], store: bool) -> Skip:
        return Skip(
            run=self.run,
            seq=entries[0].seq,
            last=entries[-1].seq,
            base=self.announced,
            reason=entries[0].reason,
            to=self.peer,
            lane=self.lane,
            store=store,
        )


def _saved(entry: Outgoing) -> SavedEntry:
    keep = not (entry.reason or entry.stored or entry.request)
    return SavedEntry(
        seq=entry.seq,
        data=bytes(entry.data) if keep else b"",
        binary=entry.binary,
        expires=entry.expires,
        reply=entry.reply,
        failed=entry.failed,
        collapse=entry.collapse,
        tag=entry.tag,
        request=bool(entry.request),
        stored=entry.stored,
        reason=entry.reason if entry.told else "",
    )


def _restored(saved: SavedEntry, seq: int) -> Outgoing:
    entry = Outgoing(seq, Raw(saved.data), saved.binary, saved.expires)
    entry.reply, entry.failed = saved.reply, saved.failed
    entry.collapse, entry.tag = saved.collapse, saved.tag
    entry.stored = saved.stored
    entry.reason = LossReason.SENDER_RESTARTED if saved.request else saved.reason
    entry.told = bool(entry.reason)
    if not saved.reason:
        entry.copies, entry.process = 1, _SEVERAL
    return entry


def _unseen(entry: Outgoing, ack: Ack | None, reason: str) -> bool:
    # Whether a receiver's word that the number was lost speaks for all who may have the body.
    if reason == LossReason.UNCLEAR:
        return False
    return entry.process == _NOBODY or (ack is not None and 0 < entry.process == ack.by)


def _reason(ack: Ack | None, seq: int) -> str:
    for lost in ack.lost if ack is not None else ():
        if lost.first <= seq <= lost.last:
            return lost.reason
    return ""
