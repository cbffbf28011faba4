"""Virtual time: a clock that only moves when told to, and a calendar of what is to happen."""

import heapq
from collections.abc import Callable
from random import Random

EPOCH_MS = 1_800_000_000_000
"""Wall time of every virtual clock's start, in milliseconds since 1970: a date in 2027."""


class VirtualClock:
    """A seeded calendar. Things due at the same instant happen in a random order, the same for the same
    seed, so that nobody comes to rely on one."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.now = 0.0
        self._entries: list[tuple[float, float, int, Callable[[], None]]] = []
        self._count = 0

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self.now

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return EPOCH_MS + int(self.now * 1000)

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Do something in `delay` seconds."""
        self.at(self.now + delay, action)

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at a time; what lies in the past is done next."""
        self._count += 1
        heapq.heappush(self._entries, (max(time, self.now), self.random.random(), self._count, action))

    def run(self, until: float) -> None:
        """Let time pass."""
        entries = self._entries
        while entries and entries[0][0] <= until:
            time, _, _, action = heapq.heappop(entries)
            self.now = time
            action()
        self.now = max(self.now, until)
