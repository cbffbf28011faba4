"""Messages packed into payloads: as few as the limits allow, in order."""

from collections.abc import Sequence
from typing import NamedTuple

from duolink.protocol import codec, limits
from duolink.protocol.messages import CARRIER_TYPES, Message


class Send(NamedTuple):
    """Send a payload on the transport."""

    payload: bytes
    binary: bool


def payloads(messages: Sequence[Message]) -> list[Send]:
    """Pack messages into as few payloads as their limits allow, in order."""
    sends: list[Send] = []
    lines: list[bytes] = []
    size = 0
    for message in messages:
        if type(message) in CARRIER_TYPES and message.binary:  # type: ignore[attr-defined]
            if lines:
                sends.append(Send(b"\n".join(lines), False))
                lines, size = [], 0
            sends.append(Send(codec.encode_binary(message), True))  # type: ignore[arg-type]
            continue
        line = codec.encode(message)
        if lines and (size + len(line) >= limits.MAX_PAYLOAD or len(lines) >= limits.MAX_BATCH):
            sends.append(Send(b"\n".join(lines), False))
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    if lines:
        sends.append(Send(b"\n".join(lines), False))
    return sends
