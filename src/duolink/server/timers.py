"""One heap of timers for everything a node waits for, and work that is too long for one turn.

The node has no clock of its own: whoever drives it asks `next_timer` and calls `poll`, and is told when
something is due sooner than it was when he asked.
"""

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Final, Protocol

SLICE: Final = 500
"""Receivers served before pings and other connections have their turn: ≈ 3 ms of writes."""

_GARBAGE: Final = 1024
"""Cancelled timers that may lie in the heap before it is rebuilt, if they are also the majority."""


class Clock(Protocol):
    """Where time comes from: the system, or a simulation."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970 (UTC)."""
        ...


class Timer:
    """Something that will happen at a time, unless it is cancelled."""

    __slots__ = ("action", "owner", "when")

    def __init__(self, owner: "Timers", when: float, action: Callable[[float], None]) -> None:
        self.owner, self.when = owner, when
        self.action: Callable[[float], None] | None = action

    def cancel(self) -> None:
        """Do not do it; forget the action at once. Repeating is safe, also after it was done."""
        if self.action is not None:
            self.action = None
            self.owner.cancelled()


class Timers:
    """Timers in order of their time; those of one moment in the order they were made."""

    __slots__ = ("_cancelled", "_count", "_heap", "sooner")

    def __init__(self) -> None:
        self.sooner: Callable[[], None] | None = None
        """Called when a timer was set that is due before all the others: who sleeps until `next` must sleep
        less."""
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = count()
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def at(self, when: float, action: Callable[[float], None]) -> Timer:
        """Call `action(now)` at the first `poll` at or after `when` (monotonic seconds)."""
        timer = Timer(self, when, action)
        heappush(self._heap, (when, next(self._count), timer))
        if self.sooner is not None and self._heap[0][2] is timer:
            self.sooner()
        return timer

    def poll(self, now: float) -> None:
        """Do what is due. What an action schedules for `now` is done too."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            timer = heappop(heap)[2]
            action, timer.action = timer.action, None
            if action is None:
                self._cancelled -= 1
            else:
                action(now)

    def next(self) -> float:
        """When the next timer is due; infinity when there is none."""
        heap = self._heap
        while heap and heap[0][2].action is None:
            heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else inf

    def cancelled(self) -> None:
        """A timer of this heap was cancelled."""
        self._cancelled += 1
        if self._cancelled > _GARBAGE and self._cancelled > len(self._heap) // 2:
            # In its place: a poll may be going through it.
            self._heap[:] = [entry for entry in self._heap if entry[2].action is not None]
            heapify(self._heap)
            self._cancelled = 0


class Work:
    """Long jobs in slices, so that pings keep flowing: each job is an iterator that does a little per step.

    `defer` calls back at the end of the loop turn, or in the next one.
    """

    __slots__ = ("_defer", "_jobs", "_waiting")

    def __init__(self, defer: Callable[[Callable[[], None]], None]) -> None:
        self._defer = defer
        self._jobs: deque[tuple[Iterator[None], int]] = deque()
        self._waiting = False

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, job: Iterator[None], steps: int = SLICE) -> None:
        """Take the first `steps` steps of a job now and the rest in later turns, as many at a time."""
        if not _advance(job, steps):
            return
        self._jobs.append((job, steps))
        self._wait()

    def _wait(self) -> None:
        if not self._waiting:
            self._waiting = True
            self._defer(self._turn)

    def _turn(self) -> None:
        self._waiting = False
        job, steps = self._jobs.popleft()  # jobs take turns
        if _advance(job, steps):
            self._jobs.append((job, steps))
        if self._jobs:
            self._wait()


def _advance(job: Iterator[None], steps: int) -> bool:
    """Take some steps; return whether more may follow."""
    for _ in range(steps):
        try:
            next(job)
        except StopIteration:
            return False
    return True
