"""From `hello` to `welcome`: admission, identity, registration, resume.

One hello at a time per client id talks to the engine; others of the same id wait behind it, so that
what was decided still holds when the engine answers. A newcomer who meets an active session waits, without
holding anybody up, for the answer of that session's connection to one shared probe.
"""

from collections import OrderedDict, deque
from math import inf
from typing import TYPE_CHECKING, Final

from duolink.engines.base import Failure, Registry, RunVerdict
from duolink.protocol import limits
from duolink.protocol.codec import is_client_id
from duolink.protocol.codes import CloseCode, ErrorCode
from duolink.protocol.messages import (
    Error,
    HeartbeatSettings,
    Hello,
    Limits,
    Refresh,
    Refreshed,
    Welcome,
)
from duolink.server.auth import AuthenticationError, Authenticator, Identity, UnknownKey
from duolink.server.connection import Connection
from duolink.server.happenings import Kind
from duolink.server.ratelimit import Admission, Throttle, make_throttle
from duolink.server.registry import Session
from duolink.server.stages import Stage
from duolink.server.timers import Timer

if TYPE_CHECKING:
    from duolink.server.node import Node

MAX_QUEUED: Final = 8
"""Hellos of one client id that wait for the engine or for a probe; more are `overloaded`. An honest client
has one, or two when it reconnects before its first is found dead."""

MAX_THROTTLES: Final = 16_384
"""Clients whose rate limit is remembered after they left, so that saying hello again does not refill it."""

SPREAD_FROM: Final = 100
"""Connections below which `reconnect_spread` is 0: so few may come back at once."""

SPREAD_RATE: Final = 2000.0
"""Clients per second that should come back after this node was lost without a word."""

MAX_SPREAD: Final = 30_000
"""Milliseconds: the cap of a client's own backoff."""


class Greeting:
    """A hello that is being decided."""

    __slots__ = ("connection", "hello", "identity")

    def __init__(self, connection: Connection, hello: Hello, identity: Identity) -> None:
        self.connection, self.hello, self.identity = connection, hello, identity

    @property
    def alive(self) -> bool:
        """Whether somebody still waits for the answer."""
        return self.connection.stage is Stage.GREETING


class _Probe:
    """One question to an active session's connection, for all who want its client id."""

    __slots__ = ("connection", "newcomers", "timer")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.newcomers: list[Greeting] = []
        self.timer: Timer | None = None


