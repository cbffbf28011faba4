"""A world for pools: virtual time, and clients that do what a test says."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.unit.client_world import play

from duolink import Client, ClientClosed, Refused, State, StateChanged, Unsettled
from duolink.client.pool import ConnectionPool, Lease

Patch = pytest.MonkeyPatch
SUPERSEDED = Refused(3502, "a newer one", "superseded")


class FakeClient:
    """A client that does what its world says, and nothing by itself."""

    def __init__(self, world: "World", client_id: str, close_timeout: float) -> None:
        self.world, self.client_id, self.close_timeout = world, client_id, close_timeout
        self.state = State.IDLE
        self.ending: ClientClosed | None = None
        self.listener: Callable[[Any], Any] = lambda event: None
        self.gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.unsafe = 0
        self.begun_closing = False

    def on_event(self, listener: Callable[[Any], Any]) -> None:
        self.listener = listener

    def become(self, state: State) -> None:
        self.state = state
        self.listener(StateChanged(state))

    def refuse(self, ending: ClientClosed = SUPERSEDED) -> None:
        """The client is closed for good; with a plain `ClientClosed`: by its borrower."""
        self.ending = ending
        self.become(State.CLOSED)

    async def open(self) -> None:
        self.world.there.add(self)
        self.world.most = max(self.world.most, len(self.world.there))
        self.become(State.CONNECTING)
        try:
            if self.world.hold_opening:
                await self.gate
            if self.world.failure is not None:
                raise self.world.failure
        except BaseException:
            self.world.there.discard(self)
            self.become(State.CLOSED)
            raise
        self.become(State.ONLINE)

    async def close(self) -> None:
        self.begun_closing = True
        try:
            if self.world.hold_closing and self.close_timeout:
                await self.closing
        finally:
            self.world.there.discard(self)
            if self.state is not State.CLOSED:
                self.ending = ClientClosed()
                self.become(State.CLOSED)
        if self.unsafe:
            raise Unsettled(self.unsafe)


class World:
    """Fake clients, all of them and those there are now."""

    def __init__(self, monkeypatch: Patch) -> None:
        self.monkeypatch = monkeypatch
        self.clients: list[FakeClient] = []
        self.there: set[FakeClient] = set()
        self.most = 0
        self.hold_opening = self.hold_closing = False
        self.failure: Exception | None = None

    def make(self, url: str, client_id: str, **arguments: Any) -> Any:
        client = FakeClient(self, client_id, arguments["close_timeout"])
        assert client_id not in {other.client_id for other in self.there}, "a duplicate"
        self.clients.append(client)
        return client

    def pool(self, **arguments: Any) -> ConnectionPool:
        self.monkeypatch.setattr("duolink.client.pool.random", lambda: 0.5)
        arguments.setdefault("client_id", "web-{n}")
        arguments.setdefault("min_size", 0)
        return ConnectionPool("ws://server", _client=self.make, **arguments)

    def client(self, client: Client) -> FakeClient:
        """The fake one behind what a borrower has."""
        assert isinstance(client, FakeClient)
        return client


def with_pool(
    monkeypatch: Patch, work: Callable[[World, ConnectionPool], Coroutine[Any, Any, None]], **arguments: Any
) -> None:
    """Run with an open pool of fake clients, in virtual time; in the end none of them is left."""

    async def body() -> None:
        world = World(monkeypatch)
        pool = world.pool(**arguments)
        async with pool:
            await work(world, pool)
        assert not world.there
        assert (pool.size, pool.idle, pool.in_use, pool.waiting) == (0, 0, 0, 0)
        assert world.most <= arguments.get("max_size", 10)

    play(monkeypatch, body())


class Borrower:
    """A task that borrows, and keeps its client until told otherwise."""

    def __init__(self, pool: ConnectionPool, patience: float | None = None) -> None:
        self.client: Any = None
        self.done = asyncio.Event()
        self.task = asyncio.create_task(self.work(pool.acquire(patience)))

    async def work(self, lease: Lease) -> None:
        async with lease as self.client:
            await self.done.wait()

    async def give_back(self) -> None:
        self.done.set()
        await self.task

    async def outcome(self) -> BaseException | None:
        """How it ended."""
        await asyncio.wait([self.task])
        return None if self.task.cancelled() else self.task.exception()


def counts(pool: ConnectionPool) -> tuple[int, int, int, int]:
    return pool.size, pool.idle, pool.in_use, pool.waiting
