"""The simulated world's node: the real one, on virtual time and an engine that may be late."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from duolink.engines.base import Failure, Log, Mailbox, MailboxLimits, Row, Stream
from duolink.engines.memory import AtOnce, Late, memory_engines
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
        self._schedule: Slow | AtOnce = AtOnce()
        self.forget_requests()
        names = world.random
        self.failing = False
        room = MailboxLimits(pair_messages=world.faults.mailbox)
        inner = memory_engines(world.clock, lambda: f"{names.getrandbits(120):030x}", self, room)
        mailbox = FailingMailbox(inner.mailbox, self)
        log = FailingLog(inner.log, self)
        self.engines = replace(inner, mailbox=mailbox, log=log, durable=True, problem=self._problem)

    def _problem(self) -> str:
        return "the disk is full" if self.failing else ""

    def forget_requests(self) -> None:
        """The node was killed."""
        self._schedule = Slow(self._world) if self._world.faults.late_engine else AtOnce()

    def submit(self, queue: str, work: Callable[[], Callable[[], None]]) -> None:
        """See `Schedule.submit`."""
        self._schedule.submit(queue, work)

    def fail(self, queue: str, done: Callable[[Any], None]) -> None:
        """Answer that nothing can be kept, in the order of the queue."""
        self.submit(queue, lambda: lambda: done(Failure("the disk is full")))


class FailingMailbox:
    """A mailbox that keeps nothing while the disk is failing."""

    def __init__(self, inner: Mailbox, disk: Disk) -> None:
        self._inner, self._disk = inner, disk
        self.standing, self.open, self.read = inner.standing, inner.open, inner.read
        self.totals, self.receivers = inner.totals, inner.receivers
        self.holdings, self.listing, self.deepest = inner.holdings, inner.listing, inner.deepest
        self.acknowledge = inner.acknowledge

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
