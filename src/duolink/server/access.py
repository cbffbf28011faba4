"""Who may ask over HTTP: the bearer of a token, to a server in development this machine; and never a
stranger's page.

Metrics are open to this machine always. A proxy on this machine looks like loopback too; its forwarding
headers give the stranger behind it away, if it sets them. So does a browser here that runs a stranger's page,
whose name was rebound to 127.0.0.1: by its Host.
"""

import asyncio
import hmac
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from duolink.server.auth import AuthenticationError, Authenticator, Identity, UnknownKey
from duolink.server.handshake import OriginPolicy, names_this_machine
from duolink.server.ratelimit import is_trusted
from duolink.server.settings import Config, is_loopback
from duolink.server.timers import Clock

FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Headers that only a proxy sets."""

SAFE: Final = ("GET", "HEAD")
"""Methods that change nothing (RFC 9110 section 9.2.1), of those that are answered."""


def is_here(config: Config, request: HTTPConnection) -> bool:
    """Tell whether a request comes from this machine, or to a server in development by a name of this
    machine."""
    if not names_this_machine(request.headers.get("host", "localhost")):
        return False
    if config.development:
        return True
    forwarded = any(name in request.headers for name in FORWARDED)
    return request.client is not None and is_loopback(request.client.host) and not forwarded


def bearer(request: HTTPConnection) -> str:
    """Return the bearer token of a request; empty without one."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def same(given: str, token: str) -> bool:
    """Compare two tokens in a time that tells nothing."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def unauthorized(realm: str, detail: str, error: str = "") -> HTTPException:
    """Return the answer to a request whose token is missing or no good (RFC 6750 section 3)."""
    challenge = f'Bearer realm="{realm}"' + (f', error="{error}"' if error else "")
    return HTTPException(401, detail, {"www-authenticate": challenge})


class Access:
    """Judges requests to the operator's API."""

    def __init__(self, config: Config, authenticator: Authenticator, clock: Clock) -> None:
        self._config = config
        self._authenticator = authenticator
        self._clock = clock
        self._origins = OriginPolicy(frozenset(config.listen.origins), config.development)

    async def check(self, request: HTTPConnection, method: str) -> None:
        """Return if the request may be answered. Raises `HTTPException` 401 or 403."""
        self.check_site(request, method)
        # Not for loopback alone: a proxy that sets no forwarding headers, as many do unless they are told to,
        # would make operators of all the world.
        if self._config.development and is_here(self._config, request):
            return
        token, configured = bearer(request), self._config.http.operator_token
        if not token:
            raise unauthorized("duolink", "a bearer token is needed: http.operator_token, or an operator's")
        if configured is not None and same(token, configured):
            return
        if self._config.development:
            raise unauthorized("duolink", "this token opens nothing", "invalid_token")
        try:
            identity = await self._identify(token)
        except AuthenticationError as error:
            raise unauthorized("duolink", error.message, "invalid_token") from None
        if identity.claims.get("operator") is not True:
            raise HTTPException(403, "the token has no claim `operator` that is true")

    async def _identify(self, token: str) -> Identity:
        try:
            return self._authenticator.authenticate(token, self._clock.wall_ms() / 1000)
        except UnknownKey as unknown:
            await asyncio.wait([unknown.fetched])
            return self._authenticator.authenticate(token, self._clock.wall_ms() / 1000)

    def check_site(self, request: HTTPConnection, method: str) -> None:
        """Refuse what a stranger's page has a browser here ask. Raises `HTTPException` 403."""
        headers = request.headers
        if headers.get("sec-fetch-site") == "cross-site":
            raise HTTPException(403, "the API does not answer pages of other sites")
        origin = headers.get("origin")
        if origin is None or method in SAFE:
            return
        if origin == "null" or not self._origins.allows(
            origin, headers.get("host", ""), self._secure(request)
        ):
            raise HTTPException(403, "the API does not answer pages of other origins; see listen.origins")

    def _secure(self, request: HTTPConnection) -> bool:
        if request.scope.get("scheme") == "https":
            return True
        address = request.client.host if request.client is not None else ""
        if not is_trusted(address, self._config.listen.trusted_proxies):
            return False
        return request.headers.get("x-forwarded-proto", "").lower() == "https"
