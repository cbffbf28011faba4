"""A client as links see it, and one sender's way to it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

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


class Timed(NamedTuple):
    """A number on its way, and when it came (monotonic seconds)."""

    lane: str
    run: int
    seq: int
    since: float


class Flow:
    """One sender's way to one party."""

    __slots__ = (
        "ack_bulk",
        "ack_messages",
        "ack_run",
        "asked",
        "checked",
        "cursors",
        "first",
        "floor_bulk",
        "floor_messages",
        "last_bulk",
        "last_messages",
        "opened",
        "party",
        "quick_run",
        "refused",
        "reply",
        "storing",
        "target",
        "timed",
        "told",
    )

    def __init__(self, party: Party) -> None:
        self.party = party
        self.target: Connection | None = None
        """Where messages go without another question; None: ask."""
        self.opened: Connection | None = None
        """The connection that messages were last handed to …"""
        self.first: dict[str, int] = {}
        """… and lane → the number from which on all that came were."""
        self.refused: dict[str, int] = {}
        """Lane → the lowest number that was answered with `wait` and has not come again."""
        self.storing: set[str] = set()
        """Lanes whose numbers go to the mailbox though the receiver is here: it has to catch up first."""
        self.asked: dict[str, tuple[int, float]] = {}
        """Lane → the hole that the sender was asked to fill, and when."""
        self.checked: dict[str, int] = {}
        """Lane → the receiver's run for which the mailbox was asked what an earlier one had finished with."""
        self.cursors: dict[str, int] = {}
        """Lane → what the receiver had finished with when its last process ended, or the sender came back: it
        may not have heard."""
        self.floor_messages = self.floor_bulk = 0
        """The same, for a quick look: copies of these numbers find their way anew, `target` or not."""
        self.reply: Session | None = None
        """The session to which acknowledgements may go, because it may send here."""
        self.ack_run = 0
        """What this flow's sender has acknowledged of the other way: the run, …"""
        self.ack_messages = self.ack_bulk = 0
        """… and how far each lane is finished with."""
        self.quick_run = -1
        """`ack_run`, if its acknowledgements need only be noted; -1: somebody waits for one of them."""
        self.last_messages = self.last_bulk = 0
        """The newest number of each lane that was handed over."""
        self.timed: Timed | None = None
        """The number whose way is being timed."""

        self.told: dict[str, tuple[int, int, int]] = {}
        """Lane → of an acknowledgement that lists losses, and so cannot be repeated from here: the generation
        and attachment of the sender it went to, and how far everything is finished with."""

    def unheard(self, lane: str, seq: int) -> None:
        """The receiver has finished with everything up to here, and the sender may not have heard."""
        self.cursors[lane] = seq
        if lane == "messages":
            self.floor_messages = seq
        else:
            self.floor_bulk = seq

    def renumbered(self) -> None:
        """The sender begins to number anew."""
        self.cursors.clear()
        self.floor_messages = self.floor_bulk = 0

    def acknowledged(self, lane: str, run: int) -> int:
        """How far this flow's sender has acknowledged the other way; 0 for another run."""
        if run != self.ack_run:
            return 0
        return self.ack_messages if lane == "messages" else self.ack_bulk

    def acknowledge(self, lane: str, run: int, seq: int) -> None:
        """This flow's sender acknowledges the other way; what it says of earlier runs is its mailbox's."""
        if run < self.ack_run:
            return
        if run > self.ack_run:
            self.ack_run, self.ack_messages, self.ack_bulk = run, 0, 0
            self.quick_run = -1
        if lane == "messages":
            self.ack_messages = max(self.ack_messages, seq)
        else:
            self.ack_bulk = max(self.ack_bulk, seq)


def settled_of(session: Session, flow: Flow, lane: str, back: Flow | None = None) -> int:
    """How far a receiver has acknowledged this session's lane, as far as the node has seen. `back`: the
    receiver's own flow, if it is known."""
    if back is None and flow.party.session is not None:
        back = flow.party.session.flows.get(session.client_id)
    settled = flow.cursors.get(lane, 0)
    return max(settled, back.acknowledged(lane, session.run)) if back is not None else settled


def told_to(session: Session, flow: Flow, lane: str) -> int:
    """How far an acknowledgement goes that lists losses and is on its way to this session's connection."""
    back = flow.party.session.flows.get(session.client_id) if flow.party.session is not None else None
    generation, attachment, seq = back.told.get(lane, (0, 0, 0)) if back is not None else (0, 0, 0)
    return seq if (generation, attachment) == (session.generation, session.attachment) else 0


class Parties:
    """The parties of a node, by name."""

    __slots__ = ("_by_name",)

    def __init__(self) -> None:
        self._by_name: dict[str, Party] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def get(self, name: str) -> Party | None:
        """The party of that name, if anybody has to do with it."""
        return self._by_name.get(name)

    def make(self, name: str) -> Party:
        """The party of that name."""
        party = self._by_name.get(name)
        if party is None:
            party = self._by_name[name] = Party(name)
        return party

    def tidy(self, party: Party) -> None:
        """Forget a party that nobody has to do with any more."""
        if party.session is None and not party.flows and not party.watchers:
            self._by_name.pop(party.name, None)
