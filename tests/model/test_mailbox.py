"""Mailboxes against a model that keeps every number by itself: in memory, and on a disk that may fail."""

import random
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from duolink.engines.base import Engines, Failure, MailboxLimits, Row, Standing, StoreResult, Stream, Verdict
from duolink.engines.memory import memory_engines
from duolink.engines.sqlite.engines import sqlite_engines
from duolink.engines.sqlite.inline import Inline
from duolink.protocol.messages import LostRange

LIMITS = MailboxLimits(
    messages=5,
    size=10,
    pair_messages=4,
    pair_size=8,
    sender_messages=6,
    sender_size=12,
    mailboxes=2,
    retention=200.0,
    poison_after=1,
    forget_after=5000.0,
)
STREAMS = [
    Stream("bob", "alice", "messages", 1),
    Stream("bob", "alice", "messages", 2),
    Stream("bob", "alice", "bulk", 1),
    Stream("bob", "carol", "messages", 1),
    Stream("dave", "alice", "messages", 1),
    Stream("@team", "alice", "messages", 1),
    Stream("@team", "alice", "messages", 2),
    Stream("@team", "carol", "bulk", 1),
]
TALLY: Counter[str] = Counter()


class Clock:
    """Time that the machine moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return int(self.seconds * 1000)


class Batches:
    """A schedule that does everything, in order, when it is told to: on disk that is one transaction."""

    def __init__(self) -> None:
        self._works: deque[Callable[[], Callable[[], None]]] = deque()

    def submit(self, queue: str, work: Callable[[], Callable[[], None]]) -> None:
        self._works.append(work)

    def run(self) -> None:
        while self._works:
            self._works.popleft()()()


# --- the model -------------------------------------------------------------------------------


@dataclass
class Number:
    """One number of a stream. With a `reason` it is lost."""

    reason: str
    body: bytes = b""
    expires: int = 0
    collapse: str = ""


@dataclass
class Place:
    """A client's cursor, and what counts against its next message."""

    seq: int
    first: int = 0
    count: int = 0
    since: int = 0
    run: int = 0

    def move(self, seq: int) -> None:
        self.seq, self.first, self.count = seq, 0, 0


@dataclass
class Known:
    """A stream."""

    stored: int
    settled: int
    used: int
    places: dict[str, Place]
    numbers: dict[int, Number] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)
    by: int = 0
    finished: set[int] = field(default_factory=set)  # by some client

    def drop_passed(self) -> None:
        floor = min(place.seq for place in self.places.values())
        self.numbers = {seq: number for seq, number in self.numbers.items() if seq > floor}


