"""A pool of clients: a back end borrows one per job."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from random import random
from types import TracebackType
from typing import Any, Final

from duolink.client.address import parse_address
from duolink.client.client import CLOSE_TIMEOUT, DEFAULT_OPTIONS, Client
from duolink.client.driver import Token
from duolink.client.errors import DuolinkError, Refused, Unsettled
from duolink.client.events import Event, State, StateChanged
from duolink.client.slots import Close, Open, Outcome, Slot, Slots, Waiter
from duolink.protocol import codec
from duolink.protocol.backoff import Backoff
from duolink.protocol.options import Options

ACQUIRE_TIMEOUT: Final = 30.0
"""Seconds a borrower waits that says nothing else (HikariCP, SQLAlchemy: 30)."""

IDLE_TIMEOUT: Final = 300.0
"""Seconds after which a client that nobody needed is closed (asyncpg: 300)."""

MAX_SIZE: Final = 10
"""Clients of a pool that says nothing else (HikariCP, asyncpg: 10)."""

MAX_WAITERS: Final = 1000
"""Borrowers that may wait at a time: more could not be served within their time, and learn it at once."""

_log: Final = logging.getLogger("duolink")


class PoolTimeout(DuolinkError, TimeoutError):
    """No client was free in time. Its cause is why the newest attempt to open one failed, where it did."""


class PoolExhausted(DuolinkError):
    """All clients are lent, and as many borrowers wait as may."""


class PoolClosed(DuolinkError):
    """The pool is closed, or about to be, or not open yet."""

    def __init__(self, reason: str = "the pool is closed") -> None:
        super().__init__(reason)


class Lease:
    """One borrowing: entering waits for a client, leaving hands it back. Made by `ConnectionPool.acquire`."""

    __slots__ = ("_entered", "_pool", "_slot", "_timeout")

    def __init__(self, pool: "ConnectionPool", timeout: float | None) -> None:
        self._pool, self._timeout = pool, timeout
        self._entered = False
        self._slot: Slot | None = None

    async def __aenter__(self) -> Client:
        if self._entered:
            raise RuntimeError("a lease is entered once; acquire another one")
        self._entered = True
        self._slot = await self._pool._borrow(self._timeout)
        client: Client = self._slot.client
        return client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            self._pool._give_back(slot)


class ConnectionPool:
    """Clients of one server, lent to one job at a time.

        pool = duolink.ConnectionPool("ws://…", client_id="web-{n}", min_size=2, max_size=50, token=…)
        async with pool:                       # min_size clients online, or Unreachable / Refused
            async with pool.acquire(timeout=1.0) as client:
                await client.link("bob").request(...)

    Never are there more than `max_size` clients, those being opened and closed included. Who comes first is
    served first; the client used last is lent first, so that a surplus over `min_size` lies idle, and is
    closed after `idle_timeout` seconds. What is handed out is online: a client that reconnects is put
    aside until it is, one that is closed is replaced; while the server cannot be reached or refuses, one
    client at a time is tried, with backoff.

    `client_id` holds `{n}`, or is a function of n: 0 … `max_size` - 1. Names are used again, so that
    the server sees few. Another process needs other names.

    A client is handed on as it is. What its links have not settled goes on in the background; handlers,
    listeners and subscriptions that a borrower made are the borrower's to remove.

    All of it belongs to one event loop. The other arguments are those of `connect`.
    """

    def __init__(
        self,
        url: str,
        *,
        client_id: str | Callable[[int], str],
        min_size: int = 1,
        max_size: int = MAX_SIZE,
        max_waiters: int = MAX_WAITERS,
        idle_timeout: float = IDLE_TIMEOUT,
        token: Token = None,
        tls: ssl.SSLContext | None = None,
        close_timeout: float = CLOSE_TIMEOUT,
        options: Options = DEFAULT_OPTIONS,
        _client: Callable[..., Client] = Client,
    ) -> None:
        if not (0 <= min_size <= max_size and max_size >= 1 and max_waiters >= 1 and idle_timeout > 0):
            raise ValueError(
                "a pool needs 0 ≤ min_size ≤ max_size, max_size and max_waiters ≥ 1, idle_timeout > 0"
            )
        self.address = parse_address(url)
        self.close_timeout = close_timeout
        self._ids = _names(client_id, max_size)
        self._make = partial(_client, url, token=token, tls=tls, close_timeout=close_timeout, options=options)
        self._slots = Slots(
            min_size=min_size,
            max_size=max_size,
            max_waiters=max_waiters,
            idle_timeout=idle_timeout,
            backoff=Backoff(options.backoff_initial, options.backoff_factor, options.backoff_cap),
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: asyncio.Future[None] | None = (
            None  # set: the first min_size are online, or one has failed
        )
        self._opened = 0
        self._failure: Exception | None = None  # of the newest attempt to open a client, if it failed
        self._unready: Exception | None = None  # why the pool could not be opened
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._tasks: set[asyncio.Task[None]] = set()  # one for each client being opened or closed
        # Those that have begun: a task cancelled before would leave its slot as it is.
        self._openings: set[asyncio.Task[Any] | None] = set()
        self._closings: set[asyncio.Task[Any] | None] = set()
        self._drained: asyncio.Future[None] | None = None  # set: nobody has or wants a client
        self._closing: asyncio.Task[None] | None = None
        self._closed = self._hurried = False
        self._abandoned = 0  # messages that clients left before they were safe

    # --- what there is -------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Clients there are, those being opened and closed included."""
        return self._slots.size

    @property
    def idle(self) -> int:
        """Clients that could be lent at once."""
        return self._slots.idle

    @property
    def in_use(self) -> int:
        """Clients that are lent."""
        return self._slots.in_use

    @property
    def waiting(self) -> int:
        """Borrowers that wait."""
        return self._slots.waiting

    # --- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Bring `min_size` clients online. Raises `Unreachable` or `Refused` when the first of them fails,
        with nothing left behind; a pool can be opened once."""
        if self._loop is not None or self._closed:
            raise PoolClosed("a pool is opened once; make another one")
        self._loop = asyncio.get_running_loop()
        ready = self._ready = self._loop.create_future()
        self._slots.start(self._loop.time())
        self._turn()
        self._warmed()
        try:
            await ready
            if self._unready is not None:
                raise self._unready
        except BaseException:
            self._hurry()
            with suppress(Unsettled):
                await self.close()
            raise

    async def close(self) -> None:
        """Refuse new borrowers, wait up to `close_timeout` seconds for those who have or await a client, then
        close all clients together: each has as long to make safe what was sent on it.

        Raises `Unsettled` with the sum of what the pool's clients left unsafe. Repeating is harmless.
        Cancelled, it waits for nothing more, but still says goodbye and releases everything.
        """
        self._closed = True
        if self._loop is None:
            return
        if self._closing is None:
            self._closing = self._loop.create_task(self._leave(), name="duolink pool close")
        closing = self._closing
        try:
            await asyncio.wait([closing])
        except asyncio.CancelledError:
            closing.cancel()
            await asyncio.wait([closing])
            raise
        if self._abandoned:
            raise Unsettled(self._abandoned)

    async def __aenter__(self) -> "ConnectionPool":
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and not isinstance(error, Exception):
                self._hurry()
            elif error is not None:
                self._turn_away()
            await self.close()
        except Unsettled:
            if error is None:
                raise

    # --- borrowing -----------------------------------------------------------------------------

    def acquire(self, timeout: float | None = ACQUIRE_TIMEOUT) -> Lease:
        """Borrow a client for the length of an `async with`.

        `timeout` in seconds; None waits as long as it takes. Entering raises `PoolTimeout`, `PoolExhausted`
        (too many wait) or `PoolClosed`; `RuntimeError` on another event loop. The client was online when it
        was lent; what happens to it later its methods tell.
        """
        return Lease(self, timeout)

    async def _borrow(self, patience: float | None) -> Slot:
        loop = self._loop
        if self._closed or loop is None:
            raise PoolClosed() if self._closed else PoolClosed("the pool is not open yet")
        if asyncio.get_running_loop() is not loop:
            raise RuntimeError("a pool lends its clients on the event loop that opened it")
        slot = self._slots.lend()
        if slot is not None:
            return slot
        waiter = self._slots.enqueue(loop.time())
        if waiter is None:
            raise PoolExhausted(f"{self.in_use} clients are lent, and {self.waiting} borrowers wait already")
        expiry = None if patience is None else loop.call_later(patience, self._expire, waiter)
        try:
            self._turn()
            # Waking is only a hint: what it was granted may be gone again, or something else be granted.
            while waiter.outcome is Outcome.PENDING:
                waiter.wake = loop.create_future()
                await waiter.wake
        except BaseException:
            self._slots.withdraw(waiter, loop.time())
            self._turn()
            raise
        finally:
            if expiry is not None:
                expiry.cancel()
        if waiter.outcome is Outcome.GRANTED:
            return self._slots.take(waiter)
        if waiter.outcome is Outcome.CLOSED:
            raise PoolClosed()
        failure = f"; opening one failed: {self._failure}" if self._failure is not None else ""
        raise PoolTimeout(f"no client was free within {patience:g} s{failure}") from self._failure

    def _give_back(self, slot: Slot) -> None:
        assert self._loop is not None
        self._slots.release(slot, self._loop.time())
        self._turn()

    def _expire(self, waiter: Waiter) -> None:
        self._slots.expire(waiter)
        self._turn()

    # --- the slots' turn -----------------------------------------------------------------------

    def _turn(self) -> None:
        """Carry out what the slots ask, and arm their timer."""
        slots = self._slots
        while slots.actions:
            action = slots.actions.popleft()
            if isinstance(action, Open):
                self._spawn(self._open(action.slot))
            elif isinstance(action, Close):
                self._spawn(self._close(action.slot))
            elif action.waiter.wake is not None and not action.waiter.wake.done():
                action.waiter.wake.set_result(None)
        if self._drained is not None and not self._drained.done() and self._is_drained():
            self._drained.set_result(None)
        at = slots.next_timer()
        if at < self._timer_at:  # one that fires early is armed anew then
            assert self._loop is not None
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._time)

    def _time(self) -> None:
        assert self._loop is not None
        self._timer, self._timer_at = None, inf
        self._slots.poll(self._loop.time())
        self._turn()

    def _spawn(self, work: Any) -> None:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- clients -------------------------------------------------------------------------------

    async def _open(self, slot: Slot) -> None:
        assert self._loop is not None
        self._openings.add(task := asyncio.current_task())
        try:
            if self._slots.over:
                raise PoolClosed()
            slot.client = client = self._make(self._ids[slot.number])
            client.on_event(partial(self._heard, slot, client))
            await client.open()
        except BaseException as error:
            slot.client = None
            self._slots.failed(slot, self._loop.time(), random())
            if isinstance(error, Exception):
                self._failed(slot, error)
            else:
                raise
        else:
            self._opened += 1
            self._failure = None
            self._slots.opened(slot, self._loop.time())
            self._warmed()
        finally:
            self._openings.discard(task)
            self._turn()

    async def _close(self, slot: Slot) -> None:
        assert self._loop is not None
        self._closings.add(task := asyncio.current_task())
        try:
            slot.client.close_timeout = self.close_timeout
            await slot.client.close()
        except Unsettled as error:
            self._abandoned += error.count
        finally:
            slot.client = None
            self._slots.closed(slot, self._loop.time())
            self._closings.discard(task)
            self._turn()

    def _heard(self, slot: Slot, client: Client, event: Event) -> None:
        if type(event) is not StateChanged or slot.client is not client:
            return
        assert self._loop is not None
        now = self._loop.time()
        if event.state is State.ONLINE:
            self._slots.recovered(slot, now)
        elif event.state is State.CLOSED:
            ending = client.ending
            refused = isinstance(ending, Refused)
            if self._slots.ended(slot, refused, now, random()) and isinstance(ending, Refused):
                self._failed(slot, ending)
        else:
            self._slots.lapsed(slot, now)
        self._turn()

    def _warmed(self) -> None:
        if self._ready is not None and not self._ready.done() and self._opened >= self._slots.min_size:
            self._ready.set_result(None)

    def _failed(self, slot: Slot, error: Exception) -> None:
        self._failure = error
        if self._ready is not None and not self._ready.done():
            self._unready = error
            self._ready.set_result(None)
        elif not self._slots.over:
            _log.warning("%s: not online: %r", self._ids[slot.number], str(error))

    # --- leaving -------------------------------------------------------------------------------

    def _is_drained(self) -> bool:
        return not self._slots.in_use and not self._slots.waiting

    def _turn_away(self) -> None:
        """No borrower gets anything any more."""
        self._closed = True
        self._slots.turn_away()
        self._turn()

    def _hurry(self) -> None:
        """Who is cancelled or interrupted wants to be gone; acknowledgements and goodbye still go out."""
        if self._hurried:
            return
        self._hurried = True
        self.close_timeout = 0.0
        self._turn_away()
        _cancel(self._closings)

    async def _leave(self) -> None:
        self._slots.drain()
        try:
            if not self._is_drained():
                assert self._loop is not None
                self._drained = self._loop.create_future()
                await asyncio.wait([self._drained], timeout=self.close_timeout)
        except asyncio.CancelledError:
            self._hurry()
        self._slots.end()
        _cancel(self._openings)
        self._turn()
        while self._tasks:
            try:
                await asyncio.wait(list(self._tasks))
            except asyncio.CancelledError:
                self._hurry()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        return (
            f"<ConnectionPool at {self.address.url}: {self.size} clients, {self.idle} idle, "
            f"{self.in_use} lent, {self.waiting} waiting>"
        )


def _cancel(tasks: set[asyncio.Task[Any] | None]) -> None:
    for task in list(tasks):
        if task is not None:
            task.cancel()


def _names(client_id: str | Callable[[int], str], count: int) -> tuple[str, ...]:
    if callable(client_id):
        names = tuple(client_id(number) for number in range(count))
    else:
        names = tuple(client_id.replace("{n}", str(number)) for number in range(count))
    for name in names:
        if not codec.is_client_id(name):
            raise ValueError(f"{name!r} cannot be a client id")
    if len(set(names)) < count:
        raise ValueError(f"{count} clients need as many names: put {{n}} into client_id")
    return names
