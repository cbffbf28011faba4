"""The pool of clients: borrowing, opening, what is too much, what breaks, real clients."""

import asyncio
import importlib.util
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.client_world import FakeServer, play, turns
from tests.unit.pool_world import Borrower, World, counts, with_pool

import duolink
from duolink import Client, ClientClosed, Refused, State, StateChanged, Unreachable
from duolink.client.pool import ConnectionPool, PoolClosed, PoolExhausted, PoolTimeout
from duolink.protocol.messages import Error

Patch = pytest.MonkeyPatch
EXAMPLE = Path(__file__).parents[2] / "examples" / "pool.py"


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


def test_another_loop_is_lent_nothing(monkeypatch: Patch) -> None:
    async def borrow(pool: ConnectionPool) -> None:
        with pytest.raises(RuntimeError, match="on the event loop that opened it"):
            async with pool.acquire():
                raise AssertionError

    async def work(world: World, pool: ConnectionPool) -> None:
        thread = threading.Thread(target=asyncio.run, args=(borrow(pool),))
        thread.start()
        thread.join()
        assert counts(pool) == (1, 1, 0, 0)

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


def test_who_was_served_leaves_no_timer(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        expired: list[Any] = []
        monkeypatch.setattr(pool, "_expire", expired.append)
        async with pool.acquire(timeout=5):
            await asyncio.sleep(10)
        assert not expired

    with_pool(monkeypatch, work)


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
        assert 10 + 2 <= at_once <= 10 + 4 and len(world.clients) <= at_once + 5
        world.failure = None
        await asyncio.sleep(16)
        assert pool.in_use == 10
        for borrower in borrowers:
            borrower.done.set()
        outcomes = [await borrower.outcome() for borrower in borrowers]
        assert outcomes.count(None) >= 10
        leases = [pool.acquire() for _ in range(10)]
        for lease in leases:
            await lease.__aenter__()
        with pytest.raises(PoolTimeout) as caught:
            await pool.acquire(timeout=5).__aenter__()
        assert caught.value.__cause__ is None  # that was long ago
        for lease in leases:
            await lease.__aexit__(None, None, None)

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


def test_what_a_former_client_says_does_not_touch_its_successor(monkeypatch: Patch) -> None:
    async def work(world: World, pool: ConnectionPool) -> None:
        world.clients[0].refuse()
        await asyncio.sleep(1)
        world.clients[0].become(State.RECONNECTING)
        assert counts(pool) == (1, 1, 0, 0)

    with_pool(monkeypatch, work, min_size=1, max_size=1)


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


def test_jobs_over_a_real_server_survive_cut_connections() -> None:
    """A client is cut while its job runs, and in the pool; what a job left unsettled arrives all the same."""

    async def work() -> None:
        hasty = duolink.Options(backoff_initial=0.01, backoff_cap=0.02)
        async with (
            asyncio.timeout(15),
            duolink.Server(port=0) as server,
            duolink.connect(server.url, client_id="clerk") as clerk,
            ConnectionPool(server.url, client_id="web-{n}", min_size=2, max_size=3, options=hasty) as pool,
        ):
            clerk.on_request(lambda request: request.data + 1)
            heard: set[int] = set()
            complete = asyncio.Event()

            @clerk.on_message
            def take(message: duolink.Message) -> None:
                assert message.data not in heard
                heard.add(message.data)
                if len(heard) == 30:
                    complete.set()

            async def job(number: int) -> int:
                async with pool.acquire(timeout=10) as client:
                    link = client.link("clerk")
                    if number % 3 == 0:
                        client.cut()
                    answer = await link.request(number)
                    await link.send(number)
                    if number % 3 == 1:
                        client.cut()
                assert isinstance(answer, int)
                return answer

            answers = await asyncio.gather(*(job(number) for number in range(30)))
            assert answers == list(range(1, 31)) and pool.in_use == 0 and pool.size <= 3
            await complete.wait()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(work())


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
