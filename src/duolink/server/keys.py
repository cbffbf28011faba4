"""Keys: read from settings, files and JWKS (RFC 7517), ready to check tokens with; and signing, for tests and
the command line."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from duolink.server.settings import Algorithm, ConfigError, Key

MAX_JWKS: Final = 1 << 20
"""Bytes of a JWKS file: hundreds of RSA keys."""

MAX_JWKS_KEYS: Final = 100
"""Keys in a JWKS file; a token without `kid` is tried against each that fits."""

MIN_SECRET: Final = 32
"""Bytes of an HS256 key: as long as the hash (RFC 7518 §3.2)."""

_TYPES: Final[Mapping[str, tuple[Algorithm, str | None]]] = {
    "oct": ("HS256", None),
    "RSA": ("RS256", None),
    "EC": ("ES256", "P-256"),
    "OKP": ("EdDSA", "Ed25519"),
}
"""JWK key type → (the algorithm it is used with here, its curve)."""


class VerificationKey(Struct, frozen=True):
    """A key ready to check signatures. Its algorithm is its own; a token's header never chooses one."""

    kid: str | None
    algorithm: Algorithm
    key: Any

    def __repr__(self) -> str:
        return f"VerificationKey(kid={self.kid!r}, algorithm={self.algorithm!r}, …)"


def read_key(key: Key, where: str) -> VerificationKey:
    """Return a configured key, ready to check signatures; of a private key only the public half.

    Raises:
        ConfigError: the file cannot be read, or the key does not fit its algorithm.
    """
    try:
        text = key.key if key.key is not None else Path(key.key_file or "").read_text("utf-8").strip()
        return VerificationKey(key.kid, key.algorithm, _prepare(key.algorithm, text))
    except (OSError, ValueError) as error:
        raise ConfigError(where, f"is no usable {key.algorithm} key: {problem(error)}") from None


def read_jwks(path: str) -> list[VerificationKey]:
    """Return the usable keys of a JWKS file (RFC 7517). Others (for encryption, of other algorithms) are
    skipped, as the RFC asks.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JWKS, too large, or holds no usable key.
    """
    with open(path, "rb") as file:
        return parse_jwks(file.read(MAX_JWKS + 1))


def parse_jwks(content: bytes) -> list[VerificationKey]:
    """Return the usable keys of a JWKS, as `read_jwks`. Raises `ValueError`."""
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


def problem(error: Exception) -> str:
    """Say for the operator what is wrong with a file or what is in it."""
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def file_version(path: str) -> tuple[int, int, int]:
    """Return what changes when a file is rewritten or replaced."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, status.st_ino
