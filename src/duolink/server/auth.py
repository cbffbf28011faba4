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

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from duolink.protocol.limits import MAX_TOKEN
from duolink.server.settings import Algorithm, Auth, ConfigError, Key

MAX_PATTERNS: Final = 256
"""Patterns in one claim; a token of 8 KiB could carry thousands, each costs at every check."""

MAX_USER: Final = 128
"""UTF-8 bytes of a user's name, as of a client id."""

MAX_JWKS: Final = 1 << 20
"""Bytes of a JWKS file: hundreds of RSA keys."""

MAX_JWKS_KEYS: Final = 100
"""Keys in a JWKS file; a token without `kid` is tried against each that fits."""

JWKS_CHECK_S: Final = 1.0
"""Seconds between two looks at the JWKS file's time of change."""

LATEST: Final = 253_402_300_799
"""The last second of the year 9999; an `exp` beyond it is a mistake of units."""

MIN_SECRET: Final = 32
"""Bytes of an HS256 key: as long as the hash (RFC 7518 §3.2)."""

_TYPES: Final[Mapping[str, tuple[Algorithm, str | None]]] = {
    "oct": ("HS256", None),
    "RSA": ("RS256", None),
    "EC": ("ES256", "P-256"),
    "OKP": ("EdDSA", "Ed25519"),
}
"""JWK key type → (the algorithm it is used with here, its curve)."""

Code = Literal["token_missing", "token_invalid", "token_expired", "token_not_yet_valid"]


class AuthenticationError(Exception):
    """A token that lets nobody in. `code` is for programs, `message` for people; neither repeats anything
    of the token."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message


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


class VerificationKey(Struct, frozen=True):
    """A key ready to check signatures. Its algorithm is its own; a token's header never chooses one."""

    kid: str | None
    algorithm: Algorithm
    key: Any

    def __repr__(self) -> str:
        return f"VerificationKey(kid={self.kid!r}, algorithm={self.algorithm!r}, …)"


