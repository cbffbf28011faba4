"""What is measured, of whom, and what it may cost."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.build import BUILD


@dataclass(frozen=True, slots=True)
class Server:
    """One program under measurement."""

    name: str
    command: tuple[str, ...]
    """With `{port}` where the port belongs."""
    protocol: str
    """What the load generator speaks to it: `duolink` or `raw`."""
    arguments: tuple[str, ...] = ()
    """Further arguments of the load generator."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load and the servers that are put under it.

    The first server is duolink, the second the reference of all ratios. `must` and `goal` bound duolink's
    ratio, or, where there is no reference, its figure itself; None: it is for information.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    servers: tuple[Server, ...]
    must: float | None = None
    goal: float | None = None
    warmup: int = 0
    messages: int = 0
    relative: bool = True
    unit: str = "µs"


_DUOLINK_COMMAND: Final = (
    str(Path(sys.executable).with_name("duolink")),
    *("serve", "--host", "127.0.0.1", "--port", "{port}", "--memory"),
)


def _gorilla(name: str, write: str) -> Server:
    return Server(name, (str(BUILD / "gorilla"), "-listen", "127.0.0.1:{port}", "-write", write), "raw")


DUOLINK: Final = Server("duolink", _DUOLINK_COMMAND, "duolink")
SEPARATE: Final = Server("duolink, one frame each", _DUOLINK_COMMAND, "duolink", ("-separately",))
DIRECT: Final = _gorilla("gorilla, direct write", "direct")
PUMP: Final = _gorilla("gorilla, write pump", "pump")
JOIN: Final = _gorilla("gorilla, joining pump", "join")
FLOOR: Final = Server("C, epoll", (str(BUILD / "floor"), "{port}"), "raw")

SCENARIOS: Final = (
    Scenario(
        name="single",
        title="A single pair, 1 message in flight",
        arguments=("-mode", "pair", "-pairs", "1", "-in-flight", "1"),
        servers=(DUOLINK, DIRECT, FLOOR),
        must=1.0,
        goal=0.85,
        warmup=3_000,
        messages=20_000,
    ),
    Scenario(
        name="pair-1",
        title="Pairs, 1 message in flight",
        arguments=("-mode", "pair", "-pairs", "{pairs}", "-in-flight", "1"),
        servers=(DUOLINK, DIRECT, PUMP, FLOOR),
        must=1.0,
        goal=0.85,
        warmup=40_000,
        messages=120_000,
    ),
    Scenario(
        name="pair-32",
        title="Pairs, 32 messages in flight",
        arguments=("-mode", "pair", "-pairs", "{pairs}", "-in-flight", "32"),
        servers=(DUOLINK, DIRECT, SEPARATE, PUMP, JOIN, FLOOR),
        must=0.6,
        goal=0.4,
        warmup=30_000,
        messages=400_000,
    ),
    Scenario(
        name="broadcast",
        title="Broadcast, 1 → 1000",
        arguments=("-mode", "fanout", "-subscribers", "1000"),
        servers=(DUOLINK, PUMP, DIRECT, FLOOR),
        must=1.0,
        goal=0.85,
        warmup=20_000,
        messages=200_000,
    ),
    Scenario(
        name="idle",
        title="Idle connection",
        arguments=("-mode", "idle", "-connections", "1000"),
        servers=(DUOLINK, DIRECT, PUMP, FLOOR),
        must=18.0,
        goal=18.0,
        relative=False,
        unit="KiB",
    ),
)
