"""A client: one named process on a server, with its links and channels."""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from random import random
from types import TracebackType
from typing import Any, Final
from weakref import WeakSet, WeakValueDictionary

from msgspec import Raw

from duolink.client.address import parse_address
from duolink.client.channel import Channel
from duolink.client.driver import Driver, Token
from duolink.client.errors import (
    ClientClosed,
    CommandFailed,
    CommandTimeout,
    Conflict,
    InvalidData,
    JournalError,
    Refused,
    Unreachable,
    Unsettled,
)
from duolink.client.events import Event, HandlerFailed, MessagesLost, Trouble
from duolink.client.link import ENVELOPE, Link, MessageHandler
from duolink.client.message import Sent, encode
from duolink.client.once import Once
from duolink.client.outbox import Outbox
from duolink.client.requests import Requests
from duolink.client.stream import EventStream, Item, MessageStream, Post, Pump
from duolink.client.subscription import Subscription
from duolink.client.transport import Dial, dialler
from duolink.protocol import codec, limits
from duolink.protocol.codes import ErrorCode, may_reconnect
from duolink.protocol.commands import Command
from duolink.protocol.events import (
    Answered,
    EphemeralReceived,
    FromLink,
    ProtocolTrouble,
    SignalReceived,
    State,
    StateChanged,
)
from duolink.protocol.events import Event as SessionEvent
from duolink.protocol.link import Link as Machine
from duolink.protocol.messages import (
    Ephemeral,
    Error,
    Publication,
    Signal,
    Welcome,
)
from duolink.protocol.options import Options
from duolink.protocol.session import Session, TooManyLinks

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that leaving a client waits for what is not safe yet."""

COMMAND_TIMEOUT: Final = 60.0
"""Seconds a command waits for the server's answer, connections lost and regained included."""

DEFAULT_OPTIONS: Final = Options()
"""How a client connects that says nothing else."""

_log: Final = logging.getLogger("duolink")