class TokenAuthenticator:
    """Checks tokens against the configured keys and a JWKS file, which it reads again when it changes.

    Raises:
        ConfigError: a key cannot be read or used.
    """

    def __init__(self, settings: Auth) -> None:
        self._settings = settings
        self._log = structlog.get_logger("duolink.auth")
        self._configured = [read_key(key, f"auth.keys[{i}]") for i, key in enumerate(settings.keys)]
        self._published: list[VerificationKey] = []
        self._jwks_version: tuple[int, int, int] | None = None
        self._jwks_checked = -math.inf
        if settings.jwks_file is not None:
            try:
                self._jwks_version = _version(settings.jwks_file)
                self._published = read_jwks(settings.jwks_file)
            except (OSError, ValueError) as error:
                raise ConfigError("auth.jwks_file", _problem(error)) from None
        if not self._configured and not self._published:
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
        raise AuthenticationError("token_invalid", "the token is not signed with a key that counts here")

    def _candidates(self, header: Mapping[str, Any]) -> list[VerificationKey]:
        """Return the keys that may have signed it. `alg` only narrows: each key is used with its own."""
        kid, algorithm = header.get("kid"), header.get("alg")
        return [
            key
            for key in (*self._configured, *self._published)
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
            version = _version(path)
            if version == self._jwks_version:
                return
            self._jwks_version = version  # one warning per version of a bad file
            self._published = read_jwks(path)
        except (OSError, ValueError) as error:
            self._log.warning(
                "the JWKS file cannot be used; the last good keys stay", problem=_problem(error)
            )
        else:
            self._log.info("read the JWKS file again", keys=len(self._published))


def make_authenticator(settings: Auth) -> Authenticator:
    """Return the authenticator the settings ask for; open when they name no key.

    Raises:
        ConfigError: a key cannot be read or used.
    """
    if settings.keys or settings.jwks_file:
        return TokenAuthenticator(settings)
    return OpenAuthenticator()


def read_key(key: Key, where: str) -> VerificationKey:
    """Return a configured key, ready to check signatures; of a private key only the public half.

    Raises:
        ConfigError: the file cannot be read, or the key does not fit its algorithm.
    """
    try:
        text = key.key if key.key is not None else Path(key.key_file or "").read_text("utf-8").strip()
        return VerificationKey(key.kid, key.algorithm, _prepare(key.algorithm, text))
    except (OSError, ValueError) as error:
        raise ConfigError(where, f"is no usable {key.algorithm} key: {_problem(error)}") from None


def read_jwks(path: str) -> list[VerificationKey]:
    """Return the usable keys of a JWKS file (RFC 7517). Others (for encryption, of other algorithms) are
    skipped, as the RFC asks.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JWKS, too large, or holds no usable key.
    """
    with open(path, "rb") as file:
        content = file.read(MAX_JWKS + 1)
    if len(content) > MAX_JWKS:
        raise ValueError("is larger than 1 MiB")
    try:
        found = json.loads(content)["keys"]
        if not isinstance(found, list):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("is not a JSON object with a list of keys") from None
    if len(found) > MAX_JWKS_KEYS:
        raise ValueError(f"holds more than {MAX_JWKS_KEYS} keys")
    keys = [key for key in map(_from_jwk, found) if key is not None]
    if not keys:
        raise ValueError("holds no key for HS256, RS256, ES256 or EdDSA")
    return keys


def sign(
    claims: Mapping[str, Any],
    key: str,
    algorithm: Algorithm,
    expires_s: float,
    now: float,
    kid: str | None = None,
) -> str:
    """Return a token with these claims that ends `expires_s` seconds after the wall time `now`.

    `key` is the secret (HS256) or the private key (PEM).

    Raises:
        ValueError: the key does not fit the algorithm, or is a public one.
    """
    _prepare(algorithm, key)
    content = {**claims, "iat": int(now), "exp": math.ceil(now + expires_s)}
    try:
        return jwt.encode(content, key, algorithm=algorithm, headers={"kid": kid} if kid else None)
    except (jwt.PyJWTError, TypeError, AttributeError):
        raise ValueError(f"cannot sign with this key; {algorithm} needs the private one") from None


def _prepare(algorithm: Algorithm, text: str) -> Any:
    """Return the key object that checks signatures, or raise ValueError without repeating the key."""
    if algorithm == "HS256" and len(text.encode()) < MIN_SECRET:
        raise ValueError(f"an HS256 secret has at least {MIN_SECRET} bytes")
    method = jwt.get_algorithm_by_name(algorithm)
    try:
        key = method.prepare_key(text)
    except (jwt.PyJWTError, ValueError, TypeError):
        kind = "a secret, not a PEM key" if algorithm == "HS256" else "a PEM key of that kind"
        raise ValueError(f"expected {kind}") from None
    if hasattr(key, "public_key"):
        key = key.public_key()
    return _fit(algorithm, key)


def _fit(algorithm: Algorithm, key: Any) -> Any:
    """Return the key if it is strong enough and of the one kind its algorithm means here."""
    weakness = jwt.get_algorithm_by_name(algorithm).check_key_length(key)
    if weakness:
        raise ValueError("the key is too short")
    if algorithm == "EdDSA" and not isinstance(key, Ed25519PublicKey):
        raise ValueError("expected an Ed25519 key")
    return key


def _from_jwk(jwk: Any) -> VerificationKey | None:
    """Return the key of one JWK, or None for one that is not for us."""
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or str(jwk.get("kty")) not in _TYPES:
        return None
    algorithm, curve = _TYPES[jwk["kty"]]
    if jwk.get("alg", algorithm) != algorithm or (curve is not None and jwk.get("crv") != curve):
        return None
    kid = jwk.get("kid")
    try:
        key = jwt.PyJWK(jwk, algorithm).key
        if hasattr(key, "public_key"):
            key = key.public_key()
        return VerificationKey(kid if isinstance(kid, str) else None, algorithm, _fit(algorithm, key))
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None


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


def _problem(error: Exception) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def _version(path: str) -> tuple[int, int, int]:
    """Return what changes when a file is rewritten or replaced."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, status.st_ino
