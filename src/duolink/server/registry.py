"""Sessions: what survives a lost connection, and who owns a client id.

A session is *active* while a connection carries its client, *detached* for the resume window after
that connection was lost, then *ended*. `TRANSITIONS` is the whole machine. There is one session per
client id, the one with the newest generation.
"""

from collections.abc import Callable
from enum import Enum, auto
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

import msgspec

from duolink.protocol.messages import Hello
from duolink.server.auth import Identity
from duolink.server.names import Names
from duolink.server.timers import Timer, Timers

if TYPE_CHECKING:
    from duolink.server.channel import Subscription
    from duolink.server.connection import Connection
    from duolink.server.delivery import Delivery
    from duolink.server.party import Flow, Party


class State(Enum):
    """Where a session is in its life."""

    ACTIVE = auto()
    DETACHED = auto()
    ENDED = auto()


class Cause(Enum):
    """What moves a session on."""

    LOST = auto()  # its connection ended, and the client may come back
    RESUMED = auto()  # a hello with its id and secret
    LEFT = auto()  # the client said goodbye, or was sent away
    FENCED = auto()  # another session of the client took over
    EXPIRED = auto()  # the resume window is over


TRANSITIONS: Final[dict[tuple[State, Cause], State]] = {
    (State.ACTIVE, Cause.LOST): State.DETACHED,
    (State.ACTIVE, Cause.RESUMED): State.ACTIVE,  # on a newer connection
    (State.ACTIVE, Cause.LEFT): State.ENDED,
    (State.ACTIVE, Cause.FENCED): State.ENDED,
    (State.DETACHED, Cause.RESUMED): State.ACTIVE,
    (State.DETACHED, Cause.LEFT): State.ENDED,
    (State.DETACHED, Cause.FENCED): State.ENDED,
    (State.DETACHED, Cause.EXPIRED): State.ENDED,
}
"""Everything else cannot happen: a `KeyError` here is a bug of the node."""


class Session:
    """One session. Its `connection` is there exactly while it is active."""

    __slots__ = (
        "_previous",
        "_secret",
        "attached",
        "attachment",
        "client_id",
        "connection",
        "delivery",
        "flows",
        "generation",
        "id",
        "identity",
        "left",
        "party",
        "run",
        "since",
        "state",
        "subscriptions",
        "suffix",
        "user",
        "watching",
        "window",
    )

    def __init__(
        self, client_id: str, session_id: str, generation: int, run: int, identity: Identity
    ) -> None:
        self.client_id = client_id
        self.id = session_id
        self.generation = generation
        self.attachment = 0
        self.since = 0.0
        """When it began (monotonic seconds) …"""
        self.attached = 0.0
        """… and when its newest connection came."""
        self.run = run
        self.identity = identity
        self.state = State.DETACHED
        self.connection: Connection | None = None
        self.window: Timer | None = None
        self.user = ""
        """Whose client it is."""
        self.delivery: Delivery | None = None
        """What its mailbox has for it and has not handed over yet; None: nothing."""
        self.left = False
        """Whether its process is gone for good, and does not merely seem to be."""
        self.party: Party | None = None
        self.flows: dict[str, Flow] = {}
        self.watching: dict[str, Party] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.suffix = b',"from":' + msgspec.json.encode(client_id) + b"}"
        """What makes a line of this client's one that names its sender."""
        self._secret = b""
        self._previous = b""

    def rotate(self, secret: str) -> None:
        """A new secret counts from now on; the one that was last confirmed until the next `confirm`: the
        welcome that tells the new one may be lost, and the one after it."""
        self._previous, self._secret = self._previous or self._secret, _digest(secret)

    def confirm(self) -> None:
        """The client has shown that it knows the newest secret: the one before it is void."""
        self._previous = b""

    def opens_with(self, session_id: str, secret: str) -> bool:
        """Whether this id and secret resume it."""
        if not session_id or not compare_digest(_digest(session_id), _digest(self.id)):
            return False
        digest = _digest(secret)
        matches_previous = bool(self._previous) and compare_digest(digest, self._previous)
        return compare_digest(digest, self._secret) or matches_previous


class Sessions:
    """The sessions of a node, one per client id."""

    def __init__(self, timers: Timers, window: float, ended: Callable[[Session], None]) -> None:
        """`window`: seconds a detached session waits; `ended` is told of each that ended, once."""
        self._timers = timers
        self._window = window
        self._ended = ended
        self._by_client: dict[str, Session] = {}
        self.names = Names()
        """Their clients, in order."""
        self.active = 0
        """How many of them have a connection."""

    def __len__(self) -> int:
        return len(self._by_client)

    def get(self, client_id: str) -> Session | None:
        """The client's session; never an ended one."""
        return self._by_client.get(client_id)

    def resumes(self, hello: Hello) -> Session | None:
        """The session this hello resumes, if there is one."""
        session = self._by_client.get(hello.client_id)
        return session if session is not None and session.opens_with(hello.session, hello.secret) else None

    def open(self, session: Session, now: float) -> None:
        """A new session owns the client: an older one is fenced."""
        older = self._by_client.get(session.client_id)
        if older is not None:
            if older.generation >= session.generation:
                raise ValueError(f"generation {session.generation} is not newer than {older.generation}")
            self.move(older, Cause.FENCED, now)
        self._by_client[session.client_id] = session
        self.names.add(session.client_id)
        session.since = now

    def attach(self, session: Session, connection: "Connection", secret: str, now: float) -> None:
        """A hello was accepted: this connection carries the session from now on, with a new secret."""
        self.move(session, Cause.RESUMED, now)
        session.connection = connection
        session.attached = now
        session.attachment += 1
        session.rotate(secret)

    def move(self, session: Session, cause: Cause, now: float) -> None:
        """Move a session on. Leaving `ACTIVE`, or resuming, takes its connection off."""
        before, after = session.state, TRANSITIONS[session.state, cause]
        session.state = after
        session.connection = None
        self.active += (after is State.ACTIVE) - (before is State.ACTIVE)
        if session.window is not None:
            session.window.cancel()
            session.window = None
        if after is State.DETACHED:
            session.window = self._timers.at(now + self._window, _Expiry(self, session))
        elif after is State.ENDED:
            session.left = cause is not Cause.EXPIRED
            if self._by_client.get(session.client_id) is session:
                del self._by_client[session.client_id]
                self.names.discard(session.client_id)
            self._ended(session)


class _Expiry:
    """The end of a session's resume window."""

    __slots__ = ("_session", "_sessions")

    def __init__(self, sessions: Sessions, session: Session) -> None:
        self._sessions, self._session = sessions, session

    def __call__(self, now: float) -> None:
        self._sessions.move(self._session, Cause.EXPIRED, now)


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