class Greeter:
    """Decides hellos."""

    def __init__(self, node: "Node", authenticator: Authenticator, registry: Registry) -> None:
        self._node = node
        self._authenticator = authenticator
        self._registry = registry
        rate = node.config.rate("admissions")
        self._admission = Admission(*rate, node.now) if rate is not None else None
        self._busy: dict[str, deque[Greeting]] = {}
        self._probes: dict[str, _Probe] = {}
        self._throttles: OrderedDict[str, Throttle] = OrderedDict()
        self._refreshing: set[Connection] = set()  # those with a token that waits for its key

    def __len__(self) -> int:
        """How many client ids have hellos under way."""
        return len(self._busy) + len(self._probes)

    # --- refusals ----------------------------------------------------------------------------

    def hello(self, connection: Connection, hello: Hello) -> None:
        """Take a connection's hello: it is answered now or later by `welcome`, or by an error and a close."""
        node = self._node
        if is_client_id(hello.client_id):
            connection.asked = hello.client_id
        if node.draining:
            self._refuse(
                connection,
                ErrorCode.OVERLOADED,
                CloseCode.SERVICE_RESTART,
                "this server is going down",
                retry_after=1000,
            )
            return
        if hello.protocol != limits.PROTOCOL:
            text = f"this server speaks version {limits.PROTOCOL}"
            self._refuse(connection, ErrorCode.VERSION, CloseCode.WRONG_VERSION, text)
            return
        wait = self._admission.admit(node.clock.monotonic()) if self._admission is not None else None
        if wait is not None:
            self._overloaded(connection, wait)
            return
        if not connection.asked:
            self._refuse(connection, ErrorCode.BAD_HELLO, CloseCode.BAD_HELLO, "not a name a client can have")
            return
        if hello.run > node.clock.wall_ms() + limits.MAX_RUN_SKEW:
            self._refuse(connection, ErrorCode.BAD_HELLO, CloseCode.BAD_HELLO, "a run from the future")
            return
        self._identify(connection, hello, patient=True)

    def _identify(self, connection: Connection, hello: Hello, patient: bool) -> None:
        """Find out who it is, then decide. `patient`: a token whose key is being fetched waits for that."""
        try:
            identity = self._authenticate(connection, hello)
        except UnknownKey as unknown:
            if not patient:
                text = unknown.message
                self._refuse(connection, ErrorCode.UNAUTHORIZED, CloseCode.UNAUTHORIZED, text)
                return
            connection.greeting()
            unknown.fetched.add_done_callback(lambda _: self._identify_again(connection, hello))
            return
        if identity is not None:
            connection.greeting()
            self._decide(Greeting(connection, hello, identity))

    def _identify_again(self, connection: Connection, hello: Hello) -> None:
        if connection.stage is Stage.GREETING:
            node = self._node
            node.now = max(node.now, node.clock.monotonic())
            self._identify(connection, hello, patient=False)

    def _authenticate(self, connection: Connection, hello: Hello) -> Identity | None:
        wall = self._node.clock.wall_ms() / 1000
        try:
            identity = self._authenticator.authenticate(hello.token or None, wall)
        except UnknownKey:
            raise
        except AuthenticationError as error:
            expired = error.code == "token_expired"
            close = CloseCode.TOKEN_EXPIRED if expired else CloseCode.UNAUTHORIZED
            self._refuse(connection, ErrorCode.UNAUTHORIZED, close, error.message)
            return None
        except Exception:
            self._authenticator_failed()
            self._overloaded(connection, 5.0)
            return None
        if not identity.may_be(hello.client_id):
            text = "the token does not allow this client id"
            self._refuse(connection, ErrorCode.UNAUTHORIZED, CloseCode.UNAUTHORIZED, text)
            return None
        return identity

    def _authenticator_failed(self) -> None:
        self._node.log.warning("authenticator", "authenticator failed", self._node.now, exc_info=True)

    def _refuse(
        self, connection: Connection, code: ErrorCode, close: CloseCode, text: str, retry_after: int = 0
    ) -> None:
        node = self._node
        node.log.warning(code, "hello refused", node.now, address=connection.peer_address, problem=text)
        kind: Kind = "duplicate" if code is ErrorCode.DUPLICATE else "refused"
        node.happenings.add(kind, connection.asked, address=connection.peer_address, detail=text)
        error = Error(code=code, message=text, retry_after=retry_after, fatal=True)
        connection.end(close, text, error=error)

    def _overloaded(self, connection: Connection, wait: float) -> None:
        self._refuse(
            connection,
            ErrorCode.OVERLOADED,
            CloseCode.OVERLOADED,
            "try later",
            retry_after=int(wait * 1000) + 1,
        )

    # --- registration ------------------------------------------------------------------------

    def _decide(self, greeting: Greeting) -> None:
        """Let it in, let it wait, or refuse it."""
        if not greeting.alive:
            return
        hello = greeting.hello
        queue = self._busy.get(hello.client_id)
        if queue is not None:
            if len(queue) >= MAX_QUEUED:
                self._overloaded(greeting.connection, 1.0)
            else:
                queue.append(greeting)
            return
        session = self._node.sessions.get(hello.client_id)
        holder = session.connection if session is not None else None
        if session is not None and 0 < hello.run < session.run:
            self._superseded(greeting)
        elif (
            holder is None
            or self._resumed(hello) is not None
            or self._node.config.session.duplicate == "replace"
        ):
            self._register(greeting)
        else:
            self._probe(greeting, holder)

    def _resumed(self, hello: Hello) -> Session | None:
        session = self._node.sessions.get(hello.client_id)
        if session is not None and session.connection is not None and session.connection.confirmed:
            session.confirm()
        return self._node.sessions.resumes(hello)

    def _probe(self, greeting: Greeting, holder: Connection) -> None:
        """The client id is in use: ask its connection for a sign of life, once for all who want to know."""
        client_id, node = greeting.hello.client_id, self._node
        probe = self._probes.get(client_id)
        if probe is not None and probe.connection is holder:
            if len(probe.newcomers) >= MAX_QUEUED:
                self._overloaded(greeting.connection, 1.0)
            else:
                probe.newcomers.append(greeting)
            return
        if holder.proven > node.now - node.config.session.probe_timeout_s:
            self._duplicate(greeting)  # it has just proved that it lives
            return
        probe = self._probes[client_id] = _Probe(holder)
        probe.newcomers.append(greeting)
        seen = holder.payloads
        holder.probed = True
        holder.ping()

        def timeout(now: float) -> None:
            if holder.payloads > seen:
                self._conclude(client_id, probe, lives=True)
            else:
                self._conclude(client_id, probe, lives=False)

        probe.timer = node.timers.at(node.now + node.config.session.probe_timeout_s, timeout)

    def answered(self, connection: Connection) -> None:
        """A probed connection has answered."""
        connection.probed = False
        client_id = connection.session.client_id if connection.session is not None else ""
        probe = self._probes.get(client_id)
        if probe is not None and probe.connection is connection:
            self._conclude(client_id, probe, lives=True)

    def gone(self, connection: Connection, client_id: str) -> None:
        """A connection no longer carries a session: who waited for its answer need not."""
        probe = self._probes.get(client_id)
        if probe is not None and probe.connection is connection:
            self._conclude(client_id, probe, lives=False)

    def _conclude(self, client_id: str, probe: _Probe, lives: bool) -> None:
        if self._probes.get(client_id) is probe:
            del self._probes[client_id]
        if probe.timer is not None:
            probe.timer.cancel()
        holder = probe.connection
        holder.probed = False
        if lives:
            holder.proven = self._node.now
        newcomers = [greeting for greeting in probe.newcomers if greeting.alive]
        for index, greeting in enumerate(newcomers):
            if lives:
                self._duplicate(greeting)
            elif index == 0 and self._may_take_over(client_id, holder):
                self._register(greeting)
            else:
                self._decide(greeting)

    def _may_take_over(self, client_id: str, silent: Connection) -> bool:
        session = self._node.sessions.get(client_id)
        return client_id not in self._busy and (session is None or session.connection in (silent, None))

    def _superseded(self, greeting: Greeting) -> None:
        text = "a newer process of this client has registered"
        self._refuse(greeting.connection, ErrorCode.SUPERSEDED, CloseCode.SUPERSEDED, text)

    def _duplicate(self, greeting: Greeting) -> None:
        text = "this client id is in use"
        self._refuse(greeting.connection, ErrorCode.DUPLICATE, CloseCode.DUPLICATE, text)

    # --- the engine --------------------------------------------------------------------------

    def _register(self, greeting: Greeting) -> None:
        """Nobody is in the way: get a run, then a generation if a new session begins, and open it."""
        hello, client_id = greeting.hello, greeting.hello.client_id
        user = greeting.identity.user_of(client_id)
        self._busy[client_id] = deque()

        def done(answer: RunVerdict | int | Failure) -> None:
            self._ran(greeting, answer)

        if hello.run:
            self._registry.present_run(client_id, user, hello.run, done)
        else:
            self._registry.issue_run(client_id, user, self._node.clock.wall_ms(), done)

    def _ran(self, greeting: Greeting, answer: RunVerdict | int | Failure) -> None:
        hello = greeting.hello
        if not greeting.alive:
            self._next(hello.client_id)
        elif isinstance(answer, Failure):
            self._failed(greeting)
        elif isinstance(answer, RunVerdict) and not answer.accepted:
            self._superseded(greeting)
            self._next(hello.client_id)
        else:
            run = answer.newest if isinstance(answer, RunVerdict) else answer
            session = self._resumed(hello)
            if session is not None:
                self._resume(greeting, session, run)
            else:
                self._registry.issue_generation(
                    hello.client_id,
                    self._node.clock.wall_ms(),
                    lambda answer: self._generated(greeting, run, answer),
                )

    def _failed(self, greeting: Greeting) -> None:
        self._overloaded(greeting.connection, 1.0)
        self._next(greeting.hello.client_id)

    def _next(self, client_id: str) -> None:
        """The engine is free for this client: decide who waited."""
        for greeting in self._busy.pop(client_id):
            self._decide(greeting)

    def _resume(self, greeting: Greeting, session: Session, run: int) -> None:
        node = self._node
        older = session.connection
        if older is not None:
            # What it still sends is discarded from here on, before `welcome` goes out.
            self.answered(older)
            node.channels.detached(session, older)
            older.fence(CloseCode.REPLACED_CONNECTION, "a newer connection of this session")
            node.session_lost(session, CloseCode.REPLACED_CONNECTION)
        if run != session.run:
            session.run = run
            node.links.renumbered(session)
        session.identity = greeting.identity
        self._welcome(greeting, session, resumed=True)

    def _generated(self, greeting: Greeting, run: int, generation: int | Failure) -> None:
        node, hello = self._node, greeting.hello
        if not greeting.alive:
            self._next(hello.client_id)
            return
        if isinstance(generation, Failure):
            self._failed(greeting)
            return
        older = node.sessions.get(hello.client_id)
        if older is not None and older.connection is not None:
            connection = older.connection
            node.channels.detached(older, connection)
            error = Error(code=ErrorCode.SUPERSEDED, message="a newer process took over", fatal=True)
            connection.fence(CloseCode.SUPERSEDED, "a newer process took over", error)
            node.session_lost(older, CloseCode.SUPERSEDED)
        session = Session(hello.client_id, node.new_token(), generation, run, greeting.identity)
        node.sessions.open(session, node.now)
        self._welcome(greeting, session, resumed=False)

    # --- welcome -----------------------------------------------------------------------------

    def _welcome(self, greeting: Greeting, session: Session, resumed: bool) -> None:
        node, connection, hello = self._node, greeting.connection, greeting.hello
        secret = node.new_token()
        node.sessions.attach(session, connection, secret, node.now)
        if hello.session:
            node.counts.resume("resumed" if resumed else "new")
        connection.opened(session, self._throttle(session.client_id), self._expiry(greeting.identity))
        connection.tell(
            Welcome(
                client_id=session.client_id,
                session=session.id,
                secret=secret,
                generation=session.generation,
                attachment=session.attachment,
                run=session.run,
                resumed=resumed,
                durable=node.durable,
                heartbeat=self._heartbeat(),
                limits=self.told_limits(),
                time=node.clock.wall_ms(),
                reconnect_spread=self._spread(),
                expires=_expires(greeting.identity),
                server=node.name,
            )
        )
        try:
            node.links.arrived(session)
            self._restore(connection, session, hello, resumed)
            node.session_opened(session, resumed)
        finally:
            self._next(session.client_id)

    def _restore(self, connection: Connection, session: Session, hello: Hello, resumed: bool) -> None:
        """Have it as it was, or as its hello wants it. The connection may end of what it is told."""
        node = self._node
        if isinstance(hello.subscriptions, list):
            node.channels.restore(connection, hello.subscriptions)
        elif resumed:
            node.channels.restore(connection, None)
        if connection.session is not session:
            return
        if isinstance(hello.watch, list):
            node.watchers.watch_only(connection, hello.watch)
        elif resumed:
            node.watchers.tell_states(connection)

    def touch(self, client_id: str) -> None:
        """Tell the registry that a client is (still) here."""
        session = self._node.sessions.get(client_id)
        if session is not None and session.connection is not None:
            self._registry.present_run(client_id, session.user, session.run, _ignore)

    def _heartbeat(self) -> HeartbeatSettings:
        settings = self._node.config.heartbeat
        return HeartbeatSettings(
            interval=round(settings.interval_s * 1000),
            timeout=round(settings.timeout_s * 1000),
            misses=settings.misses,
        )

    def told_limits(self) -> Limits:
        """What a client is told in its welcome."""
        config = self._node.config
        return Limits(
            message=config.wire.max_message,
            payload=limits.MAX_PAYLOAD,
            subscriptions=config.limits.subscriptions_per_client,
            watched=config.limits.watched_per_client,
            window=config.links.window,
            window_bytes=config.links.window_bytes,
        )

    def _spread(self) -> int:
        connections = self._node.sessions.active
        return min(int(connections / SPREAD_RATE * 1000), MAX_SPREAD) if connections >= SPREAD_FROM else 0

    def _throttle(self, client_id: str) -> Throttle | None:
        """What all connections of a client share; kept for a while after it left."""
        throttle = self._throttles.get(client_id)
        if throttle is None:
            throttle = make_throttle(self._node.config, "client", self._node.clock.monotonic())
            if not throttle:
                return None
            self._throttles[client_id] = throttle
            if len(self._throttles) > MAX_THROTTLES:
                self._throttles.popitem(last=False)
        self._throttles.move_to_end(client_id)
        return throttle

    def _expiry(self, identity: Identity) -> float:
        if identity.expires_at is None:
            return inf
        clock = self._node.clock
        return clock.monotonic() + identity.expires_at - clock.wall_ms() / 1000

    # --- refresh -----------------------------------------------------------------------------

    def refresh(self, connection: Connection, message: Refresh, patient: bool = True) -> None:
        """Take a fresh token of the same client; the earlier one goes on if it is no good. `patient`: it
        waits for its key if that is being fetched."""
        session = connection.session
        if session is None:
            return  # it has ended meanwhile
        try:
            identity = self._authenticator.authenticate(
                message.token or None, self._node.clock.wall_ms() / 1000
            )
        except AuthenticationError as error:
            if patient and isinstance(error, UnknownKey):
                self._refresh_later(connection, message, error)
                return
            connection.error(ErrorCode.UNAUTHORIZED, error.message, id=message.id)
            return
        except Exception:
            self._authenticator_failed()
            connection.error(ErrorCode.UNAVAILABLE, "try again", id=message.id, retry_after=5000)
            return
        if not identity.may_be(session.client_id):
            connection.error(ErrorCode.UNAUTHORIZED, "the token does not allow this client id", id=message.id)
            return
        session.identity = identity
        connection.expires_at(self._expiry(identity))
        connection.tell(Refreshed(id=message.id, expires=_expires(identity)))
        self._node.channels.rights_changed(session)
        self._node.links.rights_changed(session)

    def _refresh_later(self, connection: Connection, message: Refresh, unknown: UnknownKey) -> None:
        """Its key is being fetched: that of one refresh for each connection."""
        if connection in self._refreshing:
            connection.error(
                ErrorCode.OVERLOADED, "another one waits for its key", id=message.id, retry_after=1000
            )
            return
        self._refreshing.add(connection)

        def fetched(_: object) -> None:
            self._refreshing.discard(connection)
            self.refresh(connection, message, patient=False)

        unknown.fetched.add_done_callback(fetched)


def _ignore(_: object) -> None:
    pass


def _expires(identity: Identity) -> int:
    return round(identity.expires_at * 1000) if identity.expires_at is not None else 0
