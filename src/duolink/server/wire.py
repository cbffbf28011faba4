"""The border between transports and the node: what a wire can do, and what it tells its user.

A wire is one accepted transport (WebSocket, TCP) that carries whole messages, called payloads
here: the bytes of one text frame (one or more JSON messages joined by newlines) or of one binary
frame (a JSON header line, a newline, raw bytes). The node never sees frames, masks or lengths;
the wire never looks into a payload, except that a WebSocket checks a text for UTF-8.
"""

from collections.abc import Callable
from typing import Protocol

Count = Callable[[str, str], None]
"""Counts an event with one label from a small fixed set, for metrics."""


class Wire(Protocol):
    """One transport, as the node uses it. No method raises because the peer has gone."""

    kind: str
    """`websocket` or `tcp`; a label of metrics, and the key under which prepared frames are shared."""

    peer_address: str
    """The far end's IP address, for limits per address and for logs; empty when unknown."""

    secure: bool
    """Whether TLS (or a trusted proxy's word) protects the transport."""

    @staticmethod
    def frame(payload: bytes, binary: bool = False) -> bytes:
        """Return the payload as this kind of wire writes it: the same for every wire of a kind,
        so that a fan-out frames once."""
        ...

    def write(self, data: bytes) -> None:
        """Write bytes made by `frame` (one or several concatenated) as they are."""
        ...

    def buffered(self) -> int:
        """Bytes accepted by `write` that the kernel has not taken yet."""
        ...

    def ping(self) -> bool:
        """Send the transport's own ping and return True; return False where it has none (TCP),
        and the node sends a `ping` message."""
        ...

    def pause_reading(self) -> None:
        """Stop reading (rate limits). Payloads already parsed may still be delivered."""
        ...

    def resume_reading(self) -> None:
        """Read again."""
        ...

    def close(self, code: int, reason: str = "") -> None:
        """Close in order: what was written goes out first, then the close frame where there is
        one; a peer that does not finish within the close deadline is cut off. Repeating is safe."""
        ...

    def abort(self) -> None:
        """Cut the transport off now; what is buffered is lost."""
        ...


class WireUser(Protocol):
    """Who listens to a wire: a node's connection, an echo, a room's seat. All calls come from
    the event loop's thread, never from inside a call to the wire."""

    def received(self, payload: bytes, binary: bool) -> None:
        """One whole payload (reassembled, unmasked; a text is valid UTF-8), within the size limit."""
        ...

    def batch_ended(self) -> None:
        """The payloads of one read from the socket have all been delivered."""
        ...

    def alive(self) -> None:
        """The peer sent a control frame (ping, pong): a sign of life without a payload. Payloads
        are signs of life too, and are not announced here."""
        ...

    def writable(self) -> None:
        """What was buffered has drained below the low-water mark, after having been above the
        high-water mark."""
        ...

    def closed(self, code: int, reason: str) -> None:
        """The transport is gone; the last call. `code` is the peer's close code, the code this
        side closed with, or 1006 for a transport that just ended."""
        ...


WireUserFactory = Callable[[Wire], WireUser]
