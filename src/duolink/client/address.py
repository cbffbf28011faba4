"""Where a server is: the URL a user gives, taken apart and checked."""

from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443, "tcp": 0, "tcps": 0}

_SECRETS: Final = frozenset({"token", "access_token", "jwt"})
"""Names of query parameters that somebody writes who takes this for another protocol; proxies log them."""

DEFAULT_PATH: Final = "/ws"
"""Path of the WebSocket where the URL names none."""


class Address(NamedTuple):
    """A server's address. `scheme` is `ws`, `wss`, `tcp` or `tcps`; `path` includes the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("wss", "tcps")

    @property
    def url(self) -> str:
        """The address as a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_address(url: str) -> Address:
    """Take a URL apart: `ws://`, `wss://` (no path: `/ws`), `tcp://` and `tcps://` (which need a port).

    Raises `ValueError` for what is no such URL, and for one with credentials: a token never travels
    in a URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"{url!r} is no address: expected ws://, wss://, tcp:// or tcps://")
    if not parts.hostname or any(char.isspace() for char in url):
        raise ValueError(f"{url!r} names no host")
    secret = any(name.lower() in _SECRETS for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    if parts.username is not None or parts.fragment or secret:
        raise ValueError("an address has no user name, password, token or fragment; a token is given apart")
    port = parts.port or _DEFAULT_PORTS[parts.scheme]  # `port` raises ValueError for what is no port
    if parts.scheme in ("ws", "wss"):
        path = parts.path if parts.path not in ("", "/") else DEFAULT_PATH
        return Address(parts.scheme, parts.hostname, port, path + (f"?{parts.query}" if parts.query else ""))
    if not port or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"{url!r} is no address: expected {parts.scheme}://host:port")
    return Address(parts.scheme, parts.hostname, port, "")
