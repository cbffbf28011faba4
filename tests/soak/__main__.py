"""Let a server with a database run for long, with clients that come and go, and see what grows:
`python -m tests.soak --minutes 60`. Ends with 1 if anything does, or was lost or repeated."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..faults.process import Server
from .ledger import missing
from .sample import MIB, Sample, complaints, look, memory_slope

EVERY = 5.0
"""Seconds between two samples."""

PATIENCE = 120.0
"""Seconds for everything to arrive at the end."""

CONFIG = """
[channels."*"]
history_count = 200
"""


class SoakServer(Server):
    """A server with a file of settings, whose log is kept."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "duolink.db")
        self.config, self.log = folder / "duolink.toml", folder / "server.log"
        self.config.write_text(CONFIG)

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "duolink.cli.main", "serve", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--database", str(self.database), "--config", str(self.config)]
        command += ["--log-level", "warning", "--log-format", "json"]
        with open(self.log, "wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def trouble(self) -> list[str]:
        """What it has logged: warnings, errors, and what no log was made for. (Its banner is indented.)"""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if line and not line.startswith(("duolink ", "  "))]


class Side:
    """One process of clients, and what it told last."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.waits: list[float] = []
        self.here = 0
        self.behind: list[str] = []
        self.safe: dict[str, int] | None = None
        self.taken: dict[str, int] = {}
        self._reading: asyncio.Task[None]

    async def start(self, port: int, clients: int) -> None:
        """Start it."""
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "tests.soak.population", str(port), self.name, str(clients)]
        self.process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=64 * MIB)
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            told: dict[str, Any] = json.loads(line)
            self.waits += told.pop("waits", ())
            if "counts" in told:
                told["counts"] = Counter(told["counts"])
            for name, value in told.items():
                setattr(self, name, value)

    def say(self, word: str) -> None:
        """Tell it what to do."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())

    async def end(self) -> None:
        """End it."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading


class Soak:
    """One run."""

    def __init__(self, folder: Path, minutes: float, clients: int, progress: Progress) -> None:
        self.server = SoakServer(folder)
        self.database = folder / "duolink.db"
        self.minutes, self.clients = minutes, clients
        self.progress = progress
        self.bar = progress.add_task("coming", total=minutes * 60)
        self.sides = [Side("a"), Side("b")]
        self.samples: list[Sample] = []

    async def run(self) -> list[str]:
        """Run; return what is wrong."""
        try:
            await self.server.start()
            for side in self.sides:
                await side.start(self.server.port, self.clients // 2)
            while sum(side.here for side in self.sides) < 0.75 * self.clients:
                await self._alive()
            for side in self.sides:
                side.say("go")
            await self._watch()
            for side in self.sides:
                side.say("stop")
            lost = await self._arrived()
        finally:
            for side in self.sides:
                await side.end()
            self.server.kill()
        broken = [what for side in self.sides for what in side.violations]
        return [*broken, *lost, *complaints(self.samples), *self.server.trouble()[:20]]

    async def _alive(self) -> None:
        await asyncio.sleep(1.0)
        for side in self.sides:
            if side.process.returncode is not None:
                raise click.ClickException(f"the clients of side {side.name} have ended")

    async def _watch(self) -> None:
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < self.minutes * 60:
            waits = sorted(wait for side in self.sides for wait in side.waits)
            for side in self.sides:
                side.waits = []
            try:
                sample = await asyncio.to_thread(look, self.server.pid, self.server.port, self.database, now)
            except TimeoutError:  # a busy machine: an hour of soak is worth more than one sample
                continue
            p99 = waits[int(len(waits) * 0.99)] if waits else 0.0
            self.samples.append(sample._replace(stored_p99=p99))
            self.progress.update(self.bar, completed=now, description=self._state(sample))
            while time.monotonic() - begin < now + EVERY:
                await self._alive()

    def _state(self, sample: Sample) -> str:
        broken = sum(side.counts["violations"] for side in self.sides)
        return (
            f"{sample.connections} clients, {sample.messages:,} messages, {sample.mailbox:,} in mailboxes, "
            f"{sample.resident / MIB:.0f} MiB, {broken} broken promises"
        )

    async def _arrived(self) -> list[str]:
        """Wait until everything that was called safe was taken; return what is missing."""
        deadline = time.monotonic() + PATIENCE
        lost = ["it did not come to an end"]
        while lost and time.monotonic() < deadline:
            await self._alive()
            if all(side.safe is not None for side in self.sides):
                taken = {run: number for side in self.sides for run, number in side.taken.items()}
                safe = {run: number for side in self.sides for run, number in (side.safe or {}).items()}
                lost = missing(safe, taken)
        return lost + ([what for side in self.sides for what in side.behind] if lost else [])


def tell(samples: Sequence[Sample], sides: Sequence[Side]) -> str:
    """Return what the run was, in a line or two."""
    counts = sum((side.counts for side in sides), Counter())
    first, last = samples[0], samples[-1]
    seconds = last.time - first.time
    rate = (last.messages - first.messages) / seconds
    p99 = sorted(sample.stored_p99 for sample in samples)
    return (
        f"{seconds / 60:.0f} min, {last.connections} clients, {rate:.0f} messages/s, "
        f" {counts['leave']} left, {counts['cut']} cut, {counts['kill']} killed, "
        f"{counts['drains']} mailboxes emptied\n"
        f"memory {last.resident / MIB:.0f} MiB, {memory_slope(samples):+.1f} MiB/h over the second half; "
        f"stored within {1000 * p99[len(p99) // 2]:.0f} ms (99th percentile, median of the samples)"
    )


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.5), default=60.0, show_default=True)
@click.option("--clients", type=click.IntRange(min=40), default=300, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("soak.png"), show_default=True)
def main(minutes: float, clients: int, output: Path) -> None:
    """Let a server run for long, and see what grows."""
    from .plot import draw  # late: drawing is heavy, and its memory is nobody's business meanwhile

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with tempfile.TemporaryDirectory() as folder, Progress(*columns) as progress:
        soak = Soak(Path(folder), minutes, clients, progress)
        wrong = asyncio.run(soak.run())
    summary = tell(soak.samples, soak.sides)
    draw(soak.samples, f"duolink soak: {summary}", output)
    click.echo(summary)
    click.echo(f"written: {output}")
    for what in wrong:
        click.echo(f"wrong: {what}", err=True)
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
