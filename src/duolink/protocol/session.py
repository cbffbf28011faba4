"""A client's end of everything: connection states, hello and resume, commands, links, channels.

Like the rest of `protocol`, a machine without I/O. The driver tells it what happened, with `now`
(monotonic seconds), and then does what `take(now)` asks: open a transport, send payloads, close it.
One transport at a time: the driver drops what still comes from an earlier one.
"""

from collections.abc import Callable
from math import inf
from typing import Any, Final

from msgspec import UNSET

from duolink.protocol import codec, limits
from duolink.protocol.backoff import Backoff
from duolink.protocol.codec import Malformed
from duolink.protocol.codes import CloseCode, may_reconnect
from duolink.protocol.commands import Command, Commands
from duolink.protocol.events import (
    TRANSITIONS,
    Action,
    Answered,
    Carry,
    Close,
    EphemeralReceived,
    Event,
    FromLink,
    Open,
    ProtocolTrouble,
    SignalReceived,
    State,
    StateChanged,
)
from duolink.protocol.heartbeat import Beat, Heartbeat, Pace
from duolink.protocol.ledger import Ledger
from duolink.protocol.link import SERVER, Link, key_of
from duolink.protocol.messages import (
    Ack,
    Ephemeral,
    Error,
    FromServer,
    Goodbye,
    Hello,
    HistoryPage,
    LinkMessage,
    Message,
    Peer,
    Ping,
    Pong,
    PresenceList,
    Probe,
    Publication,
    Refreshed,
    Signal,
    Skip,
    Stored,
    Wait,
    Watch,
    Welcome,
)
from duolink.protocol.messages import (
    Published as PublishedAnswer,
)
from duolink.protocol.options import DEFAULTS, Options
from duolink.protocol.paths import PathKind
from duolink.protocol.payload import payloads
from duolink.protocol.records import Changes
from duolink.protocol.subscriptions import Subscriptions


class NotOnlineYet(Exception):
    """A client that was never online has no run, hence no numbers to give."""


class TooManyLinks(Exception):
    """`limits.MAX_LINKS` links are there already."""


NO_CODE: Final = 1005
"""What a WebSocket reports for a close frame without a code (RFC 6455 §7.1.5)."""

SHORTEST_BEAT: Final = 0.1
"""Seconds below which no server may make its clients ping or wait."""

_TO_LINK: Final = frozenset({LinkMessage, Ack, Skip, Probe})
_TO_USER: Final = frozenset({LinkMessage, Skip, Probe})
_VERDICTS: Final = frozenset({Wait, Stored})
_ANSWERS: Final = frozenset({PublishedAnswer, Refreshed})


