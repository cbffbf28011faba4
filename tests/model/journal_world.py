"""The world of two links, each with a journal: a process may be killed between any two steps, commits and
their confirmations among them, and the next one continues its run.
"""

from typing import Any

import apsw
from tests.model.link_world import WINDOW, End, Number, World

from duolink.client.journal import Records
from duolink.protocol.ledger import Ledger
from duolink.protocol.link import Link, Settled
from duolink.protocol.messages import LinkMessage, Message
from duolink.protocol.records import Changes, Saved


class Disk:
    """What survives of a process, and what has not reached it yet."""

    def __init__(self, name: str) -> None:
        self.records = Records(apsw.Connection(":memory:"), name)
        self.ledger: Ledger
        self.saved: Saved
        self.written: list[Changes] = []  # given to be kept
        self.kept: list[Changes] = []  # kept, and the process does not know
        self.cursors: dict[tuple[int, str], int] = {}  # (run, lane) → finished

    def open(self) -> Saved:
        self.written.clear()
        self.kept.clear()
        self.saved = self.records.open(0.0)
        self.ledger = Ledger(self.saved)
        return self.saved

    def commit(self, count: int) -> None:
        """The oldest of what was given becomes durable, in one transaction."""
        batch, self.written = self.written[:count], self.written[count:]
        self.records.keep([(changes, 0.0) for changes in batch], 1)
        self.kept += batch
        for changes in batch:
            for _, cursor in changes.cursors:
                self.cursors[cursor.run, cursor.lane] = cursor.finished


class JournalWorld(World):
    """`prompt`: everything is durable at once."""

    def __init__(self, *, watching: bool = True, prompt: bool = False) -> None:
        self.disks = {name: Disk(name) for name in "AB"}
        self.prompt = prompt
        self.left: dict[Number, bytes] = {}  # the bodies that left
        self.before: dict[Number, Settled] = {}  # verdicts that a killed process heard and did not write down
        super().__init__(watching=watching)

    def _process(self, name: str, life: int) -> End:
        saved, ledger = self.disks[name].open(), self.disks[name].ledger
        if not saved.run:
            self.runs += 1
        run = saved.run or self.runs
        ledger.welcomed(run)
        peer = "B" if name == "A" else "A"
        link = Link(peer, run, window=WINDOW, journaled=True)
        ledger.furnish(link)
        return End(name, peer, run, link, life)

    def commit(self, name: str, count: int) -> None:
        """The disk is done with some of it; the process has not heard."""
        self.disks[name].commit(count)

    def confirm(self, name: str) -> None:
        """The process hears what is durable."""
        disk = self.disks[name]
        kept, disk.kept = disk.kept, []
        for changes in kept:
            for lane in changes.lanes:
                lane.outbound.kept(lane)
            for inbound, cursor in changes.cursors:
                inbound.keep(cursor.finished, self.now)
        if kept:
            self.pump(name)

    def pump(self, name: str) -> None:
        super().pump(name)
        disk = self.disks[name]
        changes = disk.ledger.changes([self.ends[name].link])
        if changes is not None:
            disk.written.append(changes)
            if self.prompt:
                self.commit(name, 1)
                self.confirm(name)

    def kill(self, name: str, under_way: int) -> None:
        """The process dies. Of what it gave its socket the server has the beginning, if anything."""
        self.relay(name, under_way)
        old = self.ends[name]
        new = self.ends[name] = self._process(name, old.life + 1)
        new.generation = old.generation
        self._take_over(old, new)
        for path in list(self.channels):
            self.close(path)
        self._forget(name)
        self.waiting.discard(name)
        if self.watching:
            self._tell(self.ends[new.peer], "reconnecting")
        self.tally["killed"] += 1

    def _take_over(self, old: End, new: End) -> None:
        saved = self.disks[new.name].saved
        for lane in saved.lanes:
            for entry in new.link._sending[lane.lane].outbound.outstanding():
                number = (new.name, new.run, lane.lane, entry.seq)
                assert self.bodies[number] == bytes(entry.data), f"{number} has another body"
                new.open[number] = entry
                old.open.pop(number, None)
                self.copies[number] += 1
                self.tally["restored"] += 1
                if number in self.verdicts:
                    self.before[number] = self.verdicts.pop(number)
                    self.tally["settled, and not written down"] += 1
        next_seqs = {(saved.run, lane.lane): lane.next_seq for lane in saved.lanes}
        for number in [each for each in self.bodies if each[:2] == (old.name, old.run)]:
            if number[3] >= next_seqs.get((number[1], number[2]), 1):
                assert number not in self.left, f"{number} was sent and is forgotten"
                old.open.pop(number, None)
                self.verdicts.pop(number, None)
                self.copies.pop(number, None)
                del self.bodies[number], self.deadlines[number]
                self.tally["numbered, and not written down"] += 1
        assert not old.open, f"{list(old.open)} had no end and are forgotten"
        for cursor in saved.cursors:
            new.heard[cursor.run, cursor.lane] = cursor.finished
            new.newest_run = max(new.newest_run, cursor.run)

    def _send(self, end: End, path: str, message: Message) -> None:
        if isinstance(message, LinkMessage):
            number = (end.name, message.run, message.lane, message.seq)
            body = bytes(message.data)
            assert self.left.setdefault(number, body) == body, f"{number} left with two bodies"
        super()._send(end, path, message)

    def _settled(self, end: End, end_of: Settled) -> None:
        super()._settled(end, end_of)
        number = next(number for number, verdict in self.verdicts.items() if verdict is end_of)
        before = self.before.pop(number, None)
        if before is not None and not before.reason:
            assert not (end_of.reason and end_of.certain), f"{number} was delivered, and then lost"
        if not end_of.reason:
            _, run, lane, seq = number
            finished = self.disks[end.peer].cursors.get((run, lane), 0)
            assert seq <= finished, f"{number} was called delivered, and its receiver may forget that"

    def heal(self, *, keep_channels: bool) -> None:
        self.prompt = True
        for name in "AB":
            self.commit(name, len(self.disks[name].written))
            self.confirm(name)
        super().heal(keep_channels=keep_channels)

    def _agree(self) -> None:
        for number, body in self.bodies.items():
            verdict: Any = self.verdicts.get(number)
            assert verdict is not None, f"{number} ({body!r}) has no end"
            if not verdict.reason:
                assert number in self.finished
