"""The world of links with a server that keeps messages: late, full, failing, and forgetting nothing it has.

Its mailboxes are as plain as can be: one dictionary of rows per stream. What the real ones do better (pages,
quotas, ports that answer late) has its own tests; here the two machines are on trial.
"""

from dataclasses import dataclass, field
from typing import Any

from tests.model.link_world import WINDOW, End, Number, World

from duolink.protocol import codec
from duolink.protocol.codes import ErrorCode
from duolink.protocol.link import Link, StorageTrouble, Stored
from duolink.protocol.messages import Ack, Error, LinkMessage, LostRange, Message, Probe, Skip, Wait
from duolink.protocol.messages import Stored as StoredMessage
from duolink.protocol.outbound import Settled

Key = tuple[str, str, int]
"""(sender, lane, run)"""


@dataclass
class Row:
    """A number that a mailbox has; lost, if it has a reason."""

    payload: bytes
    expires: float
    reason: str = ""


@dataclass
class Mailbox:
    """What a server keeps of one sender's run and lane."""

    stored: int = 0
    cursor: int = 0
    rows: dict[int, Row] = field(default_factory=dict)
    lost: list[LostRange] = field(default_factory=list)
    by: int = 0
    sent: int = 0  # handed to the receiver's connection up to here
    told: bool = False  # and where it begins was said


