"""A session's bookkeeping for a journal: what it must keep, what has been kept, what an earlier process left.

The rule is that of a write-ahead log. A number leaves when the journal has it, an acknowledgement when the
journal has the cursor that it tells, a base when the journal has forgotten what is below it. So whatever the
other side has heard, the process that continues the run knows.
"""

from collections import defaultdict
from collections.abc import Iterable

from duolink.protocol import limits
from duolink.protocol.link import Link, key_of
from duolink.protocol.outbound import Outgoing
from duolink.protocol.records import Changes, Saved, SavedCursor, SavedLane

MAX_QUIET = 65_536
"""Outbound lanes without anything under way that a run keeps the numbers of; from there on the next process
begins a new run, which costs nothing when all is settled."""


class Ledger:
    """Made from what the journal holds, and handed to the session before it starts."""

    def __init__(self, saved: Saved) -> None:
        quiet = len(saved.lanes) > MAX_QUIET and not any(lane.entries for lane in saved.lanes)
        self.life = saved.life
        self.restored: list[tuple[str, Outgoing]] = []  # (peer, number), of what an earlier process sent
        self._run = 0 if quiet else saved.run  # what the journal has
        self._begun = False  # its numbers are of another run
        self._lanes: dict[str, list[SavedLane]] = defaultdict(list)
        self._cursors: dict[str, list[SavedCursor]] = defaultdict(list)
        self._touched: set[Link] = set()
        for lane in saved.lanes if not quiet else ():
            self._lanes[lane.peer].append(lane)
        for cursor in saved.cursors:
            self._cursors[key_of(cursor.peer, cursor.user)].append(cursor)

    @property
    def run(self) -> int:
        """The run to present at the first hello; 0: none."""
        return self._run

    def welcomed(self, run: int) -> list[str]:
        """The first welcome has come. Returns the peers to whom something is under way. With another run than
        was presented, what an earlier process had not settled gets new numbers; the journal is begun anew, so
        that the peers whose newest number had a tag are named too."""
        self._begun = run != self._run
        self._run = run
        waiting = [peer for peer, lanes in self._lanes.items() if any(lane.entries for lane in lanes)]
        tagged = [peer for peer, lanes in self._lanes.items() if any(lane.tag for lane in lanes)]
        peers = dict.fromkeys(waiting + tagged) if self._begun else waiting
        return list(peers)[: limits.MAX_LINKS]

    def furnish(self, link: Link) -> None:
        """Give a new link what an earlier process knew of it."""
        lanes = self._lanes.pop(link.key, ())
        link.restore(lanes, self._cursors.pop(link.key, ()), anew=self._begun)
        self.restored += [(link.peer, entry) for entry in link.outstanding()]
        self._touched.add(link)

    def touch(self, link: Link) -> None:
        """Something may have changed there."""
        self._touched.add(link)

    def changes(self, touched: Iterable[Link]) -> Changes | None:
        """Return, once, what is to be kept now, of these links too; None: nothing."""
        links = self._touched.union(touched)
        self._touched.clear()
        lanes = [change for link in links for change in link.lane_changes()]
        cursors = [change for link in links for change in link.cursor_changes()]
        if not (lanes or cursors or self._begun):
            return None
        begun, self._begun = self._begun, False
        return Changes(self._run, begun, tuple(lanes), tuple(cursors))
