"""Two link machines, an honest relay between them, and a network that may do what networks do.

The world checks after every step what a link promises; `heal` repairs the network and checks that
everything comes to an end. Nothing here looks into the machines: it sees messages, events and verdicts.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import Any

import msgspec

from duolink.protocol import codec, limits
from duolink.protocol.link import SERVER, Link, Lost, PathFailed, Received, Settled
from duolink.protocol.messages import Ack, LinkMessage, Message, Peer, Probe, Skip, Wait
from duolink.protocol.outbound import Outgoing
from duolink.protocol.paths import PathKind

WINDOW = 8
"""Small, so that a model fills it."""

SETTLES_WITHIN = 150.0
"""Seconds in which a healed link must settle everything: a hold, two probes at their cap, some more."""

TURNS = 200
"""Calls of `take` at one instant that mean the machine runs in a circle."""

Number = tuple[str, int, str, int]
"""(sender, run, lane, seq)"""


@dataclass
class End:
    """One client: its process, its connection, its application."""

    name: str
    peer: str
    run: int
    link: Link
    life: int = 1
    connected: bool = False
    generation: int = 0
    attachment: int = 0
    to_server: list[bytes] = field(default_factory=list)
    from_server: list[bytes] = field(default_factory=list)
    unfinished: list[LinkMessage] = field(default_factory=list)
    open: dict[Number, Outgoing] = field(default_factory=dict)
    heard: dict[tuple[int, str], int] = field(default_factory=dict)  # (run, lane) → highest number heard
    newest_run: int = 0


class World:
    """`A` and `B`, the relay between them, their data channels, and everything they ever said."""

    def __init__(self, *, watching: bool = True) -> None:
        self.now = 100.0
        self.watching = watching
        self.runs = 1000
        self.ends = {name: self._process(name, 1) for name in "AB"}
        self.channels: dict[str, dict[str, list[bytes]]] = {}  # path → to whom → in flight, any order
        self.mute: set[tuple[str, str]] = set()  # (path, to whom): everything sent there vanishes
        self.opened = 0
        # The relay's memory.
        self.held: dict[tuple[str, str, int], int] = {}  # (from, lane, run) → number it waits for
        self.waiting: set[str] = set()  # senders to be told when their peer comes
        # What was ever said.
        self.bodies: dict[Number, bytes] = {}
        self.deadlines: dict[Number, float] = {}
        self.verdicts: dict[Number, Settled] = {}
        self.finished: set[Number] = set()
        self.seen: dict[Number, set[int]] = defaultdict(set)  # lives of the receiver that were handed it
        self.told_lost: dict[Number, str] = {}
        self.copies: Counter[Number] = Counter()  # sent and neither answered by `wait` nor counted as lost
        self.turns = 0
        self.tally: Counter[str] = Counter()  # what really occurred, to be summed over many histories

    def _process(self, name: str, life: int) -> End:
        self.runs += 1
        peer = "B" if name == "A" else "A"
        return End(name, peer, self.runs, Link(peer, self.runs, window=WINDOW), life)

    # --- what may happen ---------------------------------------------------------------------

    def connect(self, name: str, *, resumed: bool = False) -> None:
        """A hello is answered; the other side learns of it if it watches or waits."""
        end = self.ends[name]
        if end.connected:
            return
        end.connected = True
        if resumed and end.generation:
            end.attachment += 1
        else:
            end.generation, end.attachment = end.generation + 1, 1
        self._forget(name)
        end.link.path_up(SERVER, PathKind.SERVER, self.now)
        other = self.ends[end.peer]
        if self.watching or other.name in self.waiting:
            self.waiting.discard(other.name)
            self._tell(other, "here")
        if self.watching and other.connected:
            self._tell(end, "here")
        self.pump(name)

    def cut(self, name: str) -> None:
        """The connection ends: what was under way on it is gone."""
        end = self.ends[name]
        if not end.connected:
            return
        end.connected = False
        end.to_server.clear()
        end.from_server.clear()
        end.link.path_down(SERVER)
        if self.watching:
            self._tell(self.ends[end.peer], "reconnecting")
        self.pump(name)

    def restart(self, name: str) -> None:
        """The process dies and another one takes its name; it knows nothing of the earlier one."""
        self.cut(name)
        old = self.ends[name]
        for path in list(self.channels):
            self.close(path)
        new = self.ends[name] = self._process(name, old.life + 1)
        new.generation = old.generation
        self._forget(name)
        self.waiting.discard(name)

    def _forget(self, name: str) -> None:
        for key in [key for key in self.held if key[0] == name]:
            del self.held[key]

    def open(self, kind: PathKind = PathKind.DIRECT) -> None:
        """A data channel between the two processes that are there now."""
        if len(self.channels) >= 2:
            return
        self.opened += 1
        path = f"{kind}{self.opened}"
        self.channels[path] = {"A": [], "B": []}
        for name in "AB":
            self.ends[name].link.path_up(path, kind, self.now)
            self.pump(name)

    def close(self, path: str) -> None:
        """Both ends see the data channel close."""
        self.channels.pop(path, None)
        self.mute = {muted for muted in self.mute if muted[0] != path}
        for name in "AB":
            self.ends[name].link.path_down(path)
            self.pump(name)

    def silence(self, path: str, to: str) -> None:
        """One direction of a data channel swallows everything from now on."""
        self.mute.add((path, to))
        self.channels[path][to].clear()

    def submit(self, name: str, lane: str, ttl: float | None, size: int = 4) -> None:
        """The application sends, if there is room."""
        end = self.ends[name]
        if not end.link.has_room(size, lane):
            return
        body = msgspec.json.encode(f"{name}{len(self.bodies)}".ljust(size, "."))
        expires = inf if ttl is None else self.now + ttl
        entry = end.link.submit(msgspec.Raw(body), lane=lane, expires=expires)
        number = (name, end.run, lane, entry.seq)
        assert number not in self.bodies, f"{number} was given twice"
        self.bodies[number], self.deadlines[number] = body, expires
        end.open[number] = entry
        self.pump(name)

    def finish(self, name: str, index: int) -> None:
        """The application has finished with something it was handed, in any order."""
        end = self.ends[name]
        if not end.unfinished:
            return
        message = end.unfinished.pop(index % len(end.unfinished))
        self.finished.add((end.peer, message.run, message.lane, message.seq))
        end.link.finish(message, self.now)
        self.pump(name)

    def advance(self, seconds: float) -> None:
        """Time passes, and every timer on the way is heeded."""
        until = self.now + seconds
        while (timer := self.next_timer()) <= until:
            self.turns = self.turns + 1 if timer <= self.now else 0
            assert self.turns < TURNS, "a timer asks for the same instant for ever"
            self.now = max(self.now, timer)
            for name in "AB":
                self.pump(name)
        self.now = until

    def next_timer(self) -> float:
        """When one of the machines wants to be asked."""
        return min(end.link.next_timer(self.now) for end in self.ends.values())

    # --- what is under way ---------------------------------------------------------------------

    def relay(self, name: str, count: int = 1) -> None:
        """The server takes the oldest messages of a client."""
        end = self.ends[name]
        for _ in range(min(count, len(end.to_server))):
            self._relay(end, end.to_server.pop(0))

    def arrive(self, name: str, count: int = 1) -> None:
        """A client takes the oldest messages from the server."""
        end = self.ends[name]
        for _ in range(min(count, len(end.from_server))):
            (message,) = codec.SERVER.text(end.from_server.pop(0))
            assert not isinstance(message, codec.Malformed), message
            self._account(end, message)
            self.tally[f"{type(message).__name__} from the server"] += 1
            if isinstance(message, Ack) and message.want:
                self.tally["asked to send again"] += 1
            if isinstance(message, LinkMessage) and message.ack_run:
                self.tally["a cursor rode"] += 1
            end.link.receive(message, SERVER, self.now)
            self.pump(name)

    def deliver(self, path: str, to: str, index: int, *, copies: int = 1, keep: bool = False) -> None:
        """A data channel delivers one message, or drops it (no copies), or repeats it."""
        flight = self.channels.get(path, {}).get(to, [])
        if not flight:
            return
        payload = flight[index % len(flight)]
        if not keep:
            del flight[index % len(flight)]
        for _ in range(copies):
            (message,) = codec.PEER.text(payload)
            assert not isinstance(message, codec.Malformed), message
            self.tally[f"{type(message).__name__} on a data channel"] += 1
            self.ends[to].link.receive(message, path, self.now)
            self.pump(to)

    def exchange(self, *, finish: bool) -> None:
        """The server passes on everything both ways; the applications finish with it, or not yet."""
        for name in "AB":
            self.relay(name, 100)
        for name in "AB":
            self.arrive(name, 100)
            while finish and self.ends[name].unfinished:
                self.finish(name, 0)

    def converse(self, path: str, turns: int) -> None:
        """A data channel delivers what is under way, and what that brings about."""
        for _ in range(turns):
            for name in "AB":
                for _ in range(len(self.channels.get(path, {}).get(name, []))):
                    self.deliver(path, name, 0)

    def _account(self, end: End, message: Message) -> None:
        if isinstance(message, Wait):
            for seq in range(message.seq, max(message.last, message.seq) + 1):
                self.copies[end.name, message.run, message.lane, seq] -= 1

    def _tell(self, end: End, state: str) -> None:
        if not end.connected:
            return
        peer = self.ends[end.peer]
        message = Peer(client_id=peer.name, state=state)
        if state == "here":
            message.run, message.generation, message.attachment = peer.run, peer.generation, peer.attachment
        end.from_server.append(codec.encode(message))

    def _relay(self, end: End, payload: bytes) -> None:
        (message,) = codec.CLIENT.text(payload)
        assert not isinstance(message, codec.Malformed), message
        peer = self.ends[end.peer]
        if isinstance(message, LinkMessage | Skip):
            key = (end.name, message.lane, message.run)
            last = message.last if isinstance(message, Skip) else message.seq
            if isinstance(message, LinkMessage) and message.seq >= message.base + WINDOW:
                raise AssertionError(f"{message.seq} is beyond the credit, base {message.base}")
            held = self.held.get(key, message.seq)
            if message.seq <= held or message.base > held:
                self.held.pop(key, None)
            if not peer.connected or key in self.held:
                self.held.setdefault(key, message.seq)
                wait = Wait(to=peer.name, run=message.run, seq=message.seq, last=last, lane=message.lane)
                end.from_server.append(codec.encode(wait))
                if not peer.connected:
                    self.waiting.add(end.name)
                return
        if not peer.connected:
            return
        assert isinstance(message, LinkMessage | Skip | Ack | Probe)
        message.to, message.sender = "", end.name
        peer.from_server.append(codec.encode(message))

    # --- the driver ----------------------------------------------------------------------------

    def pump(self, name: str) -> None:
        """Do for a machine what a driver does after every input."""
        end = self.ends[name]
        for path, message in end.link.take(self.now):
            self._send(end, path, message)
        for event in end.link.events():
            self._hear(end, event)
        assert end.link.next_timer(self.now) > self.now, "asked, it has nothing to do, and asks to be asked"
        self._check(end)

    def _send(self, end: End, path: str, message: Message) -> None:
        if isinstance(message, LinkMessage):
            self.copies[end.name, message.run, message.lane, message.seq] += 1
        elif isinstance(message, Skip):
            for seq in range(message.seq, message.last + 1):
                self.copies[end.name, message.run, message.lane, seq] += 1
        if path == SERVER:
            assert end.connected, "sent on a path that is down"
            end.to_server.append(codec.encode(message))
            return
        assert path in self.channels, "sent on a path that is down"
        if hasattr(message, "to"):
            message.to = ""
        if (path, end.peer) not in self.mute:
            self.channels[path][end.peer].append(codec.encode(message))

    def _hear(self, end: End, event: Any) -> None:
        if isinstance(event, Received):
            self._received(end, event.message)
        elif isinstance(event, Lost):
            self._lost(end, event)
        elif isinstance(event, Settled):
            self._settled(end, event)
        elif isinstance(event, PathFailed):
            assert "process" in event.reason, f"an honest peer's path was closed: {event.reason}"
            self.close(event.path)

    def _received(self, end: End, message: LinkMessage) -> None:
        number = (end.peer, message.run, message.lane, message.seq)
        assert self.bodies.get(number) == bytes(message.data), f"{number} was invented or changed"
        self._in_order(end, message.run, message.lane, message.seq, message.seq)
        verdict = self.verdicts.get(number)
        assert not (verdict and verdict.reason and verdict.certain), f"{number} was lost for certain"
        if self.seen[number]:
            self.tally["received again by a new process"] += 1
        self.seen[number].add(end.life)
        end.unfinished.append(message)

    def _lost(self, end: End, lost: Lost) -> None:
        assert lost.first <= lost.last
        self.tally[f"heard of {lost.reason}"] += 1
        self._in_order(end, lost.run, lost.lane, lost.first, lost.last)
        for seq in range(lost.first, lost.last + 1):
            self.told_lost[end.peer, lost.run, lost.lane, seq] = lost.reason

    def _in_order(self, end: End, run: int, lane: str, first: int, last: int) -> None:
        """Numbers come to an application once, in order, and none is passed over."""
        assert run >= end.newest_run, f"run {run} after {end.newest_run}"
        end.newest_run = run
        before = end.heard.get((run, lane))
        if before is None:
            for seq in range(1, first):
                number = (end.peer, run, lane, seq)
                assert self._passed_over(number), f"{number} was passed over"
        else:
            assert first == before + 1, f"{end.name} heard {first} after {before} of {lane}"
        end.heard[run, lane] = last

    def _passed_over(self, number: Number) -> bool:
        """Whether a number may be left out at the beginning: it has its end."""
        return number in self.verdicts

    def _is_safe(self, number: Number) -> bool:
        """Whether its sender was told that a mailbox has it."""
        return False

    def _settled(self, end: End, end_of: Settled) -> None:
        number = next((number for number, entry in end.open.items() if entry is end_of.entry), None)
        assert number is not None, "a number was settled twice, or was never given"
        del end.open[number]
        self.verdicts[number] = end_of
        self.tally[f"settled as {end_of.reason or 'delivered'}"] += 1
        if self.deadlines[number] <= self.now and not end_of.reason:
            self.tally["delivered although it had expired"] += 1
        receiver = self.ends[end.peer]
        if not end_of.reason:
            assert number in self.finished, f"{number} was called delivered, but nobody finished it"
        elif end_of.certain:
            assert receiver.life not in self.seen[number], f"{number} was lost for certain, but it was there"

    def _check(self, end: End) -> None:
        """What must hold between any two steps."""
        under_way = dict.fromkeys(limits.LANES, 0)
        for number in end.open:
            if self._is_safe(number):
                continue  # its time is the mailbox's matter, and it counts in no window
            assert self.deadlines[number] > self.now or self.copies[number], (
                f"{number} has expired and nobody has a copy: it must be settled"
            )
            under_way[number[2]] += 1
        assert max(under_way.values()) <= WINDOW, "more than a window is under way"

    # --- the end -------------------------------------------------------------------------------

    def heal(self, *, keep_channels: bool) -> None:
        """Repair everything; then everything must settle, in bounded time."""
        self.mute.clear()
        if not keep_channels:
            for path in list(self.channels):
                self.close(path)
        for name in "AB":
            self.connect(name, resumed=True)
        until = self.now + SETTLES_WITHIN
        while True:
            self._flush()
            if not any(end.link.unsettled for end in self.ends.values()):
                break
            timer = self.next_timer()
            assert timer <= until, f"not settled {SETTLES_WITHIN:g} s after healing: {self._open_numbers()}"
            self.advance(max(timer - self.now, 0.0))
        self._agree()

    def _flush(self) -> None:
        for _ in range(1000):
            busy = False
            for name in "AB":
                end = self.ends[name]
                busy = busy or bool(end.to_server or end.from_server or end.unfinished)
                self.relay(name, 1000)
                self.arrive(name, 1000)
                for path in list(self.channels):
                    while self.channels.get(path, {}).get(name):
                        busy = True
                        self.deliver(path, name, 0)
                while end.unfinished:
                    self.finish(name, 0)
            if not busy:
                return
        raise AssertionError("the machines keep talking without end")

    def _open_numbers(self) -> list[Number]:
        return [number for end in self.ends.values() for number in end.open]

    def _agree(self) -> None:
        """Where the receiver is still the process it was, both sides tell the same story."""
        for end in self.ends.values():
            if self.ends[end.peer].life > 1:
                continue
            for number, verdict in self.verdicts.items():
                if number[:2] != (end.name, end.run):
                    continue
                if verdict.reason:
                    assert not self.seen[number], f"{number}: lost for its sender, received by its receiver"
                else:
                    assert self.seen[number], f"{number}: delivered for its sender, nobody got it"
                    assert number not in self.told_lost, f"{number}: delivered and told as lost"
