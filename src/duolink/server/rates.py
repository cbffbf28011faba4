"""The section of the rate limits, and what they are when nothing is configured."""

from collections.abc import Mapping
from typing import Annotated, Literal

from duolink.server.sections import Section, count, size


class Rates(Section, frozen=True, kw_only=True):
    """Rate limits. They slow reading down and lose nothing. A rate of 0 is off; a burst of 0 is one second
    of its rate. Automatic: off in development, else the value in brackets."""

    connection_messages_per_s: Annotated[int, count("Messages from one connection (1000).")] | None = None
    connection_messages_burst: Annotated[int, count("… at once (4000).")] | None = None
    connection_bytes_per_s: Annotated[int, size("Bytes from one connection (4 MiB).")] | None = None
    connection_bytes_burst: Annotated[int, size("… at once (8 MiB).")] | None = None
    client_messages_per_s: (
        Annotated[int, count("Messages from one client, over all its connections (1000).")] | None
    ) = None
    client_messages_burst: Annotated[int, count("… at once (4000).")] | None = None
    client_bytes_per_s: Annotated[int, size("Bytes from one client (4 MiB).")] | None = None
    client_bytes_burst: Annotated[int, size("… at once (8 MiB).")] | None = None
    address_messages_per_s: (
        Annotated[int, count("Messages from one address (IPv6: one /64), all clients together (20000).")]
        | None
    ) = None
    address_messages_burst: Annotated[int, count("… at once (80000).")] | None = None
    address_bytes_per_s: Annotated[int, size("Bytes from one address (64 MiB).")] | None = None
    address_bytes_burst: Annotated[int, size("… at once (128 MiB).")] | None = None
    handshakes_per_s: Annotated[int, count("New connections from one address (50).")] | None = None
    handshakes_burst: Annotated[int, count("… at once (500).")] | None = None
    admissions_per_s: (
        Annotated[
            int,
            count(
                "Hellos the whole server takes, before tokens are checked (2000). The rest are told when to "
                "come again."
            ),
        ]
        | None
    ) = None
    admissions_burst: Annotated[int, count("… at once (4000).")] | None = None


AUTOMATIC_RATES: Mapping[str, tuple[int, int]] = {
    # Sixteen full windows of a link in a burst; a device that needs more is configured to have more.
    "connection_messages": (1000, 4000),
    "connection_bytes": (4 << 20, 8 << 20),
    # As for a connection: reconnecting must not refill the bucket.
    "client_messages": (1000, 4000),
    "client_bytes": (4 << 20, 8 << 20),
    # Offices and mobile carriers put hundreds of people behind one address.
    "address_messages": (20_000, 80_000),
    "address_bytes": (64 << 20, 128 << 20),
    "handshakes": (50, 500),
    # At 0.08 ms for an RS256 check, a sixth of a core.
    "admissions": (2000, 4000),
}
"""(per second, burst) of each rate when authentication is on and nothing is configured."""

RateName = Literal[
    "connection_messages", "connection_bytes", "client_messages", "client_bytes",
    "address_messages", "address_bytes", "handshakes", "admissions",
]  # fmt: skip