@dataclass
class Model:
    """All mailboxes, by the words of the port."""

    streams: dict[Stream, Known] = field(default_factory=dict)
    clients: list[str] = field(default_factory=list)

    def held(self, receiver: str = "", sender: str = "") -> tuple[int, int]:
        bodies = [
            number.body
            for stream, known in self.streams.items()
            if receiver in ("", stream.receiver) and sender in ("", stream.sender)
            for number in known.numbers.values()
            if not number.reason
        ]
        return len(bodies), sum(map(len, bodies))

    def new(self, stream: Stream, stored: int, now: int) -> Known:
        clients = self.clients if stream.receiver == "@team" else [stream.receiver]
        return Known(stored, stored, now, {client: Place(stored) for client in clients})

    def may_begin(self, receiver: str) -> bool:
        busy = {stream.receiver for stream, known in self.streams.items() if known.numbers}
        return receiver in busy or len(busy) < LIMITS.mailboxes

    def store(self, stream: Stream, row: Row, base: int, now: int) -> StoreResult:
        known = self.streams.get(stream)
        if known is None:
            nobody = stream.receiver == "@team" and not self.clients
            if nobody or not self.may_begin(stream.receiver):
                return StoreResult(Verdict.NOBODY)
            if row.seq > base:
                return StoreResult(Verdict.HOLE, Standing(base - 1, base - 1))
            known = self.streams[stream] = self.new(stream, base - 1, now)
        known.lost = {seq: reason for seq, reason in known.lost.items() if not self._passed(known, seq, base)}
        known.settled = max(known.settled, base - 1)
        while known.settled + 1 in known.finished:
            known.settled += 1
        known.stored = max(known.stored, base - 1)
        if stream.receiver != "@team":
            place = known.places[stream.receiver]
            if place.seq < base - 1:
                place.move(base - 1)
                known.drop_passed()
        if row.last <= known.stored:
            return StoreResult(Verdict.KEPT, self.standing(stream))
        if row.seq > known.stored + 1:
            return StoreResult(Verdict.HOLE, self.standing(stream))
        if not self.may_begin(stream.receiver):
            return StoreResult(Verdict.NOBODY, self.standing(stream))
        known.used = now
        verdict = Verdict.KEPT
        for seq in range(known.stored + 1, row.last + 1):
            known.numbers[seq] = Number(row.reason)
        if not row.reason:
            verdict = self._message(stream, known.numbers[row.seq], row, now)
        known.stored = row.last
        return StoreResult(verdict, self.standing(stream))

    @staticmethod
    def _passed(known: Known, seq: int, base: int) -> bool:
        """A range is forgotten as a whole, when base has passed its last number."""
        while known.lost.get(seq + 1) == known.lost[seq]:
            seq += 1
        return seq < base

    def _message(self, stream: Stream, number: Number, row: Row, now: int) -> Verdict:
        number.reason = "new"  # not counted yet
        older = [
            each
            for other, known in self.streams.items()
            if other[:3] == stream[:3] and row.collapse
            for each in known.numbers.values()
            if each.collapse == row.collapse and not each.reason
        ]
        for each in older:
            each.reason = "replaced"
        size = len(row.body)
        bounds = (
            (self.held(stream.receiver), LIMITS.messages, LIMITS.size),
            (self.held(stream.receiver, stream.sender), LIMITS.pair_messages, LIMITS.pair_size),
            (self.held("", stream.sender), LIMITS.sender_messages, LIMITS.sender_size),
        )
        if any(count + 1 > most or held + size > largest for (count, held), most, largest in bounds):
            for each in older:
                each.reason = ""
            number.reason = "mailbox_full"
            TALLY["full"] += 1
            return Verdict.FULL
        TALLY["replaced"] += len(older)
        number.reason = ""
        number.body, number.collapse = row.body, row.collapse
        number.expires = min(row.expires or 10**15, now + int(LIMITS.retention * 1000))
        return Verdict.KEPT

    def standing(self, stream: Stream) -> Standing:
        known = self.streams.get(stream)
        if known is None:
            return Standing()
        lost = tuple(LostRange(seq, seq, reason) for seq, reason in sorted(known.lost.items()))
        return Standing(known.stored, known.settled, lost, known.by)

    def acknowledge(
        self, stream: Stream, client: str, seq: int, lost: tuple[LostRange, ...], by: int, now: int
    ) -> None:
        known = self.streams.get(stream)
        if known is None:
            known = self.streams[stream] = self.new(stream, seq, now)
            known.settled = 0
            known.places[client] = Place(0)
        known.used = now
        place = known.places.setdefault(client, Place(0))
        if seq <= place.seq:
            return
        after = max(place.seq, known.settled, *known.lost.keys())
        heard = {n: x.reason for x in lost for n in range(x.first, x.last + 1) if after < n <= seq}
        if heard:
            known.by = by if not known.lost or known.by == by else 0
            known.lost.update(heard)
        known.finished |= set(range(place.seq + 1, seq + 1))
        while known.settled + 1 in known.finished:
            known.settled += 1
        place.move(seq)
        known.stored = max(known.stored, seq)
        known.drop_passed()

    def open(self, client: str, user: str, run: int, now: int) -> list[tuple[Stream, int, int]]:
        found = []
        for stream, known in self.streams.items():
            if stream.receiver not in (client, f"@{user}"):
                continue
            place = known.places.setdefault(client, Place(known.stored))
            rows = {seq: number for seq, number in known.numbers.items() if seq > place.seq}
            if rows:
                known.used = now
                self._began(known, place, rows, run, now)
                found.append((stream, min(rows), max(rows)))
        return sorted(found)

    def waiting(
        self, client: str, user: str, acks: list[tuple[Any, ...]]
    ) -> list[tuple[Stream, int, int]] | None:
        """What `open` would find, but for what these would settle; None where it would have to write more
        than that a process began."""
        if user and client not in self.clients:
            return None
        found = []
        for stream, known in self.streams.items():
            if stream.receiver not in (client, f"@{user}"):
                continue
            if client not in known.places:
                return None
            rows = [seq for seq in known.numbers if seq > known.places[client].seq]
            acked = max([ack[2] for ack in acks if ack[:2] == (stream, client)], default=0)
            if rows and acked < max(rows):
                found.append((stream, max(min(rows), acked + 1), max(rows)))
        return sorted(found)

    @staticmethod
    def _began(known: Known, place: Place, rows: dict[int, Number], run: int, now: int) -> None:
        if run <= place.run:
            return
        place.run = run
        messages = [seq for seq in sorted(rows) if not rows[seq].reason]
        first = messages[0] if messages else 0
        if first != place.first:
            place.first, place.count, place.since = first, 0, now
        elif first and now - place.since >= 60_000:
            place.count, place.since = place.count + 1, now
        if place.count >= LIMITS.poison_after:
            TALLY["poison"] += 1
            known.numbers[first].reason = "poison"
            place.first, place.count, place.since = (messages[1:] or [0])[0], 0, now

    def sweep(self, now: int) -> None:
        for stream, known in list(self.streams.items()):
            newer = any(other[:3] == stream[:3] and other.run > stream.run for other in self.streams)
            old = known.used < now - 60_000 and newer and not known.numbers
            if known.used < now - LIMITS.forget_after * 1000 or old:
                TALLY["forgotten"] += 1
                del self.streams[stream]
                continue
            for number in known.numbers.values():
                if not number.reason and number.expires <= now:
                    TALLY["expired"] += 1
                    number.reason = "expired"


