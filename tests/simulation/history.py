"""What happened in a simulated world, and what may not have happened."""

from collections import Counter
from dataclasses import dataclass, field


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Submitted:
    uid: str
    process: str  # the sender's life
    sender: str
    receiver: str  # a client, or `@user`
    lane: str
    run: int
    seq: int
    verdict: str = ""  # delivered, lost, perhaps (lost, but not certainly)
    finished: bool = False
    stored: bool = False
    ended: bool = False  # some life of the receiver was told that it is lost
    received_by: list[str] = field(default_factory=list)


@dataclass
class Stream:
    """What one life of a receiver got from one run of a sender on one lane."""

    last: int = 0
    lost: set[int] = field(default_factory=set)


class History:
    """Checks as it goes. Lost, repeated, reordered, invented: each has its rule here."""

    def __init__(self) -> None:
        self.submitted: dict[str, Submitted] = {}
        self.numbers: dict[tuple[str, str, str, int, int], str] = {}  # sender, receiver, lane, run, seq
        self.streams: dict[tuple[str, str, str, str], dict[int, Stream]] = {}
        self.channels: dict[tuple[str, str], dict[int, str]] = {}
        self.positions: dict[tuple[str, str], tuple[str, int]] = {}
        self.published: dict[str, tuple[str, str, int]] = {}
        self.newest_run: dict[str, int] = {}
        self.born: dict[str, int] = {}
        """Process → its own run."""
        self.remembers = False
        """Whether nothing is forgotten in this world: then what was delivered is not seen again, but by an
        earlier process, which is fenced and still reads what was on its way to it."""
        self.sometimes: Counter[str] = Counter()

    # --- links -------------------------------------------------------------------------------

    def submit(self, entry: Submitted) -> None:
        self.submitted[entry.uid] = entry
        self.newest_run[entry.sender] = max(self.newest_run.get(entry.sender, 0), entry.run)
        self.numbers[entry.sender, entry.receiver, entry.lane, entry.run, entry.seq] = entry.uid

    def receive(
        self, process: str, receiver: str, sender: str, lane: str, run: int, seq: int, uid: str
    ) -> None:
        """A process got a message that was sent to its client, or to its user."""
        entry = self.submitted.get(uid)
        if entry is None:
            raise Violation(f"invented: {receiver} got {uid!r}")
        if (entry.sender, entry.receiver, entry.lane, entry.run, entry.seq) != (
            sender,
            receiver,
            lane,
            run,
            seq,
        ):
            raise Violation(f"misattributed: {entry} as {sender} {lane} {run}:{seq} at {receiver}")
        if process in entry.received_by:
            raise Violation(f"repeated: {entry} at {process}")
        if entry.verdict == "lost":
            raise Violation(f"delivered after it was lost for certain: {entry} at {process}")
        self._advance(process, receiver, sender, lane, run, seq, seq)
        client = process.partition("#")[0]
        if client in {name.partition("#")[0] for name in entry.received_by}:
            self.sometimes["seen again by a receiver's next life"] += 1
            newer = self.born[process] > max(
                self.born[name] for name in entry.received_by if name.partition("#")[0] == client
            )
            if entry.verdict == "delivered" and receiver == client and newer and self.remembers:
                raise Violation(f"delivered, and seen again: {entry} at {process}")
        elif entry.received_by:
            self.sometimes["received by another client of the user"] += 1
        if entry.stored and not entry.received_by:
            self.sometimes["received after it was stored"] += 1
        if run < self.newest_run[sender]:
            self.sometimes["received from a sender's earlier life"] += 1
        entry.received_by.append(process)

    def lose(
        self,
        process: str,
        receiver: str,
        sender: str,
        lane: str,
        run: int,
        first: int,
        last: int,
        reason: str,
    ) -> None:
        stream = self._advance(process, receiver, sender, lane, run, first, last)
        stream.lost.update(range(first, last + 1))
        for seq in range(first, last + 1):
            uid = self.numbers.get((sender, receiver, lane, run, seq))
            if uid is not None:
                self.submitted[uid].ended = True
        self.sometimes[f"receiver heard lost({reason})"] += 1

    def _advance(
        self, process: str, receiver: str, sender: str, lane: str, run: int, first: int, last: int
    ) -> Stream:
        runs = self.streams.setdefault((process, receiver, sender, lane), {})
        if any(run < known for known in runs):
            raise Violation(f"reordered: run {run} of {sender} after {max(runs)} at {process}")
        if run not in runs:
            runs[run] = Stream(last=first - 1)  # begins at the sender's base
        stream = runs[run]
        if first != stream.last + 1:
            kind = "repeated or reordered" if first <= stream.last else "a silent hole"
            raise Violation(f"{kind}: {sender} {lane} {run}:{first} after {stream.last} at {process}")
        stream.last = last
        return stream

    def finish(self, uid: str) -> None:
        self.submitted[uid].finished = True

    def store(self, uid: str) -> None:
        """The sender was told that a mailbox has it: from now on it is safe."""
        entry = self.submitted[uid]
        if entry.verdict:
            raise Violation(f"stored after its end: {entry}")
        entry.stored = True
        self.sometimes["sender heard stored"] += 1

    def settle(self, uid: str, delivered: bool, certain: bool) -> None:
        entry = self.submitted[uid]
        if entry.verdict:
            raise Violation(f"settled twice: {entry}")
        if delivered:
            if not entry.finished:
                raise Violation(f"called delivered, but nobody finished with it: {entry}")
            entry.verdict = "delivered"
        else:
            if certain and entry.received_by:
                raise Violation(f"called lost for certain, but delivered: {entry}")
            entry.verdict = "lost" if certain else "perhaps"
            self.sometimes[f"sender heard {entry.verdict}"] += 1

    # --- channels ----------------------------------------------------------------------------

    def publish_answered(self, uid: str, channel: str, epoch: str, offset: int) -> None:
        self._entry(channel, epoch, offset, uid)

    def joined(self, process: str, channel: str, epoch: str, offset: int, recovered: bool, gap: str) -> None:
        known = self.positions.get((process, channel))
        if recovered:
            if known != (epoch, offset):
                raise Violation(f"recovered from {epoch}:{offset}, not from {known}")
            self.sometimes["channel recovered"] += 1
        elif known is not None and not gap:
            raise Violation(f"{process} lost its place {known} in {channel} without a gap")
        if gap:
            self.sometimes[f"channel gap ({gap})"] += 1
        self.positions[process, channel] = (epoch, offset)

    def publication(self, process: str, channel: str, offset: int, uid: str) -> None:
        epoch, last = self.positions[process, channel]
        if offset != last + 1:
            raise Violation(f"{process} got {channel} {offset} after {last}")
        self.positions[process, channel] = (epoch, offset)
        self._entry(channel, epoch, offset, uid)

    def _entry(self, channel: str, epoch: str, offset: int, uid: str) -> None:
        log = self.channels.setdefault((channel, epoch), {})
        if log.setdefault(offset, uid) != uid:
            raise Violation(f"{channel} {epoch}:{offset} is {log[offset]} and {uid}")
        place = (channel, epoch, offset)
        if self.published.setdefault(uid, place) != place:
            raise Violation(f"published twice: {uid} at {self.published[uid]} and {place}")

    # --- the end -----------------------------------------------------------------------------

    def check_channels(self, process: str, tops: dict[str, tuple[str, int]]) -> None:
        """After everything healed, a living subscriber has got everything there is."""
        for channel, top in tops.items():
            if self.positions.get((process, channel)) != top:
                raise Violation(
                    f"{process} is at {self.positions.get((process, channel))} of {channel}, not {top}"
                )

    def check_safe(self) -> None:
        """After everything healed, whatever was called stored has reached its receiver, or it was told why
        not; whether its sender lives or not."""
        for entry in self.submitted.values():
            if entry.stored and not entry.received_by and not entry.ended:
                raise Violation(f"stored, and gone: {entry}")

    def check_settled(self, alive: set[str]) -> None:
        """After everything healed, whatever a living sender submitted has its end."""
        for entry in self.submitted.values():
            if entry.process in alive and not entry.verdict:
                raise Violation(f"never settled: {entry}")
