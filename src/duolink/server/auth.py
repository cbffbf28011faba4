"""Who a client is: tokens (JWT, RFC 7519) in, identities out.

Claims that are read:

- `sub` (required): the user.
- `exp` (required), `nbf`, `iat`: seconds since 1970, with `auth.leeway_s` of forgiveness.
- `iss`, `aud`: must match when the configuration names them.
- `client`: the client id this token may use, exact or ending in `*`. Without it, a token of user `bob`
  may be the client `bob` and every client that begins with `bob:`. For that rule to keep users
  apart, a user without a `client` claim must not contain `:`.
- `channels`: a list of channel patterns for both directions, or `{"subscribe": […], "publish": […]}`.
- `links`: a list of patterns of client ids this client may link to.

A pattern is an exact name, or ends in `*` and covers what begins with the rest. A claim that is
absent allows nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import jwt
import structlog
from msgspec import Struct

from duolink.protocol.limits import MAX_TOKEN
from duolink.server.keys import VerificationKey, file_version, problem, read_jwks, read_key, sign
from duolink.server.settings import Auth, ConfigError

if TYPE_CHECKING:
    from asyncio import Future

    from duolink.server.jwks import JwksSource

__all__ = [
    "EVERYTHING",
    "NOTHING",
    "AuthenticationError",
    "Authenticator",
    "Identity",
    "OpenAuthenticator",
    "Patterns",
    "TokenAuthenticator",
    "UnknownKey",
    "VerificationKey",
    "make_authenticator",
    "read_jwks",
    "sign",
]

MAX_PATTERNS: Final = 256
"""Patterns in one claim; a token of 8 KiB could carry thousands, each costs at every check."""

MAX_USER: Final = 128
"""UTF-8 bytes of a user's name, as of a client id."""

JWKS_CHECK_S: Final = 1.0
"""Seconds between two looks at the JWKS file's time of change."""

LATEST: Final = 253_402_300_799
"""The last second of the year 9999; an `exp` beyond it is a mistake of units."""

Code = Literal["token_missing", "token_invalid", "token_expired", "token_not_yet_valid"]


class AuthenticationError(Exception):
    """A token that lets nobody in. `code` is for programs, `message` for people; neither repeats anything
    of the token."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message


class UnknownKey(AuthenticationError):
    """A token names a key that is not there, and the keys are being fetched: when `fetched` is done, however
    it ends, the token may be presented once more."""

    def __init__(self, fetched: "Future[None]") -> None:
        super().__init__("token_invalid", "the token is not signed with a key that counts here")
        self.fetched = fetched


class Patterns(Struct, frozen=True):
    """A set of names: exact ones, and all that begin with a prefix."""

    exact: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    @classmethod
    def of(cls, patterns: Sequence[str]) -> "Patterns":
        """Make the set from patterns.

        Raises:
            ValueError: a pattern is empty or has a `*` elsewhere than at its end.
        """
        for pattern in patterns:
            if not pattern or "*" in pattern[:-1]:
                raise ValueError("a pattern is an exact name or ends in *")
        return cls(
            frozenset(p for p in patterns if not p.endswith("*")),
            tuple(p[:-1] for p in patterns if p.endswith("*")),
        )

    def match(self, name: str) -> bool:
        """Tell whether the name is in the set."""
        return name in self.exact or name.startswith(self.prefixes)


EVERYTHING: Final = Patterns(prefixes=("",))
NOTHING: Final = Patterns()


class Identity(Struct, frozen=True, kw_only=True):
    """What a valid token says about the client that presented it."""

    user: str
    """The user; empty when nobody vouched for one (development)."""
    client: str | None = None
    """The client id it may use, exact or ending in `*`; None: the user's own (see the module)."""
    subscribe: Patterns = NOTHING
    publish: Patterns = NOTHING
    links: Patterns = NOTHING
    expires_at: float | None = None
    """Wall seconds at which the connection must close, leeway included; None: never."""
    claims: Mapping[str, Any] = {}
    """All claims, for the embedding program."""

    def may_be(self, client_id: str) -> bool:
        """Tell whether it may register under this client id. Never under `@…` or `$…`, which are users
        and the server."""
        if not client_id or client_id[0] in "@$":
            return False
        if self.client is None:
            return client_id == self.user or client_id.startswith(self.user + ":")
        if self.client.endswith("*"):
            return client_id.startswith(self.client[:-1])
        return client_id == self.client

    def may_subscribe(self, channel: str) -> bool:
        """Tell whether it may subscribe to the channel, and read its history and presence."""
        return self.subscribe.match(channel)

    def may_publish(self, channel: str) -> bool:
        """Tell whether it may publish to the channel."""
        return self.publish.match(channel)

    def may_link(self, client_id: str) -> bool:
        """Tell whether its claims allow a link to this client id."""
        return self.links.match(client_id)

    def user_of(self, client_id: str) -> str:
        """Return the user; where nobody vouched for one, what the client id says: its part before the
        first `:`."""
        return self.user or client_id.partition(":")[0]


