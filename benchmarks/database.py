"""Databases that a server starts with: none yet, or one full of stored messages."""

import asyncio
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.build import BUILD, HERE, BuildError
from duolink.engines.base import Failure, Mailbox, Row, StoreResult, Stream, Verdict
from duolink.engines.sqlite.engines import sqlite_engines
from duolink.engines.sqlite.threads import Threads
from duolink.server.app import SystemClock

RECEIVERS: Final = 100
SENDERS: Final = 10
"""Senders to each receiver."""
PACE: Final = 1000
"""Rows of each turn, so that they wait for the disk and not in memory."""
KEEP: Final = 3 * 86_400.0
"""Seconds after which a filled database is made anew: its messages expire after a week, and a server that has
a million of them to throw away has something else to do."""


def place(path: Path, messages: int, cold: bool) -> None:
    """Put a database with so many stored messages there; none: nothing. `cold`: out of the kernel's cache."""
    if messages:
        shutil.copyfile(filled(messages), path)
        with path.open("rb+") as file:
            os.fsync(file)
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def filled(messages: int) -> Path:
    """Return a database with so many stored messages, which is made if there is none of today's engine.
    Raises `BuildError`."""
    path = BUILD / f"stored-{messages}.db"
    engine = max(source.stat().st_mtime for source in (HERE.parent / "src/duolink/engines").rglob("*.py"))
    if not path.exists() or path.stat().st_mtime < max(engine, time.time() - KEEP):
        path.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="fill-", dir=BUILD) as folder:
            new = Path(folder) / path.name
            asyncio.run(_fill(new, messages))
            new.rename(path)
    return path


async def _fill(path: Path, messages: int) -> None:
    engines = sqlite_engines(
        str(path),
        clock=SystemClock(),
        new_epoch=lambda: "filled",
        runner=Threads(asyncio.get_running_loop()),
    )
    assert engines.mailbox is not None
    numbers = messages // (RECEIVERS * SENDERS)
    for receiver in range(RECEIVERS):
        for sender in range(SENDERS):
            stream = Stream(f"away-{receiver}", f"sender-{sender}", "messages", run=1_000_000)
            for first in range(1, numbers + 1, PACE):
                await _store(engines.mailbox, stream, range(first, min(first + PACE, numbers + 1)))
    engines.close()


async def _store(mailbox: Mailbox, stream: Stream, numbers: range) -> None:
    """Return when all are stored."""
    done = asyncio.get_running_loop().create_future()

    def take(number: int, result: StoreResult | Failure) -> None:
        if not isinstance(result, StoreResult) or result.verdict is not Verdict.KEPT:
            done.set_exception(BuildError(f"number {number} of {stream} was not stored: {result}"))
        elif number == numbers[-1]:  # answers to one stream come in order
            done.set_result(None)

    for number in numbers:
        body = (
            f'{{"type":"message","to":"{stream.receiver}","run":{stream.run},"seq":{number},"base":1,'
            f'"data":"{number:016}........ sixty-four bytes of user data ......","from":"{stream.sender}"}}'
        )
        mailbox.store(stream, Row(number, number, body.encode()), 1, partial(take, number))
    await done
