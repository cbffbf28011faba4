"""When to try again: exponential backoff with full jitter.

Full jitter (a delay uniform between zero and the exponential bound) spreads a crowd of clients
best and finishes earliest (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""


class Backoff:
    """Delays before reconnect attempts: `random × min(cap, initial × factorⁿ)`, n = 0, 1, 2 …"""

    __slots__ = ("attempts", "cap", "factor", "initial")

    def __init__(self, initial: float = 1.0, factor: float = 2.0, cap: float = 30.0) -> None:
        if not (0 < initial <= cap and factor >= 1):
            raise ValueError("a backoff needs 0 < initial ≤ cap and factor ≥ 1")
        self.initial, self.factor, self.cap = initial, factor, cap
        self.attempts = 0

    @property
    def bound(self) -> float:
        """The longest delay `next` can return now, in seconds."""
        bound = self.initial
        for _ in range(self.attempts):
            bound *= self.factor
            if bound >= self.cap:
                return self.cap
        return bound

    def next(self, random: float) -> float:
        """Count an attempt and return the seconds to wait before it; `random` lies in [0, 1)."""
        delay = random * self.bound
        self.attempts += 1
        return delay

    def reset(self) -> None:
        """A connection has lasted, or the network is another one: begin again."""
        self.attempts = 0
