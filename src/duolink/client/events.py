"""What a client tells its application besides messages. One type per event; `client.events()` and
`client.on_event()` carry them all."""

from typing import NamedTuple

from duolink.protocol.codes import PeerState
from duolink.protocol.events import State, StateChanged
from duolink.protocol.messages import Gap

__all__ = [
    "ChannelGap",
    "Event",
    "HandlerFailed",
    "MessagesLost",
    "PeerChanged",
    "PresenceChanged",
    "State",
    "StateChanged",
    "SubscriptionEnded",
    "Trouble",
]


class PeerChanged(NamedTuple):
    """A watched peer is here, reconnecting or away now. `restarted`: a new process answers to its name."""

    peer: str
    state: PeerState
    restarted: bool = False


class MessagesLost(NamedTuple):
    """Numbers `first` … `last` from a peer will never come. `reason`: see `protocol.codes.LossReason`.
    `user`: they were sent to this user (`@bob`), whose messages are numbered by themselves."""

    peer: str
    lane: str
    first: int
    last: int
    reason: str
    user: str = ""


class ChannelGap(NamedTuple):
    """Publications of a channel were missed and cannot be had. `reason` is `epoch` (the log was lost, an
    unknown number with it), `evicted` or `overflow`; `first` … `last` are missing, and the stream
    goes on after `offset` of `epoch`."""

    channel: str
    reason: str
    first: int
    last: int
    epoch: str
    offset: int

    @staticmethod
    def of(channel: str, gap: Gap, epoch: str, offset: int) -> "ChannelGap":
        """Make it from what the wire says."""
        return ChannelGap(channel, gap.reason, gap.first, gap.last, epoch, offset)


class PresenceChanged(NamedTuple):
    """Who is subscribed to a channel: the whole set now, and who joined or left (both empty: a snapshot)."""

    channel: str
    present: frozenset[str]
    joined: str = ""
    left: str = ""


class SubscriptionEnded(NamedTuple):
    """The server does not let this client have the channel (any more)."""

    channel: str
    code: str
    reason: str


class HandlerFailed(NamedTuple):
    """A handler of the application raised. The message it was given counts as delivered."""

    what: str
    error: BaseException


class Trouble(NamedTuple):
    """Something that should not happen, and that nobody waits for: for the log."""

    code: str
    reason: str


Event = (
    StateChanged
    | PeerChanged
    | MessagesLost
    | ChannelGap
    | PresenceChanged
    | SubscriptionEnded
    | HandlerFailed
    | Trouble
)
