"""What a server is seen to hold, from outside, at one moment; and what the samples of a soak say."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.request import urlopen

MIB: Final = 1024 * 1024

MAX_SLOPE: Final = 8.0
"""MiB per hour by which memory may grow: a long-lived server would have to be restarted once a month."""

NOISE: Final = 3.0
"""MiB by which memory may seem to grow in a short run: the allocator's, and the page cache's of SQLite."""

MORE_DESCRIPTORS: Final = 10
"""Descriptors by which those beside connections may come and go: sockets on their way in or out."""

_METRIC: Final = re.compile(rb"^(duolink_\w+(?:\{[^}]*\})?) ([0-9.e+]+)$", re.MULTILINE)
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    """One look. Times in seconds, sizes in bytes; `messages` and `cpu` (seconds) count from the start."""

    time: float
    resident: int
    descriptors: int
    threads: int
    cpu: float
    database: int
    wal: int
    connections: int
    mailbox: int
    messages: int
    stored_p99: float = 0.0


def look(pid: int, port: int, database: Path, now: float) -> Sample:
    """Look at a server. Raises `OSError` when it has gone."""
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    times = (process / "stat").read_text().rpartition(")")[2].split()
    descriptors = len(os.listdir(process / "fd"))
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        metrics = {name.decode(): float(value) for name, value in _METRIC.findall(answer.read())}
    wal = Path(f"{database}-wal")
    return Sample(
        time=now,
        resident=int(status["VmRSS"].split()[0]) * 1024,
        descriptors=descriptors,
        threads=int(status["Threads"]),
        cpu=(int(times[11]) + int(times[12])) / _TICKS,
        database=database.stat().st_size,
        wal=wal.stat().st_size if wal.exists() else 0,
        connections=int(metrics["duolink_connections"]),
        mailbox=int(metrics["duolink_mailbox_messages"]),
        messages=int(metrics['duolink_messages_total{direction="in",kind="message"}'])
        + int(metrics["duolink_publications_total"]),
    )


def second_half(samples: Sequence[Sample]) -> Sequence[Sample]:
    """What is measured: caches, tables and history are full by then."""
    return samples[len(samples) // 2 :]


def fit(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return slope and value at time 0 of the straight line with the least squares."""
    mean_time, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((time - mean_time) ** 2 for time in times)
    slope = (
        sum((time - mean_time) * (value - mean) for time, value in zip(times, values, strict=True)) / spread
        if spread
        else 0.0
    )
    return slope, mean - slope * mean_time


def memory_slope(samples: Sequence[Sample]) -> float:
    """MiB per hour by which memory has grown in the second half."""
    half = second_half(samples)
    slope, _ = fit([sample.time for sample in half], [sample.resident / MIB for sample in half])
    return slope * 3600


def complaints(samples: Sequence[Sample]) -> list[str]:
    """Return what grows that should not."""
    found = []
    half = second_half(samples)
    slope = memory_slope(samples)
    hours = (half[-1].time - half[0].time) / 3600
    if slope > MAX_SLOPE and slope * hours > NOISE:
        found.append(f"memory grows by {slope:.1f} MiB per hour, more than {MAX_SLOPE:g}")
    spare = [sample.descriptors - sample.connections for sample in half]
    if max(spare) - min(spare) > MORE_DESCRIPTORS:
        found.append(f"descriptors beside those of connections have gone from {min(spare)} to {max(spare)}")
    return found
