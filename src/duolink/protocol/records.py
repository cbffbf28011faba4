"""What a journal is told of a client's links, and gives back to the process that continues its run.

Times are the machine's (monotonic seconds); a journal keeps them as wall time.
"""

from typing import TYPE_CHECKING, NamedTuple

from duolink.protocol.messages import LostRange

if TYPE_CHECKING:
    from duolink.protocol.inbound import Inbound
    from duolink.protocol.outbound import Outbound, Outgoing


class SavedEntry(NamedTuple):
    """A number that is not settled, or that was told as lost and whose place the receiver has not passed."""

    seq: int
    data: bytes  # empty: `stored`, a `request`, or lost
    binary: bool
    expires: float
    reply: str
    failed: bool
    collapse: str
    tag: str
    request: bool
    stored: bool
    reason: str  # why it was told as lost; empty: it was not


class SavedLane(NamedTuple):
    """An outbound lane: `entries` are the numbers below `next_seq` without a hole, from `base` on."""

    peer: str
    lane: str
    next_seq: int
    tag: str  # of the newest number
    entries: tuple[SavedEntry, ...]


class SavedCursor(NamedTuple):
    """How far the application has finished with a lane of a sender's run, and what of it was lost."""

    peer: str
    user: str
    lane: str
    run: int
    finished: int
    lost: tuple[LostRange, ...]


class Saved(NamedTuple):
    """All that a journal holds. `run` 0: nothing yet. `life` counts the processes that have had it."""

    run: int
    life: int
    lanes: tuple[SavedLane, ...]
    cursors: tuple[SavedCursor, ...]


class LaneChange(NamedTuple):
    """What has happened on an outbound lane since it was last told: `entries` are new; those below `base`
    are settled; of the others, those up to `stored` need no body, and those of `ended` were lost."""

    outbound: "Outbound"
    top: int
    base: int
    stored: int
    tag: str
    entries: tuple["Outgoing", ...]
    saved: tuple[SavedEntry, ...]
    ended: tuple[tuple[int, str], ...]


class CursorChange(NamedTuple):
    """Where an inbound lane's cursor is now."""

    inbound: "Inbound"
    cursor: SavedCursor


class Changes(NamedTuple):
    """One turn's changes, to be kept all or none. `begun`: nothing that was numbered in an earlier run counts
    any more."""

    run: int
    begun: bool
    lanes: tuple[LaneChange, ...]
    cursors: tuple[CursorChange, ...]