# --- the machine -----------------------------------------------------------------------------


class MailboxMachine(RuleBasedStateMachine):
    """Asks the engine and the model the same, and compares when a batch has been done."""

    durable = False

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.schedule, self.model = Clock(), Batches(), Model()
        self.before = deepcopy(self.model)
        self.expected: list[tuple[Any, Any, list[Any]]] = []
        self.acks: list[tuple[Any, ...]] = []
        self.folder = tempfile.TemporaryDirectory()
        self.engines = self.begin()
        self.register("phone")

    def begin(self) -> Engines:
        names = random.Random(1)
        if not self.durable:
            return memory_engines(self.clock, lambda: f"{names.random()}", self.schedule, LIMITS)
        return sqlite_engines(
            str(Path(self.folder.name) / "test.db"),
            clock=self.clock,
            new_epoch=lambda: f"{names.random()}",
            runner=Inline(self.schedule),
            limits=LIMITS,
        )

    def register(self, client: str) -> None:
        self.engines.registry.issue_run(client, "team", self.clock.wall_ms(), lambda _: None)
        self.finish()
        self.model.clients.append(client)
        self.before = deepcopy(self.model)

    def ask(
        self, expected: Any, request: Callable[..., None], *arguments: Any, unwritten: Any = lambda: None
    ) -> None:
        """`unwritten`: tells the answer if the batch fails; None: a `Failure`."""
        answers: list[Any] = []
        self.expected.append((expected, unwritten, answers))
        request(*arguments, answers.append)

    # --- what happens ------------------------------------------------------------------------

    @rule(
        stream=st.sampled_from(STREAMS),
        ahead=st.sampled_from([1, 1, 1, 1, 1, 1, -1, 0, 2]),
        base=st.sampled_from([0, 0, 0, 0, -1, 1, 3]),
        size=st.integers(1, 3),
        life=st.sampled_from([0, 0, 20, 100]),
        collapse=st.sampled_from(["", "", "place", "mood"]),
        skip=st.sampled_from([0, 0, 0, 1, 2]),
        times=st.sampled_from([1, 1, 2, 4]),
    )
    def store(self, times: int, **row: Any) -> None:
        for _ in range(times):
            self.store_one(**row)

    def store_one(
        self, stream: Stream, ahead: int, base: int, size: int, life: int, collapse: str, skip: int
    ) -> None:
        known = self.model.streams.get(stream)
        stored, settled = (known.stored, known.settled) if known else (0, 0)
        seq = max(stored + ahead, 1)
        base = max(settled + 1 + base, 1)
        seq = max(seq, base) if base > settled + 1 else seq
        now = self.clock.wall_ms()
        if skip:
            row = Row(seq, seq + skip - 1, reason=("refused", "cancelled")[size % 2])
        else:
            expires = now + life * 1000 if life else 0
            row = Row(seq, seq, b"x" * size, bool(size % 2), expires=expires, collapse=collapse)
        result = self.model.store(stream, row, min(base, seq), now)
        TALLY[result.verdict.name] += 1
        self.ask(result, self.engines.mailbox.store, stream, row, min(base, seq))

    @rule(
        stream=st.sampled_from(STREAMS),
        client=st.sampled_from(["phone", "laptop"]),
        ahead=st.sampled_from([1, 1, 2, 3, 8, 0, -1]),
        lost=st.sampled_from([0, 0, 1]),
        by=st.sampled_from([50, 60]),
    )
    def acknowledge(self, stream: Stream, client: str, ahead: int, lost: int, by: int) -> None:
        client = client if stream.receiver == "@team" else stream.receiver
        known = self.model.streams.get(stream)
        place = known.places.get(client) if known else None
        seq = (place.seq if place else known.settled if known else 0) + ahead
        if seq < 1 or (client == "laptop" and client not in self.model.clients):
            return
        ranges = tuple(LostRange(n, n, f"r{n}") for n in range(max(seq - lost, 1), seq + 1) if lost)
        ack = (stream, client, seq, ranges, by, self.clock.wall_ms())
        self.acks.append(ack)
        self.model.acknowledge(*ack)
        self.engines.mailbox.acknowledge(*ack[:-1])

    @rule(
        client=st.sampled_from(["bob", "bob", "dave", "phone", "laptop"]),
        run=st.sampled_from([0, 0, 1]),
        crashes=st.sampled_from([0, 0, 1, 2]),
    )
    def open(self, client: str, run: int, crashes: int) -> None:
        self.open_once(client, run)
        for _ in range(crashes):
            self.time_passes(61)
            self.open_once(client, run)

    def open_once(self, client: str, run: int) -> None:
        if client == "laptop" and client not in self.model.clients:
            return
        user = "team" if client in ("phone", "laptop") else ""
        run = self.clock.wall_ms() + run
        boxes = self.model.open(client, user, run, self.clock.wall_ms())

        def waiting() -> Any:
            return self.before.waiting(client, user, self.acks)

        self.ask(boxes, self.engines.mailbox.open, client, user, run, unwritten=waiting)

    @rule()
    @precondition(lambda self: "laptop" not in self.model.clients)
    def another_client_registers(self) -> None:
        self.finish()
        self.register("laptop")

    @rule(seconds=st.sampled_from([15, 61, 61, 61, 110, 210, 6000]))
    def time_passes(self, seconds: int) -> None:
        self.finish()
        self.clock.seconds += seconds
        if self.durable:
            self.engines.mailbox.sweep()  # type: ignore[attr-defined]
        self.model.sweep(self.clock.wall_ms())
        self.ask(Standing(), self.engines.mailbox.standing, Stream("x", "x", "bulk", 9))
        self.finish()

    @rule()
    @precondition(lambda self: self.durable and self.model.held()[0] > 2)
    def the_process_restarts(self) -> None:
        self.finish()
        self.engines.close()
        self.engines = self.begin()
        TALLY["restarted"] += 1

    @rule()
    @precondition(lambda self: self.durable and len(self.expected) > 1)
    def the_batch_fails(self) -> None:
        mailbox: Any = self.engines.mailbox

        def fails(db: apsw.Connection) -> None:
            del mailbox.flush
            raise apsw.FullError("database or disk is full")

        mailbox.flush = fails
        self.schedule.run()
        for _, tell, answers in self.expected:
            unwritten = tell()
            if unwritten is None:
                assert len(answers) == 1 and isinstance(answers[0], Failure)
            else:
                assert [self.plain(answer) for answer in answers] == [unwritten]
                TALLY["peeked"] += bool(unwritten)
        self.expected = []
        self.model = deepcopy(self.before)
        for ack in self.acks:  # are not lost: they go with what is written next
            self.model.acknowledge(*ack)
        TALLY["failed"] += 1
        self.finish()

    # --- what is compared --------------------------------------------------------------------

    @rule()
    def finish(self) -> None:
        """The batch is written and answered; then all is as the model has it."""
        if self.durable:
            self.engines.mailbox.turn()  # type: ignore[attr-defined]
        self.schedule.run()
        for expected, _, answers in self.expected:
            assert [self.plain(answer) for answer in answers] == [self.plain(expected)]
        TALLY["batched"] += len(self.expected) > 3
        self.expected, self.acks = [], []
        assert self.engines.mailbox.totals() == self.model.held()
        for stream, known in self.model.streams.items():
            for client, place in known.places.items():
                self.compare(stream, client, known, place)
        self.before = deepcopy(self.model)

    def compare(self, stream: Stream, client: str, known: Known, place: Place) -> None:
        answers: list[Any] = []
        self.engines.mailbox.read(stream, client, 0, 100, 1 << 20, answers.append)
        self.engines.mailbox.read(stream, client, place.seq + 1, 2, 1, answers.append)
        self.engines.mailbox.standing(stream, answers.append)
        self.schedule.run()
        found = {seq: (row.reason, row.body) for row in answers[0] for seq in range(row.seq, row.last + 1)}
        rows = {seq: (n.reason, b"" if n.reason else n.body) for seq, n in known.numbers.items()}
        assert found == {seq: row for seq, row in rows.items() if seq > place.seq}
        for one, next_one in zip(answers[0], answers[0][1:], strict=False):
            assert one.last < next_one.seq
            assert not one.reason or one.reason != next_one.reason or one.last < next_one.seq - 1
        behind = [seq for seq in sorted(rows) if seq > place.seq + 1]
        assert [row.seq for row in answers[1][:1]] == behind[:1] and len(answers[1]) <= 2
        assert self.plain(answers[2]) == self.plain(self.model.standing(stream))

    @staticmethod
    def plain(answer: Any) -> Any:
        """Losses number by number, boxes without them."""
        if isinstance(answer, StoreResult):
            return answer.verdict, MailboxMachine.plain(answer.standing)
        if isinstance(answer, Standing):
            lost = {n: each.reason for each in answer.lost for n in range(each.first, each.last + 1)}
            return answer.stored, answer.settled, lost, answer.by if lost else 0
        return sorted((box[0], box[1], box[2]) for box in answer)

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            self.engines.close()
            self.folder.cleanup()


class OnDisk(MailboxMachine):
    """The same, with restarts and disks that fail."""

    durable = True


@pytest.mark.parametrize(
    ("machine", "examples"), [(MailboxMachine, 200), (OnDisk, 100)], ids=["memory", "sqlite"]
)
def test_mailboxes(machine: type[MailboxMachine], examples: int) -> None:
    TALLY.clear()
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None)
    )
    hard = ["KEPT", "HOLE", "FULL", "NOBODY", "replaced", "expired", "poison", "forgotten", "batched"]
    if machine.durable:
        hard += ["restarted", "failed", "peeked"]
    assert all(TALLY[what] > 5 for what in hard), TALLY
