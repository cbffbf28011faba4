"""A whole node on a disk in memory, a story that is played on it, and what must come of it after a cut."""

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any

import apsw
from msgspec import UNSET, Raw
from tests.node_world import Client, FakeWire, ManualClock, World

from duolink.engines.memory import Late
from duolink.engines.sqlite.database import Database, DatabaseError
from duolink.engines.sqlite.engines import sqlite_engines
from duolink.engines.sqlite.inline import Inline
from duolink.protocol.codec import encode
from duolink.protocol.messages import (
    Goodbye,
    Hello,
    History,
    Position,
    Publication,
    Publish,
    Set,
)
from duolink.server.settings import Config, Heartbeat

from .past import CHANNEL, Note, Past, Violation, audit, check_body, check_log, check_loss, data_of
from .people import Outbox, Process
from .powercut import Disk, Image

DATABASE = "duolink.db"
CONFIG = Config(heartbeat=Heartbeat(interval_s=3600.0))

_boots = count(1)


class Asked(Inline):
    """Work in the caller's thread that counts what was asked and not answered."""

    def __init__(self, late: Late, after: Callable[[float, Callable[[], None]], None]) -> None:
        super().__init__(late, after)
        self.open = 0

    def writer(self, *arguments: Any) -> Any:
        writer: Any = super().writer(*arguments)
        submit = writer.submit
        writer.submit = lambda part, body, done, *more: submit(part, body, self._once(done), *more)
        return writer

    def reader(self, *arguments: Any) -> Any:
        reader: Any = super().reader(*arguments)
        read = reader.read
        reader.read = lambda work, done: read(work, self._once(done))
        return reader

    def _once(self, done: Callable[[Any], None]) -> Callable[[Any], None]:
        answers: list[Any] = []
        self.open += 1

        def answer(result: Any) -> None:
            if answers:
                raise Violation(f"answered again, with {result}, after {answers}")
            answers.append(result)
            self.open -= 1
            done(result)

        return answer


class Machine(World):
    """A node, and whose clients' words are noted."""

    def __init__(self, disk: Disk, past: Past, seed: int = 0) -> None:
        clock = ManualClock()
        clock.seconds += 30.0 * bool(disk.image)
        self.disk, self.past = disk, past
        self.boot = next(_boots)
        self.notes: list[Note] = []
        self.played: Counter[str] = Counter()
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.commands = count(max(past.asked, default=0) + 1)
        self._clock, self._count = clock, count()
        late = Late(Random(seed))
        self.asked = Asked(late, self._after)
        names = (f"epoch-{self.boot}-{number}" for number in count())
        engines = sqlite_engines(
            DATABASE,
            clock=clock,
            new_epoch=lambda: next(names),
            runner=self.asked,
            vfs=disk.vfs,
        )
        super().__init__(CONFIG, engines=engines, clock=clock)
        self.late = late
        self.names.seed(self.boot)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heappush(self.timers, (self._clock.seconds + seconds, next(self._count), action))

    def advance(self, seconds: float) -> None:
        """Move time; the engine's timers are due too, and it answers everything."""
        end = self.clock.seconds + seconds
        while self.timers and self.timers[0][0] <= end:
            due, _, action = heappop(self.timers)
            super().advance(max(due - self.clock.seconds, 0.0))
            action()
            self.settle()
        super().advance(end - self.clock.seconds)
        self.settle()

    def note(self, client_id: str, said: bool, message: Any) -> None:
        note = Note(len(self.disk.history), client_id, said, message)
        self.notes.append(note)
        self.past.note(note)

    def enter(self, client_id: str, **hello: Any) -> "Person":
        """A client comes: its newest process, or with `run=0` a new one."""
        person = Person(self, client_id)
        if "run" not in hello:
            known = self.past.processes[client_id]
            hello["run"] = known[-1].run if known else 0
        person.send(Hello(protocol=1, client_id=client_id, **hello))
        self.settle()
        return person

    def close(self) -> None:
        self.engines.close()
        self.disk.forget()


