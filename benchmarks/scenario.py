"""What is measured, of whom, and what it may cost."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.build import BUILD, HERE


@dataclass(frozen=True, slots=True)
class Server:
    """One program under measurement."""

    name: str
    command: tuple[str, ...]
    """With `{port}` where the port belongs, `{database}` where a file in a fresh folder on a disk does."""
    protocol: str
    """What the load generator speaks to it: `duolink` or `raw`. Empty: it serves nobody, but is a yardstick:
    a program that does something in `{folder}`, `{share}` of it, and prints what it took as JSON."""
    arguments: tuple[str, ...] = ()
    """Further arguments of the load generator."""
    figure: str = ""
    """The figure that counts here, where it is another one than its scenario's."""
    holds: int = 0
    """Messages that are stored in its database when it starts."""
    cold: bool = False
    """Whether that database must come from the disk, and not from the kernel's cache."""

    def holding(self, share: float) -> int:
        """How many messages its database holds in a run of this share: squared, since filling takes long."""
        return round(self.holds * share * share)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load and the servers that are put under it.

    The first server is duolink, the second the reference of all ratios. `must` and `goal` bound duolink's
    ratio, or, where there is no reference, its figure itself; None: nothing is asked.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    """What the load generator is to do. Empty: nothing; how long the server takes to start is measured."""
    servers: tuple[Server, ...]
    must: float | None = None
    goal: float | None = None
    warmup: int = 0
    messages: int = 0
    relative: bool = True
    figure: str = "cpu_us"
    """Which of the figures that a measurement returns is compared."""
    unit: str = "µs"
    meaning: str = "of server CPU per message"
    more_is_better: bool = False
    slack: float = 0.0
    """What the figure may be above its bound, in its own unit: `must` × the reference + slack."""
    writes_nothing: bool = False
    """Whether duolink must leave the disk alone during the measurement."""


_SERVE: Final = (
    str(Path(sys.executable).with_name("duolink")),
    *("serve", "--host", "127.0.0.1", "--port", "{port}"),
)
_IN_MEMORY: Final = (*_SERVE, "--memory")
_ON_DISK: Final = (*_SERVE, "--database", "{database}")


def _yardstick(name: str, program: str, *arguments: str, figure: str = "") -> Server:
    path = HERE / "yardsticks" / program
    command = (sys.executable, str(path), "{folder}", "{share}", *arguments)
    return Server(name, command, protocol="", figure=figure)


def _gorilla(name: str, write: str) -> Server:
    return Server(name, (str(BUILD / "gorilla"), "-listen", "127.0.0.1:{port}", "-write", write), "raw")


DUOLINK: Final = Server("duolink", _IN_MEMORY, "duolink")
SEPARATE: Final = Server("duolink, one frame each", _IN_MEMORY, "duolink", ("-separately",))
DIRECT: Final = _gorilla("gorilla, direct write", "direct")
PUMP: Final = _gorilla("gorilla, write pump", "pump")
JOIN: Final = _gorilla("gorilla, joining pump", "join")
FLOOR: Final = Server("C, epoll", (str(BUILD / "floor"), "{port}"), "raw")

DURABLE: Final = Server("duolink, durable", _ON_DISK, "duolink")
MEMORY: Final = Server("duolink, memory", _IN_MEMORY, "duolink")
DRAINED: Final = Server("duolink, mailbox", _ON_DISK, "duolink", ("-mode", "drain"))
RELAYED: Final = Server("duolink, live", _ON_DISK, "duolink", ("-mode", "relay"))
FULL: Final = Server("duolink, 1,000,000 stored", _ON_DISK, "duolink", holds=1_000_000)
EMPTY: Final = Server("duolink, nothing stored", _ON_DISK, "duolink")
COLD: Final = Server("the same, disk cache cold", _ON_DISK, "duolink", holds=1_000_000, cold=True)
MIXED: Final = _yardstick("SQLite alone", "inserts.py", "mixed")
SORTED: Final = _yardstick("SQLite, a box at a time", "inserts.py", "sorted")
BARE: Final = _yardstick("SQLite, without a key", "inserts.py", "bare")
FSYNC: Final = _yardstick("a lone fsync, median", "fsync.py", figure="p50_us")
FSYNC_P99: Final = _yardstick("a lone fsync, p99", "fsync.py", figure="p99_us")

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
        figure="kib",
        unit="KiB",
        meaning="of server memory per connection",
    ),
    Scenario(
        name="durable",
        title="Storing, 100 senders",
        arguments=("-mode", "durable", "-senders", "100"),
        servers=(DURABLE, MIXED, SORTED, BARE),
        must=0.4,
        warmup=25_600,
        messages=200_000,
        figure="messages_per_second",
        unit="/s",
        meaning="messages stored per second",
        more_is_better=True,
    ),
    Scenario(
        name="stored-p99",
        title="Stored, under half load",
        arguments=("-mode", "stored", "-senders", "10", "-pairs", "{pairs}", "-in-flight", "32"),
        servers=(DURABLE, FSYNC, FSYNC_P99),
        must=10.0,
        warmup=200,
        messages=2_000,
        figure="p99_us",
        meaning="from sending to `stored`, p99",
    ),
    Scenario(
        name="live-durable-1",
        title="Live with a database, 1 in flight",
        arguments=("-mode", "pair", "-pairs", "{pairs}", "-in-flight", "1"),
        servers=(DURABLE, MEMORY),
        must=1.1,
        warmup=40_000,
        messages=120_000,
        writes_nothing=True,
    ),
    Scenario(
        name="live-durable-32",
        title="Live with a database, 32 in flight",
        arguments=("-mode", "pair", "-pairs", "{pairs}", "-in-flight", "32"),
        servers=(DURABLE, MEMORY),
        must=1.1,
        warmup=30_000,
        messages=400_000,
        writes_nothing=True,
    ),
    Scenario(
        name="drain",
        title="Draining a mailbox",
        arguments=("-in-flight", "32"),
        servers=(DRAINED, RELAYED),
        must=0.5,
        warmup=10_000,
        messages=30_000,
        figure="messages_per_second",
        unit="/s",
        meaning="messages received per second",
        more_is_better=True,
    ),
    Scenario(
        name="start",
        title="Start to first welcome",
        arguments=(),
        servers=(FULL, EMPTY, COLD),
        must=2.0,
        slack=1000.0,
        figure="start_ms",
        unit="ms",
        meaning="from exec to `welcome`",
    ),
)
