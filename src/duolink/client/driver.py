"""The asyncio driver of a session: callbacks feed the machine, one timer wakes it, one flush per loop
turn carries out what it asks. It has no task, except while a transport is being opened."""

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from duolink.client.errors import CommandFailed, Forked, JournalError
from duolink.client.stream import interrupted
from duolink.client.transport import CLOSE_TIMEOUT, CONNECT_TIMEOUT, Dial, HandshakeRefused, Transport
from duolink.protocol import limits
from duolink.protocol.codes import CloseCode
from duolink.protocol.events import Action, Answered, Close, Event, Open, State, StateChanged
from duolink.protocol.ledger import Ledger
from duolink.protocol.messages import Message, Refresh, Refreshed
from duolink.protocol.outbound import Outgoing
from duolink.protocol.payload import Send
from duolink.protocol.records import Changes
from duolink.protocol.session import Session

if TYPE_CHECKING:
    from duolink.client.journal import Journal

Token = str | Callable[[], str | Awaitable[str]] | None
"""A token, or what returns a fresh one whenever the client connects or the old one is about to end."""

CLOCK_LOOK: Final = 5.0
"""Longest time in seconds between two comparisons of the clocks: a machine that wakes up asks for life
this soon."""

REFRESH_MARGIN: Final = 60.0
"""Seconds before its end at which a token is replaced; a quarter of its life if that is shorter."""