class Session:
    """The machine behind a client. `random` returns numbers in [0, 1)."""

    def __init__(
        self,
        client_id: str,
        *,
        random: Callable[[], float],
        options: Options = DEFAULTS,
    ) -> None:
        if not codec.is_client_id(client_id):
            raise ValueError(f"{client_id!r} cannot be a client id")
        self.client_id = client_id
        self.options = options
        self.state = State.IDLE
        self.welcome: Welcome | None = None
        self.run = 0
        self.links: dict[str, Link] = {}
        self.ledger: Ledger | None = None
        self.subscriptions = Subscriptions()
        self.watched: set[str] = set()
        self._random = random
        self._backoff = Backoff(options.backoff_initial, options.backoff_factor, options.backoff_cap)
        self._transport = False  # one is open
        self._opening = False
        self._online = False
        self._online_since = inf
        self._lost_at = inf
        self._open_at = inf
        self._resubscribe_at = inf
        self._hello_by = inf
        self._heartbeat: Heartbeat | None = None
        self._watch_changed = False
        self.commands = Commands()
        self._next_id = 1
        self._pings = 0
        self._not_before = 0.0  # seconds the server asked to wait at least, on the next reconnect
        self._spread = 0.0
        self._earliest = 0.0  # the next attempt is not to come before
        self._goodbye = 0  # the code of the server's goodbye
        self._refusal = ""
        self._decoder = codec.SERVER
        self._touched: set[Link] = set()
        self._timers: dict[Link, float] = {}  # what each link last said; stale for those touched
        self._out: list[Message] = []
        self._actions: list[Action] = []
        self._events: list[Event] = []

    # --- the application -----------------------------------------------------------------------

    def start(self, now: float, ledger: Ledger | None = None) -> None:
        """Begin to connect. `ledger`: continue the run of the process before, and keep a journal: see
        `changes`."""
        if ledger is not None:
            self.ledger, self.run = ledger, ledger.run
        self._change(State.CONNECTING)
        self._open_at = now

    def link(self, peer: str, user: str = "") -> Link:
        """The link to a peer, made when it is not there. With `user`: what the peer sends to that user.

        Raises `NotOnlineYet` before the first welcome, `ValueError` for what cannot be a client,
        `TooManyLinks`.
        """
        link = self.links.get(key_of(peer, user))
        if link is not None:
            return link
        possible = codec.is_client_id(peer) or peer == "$server" or codec.is_user(peer)
        if (peer == self.client_id and not user) or not possible:
            raise ValueError(f"{peer!r} cannot be the other end of a link")
        if self.welcome is None:
            raise NotOnlineYet("a link needs a client that has been online")
        if len(self.links) >= limits.MAX_LINKS:
            raise TooManyLinks(f"at most {limits.MAX_LINKS} links")
        maximum = self.welcome.limits
        link = Link(
            peer,
            self.run,
            window=maximum.window,
            window_bytes=maximum.window_bytes,
            durable=self.welcome.durable,
            user=user,
            journaled=self.ledger is not None,
        )
        if self.ledger is not None:
            self.ledger.furnish(link)
        if self._online:
            link.path_up(SERVER, PathKind.SERVER, 0.0)
        self.links[link.key] = link
        return link

    def touch(self, link: Link) -> None:
        """The application has given the link something to do: the next `take` looks at it."""
        self._touched.add(link)

    def watch(self, peer: str) -> None:
        """Hear of a peer's state."""
        if peer not in self.watched:
            self.watched.add(peer)
            self._watch_changed = True

    def unwatch(self, peer: str) -> None:
        """Hear no more of it."""
        if peer in self.watched:
            self.watched.discard(peer)
            self._watch_changed = True

    def command(self, message: Command, context: Any, now: float) -> None:
        """Give a command; `Answered` follows, over as many connections as it takes. A publish needs a key.

        Raises `TooManyCommands`.
        """
        message.id = self._id()
        self.commands.add(message, context)
        if self._online:
            self._out += self.commands.send(now, message.id)

    def send(self, message: Signal | Ephemeral) -> bool:
        """Send at most once: now, or not at all. Returns whether it was sent."""
        room = self._online and len(self._out) < limits.MAX_UNNUMBERED
        if room:
            self._out.append(message)
        return room

    def close(self, now: float, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Leave: acknowledgements go out, then a goodbye, which ends the session."""
        if self._online:
            for link in self.links.values():
                link.hurry(now)
                self._touched.add(link)
            self._gather(now)
            self._out.append(Goodbye(code=code, reason=reason))
        self._end(StateChanged(State.CLOSED, code, reason))

    # --- the transport -------------------------------------------------------------------------

    def opened(self, token: str, now: float) -> None:
        """The transport that `Open` asked for is there."""
        self._opening = False
        if self.state is State.CLOSED:
            self._actions.append(Close(CloseCode.NORMAL, "the client was closed"))
            return
        self._transport = True
        self._hello_by = now + self.options.hello_timeout
        hello = Hello(protocol=limits.PROTOCOL, client_id=self.client_id, token=token, run=self.run)
        if self.welcome is not None:
            hello.session, hello.secret = self.welcome.session, self.welcome.secret
        if len(self.subscriptions) or self.welcome is not None:
            hello.subscriptions = self.subscriptions.hello()
        if self.watched or self.welcome is not None:
            hello.watch = sorted(self.watched)
        # What makes a hello too large for one message is said after the welcome.
        self._watch_changed = len(codec.encode(hello)) > limits.MAX_MESSAGE
        if self._watch_changed:
            hello.watch = UNSET
            if len(codec.encode(hello)) > limits.MAX_MESSAGE:
                hello.subscriptions = []
                self.subscriptions.forget_asked()
        self._out.append(hello)

    def lost(self, code: int, reason: str, now: float) -> None:
        """The transport has ended, or could not be opened."""
        if self.state is State.CLOSED:
            return
        was_online, self._online = self._online, False
        self._opening = self._transport = False
        self._hello_by = inf
        self._heartbeat = None
        self._out.clear()
        if was_online:
            for link in self.links.values():
                link.path_down(SERVER)
                self._touched.add(link)
            self._lost_at = now
            if now - self._online_since >= limits.STABLE_AFTER:
                self._backoff.reset()
        refusal, self._refusal = self._refusal, ""
        if code in (CloseCode.ABNORMAL, NO_CODE) and self._goodbye:
            code = self._goodbye
        self._goodbye = 0
        if code == CloseCode.SUPERSEDED and self.ledger is not None and self.welcome is None and self.run:
            self.run = 0  # another process has registered since the journaled one: go on as a new one
            self._open_at = now
            return
        if not may_reconnect(code):
            self._end(StateChanged(State.CLOSED, code, reason, refusal))
            return
        if self.state is State.CONNECTING and self._backoff.attempts >= self.options.first_tries - 1:
            self._end(StateChanged(State.CLOSED, code, reason or "unreachable", refusal))
            return
        if self.state is State.ONLINE:
            self._change(State.RECONNECTING, code, reason)
        self._earliest = now + max(self._not_before, self._random() * self._spread)
        self._not_before = self._spread = 0.0
        self._open_at = max(now + self._backoff.next(self._random()), self._earliest)

    def network_changed(self, now: float) -> None:
        """The platform says the network is back or another one: do not wait for timers, and begin the backoff
        anew, for the platform may say so before it is true."""
        if self._heartbeat is not None:
            self._heartbeat.suspect(now)
            return
        self._backoff.reset()
        if self._open_at < inf:
            self._open_at = max(now, self._earliest)

    def alive(self, now: float) -> None:
        """The transport saw a control frame."""
        if self._heartbeat is not None:
            self._heartbeat.alive(now)

    def received(self, payload: bytes, binary: bool, now: float) -> None:
        """A payload came on the transport."""
        if self._heartbeat is not None:
            self._heartbeat.alive(now)
        messages = self._decoder.binary(payload) if binary else self._decoder.text(payload)
        for message in messages:
            if self._transport and self.state is not State.CLOSED:
                self._receive(message, now)

    def path_up(self, peer: str, path: str, kind: PathKind, now: float) -> None:
        """A data channel to a peer is open: one more path of its link. Names are the driver's."""
        link = self.link(peer)
        link.path_up(path, kind, now)
        self._touched.add(link)

    def path_down(self, peer: str, path: str) -> None:
        """It is gone."""
        link = self.links.get(peer)
        if link is not None:
            link.path_down(path)
            self._touched.add(link)

    def received_on(self, peer: str, path: str, payload: bytes, binary: bool, now: float) -> None:
        """A payload came on a path other than the server's. Whose it is, is the driver's knowledge; a
        peer that claims a name, or sends what only a server may, loses the path."""
        link = self.links.get(peer)
        if link is None or path not in link.paths:
            return
        self._touched.add(link)
        for message in codec.PEER.binary(payload) if binary else codec.PEER.text(payload):
            if type(message) is Malformed:
                link.fail(path, message.reason)
                return
            link.receive(message, path, now)

    def _receive(self, message: Any, now: float) -> None:
        kind = type(message)
        if kind in _TO_LINK:
            if self._online:
                self._to_link(message.sender, message, now)
        elif kind in _VERDICTS:
            self._to_link(message.to, message, now)
        elif kind is Peer:
            self._to_link(message.client_id, message, now)
        elif kind is Welcome:
            self._welcomed(message, now)
        elif kind is Goodbye:
            self._spread = message.spread / 1000
            self._goodbye = message.code
        elif kind is Error:
            self._error(message, now)
        elif kind is Ping:
            if self._online:  # before its welcome a client says nothing but hello
                self._out.append(Pong(id=message.id))
        elif kind is Signal:
            self._events.append(SignalReceived(message))
        elif kind is Ephemeral:
            self._events.append(EphemeralReceived(message))
        elif kind is Malformed:
            self._events.append(ProtocolTrouble(message.code, message.reason))
        elif kind in _ANSWERS:
            self._answered(self.commands.answer(message.id, message))
        elif kind is HistoryPage:
            self._answered(self.commands.page(message))
        elif kind is Publication and message.page:
            self._answered(self.commands.entry(message))
        elif kind is PresenceList and message.id:
            self._answered(self.commands.answer(message.id, message))
        else:
            event = self.subscriptions.receive(message)
            if event is not None:
                self._events.append(event)

    def _welcomed(self, welcome: Welcome, now: float) -> None:
        if self._online or not self._transport:
            return
        if self.run and welcome.run != self.run:
            self._events.append(ProtocolTrouble("run", "the server changed this process's run"))
            self._drop(CloseCode.PROTOCOL_ERROR, "another run", now)
            return
        first, self.welcome = self.welcome is None, welcome
        self.run = welcome.run
        if first and self.ledger is not None:
            for peer in self.ledger.welcomed(self.run):
                self.link(peer)
        self._online = True
        self._online_since = now
        self._hello_by = self._lost_at = inf
        self._spread = welcome.reconnect_spread / 1000
        beat = welcome.heartbeat
        interval = max(beat.interval / 1000, SHORTEST_BEAT)
        timeout = min(max(beat.timeout / 1000, SHORTEST_BEAT), interval)
        self._heartbeat = Heartbeat(Pace(interval, timeout, max(beat.misses, 1)), now)
        self.subscriptions.maximum = welcome.limits.subscriptions
        default = welcome.limits.message <= limits.MAX_MESSAGE
        self._decoder = codec.SERVER if default else codec.Decoder(FromServer, welcome.limits.message)
        for link in self.links.values():
            link.adapt(welcome.limits.window, welcome.limits.window_bytes, welcome.durable)
            link.path_up(SERVER, PathKind.SERVER, now)
            self._touched.add(link)
        self._out += self.commands.send(now)
        self._change(State.ONLINE)

    def _to_link(self, peer: str, message: Any, now: float) -> None:
        # What came for the user this client belongs to is a stream of its own.
        user = message.user if type(message) in _TO_USER else ""
        link = self.links.get(key_of(peer, user))
        if link is None:
            watched = type(message) is Peer and peer in self.watched
            if not watched and (type(message) not in _TO_LINK or type(message) is Ack):
                return
            try:
                link = self.link(peer, user)
            except (ValueError, TooManyLinks, NotOnlineYet) as error:
                self._events.append(ProtocolTrouble("peer", str(error)))
                return
        link.receive(message, SERVER, now)
        self._touched.add(link)

    def _error(self, error: Error, now: float) -> None:
        if error.fatal:
            self._refusal = error.code
            self._not_before = error.retry_after / 1000
        elif error.id in self.commands:
            self._answered(self.commands.answer(error.id, error))
        elif error.channel:
            event = self.subscriptions.receive(error)
            if event is not None:
                self._events.append(event)
            elif self.subscriptions.retry_after:
                self._resubscribe_at = now + self.subscriptions.retry_after / 1000
        elif error.to and error.seq:
            self._to_link(error.to, error, now)
        else:
            self._events.append(ProtocolTrouble(error.code, error.message))

    def _answered(self, answered: Answered | None) -> None:
        if answered is not None:
            self._events.append(answered)

    # --- time, and what leaves -----------------------------------------------------------------

    def events(self) -> list[Event]:
        """Return, and forget, what the application should hear."""
        events, self._events = self._events, []
        return events

    def take(self, now: float) -> list[Action]:
        """Return what the driver is to do now."""
        self._time(now)
        if self.state is not State.CLOSED:
            self._gather(now)
        if self._out and self._transport:
            self._actions += payloads(self._out)
        self._out.clear()
        actions, self._actions = self._actions, []
        if self.state is State.CLOSED:
            self._transport = False
        return actions

    def changes(self) -> Changes | None:
        """Return, once, what a journal is to keep now (ask after each `take`); None: nothing. It may also be
        what happened after an earlier answer that is not kept yet, and is kept after it."""
        return self.ledger.changes(self._touched) if self.ledger is not None else None

    def kept(self, changes: Changes, now: float) -> None:
        """The journal has it: what waited for that may leave with the next `take`."""
        for lane in changes.lanes:
            lane.outbound.kept(lane)
            self._touched.add(self.links[lane.outbound.peer])
        for inbound, cursor in changes.cursors:
            inbound.keep(cursor.finished, now)
            self._touched.add(self.links[key_of(cursor.peer, cursor.user)])

    def next_timer(self, now: float) -> float:
        """When `take` has something to do, if nothing happens before; infinity: never."""
        if self.state is State.CLOSED:
            return inf
        timer = min(self._open_at, self._hello_by, self._resubscribe_at)
        if self._heartbeat is not None:
            timer = min(timer, self._heartbeat.next_timer())
        if self.state is State.RECONNECTING:
            timer = min(timer, self._lost_at + self.options.resume_window)
        return min(timer, now if self._touched else inf, *self._timers.values())

    def _time(self, now: float) -> None:
        if now >= self._open_at:
            self._open_at = inf
            self._opening = True
            self._actions.append(Open())
        if now >= self._resubscribe_at:
            self._resubscribe_at = inf
            self.subscriptions.retry()
        if now >= self._hello_by:
            self._drop(CloseCode.HELLO_TIMEOUT, "no welcome", now)
        if self.state is State.RECONNECTING and now >= self._lost_at + self.options.resume_window:
            self._change(State.OFFLINE)
        if self._heartbeat is not None:
            beat = self._heartbeat.poll(now)
            if beat is Beat.PING:
                self._pings += 1
                self._out.append(Ping(id=self._pings))
            elif beat is Beat.LOST:
                self._drop(CloseCode.HEARTBEAT_LOST, "the server does not answer", now)

    def _gather(self, now: float) -> None:
        if self._online:
            if self.subscriptions.changed:
                for command in self.subscriptions.commands(self._next_id):
                    self._id()
                    self._out.append(command)
            if self._watch_changed:
                self._watch_changed = False
                self._out.append(Watch(id=self._id(), clients=sorted(self.watched)))
        for link in list(self.links.values()):
            if link not in self._touched and self._timers.get(link, inf) > now:
                continue
            if self.ledger is not None:
                self.ledger.touch(link)
            for path, message in link.take(now):
                if path != SERVER:
                    self._actions += [Carry(link.peer, path, *send) for send in payloads([message])]
                else:
                    self._out.append(message)
            self._events += [FromLink(link.peer, event, link.user) for event in link.events()]
            self._timers[link] = link.next_timer(now)
        self._touched.clear()

    def _id(self) -> int:
        number, self._next_id = self._next_id, self._next_id + 1
        return number

    def _drop(self, code: int, reason: str, now: float) -> None:
        self._actions.append(Close(code, reason))
        self.lost(code, reason, now)

    def _change(self, state: State, code: int = 0, reason: str = "") -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} → {state}"
        self.state = state
        self._events.append(StateChanged(state, code, reason))

    def _end(self, change: StateChanged) -> None:
        if self.state is State.CLOSED:
            return
        if self._transport:
            self._actions += payloads(self._out)
            self._actions.append(Close(change.code, change.reason))
        self._out.clear()
        self._online = False
        self._open_at = self._hello_by = inf
        self._heartbeat = None
        self.state = State.CLOSED
        for link in self.links.values():
            self._events += [FromLink(link.peer, event, link.user) for event in link.events()]
            if self.ledger is None:  # a journal keeps what is not settled for the next process
                lost = link.abandon(change.error or "closed")
                self._events += [FromLink(link.peer, event) for event in lost]
        self._events += self.commands.abandon(change.reason)
        self._events.append(change)
