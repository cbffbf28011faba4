"""What happened lately: a ring of events for the operator, with a bound on how many a second may bring."""

from collections import deque
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, get_args

from duolink.server.timers import Clock

Kind = Literal[
    "connected",
    "resumed",
    "detached",
    "ended",
    "refused",
    "duplicate",
    "slow_consumer",
    "disconnected",
    "mailbox_full",
    "engine_failed",
    "engine_recovered",
    "draining",
]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

KEPT: Final = 1000
"""Events that are kept, ≈ 300 kB: some minutes of a quiet server."""

PER_SECOND: Final = 50
"""Events of one kind kept per second: a flood of one kind shall not push everything else out at once. The
next one kept says how many were left out."""


class Happened(NamedTuple):
    """One event. Each `id` is the one before plus 1, and above all of an earlier process; `time` is wall
    milliseconds."""

    id: int
    time: int
    kind: Kind
    client: str | None
    user: str | None
    address: str | None
    detail: str


class _Rate:
    __slots__ = ("count", "left_out", "since")

    def __init__(self) -> None:
        self.since = -1.0
        self.count = self.left_out = 0


class Happenings:
    """The ring."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ring: deque[Happened] = deque(maxlen=KEPT)
        self._last = clock.wall_ms()  # ids go on rising over restarts: there are fewer than one a millisecond
        self._rates = {kind: _Rate() for kind in KINDS}
        self._listeners: dict[Callable[[Happened], None], None] = {}

    def add(
        self,
        kind: Kind,
        client: str | None = None,
        user: str | None = None,
        address: str | None = None,
        detail: str = "",
    ) -> None:
        """Keep an event, unless its kind has had its share of this second."""
        rate, now = self._rates[kind], self._clock.monotonic()
        if now - rate.since >= 1.0:
            rate.since, rate.count = now, 0
        if rate.count >= PER_SECOND:
            rate.left_out += 1
            return
        rate.count += 1
        if rate.left_out:
            detail = f"{detail} ({rate.left_out} more were left out)".lstrip()
            rate.left_out = 0
        self._last += 1
        happened = Happened(
            self._last, self._clock.wall_ms(), kind, client or None, user or None, address or None, detail
        )
        self._ring.append(happened)
        for listener in list(self._listeners):
            listener(happened)

    def after(self, last: int, limit: int = KEPT) -> list[Happened]:
        """Return the oldest `limit` of those with an id above `last`, the newest last."""
        ring = self._ring
        if not ring or last >= self._last:
            return []
        first = max(0, last + 1 - ring[0].id)
        return [ring[at] for at in range(first, min(first + limit, len(ring)))]

    @property
    def last(self) -> int:
        """The id of the newest."""
        return self._last

    def listen(self, listener: Callable[[Happened], None]) -> None:
        """Call it for each event from now on."""
        self._listeners[listener] = None

    def silence(self, listener: Callable[[Happened], None]) -> None:
        """Call it no more."""
        self._listeners.pop(listener, None)