class Driver:
    """Runs a session. `deliver` gets its events, `writable` is called when applications may go on
    sending, `report` gets what went wrong in the background, `kept` what the journal has."""

    def __init__(
        self,
        session: Session,
        dial: Dial,
        token: Token,
        *,
        deliver: Callable[[Event], None],
        writable: Callable[[], None],
        report: Callable[[str, BaseException], None],
        kept: Callable[[Outgoing], None] = lambda entry: None,
    ) -> None:
        self.session = session
        self.journal_error: JournalError | None = None
        self.loop = asyncio.get_running_loop()
        self._dial, self._token = dial, token
        self._deliver, self._writable, self._report, self._kept = deliver, writable, report, kept
        self._journal: Journal | None = None
        self._ledger: Ledger | None = None
        self._transport: Transport | None = None
        self._sockets: set[Transport] = set()  # not gone yet: the current one, and those that are closing
        self._opening: asyncio.Task[None] | None = None
        self._fresh_token = ""
        self._online_at = 0.0
        self._renewal: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._flushing: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._gone: asyncio.Future[None] | None = None
        self._clocks = time.time() - self.loop.time()
        self._pid = os.getpid()

    # --- the application's side ----------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether the transport holds more than it should: no new messages now."""
        return self._transport is not None and self._transport.congested

    @property
    def idle(self) -> bool:
        """Whether nothing is left of it: no socket, timer or task."""
        handles = (self._opening, self._timer, self._flushing, self._renewal, self._renewing)
        return not self._sockets and not any(handles)

    def check(self) -> None:
        """Raise `Forked` in a child process."""
        if os.getpid() != self._pid:
            raise Forked("the client was connected in another process; connect anew")

    def now(self) -> float:
        """The machine's clock."""
        return self.loop.time()

    async def open_journal(self, path: str) -> None:
        """Keep a journal, and go on with what it holds. Before `start`; raises `JournalError`."""
        from duolink.client.journal import Journal  # SQLite is loaded by those who need it

        self._journal = Journal(
            path, self.session.client_id, kept=self._journaled, failed=self._journal_failed
        )
        self._ledger = Ledger(await self._journal.open(self._clocks))

    def start(self) -> None:
        """Begin to connect."""
        if self.session.state is State.CLOSED:
            return  # left while the journal was being opened
        self.session.start(self.now(), self._ledger)
        self.flush()

    def flush(self) -> None:
        """Have what the application gave the session sent, together with the rest of this loop turn."""
        if self._flushing is None and not self.loop.is_closed():
            self._flushing = self.loop.call_soon(self._flush)

    async def token(self) -> str:
        """Return a token to present now."""
        token = self._token
        if callable(token):
            answer = token()
            token = await answer if inspect.isawaitable(answer) else answer
        return token or ""

    def cut(self) -> None:
        """Cut the connection off as a network would: the session resumes on another one."""
        if self._transport is not None:
            self._transport.abort()

    async def stop(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Leave in order, and return when nothing is left: no task, timer or socket."""
        if self._journal is None:
            await self._stop(code, reason)
            return
        try:
            self._turn()  # what is finished is acknowledged when the journal has it
            await self._journal.settled()
        finally:
            try:
                await self._stop(code, reason)
            finally:
                await self._journal.close()

    async def _stop(self, code: int, reason: str) -> None:
        self.session.close(self.now(), code, reason)
        self._turn()
        tasks = [task for task in (self._opening, self._renewing) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        try:
            await self._wait_gone()
        finally:
            for transport in list(self._sockets):
                transport.abort()
        await self._wait_gone()
        for handle in (self._timer, self._flushing, self._renewal):
            if handle is not None:
                handle.cancel()
        self._timer = self._flushing = self._renewal = self._opening = self._renewing = None

    async def _wait_gone(self) -> None:
        if self._sockets:
            self._gone = self.loop.create_future()
            await asyncio.wait([self._gone], timeout=CLOSE_TIMEOUT)
            self._gone = None

    # --- the machine's turn --------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushing = None
        self._turn()

    def _turn(self) -> None:
        """Let the machine do what is due, carry out what it asks, tell what happened."""
        if os.getpid() != self._pid:
            return  # a forked child: the socket belongs to the parent
        session = self.session
        now = self.loop.time()
        self._look_at_clocks(now)
        for action in session.take(now):
            self._act(action)
        if self._journal is not None:
            self._keep(self._journal)
        for event in session.events():
            if type(event) is StateChanged and event.state is State.ONLINE:
                self._online_at = now
                self._plan_renewal(session.welcome.expires if session.welcome is not None else 0)
            if type(event) is Answered and event.context is self:
                self._renewed(event.answer)
            else:
                self._deliver(event)
        self._arm(session.next_timer(now), now)

    def _keep(self, journal: "Journal") -> None:
        changes = self.session.changes()
        if changes is not None:
            journal.keep(changes, self._clocks)

    def _journaled(self, changes: Changes) -> None:
        self.session.kept(changes, self.now())
        for lane in changes.lanes:
            for entry in lane.entries:
                self._kept(entry)
        if self.session.state is not State.CLOSED:
            self.flush()

    def _journal_failed(self, error: JournalError) -> None:
        # What cannot be kept must not leave.
        self.journal_error = error
        self._report("journal", error)
        self.session.close(self.now(), CloseCode.INTERNAL_ERROR, "the journal cannot be written")
        self._turn()

    def _act(self, action: Action) -> None:
        if type(action) is Send:
            if self._transport is not None:
                self._transport.send(action.payload, action.binary)
        elif type(action) is Open:
            self._opening = self.loop.create_task(self._open(), name="duolink connect")
        elif type(action) is Close:
            transport, self._transport = self._transport, None
            if transport is not None:
                transport.close(action.code, action.reason)
            elif self._opening is not None:
                self._opening.cancel()

    def _look_at_clocks(self, now: float) -> None:
        clocks = time.time() - now
        if abs(clocks - self._clocks) > limits.CLOCK_JUMP:
            self.session.network_changed(now)
        self._clocks = clocks

    def _arm(self, at: float, now: float) -> None:
        if self.session.state is State.CLOSED:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        at = min(at, now + CLOCK_LOOK)
        if self._timer is not None:
            if self._timer_at <= at:
                return  # it fires early, and is armed anew then
            self._timer.cancel()
        self._timer_at = at  # uvloop's handle of a timer that is due at once does not know its time
        self._timer = self.loop.call_at(at, self._time)

    def _time(self) -> None:
        self._timer = None
        self._turn()
        self._writable()  # what has expired has made room; a congested connection may have gone

    # --- opening -------------------------------------------------------------------------------

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                self._fresh_token = await self._fetch()
                await self._dial(self)
        except HandshakeRefused as error:
            final = error.final and self.session.welcome is None
            self._failed(CloseCode.POLICY_VIOLATION if final else CloseCode.ABNORMAL, str(error))
        except TimeoutError:
            self._failed(CloseCode.ABNORMAL, f"no connection within {CONNECT_TIMEOUT:g} s")
        except OSError as error:
            self._failed(CloseCode.ABNORMAL, _explain(error))
        except _TokenFailed as failed:
            self._report("token", failed.error)
            self._failed(CloseCode.ABNORMAL, f"no token: {failed.error}")
        except Exception as error:
            self._failed(CloseCode.ABNORMAL, str(error))
        else:
            self._opening = None

    async def _fetch(self) -> str:
        try:
            return await self.token()
        except (Exception, asyncio.CancelledError) as error:
            if interrupted():
                raise
            raise _TokenFailed(error) from error

    def _failed(self, code: int, reason: str) -> None:
        self._opening = None
        self.session.lost(code, reason, self.now())
        self._turn()

    # --- renewing the token --------------------------------------------------------------------

    def _plan_renewal(self, expires: int) -> None:
        """The token ends at that time of the server's clock, in milliseconds; 0: never."""
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        welcome = self.session.welcome
        if not expires or not callable(self._token) or welcome is None:
            return
        now = self.now()
        life = (expires - welcome.time) / 1000 - (now - self._online_at)
        if life > 0:
            self._renewal = self.loop.call_at(now + life - min(REFRESH_MARGIN, life / 4), self._renew)

    def _renew(self) -> None:
        self._renewal = None
        if self.session.state is State.ONLINE and self._renewing is None:
            self._renewing = self.loop.create_task(self._ask_renewal(), name="duolink token")

    async def _ask_renewal(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                token = await self._fetch()
            self.session.command(Refresh(id=0, token=token), self, self.now())
            self.flush()
        except TimeoutError as error:  # the application's; at the token's end the server hangs up
            self._report("token", error)
        except _TokenFailed as failed:
            self._report("token", failed.error)
        finally:
            self._renewing = None

    def _renewed(self, answer: Message) -> None:
        if type(answer) is Refreshed:
            self._plan_renewal(answer.expires)
        elif self.session.state is not State.CLOSED:
            self._report("token", CommandFailed(getattr(answer, "code", ""), getattr(answer, "message", "")))

    # --- TransportUser -------------------------------------------------------------------------

    def opened(self, transport: Transport) -> None:
        """See `TransportUser`."""
        self._sockets.add(transport)
        if self.session.state is State.CLOSED or self._transport is not None:
            transport.abort()
            return
        self._transport = transport
        self.session.commands.forget(self)  # a refresh: the hello has a fresher token
        self.session.opened(self._fresh_token, self.now())
        self._turn()

    def received(self, transport: Transport, payload: bytes, binary: bool) -> None:
        """See `TransportUser`."""
        if transport is self._transport:
            self.session.received(payload, binary, self.now())

    def batch_ended(self, transport: Transport) -> None:
        """See `TransportUser`."""
        if transport is self._transport:
            self._turn()

    def alive(self, transport: Transport) -> None:
        """See `TransportUser`."""
        if transport is self._transport:
            self.session.alive(self.now())

    def writable(self, transport: Transport) -> None:
        """See `TransportUser`."""
        if transport is self._transport:
            self._writable()

    def closed(self, transport: Transport, code: int, reason: str) -> None:
        """See `TransportUser`."""
        if transport is self._transport:
            self._transport = None
            self.session.lost(code, reason, self.now())
            self._turn()

    def gone(self, transport: Transport) -> None:
        """See `TransportUser`."""
        self._sockets.discard(transport)
        if self._gone is not None and not self._sockets and not self._gone.done():
            self._gone.set_result(None)


class _TokenFailed(Exception):
    """The application's function for tokens has raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _explain(error: OSError) -> str:
    """Return what a person wants to read of it."""
    inner: Any = error.__cause__ or error
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
