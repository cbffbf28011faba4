"""One channel on this node: its members, and what is under way to them."""

from collections import deque
from typing import TYPE_CHECKING

from msgspec import Raw

from duolink.engines.base import Appended, Entry, Retention
from duolink.protocol.codec import encode, encode_binary
from duolink.protocol.messages import NO_DATA, Publication
from duolink.server.registry import Session

if TYPE_CHECKING:
    from duolink.server.connection import Connection
    from duolink.server.recovery import Recovery


class Subscription:
    """A session's membership in a channel. Survives a lost connection, except for its being live."""

    __slots__ = ("active", "channel", "command", "presence", "session", "state")

    def __init__(self, channel: "Channel", session: Session) -> None:
        self.channel, self.session = channel, session
        self.presence = self.state = False
        self.active = True
        self.command = 0
        """The id of the `subscribe` that began it, 0: a hello."""


class Line:
    """One publication, encoded: a line of a text payload, or a whole binary payload. `state`: it belongs to a
    snapshot."""

    __slots__ = ("binary", "data", "offset")

    def __init__(self, channel: str, entry: Entry, page: int = 0, state: bool = False) -> None:
        publication = Publication(
            channel=channel,
            offset=entry.offset,
            sender=entry.sender,
            time=entry.time,
            page=page,
            binary=entry.binary,
            data=Raw(entry.data) if entry.data else NO_DATA,
        )
        if entry.name:
            publication.name, publication.deleted, publication.state = entry.name, entry.deleted, state
        self.offset = entry.offset
        self.binary = entry.binary
        self.data = encode_binary(publication) if entry.binary else encode(publication)


class FanOut:
    """Lines on their way to more subscribers than one slice holds."""

    __slots__ = ("done", "lines", "targets")

    def __init__(self, lines: list[Line], targets: "list[tuple[Connection, Subscription]]") -> None:
        self.lines, self.targets = lines, targets
        self.done = 0


class Channel:
    """One channel on this node, from its first member to its last."""

    __slots__ = (
        "early",
        "epoch",
        "fanouts",
        "live",
        "members",
        "name",
        "offset",
        "opening",
        "pending",
        "pending_bytes",
        "recovery",
        "retention",
        "spreads",
        "watchers",
    )

    def __init__(self, name: str, retention: Retention) -> None:
        self.name = name
        self.retention = retention
        self.epoch = ""
        """Empty while the channel is being opened."""
        self.opening = False
        """Whether the log was asked, some time, where it stands."""
        self.offset = 0
        """Of the newest publication that was accepted for fan-out."""
        self.members: dict[str, Subscription] = {}
        """Everyone who is present: client id → subscription."""
        self.live: dict[Connection, Subscription] = {}
        self.watchers: dict[Connection, None] = {}
        """Connections that hear who joins and leaves."""
        self.pending: list[Line] = []
        self.pending_bytes = 0
        self.fanouts: deque[FanOut] = deque()
        self.spreads = 0
        """Ephemeral messages that are being sent to many."""
        self.early: list[Appended] = []
        self.recovery: Recovery | None = None

    def line(self, entry: Entry) -> Line:
        """Encode an entry of this channel's log."""
        return Line(self.name, entry)
