"""The simulated world's node: the real one, on virtual time and an engine that may be late."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from duolink.engines.base import Box, Failure, Log, Mailbox, MailboxLimits, Row, Stream
from duolink.engines.memory import AtOnce, Late, memory_engines
from duolink.engines.memory_mailbox import MemoryMailbox
from duolink.server.auth import OpenAuthenticator
from duolink.server.metrics import Counts
from duolink.server.node import Node
from duolink.server.policy import OpenConsent
from duolink.server.settings import Config

if TYPE_CHECKING:
    from .world import World


class Slow:
    """An engine schedule: everything takes a while, in an order of its own."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._late = Late(world.random)

    def submit(self, queue: str, work: Callable[[], Callable[[], None]]) -> None:
        self._late.submit(queue, work)
        for _ in range(2):
            self._world.clock.after(self._world.random.uniform(0, 0.3), self._step)

    def _step(self) -> None:
        self._late.step()
        self._world.wake_node()


class Disk:
    """An engine that outlives the node: what it has done stays, what it was only asked for does not. It may
    be slow, and while it is `failing` it keeps nothing more."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._schedule = self._new_schedule()
        names = world.random
        self.failing = False
        room = MailboxLimits(pair_messages=world.faults.mailbox)
        inner = memory_engines(world.clock, lambda: f"{names.getrandbits(120):030x}", self, room)
        self._mailbox = FailingMailbox(inner.mailbox, self)
        log = FailingLog(inner.log, self)
        self.engines = replace(inner, mailbox=self._mailbox, log=log, durable=True, problem=self._problem)

    def wall_ms(self) -> int:
        """The time of the world."""
        return self._world.clock.wall_ms()

    def _problem(self) -> str:
        return "the disk is full" if self.failing else ""

    def _new_schedule(self) -> Slow | AtOnce:
        return Slow(self._world) if self._world.faults.late_engine else AtOnce()

    def forget_requests(self) -> None:
        """The node was killed."""
        self._schedule = self._new_schedule()
        self._mailbox.held.clear()

    def recover(self) -> None:
        """It is well again."""
        self.failing = False
        self._mailbox.write_held()

    def submit(self, queue: str, work: Callable[[], Callable[[], None]]) -> None:
        """See `Schedule.submit`."""
        self._schedule.submit(queue, work)

    def fail(self, queue: str, done: Callable[[Any], None]) -> None:
        """Answer that nothing can be kept, in the order of the queue."""
        self.submit(queue, lambda: lambda: done(Failure("the disk is full")))


class FailingMailbox:
    """A mailbox that keeps nothing while the disk is failing: acknowledgements are `held`, and who opens it
    is told what can be read."""

    def __init__(self, inner: Mailbox, disk: Disk) -> None:
        assert isinstance(inner, MemoryMailbox)
        self._inner, self._disk = inner, disk
        self.standing, self.read = inner.standing, inner.read
        self.totals, self.receivers = inner.totals, inner.receivers
        self.holdings, self.listing, self.deepest = inner.holdings, inner.listing, inner.deepest
        self.held: list[tuple[Any, ...]] = []

    def acknowledge(self, *ack: Any) -> None:
        """See `Mailbox.acknowledge`."""
        if self._disk.failing:
            self.held.append(ack)
        else:
            self._inner.acknowledge(*ack)

    def write_held(self) -> None:
        """Write what could not be written."""
        held, self.held = self.held, []
        for ack in held:
            self._inner.acknowledge(*ack)

    def open(self, client_id: str, user: str, run: int, done: Callable[[Any], None]) -> None:
        """See `Mailbox.open`."""
        if not self._disk.failing:
            self._inner.open(client_id, user, run, done)
            return

        def work() -> Callable[[], None]:
            boxes = self._inner._room.waiting(client_id, user, self._disk.wall_ms())
            return lambda: done(
                Failure("the disk is full") if boxes is None else self._unfinished(client_id, boxes)
            )

        self._disk.submit(f"mail {client_id}", work)

    def _unfinished(self, client_id: str, boxes: tuple[Box, ...]) -> tuple[Box, ...]:
        left: list[Box] = []
        for box in boxes:
            acked = max([ack[2] for ack in self.held if ack[:2] == (box.stream, client_id)], default=0)
            if acked < box.top:
                left.append(box._replace(first=max(box.first, acked + 1)))
        return tuple(left)

    def store(self, stream: Stream, row: Row, base: int, done: Callable[[Any], None]) -> None:
        """See `Mailbox.store`."""
        if self._disk.failing:
            self._disk.fail(f"mail {stream.receiver}", done)
        else:
            self._inner.store(stream, row, base, done)


class FailingLog:
    """A log that keeps nothing while the disk is failing."""

    def __init__(self, inner: Log, disk: Disk) -> None:
        self._inner, self._disk = inner, disk
        self.read, self.state, self.top = inner.read, inner.state, inner.top
        self.hold, self.release, self.listing = inner.hold, inner.release, inner.listing

    def append(self, channel: str, draft: Any, retention: Any, done: Callable[[Any], None]) -> None:
        """See `Log.append`."""
        if self._disk.failing:
            self._disk.fail(f"append {channel}", done)
        else:
            self._inner.append(channel, draft, retention, done)


class Trouble:
    """A log that must stay empty: what the simulated clients cause is no trouble."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def warning(self, key: str, event: str, now: float, **fields: Any) -> None:
        self._world.history.sometimes[f"node logged {key}"] += 1


def start_node(world: "World") -> Node:
    """A node that knows nothing of an earlier one."""
    late = world.faults.late_engine
    names = world.random

    def new_token() -> str:
        return f"{names.getrandbits(120):030x}"

    def defer(action: Callable[[], None]) -> None:
        def run() -> None:
            action()
            world.wake_node()

        world.clock.after(0.0, run)

    node = Node(
        Config(),
        clock=world.clock,
        engines=world.disk.engines
        if world.disk is not None
        else memory_engines(world.clock, new_token, Slow(world) if late else AtOnce()),
        authenticator=OpenAuthenticator(),
        consent=OpenConsent(),
        defer=defer,
        new_token=new_token,
        counts=Counts(),
        log=Trouble(world),
    )
    _tally(world, node)
    return node


def _tally(world: "World", node: Node) -> None:
    """Count what only the node knows to have happened."""
    mailboxes, sometimes = node.mailboxes, world.history.sometimes
    acknowledge, clear = mailboxes._acknowledge, mailboxes.clear

    def acknowledging(*arguments: Any, **options: Any) -> None:
        sometimes["sender heard from the mailbox"] += 1
        acknowledge(*arguments, **options)

    def clearing(session: Any, stream: Stream) -> bool:
        is_clear = clear(session, stream)
        sometimes["message waited for what the mailbox has"] += not is_clear
        return is_clear

    mailboxes._acknowledge, mailboxes.clear = acknowledging, clearing  # type: ignore[method-assign]
