"""How far an outbound lane has been sent on each path, and when the sender asks what became of it."""

from math import inf
from typing import Final

from duolink.protocol import limits
from duolink.protocol.outbound import NEVER, Outbound

SERVER: Final = "server"
"""The name of the path through the server; others are named by their driver."""

KNOCK_AFTER: Final = 2.0
KNOCK_CAP: Final = 30.0
"""Seconds after which a sender that was told to wait tries again unasked, with one number: an answer to
an earlier copy may have overtaken `peer`. Doubled each time, up to the cap."""


class Sending:
    """An outbound lane and how far it has been sent on each path."""

    __slots__ = (
        "cursors",
        "held",
        "held_until",
        "kept",
        "knock",
        "outbound",
        "probe_at",
        "probe_wait",
        "store_at",
        "top",
    )

    def __init__(self, outbound: Outbound) -> None:
        self.outbound = outbound
        self.cursors: dict[str, int] = {}  # path → next number to send
        self.held = 0  # the server said wait for this number: it is the first to be sent there again …
        self.held_until = 0.0  # … not before this time, and then alone; 0: nothing is held
        self.knock = KNOCK_AFTER
        self.probe_at = inf
        self.probe_wait = limits.PROBE_AFTER
        self.top = 0  # highest number sent on any path
        self.store_at = inf  # when something will not have been acknowledged in time: a mailbox is to have it
        self.kept = 0  # up to where this connection's server was asked to store

    def rewind(self, path: str | None = None) -> None:
        """Send again, on one path or all, what the receiver has not got."""
        if path is None:
            self.cursors.clear()
        else:
            self.cursors.pop(path, None)

    def back_to(self, seq: int) -> None:
        """The server did not take `seq`: go on from there."""
        if SERVER in self.cursors:
            self.cursors[SERVER] = min(self.cursors[SERVER], seq)

    def reconnected(self, now: float) -> None:
        """Another connection to the server: it has refused nothing yet, and nothing has left on it."""
        self.rewind(SERVER)
        self.release(now)
        self.outbound.sure = False
        self.outbound.forget_relayed()
        self.held = self.kept = 0
        self.store_at = inf

    def overdue(self, now: float) -> list[tuple[int, bool]]:
        """The numbers that a server should have by now and does not, as (number, to be stored): those that
        have not left to it yet, and those that have and were not acknowledged. Sets `store_at` for the
        next."""
        due: list[tuple[int, bool]] = []
        outbound = self.outbound
        self.store_at = inf
        first = max(outbound.base, outbound.stored + 1, self.kept + 1)
        for entry in outbound.between(first, self.top):
            since = entry.sent if entry.relayed == NEVER else entry.relayed
            if since + limits.STORE_AFTER > now:
                self.store_at = since + limits.STORE_AFTER
                break
            relayed = entry.relayed != NEVER
            due.append((entry.seq, relayed))
            if not relayed:
                self.store_at = now + limits.STORE_AFTER
            elif self.store_at == inf:
                self.kept = entry.seq
        return due

    def hold(self, seq: int, now: float) -> None:
        """Send nothing to the server until it says that the peer is here, then go on from `seq`."""
        self.back_to(seq)
        self.held = min(self.held or seq, seq)
        self.kept = min(self.kept, seq - 1)  # it may have to be asked for again
        if not self.held_until:
            self.held_until = now + self.knock

    def release(self, now: float) -> None:
        """The server may be sent to again; what then leaves is probed for in good time."""
        if self.held_until:
            self.held_until, self.knock = 0.0, KNOCK_AFTER
            self.probe_wait = limits.PROBE_AFTER
            self.probe_at = now + self.probe_wait
