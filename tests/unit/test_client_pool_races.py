"""The pool of clients: what is cancelled, expires, breaks or is closed in between; a test for each order."""

import asyncio
from random import Random

import pytest
from tests.unit.client_world import play, turns
from tests.unit.pool_world import Borrower, World, counts, with_pool

from duolink import State, Unreachable, Unsettled
from duolink.client.pool import ConnectionPool, PoolClosed, PoolTimeout

Patch = pytest.MonkeyPatch


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
        waiter = Borrower(pool, 10_000)  # beyond the end of the test
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


def test_cancelled_again_while_leaving_cancelled(monkeypatch: Patch) -> None:
    """The second one does not wait; what is left closes by itself."""

    async def body() -> None:
        world = World(monkeypatch)
        pool = world.pool(min_size=2)

        async def use() -> None:
            async with pool:
                await asyncio.Event().wait()

        using = asyncio.create_task(use())
        await turns()
        using.cancel()
        await asyncio.sleep(0)
        for _ in range(2):
            using.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([using])
        assert using.cancelled()
        await pool.close()
        assert not world.there

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
