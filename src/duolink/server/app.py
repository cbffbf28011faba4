"""The composition root: settings in, a running node with its ports out.

    config → authenticator, consent → engines (database, or memory) → node → listener (WebSocket, HTTP), TCP

`App` starts and stops all of it on the running loop; `run` gives it a process: uvloop, signals, limits.
"""

import asyncio
import gc
import os
import resource
import secrets
import signal
import ssl
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from math import inf
from typing import Final, cast

import structlog
import uvloop
from starlette.types import ASGIApp
from uvicorn._types import ASGI3Application

from duolink.engines.base import Engines, Failure, MailboxLimits
from duolink.engines.memory import memory_engines
from duolink.engines.sqlite.engines import sqlite_engines
from duolink.engines.sqlite.threads import Threads
from duolink.protocol import limits
from duolink.protocol.codes import CloseCode
from duolink.server.api.backend import Backend, Transports
from duolink.server.api.service import Service
from duolink.server.asgi import ASGIServer
from duolink.server.auth import AuthenticationError, Authenticator, make_authenticator
from duolink.server.config import Config, ConfigError
from duolink.server.echo import ECHO_MAX_MESSAGE, echo_factory
from duolink.server.gate import Gate
from duolink.server.handshake import OriginPolicy, Upgrade
from duolink.server.hooks import Hooks
from duolink.server.http import make_app
from duolink.server.jwks import FetchFailed, JwksSource
from duolink.server.lifespan import Lifespan, with_state
from duolink.server.listener import Listener, Route
from duolink.server.localclient import LocalClient
from duolink.server.log import LimitedLog
from duolink.server.metrics import Counts, LagSampler, make_registry
from duolink.server.node import Node
from duolink.server.options import ListenerOptions
from duolink.server.pages import built
from duolink.server.policy import SERVER, make_consent
from duolink.server.ratelimit import Throttle, is_trusted
from duolink.server.signaling import MAX_SIGNAL, RoomOptions, Signaling, Subprotocols
from duolink.server.tcp import TcpListener, TcpOptions
from duolink.server.wire import Wire, WireUser

SUBPROTOCOL: Final = "duolink"
"""The WebSocket subprotocol; offering it is optional."""

SPARE_DESCRIPTORS: Final = 64
"""Files that a process needs besides its connections."""

FLUSH_LOG_EVERY: Final = 10.0
"""Seconds between two looks for summaries of the limited log that are due."""

SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which the loop's thread lets another one run, instead of Python's 5 ms: the writer of the
database needs the interpreter for some 20 µs between two pieces of work for the disk, and everybody who waits
for a commit waits for that. (A busy loop, batches of 100: the 99th percentile fell to a twentieth.)"""

LAST_GRACE: Final = 0.5
"""Seconds beyond `session.drain_timeout_s` after which a shutdown no longer waits for anything."""

_log = structlog.get_logger("duolink.server")


class SystemClock:
    """Monotonic and wall time of this machine."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Milliseconds since 1970 (UTC)."""
        return time.time_ns() // 1_000_000