class DurableWorld(World):
    """`World` with a disk. `disk` lets it answer; `full` and `failing` say what it answers."""

    def __init__(self, *, watching: bool = True) -> None:
        super().__init__(watching=watching)
        self.mailboxes: dict[Key, Mailbox] = {}
        self.requests: list[tuple[End, int, Message, bytes]] = []  # (sender, its connection, …)
        self.failing = self.full = False
        self.checked: set[tuple[Key, int]] = set()  # streams a younger process was checked for
        self.handed: dict[Key, int] = {}  # what went live to the receiver's connection
        self.told_stored: dict[Key, int] = {}  # what a sender was told is stored, up to here …
        self.safe: set[Number] = set()  # … and its application
        self.connections = dict.fromkeys("AB", 0)
        self.waiting_for_disk: set[Key] = set()
        for end in self.ends.values():
            end.link.adapt(WINDOW, end.link.window_bytes, durable=True)

    def _process(self, name: str, life: int) -> End:
        end = super()._process(name, life)
        end.link = Link(end.peer, end.run, window=WINDOW, durable=True)
        return end

    # --- the server ----------------------------------------------------------------------------

    def connect(self, name: str, *, resumed: bool = False) -> None:
        """A hello is answered, and the mailbox is handed over."""
        if not self.ends[name].connected:
            self.connections[name] += 1
            for key, mailbox in self.mailboxes.items():
                if key[0] != name:
                    mailbox.sent, mailbox.told = mailbox.cursor, False
            self.handed = {key: seq for key, seq in self.handed.items() if key[0] == name}
        super().connect(name, resumed=resumed)
        self._deliver(self.ends[name].peer)

    def _forget(self, name: str) -> None:
        super()._forget(name)
        self.checked = {entry for entry in self.checked if entry[0][0] != name}

    def disk(self, count: int = 1) -> None:
        """The disk answers the oldest requests."""
        for _ in range(min(count, len(self.requests))):
            self._store(*self.requests.pop(0))

    def well(self) -> None:
        """The disk has room and works; who was turned away is called back."""
        self.failing = self.full = False
        waiting, self.waiting_for_disk = self.waiting_for_disk, set()
        for sender, lane, run in waiting:
            end = self.ends[sender]
            if end.connected and end.run == run:
                self._reply(end, Ack(run=run, seq=0, sender=end.peer, lane=lane, want=True))

    def _reply(self, end: End, message: Message) -> None:
        end.from_server.append(codec.encode(message))

    def _behind(self, key: Key, below: int = 1 << 53) -> bool:
        """Whether something of this stream, or of another run of its sender, waits for the receiver."""
        sender, lane, run = key
        return any(
            mailbox.sent < mailbox.stored and any(seq > mailbox.sent for seq in mailbox.rows)
            for (other, other_lane, other_run), mailbox in self.mailboxes.items()
            if other == sender and (other_lane == lane or other_run != run) and other_run < below
        ) or any(
            end.name == sender and message.run < run  # type: ignore[attr-defined]
            for end, _, message, _ in self.requests
        )

    def _relay(self, end: End, payload: bytes) -> None:
        (message,) = codec.CLIENT.text(payload)
        assert not isinstance(message, codec.Malformed), message
        peer = self.ends[end.peer]
        if isinstance(message, Ack):
            self._acknowledged(end, message)
        elif isinstance(message, LinkMessage):
            if message.ack_run:
                self._finished(end, message.ack_run, message.lane, message.ack, [], 0)
            self._route(end, peer, message, message.seq, payload)
        elif isinstance(message, Skip):
            self._route(end, peer, message, message.last, payload)
        elif isinstance(message, Probe):
            self._probed(end, peer, message)
        else:
            raise AssertionError(f"nobody sends this to a server: {message}")

    def _route(self, end: End, peer: End, message: LinkMessage | Skip, last: int, payload: bytes) -> None:
        key = (end.name, message.lane, message.run)
        held = self.held.get(key, message.seq)
        if message.seq > held >= message.base:
            self._wait(end, message, last)
            return
        self.held.pop(key, None)
        mailbox = self.mailboxes.setdefault(key, Mailbox())
        if last <= mailbox.cursor:
            self._standing(end, key, mailbox.cursor, want=False)
            return
        live = peer.connected and not message.store and last < message.base + WINDOW
        if live and peer.run > end.run and (key, peer.run) not in self.checked:
            self.checked.add((key, peer.run))
            self.held[key] = message.seq
            self._wait(end, message, last)
            self._standing(end, key, max(mailbox.cursor, message.base - 1), want=True)
        elif live and not self._behind(key):
            self._forward(end, peer, message)
            if message.seq <= self.handed.get(key, message.base - 1) + 1:
                self.handed[key] = max(self.handed.get(key, 0), last)
        else:
            self.requests.append((end, self.connections[end.name], message, payload))

    def _forward(self, end: End, peer: End, message: Any) -> None:
        message.to, message.sender = "", end.name
        peer.from_server.append(codec.encode(message))

    def _wait(self, end: End, message: LinkMessage | Skip, last: int, code: str = "") -> None:
        self._reply(
            end, Wait(to=end.peer, run=message.run, seq=message.seq, last=last, lane=message.lane, code=code)
        )

    def _standing(self, end: End, key: Key, settled: int, *, want: bool) -> None:
        mailbox = self.mailboxes.setdefault(key, Mailbox())
        received = mailbox.stored if mailbox.stored > settled else 0
        self._reply(
            end,
            Ack(
                run=key[2],
                seq=settled,
                sender=end.peer,
                lane=key[1],
                received=received,
                want=want,
                lost=[lost for lost in mailbox.lost if lost.last <= settled],
                by=mailbox.by,
            ),
        )

    def _store(self, end: End, connection: int, message: Any, payload: bytes) -> None:
        here = self.ends[end.name] is end and end.connected and self.connections[end.name] == connection
        key = (end.name, message.lane, message.run)
        mailbox = self.mailboxes.setdefault(key, Mailbox())
        last = message.last if isinstance(message, Skip) else message.seq
        if self.failing:
            self.tally["told that nothing can be stored"] += 1
            if here:
                self.held[key] = min(self.held.get(key, message.seq), message.seq)
                self._wait(end, message, last, ErrorCode.UNAVAILABLE)
            self.waiting_for_disk.add(key)
            return
        mailbox.stored = max(mailbox.stored, message.base - 1)
        self._pass(mailbox, message.base - 1)
        if message.seq > mailbox.stored + 1:
            self.tally["a hole before a store"] += 1
            if here:
                self._wait(end, message, last)
                self._standing(end, key, mailbox.cursor, want=True)
            return
        full = self.full and isinstance(message, LinkMessage) and message.seq > mailbox.stored
        for seq in range(mailbox.stored + 1, last + 1):
            reason = message.reason if isinstance(message, Skip) else "mailbox_full" if full else ""
            ttl = getattr(message, "ttl", 0)
            mailbox.rows[seq] = Row(payload, self.now + ttl / 1000 if ttl else float("inf"), reason)
        mailbox.stored = max(mailbox.stored, last)
        if self.handed.get(key, 0) >= last and mailbox.sent + 1 >= message.seq:
            mailbox.sent = max(mailbox.sent, last)
        if here and full:
            self.tally["a mailbox was full"] += 1
            self._reply(
                end,
                Error(
                    code=ErrorCode.MAILBOX_FULL,
                    message="full",
                    to=end.peer,
                    lane=message.lane,
                    run=message.run,
                    seq=message.seq,
                ),
            )
        elif self.ends[end.name] is end and end.connected:
            self._reply(
                end, StoredMessage(to=end.peer, run=message.run, seq=mailbox.stored, lane=message.lane)
            )
        self._deliver(end.name)

    def _pass(self, mailbox: Mailbox, seq: int) -> None:
        mailbox.cursor = max(mailbox.cursor, seq)
        mailbox.sent = max(mailbox.sent, mailbox.cursor)
        for passed in [row for row in mailbox.rows if row <= mailbox.cursor]:
            del mailbox.rows[passed]

    def _deliver(self, sender: str) -> None:
        """Hand over what is kept for the other end, run by run, a window at a time."""
        receiver = self.ends["B" if sender == "A" else "A"]
        if not receiver.connected:
            return
        boxes = sorted(
            ((key, box) for key, box in self.mailboxes.items() if key[0] == sender),
            key=lambda each: (each[0][2], each[0][1]),
        )
        stuck = None
        for key, mailbox in boxes:
            if stuck is not None and key[2] > stuck:
                return
            for seq in sorted(mailbox.rows):
                if seq <= mailbox.sent:
                    continue
                if seq > mailbox.cursor + WINDOW:
                    stuck = key[2]
                    break
                self._hand(receiver, key, mailbox, seq)

    def _hand(self, receiver: End, key: Key, mailbox: Mailbox, seq: int) -> None:
        sender, lane, run = key
        row = mailbox.rows[seq]
        if not mailbox.told:
            mailbox.told = True
            start = mailbox.cursor + 1
            lost = list(mailbox.lost)
            probe = Probe(
                run=run, seq=mailbox.cursor, base=1, sender=sender, lane=lane, start=start, lost=lost
            )
            self._reply(receiver, probe)
        mailbox.sent = seq
        reason = row.reason or ("expired" if row.expires <= self.now else "")
        row.reason = reason
        self.tally["handed over from a mailbox" if not reason else "a loss from a mailbox"] += 1
        if reason:
            self._reply(
                receiver, Skip(run=run, seq=seq, last=seq, base=1, reason=reason, sender=sender, lane=lane)
            )
            return
        (message,) = codec.CLIENT.text(row.payload)
        assert isinstance(message, LinkMessage)
        message.to, message.sender, message.store, message.ttl = "", sender, False, 0
        self._reply(receiver, message)

    def _acknowledged(self, end: End, ack: Ack) -> None:
        self._finished(end, ack.run, ack.lane, ack.seq, ack.lost, ack.by)
        key = (end.peer, ack.lane, ack.run)
        mailbox = self.mailboxes.setdefault(key, Mailbox())
        if ack.want:
            received = max(ack.received, ack.seq, mailbox.cursor)
            if received < min(mailbox.sent, mailbox.stored):
                mailbox.sent = received
        self._deliver(end.peer)
        sender = self.ends[end.peer]
        if sender.connected:
            ack.to, ack.sender = "", end.name
            self._reply(sender, ack)

    def _finished(self, end: End, run: int, lane: str, seq: int, lost: list[LostRange], by: int) -> None:
        mailbox = self.mailboxes.setdefault((end.peer, lane, run), Mailbox())
        if seq <= mailbox.cursor:
            return
        heard = [
            LostRange(max(each.first, mailbox.cursor + 1), min(each.last, seq), each.reason)
            for each in lost
            if each.first <= seq and each.last > mailbox.cursor
        ]
        if heard:
            mailbox.by = by if not mailbox.lost or by == mailbox.by else 0
            mailbox.lost += heard
        mailbox.stored = max(mailbox.stored, seq)
        self._pass(mailbox, seq)
        self._deliver(end.peer)

    def _probed(self, end: End, peer: End, probe: Probe) -> None:
        key = (end.name, probe.lane, probe.run)
        mailbox = self.mailboxes.setdefault(key, Mailbox())
        settled = max(mailbox.cursor, probe.base - 1)
        stored = max(mailbox.stored, settled)
        if stored >= probe.base:
            self._reply(end, StoredMessage(to=peer.name, run=probe.run, seq=stored, lane=probe.lane))
        if not peer.connected:
            self._standing(end, key, settled, want=stored < probe.seq)
            return
        if settled >= probe.base:
            self._standing(end, key, settled, want=False)
        if settled < probe.seq and not self._behind((end.name, "", probe.run), below=probe.run):
            probe.start, probe.lost = settled + 1, list(mailbox.lost)
            self._forward(end, peer, probe)

    # --- what must hold ------------------------------------------------------------------------

    def _account(self, end: End, message: Message) -> None:
        super()._account(end, message)
        if isinstance(message, Error):
            self.copies[end.name, message.run, message.lane, message.seq] -= 1
        elif isinstance(message, StoredMessage):
            key = (end.name, message.lane, message.run)
            self.told_stored[key] = max(self.told_stored.get(key, 0), message.seq)

    def _hear(self, end: End, event: Any) -> None:
        if isinstance(event, Stored):
            number = next(number for number, entry in end.open.items() if entry is event.entry)
            key = (number[0], number[2], number[1])
            assert self.mailboxes[key].stored >= number[3], f"{number} was called stored, and is not"
            self.safe.add(number)
            self.tally["told that it is stored"] += 1
        elif isinstance(event, StorageTrouble):
            self.tally["storage trouble"] += 1
        super()._hear(end, event)

    def _passed_over(self, number: Number) -> bool:
        """Whether a number may be left out at the beginning: an earlier process had its end."""
        return super()._passed_over(number) or number in self.finished or number in self.told_lost

    def _is_safe(self, number: Number) -> bool:
        sender, run, lane, seq = number
        return seq <= self.told_stored.get((sender, lane, run), 0)

    def _settled(self, end: End, end_of: Settled) -> None:
        super()._settled(end, end_of)
        self.tally["settled"] += 1

    def heal(self, *, keep_channels: bool) -> None:
        """As before; and what was called stored has reached somebody, or somebody was told why not."""
        self.well()
        super().heal(keep_channels=keep_channels)
        for _ in range(20):  # what is kept of senders that are no more comes a window at a time
            self.advance(0.1)
            self._flush()
        for number in self.safe:
            told = number in self.told_lost or number in self.verdicts
            assert self.seen[number] or told, f"{number} was stored, and is gone"

    def _flush(self) -> None:
        while True:
            super()._flush()
            if not self.requests:
                return
            self.disk(len(self.requests))
