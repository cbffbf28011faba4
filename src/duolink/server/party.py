"""A client as links see it, and one sender's way to it."""

from typing import TYPE_CHECKING

from duolink.server.registry import Session

if TYPE_CHECKING:
    from duolink.server.connection import Connection


class Party:
    """A client as links see it. Lives while it has a session here, or somebody sends to it or watches it."""

    __slots__ = ("flows", "name", "session", "waiters", "watchers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.session: Session | None = None
        self.flows: dict[Session, Flow] = {}
        """Who sends to it."""
        self.waiters: dict[Session, Flow] = {}
        """Who was told `wait`, may send, and has not been told `here` since; the longest first."""
        self.watchers: dict[Session, None] = {}

    @property
    def connection(self) -> "Connection | None":
        """The connection that messages to it go to."""
        return self.session.connection if self.session is not None else None


class Flow:
    """One sender's way to one party."""

    __slots__ = ("party", "refused", "reply", "target")

    def __init__(self, party: Party) -> None:
        self.party = party
        self.target: Connection | None = None
        """Where messages go without another question; None: ask."""
        self.refused: dict[str, int] = {}
        """Lane → the lowest number that was answered with `wait` and has not come again."""
        self.reply: Session | None = None
        """The session to which acknowledgements may go, because it may send here."""