class Person(Client):
    """A client whose every word is noted."""

    def __init__(self, machine: Machine, client_id: str) -> None:
        self.world: Machine = machine
        self.client_id = client_id
        self.wire = FakeWire()
        write = self.wire.write

        def noted(data: bytes) -> None:
            write(data)
            for message in self.take():
                machine.note(client_id, False, message)

        self.wire.write = noted  # type: ignore[method-assign]
        self.read = 0
        self.gone = False
        self.user = machine.node.connected(self.wire)

    @property
    def process(self) -> Process:
        return self.world.past.process(self.client_id)

    def send(self, *sent: Any) -> None:
        for message in sent:
            self.world.note(self.client_id, True, message)
        self.raw(b"\n".join(encode(message) for message in sent))

    def leave(self, orderly: bool = True) -> None:
        if orderly:
            self.send(Goodbye())
        self.cut(1000 if orderly else 1006)

    def pump(self) -> bool:
        """Send what is due; tell whether there was anything."""
        due = [message for outbox in self.process.outboxes.values() for message in outbox.due()]
        if due:
            self.send(*due)
        return bool(due)

    def insist(self) -> bool:
        """Ask to store what was sent long ago and is not safe; tell whether there was anything. What was told
        to wait waits on."""
        unsafe = []
        for outbox in self.process.outboxes.values():
            if not outbox.waits:
                outbox.again()
                unsafe += list(outbox.due())
        for message in unsafe:
            message.store = True
            self.send(message)
            message.store = False
        return bool(unsafe)

    def probe(self) -> bool:
        """Ask what became of the numbers that are not settled; tell whether there are any."""
        probes = [each.probe() for each in self.process.outboxes.values() if each.settled < each.top]
        if probes:
            self.send(*probes)
        return bool(probes)

    def acknowledge(self, random: Random | None = None) -> bool:
        """Acknowledge all that came, or some of it; tell whether there was anything."""
        acks = []
        for inbox in self.process.inboxes.values():
            top = inbox.expected - 1
            if top > inbox.finished:
                acks.append(inbox.ack(top if random is None else random.randint(inbox.finished + 1, top)))
            elif inbox.owes and inbox.expected:
                acks.append(inbox.ack(inbox.finished))
        if acks:
            self.send(*acks)
        return bool(acks)


# --- the story -------------------------------------------------------------------------------

NAMES = (("bob", "messages"), ("bob", "messages"), ("bob", "bulk"), ("@carol", "messages"))
RECEIVERS = ("bob", "carol:1", "carol:2")
WEIGHTS = {
    "send": 9,
    "skip": 2,
    "publish": 3,
    "set": 3,
    "retry": 1,
    "come": 3,
    "finish": 5,
    "go": 2,
    "wait": 2,
}


class Story:
    """Alice sends 50 numbers to bob (two lanes) and to the user carol, and publishes; they come and go."""

    def __init__(self, machine: Machine, random: Random, numbers: int = 50) -> None:
        self.machine, self.random, self.left = machine, random, numbers
        self.here: dict[str, Person] = {}
        self.played: list[str] = []
        for client_id in RECEIVERS[1:]:  # so that the user has clients
            machine.enter(client_id).leave()
        self.alice = machine.enter("alice", subscriptions=[Position(channel=CHANNEL, state=True)])

    def play(self) -> None:
        """Play it to its end."""
        while self.left > 0:
            self.step()
        self.machine.advance(31.0)  # a sweep

    def step(self) -> None:
        names = list(WEIGHTS)
        name = self.random.choices(names, [WEIGHTS[each] for each in names])[0]
        if getattr(self, f"_{name}")():
            self.played.append(name)
        if self.random.random() < 0.8:
            self.machine.settle()
            self.alice.pump()
            self.machine.settle()

    def _send(self) -> bool:
        for _ in range(min(self.random.randint(1, 3), self.left)):
            outbox = self.alice.process.outbox(*self.random.choice(NAMES))
            fields = {"collapse": "k"} if self.random.random() < 0.15 else {}
            outbox.queue(outbox.message(outbox.top + 1, **fields))
            self.left -= 1
        self.alice.pump()
        return True

    def _skip(self) -> bool:
        outbox = self.alice.process.outbox(*self.random.choice(NAMES))
        last = outbox.top + self.random.randint(1, 2)
        self.left -= last - outbox.top
        outbox.queue(outbox.skip(outbox.top + 1, last))
        self.alice.pump()
        return True

    def _publish(self) -> bool:
        numbers = [next(self.machine.commands) for _ in range(self.random.randint(1, 2))]
        self.alice.send(
            *(Publish(id=each, channel=CHANNEL, key=str(each), data=Raw(data_of(each))) for each in numbers)
        )
        return True

    def _set(self) -> bool:
        number = next(self.machine.commands)
        name = self.random.choice(("colour", "size", "mood"))
        expect: Any = self.random.choice((UNSET, UNSET, 0))
        fields: dict[str, Any] = {"data": Raw(data_of(number))}
        if self.random.random() < 0.2:
            fields = {"deleted": True}
        self.alice.send(Set(id=number, channel=CHANNEL, name=name, key=str(number), expect=expect, **fields))
        return True

    def _retry(self) -> bool:
        if not self.machine.past.asked:
            return False
        self.alice.send(self.random.choice(list(self.machine.past.asked.values())))
        return True

    def _come(self) -> bool:
        away = [name for name in RECEIVERS if name not in self.here]
        if not away or self.left > 36:
            return False
        name = self.random.choice(away)
        self.here[name] = self.machine.enter(name)
        return True

    def _finish(self) -> bool:
        return bool(self.here) and self.random.choice(list(self.here.values())).acknowledge(self.random)

    def _go(self) -> bool:
        if not self.here:
            return False
        self.here.pop(self.random.choice(list(self.here))).leave(self.random.random() < 0.5)
        return True

    def _wait(self) -> bool:
        self.machine.advance(self.random.choice((0.6, 0.6, 3.0)))
        return True


