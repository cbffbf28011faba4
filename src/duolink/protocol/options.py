"""How a client connects, as far as it is the client's to decide."""

from dataclasses import dataclass

from duolink.protocol import limits


@dataclass(frozen=True)
class Options:
    """How a client connects. Times in seconds."""

    first_tries: int = limits.FIRST_TRIES
    backoff_initial: float = 1.0
    backoff_factor: float = 2.0
    backoff_cap: float = 30.0
    hello_timeout: float = limits.HELLO_TIMEOUT
    resume_window: float = limits.RESUME_WINDOW


DEFAULTS = Options()