class Authenticator(Protocol):
    """The port: what the node asks before it lets a client in."""

    def authenticate(self, token: str | None, now: float) -> Identity:
        """Return who presents this token at wall time `now` (seconds).

        Raises:
            AuthenticationError: nobody, and why.
        """
        ...

    def room(self, token: str | None, now: float) -> str:
        """Return the room a ticket of `/connect` opens: the `room` claim of a valid token.

        Raises:
            AuthenticationError: none, and why.
        """
        ...


class OpenAuthenticator:
    """Development: everybody may be and do everything; a token is not looked at."""

    def authenticate(self, token: str | None, now: float) -> Identity:
        """Return an identity without a user that may do everything."""
        return Identity(user="", client="*", subscribe=EVERYTHING, publish=EVERYTHING, links=EVERYTHING)

    def room(self, token: str | None, now: float) -> str:
        """Raise: in development rooms need no ticket, so a ticket opens nothing."""
        raise AuthenticationError("token_invalid", "this server has no keys to check a ticket with")


class TokenAuthenticator:
    """Checks tokens against the configured keys, a JWKS file, which it reads again when it changes, and a
    source that fetches keys.

    Raises:
        ConfigError: a key cannot be read or used.
    """

    def __init__(self, settings: Auth, source: "JwksSource | None" = None) -> None:
        self._settings = settings
        self._source = source
        self._log = structlog.get_logger("duolink.auth")
        self._configured = [read_key(key, f"auth.keys[{i}]") for i, key in enumerate(settings.keys)]
        self._published: list[VerificationKey] = []
        self._jwks_version: tuple[int, int, int] | None = None
        self._jwks_checked = -math.inf
        if settings.jwks_file is not None:
            try:
                self._jwks_version = file_version(settings.jwks_file)
                self._published = read_jwks(settings.jwks_file)
            except (OSError, ValueError) as error:
                raise ConfigError("auth.jwks_file", problem(error)) from None
        if not self._configured and not self._published and source is None:
            raise ConfigError("auth.keys", "there is no key to check tokens with")
        required = ["exp", "sub", *settings.required_claims]
        self._options: Any = {
            # Times are checked here, against the caller's clock.
            "verify_exp": False,
            "verify_nbf": False,
            "verify_iat": False,
            "verify_aud": settings.audience is not None,
            "require": required,
        }
        self._ticket_options: Any = {**self._options, "require": ["exp", "room"]}

    def authenticate(self, token: str | None, now: float) -> Identity:
        """See `Authenticator.authenticate`."""
        claims, expires_at = self._verify(token, now, self._options)
        user = _name(claims["sub"], "sub")
        client = _name(claims["client"], "client") if "client" in claims else None
        if client is None and ":" in user:
            raise AuthenticationError(
                "token_invalid", "a token whose sub contains ':' needs a client claim, to keep users apart"
            )
        if client is not None and "*" in client[:-1]:
            raise AuthenticationError("token_invalid", "the client claim may have a * only at its end")
        subscribe, publish = _channel_rights(claims.get("channels"))
        return Identity(
            user=user,
            client=client,
            subscribe=subscribe,
            publish=publish,
            links=_patterns(claims.get("links"), "links"),
            expires_at=expires_at,
            claims=claims,
        )

    def room(self, token: str | None, now: float) -> str:
        """See `Authenticator.room`."""
        claims, _ = self._verify(token, now, self._ticket_options)
        return _name(claims["room"], "room")

    def _verify(self, token: str | None, now: float, options: Any) -> tuple[dict[str, Any], float]:
        """Return the claims of a token that is genuine and valid now, and when it ends."""
        if not token:
            raise AuthenticationError("token_missing", "a token is needed")
        if len(token) > MAX_TOKEN or not token.isascii():
            raise AuthenticationError("token_invalid", "the token is too long or has characters no token has")
        self._refresh(now)
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise AuthenticationError("token_invalid", "the token is malformed") from None
        for key in self._candidates(header):
            try:
                claims = jwt.decode(
                    token,
                    key.key,
                    algorithms=[key.algorithm],
                    audience=self._settings.audience,
                    issuer=self._settings.issuer,
                    options=options,
                )
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, ValueError, RecursionError) as error:
                raise AuthenticationError("token_invalid", _reason(error)) from None
            return claims, self._check_times(claims, now)
        self._ask_for(header)
        raise AuthenticationError("token_invalid", "the token is not signed with a key that counts here")

    def _keys(self) -> Sequence[VerificationKey]:
        fetched = self._source.keys if self._source is not None else ()
        return (*self._configured, *self._published, *fetched)

    def _ask_for(self, header: Mapping[str, Any]) -> None:
        """Raise `UnknownKey` if the key that a token names may be had."""
        kid = header.get("kid")
        if self._source is None or not isinstance(kid, str) or any(key.kid == kid for key in self._keys()):
            return
        fetched = self._source.ask()
        if fetched is not None:
            raise UnknownKey(fetched)

    def _candidates(self, header: Mapping[str, Any]) -> list[VerificationKey]:
        """Return the keys that may have signed it. `alg` only narrows: each key is used with its own."""
        kid, algorithm = header.get("kid"), header.get("alg")
        return [
            key
            for key in self._keys()
            if key.algorithm == algorithm and (kid is None or key.kid is None or key.kid == kid)
        ]

    def _check_times(self, claims: Mapping[str, Any], now: float) -> float:
        leeway = self._settings.leeway_s
        ends = _time(claims["exp"], "exp") + leeway
        if now >= ends:
            raise AuthenticationError("token_expired", "the token has expired")
        for claim in ("nbf", "iat"):
            if claim in claims and now < _time(claims[claim], claim) - leeway:
                raise AuthenticationError("token_not_yet_valid", f"the token is not valid yet ({claim})")
        return ends

    def _refresh(self, now: float) -> None:
        """Read the JWKS file again if it changed. While it is unreadable the last good keys count."""
        path = self._settings.jwks_file
        if path is None or 0 <= now - self._jwks_checked < JWKS_CHECK_S:
            return
        self._jwks_checked = now
        try:
            version = file_version(path)
            if version == self._jwks_version:
                return
            self._jwks_version = version  # one warning per version of a bad file
            self._published = read_jwks(path)
        except (OSError, ValueError) as error:
            self._log.warning("the JWKS file cannot be used; the last good keys stay", problem=problem(error))
        else:
            self._log.info("read the JWKS file again", keys=len(self._published))


