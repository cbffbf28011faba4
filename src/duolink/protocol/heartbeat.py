"""When to ping, and when a peer is lost. One machine for both sides and every transport."""

from enum import Enum, auto
from math import inf
from typing import NamedTuple


class Beat(Enum):
    """What a heartbeat asks of its driver."""

    PING = auto()
    LOST = auto()


class Pace(NamedTuple):
    """Seconds between pings and for an answer; unanswered pings in a row that mean lost.

    A peer that falls silent is lost after at most `misses × interval + timeout` seconds: the last sign
    of life just after a ping, pings at 1, 2 … `misses` intervals, the last one's time to answer.
    """

    interval: float = 30.0
    timeout: float = 10.0
    misses: int = 3

    @property
    def detection(self) -> float:
        """The longest time from the last sign of life to `LOST`, in seconds."""
        return self.misses * self.interval + self.timeout


class Heartbeat:
    """Watches one peer. Every message and control frame from it is a sign of life.

    Raises `ValueError` for a pace with `timeout > interval` or fewer than one miss.
    """

    __slots__ = ("_deadline", "_due", "_lost", "_missed", "pace")

    def __init__(self, pace: Pace, now: float) -> None:
        if not 0 < pace.timeout <= pace.interval or pace.misses < 1:
            raise ValueError("a heartbeat needs 0 < timeout ≤ interval and misses ≥ 1")
        self.pace = pace
        self._due = now + pace.interval
        self._deadline = inf
        self._missed = 0
        self._lost = False

    def alive(self, at: float) -> None:
        """The peer gave a sign of life at that time (which may lie in the past)."""
        self._due = at + self.pace.interval
        self._deadline = inf
        self._missed = 0

    def suspect(self, now: float) -> None:
        """Something makes the peer doubtful (the machine slept, the network changed): ping at once,
        and take one missed answer for a loss."""
        self._due = now
        self._deadline = inf
        self._missed = self.pace.misses - 1

    def poll(self, now: float) -> Beat | None:
        """Return what is due now, or None. After `LOST` nothing is due any more."""
        if self._lost:
            return None
        if now >= self._deadline:
            self._deadline = inf
            self._missed += 1
            if self._missed >= self.pace.misses:
                self._lost = True
                return Beat.LOST
        if now >= self._due:
            self._deadline = now + self.pace.timeout
            # Keep the rhythm, so that detection has its bound; but not after a long sleep.
            late = now - self._due
            self._due = now + self.pace.interval - (late if late < self.pace.interval else 0.0)
            self._due = max(self._due, self._deadline)
            return Beat.PING
        return None

    def next_timer(self) -> float:
        """Return the time at which `poll` has something to say; infinity after `LOST`."""
        return inf if self._lost else min(self._due, self._deadline)
