"""Which way a link's messages travel: trust, promotion, and one choice per lane.

A path is `server` (trusted while the connection stands), `direct` or `turn` (data channels, trusted
as long as their pings are answered). Each sender chooses its own outbound path; receivers accept
any, so the two sides never have to agree, and a choice that turns out wrong costs repeats, not messages.
"""

from enum import StrEnum
from math import inf
from typing import Final, NamedTuple

PING_EVERY: Final = 3.0
"""Seconds between pings on a path in use: two fit into the time trust lasts."""

PING_IDLE: Final = 15.0
"""Seconds between pings on a path held in reserve: below the shortest common UDP NAT timeout (30 s)."""

TRUST: Final = 6.5
"""Seconds a path is trusted after its last answer: two pings and half a second."""

LAPSE: Final = 2 * TRUST
"""Seconds after the last answer during which a path that lapsed still gets copies of small messages."""

PROMOTE_AFTER: Final = 2
"""Answers in a row before a path carries messages."""

ADVANTAGE: Final = 0.20
ADVANTAGE_SECONDS: Final = 0.005
"""How much better (and by how much at least) another path must be to change to it; against flapping."""

MAX_OUTSTANDING: Final = 16
"""Pings of one path without answer that are remembered."""


class PathKind(StrEnum):
    SERVER = "server"
    DIRECT = "direct"
    TURN = "turn"


_PREFERENCE: Final = {PathKind.DIRECT: 0, PathKind.TURN: 1, PathKind.SERVER: 2}


class PingPath(NamedTuple):
    """A ping to be sent on a path."""

    path: str
    id: int


class Path:
    """What is known of one path: `round_trip` in s, `throughput` in bytes/s (None: unmeasured)."""

    __slots__ = (
        "_pings",
        "_sent",
        "answered_at",
        "answers",
        "kind",
        "name",
        "next_ping",
        "round_trip",
        "throughput",
    )

    def __init__(self, name: str, kind: PathKind, now: float) -> None:
        self.name, self.kind = name, kind
        self.answers = 0
        self.answered_at = -inf
        self.round_trip: float | None = None
        self.throughput: float | None = None
        self.next_ping = inf if kind is PathKind.SERVER else now
        self._pings = 0
        self._sent: dict[int, float] = {}

    def trusted(self, now: float) -> bool:
        """Whether what is sent here may be expected to arrive."""
        return self.kind is PathKind.SERVER or now < self.answered_at + TRUST

    def proven(self, now: float) -> bool:
        """Whether it may carry messages: trusted, after enough answers in a row."""
        return self.kind is PathKind.SERVER or (self.answers >= PROMOTE_AFTER and self.trusted(now))

    def ping(self, now: float, in_use: bool) -> PingPath:
        """Make the ping that is due."""
        if now >= self.answered_at + TRUST:
            self.answers = 0
        self._pings += 1
        self._sent[self._pings] = now
        if len(self._sent) > MAX_OUTSTANDING:
            del self._sent[next(iter(self._sent))]
        eager = in_use or self.answers < PROMOTE_AFTER
        self.next_ping = now + (PING_EVERY if eager else PING_IDLE)
        return PingPath(self.name, self._pings)

    def pong(self, ping: int, now: float) -> None:
        """An answer came. One to a ping never sent, or answered before, says nothing."""
        sent = self._sent.pop(ping, None)
        if sent is None:
            return
        self.answers = self.answers + 1 if self.trusted(now) or not self.answers else 1
        self.answered_at = now
        if self.answers < PROMOTE_AFTER:
            self.next_ping = now  # prove it quickly
        self.observe(now - sent)

    def observe(self, round_trip: float, throughput: float | None = None) -> None:
        """Take a measurement; smoothed as TCP does (RFC 6298 §2.3, α = 1/8)."""
        known = self.round_trip
        self.round_trip = round_trip if known is None else known + (round_trip - known) / 8
        if throughput is not None:
            rate = self.throughput
            self.throughput = throughput if rate is None else rate + (throughput - rate) / 8


class Paths:
    """The paths of one link, and the choice for each lane."""

    __slots__ = ("_chosen", "_paths")

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}
        self._chosen: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def __getitem__(self, name: str) -> Path:
        return self._paths[name]

    def names(self) -> list[str]:
        """The open paths, oldest first."""
        return list(self._paths)

    def open(self, name: str, kind: PathKind, now: float) -> None:
        """A path is there; what was known of an earlier one of that name is forgotten."""
        self._paths[name] = Path(name, kind, now)

    def close(self, name: str) -> None:
        """A path is gone."""
        self._paths.pop(name, None)

    def chosen(self, lane: str) -> str | None:
        """The path the lane travels by since the last `choose`; None before the first or without any."""
        return self._chosen.get(lane)

    def choose(self, lane: str, now: float) -> tuple[str, ...]:
        """Return the paths to send a lane's messages on, the best first: none (nothing is open), one,
        or two while trust in the one in use has lapsed and it may yet answer."""
        paths = self._paths
        if len(paths) == 1:  # nothing to weigh
            only = next(iter(paths))
            self._chosen[lane] = only
            return (only,)
        if not paths:
            self._chosen.pop(lane, None)
            return ()
        current = paths.get(self._chosen.get(lane, ""))
        proven = sorted(
            (path for path in paths.values() if path.proven(now)), key=lambda path: _PREFERENCE[path.kind]
        )
        if not proven:
            current = current or next(iter(paths.values()))
            self._chosen[lane] = current.name
            return (current.name,)
        choice = current if current in proven else proven[0]
        for path in proven:
            if _better(path, choice, lane):
                choice = path
        if current is not None and not current.trusted(now) and now < current.answered_at + LAPSE:
            return (choice.name, current.name)
        self._chosen[lane] = choice.name
        return (choice.name,)

    def poll(self, now: float) -> list[PingPath]:
        """Return the pings that are due."""
        used = set(self._chosen.values())
        return [path.ping(now, path.name in used) for path in self._paths.values() if now >= path.next_ping]

    def next_timer(self, now: float) -> float:
        """When the next ping is due, or trust in a path in use ends."""
        timer = inf
        used = self._chosen.values()
        for path in self._paths.values():
            timer = min(timer, path.next_ping)
            if path.name in used and path.kind is not PathKind.SERVER:
                for end in (path.answered_at + TRUST, path.answered_at + LAPSE):
                    if end > now:
                        timer = min(timer, end)
        return timer


def _better(path: Path, current: Path, lane: str) -> bool:
    """Whether a lane should leave `current` for `path`. What costs the server nothing is preferred
    as long as it is not slower; the other way it takes a clear advantage."""
    if path is current:
        return False
    if lane == "bulk" and path.throughput is not None and current.throughput is not None:
        return path.throughput > current.throughput * (1 + ADVANTAGE)
    preferred = _PREFERENCE[path.kind] < _PREFERENCE[current.kind]
    if path.round_trip is None or current.round_trip is None:
        return preferred
    gain = current.round_trip - path.round_trip
    if preferred:
        return gain >= -ADVANTAGE_SECONDS / 2
    return gain > ADVANTAGE_SECONDS and gain > current.round_trip * ADVANTAGE
