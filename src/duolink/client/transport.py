"""The border between a client and its sockets: what a transport can do, what it tells its user, and
how one is opened."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from duolink.client.address import Address
from duolink.protocol import limits

CONNECT_TIMEOUT: Final = 10.0
"""Seconds from the decision to connect to the open transport: name, TCP, TLS and upgrade."""

ADDRESS_TIMEOUT: Final = 3.0
"""Seconds for one of several addresses of a name before the next is tried."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds for the far end to close after this one has; then the socket is cut off. The side that
reads on until the other has closed cannot reset what it sent last."""

WRITE_HIGH: Final = 1024 * 1024
"""Bytes unsent above which a transport is congested, and applications wait: one full payload."""

WRITE_LOW: Final = 256 * 1024
"""Bytes unsent below which it is not any more."""

MAX_PAYLOAD: Final = limits.MAX_PAYLOAD
"""Bytes of one payload taken; more ends the connection with 1009."""


class Transport(Protocol):
    """One open transport that carries whole payloads. No method raises because the far end has gone."""

    congested: bool
    """Whether more is unsent than is good: applications should wait for `writable`."""

    def send(self, payload: bytes, binary: bool) -> None:
        """Send a payload; nothing happens once the transport is closing."""

    def close(self, code: int, reason: str) -> None:
        """Close in order: what was sent goes out first. `gone` follows within `CLOSE_TIMEOUT`."""

    def abort(self) -> None:
        """Cut the socket off now."""


class TransportUser(Protocol):
    """Who listens to transports. Every call names its transport, so that an earlier one's are known."""

    def opened(self, transport: Transport) -> None:
        """The transport is open."""

    def received(self, transport: Transport, payload: bytes, binary: bool) -> None:
        """A whole payload came; a text is valid UTF-8."""

    def batch_ended(self, transport: Transport) -> None:
        """The payloads of one read have all been delivered."""

    def alive(self, transport: Transport) -> None:
        """The far end gave a sign of life without a payload."""

    def writable(self, transport: Transport) -> None:
        """The transport is no longer congested."""

    def closed(self, transport: Transport, code: int, reason: str) -> None:
        """The connection has ended; `code` is the far end's close code, or 1006."""

    def gone(self, transport: Transport) -> None:
        """The socket is closed: the last call."""


Dial = Callable[[TransportUser], Awaitable[None]]
"""Opens a transport: returns after `opened`, or raises `OSError` or `HandshakeRefused`."""


class HandshakeRefused(Exception):
    """The server answered the upgrade with another HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    @property
    def final(self) -> bool:
        """Whether the same request will hardly fare better the next time."""
        return 400 <= self.status < 500 and self.status not in (408, 425, 429)


def dialler(address: Address, tls: ssl.SSLContext | None) -> Dial:
    """Return what opens transports to an address. `tls` replaces the default context of `wss` and `tcps`."""
    if address.secure and tls is None:
        tls = ssl.create_default_context()

    async def dial(user: TransportUser) -> None:
        sock = await connect_socket(address.host, address.port)
        if address.scheme in ("ws", "wss"):
            from duolink.client.websocket import open_websocket as open_transport
        else:
            from duolink.client.tcp import open_tcp as open_transport
        await open_transport(sock, address, user, tls if address.secure else None)

    return dial


async def connect_socket(host: str, port: int) -> socket.socket:
    """Return a connected TCP socket; a name's addresses are tried one after the other.

    Raises `OSError`.
    """
    loop = asyncio.get_running_loop()
    addresses: list[tuple[Any, Any]]
    try:  # a literal address needs no resolver, and no thread
        version = ipaddress.ip_address(host).version
        addresses = [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]
    except ValueError:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [(family, address) for family, _, _, _, address in found]
    error: OSError = OSError(f"{host} has no address")
    for index, (family, address) in enumerate(addresses):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(ADDRESS_TIMEOUT if index < len(addresses) - 1 else None):
                await loop.sock_connect(sock, address)
        except OSError as failure:  # a TimeoutError is one
            sock.close()
            error = failure
        except BaseException:
            sock.close()
            raise
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise error