class Client:
    """One client process on a server. Made by `connect`, used as an asynchronous context manager; inside
    it is online, or on its way back. All of it belongs to one event loop."""

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        token: Token = None,
        tls: ssl.SSLContext | None = None,
        close_timeout: float = CLOSE_TIMEOUT,
        journal: str | os.PathLike[str] | None = None,
        options: Options = DEFAULT_OPTIONS,
        dial: Dial | None = None,
    ) -> None:
        self.address = parse_address(url)
        self.close_timeout = close_timeout
        self._journal = os.fspath(journal) if journal is not None else None
        self._session = Session(client_id, random=random, options=options)
        self._token = token
        self._dial = dial or dialler(self.address, tls)
        self._driver: Driver | None = None
        self._online: asyncio.Future[None] | None = None
        self._final: StateChanged | None = None  # how it ended
        self._leaving: asyncio.Future[None] | None = None  # set: something may have become safe
        self._closing: asyncio.Task[None] | None = None
        self._links: dict[str, Link] = {}
        self._channels: dict[str, Channel] = {}
        self._subscriptions: WeakValueDictionary[str, Subscription] = WeakValueDictionary()
        self._post = Post()
        self._pump: Pump | None = None
        self._on_request: MessageHandler | None = None
        self._requests = Requests(self)
        self._commands = asyncio.Semaphore(limits.MAX_PENDING - 1)  # one is the driver's, for its token
        self._names = 0
        self._outbox = Outbox(self)
        self._once = Once(self)
        self._listeners: list[Callable[[Event], Any]] = []
        self._events: WeakSet[EventStream[Event]] = WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life ----------------------------------------------------------------------------------

    @property
    def client_id(self) -> str:
        """Its name on the server."""
        return self._session.client_id

    @property
    def state(self) -> State:
        """idle, connecting, online, reconnecting, offline or closed."""
        return self._session.state

    @property
    def welcome(self) -> Welcome | None:
        """What the server said at the newest hello: limits, heartbeat, whether it stores."""
        return self._session.welcome

    @property
    def restored(self) -> list[Sent]:
        """What the process before had sent and not seen the end of, oldest first for each peer; known once
        this one is online, and empty without a journal. They go their way whether or not anybody waits."""
        return list(self._outbox.restored)

    @property
    def ending(self) -> ClientClosed | None:
        """Why it is closed, as its methods raise it; None while it is not."""
        return self._ending() if self._ended else None

    async def open(self) -> None:
        """Connect. Raises `Unreachable`, `Refused` or `JournalError`; a client can be opened once."""
        if self._driver is not None:
            raise ClientClosed("a client is opened once; make another one")
        self._driver = Driver(
            self._session,
            self._dial,
            self._token,
            deliver=self._deliver,
            writable=self._admit,
            report=self._report,
            kept=self._outbox.kept,
        )
        self._online = asyncio.get_running_loop().create_future()
        try:
            if self._journal is not None:
                await self._driver.open_journal(self._journal)
            self._driver.start()
            await self._online
        except BaseException:
            await self._release()
            raise
        if self._final is not None:
            await self._release()
            raise self._failure(self._final)

    async def close(self) -> None:
        """Leave: wait up to `close_timeout` seconds until everything sent is safe, send what
        acknowledgements are owed, say goodbye, and release everything.

        Raises `Unsettled` when not everything was safe in time; not with a journal, which keeps it for the
        next process. Repeating gives the same answer.
        """
        if self._driver is None:
            return
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._leave(), name="duolink close")
        closing = self._closing
        self._tasks.discard(asyncio.current_task())  # a handler that closes goes on
        try:
            await asyncio.wait([closing])
        except asyncio.CancelledError:
            closing.cancel()  # whoever else waits for it is not cancelled
            await asyncio.wait([closing])
            raise
        if not closing.cancelled():
            closing.result()
        if self._outbox.abandoned:
            raise Unsettled(self._outbox.abandoned)

    async def __aenter__(self) -> "Client":
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closing is not None and self._closing.done():
            return  # who has closed it has heard how that went
        try:
            # Who is cancelled or interrupted wants to be gone; acknowledgements and goodbye still go out.
            if error is not None and not isinstance(error, Exception):
                self.close_timeout = 0.0
            await self.close()
        except Unsettled:
            if error is None:
                raise

    def cut(self) -> None:
        """Cut the connection off, as a network would; the client comes back by itself. For tests and
        demonstrations."""
        if self._driver is not None:
            self._driver.cut()

    async def _leave(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.close_timeout
        try:
            while not self._all_safe() and loop.time() < deadline:
                self._leaving = loop.create_future()
                await asyncio.wait([self._leaving], timeout=deadline - loop.time())
        finally:
            self._leaving = None
            await self._release()

    def _all_safe(self) -> bool:
        if self.state is State.CLOSED:
            return True
        if self._outbox.unsafe or any(link._queued for link in self._links.values()):
            return False
        return self.state is State.ONLINE or not any(
            machine.owes_acks for machine in self._session.links.values()
        )

    async def _release(self) -> None:
        """End the session and everything that belongs to it."""
        assert self._driver is not None
        await self._driver.stop()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- links and channels --------------------------------------------------------------------

    def link(self, peer: str, *, watch: bool = True) -> Link:
        """Return the link to a peer. `watch`: hear of its state.

        Raises `ValueError` for what cannot be a peer, or when as many peers are watched as the server
        allows (then pass `watch=False`), `ClientClosed`.
        """
        self._check_open()
        try:
            self._session.link(peer)
        except TooManyLinks as error:
            raise ValueError(str(error)) from None
        if watch and peer[:1] != "@" and peer not in self._session.watched:
            welcome = self._session.welcome
            most = welcome.limits.watched if welcome is not None else limits.MAX_WATCHED
            if len(self._session.watched) >= most:
                raise ValueError(f"{most} peers are watched already; pass watch=False")
            self._session.watch(peer)
            self._flush()
        return self._link(peer)

    def unwatch(self, peer: str) -> None:
        """Hear no more of a peer's state, which makes room for another's. Its link goes on."""
        self._session.unwatch(peer)
        self._flush()

    def channel(self, name: str) -> Channel:
        """Return a channel. Raises `ValueError` for what cannot be its name."""
        channel = self._channels.get(name)
        if channel is None:
            if not codec.is_id(name, limits.MAX_CHANNEL):
                raise ValueError(f"{name!r} cannot be a channel")
            channel = self._channels[name] = Channel(self, name)
        return channel

    def messages(self, *, acks: str = "auto", losses: bool = False) -> MessageStream:
        """Iterate over the messages of all peers that have no reader of their own, first contacts
        included. See `Link.messages`."""
        return MessageStream(self, None, acks, losses)

    def on_message(self, handler: MessageHandler | None) -> MessageHandler | None:
        """Hand the messages of all peers without a reader of their own to a function; see
        `Link.on_message`."""
        self._pump = self._replace_pump(self._pump, None, handler)
        return handler

    def on_request(self, handler: MessageHandler | None) -> MessageHandler | None:
        """Answer the requests of peers whose link has no such handler. See `Link.on_request`."""
        self._on_request = handler
        if handler is not None:
            for link in list(self._links.values()):
                if link._on_request is None:
                    self._requests.serve_held(link, handler)
        return handler

    # --- events --------------------------------------------------------------------------------

    def events(self) -> EventStream[Event]:
        """Iterate over what happens from now on; ends when the client is closed."""
        return EventStream(self._events, self._ended)

    def on_event(self, listener: Callable[[Event], Any]) -> Callable[[], None]:
        """Have a function (no coroutine function: see `events`) called for every event. Returns a function
        that stops it."""
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    # --- for links, channels and streams -------------------------------------------------------

    @property
    def _ended(self) -> bool:
        return self._session.state is State.CLOSED

    def _now(self) -> float:
        assert self._driver is not None
        return self._driver.now()

    def _check_open(self) -> None:
        """Raise `ClientClosed` (or what it is in detail) when the client cannot be used."""
        if self._ended:
            raise self._ending()
        if self._driver is None or self._session.welcome is None:
            raise ClientClosed("the client is not open yet")
        self._driver.check()

    def _check_stream(self) -> None:
        """End an iteration when the client is closed: quietly by its own user, else by raising."""
        if not self._ended:
            return
        ending = self._ending()
        if isinstance(ending, Refused | JournalError):
            raise ending
        raise StopAsyncIteration

    def _ending(self) -> ClientClosed:
        if self._driver is not None and self._driver.journal_error is not None:
            return self._driver.journal_error
        final = self._final
        if final is not None and not may_reconnect(final.code):
            return Refused(final.code, final.reason, final.error)
        return ClientClosed()

    def _failure(self, final: StateChanged) -> Exception:
        ending = self._ending()
        if isinstance(ending, Refused | JournalError) or self._closing is not None:
            return ending
        return Unreachable(self.address.url, final.reason or "no answer")

    def _driver_congested(self) -> bool:
        return self._driver is not None and self._driver.congested

    def _flush(self) -> None:
        if self._driver is not None and not self._ended:
            self._driver.flush()

    def _touched(self, machine: Machine) -> None:
        self._session.touch(machine)
        self._flush()

    def _numbered(self, machine: Machine) -> None:
        self._outbox.unsafe += 1
        self._touched(machine)

    def _admit(self) -> None:
        for link in list(self._links.values()):
            link._admit()

    def _encode(self, value: Any) -> tuple[Raw, bool]:
        data, binary = encode(value)
        welcome = self._session.welcome
        most = (welcome.limits.message if welcome is not None else limits.MAX_MESSAGE) - ENVELOPE
        if len(bytes(data)) > most:
            raise InvalidData(f"{len(bytes(data))} bytes are too large; {most} may travel in one message")
        return data, binary

    def _send_once(self, message: Signal | Ephemeral) -> bool:
        self._check_open()
        if self._driver_congested() or not self._session.send(message):
            return False
        self._flush()
        return True

    async def _command(self, message: Command, patience: float) -> tuple[Any, tuple[Publication, ...]]:
        """Give the server a command; return its answer. Raises `CommandFailed`, `CommandTimeout`,
        `ClientClosed`."""
        self._check_open()
        answer: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(patience), self._commands:
                self._check_open()
                self._session.command(message, answer, self._now())
                self._flush()
                answered = await answer
        except TimeoutError:
            raise CommandTimeout(f"no answer from the server within {patience:g} s") from None
        finally:
            self._session.commands.forget(answer)
        if isinstance(answered.answer, Error):
            if self._ended:
                raise self._ending()
            if answered.answer.code == ErrorCode.CONFLICT:
                raise Conflict(answered.answer.version)
            raise CommandFailed(answered.answer.code, answered.answer.message)
        return answered.answer, answered.publications

    def _new_name(self) -> str:
        self._names += 1
        ledger = self._session.ledger  # with a journal, a run has several processes, each with its names
        life = f"{ledger.life:x}-" if ledger is not None else ""
        return f"{self._session.run:x}-{life}{self._names:x}"

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _replace_pump(self, pump: Pump | None, inbox: Any, handler: MessageHandler | None) -> Pump | None:
        if handler is None:
            if pump is not None:
                pump.stop(None)
            return None
        self._check_open()
        new = Pump(self, inbox, handler)
        if pump is not None:
            pump.stop(new)
        self._post.claim(inbox, new)
        return new

    def _link(self, peer: str) -> Link:
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = Link(self, peer)
        return link

    def _put(self, peer: str, item: Item) -> None:
        overflow = self._post.put(peer, item)
        if overflow is not None:
            self._tell(overflow)

    # --- what happened -------------------------------------------------------------------------

    def _may_leave(self) -> None:
        """Somebody who leaves is to look whether all is safe."""
        if self._leaving is not None and not self._leaving.done():
            self._leaving.set_result(None)

    def _deliver(self, event: SessionEvent) -> None:
        if isinstance(event, FromLink):
            self._link(event.peer)._event(event.event, event.user)
        elif isinstance(event, StateChanged):
            self._changed(event)
        elif isinstance(event, Answered):
            if not event.context.done():
                event.context.set_result(event)
        elif isinstance(event, EphemeralReceived):
            self._once.ephemeral(event.ephemeral)
        elif isinstance(event, SignalReceived):
            self._once.signal(event.signal)
        elif isinstance(event, ProtocolTrouble):
            self._trouble(event.code, event.reason)
        else:
            subscription = self._subscriptions.get(event.channel)
            if subscription is not None:
                subscription._event(event)
        self._may_leave()

    def _changed(self, change: StateChanged) -> None:
        if change.state is State.CLOSED:
            self._final = change
            self._end()
        elif self._online is not None and not self._online.done():
            self._outbox.adopt()
        self._tell(change)
        if change.state is State.CLOSED:
            for stream in list(self._events):
                stream.end()
        if self._online is not None and not self._online.done() and change.state is not State.CONNECTING:
            self._online.set_result(None)

    def _end(self) -> None:
        """Tell everybody who waits."""
        self._requests.end(self._ending())
        self._outbox.end(self._ending())
        for link in self._links.values():
            link._end()
        for subscription in list(self._subscriptions.values()):
            subscription._end()
        self._post.wake()

    def _tell(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception as error:
                self._log_failure("event listener", error)
        for stream in list(self._events):
            stream.put(event)

    def _trouble(self, code: str, reason: str) -> None:
        _log.warning("%s: %s: %s", self.client_id, code, reason)
        self._tell(Trouble(code, reason))

    def _report(self, what: str, error: BaseException) -> None:
        """An application's function raised: say so, and go on."""
        self._log_failure(what, error)
        self._tell(HandlerFailed(what, error))

    def _log_failure(self, what: str, error: BaseException) -> None:
        context = {"message": f"duolink: a {what} of {self.client_id} raised", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)

    def __repr__(self) -> str:
        return f"<Client {self.client_id!r} at {self.address.url}, {self.state}>"


def connect(
    url: str,
    *,
    client_id: str,
    token: Token = None,
    tls: ssl.SSLContext | None = None,
    close_timeout: float = CLOSE_TIMEOUT,
    journal: str | os.PathLike[str] | None = None,
    options: Options = DEFAULT_OPTIONS,
) -> Client:
    """Return a client, to be entered with `async with`.

    `url` is `ws://`, `wss://` (without a path: `/ws`), `tcp://` or `tcps://`. `token` is a string, or a
    function (a coroutine function too) that returns a fresh one; it is asked at every connect and
    before the old one ends. `tls` replaces the default context. Entering raises `Unreachable` or
    `Refused`; leaving waits up to `close_timeout` seconds until everything sent is safe, else raises
    `Unsettled`.

    `journal` names a file that this client id keeps from process to process: what a process had sent and
    not seen the end of, the next one goes on with (`client.restored`), and what its application had
    finished with does not come again. A file belongs to one process at a time; entering raises
    `JournalError` otherwise, and leaving never `Unsettled`. See docs/journal.md.

    Raises `ValueError` for a URL or a `client_id` that cannot be.
    """
    return Client(
        url,
        client_id,
        token=token,
        tls=tls,
        close_timeout=close_timeout,
        journal=journal,
        options=options,
    )


__all__ = ["CLOSE_TIMEOUT", "COMMAND_TIMEOUT", "Client", "MessagesLost", "connect"]
