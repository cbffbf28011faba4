"""`Log` in a database, with a log in memory beside it for the channels that need not survive."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import apsw

from duolink.engines.base import (
    Answer,
    Appended,
    Done,
    Draft,
    Failure,
    Log,
    Logged,
    Page,
    Retention,
    Snapshot,
    Top,
)
from duolink.engines.memory import Clock
from duolink.engines.sqlite.channels import Append, Channels, Forget, Sweep, Swept, Trim
from duolink.engines.sqlite.pages import find, read_listing, read_page, read_state
from duolink.engines.sqlite.writer import Reader, Writer

STALE: Final = 1000
"""Entries beyond retention that a read had to step over, after which they are deleted at once."""

ENTRY_SIZE: Final = 100
"""Bytes an entry takes besides its data, about."""


class SqliteLog:
    """`Log`. A channel that was never written to has no row: it stands at 0 of the database's own epoch, and
    costs no disk.

    A channel that has a row and is empty, unused and not held may be forgotten. It then begins again in
    the database's epoch, which is another than its own was. A held channel is never forgotten, and what was
    told of one is pinned here, so that it goes on from there even if it was being forgotten when it was taken
    hold of, or if the database's epoch has changed since.
    """

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        *,
        clock: Clock,
        new_epoch: Callable[[], str],
        memory: Log,
        is_durable: Callable[[str], bool],
    ) -> None:
        self._writer, self._reader = writer, reader
        self._clock, self._new_epoch = clock, new_epoch
        self._memory, self._is_durable = memory, is_durable
        self._channels = Channels(clock)
        self._held: Counter[str] = Counter()
        self._pins: dict[str, Top] = {}  # held channel → where it stood when somebody was told
        self._trimming: set[str] = set()

    # --- writing -------------------------------------------------------------------------------

    def append(self, channel: str, draft: Draft, retention: Retention, done: Done[Answer]) -> None:
        """See `Log.append`."""
        if not self._is_durable(channel):
            self._memory.append(channel, draft, retention, done)
            return
        pin = self._pins.get(channel)
        if pin is not None:
            done = partial(self._appended, channel, done)
        size = len(draft.data) + ENTRY_SIZE
        self._writer.submit(self._channels, Append(channel, draft, retention, pin), done, size)

    def _appended(self, channel: str, done: Done[Answer], answer: Answer | Failure) -> None:
        if isinstance(answer, Appended):
            self._pins.pop(channel, None)  # it has a row, which stays while it is held
        done(answer)

    # --- reading -------------------------------------------------------------------------------

    def read(self, channel: str, epoch: str, after: int, limit: int, done: Done[Page]) -> None:
        """See `Log.read`."""
        if not self._is_durable(channel):
            self._memory.read(channel, epoch, after, limit, done)
            return
        wall_ms, pin = self._clock.wall_ms(), self._pins.get(channel)

        def work(db: apsw.Connection) -> tuple[Page, int]:
            return read_page(db, find(db, channel, pin), epoch, after, limit, wall_ms)

        def answer(result: tuple[Page, int] | Failure) -> None:
            if isinstance(result, Failure):
                done(result)
                return
            page, stale = result
            self._told(channel, page.top)
            if stale >= STALE and channel not in self._trimming:
                self._trimming.add(channel)
                self._writer.submit(self._channels, Trim(channel), partial(self._trimmed, channel))
            done(page)

        self._reader.read(work, answer)

    def state(self, channel: str, done: Done[Snapshot]) -> None:
        """See `Log.state`."""
        if not self._is_durable(channel):
            self._memory.state(channel, done)
            return
        pin = self._pins.get(channel)

        def answer(snapshot: Snapshot | Failure) -> None:
            if not isinstance(snapshot, Failure):
                self._told(channel, snapshot.top)
            done(snapshot)

        self._reader.read(lambda db: read_state(db, find(db, channel, pin)), answer)

    def top(self, channel: str, done: Done[Top]) -> None:
        """See `Log.top`."""
        if not self._is_durable(channel):
            self._memory.top(channel, done)
            return
        pin = self._pins.get(channel)

        def answer(top: Top | Failure) -> None:
            if not isinstance(top, Failure):
                self._told(channel, top)
            done(top)

        self._reader.read(lambda db: find(db, channel, pin).top, answer)

    def listing(self, after: str, prefix: str, limit: int, done: Done[tuple[Logged, ...]]) -> None:
        """See `Log.listing`."""

        def in_memory(elsewhere: tuple[Logged, ...] | Failure) -> None:
            def answer(found: tuple[Logged, ...] | Failure) -> None:
                if isinstance(found, Failure) or isinstance(elsewhere, Failure):
                    done(found if isinstance(found, Failure) else elsewhere)
                else:
                    done(tuple(sorted(found + elsewhere)[:limit]))

            # What once was durable, and is not now, is not what subscribers are told of.
            self._reader.read(partial(read_listing, after, prefix, limit, self._is_durable), answer)

        self._memory.listing(after, prefix, limit, in_memory)

    def _told(self, channel: str, top: Top) -> None:
        if channel in self._held:
            self._pins[channel] = top

    def _trimmed(self, channel: str, answer: Any) -> None:
        self._trimming.discard(channel)

    # --- holding and forgetting ----------------------------------------------------------------

    def hold(self, channel: str) -> None:
        """See `Log.hold`."""
        if not self._is_durable(channel):
            self._memory.hold(channel)
            return
        self._held[channel] += 1

    def release(self, channel: str) -> None:
        """See `Log.release`."""
        if not self._is_durable(channel):
            self._memory.release(channel)
            return
        self._held[channel] -= 1
        if self._held[channel] <= 0:
            del self._held[channel]
            self._pins.pop(channel, None)

    def sweep(self) -> None:
        """Delete what retention has taken from quiet channels, and forget some that nobody uses. To be called
        now and then."""
        self._writer.submit(self._channels, Sweep(self._new_epoch()), self._swept)

    def _swept(self, swept: Swept | Failure) -> None:
        if isinstance(swept, Failure):
            return
        names = tuple(name for name in swept.forgettable if name not in self._held)
        if names:
            self._writer.submit(self._channels, Forget(names), _ignore)
        if swept.more:
            self.sweep()


def _ignore(answer: object) -> None:
    pass