def make_authenticator(settings: Auth, source: "JwksSource | None" = None) -> Authenticator:
    """Return the authenticator the settings ask for; open when they name no key. `source` fetches from
    `jwks_url`.

    Raises:
        ConfigError: a key cannot be read or used.
    """
    if settings.keys or settings.jwks_file or source is not None:
        return TokenAuthenticator(settings, source)
    return OpenAuthenticator()


def _channel_rights(value: Any) -> tuple[Patterns, Patterns]:
    """Return what the `channels` claim allows to subscribe to, and to publish to."""
    if isinstance(value, dict):
        if not value.keys() <= {"subscribe", "publish"}:
            raise AuthenticationError("token_invalid", "the channels claim has subscribe and publish only")
        return (
            _patterns(value.get("subscribe"), "channels.subscribe"),
            _patterns(value.get("publish"), "channels.publish"),
        )
    both = _patterns(value, "channels")
    return both, both


def _patterns(value: Any, claim: str) -> Patterns:
    if value is None:
        return NOTHING
    if isinstance(value, list) and len(value) <= MAX_PATTERNS and all(isinstance(p, str) for p in value):
        try:
            return Patterns.of(value)
        except ValueError:
            pass
    raise AuthenticationError(
        "token_invalid",
        f"the {claim} claim must be a list of at most {MAX_PATTERNS} names, each exact or ending in *",
    )


def _name(value: Any, claim: str) -> str:
    """Return a claim that names somebody: a printable text of bounded length."""
    if isinstance(value, str) and value and value.isprintable() and len(value.encode()) <= MAX_USER:
        return value
    raise AuthenticationError("token_invalid", f"the {claim} claim must be a text of 1 to {MAX_USER} bytes")


def _time(value: Any, claim: str) -> float:
    """Return a NumericDate (RFC 7519 §2)."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LATEST:
        return float(value)
    raise AuthenticationError("token_invalid", f"the {claim} claim must be seconds since 1970")


def _reason(error: Exception) -> str:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"the token lacks the claim {error.claim}"
    if isinstance(error, jwt.InvalidAudienceError):
        return "the token is for another audience"
    if isinstance(error, jwt.InvalidIssuerError):
        return "the token is from another issuer"
    return "the token is malformed"
