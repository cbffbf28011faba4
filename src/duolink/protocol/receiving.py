"""The receiving half of a link: the lanes of the peer's newest run, and what is owed to earlier ones."""

from collections.abc import Callable, Iterable
from math import inf
from typing import Final

from duolink.protocol import limits
from duolink.protocol.former import Former
from duolink.protocol.inbound import Inbound, Lost, Received
from duolink.protocol.messages import Ack, LinkMessage, Probe, Skip
from duolink.protocol.paths import Paths
from duolink.protocol.records import CursorChange, SavedCursor
from duolink.protocol.sending import SERVER

REPORT: Final = 1.0
"""Seconds within which the server, too, hears of what was acknowledged on other paths."""


class Receiving:
    """What one end of a link takes from its peer, and acknowledges."""

    __slots__ = (
        "_arrived",
        "_cursors",
        "_inbound",
        "_journaled",
        "_peer",
        "_peer_run",
        "_report_at",
        "_run",
        "_user",
        "former",
        "window",
        "window_bytes",
    )

    def __init__(
        self, peer: str, user: str, run: int, window: int, window_bytes: int, journaled: bool
    ) -> None:
        self._peer, self._user, self._run = peer, user, run
        self._journaled = journaled
        self.window, self.window_bytes = window, window_bytes
        self.former = Former()
        self._peer_run = 0
        self._inbound: dict[str, Inbound] = {}
        self._cursors: dict[str, SavedCursor] = {}  # lane → where an earlier process was
        self._arrived: dict[str, str] = {}  # lane → path by which the newest message came
        self._report_at = inf

    # --- the application -----------------------------------------------------------------------

    def finish(self, message: LinkMessage, now: float) -> None:
        """The application has finished with a received message."""
        inbound = self._inbound.get(message.lane)
        if inbound is not None and inbound.run == message.run:
            inbound.finish(message.seq, now)
        else:
            self.former.finish(message.run, message.lane, message.seq, now)

    @property
    def owes_acks(self) -> bool:
        """Whether something that is finished has not been acknowledged yet."""
        return any(inbound.ack_at < inf for inbound in (*self._inbound.values(), *self.former))

    def hurry(self, now: float) -> None:
        """Do not let acknowledgements wait for company."""
        for inbound in (*self._inbound.values(), *self.former):
            if inbound.ack_at < inf:
                inbound.ack_at = now

    # --- what a journal keeps ------------------------------------------------------------------

    def restore(self, cursors: Iterable[SavedCursor]) -> None:
        """Take over, while this half is new, where an earlier process was."""
        for cursor in cursors:
            if cursor.run > self._peer_run:
                self._peer_run = cursor.run
                self._cursors.clear()
            if cursor.run == self._peer_run:
                self._cursors[cursor.lane] = cursor

    def changes(self) -> list[CursorChange]:
        """Return, once, which cursors have moved."""
        changes = (inbound.change(self._peer, self._user) for inbound in self._inbound.values())
        return [change for change in changes if change is not None]

    # --- what comes --------------------------------------------------------------------------

    def adapt(self, window: int, window_bytes: int) -> None:
        """The server grants another credit than before."""
        self.window, self.window_bytes = window, window_bytes
        for inbound in self._inbound.values():
            inbound.window, inbound.window_bytes = window, window_bytes

    def message(self, message: LinkMessage, path: str, now: float) -> list[Received | Lost] | None:
        """Take a message; None if it is dropped. Raises `BeyondCredit`."""
        items, inbound = self._lane(message.run, message.base, message.lane, path)
        if inbound is None:
            self.former.again(message.run, message.lane, now)
            return None
        self._arrived[message.lane] = path
        return items + inbound.message(message, now, granting=path != SERVER)

    def control(self, message: Skip | Probe, path: str, now: float) -> list[Received | Lost]:
        """Take a skip or a probe. Raises `BeyondCredit`."""
        start = message.start if type(message) is Probe else 0
        known = message.lane in self._inbound and message.run == self._peer_run
        items, inbound = self._lane(message.run, start or message.base, message.lane, path, start)
        if inbound is None:
            self.former.again(message.run, message.lane, now)
            return []
        self._arrived[message.lane] = path
        if type(message) is Skip:
            return items + inbound.skip(message, now, granting=path != SERVER)
        assert type(message) is Probe
        if not known:
            inbound.inherit(message.lost)
        items += inbound.begin(message.start, now)
        return items + inbound.probe(message.seq, message.base, now)

    def _lane(
        self, run: int, base: int, lane: str, path: str, start: int = 0
    ) -> tuple[list[Received | Lost], Inbound | None]:
        """What takes a lane's numbers of that run, None if they are to be dropped; behind what the end of an
        earlier run hands over. `start`: where the server knows this client to be."""
        if lane not in limits.LANES or run < self._peer_run:
            return [], None
        items: list[Received | Lost] = []
        if run > self._peer_run:
            if path != SERVER:
                return [], None  # a new run is opened by the server, behind what it has of the old one
            for ended in self._inbound.values():
                items += ended.end()
            self.former.end(self._inbound.values())
            self._inbound.clear()
            self._cursors.clear()
            self._peer_run = run
        inbound = self._inbound.get(lane)
        if inbound is None:
            cursor = self._cursors.pop(lane, None)
            if cursor is not None:
                base = max(cursor.finished + 1, start)
            inbound = self._inbound[lane] = Inbound(lane, run, base, self.window, self.window_bytes)
            if self._journaled:
                inbound.journaled(cursor)
        return items, inbound

    # --- acknowledgements ----------------------------------------------------------------------

    def ride(self, message: LinkMessage, path: str, now: float) -> None:
        """Let the cursor of the message's lane ride on it, if that says everything."""
        inbound = self._inbound.get(message.lane)
        if inbound is not None and inbound.cursor and inbound.may_ride():
            message.ack_run, message.ack = inbound.run, inbound.cursor
            inbound.rode()
            if path != SERVER:
                self._report_at = min(self._report_at, now + REPORT)

    def acknowledge(
        self, paths: Paths, ways: Callable[[str], Iterable[str]], now: float
    ) -> list[tuple[str, Ack]]:
        """Return the acknowledgements that are due, each with the path to send it on: the one its newest
        message came by, else one of the lane's `ways`."""
        out: list[tuple[str, Ack]] = []
        for inbound in self._inbound.values():
            if not inbound.poll(now):
                continue
            path = self._arrived.get(inbound.lane, SERVER)
            if path not in paths:
                path = next(iter(ways(inbound.lane)), "")
            if not path:
                continue
            out.append((path, self._ack(inbound, granting=path != SERVER)))
            if path != SERVER:
                self._report_at = min(self._report_at, now + REPORT)
        if SERVER in paths and now >= self.former.ack_at:
            due = [inbound for inbound in self.former if now >= inbound.ack_at]
            out += [(SERVER, self._ack(inbound)) for inbound in due]
        if now >= self._report_at and SERVER in paths:
            self._report_at = inf
            out += [(SERVER, self._ack(inbound)) for inbound in self._inbound.values()]
        return out

    def _ack(self, inbound: Inbound, granting: bool = False) -> Ack:
        return inbound.ack(self._peer, self._run, self._user, granting=granting)

    def next_timer(self, paths: Paths) -> float:
        """When something is due, if nothing happens before."""
        timer = min(self._report_at, self.former.ack_at) if SERVER in paths else inf
        if paths.names():
            for inbound in self._inbound.values():
                timer = min(timer, inbound.ack_at, inbound.pull_at)
        return timer
