"""Mailboxes under a test's hands: filled by an earlier node, failing, or answering late."""

from typing import Any

from tests.node_world import Client, World

from duolink.engines.base import Failure, Mailbox, Row, Stream
from duolink.protocol.messages import Ack, LinkMessage, Skip


class Flaky:
    """A mailbox that fails the calls named in `failing`, and counts all of them."""

    read: Any

    def __init__(self, inner: Mailbox) -> None:
        self._inner = inner
        self.failing: set[str] = set()
        self.failure = Failure("the disk is gone")
        self.calls: list[str] = []
        self.held: list[Any] | None = None  # answers kept back, when it is a list

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            assert self.calls.count(name) < 10_000, "the engine is asked without end"
            *rest, done = arguments
            if name in self.failing:
                return done(self.failure)
            if self.held is not None and callable(done):
                return method(*rest, lambda result: self.held.append(lambda: done(result)))
            return method(*arguments)

        return call

    def release(self) -> None:
        held, self.held = self.held, None
        for answer in held or ():
            answer()


def flaky(world: World) -> Flaky:
    mailbox = Flaky(world.node.mailboxes.engine)
    world.node.mailboxes.engine = mailbox
    return mailbox


def put(world: World, seq: int, sender: str = "alice", *, run: int = 1, lane: str = "messages", **how: Any):
    """Put a row into bob's mailbox, as an earlier node would have."""
    last = how.get("last", seq)
    body = b'{"type":"message","run":%d,"seq":%d,"base":1,"lane":"%s","data":%d,"from":"%s"}' % (
        run,
        seq,
        lane.encode(),
        seq,
        sender.encode(),
    )
    row = Row(seq, last, b"" if how.get("reason") else body, reason=how.get("reason", ""))
    stream = Stream(how.get("to", "bob"), sender, lane, run)
    world.engines.mailbox.store(stream, row, how.get("base", 1), lambda result: None)


def seqs(client: Client) -> list[Any]:
    """Numbers and skips that came since the last look."""
    return [
        message.seq if type(message) is LinkMessage else (message.seq, message.last)
        for message in client.take()
        if type(message) in (LinkMessage, Skip)
    ]


def acknowledge(client: Client, seq: int, to: str = "alice", run: int = 1, **how: Any) -> None:
    client.send(Ack(run=run, seq=seq, to=to, **how))


def delivering(world: World) -> Any:
    """What bob is to be given yet."""
    session = world.node.sessions.get("bob")
    return session.delivery if session is not None else None


def kept(world: World) -> int:
    return world.engines.mailbox.totals()[0]
