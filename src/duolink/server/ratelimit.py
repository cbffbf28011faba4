"""Rate limits that slow a sender down and lose nothing, and caps on who may connect.

All time is monotonic seconds and an argument. A bucket lets a sender run into debt and answers how
long reading must pause until the debt is paid: what has been read is always processed, and the
sender's own TCP window does the rest.
"""

import ipaddress
from collections import OrderedDict
from typing import Final, Literal

from duolink.server.settings import Config, RateName

MAX_IDLE_ADDRESSES: Final = 16_384
"""Addresses remembered after their last connection closed, oldest forgotten first; ≈ 10 MB. Whoever has
more addresses than this does not need the forgotten one's burst."""

MAX_RETRY_AFTER: Final = 30.0
"""Longest wait (seconds) a refused client is asked for: the cap of its own backoff."""

EFFORT_BURST: Final = 4096.0
"""What one connection may cause at once by messages that cost more than themselves: a subscription begun or
ended, a peer watched; and what it tells many others, a 64th for each. About 0.1 s of the node's time; a
client that comes and wants all it may have causes a tenth of it."""

EFFORT_RATE: Final = 512.0
"""The same, per second, for as long as it likes: some percent of the node's time."""

Refusal = Literal["rate", "connections"]
Level = Literal["connection", "client", "address"]

_MESSAGES: Final[dict[Level, RateName]] = {
    "connection": "connection_messages",
    "client": "client_messages",
    "address": "address_messages",
}
_BYTES: Final[dict[Level, RateName]] = {
    "connection": "connection_bytes",
    "client": "client_bytes",
    "address": "address_bytes",
}


class Bucket:
    """A token bucket: `rate` per second flow in, up to `burst`; taking more than is there makes debt."""

    __slots__ = ("_level", "_rate", "_updated", "burst")

    def __init__(self, rate: float, burst: float, now: float = 0.0) -> None:
        if rate <= 0 or burst <= 0:
            raise ValueError("rate and burst must be more than 0")
        self._rate = rate
        self.burst = burst
        self._level = burst
        self._updated = now

    def take(self, amount: float, now: float) -> float:
        """Take an amount; return for how many seconds to pause reading (0.0: not at all)."""
        level = self.level(now) - amount
        self._level = level
        return -level / self._rate if level < 0 else 0.0

    def level(self, now: float) -> float:
        """Return what is in the bucket now; below 0 is debt. A clock that went back adds nothing."""
        if now > self._updated:
            self._level = min(self.burst, self._level + (now - self._updated) * self._rate)
            self._updated = now
        return self._level


class Effort(Bucket):
    """What a connection may still cause: see `EFFORT_BURST`."""

    __slots__ = ()

    def __init__(self, now: float) -> None:
        super().__init__(EFFORT_RATE, EFFORT_BURST, now)

    def afford(self, amount: float, now: float) -> bool:
        """Take an amount, if it is there."""
        if self.level(now) < amount:
            return False
        self._level -= amount
        return True


class Throttle:
    """Several buckets that all must allow a batch: of a connection, its client, its address."""

    __slots__ = ("_bytes", "_messages")

    def __init__(self, messages: list[Bucket], size: list[Bucket]) -> None:
        self._messages = messages
        self._bytes = size

    def __bool__(self) -> bool:
        """False when nothing is limited, so that a hot path can skip it."""
        return bool(self._messages or self._bytes)

    def take(self, messages: int, size: int, now: float) -> float:
        """Count a batch of messages and their bytes; return for how many seconds to pause reading."""
        pause = 0.0
        for bucket in self._messages:
            pause = max(pause, bucket.take(messages, now))
        for bucket in self._bytes:
            pause = max(pause, bucket.take(size, now))
        return pause

    def __add__(self, other: "Throttle") -> "Throttle":
        """Return a throttle that asks both; the buckets stay shared."""
        return Throttle(self._messages + other._messages, self._bytes + other._bytes)