# --- after a cut -----------------------------------------------------------------------------


def audit_image(image: Image, past: Past, issued: bool = True) -> None:
    """Open what a cut has left, and look at it (see `audit`). Raises `Violation`."""
    disk = Disk(image)
    try:
        database = Database(DATABASE, vfs=disk.vfs)
        try:
            audit(database.writer, past, issued)
        finally:
            database.close()
    except (DatabaseError, apsw.Error) as error:
        raise Violation(f"damaged: {error}") from error
    finally:
        disk.forget()


def drain(machine: Machine, restarted: frozenset[str] = frozenset()) -> None:
    """Everybody comes back and everything goes on until nothing is open. `restarted`: receivers whose
    processes have ended too. Raises `Violation`."""
    past = machine.past
    promised = [(sender, outbox, outbox.stored) for sender, outbox in past.outboxes()]
    people = [machine.enter(name, **({"run": 0} if name in restarted else {})) for name in RECEIVERS]
    _settle(machine, people)
    for sender, outbox, stored in promised:
        for client_id in _clients_of(outbox.name[0]):
            check_taken(past, sender, outbox, client_id, stored)
    if past.processes["alice"]:
        people.append(alice := machine.enter("alice", subscriptions=[Position(channel=CHANNEL, state=True)]))
        _settle(machine, people)
        for sender, outbox in past.outboxes():
            if outbox.settled < outbox.top:
                raise Violation(f"stuck: {outbox.name} is settled up to {outbox.settled} of {outbox.top}")
            for client_id in _clients_of(outbox.name[0]):
                check_taken(past, sender, outbox, client_id, outbox.top)
        _publish_again(machine, alice)
        _read_log(machine, alice)
        alice.leave()
    for person in people[: len(RECEIVERS)]:
        person.leave()
    machine.enter("alice", run=0).leave()  # its numbers are higher than all before
    machine.advance(1.0)


def _settle(machine: Machine, people: list[Person]) -> None:
    for turn in range(60):
        machine.settle()
        moved = [person.pump() for person in people] + [person.acknowledge() for person in people]
        machine.settle()
        if not any(moved):
            if turn > 20 or not people[-1].probe():
                return
            machine.advance(1.0)


def _clients_of(name: str) -> tuple[str, ...]:
    return RECEIVERS[1:] if name[0] == "@" else (name,)


def check_taken(past: Past, sender: str, outbox: Outbox, client_id: str, top: int) -> None:
    """A client has everything up to `top`, as it was sent: each life of it in order and without a hole, and
    from not later on than where those before had finished."""
    stream = outbox.name[0], sender, outbox.name[1], outbox.run
    finished = reached = 0
    for inbox in past.inboxes(client_id, stream):
        numbers = list(inbox.taken)
        if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise Violation(f"reordered: {client_id} took {numbers} of {stream}")
        if numbers and numbers[0] > finished + 1:
            raise Violation(f"a hole: {client_id} begins at {numbers[0]} of {stream}, not at {finished + 1}")
        for seq, data in inbox.taken.items():
            if data[:1] == b'"':
                check_body(outbox, seq, data)
            elif data != b"gone" or seq > finished:  # an earlier life has had it
                check_loss(outbox, seq, data.decode())
        finished, reached = max(finished, inbox.finished), max(reached, inbox.expected - 1)
    if reached < top:
        raise Violation(f"lost: {client_id} took {stream} up to {reached} of {top}")


def _publish_again(machine: Machine, alice: Person) -> None:
    """Every command is sent again with its key: what was answered has the same answer, the rest happens now,
    or has happened."""
    past = machine.past
    for command, asked in list(past.asked.items()):
        asked.age = 1000
        before = past.answers[command]
        alice.send(asked)
        machine.settle()
        if past.answers[command] != before + 1:
            raise Violation(f"publish {command} has {past.answers[command] - before} answers")
        if command not in past.answered and past.refused.get(command) != "conflict":
            raise Violation(f"publish {command}: {past.refused.get(command)}")


def _read_log(machine: Machine, alice: Person) -> None:
    page = next(machine.commands)
    before = len(alice.all(Publication))
    alice.send(History(id=page, channel=CHANNEL, offset=0, limit=1000))
    machine.settle()
    found = [each for each in alice.all(Publication)[before:] if each.page == page]
    check_log(machine.past, [(each.offset, bytes(each.data)) for each in found])
