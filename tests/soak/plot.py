"""The curves of a soak, as a picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from .sample import MIB, Sample, fit, memory_slope, second_half

INK = "#1f5fa8"
SECOND = "#d1731f"
FIT = "#b3261e"


def draw(samples: Sequence[Sample], title: str, path: Path) -> None:
    """Draw what was sampled over time into a PNG."""
    minutes = [sample.time / 60 for sample in samples]
    figure, axes = pyplot.subplots(4, 2, figsize=(11, 11), sharex=True, layout="constrained")
    figure.suptitle(title, fontsize=11)
    memory, cpu, descriptors, threads, disk, mailbox, messages, stored = axes.flat

    memory.plot(minutes, [sample.resident / MIB for sample in samples], color=INK)
    half = second_half(samples)
    slope, start = fit([sample.time for sample in half], [sample.resident / MIB for sample in half])
    ends = [half[0].time, half[-1].time]
    memory.plot(
        [end / 60 for end in ends],
        [start + slope * end for end in ends],
        color=FIT,
        linestyle="--",
        label=f"second half: {memory_slope(samples):+.1f} MiB/h",
    )
    _label(memory, "resident memory", "MiB", legend=True)

    _rates(cpu, minutes, [100 * sample.cpu for sample in samples])
    _label(cpu, "processor time of the server", "% of one core")

    descriptors.plot(minutes, [sample.descriptors for sample in samples], color=INK, label="descriptors")
    descriptors.plot(minutes, [sample.connections for sample in samples], color=SECOND, label="connections")
    _label(descriptors, "open descriptors", "count", legend=True)

    threads.plot(minutes, [sample.threads for sample in samples], color=INK)
    _label(threads, "threads", "count")

    disk.plot(minutes, [sample.database / MIB for sample in samples], color=INK, label="database")
    disk.plot(minutes, [sample.wal / MIB for sample in samples], color=SECOND, label="write-ahead log")
    _label(disk, "files", "MiB", legend=True)

    mailbox.plot(minutes, [sample.mailbox for sample in samples], color=INK)
    _label(mailbox, "messages in mailboxes", "count")

    _rates(messages, minutes, [sample.messages for sample in samples])
    _label(messages, "messages and publications in", "per second")

    stored.plot(minutes, [sample.stored_p99 * 1000 for sample in samples], color=INK)
    _label(stored, "from send to stored, 99th percentile", "ms")
    for axis in (messages, stored):
        axis.set_xlabel("minutes")
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _rates(axis: Axes, minutes: Sequence[float], counts: Sequence[float]) -> None:
    rates = [
        (later - earlier) / (60 * (end - begin))
        for earlier, later, begin, end in zip(counts, counts[1:], minutes, minutes[1:], strict=False)
    ]
    axis.plot(minutes[1:], rates, color=INK)


def _label(axis: Axes, what: str, unit: str, legend: bool = False) -> None:
    axis.set_title(what, fontsize=10, loc="left")
    axis.set_ylabel(unit)
    axis.margins(x=0.01)
    axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
    axis.grid(alpha=0.3)
    if legend:
        axis.legend(fontsize=8, loc="lower right")
