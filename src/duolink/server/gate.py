"""Who gets past the opening handshake: one gate for every port, before a node hears of anyone."""

from collections.abc import Callable
from functools import partial
from typing import Final

from duolink.server.config import Config
from duolink.server.handshake import Headers, Refused
from duolink.server.ratelimit import Address, Addresses, Throttle, client_address
from duolink.server.wire import Wire, WireUser

Make = Callable[[Wire, Throttle | None], WireUser]
"""Makes the user of a wire; the throttle is what all connections of its address share."""

_SENTENCES: Final = {
    "rate": "too many new connections from your address",
    "connections": "too many connections from your address",
}


class Gate:
    """Counts the connections of each address, and refuses what is too much.

    Behind trusted proxies the address is the one they forward; the wire is told.
    """

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._trusted = config.listen.trusted_proxies
        limited = (config.rate("handshakes"), config.rate("address_messages"), config.rate("address_bytes"))
        # Without limits (development) nothing is counted and nothing wrapped.
        self._addresses = Addresses(config) if any(limited) or config.max_connections_per_address else None

    def admit(self, wire: Wire, make: Make, headers: Headers | None = None) -> WireUser:
        """Return the wire's user, made by `make`. Raises `Refused`, also what `make` raises."""
        wire.peer_address = self._address(wire.peer_address, headers)
        if self._addresses is None:
            return make(wire, None)
        entry = self._open(self._addresses, wire.peer_address)
        try:
            user = make(wire, entry.throttle)
        except BaseException:
            self._addresses.close(entry)
            raise
        return _Counted(user, self._addresses, entry)

    def enter(self, address: str, headers: Headers) -> Callable[[], None] | None:
        """Let a connection for plain HTTP in; return what is to be called at its end. Raises `Refused`."""
        if self._addresses is None:
            return None
        entry = self._open(self._addresses, self._address(address, headers))
        return partial(self._addresses.close, entry)

    def _address(self, address: str, headers: Headers | None) -> str:
        if not self._trusted or headers is None:
            return address
        forwarded = ",".join(headers.all("x-forwarded-for")) or None
        return client_address(address, forwarded, self._trusted)

    def _open(self, addresses: Addresses, address: str) -> Address:
        entry = addresses.open(address, self._clock())
        if isinstance(entry, str):
            raise Refused(429, _SENTENCES[entry], label=entry, headers=[("Retry-After", "1")])
        return entry


class _Counted:
    """A wire's user whose address is given back when it has closed. What is called for each payload goes
    straight to the user."""

    __slots__ = ("_addresses", "_entry", "_user", "batch_ended", "received")

    def __init__(self, user: WireUser, addresses: Addresses, entry: Address) -> None:
        self.received = user.received
        self.batch_ended = user.batch_ended
        self._user = user
        self._addresses = addresses
        self._entry = entry

    def alive(self) -> None:
        self._user.alive()

    def writable(self) -> None:
        self._user.writable()

    def closed(self, code: int, reason: str) -> None:
        self._addresses.close(self._entry)
        self._user.closed(code, reason)
