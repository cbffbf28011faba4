"""What receivers took, held against what senders were told: nothing that was called stored or delivered is
missing, and nothing is reordered, invented, or taken twice by one process."""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import NamedTuple

ACKS_DURABLE = 2.0
"""Seconds after which an acknowledgement has surely reached the disk: a server promises one, and the machine
is busy."""

TOLD_AGAIN = 5.0
"""Seconds after which a new server has heard again what the old one may not have written."""


class Violation(AssertionError):
    """A promise was broken."""


class Life(NamedTuple):
    """One life of a sender towards one receiver: all of its numbers. Lives of a sender are 1, 2, 3 …"""

    sender: str
    life: int


class Line(NamedTuple):
    """What a receiver took: the number, and what the data says of itself."""

    sender: str
    life: int
    number: int
    seq: int


class Sent:
    """What one life of a sender was given to send, and what it was told of it."""

    __slots__ = ("_counts", "_times", "given", "safe")

    def __init__(self, given: int = 0, safe: int = 0) -> None:
        self.given = given
        """Numbers up to here may have left."""
        self.safe = safe
        """Numbers up to here were called stored or delivered."""
        self._times: list[float] = []
        self._counts: list[int] = []

    def delivered_up_to(self, number: int, now: float) -> None:
        """It was told so now."""
        self._times.append(now)
        self._counts.append(number)

    def delivered(self, before: float) -> int:
        """Up to where it had been told `delivered` by then."""
        index = bisect_right(self._times, before)
        return self._counts[index - 1] if index else 0


class Process:
    """One life of a receiver: what it took, and what none of it may be."""

    __slots__ = ("cut_off", "done", "taken")

    def __init__(
        self,
        taken: Iterable[Line] = (),
        done: Mapping[Life, int] | None = None,
        cut_off: Iterable[tuple[str, int, int]] = (),
    ) -> None:
        self.taken = list(taken)
        self.cut_off = set(cut_off)
        """(Sender, first, last) of what it was told to be lost because its sender has another life."""
        self.done: Mapping[Life, int] = done or {}
        """Numbers up to here its sender had been told to be delivered before it began, or its journal has."""


def check(receiver: str, processes: Iterable[Process], sent: Mapping[Life, Sent]) -> None:
    """Check all lives of one receiver, in their order, against all who sent to it. Raises `Violation`."""
    reached = dict.fromkeys(sent, 0)
    for index, process in enumerate(processes):
        where = f"{receiver}, life {index}"
        last: dict[str, tuple[int, int]] = {}
        for line in process.taken:
            run = Life(line.sender, line.life)
            if run not in sent or not 1 <= line.number <= sent[run].given or line.seq != line.number:
                raise Violation(f"{where}: invented: {line}")
            before = last.get(line.sender, (0, 0))
            if (line.life, line.number) <= before:
                raise Violation(f"{where}: repeated or reordered: {line} after {before}")
            first = (before[1] if line.life == before[0] else reached[run]) + 1
            if line.number > first and not (
                # What was on its way to the disk when server and sender were killed: never called safe.
                first > sent[run].safe
                and any(other.sender == line.sender and other.life > line.life for other in sent)
                and (line.sender, first, line.number - 1) in process.cut_off
            ):
                raise Violation(f"{where}: a hole: {line} after {before}, reached {reached[run]}")
            if line.number <= process.done.get(run, 0):
                raise Violation(f"{where}: it was known as delivered: {line}, {process.done[run]}")
            last[line.sender] = line.life, line.number
            reached[run] = max(reached[run], line.number)
    for run, numbers in sent.items():
        if reached[run] < numbers.safe:
            raise Violation(
                f"{receiver}: lost: {run} knew {numbers.safe} to be safe, taken were {reached[run]}"
            )


class Deaths:
    """When which end was killed, and hence what a receiver's next life must not see again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._server = -inf

    def server(self) -> None:
        """The server is killed."""
        self._server = self._clock()

    def forget(self, done: dict[Life, int], sent: Mapping[Life, Sent]) -> None:
        """Of what the server heard last before it was killed, a receiver that is away may see some again."""
        done.update({run: min(number, self._known(sent[run])) for run, number in done.items()})

    def receiver(self, sent: Mapping[Life, Sent]) -> dict[Life, int]:
        """A receiver is killed: return what it has done for good."""
        return {run: self._known(numbers) for run, numbers in sent.items()}

    def _known(self, numbers: Sent) -> int:
        now = self._clock()
        return numbers.delivered(now if now > self._server + TOLD_AGAIN else self._server - ACKS_DURABLE)
