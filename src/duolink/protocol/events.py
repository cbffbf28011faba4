"""What a client's session asks of its driver, and what it tells the application."""

from enum import StrEnum
from typing import Any, Final, NamedTuple

from duolink.protocol.link import Event as LinkEvent
from duolink.protocol.messages import Ephemeral, Message, Publication, Signal
from duolink.protocol.payload import Send
from duolink.protocol.subscriptions import ChannelEvent


class State(StrEnum):
    """What an application hears of its connection."""

    IDLE = "idle"
    CONNECTING = "connecting"
    ONLINE = "online"
    RECONNECTING = "reconnecting"
    OFFLINE = "offline"
    CLOSED = "closed"


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.IDLE: frozenset({State.CONNECTING, State.CLOSED}),
    State.CONNECTING: frozenset({State.ONLINE, State.CLOSED}),
    State.ONLINE: frozenset({State.RECONNECTING, State.CLOSED}),
    State.RECONNECTING: frozenset({State.ONLINE, State.OFFLINE, State.CLOSED}),
    State.OFFLINE: frozenset({State.ONLINE, State.CLOSED}),
    State.CLOSED: frozenset(),
}
"""Every change of state there is."""


class Open(NamedTuple):
    """Open a transport, then call `opened` or `lost`."""


class Close(NamedTuple):
    """Close the transport; nothing is expected of it any more."""

    code: int
    reason: str


class Carry(NamedTuple):
    """Send a payload to a peer on one of the link's other paths."""

    peer: str
    path: str
    payload: bytes
    binary: bool


Action = Open | Send | Close | Carry


class StateChanged(NamedTuple):
    """`code` is the close code that led here, 0 where there is none; `error` the server's error code."""

    state: State
    code: int = 0
    reason: str = ""
    error: str = ""


class FromLink(NamedTuple):
    """What happened on the link to a peer. `user`: on that of what the peer sends to this user."""

    peer: str
    event: LinkEvent
    user: str = ""


class Answered(NamedTuple):
    """The answer to a command: a message, or an `Error`. `context` is what the command was given with."""

    context: Any
    answer: Message
    publications: tuple[Publication, ...] = ()


class SignalReceived(NamedTuple):
    signal: Signal


class EphemeralReceived(NamedTuple):
    ephemeral: Ephemeral


class ProtocolTrouble(NamedTuple):
    """The server said something it must not say, or refused something nobody waits for: for the log."""

    code: str
    reason: str


Event = (
    StateChanged | FromLink | ChannelEvent | Answered | SignalReceived | EphemeralReceived | ProtocolTrouble
)