class Driver:
    """Moves a node's time: one timer of the loop for all of the node's. A node with nothing to wait for
    does not wake the process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, node: Node) -> None:
        self._loop = loop
        self._node = node
        self._timer: asyncio.TimerHandle | None = None
        self._polling = False

    def start(self) -> None:
        """Begin."""
        self._node.timers.sooner = self._arm
        self._arm()

    def stop(self) -> None:
        """Stop; nothing stays scheduled."""
        self._node.timers.sooner = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        """Sleep until the node's next timer, whatever it was before."""
        if self._polling:
            return  # what the poll sets is looked at once, behind it
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._node.next_timer()
        if due < inf:
            wait = due - self._node.clock.monotonic()
            self._timer = self._loop.call_later(max(wait, 0.0), self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = self._node.clock.monotonic()
        self._polling = True
        try:
            if self._node.next_timer() <= now:  # a loop may round, and be early
                self._node.poll(now)
        finally:
            self._polling = False
            self._arm()


class App:
    """A node with its ports. Raises `ConfigError` for settings that cannot be met (a key, a certificate).

    `authenticator` takes the place of the configured one; it is needed where `auth.external` is set. `app` is
    an ASGI application that gets the HTTP requests whose paths are none of the server's own.
    """

    version = version("duolink")

    def __init__(
        self,
        config: Config,
        *,
        authenticator: Authenticator | None = None,
        hooks: Hooks | None = None,
        app: ASGIApp | None = None,
    ) -> None:
        if config.auth.external and authenticator is None:
            raise ConfigError("auth.external", "is set, but the program gives no authenticator")
        self.config = config
        self.counts = Counts()
        self.port = 0
        """The port of WebSocket and HTTP, once started."""
        self.tcp_port = 0
        """The port of plain TCP, once started; 0 without one."""
        self.node: Node
        self.client: LocalClient
        """The program itself, as a client of the node; once started."""
        self._events = LimitedLog(_log)
        self._keys: JwksSource | None = None
        if config.auth.jwks_url is not None and authenticator is None:
            age, count = config.auth.jwks_max_age_s, self.counts.jwks_fetch
            self._keys = JwksSource(config.auth.jwks_url, age, self._events, count)
        self._authenticator = authenticator or make_authenticator(config.auth, self._keys)
        self._hooks = hooks
        self._mounted = app
        self._lifespan = Lifespan(app) if app is not None else None
        self._tls = _tls_context(config)
        self._clock = SystemClock()
        self._gate = Gate(config, self._clock.monotonic)
        self._listener: Listener | None = None
        self._tcp: TcpListener | None = None
        self._engines: Engines
        self._not_ready = "starting"

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"{'wss' if self._tls else 'ws'}://{self._host()}:{self.port}/ws"

    @property
    def http_url(self) -> str:
        """Where people and probes look."""
        return f"{'https' if self._tls else 'http'}://{self._host()}:{self.port}/"

    @property
    def tcp_address(self) -> str:
        """Host and port of plain TCP; empty without it."""
        return f"{self._host()}:{self.tcp_port}" if self.tcp_port else ""

    def _host(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.config.listen.host, self.config.listen.host)
        return f"[{host}]" if ":" in host else host

    def not_ready(self) -> tuple[str, ...]:
        """Return why it takes no clients, or stores nothing; nothing when all is well."""
        if self._not_ready:
            return (self._not_ready,)
        problem = self._engines.problem()
        return (f"storage: {problem}",) if problem else ()

    async def start(self) -> None:
        """Open the database, make the node and open the ports. Raises `DatabaseError` when the database
        cannot be used, `OSError` when a port cannot be had, `ConfigError` when there are no keys at
        `auth.jwks_url`, `LifespanFailed` when the mounted application fails to start; then none is open."""
        if self._keys is not None:
            try:
                await self._keys.start()
            except FetchFailed as error:
                raise ConfigError("auth.jwks_url", str(error)) from None
        try:
            await self._start_node()
        except BaseException:
            self._close_keys()
            raise

    async def _start_node(self) -> None:
        self._engines = self._make_engines(asyncio.get_running_loop())
        try:
            if self._lifespan is not None:
                await self._lifespan.start()
            await self._start()
        except BaseException:
            if self._lifespan is not None:
                await self._lifespan.stop()
            self._engines.close()
            raise

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()

        def defer(callback: Callable[[], None]) -> None:
            loop.call_soon(callback)

        self.node = Node(
            self.config,
            clock=self._clock,
            engines=self._engines,
            authenticator=self._authenticator,
            consent=make_consent(self.config),
            defer=defer,
            new_token=lambda: secrets.token_urlsafe(24),
            counts=self.counts,
            log=self._events,
            hooks=self._hooks,
            run=await self._issue_run(loop),
        )
        self.client = LocalClient(self.node, loop)
        self._listener = self._make_listener()
        self.port = await self._listener.start()
        if self.config.listen.tcp_port is not None:
            listener = self._listener
            self._tcp = TcpListener(
                lambda wire: self._gate.admit(wire, self._enter),
                self._tcp_options(),
                elsewhere=lambda: listener.connections,
                count=self._count,
            )
            try:
                await self._tcp.start(self.config.listen.host, self.config.listen.tcp_port)
            except OSError:
                await self._listener.close()
                raise
            self.tcp_port = self._tcp.port
        self._driver = Driver(loop, self.node)
        self._driver.start()
        self._lag = LagSampler(loop, self.counts)
        self._lag.start()
        self._flush_timer = loop.call_later(FLUSH_LOG_EVERY, self._flush_log, loop)
        self._not_ready = ""

    async def stop(self, drain: bool = True) -> None:
        """Close the ports and every connection, within `session.drain_timeout_s` or little more.

        With `drain`, clients of the node are told to come back, spread over `session.drain_spread_s`, and
        closed with 1012. Without, they find themselves closed with 1001.
        """
        assert self._listener is not None
        self._not_ready = "draining"
        self._service.close()
        self._listener.stop_accepting()
        if self._tcp is not None:
            self._tcp.stop_accepting()
        code, reason = CloseCode.GOING_AWAY, "server is going away"
        if drain:
            code, reason = CloseCode.SERVICE_RESTART, "restart"
            self.node.drain(int(self.config.session.drain_spread_s * 1000))
            while len(self.node.work):  # noqa: ASYNC110 - its work goes on in the turns of the loop
                await asyncio.sleep(0)
        closing = [self._listener.close(code, reason)]
        if self._tcp is not None:
            closing.append(self._tcp.close(code, reason))
        await asyncio.gather(*closing)
        if self._lifespan is not None:
            await self._lifespan.stop()
        self._driver.stop()
        self._close_keys()
        self.client.close()
        self._engines.close()
        self._lag.stop()
        self._flush_timer.cancel()
        self._events.flush(float("inf"))

    def _close_keys(self) -> None:
        if self._keys is not None:
            self._keys.close()

    # --- parts ---------------------------------------------------------------------------------

    async def _issue_run(self, loop: asyncio.AbstractEventLoop) -> int:
        """Get a run for the embedding application, above those it had before this start."""
        issued: asyncio.Future[int | Failure] = loop.create_future()
        registry = self._engines.registry
        registry.issue_run(SERVER, SERVER, self._clock.wall_ms(), issued.set_result)
        answer = await issued
        return answer if isinstance(answer, int) else self._clock.wall_ms()

    def _make_engines(self, loop: asyncio.AbstractEventLoop) -> Engines:
        config = self.config
        limits = mailbox_limits(config)
        if config.storage.database is None:
            return memory_engines(self._clock, _new_epoch, mailboxes=limits)
        return sqlite_engines(
            config.storage.database,
            clock=self._clock,
            new_epoch=_new_epoch,
            runner=Threads(loop),
            limits=limits,
            is_durable=lambda name: config.channel(name).durable,
        )

    def _enter(self, wire: Wire, throttle: Throttle | None) -> WireUser:
        return self.node.connected(wire, throttle)

    def _make_listener(self) -> Listener:
        config = self.config
        options = ListenerOptions(
            max_message=limits.MAX_PAYLOAD,
            read_buffer=max(config.wire.read_buffer, 2048),
            handshake_timeout=config.wire.handshake_timeout_s,
            close_timeout=self._close_timeout(),
            fragment_timeout=config.wire.fragment_timeout_s,
            max_connections=config.listen.max_connections,
            max_handshakes=config.listen.max_handshakes,
            backlog=config.listen.backlog,
        )
        routes = {
            "/ws": self._route(
                lambda _, wire, throttle: self._enter(wire, throttle), subprotocols=(SUBPROTOCOL,)
            )
        }
        if config.echo:
            echo = echo_factory(options)
            routes["/echo"] = self._route(lambda upgrade, wire, _: echo(wire, upgrade), ECHO_MAX_MESSAGE)
        if config.connect:
            rooms = self._signaling()
            routes["/connect"] = self._route(
                lambda upgrade, wire, _: rooms.make(wire, upgrade), MAX_SIGNAL, Subprotocols((SUBPROTOCOL,))
            )
        registry = make_registry(self.counts, self.node.gauges)
        backend = Backend(config, self.node, self.counts, self.version, self.not_ready, self._transports)
        mounted = self._mounted
        if mounted is not None and self._lifespan is not None:
            mounted = with_state(mounted, self._lifespan.state)
        self._service = Service(backend, self.client, self._authenticator, mounted)
        pages = built().routes(config)
        api = self._service.app
        app = make_app(config, registry, self.not_ready, api=api, routes=pages, app=mounted)
        self._http = ASGIServer(
            cast(ASGI3Application, app),
            head_timeout=config.wire.handshake_timeout_s,
            body_timeout=config.wire.fragment_timeout_s,
        )
        return Listener(
            routes,
            host=config.listen.host,
            port=config.listen.port,
            http=self._http,
            enter=self._gate.enter,
            origins=OriginPolicy(frozenset(config.listen.origins), config.development),
            tls=self._tls,
            options=options,
            trusts=lambda address: is_trusted(address, config.listen.trusted_proxies),
            elsewhere=lambda: self._tcp.connections if self._tcp is not None else 0,
            count=self._count,
            clock=self._clock.monotonic,
        )

    def _transports(self) -> Transports:
        assert self._listener is not None
        tcp = self._tcp.connections if self._tcp is not None else 0
        return Transports(self._listener.wires, tcp, self._http.connections)

    def _route(
        self,
        make: Callable[[Upgrade, Wire, Throttle | None], WireUser],
        max_message: int | None = None,
        subprotocols: tuple[str, ...] = (),
    ) -> Route:
        """Return a route whose newcomers pass the gate."""

        def factory(wire: Wire, upgrade: Upgrade) -> WireUser:
            return self._gate.admit(wire, partial(make, upgrade), upgrade.headers)

        return Route(factory, max_message, subprotocols)

    def _signaling(self) -> Signaling:
        if self.config.development:
            return Signaling(RoomOptions(max_per_address=0), closed=self.counts.close)
        return Signaling(ticket=self._room_of, closed=self.counts.close)

    def _room_of(self, ticket: str) -> str | None:
        """Return the room a ticket opens now."""
        try:
            return self._authenticator.room(ticket, time.time())
        except AuthenticationError:
            return None

    def _tcp_options(self) -> TcpOptions:
        config = self.config
        return TcpOptions(
            max_payload=limits.MAX_PAYLOAD,
            first_byte_timeout=min(config.wire.handshake_timeout_s, config.wire.hello_timeout_s),
            message_timeout=config.wire.fragment_timeout_s,
            close_timeout=self._close_timeout(),
            max_connections=config.listen.max_connections,
            max_handshakes=config.listen.max_handshakes,
            backlog=config.listen.backlog,
            tls=self._tls,
            greeting=f"duolink {self.version}",
        )

    def _close_timeout(self) -> float:
        """A close must not outlast a shutdown."""
        return min(self.config.wire.close_timeout_s, self.config.session.drain_timeout_s)

    def _count(self, event: str, label: str) -> None:
        """Count and log what a listener refused."""
        if event in ("handshake_refused", "connection_refused"):
            self.counts.refusal(label)
            self.node.happenings.add("refused", detail=f"{event.replace('_', ' ')}: {label}")
            self._events.warning(
                f"{event} {label}", "a connection was refused", self._clock.monotonic(), reason=label
            )
        elif event == "protocol_error":
            self._events.warning(
                f"{event} {label}", "a client broke the protocol", self._clock.monotonic(), code=label
            )

    def _flush_log(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flush_timer = loop.call_later(FLUSH_LOG_EVERY, self._flush_log, loop)
        self._events.flush(self._clock.monotonic())


def _new_epoch() -> str:
    return secrets.token_urlsafe(9)


def mailbox_limits(config: Config) -> MailboxLimits:
    """Return how much the mailboxes of a server with these settings keep."""
    boxes = config.mailboxes
    return MailboxLimits(
        messages=boxes.messages,
        size=boxes.bytes,
        pair_messages=boxes.pair_messages,
        pair_size=boxes.pair_bytes,
        sender_messages=boxes.sender_messages,
        sender_size=boxes.sender_bytes,
        mailboxes=boxes.mailboxes,
        known_only=config.mailboxes_for == "known",
        retention=boxes.retention_s,
        poison_after=boxes.poison_after,
        forget_after=boxes.forget_s,
    )


def _tls_context(config: Config) -> ssl.SSLContext | None:
    """Return the context with the configured certificate. Raises `ConfigError`."""
    listen = config.listen
    if listen.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(listen.tls_certificate, listen.tls_key, password=_no_password)
    except (OSError, ValueError) as error:  # as ssl.SSLError is
        raise ConfigError("listen.tls_certificate", f"cannot be used with tls_key: {error}") from None
    return context


def _no_password() -> str:
    """Refuse to ask the terminal: a server has none."""
    raise ValueError("the key is encrypted; the server needs it without a password")


def run(app: App, started: Callable[[App], None] = lambda app: None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once.

    `started` is called when the ports are open. Raises `DatabaseError`, and `OSError` when a port cannot be
    had.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    allowed = raise_descriptor_limit()
    if allowed < app.config.listen.max_connections + SPARE_DESCRIPTORS:
        _log.warning(
            "the limit of open files is below listen.max_connections",
            limit=allowed,
            max_connections=app.config.listen.max_connections,
        )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(app, started))


async def _serve(app: App, started: Callable[[App], None]) -> None:
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await app.start()
    gc.collect()
    gc.freeze()  # what there is now stays; collections need not look at it again
    started(app)
    await stop.wait()
    _log.info("draining", connections=app.node.connections)
    stopping = asyncio.create_task(app.stop())
    _, late = await asyncio.wait({stopping}, timeout=app.config.session.drain_timeout_s + LAST_GRACE)
    if late:
        _log.warning("not everyone left in time")
        os._exit(0)
    await stopping


def raise_descriptor_limit() -> int:
    """Raise the process's limit of open files as far as it may, and return it: a connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 30
