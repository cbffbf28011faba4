"""A world for clients: virtual time, and a server that does what a test says."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from duolink.client.client import Client
from duolink.client.transport import TransportUser
from duolink.protocol import codec, limits
from duolink.protocol.messages import (
    Ack,
    Ephemeral,
    Goodbye,
    HeartbeatSettings,
    Hello,
    Limits,
    LinkMessage,
    Message,
    Peer,
    Ping,
    Pong,
    Probe,
    Publication,
    Signal,
    Skip,
    Watch,
    Watching,
    Welcome,
)
from duolink.protocol.options import Options
from duolink.protocol.payload import payloads

T = TypeVar("T")
RUN = 1_800_000_000_000


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everything waits, and nothing will happen")
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop in which waiting takes no time."""

    def __init__(self) -> None:
        self.virtual = _Selector()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.now


def play(monkeypatch: pytest.MonkeyPatch, work: Coroutine[Any, Any, T]) -> T:
    """Run a test in virtual time; nothing may be left over, and nobody may have complained."""
    complaints: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        wall = SimpleNamespace(time=lambda: loop.time() + 1_000_000)
        monkeypatch.setattr("duolink.client.driver.time", wall)
        monkeypatch.setattr("duolink.client.client.random", lambda: 0.5)

        async def body() -> T:
            async with asyncio.timeout(3600):
                result = await work
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return result

        result = runner.run(body())
    assert [c for c in complaints if "duolink: a " not in c["message"]] == []
    return result


class Line:
    """One transport of a client, and the server's end of it."""

    def __init__(self, server: "FakeServer", user: TransportUser) -> None:
        self.congested = False
        self.server, self.user = server, user
        self.open = True
        self.closed_with: int | None = None
        self.loop = asyncio.get_running_loop()

    def send(self, payload: bytes, binary: bool) -> None:
        if self.open and self.closed_with is None:
            self.loop.call_soon(self.server.took, self, payload, binary)

    def close(self, code: int, reason: str) -> None:
        if self.closed_with is None:
            self.closed_with = code
            self.loop.call_soon(self._gone)

    def abort(self) -> None:
        self.loop.call_soon(self.end, 1006, "cut")

    def deliver(self, *messages: Message) -> None:
        """Have the client receive messages, in one read."""
        if not self.open or self.closed_with is not None:
            return
        for payload, binary in payloads(messages):
            self.user.received(self, payload, binary)
        self.user.batch_ended(self)

    def end(self, code: int = 1006, reason: str = "") -> None:
        """The connection ends."""
        if self.open:
            if self.closed_with is None:
                self.user.closed(self, code, reason)
            self._gone()

    def _gone(self) -> None:
        if self.open:
            self.open = False
            self.user.gone(self)


class FakeServer:
    """Accepts every hello, remembers what it got, and otherwise does nothing by itself. With `relay`
    it passes link messages between its clients and tells who is there."""

    def __init__(self, *, relay: bool = False, **settings: Any) -> None:
        self.relay = relay
        self.window = settings.pop("window", limits.WINDOW)
        self.settings = settings  # fields of welcome
        self.got: list[Any] = []
        self.hellos: list[Hello] = []
        self.lines: list[Line] = []
        self.clients: dict[str, Line] = {}
        self.failures: list[Exception] = []  # for the next attempts
        self.dialled = 0
        self.on_hello: Callable[[Line, Hello], bool] = lambda line, hello: False
        self._arrived = asyncio.Event()

    async def dial(self, user: TransportUser) -> None:
        self.dialled += 1
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        line = Line(self, user)
        self.lines.append(line)
        user.opened(line)

    @property
    def line(self) -> Line:
        return self.lines[-1]

    def took(self, line: Line, payload: bytes, binary: bool) -> None:
        for message in codec.CLIENT.binary(payload) if binary else codec.CLIENT.text(payload):
            assert not isinstance(message, codec.Malformed), message
            self._handle(line, message)
        self._arrived.set()

    def _handle(self, line: Line, message: Any) -> None:
        if isinstance(message, Hello):
            self.hellos.append(message)
            if not self.on_hello(line, message):
                self.clients[message.client_id] = line
                line.deliver(self.welcome(message))
            return
        self.got.append(message)
        if isinstance(message, Ping):
            line.deliver(Pong(id=message.id))
        elif isinstance(message, Watch):
            here = [
                Peer(client_id=peer, state="here", run=RUN)
                for peer in message.clients
                if peer in self.clients
            ]
            line.deliver(Watching(id=message.id), *here)
        elif isinstance(message, Goodbye):
            for name in [name for name, other in self.clients.items() if other is line]:
                del self.clients[name]
        elif self.relay and isinstance(message, LinkMessage | Ack | Skip | Probe | Ephemeral | Signal):
            self._pass_on(line, message)

    def _pass_on(self, line: Line, message: Any) -> None:
        target = self.clients.get(message.to)
        sender = next((name for name, other in self.clients.items() if other is line), "")
        if target is not None:
            message.to, message.sender = "", sender
            target.loop.call_soon(target.deliver, message)

    def welcome(self, hello: Hello) -> Welcome:
        return Welcome(
            client_id=hello.client_id,
            session="s1",
            secret=f"secret{len(self.hellos)}",
            generation=1,
            attachment=len(self.hellos),
            run=hello.run or RUN,
            resumed=bool(hello.session),
            durable=False,
            heartbeat=HeartbeatSettings(30_000, 10_000, 3),
            limits=Limits(limits.MAX_MESSAGE, limits.MAX_PAYLOAD, 128, 2, self.window, limits.WINDOW_BYTES),
            time=1_000_000,
            **self.settings,
        )

    async def expect(self, kind: type[T], count: int = 1) -> list[T]:
        """Return the messages of a kind when there are that many."""
        while len(found := [message for message in self.got if type(message) is kind]) < count:
            self._arrived.clear()
            await self._arrived.wait()
        return found

    # --- what a peer would say -------------------------------------------------------------------

    def message(self, sender: str, seq: int, data: Any, **fields: Any) -> LinkMessage:
        fields.setdefault("run", 7)
        return LinkMessage(seq=seq, base=1, sender=sender, data=codec.encode_json(data), **fields)

    def ack(self, sender: str, seq: int, **fields: Any) -> Ack:
        return Ack(run=RUN, seq=seq, sender=sender, **fields)

    def publication(self, channel: str, offset: int, data: Any, **fields: Any) -> Publication:
        return Publication(channel=channel, offset=offset, sender="x", data=codec.encode_json(data), **fields)


def make(server: FakeServer, name: str = "alice", **arguments: Any) -> Client:
    """A client of a server in this world."""
    return Client("ws://server", name, dial=server.dial, **arguments)


async def turns(count: int = 5) -> None:
    """Let everything happen that is due now."""
    for _ in range(count):
        await asyncio.sleep(0)


QUICK = Options(backoff_initial=1.0)
