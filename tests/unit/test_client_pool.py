"""The pool of clients: borrowing, opening, breaking, leaving, and what is cancelled in between."""

import asyncio
import importlib.util
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.unit.client_world import FakeServer, play, turns

import duolink
from duolink import Client, ClientClosed, Refused, State, StateChanged, Unreachable, Unsettled
from duolink.client.pool import ConnectionPool, Lease, PoolClosed, PoolExhausted, PoolTimeout
from duolink.protocol.messages import Error

Patch = pytest.MonkeyPatch
EXAMPLE = Path(__file__).parents[2] / "examples" / "pool.py"
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


# --- borrowing ------------------------------------------------------------------------------------------


def test_lends_what_was_used_last(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        async with pool.acquire() as first, pool.acquire() as second:
            assert counts(pool) == (2, 0, 2, 0)
            assert {first.client_id, second.client_id} == {"web-0", "web-1"}
        assert counts(pool) == (2, 2, 0, 0)
        for _ in range(3):
            async with pool.acquire() as again:
                assert again is first  # given back last
        assert "2 clients, 2 idle, 0 lent, 0 waiting" in repr(pool)

    with_pool(monkeypatch, work, min_size=2)


def test_an_idle_client_is_lent_without_a_turn_of_the_loop(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        with pytest.raises(StopIteration):
            pool.acquire().__aenter__().send(None)
        assert pool.in_use == 1
        pool._give_back(pool._slots.slots[0])

    with_pool(monkeypatch, work, min_size=1)


def test_first_come_first_served_and_nobody_barges_in(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        order: list[int] = []

        async def job(number: int) -> None:
            async with pool.acquire():
                order.append(number)
                await asyncio.sleep(1)

        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(job(number))
            await asyncio.sleep(0.5)
            group.create_task(job(10))  # comes between a return and the turn of the waiter it went to
        assert order == list(range(11))

    with_pool(monkeypatch, work, max_size=2)


def test_a_returned_client_wakes_one_waiter_only(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        first, *others = (Borrower(pool) for _ in range(4))
        await turns()
        await first.give_back()
        await turns()
        assert [other.client is not None for other in others] == [True, False, False]
        assert counts(pool) == (1, 0, 1, 2)
        for other in others:
            await other.give_back()

    with_pool(monkeypatch, work, max_size=1)


def test_a_borrower_gives_up_in_time(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        loop = asyncio.get_running_loop()
        async with pool.acquire():
            begun = loop.time()
            with pytest.raises(PoolTimeout, match=r"no client was free within 1\.5 s") as caught:
                await pool.acquire(timeout=1.5).__aenter__()
            assert loop.time() - begun == pytest.approx(1.5)
            assert isinstance(caught.value, TimeoutError) and caught.value.__cause__ is None
            with pytest.raises(PoolTimeout):
                await pool.acquire(timeout=0).__aenter__()
            assert pool.waiting == 0

    with_pool(monkeypatch, work, max_size=1)


def test_only_so_many_may_wait(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        borrowers = [Borrower(pool) for _ in range(3)]
        await turns()
        with pytest.raises(PoolExhausted, match="1 clients are lent, and 2 borrowers wait already"):
            await pool.acquire().__aenter__()
        for borrower in borrowers:
            await borrower.give_back()

    with_pool(monkeypatch, work, min_size=1, max_size=1, max_waiters=2)


def test_a_lease_is_entered_once(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        lease = pool.acquire()
        async with lease:
            with pytest.raises(RuntimeError, match="entered once"):
                await lease.__aenter__()
        await lease.__aexit__(None, None, None)  # and left twice it does nothing
        assert counts(pool) == (1, 1, 0, 0)

    with_pool(monkeypatch, work)


# --- opening and closing what is too much -------------------------------------------------------------------


def test_min_size_clients_are_online_when_the_pool_is(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        assert [client.state for client in world.clients] == [State.ONLINE] * 3
        assert counts(pool) == (3, 3, 0, 0)

    with_pool(monkeypatch, work, min_size=3)


@pytest.mark.parametrize(
    "error", [Unreachable("ws://server", "no answer"), Refused(3500, "", "unauthorized")]
)
def test_a_pool_that_cannot_be_opened_says_why_and_leaves_nothing(
    monkeypatch: Patch, error: Exception
) -> None:
    async def body() -> None:
        world = World(monkeypatch)
        world.hold_opening = True
        pool = world.pool(min_size=3)
        opening = asyncio.create_task(pool.open())
        await turns()
        early, waiter = Borrower(pool), Borrower(pool)
        world.clients[0].gate.set_result(None)
        await turns()
        assert not opening.done() and early.client is world.clients[0]
        world.clients[2].gate.set_exception(error)
        with pytest.raises(type(error)) as caught:
            await opening
        assert caught.value is error
        assert not world.there and pool.size == 0
        assert isinstance(await waiter.outcome(), PoolClosed)
        await early.give_back()

    play(monkeypatch, body())


def test_a_client_refused_while_the_pool_opens_fails_it(monkeypatch: Patch) -> None:
    async def body() -> None:
        world = World(monkeypatch)
        world.hold_opening = True
        opening = asyncio.create_task(world.pool(min_size=2).open())
        await turns()
        world.clients[0].gate.set_result(None)
        await turns()
        world.clients[0].refuse()
        with pytest.raises(Refused, match="superseded"):
            await opening
        assert not world.there

    play(monkeypatch, body())


def test_the_surplus_is_closed_when_it_has_aged(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        borrowers = [Borrower(pool) for _ in range(4)]
        await turns()
        for borrower in borrowers:
            await borrower.give_back()
            await asyncio.sleep(1)
        assert pool.size == 4
        for _ in range(30):  # one client is in use now and then, and one more than min_size stays fresh
            async with pool.acquire():
                await asyncio.sleep(0.5)
            await asyncio.sleep(0.5)
        assert counts(pool) == (1, 1, 0, 0)
        assert world.there == {world.clients[3]}
        async with pool.acquire(), pool.acquire() as second:
            assert second.client_id == "web-2"  # names are used again

    with_pool(monkeypatch, work, min_size=1, idle_timeout=10)


def test_a_name_is_free_only_when_its_client_is_gone(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        async with pool.acquire():
            pass
        world.hold_closing = True
        await asyncio.sleep(11)
        assert counts(pool) == (1, 0, 0, 0)  # being closed
        borrower = Borrower(pool)
        await turns()
        assert counts(pool) == (1, 0, 0, 1)
        world.clients[0].closing.set_result(None)
        await turns(9)
        assert borrower.client is world.clients[1] and borrower.client.client_id == "web-0"
        world.hold_closing = False
        await borrower.give_back()

    with_pool(monkeypatch, work, max_size=1, idle_timeout=10)


def test_a_dead_server_is_not_hammered(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        world.failure = Unreachable("ws://server", "no route")
        borrowers = [Borrower(pool, 300) for _ in range(20)]
        await turns()
        with pytest.raises(
            PoolTimeout, match="opening one failed: cannot reach ws://server: no route"
        ) as caught:
            await pool.acquire(timeout=5).__aenter__()
        assert caught.value.__cause__ is world.failure
        at_once = len(world.clients)
        await asyncio.sleep(50)
        assert at_once <= 10 + 4 and len(world.clients) <= at_once + 5
        world.failure = None
        await asyncio.sleep(16)
        assert pool.in_use == 10
        for borrower in borrowers:
            borrower.done.set()
        outcomes = [await borrower.outcome() for borrower in borrowers]
        assert outcomes.count(None) >= 10

    with_pool(monkeypatch, work, max_size=10)


def test_a_name_that_is_taken_does_not_hold_up_the_others(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        world.failure = Refused(3501, "web-0 is here", "duplicate")
        borrower = Borrower(pool)
        await turns()
        world.failure = None
        await asyncio.sleep(1)
        assert borrower.client.client_id == "web-1"
        await borrower.give_back()

    with_pool(monkeypatch, work, max_size=2)


def test_a_function_names_the_clients(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        async with pool.acquire() as client:
            assert client.client_id == "job a"

    with_pool(monkeypatch, work, client_id=lambda n: f"job {'abc'[n]}", max_size=3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"client_id": "web"},
        {"client_id": lambda n: "web"},
        {"client_id": ""},
        {"client_id": "web-{n}\n"},
        {"min_size": 11},
        {"min_size": -1},
        {"max_size": 0},
        {"max_waiters": 0},
        {"idle_timeout": 0},
    ],
)
def test_what_cannot_be_a_pool_is_a_value_error(monkeypatch: Patch, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        World(monkeypatch).pool(**arguments)


# --- health ---------------------------------------------------------------------------------------------


def test_a_reconnecting_client_is_put_aside_and_comes_back(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        (client,) = world.clients
        client.become(State.RECONNECTING)
        assert counts(pool) == (1, 0, 0, 0)
        client.become(State.OFFLINE)
        waiter = Borrower(pool)
        await turns()
        assert waiter.client is None
        client.become(State.ONLINE)
        await turns()
        assert waiter.client is client
        client.become(State.RECONNECTING)  # in a borrower's hands
        await waiter.give_back()
        assert counts(pool) == (1, 0, 0, 0)
        client.become(State.ONLINE)
        assert counts(pool) == (1, 1, 0, 0)

    with_pool(monkeypatch, work, min_size=1, max_size=1)


def test_who_waits_gets_another_client_while_one_is_aside(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        world.clients[0].become(State.RECONNECTING)
        async with pool.acquire() as client:
            assert client.client_id == "web-1"

    with_pool(monkeypatch, work, min_size=1)


@pytest.mark.parametrize("lent", [False, True])
def test_a_closed_client_is_replaced(monkeypatch: Patch, lent: bool) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        borrower = Borrower(pool) if lent else None
        await turns()
        world.clients[0].refuse()
        await turns()
        assert world.clients[0].begun_closing is not lent
        if borrower is not None:
            await borrower.give_back()
        await asyncio.sleep(1)
        assert world.there == {world.clients[1]} and pool.idle == 1
        assert len(world.clients) == 2

    with_pool(monkeypatch, work, min_size=1)


def test_a_client_its_borrower_closed_is_replaced_at_once(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        async with pool.acquire() as client:
            world.client(client).refuse(ClientClosed())
        async with pool.acquire() as another:
            assert another is not client

    with_pool(monkeypatch, work, max_size=1)


def test_who_fights_over_a_name_does_so_ever_more_slowly(monkeypatch: Patch) -> None:
    """Another process takes the name whenever this one has it."""

    async def work(world: World, pool: ConnectionPool) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while loop.time() < begun + 120:
            async with pool.acquire(None):
                pass
            next(iter(world.there)).refuse()
        assert len(world.clients) <= 13

    with_pool(monkeypatch, work, min_size=1, max_size=1)


def test_a_client_that_dropped_as_it_came_online_is_not_handed_out(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        world.hold_opening = True
        waiter = Borrower(pool)
        await turns()
        client = world.clients[0]
        listener = client.listener

        def drop(event: StateChanged) -> None:
            listener(event)
            if event.state is State.ONLINE:
                client.listener = listener
                client.become(State.RECONNECTING)

        client.listener = drop
        client.gate.set_result(None)
        await turns()
        assert waiter.client is None and counts(pool) == (1, 0, 0, 1)
        client.become(State.ONLINE)
        await turns()
        assert waiter.client is client
        await waiter.give_back()

    with_pool(monkeypatch, work, max_size=1)


# --- cancelled, expired, broken in between ----------------------------------------------------------------


def test_cancelled_while_waiting(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        holder, first, second = (Borrower(pool) for _ in range(3))
        await turns()
        first.task.cancel()
        await turns()
        assert pool.waiting == 1
        await holder.give_back()
        await turns()
        assert second.client is not None and first.client is None
        await second.give_back()
        assert counts(pool) == (1, 1, 0, 0)

    with_pool(monkeypatch, work, max_size=1)


@pytest.mark.parametrize("cancelled_first", [False, True])
def test_cancelled_in_the_turn_in_which_a_client_is_handed_over(
    monkeypatch: Patch, cancelled_first: bool
) -> None:
    """Granted, not yet resumed, cancelled: the client goes on to the next waiter; and cancelled, not yet
    resumed, granted."""

    async def work(world: World, pool: ConnectionPool) -> None:
        lease = pool.acquire()
        await lease.__aenter__()
        first, second = Borrower(pool), Borrower(pool)
        await turns()
        if cancelled_first:
            first.task.cancel()
        await lease.__aexit__(None, None, None)  # without a turn of the loop
        if not cancelled_first:
            assert counts(pool) == (1, 0, 1, 1)
            first.task.cancel()
        await turns()
        assert first.task.cancelled() and first.client is None
        assert second.client is not None
        await second.give_back()
        assert counts(pool) == (1, 1, 0, 0)

    with_pool(monkeypatch, work, max_size=1)


def test_cancelled_when_handed_over_and_nobody_else_waits(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        lease = pool.acquire()
        await lease.__aenter__()
        waiter = Borrower(pool)
        await turns()
        await lease.__aexit__(None, None, None)
        waiter.task.cancel()
        await turns()
        assert counts(pool) == (1, 1, 0, 0)

    with_pool(monkeypatch, work, max_size=1)


def test_cancelled_while_its_client_is_opened_leaves_the_client_to_others(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        world.hold_opening = True
        waiter = Borrower(pool)
        await turns()
        waiter.task.cancel()
        await turns()
        assert counts(pool) == (1, 0, 0, 0)
        world.clients[0].gate.set_result(None)
        await turns()
        assert counts(pool) == (1, 1, 0, 0)

    with_pool(monkeypatch, work)


def test_a_borrower_cancelled_at_work_gives_back(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        borrower = Borrower(pool)
        await turns()
        borrower.task.cancel()
        await turns()
        assert counts(pool) == (1, 1, 0, 0)

    with_pool(monkeypatch, work)


def test_a_timeout_around_the_acquire_loses_nothing(monkeypatch: Patch) -> None:
    """The clocks of waiter and holder meet to the instant, in either order."""

    async def work(world: World, pool: ConnectionPool) -> None:
        got = 0
        for difference in (-0.001, 0.0, 0.001):
            holder = Borrower(pool)
            await turns()
            asyncio.get_running_loop().call_later(5 + difference, holder.done.set)
            try:
                async with asyncio.timeout(5), pool.acquire(None):
                    got += 1
            except TimeoutError:
                pass
            await holder.task
            assert counts(pool) == (1, 1, 0, 0)
        assert got == 1

    with_pool(monkeypatch, work, max_size=1)


@pytest.mark.parametrize("expired_first", [False, True])
def test_expired_in_the_turn_in_which_a_client_is_handed_over(
    monkeypatch: Patch, expired_first: bool
) -> None:
    """What was granted in time is kept; what comes too late goes on to the next."""

    async def work(world: World, pool: ConnectionPool) -> None:
        lease = pool.acquire()
        await lease.__aenter__()
        waiter = Borrower(pool, 100)
        await turns()
        (ticket,) = pool._slots._waiters
        if expired_first:
            pool._expire(ticket)
        await lease.__aexit__(None, None, None)
        if not expired_first:
            pool._expire(ticket)
        await turns()
        if expired_first:
            assert isinstance(await waiter.outcome(), PoolTimeout)
        else:
            assert waiter.client is not None
            await waiter.give_back()
        assert counts(pool) == (1, 1, 0, 0)

    with_pool(monkeypatch, work, max_size=1)


def test_a_client_that_breaks_when_handed_over_is_not_handed_out(monkeypatch: Patch) -> None:
    """Granted, not yet resumed, broken: both waiters wait on, in their order, before those who came later."""

    async def work(world: World, pool: ConnectionPool) -> None:
        leases = [pool.acquire(), pool.acquire()]
        for lease in leases:
            await lease.__aenter__()
        waiters = [Borrower(pool) for _ in range(3)]
        await turns()
        for lease in leases:
            await lease.__aexit__(None, None, None)
        assert counts(pool) == (2, 0, 2, 1)
        for client in world.clients:
            client.become(State.RECONNECTING)
        assert counts(pool) == (2, 0, 0, 3)
        await turns()
        assert [waiter.client for waiter in waiters] == [None] * 3
        for number in (0, 1):
            world.clients[number].become(State.ONLINE)
            await turns()
            assert waiters[number].client is world.clients[number]
        for waiter in waiters:
            await waiter.give_back()

    with_pool(monkeypatch, work, max_size=2)


def test_broken_when_handed_over_and_back_in_the_same_turn(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        lease = pool.acquire()
        await lease.__aenter__()
        waiter = Borrower(pool)
        await turns()
        await lease.__aexit__(None, None, None)
        world.clients[0].become(State.RECONNECTING)
        world.clients[0].become(State.ONLINE)
        assert counts(pool) == (1, 0, 1, 0)
        await turns()
        assert waiter.client is world.clients[0]
        await waiter.give_back()

    with_pool(monkeypatch, work, max_size=1)


def test_broken_when_handed_over_while_another_one_is_idle(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        leases = [pool.acquire(), pool.acquire()]
        for lease in leases:
            await lease.__aenter__()
        waiter = Borrower(pool)
        await turns()
        for lease in leases:
            await lease.__aexit__(None, None, None)
        assert counts(pool) == (2, 1, 1, 0)
        world.clients[0].become(State.RECONNECTING)
        assert counts(pool) == (2, 0, 1, 0)
        await turns()
        assert waiter.client is world.clients[1]
        await waiter.give_back()

    with_pool(monkeypatch, work, max_size=2)


def test_broken_and_expired_when_handed_over(monkeypatch: Patch) -> None:
    """Its timer has fired and will not again: it must not wait for ever."""

    async def work(world: World, pool: ConnectionPool) -> None:
        lease = pool.acquire()
        await lease.__aenter__()
        waiter = Borrower(pool, 100)
        await turns()
        (ticket,) = pool._slots._waiters
        await lease.__aexit__(None, None, None)
        pool._expire(ticket)
        world.clients[0].become(State.RECONNECTING)
        assert isinstance(await waiter.outcome(), PoolTimeout)

    with_pool(monkeypatch, work, max_size=1)


def test_cancelled_while_the_pool_opens(monkeypatch: Patch) -> None:
    async def body() -> None:
        world = World(monkeypatch)
        world.hold_opening = True
        pool = world.pool(min_size=3)
        opening = asyncio.create_task(pool.open())
        await turns()
        world.clients[0].gate.set_result(None)
        await turns()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not world.there and pool.size == 0
        with pytest.raises(PoolClosed):
            await pool.open()

    play(monkeypatch, body())


# --- leaving --------------------------------------------------------------------------------------------


def test_an_unopened_pool_and_a_closed_one_lend_nothing(monkeypatch: Patch) -> None:
    async def body() -> None:
        pool = World(monkeypatch).pool()
        with pytest.raises(PoolClosed, match="not open yet"):
            await pool.acquire().__aenter__()
        async with pool:
            with pytest.raises(PoolClosed, match="opened once"):
                await pool.open()
        with pytest.raises(PoolClosed, match="the pool is closed"):
            await pool.acquire().__aenter__()
        await pool.close()
        never = World(monkeypatch).pool()
        await never.close()
        with pytest.raises(PoolClosed):
            await never.open()

    play(monkeypatch, body())


def test_closing_waits_for_borrowers_and_serves_who_waits_already(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        holder, waiter = Borrower(pool), Borrower(pool)
        await turns()
        closing = asyncio.create_task(pool.close())
        await turns()
        with pytest.raises(PoolClosed):
            await pool.acquire().__aenter__()
        await holder.give_back()
        await turns()
        assert waiter.client is not None and not closing.done()
        await waiter.give_back()
        await closing
        assert not world.there

    with_pool(monkeypatch, work, max_size=1)


def test_closing_does_not_wait_for_ever(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        holder, waiter = Borrower(pool), Borrower(pool)
        await turns()
        begun = asyncio.get_running_loop().time()
        await pool.close()
        assert asyncio.get_running_loop().time() - begun == pytest.approx(3)
        assert holder.client.state is State.CLOSED
        assert isinstance(await waiter.outcome(), PoolClosed)
        await holder.give_back()  # harmless
        assert counts(pool) == (0, 0, 0, 0)

    with_pool(monkeypatch, work, max_size=1, close_timeout=3)


def test_a_client_handed_over_as_the_pool_ends_is_not_handed_out(monkeypatch: Patch) -> None:
    """Granted at the end of the wait, not yet resumed, closed."""

    async def work(world: World, pool: ConnectionPool) -> None:
        lease = pool.acquire()
        await lease.__aenter__()
        waiter = Borrower(pool)
        await turns()
        pool._slots.drain()
        await lease.__aexit__(None, None, None)
        pool._slots.end()
        pool._turn()
        assert isinstance(await waiter.outcome(), PoolClosed)

    with_pool(monkeypatch, work, max_size=1)


def test_a_client_that_comes_online_as_the_pool_ends_is_closed(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        world.hold_opening = True
        waiters = [Borrower(pool), Borrower(pool)]
        await turns()
        closing = asyncio.create_task(pool.close())
        await turns()
        world.clients[0].gate.set_result(None)
        pool._closing.cancel()  # type: ignore[union-attr]
        await closing
        assert not world.there
        assert [type(await waiter.outcome()) for waiter in waiters] == [PoolClosed, PoolClosed]

    with_pool(monkeypatch, work, max_size=2)


def test_what_is_being_opened_is_cancelled_by_closing(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        world.hold_opening = True
        waiter = Borrower(pool)
        await turns()
        waiter.task.cancel()
        await turns()
        await pool.close()
        assert not world.there and pool.size == 0

    with_pool(monkeypatch, work)


def test_an_opening_that_has_not_begun_when_the_pool_ends_never_begins(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        closing = asyncio.create_task(pool.close())
        waiter = asyncio.create_task(pool.acquire().__aenter__())
        pool._slots.enqueue(0.0)
        pool._turn()  # its task is made, and comes after the two above
        pool._slots.end()
        await closing
        assert not world.clients and pool.size == 0
        with pytest.raises(PoolClosed):
            await waiter

    with_pool(monkeypatch, work)


def test_leaving_with_an_exception_turns_waiters_away_at_once(monkeypatch: Patch) -> None:
    async def body() -> None:
        world = World(monkeypatch)
        pool = world.pool(max_size=1)
        await pool.__aenter__()
        holder, waiter = Borrower(pool), Borrower(pool)
        await turns()
        asyncio.get_running_loop().call_later(2, holder.done.set)
        world.clients[0].unsafe = 1  # is not said beside the exception
        begun = asyncio.get_running_loop().time()
        error = ZeroDivisionError()
        await pool.__aexit__(type(error), error, None)
        assert isinstance(await waiter.outcome(), PoolClosed)
        assert asyncio.get_running_loop().time() - begun == pytest.approx(2)  # who has a client may finish
        assert not world.there and await holder.outcome() is None

    play(monkeypatch, body())


def test_leaving_cancelled_waits_for_nobody(monkeypatch: Patch) -> None:
    async def body() -> None:
        world = World(monkeypatch)
        world.hold_closing = True
        pool = world.pool(min_size=2)

        async def use() -> None:
            async with pool, pool.acquire():
                holder.append(Borrower(pool))
                await asyncio.Event().wait()

        holder: list[Borrower] = []
        using = asyncio.create_task(use())
        await turns()
        using.cancel()
        begun = asyncio.get_running_loop().time()
        await asyncio.wait([using])
        assert using.cancelled() and not world.there
        assert asyncio.get_running_loop().time() == begun
        await holder[0].give_back()

    play(monkeypatch, body())


def test_close_cancelled_while_it_waits_for_borrowers(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        holder = Borrower(pool)
        await turns()
        closing = asyncio.create_task(pool.close())
        await turns()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not world.there
        await holder.give_back()

    with_pool(monkeypatch, work)


def test_close_cancelled_while_the_clients_flush(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        world.hold_closing = True
        closing = asyncio.create_task(pool.close())
        await turns()
        assert all(client.begun_closing for client in world.clients) and len(world.there) == 3
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not world.there

    with_pool(monkeypatch, work, min_size=3)


def test_cancelled_in_the_turn_in_which_a_surplus_client_begins_to_close(monkeypatch: Patch) -> None:
    """A task that is cancelled before it has begun would never close its client."""

    async def body() -> None:
        world = World(monkeypatch)
        world.hold_closing = True
        pool = world.pool(idle_timeout=10)
        async with pool:
            async with pool.acquire():
                pass
            await asyncio.sleep(9)
            pool._slots.poll(asyncio.get_running_loop().time() + 1)
            pool._turn()
            pool._hurry()
        assert not world.there and world.clients[0].begun_closing

    play(monkeypatch, body())


def test_close_is_harmless_again_and_beside_itself(monkeypatch: Patch) -> None:
    """Who is cancelled in it hurries the others, and does not cancel them."""

    async def work(world: World, pool: ConnectionPool) -> None:
        world.hold_closing = True
        first, second = asyncio.create_task(pool.close()), asyncio.create_task(pool.close())
        await turns()
        first.cancel()
        await second
        assert first.cancelled() and not world.there
        await pool.close()

    with_pool(monkeypatch, work, min_size=2)


def test_closing_says_how_much_was_not_safe(monkeypatch: Patch) -> None:
    async def body() -> None:
        world = World(monkeypatch)
        pool = world.pool(min_size=3)
        with pytest.raises(Unsettled, match="5 messages"):
            async with pool:
                world.clients[0].unsafe, world.clients[2].unsafe = 2, 3
        with pytest.raises(Unsettled, match="5 messages"):
            await pool.close()

    play(monkeypatch, body())


def test_clients_flush_together(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        world.hold_closing = True
        closing = asyncio.create_task(pool.close())
        await turns()
        assert [client.close_timeout for client in world.clients if client.begun_closing] == [7.0] * 3
        for client in world.clients:
            client.closing.set_result(None)
        await closing

    with_pool(monkeypatch, work, min_size=3, close_timeout=7.0)


# --- everything at once -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_lost_whatever_happens(monkeypatch: Patch, seed: int) -> None:
    """Borrowers that work, give up and are cancelled, over clients that drop, come back and are refused."""

    async def work(world: World, pool: ConnectionPool) -> None:
        random = Random(seed)
        holders: set[str] = set()
        served = 0

        async def job() -> None:
            nonlocal served
            async with pool.acquire(random.choice([0.0, 0.5, 5.0])) as client:
                assert client.client_id not in holders and client.state is State.ONLINE
                holders.add(client.client_id)
                served += 1
                try:
                    await asyncio.sleep(random.choice([0.0, 0.1, 1.0]))
                finally:
                    holders.discard(client.client_id)

        async def weather() -> None:
            while True:
                await asyncio.sleep(random.choice([0.0, 0.05, 0.2]))
                world.failure = Unreachable("ws://server", "rain") if random.random() < 0.1 else None
                for client in sorted(world.there, key=lambda client: client.client_id):
                    change = random.random()
                    if client.state is State.ONLINE and change < 0.1:
                        client.become(State.RECONNECTING)
                    elif client.state is State.RECONNECTING and change < 0.5:
                        client.become(State.ONLINE)
                    elif client.state in (State.ONLINE, State.RECONNECTING) and change > 0.97:
                        client.refuse()

        outside = asyncio.create_task(weather())
        jobs = []
        for _ in range(200):
            jobs.append(asyncio.create_task(job()))
            if random.random() < 0.2:
                random.choice(jobs).cancel()
            await asyncio.sleep(random.choice([0.0, 0.0, 0.1]))
        await asyncio.wait(jobs)
        outside.cancel()
        await asyncio.wait([outside])
        world.failure = None
        failures = {type(task.exception()) for task in jobs if not task.cancelled()}
        assert failures <= {type(None), PoolTimeout} and served > 20
        for client in list(world.there):
            if client.state is State.RECONNECTING:
                client.become(State.ONLINE)
        async with asyncio.timeout(90), asyncio.TaskGroup() as group:  # every slot is still there

            async def hold() -> None:
                async with pool.acquire(None):
                    everybody.append(1)
                    if len(everybody) == 4:
                        full.set()
                    await full.wait()

            everybody: list[int] = []
            full = asyncio.Event()
            for _ in range(4):
                group.create_task(hold())

    with_pool(monkeypatch, work, min_size=1, max_size=4, idle_timeout=2)


# --- real clients -----------------------------------------------------------------------------------------


def of(server: FakeServer, **arguments: Any) -> ConnectionPool:
    """A pool of real clients of a server in this world."""

    def make(url: str, client_id: str, **more: Any) -> Client:
        return Client(url, client_id, dial=server.dial, **more)

    return ConnectionPool("ws://server", client_id="web-{n}", _client=make, **arguments)


def test_a_cut_client_comes_back_into_the_pool(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with of(server, max_size=1) as pool:
            server.line.end(1006, "gone")
            assert counts(pool) == (1, 0, 0, 0)
            async with pool.acquire() as client:
                assert client.state is State.ONLINE and len(server.hellos) == 2
        assert [hello.client_id for hello in server.hellos] == ["web-0", "web-0"]

    play(monkeypatch, work())


def test_a_refused_client_is_opened_anew(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with of(server, max_size=2) as pool:
            server.line.deliver(Error(code="superseded", message="a newer one", fatal=True))
            server.line.end(3502, "superseded")
            async with pool.acquire() as client:
                assert client.client_id == "web-1"
            assert pool.size == 1

    play(monkeypatch, work())


def test_a_pool_whose_server_is_not_there_is_unreachable(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        server.failures = [ConnectionRefusedError(111, "Connection refused") for _ in range(20)]
        with pytest.raises(Unreachable, match="Connection refused"):
            async with of(server, min_size=2):
                pass

    play(monkeypatch, work())


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Against a real server."""

    async def work() -> None:
        spec = importlib.util.spec_from_file_location("example_pool", EXAMPLE)
        assert spec is not None and spec.loader is not None
        example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(example)
        async with asyncio.timeout(15), duolink.Server(port=0) as server:
            await example.main(server.url)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(work())
    *lines, last = capsys.readouterr().out.splitlines()[-21:]
    assert [int(line.partition(": ")[2]) for line in lines] == [2 * number for number in range(20)]
    assert {line.partition(":")[0] for line in lines} <= {"web-0", "web-1", "web-2"}
    assert last == "3 clients were enough"
