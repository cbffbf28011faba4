"""What a link has taken of its peer's earlier runs, until their mailbox has heard of it.

A new run ends the ones before it: nothing more is taken of them. But its first message may come while the
application still works at the last ones of theirs, or may overtake the acknowledgement. Whoever keeps them
would hand them to this client's next process, though this one has finished with them.
"""

from collections.abc import Iterable, Iterator
from math import inf
from typing import Final

from duolink.protocol.inbound import Inbound

MAX_FORMER: Final = 4
"""Ended lanes that are remembered, the latest: two runs with both lanes, for each of thousands of links. A
peer that restarts all the time, while nobody finishes with anything, must not cost the memory."""


class Former:
    """The ended lanes of one link."""

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        self._lanes: dict[tuple[int, str], Inbound] = {}

    def __iter__(self) -> Iterator[Inbound]:
        return iter(self._lanes.values())

    def end(self, lanes: Iterable[Inbound]) -> None:
        """These have ended. No journal keeps their cursors, which are told as they are."""
        for inbound in lanes:
            inbound.kept, inbound.pull_at = None, inf
            self._lanes[inbound.run, inbound.lane] = inbound
        while len(self._lanes) > MAX_FORMER:
            del self._lanes[next(iter(self._lanes))]

    def finish(self, run: int, lane: str, seq: int, now: float) -> None:
        """The application has finished with a message of theirs."""
        inbound = self._lanes.get((run, lane))
        if inbound is not None:
            inbound.finish(seq, now)

    def again(self, run: int, lane: str, now: float) -> None:
        """Something of theirs came once more: whoever sends it has not heard how far they are."""
        inbound = self._lanes.get((run, lane))
        if inbound is not None:
            inbound.ack_at = now

    @property
    def ack_at(self) -> float:
        """When an acknowledgement is due."""
        return min((inbound.ack_at for inbound in self._lanes.values()), default=inf)
