"""Clients by hand, as what they have said and heard makes them: so any moment of theirs can be had again."""

from collections.abc import Iterator
from typing import Any

from msgspec import Raw

from duolink.protocol.messages import Ack, LinkMessage, LostRange, Peer, Probe, Skip, Stored, Wait, Welcome

Name = tuple[str, str]
"""A receiver (or `@user`) and a lane."""


def body(run: int, to: str, lane: str, seq: int) -> bytes:
    """What a number says: nobody can make it up."""
    return f'"{run} {to} {lane} {seq}"'.encode()


class Outbox:
    """What one process sends to one receiver in one lane."""

    def __init__(self, run: int, name: Name) -> None:
        self.run, self.name = run, name
        self.said: dict[int, LinkMessage | Skip] = {}
        """Everything that was ever sent, or is to be sent, by its first number."""
        self.stored = self.settled = self.on_its_way = 0
        self.lost: list[LostRange] = []
        self.trouble = 0
        """How often the server could not store."""
        self.waits = False
        """Told to wait, and not called back yet."""

    @property
    def top(self) -> int:
        """The highest number sent."""
        return max((last_of(each) for each in self.said.values()), default=0)

    def message(self, seq: int, **fields: Any) -> LinkMessage:
        to, lane = self.name
        data = Raw(body(self.run, to, lane, seq))
        base = self.settled + 1
        return LinkMessage(run=self.run, seq=seq, base=base, to=to, lane=lane, data=data, **fields)

    def skip(self, seq: int, last: int) -> Skip:
        to, lane = self.name
        base = self.settled + 1
        return Skip(run=self.run, seq=seq, last=last, base=base, reason="cancelled", to=to, lane=lane)

    def probe(self) -> Probe:
        to, lane = self.name
        return Probe(run=self.run, seq=self.top, base=self.settled + 1, to=to, lane=lane)

    def queue(self, message: LinkMessage | Skip) -> None:
        """It is to be sent in its turn."""
        self.said[message.seq] = message

    def says(self, message: LinkMessage | Skip) -> None:
        self.said.setdefault(message.seq, message)
        self.on_its_way = max(self.on_its_way, last_of(message))

    def hears(self, message: Ack | Stored | Wait) -> None:
        if isinstance(message, Stored):
            self.stored = max(self.stored, message.seq)
        elif isinstance(message, Wait):
            self.trouble += message.code == "unavailable"
            self.waits = True
            self.on_its_way = min(self.on_its_way, message.seq - 1)
        else:
            self.settled = max(self.settled, message.seq)
            self.lost += [each for each in message.lost if each not in self.lost]
            if message.want:
                self.waits = False
                self.on_its_way = max(message.received, message.seq)

    def again(self) -> None:
        """There is a new connection, here or there: what is not safe is sent again."""
        self.waits = False
        self.on_its_way = max(self.stored, self.settled)

    def due(self) -> Iterator[LinkMessage | Skip]:
        """What is to be sent now: everything behind what is on its way, unless it waits."""
        if self.waits:
            return
        first = max(self.on_its_way, self.stored, self.settled) + 1
        for seq, message in sorted(self.said.items()):
            if last_of(message) >= first:
                message.base = min(self.settled + 1, seq)
                yield message


class Inbox:
    """What one process takes from one run of a sender in one lane, for itself or its user."""

    def __init__(self, stream: tuple[str, str, str, int]) -> None:
        self.stream = stream
        self.expected = 0
        """The next number; 0: nothing was heard of it yet."""
        self.finished = 0
        self.taken: dict[int, bytes] = {}
        """What the application got, in order; of lost numbers their reason."""
        self._held: dict[int, LinkMessage | Skip] = {}
        self.lost: list[LostRange] = []
        self.owes = self.misses = False
        """Whether an acknowledgement is due, though nothing new is finished; and is to ask for more."""

    def hears(self, message: LinkMessage | Skip | Probe) -> None:
        if isinstance(message, Probe):
            if not self.expected and message.start:
                self._begin(message.start)
                self.lost = list(message.lost)
            self.owes, self.misses = True, message.seq >= self.expected
            return
        if not self.expected:
            self._begin(message.base)
        if last_of(message) >= self.expected:
            self._held[message.seq] = message
        else:
            self.owes = True  # a repeat
        if message.base > self.expected:
            for seq in range(self.expected, message.base):
                self.taken[seq] = b"gone"
            self._begin(message.base)
        while (held := self._next()) is not None:
            for seq in range(max(held.seq, self.expected), last_of(held) + 1):
                self.taken[seq] = held.reason.encode() if isinstance(held, Skip) else bytes(held.data)
                if isinstance(held, Skip):
                    self.lost.append(LostRange(seq, seq, held.reason))
            self.expected = last_of(held) + 1

    def _next(self) -> LinkMessage | Skip | None:
        for seq, message in sorted(self._held.items()):
            if seq <= self.expected:
                del self._held[seq]
                if last_of(message) >= self.expected:
                    return message
        return None

    def _begin(self, seq: int) -> None:
        self.expected, self.finished = seq, max(self.finished, seq - 1)

    def ack(self, seq: int) -> Ack:
        """Acknowledge everything up to a number."""
        receiver, sender, lane, run = self.stream
        user = receiver if receiver[0] == "@" else ""
        lost = [each for each in self.lost if each.last <= seq]
        ack = Ack(run=run, seq=seq, to=sender, lane=lane, received=self.expected - 1, lost=lost, user=user)
        ack.want = self.misses
        return ack

    def says(self, ack: Ack) -> None:
        self.owes = self.misses = False
        self.finished = max(self.finished, ack.seq)


class Process:
    """One process of a client: all that it has said and heard of links."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.run = 0
        self.outboxes: dict[Name, Outbox] = {}
        self.inboxes: dict[tuple[str, str, str, int], Inbox] = {}

    def outbox(self, to: str, lane: str = "messages") -> Outbox:
        return self.outboxes.setdefault((to, lane), Outbox(self.run, (to, lane)))

    def _inbox(self, user: str, sender: str, lane: str, run: int) -> Inbox:
        stream = user or self.client_id, sender, lane, run
        return self.inboxes.setdefault(stream, Inbox(stream))

    def says(self, message: Any) -> None:
        if isinstance(message, LinkMessage | Skip):
            self.outbox(message.to, message.lane).says(message)
        elif isinstance(message, Ack):
            self._inbox(message.user, message.to, message.lane, message.run).says(message)

    def hears(self, message: Any) -> None:
        if isinstance(message, Welcome):
            self.run = message.run
            for outbox in self.outboxes.values():
                outbox.again()
        elif isinstance(message, Peer) and message.state == "here":
            for (to, _), outbox in self.outboxes.items():
                if to == message.client_id:
                    outbox.again()
        elif isinstance(message, LinkMessage | Skip | Probe):
            self._inbox(message.user, message.sender, message.lane, message.run).hears(message)
        elif isinstance(message, Ack | Stored | Wait):
            to = message.sender if isinstance(message, Ack) else message.to
            if message.run == self.run and (to, message.lane) in self.outboxes:
                self.outboxes[to, message.lane].hears(message)


def last_of(message: LinkMessage | Skip) -> int:
    return message.last if isinstance(message, Skip) else message.seq