class Admission:
    """Lets so many in per second; the rest hear when to come again.

    The answers are spread: each refused one is given the next free slot, so that a crowd that was
    refused together does not come back together.
    """

    __slots__ = ("_bucket", "_next_slot", "_rate")

    def __init__(self, rate: float, burst: float, now: float = 0.0) -> None:
        self._bucket = Bucket(rate, burst, now)
        self._rate = rate
        self._next_slot = now

    def admit(self, now: float) -> float | None:
        """Return None for one that may come in, else after how many seconds to try again."""
        if self._bucket.level(now) >= 1.0:
            self._bucket.take(1.0, now)
            return None
        self._next_slot = max(self._next_slot, now) + 1.0 / self._rate
        if self._next_slot - now > MAX_RETRY_AFTER:
            self._next_slot = now  # the first slots will be free again before this one comes back
            return MAX_RETRY_AFTER
        return self._next_slot - now


class Address:
    """What all connections from one address share."""

    __slots__ = ("connections", "handshakes", "key", "throttle")

    def __init__(self, key: str, throttle: Throttle, handshakes: Bucket | None) -> None:
        self.key = key
        self.connections = 0
        self.throttle = throttle
        self.handshakes = handshakes


class Addresses:
    """The table of addresses: handshake rate, connections at once, and the shared throttle.

    Bounded: entries with a connection are as many as the server's connections, entries without are at most
    `MAX_IDLE_ADDRESSES`.
    """

    def __init__(self, config: Config, max_idle: int = MAX_IDLE_ADDRESSES) -> None:
        self._config = config
        self._handshakes = config.rate("handshakes")
        self._cap = config.max_connections_per_address
        self._max_idle = max_idle
        self._active: dict[str, Address] = {}
        self._idle: OrderedDict[str, Address] = OrderedDict()

    def __len__(self) -> int:
        return len(self._active) + len(self._idle)

    def open(self, address: str, now: float) -> Address | Refusal:
        """Count a new connection from an address; return its entry, or why it is refused.

        Every entry returned must be given back with `close`.
        """
        key = address_key(address)
        entry = self._active.get(key) or self._idle.pop(key, None) or self._new(key, now)
        refusal: Refusal | None = None
        if self._cap and entry.connections >= self._cap:
            refusal = "connections"
        elif entry.handshakes is not None:
            if entry.handshakes.level(now) < 1.0:
                refusal = "rate"
            else:
                entry.handshakes.take(1.0, now)
        if refusal is None:
            entry.connections += 1
            self._active[key] = entry
            return entry
        if not entry.connections:
            self._rest(entry)
        return refusal

    def close(self, entry: Address) -> None:
        """Count a connection as gone."""
        entry.connections -= 1
        if not entry.connections:
            del self._active[entry.key]
            self._rest(entry)

    def _rest(self, entry: Address) -> None:
        self._idle[entry.key] = entry
        if len(self._idle) > self._max_idle:
            self._idle.popitem(last=False)

    def _new(self, key: str, now: float) -> Address:
        handshakes = Bucket(*self._handshakes, now) if self._handshakes is not None else None
        return Address(key, make_throttle(self._config, "address", now), handshakes)


def make_throttle(config: Config, what: Level, now: float) -> Throttle:
    """Return the throttle the settings give to a new connection, client or address."""
    messages = config.rate(_MESSAGES[what])
    size = config.rate(_BYTES[what])
    return Throttle(
        [Bucket(*messages, now)] if messages is not None else [],
        [Bucket(*size, now)] if size is not None else [],
    )


def address_key(address: str) -> str:
    """Return what counts as one address: an IPv4 address (also when mapped into IPv6), an IPv6 /64 (what one
    customer gets), and anything else (a Unix socket's empty name) as it is."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


def client_address(peer: str, forwarded: str | None, trusted: list[str]) -> str:
    """Return the address of the client behind trusted proxies.

    `peer` is the socket's address, `forwarded` the `X-Forwarded-For` header(s), joined by commas. The header
    is believed only from a trusted peer, from right to left, up to the first address that is not
    a trusted proxy itself: what stands left of it anybody could have written.
    """
    if not forwarded or not trusted:
        return peer
    address = peer
    for hop in reversed(forwarded.split(",")):
        if not is_trusted(address, trusted):
            return address
        try:
            address = str(ipaddress.ip_address(hop.strip()))
        except ValueError:
            return address
    return address


def is_trusted(address: str, trusted: list[str]) -> bool:
    """Tell whether an address is one of these proxies' (addresses or networks)."""
    if not trusted:
        return False
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return any((mapped or parsed) in ipaddress.ip_network(network, strict=False) for network in trusted)
