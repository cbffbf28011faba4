"""What a listener and its wires may use: sizes in bytes, times in seconds, each with its reason."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerOptions:
    """The limits of one listening port. Raises ValueError when they contradict each other."""

    max_message: int = 1 << 20
    """The largest message a WebSocket may carry, counted after reassembly (close code 1009 beyond it).
    The node's own limit is lower; this one bounds memory before the node sees anything. `websockets`
    and `ws` default to 1 MiB and 100 MiB."""

    read_buffer: int = 2048
    """Initial read buffer of a wire; picows takes no less. Idle connections keep it, so it decides how
    many fit into memory. It doubles when messages need it and is given back at the next control frame."""

    read_limit: int = 65_536
    """The most bytes one read delivers. It bounds the work (and the payloads that still arrive after
    `pause_reading`) of one turn, and how far a flood of small messages can grow the read buffer."""

    head_limit: int = 16_384
    """The largest request head; 431 beyond it. Browsers send under 4 KiB, cookies may add 8; h11 and
    nginx allow 16 and 32 KiB."""

    handshake_timeout: float = 10.0
    """How long a client may take for its whole request head (and, before it, for its TLS handshake):
    ends slow-loris connections. nginx waits 60 s, which is 6 times the connections an attacker holds."""

    close_timeout: float = 5.0
    """How long a peer may take to finish after a close frame or a refusal before it is cut off."""

    fragment_timeout: float = 60.0
    """How long a fragmented message may take from its first to its last fragment (1008 beyond it): a
    message that never ends would hold its memory for ever."""

    max_fragments: int = 4096
    """The most fragments of one message, empty ones included (1008 beyond it): each costs a call, and
    empty ones never reach `max_message`."""

    max_controls: int = 100
    """The most pings and pongs in one second (1008 beyond it). Honest peers send one in some seconds;
    conformance suites send 10 at once."""

    write_high: int = 65_536
    """Above so many unsent bytes a wire counts as congested: pings are answered by one pong for the
    last, and `writable` is announced when the buffer has drained. asyncio's default."""

    write_low: int = 16_384
    """The unsent bytes below which a congested wire is `writable` again. asyncio's default."""

    max_connections: int = 10_000
    """The most connections of all sorts, on all ports of the process, which is what bounds memory and file
    descriptors; more are turned away at accept."""

    max_handshakes: int = 1_000
    """The most connections that have not finished their request head. Only these are anonymous and
    cheap to make, so they must not be able to use up `max_connections`."""

    backlog: int = 4096
    """Connections the kernel may hold for us while we are busy (it caps this at net.core.somaxconn):
    after a restart everyone comes at once."""

    def __post_init__(self) -> None:
        for name in ("max_message", "read_limit", "head_limit", "max_fragments", "max_controls",
                     "max_connections", "max_handshakes", "backlog"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("handshake_timeout", "close_timeout", "fragment_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive")
        if self.read_buffer < 2048:
            raise ValueError("read_buffer must be at least 2048")
        if not 0 <= self.write_low <= self.write_high:
            raise ValueError("write_low must lie between 0 and write_high")
