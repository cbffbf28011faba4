"""A node: one server process as synchronous code on state in memory.

    wires ──▶ connection ──▶ greeter   hello → welcome: who may be whom          ──▶ registry (sessions)
                        ├──▶ links     messages, acks, signals, who is there
                        ├──▶ channels  publish, subscribe, presence, recovery    ──▶ engine (logs)
                        └──▶ histories pages of a log

Time, randomness and engines are handed in. Whoever drives a node gives it wires (`connected`), calls
`poll(now)` not later than `next_timer()`, and calls back what it gave to `defer` at the end of the loop
turn; it reads no clock of its own accord while messages are relayed.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from duolink.engines.base import Engines, Entry
from duolink.protocol import limits
from duolink.protocol.codec import CLIENT, SERVER, Decoder
from duolink.protocol.codes import CloseCode, may_reconnect
from duolink.protocol.heartbeat import Pace
from duolink.protocol.messages import FromClient, FromServer, LinkMessage
from duolink.server.auth import Authenticator, Identity
from duolink.server.channel import Channel
from duolink.server.channels import Channels
from duolink.server.connection import Connection
from duolink.server.greeter import Greeter
from duolink.server.happenings import Happenings
from duolink.server.history import Histories
from duolink.server.hooks import Action, Hooks
from duolink.server.links import Links
from duolink.server.local import LocalConnection
from duolink.server.mailbox import Mailboxes
from duolink.server.metrics import Counts, Gauges
from duolink.server.party import Parties
from duolink.server.policy import Consent
from duolink.server.ratelimit import Throttle, make_throttle
from duolink.server.registry import Cause, Session, Sessions
from duolink.server.settings import Config
from duolink.server.stages import Stage
from duolink.server.timers import Clock, Timers, Work
from duolink.server.watchers import Watchers
from duolink.server.wire import Wire

TICK: Final = 1.0
"""Longest time (seconds) `now` stays behind while there are connections: heartbeats need no better."""


TOUCH_EVERY: Final = 600.0
"""Seconds between two times the registry is told who is here: a sixth of the least `mailboxes.forget_s`."""


class EventLog(Protocol):
    """The log of what strangers cause: limited per key (`log.LimitedLog`)."""

    def warning(self, key: str, event: str, now: float, **fields: Any) -> None:
        """Write a warning, or count it as suppressed."""
        ...


class Node:
    """One node. Every method belongs to the event loop's thread."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock,
        engines: Engines,
        authenticator: Authenticator,
        consent: Consent,
        defer: Callable[[Callable[[], None]], None],
        new_token: Callable[[], str],
        counts: Counts,
        log: EventLog,
        hooks: Hooks | None = None,
        run: int = 0,
    ) -> None:
        """Make a node without connections. `run` is that of the embedding application; 0: by the clock.

        `defer` calls its argument at the end of the loop turn, `new_token` draws an unguessable name (at
        most 64 characters), `log` is for what strangers cause. The engines complete into this node's
        thread.
        """
        self.config = config
        self.clock = clock
        self.counts = counts
        self.log = log
        self.hooks = hooks or Hooks()
        self.new_token = new_token
        self.durable = engines.durable
        self.name = "duolink"
        self.happenings = Happenings(clock)
        """What happened lately, for the operator."""
        self.now = clock.monotonic()
        """Monotonic seconds as of the last poll."""
        heartbeat = config.heartbeat
        self.pace = Pace(heartbeat.interval_s, heartbeat.timeout_s, heartbeat.misses)
        maximum = config.wire.max_message
        usual = maximum == limits.MAX_MESSAGE
        self.decoder = CLIENT if usual else Decoder(FromClient, maximum)
        self.own_decoder = SERVER if usual else Decoder(FromServer, maximum)
        """For what the node has encoded itself."""
        self.draining = False
        self.batching = False
        """Whether a read is being taken, whose end flushes."""
        self.dirty: list[Connection] = []
        """Connections with something to flush."""
        self.dirty_channels: list[Channel] = []
        """Channels with publications to fan out."""
        self.defer = defer
        """Calls its argument at the end of the loop turn."""
        self._engines = engines
        self._problem = ""
        self._waking = False
        self._tick_running = False
        self._tick = min(TICK, heartbeat.timeout_s / 4)
        self._touch_at = self.now + TOUCH_EVERY
        self._connections: dict[Connection, None] = {}
        self.timers = Timers()
        self.work = Work(defer)
        self.sessions = Sessions(self.timers, config.session.resume_window_s, self._session_ended)
        self.parties = Parties()
        window = config.links.window
        self.watchers = Watchers(self, self.parties, consent, config.limits.watched_per_client)
        self.mailboxes = Mailboxes(self, self.parties, engines.mailbox, engines.durable, window)
        self.links = Links(self, self.parties, consent, self.watchers, self.mailboxes, window)
        if self.hooks.message is not None:
            self.links.on_message = self._message_hook
        self.channels = Channels(self, engines.log)
        self.histories = Histories(self, engines.log)
        self.greeter = Greeter(self, authenticator, engines.registry)
        self.local = LocalConnection(self, run or clock.wall_ms())
        """The embedding application's own connection, as `$server`."""

    # --- inputs ------------------------------------------------------------------------------

    def connected(self, wire: Wire, throttle: Throttle | None = None) -> Connection:
        """A transport was accepted: return the user of its wire. `throttle`: limits it shares with others,
        such as those of its address."""
        self.now = self.clock.monotonic()
        own = make_throttle(self.config, "connection", self.now)
        if throttle is not None:
            own = own + throttle
        connection = Connection(self, wire, own if own else None)
        self._connections[connection] = None
        self.counts.connections += 1
        if not self._tick_running:
            self._tick_running = True
            self.timers.at(self.now + self._tick, self._ticked)
        return connection

    def poll(self, now: float) -> None:
        """Do what is due at this time (monotonic seconds)."""
        self.now = max(self.now, now)
        self.timers.poll(self.now)
        self.flush()

    def next_timer(self) -> float:
        """When to poll at the latest (monotonic seconds); infinity when nothing is due any more."""
        return self.timers.next()

    def flush(self) -> None:
        """Write what is to be sent. Called at the end of each read, poll and deferred turn."""
        if self.dirty_channels:
            self.channels.flush_all()
        while self.dirty:
            dirty, self.dirty = self.dirty, []
            for connection in dirty:
                if connection.dirty:
                    connection.flush()
        self.batching = False

    def wake(self) -> None:
        """Something is to be sent outside a read: flush at the end of the turn."""
        if not self._waking and not self.batching:
            self._waking = True
            self.defer(self._woken)

    def drain(self, spread_ms: int) -> None:
        """Send everyone away for a restart, in slices: `goodbye` with the spread, close 1012. New hellos are
        refused from now on. Sessions wait for their clients as if the connections had been lost."""
        self.draining = True
        self.happenings.add("draining", detail=f"{len(self._connections)} connections are sent away")
        self.work.start(self._drain(spread_ms))

    def disconnect(self, client_id: str, reason: str = "disconnected") -> bool:
        """Send a client away for good (3505); return whether it was here."""
        session = self.sessions.get(client_id)
        if session is None or session.connection is None:
            return False
        return self.send_away(client_id, CloseCode.DISCONNECTED, reason)

    def send_away(self, client_id: str, code: CloseCode, reason: str) -> bool:
        """Close a client's connection with this code. Without one, a session that waits to be resumed ends,
        if the code is for good. Returns whether there was a session."""
        session = self.sessions.get(client_id)
        if session is None:
            return False
        self.happenings.add("disconnected", client_id, session.user, detail=reason)
        if session.connection is not None:
            session.connection.end(code, reason)
        elif not may_reconnect(code):
            self.sessions.move(session, Cause.LEFT, self.clock.monotonic())
            self.wake()
        return True

    # --- what there is -----------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """Transports this node uses now."""
        return len(self._connections)

    def gauges(self, buffered: bool = True) -> Gauges:
        """Count what there is now; costs a look at every connection, and most of it for what they have
        `buffered`."""
        kept, kept_bytes = self._engines.mailbox.totals()
        connections = self._connections
        return Gauges(
            connections=len(self._connections),
            sessions_active=self.sessions.active,
            sessions_detached=len(self.sessions) - self.sessions.active,
            channels=len(self.channels),
            subscriptions=self.channels.subscriptions,
            links=self.links.count,
            mailbox_messages=kept,
            mailbox_bytes=kept_bytes,
            mailboxes=self._engines.mailbox.receivers(),
            buffered_bytes=sum(c.wire.buffered() for c in connections) if buffered else 0,
            slow=sum(c.full and c.stage is Stage.OPEN for c in connections),
            bytes_received=sum(c.bytes_received for c in connections),
        )

    # --- for the rooms of the node -----------------------------------------------------------

    def forget(self, connection: Connection, code: int) -> None:
        """A connection's transport is gone."""
        if connection in self._connections:
            del self._connections[connection]
            self.counts.close(code)
            self.counts.bytes_in += connection.bytes_received

    def authorize(self, identity: Identity, action: Action, name: str, allowed: bool) -> bool:
        """Whether an identity may do something: the application's word, else `allowed`."""
        if self.hooks.authorize is None:
            return allowed
        try:
            verdict = self.hooks.authorize(identity, action, name)
        except Exception:
            self._hook_failed("authorize")
            return False
        return allowed if verdict is None else verdict

    def call_hook(self, name: str, hook: Callable[..., None], *arguments: Any) -> None:
        """Call a hook; one that raises is logged."""
        try:
            hook(*arguments)
        except Exception:
            self._hook_failed(name)

    def published(self, channel: str, entry: Entry) -> None:
        """A log has a new publication."""
        if self.hooks.published is not None:
            arguments = (channel, entry.sender, entry.offset, entry.data, entry.binary)
            self.call_hook("published", self.hooks.published, *arguments)

    def session_opened(self, session: Session, resumed: bool) -> None:
        """A connection carries the session now."""
        connection = session.connection
        if connection is not None:  # else it has ended in the middle of its welcome
            connection.happened("resumed" if resumed else "connected", connection.kind)
        if self.hooks.connected is not None:
            self.call_hook("connected", self.hooks.connected, session.client_id, session.identity, resumed)

    def session_lost(self, session: Session, code: int) -> None:
        """The session's connection has ended."""
        if self.hooks.disconnected is not None:
            self.call_hook("disconnected", self.hooks.disconnected, session.client_id, int(code))

    def _session_ended(self, session: Session) -> None:
        why = "it left, or was replaced" if session.left else "it did not come back"
        self.happenings.add("ended", session.client_id, session.user, detail=why)
        self.channels.ended(session)
        self.links.ended(session)
        if self.hooks.ended is not None:
            self.call_hook("ended", self.hooks.ended, session.client_id)

    def _message_hook(self, message: LinkMessage, to: str) -> None:
        assert self.hooks.message is not None
        self.hooks.message(
            message.sender, to, message.lane, message.run, message.seq, bytes(message.data), message.binary
        )

    def _hook_failed(self, name: str) -> None:
        self.log.warning(f"hook {name}", "a hook raised", self.now, hook=name, exc_info=True)

    def _woken(self) -> None:
        self._waking = False
        self.flush()

    def _ticked(self, now: float) -> None:
        self._look_at_storage()
        self.links.timing.sample()
        if now >= self._touch_at:
            self._touch_at = now + TOUCH_EVERY
            self.work.start(self._touch())
        self._tick_running = bool(self._connections)
        if self._tick_running:
            self.timers.at(now + self._tick, self._ticked)

    def _touch(self) -> Iterator[None]:
        """Say of all who are here that they are: else who stays for long would be forgotten."""
        for client_id in list(self.sessions.names.after("")):
            self.greeter.touch(client_id)
            yield

    def _look_at_storage(self) -> None:
        """Notice that the engine cannot store, or can again."""
        problem = self._engines.problem()
        if problem and not self._problem:
            self.log.warning("storage", "nothing can be stored", self.now, problem=problem)
            self.happenings.add("engine_failed", detail=problem)
        elif self._problem and not problem:
            self.log.warning("storage", "the storage is well again", self.now)
            self.happenings.add("engine_recovered", detail="the storage is well again")
            self.mailboxes.call_back()
        self._problem = problem

    def _drain(self, spread_ms: int) -> Iterator[None]:
        for connection in list(self._connections):
            connection.end(CloseCode.SERVICE_RESTART, "restart", spread=spread_ms)
            yield
