"""What was called safe, and what was taken: for each sender's life and receiver one number each, however long
it lasts."""

from collections import Counter

KEPT = 50
"""Violations that are told; the rest is counted."""


class Ledger:
    """The promises of one process's clients, as senders and as receivers."""

    def __init__(self) -> None:
        self.safe: dict[str, int] = {}
        self.taken: dict[str, int] = {}
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()

    def called_safe(self, run: str, number: int) -> None:
        """A sender was told that everything up to a number is safe."""
        self.safe[run] = number
        self.counts["safe"] += 1

    def took(self, run: str, number: int, here: dict[str, int]) -> None:
        """A receiver took a number. `here`: what this life of it took before."""
        before = here.get(run)
        if before is not None and number != before + 1:
            self.broken(f"{run}: {number} after {before}")
        elif before is None and number > self.taken.get(run, 0) + 1:
            self.broken(f"{run}: a life begins with {number}, taken were {self.taken.get(run, 0)}")
        here[run] = number
        self.taken[run] = max(self.taken.get(run, 0), number)
        self.counts["taken"] += 1

    def broken(self, what: str) -> None:
        """A promise was broken."""
        self.counts["violations"] += 1
        if len(self.violations) < KEPT:
            self.violations.append(what)


def missing(safe: dict[str, int], taken: dict[str, int]) -> list[str]:
    """Return what was called safe and has not been taken."""
    return [
        f"{run}: {number} were safe, {taken.get(run, 0)} were taken"
        for run, number in sorted(safe.items())
        if taken.get(run, 0) < number
    ]
