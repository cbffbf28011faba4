"""Forged, confused and hostile tokens: none of them lets anybody in, and none raises anything else."""

import base64
import contextlib
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from duolink.server.auth import AuthenticationError, TokenAuthenticator, sign
from duolink.server.settings import Auth, Key

SECRET = "0123456789abcdef0123456789abcdef"
NOW = 1_700_000_000.0
CLAIMS = {"sub": "bob", "exp": NOW + 60}

RSA_KEY = rsa.generate_private_key(65537, 2048)
RSA_PUBLIC = (
    RSA_KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
RSA_PRIVATE = RSA_KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()

WITH_SECRET = TokenAuthenticator(Auth(keys=[Key(algorithm="HS256", key=SECRET)]))
WITH_RSA = TokenAuthenticator(Auth(keys=[Key(algorithm="RS256", key=RSA_PUBLIC)]))
WITH_BOTH = TokenAuthenticator(
    Auth(keys=[Key(algorithm="RS256", key=RSA_PUBLIC), Key(algorithm="HS256", key=SECRET)])
)
GOOD = sign({"sub": "bob"}, SECRET, "HS256", 60, NOW)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(header: Any, claims: Any = CLAIMS, key: bytes = SECRET.encode()) -> str:
    """Make a token with any header, signed with HMAC-SHA256."""
    head = header if isinstance(header, str) else json.dumps(header)
    body = claims if isinstance(claims, str) else json.dumps(claims)
    signed = f"{b64(head.encode())}.{b64(body.encode())}"
    return f"{signed}.{b64(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def refused(check: TokenAuthenticator, token: str | None) -> str:
    with pytest.raises(AuthenticationError) as caught:
        check.authenticate(token, NOW)
    return caught.value.code


def test_the_forger_can_make_a_good_token():
    """The control: the same function with an honest header is let in."""
    assert WITH_SECRET.authenticate(forge({"alg": "HS256"}), NOW).user == "bob"


def test_no_token_is_missing():
    assert refused(WITH_SECRET, None) == "token_missing"
    assert refused(WITH_SECRET, "") == "token_missing"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 1, ["HS256"], {"a": 1}])
def test_the_algorithm_none_does_not_exist(algorithm):
    unsigned = forge({"alg": algorithm}).rpartition(".")[0] + "."
    for check in (WITH_SECRET, WITH_RSA, WITH_BOTH):
        assert refused(check, unsigned) == "token_invalid"
        assert refused(check, forge({"alg": algorithm})) == "token_invalid"


def test_a_public_key_is_no_hmac_secret():
    """The classic confusion: an RSA public key, which everybody knows, used as the secret of HS256."""
    for key in (RSA_PUBLIC, RSA_PUBLIC.strip()):
        confused = forge({"alg": "HS256"}, key=key.encode())
        assert refused(WITH_RSA, confused) == "token_invalid"
        assert refused(WITH_BOTH, confused) == "token_invalid"


def test_a_token_never_chooses_the_algorithm_of_a_key():
    right = sign({"sub": "bob"}, RSA_PRIVATE, "RS256", 60, NOW)
    assert WITH_RSA.authenticate(right, NOW).user == "bob"
    for algorithm in ("RS384", "RS512", "PS256"):
        assert refused(WITH_RSA, jwt.encode(CLAIMS, RSA_PRIVATE, algorithm)) == "token_invalid"
    for algorithm in ("HS384", "HS512"):
        long = TokenAuthenticator(Auth(keys=[Key(algorithm="HS256", key=SECRET * 2)]))
        assert refused(long, jwt.encode(CLAIMS, SECRET * 2, algorithm)) == "token_invalid"


def test_a_token_never_brings_its_own_key():
    own = json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(RSA_KEY.public_key()))
    other = rsa.generate_private_key(65537, 2048)
    for header in (
        {"jwk": own},
        {"jku": "file:///etc/passwd"},
        {"x5u": "http://127.0.0.1/"},
        {"x5c": ["AA"]},
    ):
        assert refused(WITH_RSA, jwt.encode(CLAIMS, other, "RS256", headers=header)) == "token_invalid"


@pytest.mark.parametrize("kid", ["../../etc/passwd", "' or 1=1", 7, None, ["a"], {}, "x" * 4000])
def test_a_kid_is_only_compared(kid):
    check = TokenAuthenticator(Auth(keys=[Key(algorithm="HS256", key=SECRET, kid="k1")]))
    token = forge({"alg": "HS256", "kid": kid})
    assert refused(check, token) == "token_invalid"


def test_unknown_critical_extensions_are_refused():
    assert refused(WITH_SECRET, forge({"alg": "HS256", "crit": ["x"], "x": 1})) == "token_invalid"
    assert refused(WITH_SECRET, forge({"alg": "HS256", "crit": []})) == "token_invalid"
    assert refused(WITH_SECRET, forge({"alg": "HS256", "b64": False, "crit": ["b64"]})) == "token_invalid"


def test_a_token_has_a_maximum_size():
    fitting = sign({"sub": "bob", "pad": "x" * 5900}, SECRET, "HS256", 60, NOW)
    assert len(fitting) < 8192
    assert WITH_SECRET.authenticate(fitting, NOW).user == "bob"
    large = sign({"sub": "bob", "pad": "x" * 6200}, SECRET, "HS256", 60, NOW)
    assert len(large) > 8192
    assert refused(WITH_SECRET, large) == "token_invalid"


@pytest.mark.parametrize(
    "claims",
    [
        "",
        "[]",
        "7",
        "null",
        "{",
        "[" * 5000,
        '{"a":' * 1200,
        '{"exp":1e999,"sub":"bob"}',
        '{"exp":' + "9" * 5000 + "}",
    ],
)
def test_strange_claims_with_a_good_signature(claims):
    assert refused(WITH_SECRET, forge({"alg": "HS256"}, claims)) == "token_invalid"


@pytest.mark.parametrize("header", ["", "[]", "{", "[" * 5000, '{"alg":' * 900, '"HS256"'])
def test_strange_headers(header):
    assert refused(WITH_SECRET, forge(header)) == "token_invalid"


@pytest.mark.parametrize(
    "token", [".", "..", "...", "a.b.c", "a.b.c.d.e", " " + GOOD, GOOD + "\n", "\ud800", "é.é.é", "\0"]
)
def test_strange_texts(token):
    assert refused(WITH_SECRET, token) == "token_invalid"


def test_every_changed_character_is_noticed():
    for at in range(0, len(GOOD), 3):
        if GOOD[at] == ".":
            continue
        changed = GOOD[:at] + ("A" if GOOD[at] != "A" else "B") + GOOD[at + 1 :]
        assert refused(WITH_SECRET, changed) == "token_invalid"


def test_a_refusal_repeats_nothing_of_the_token():
    hostile = forge({"alg": "HS256", "crit": ["INJECTED"]}, {**CLAIMS, "channels": "INJECTED"})
    for token in (hostile, forge({"alg": "HS256"}, {**CLAIMS, "channels": "INJECTED"})):
        with pytest.raises(AuthenticationError) as caught:
            WITH_SECRET.authenticate(token, NOW)
        assert "INJECTED" not in caught.value.message
        assert caught.value.__cause__ is None


@settings(max_examples=300)
@given(
    st.text(max_size=200) | st.builds(lambda *p: ".".join(p), *[st.sampled_from(GOOD.split(".") + [""])] * 3)
)
def test_no_text_raises_anything_else(text):
    if text != GOOD:
        assert refused(WITH_BOTH, text) in ("token_invalid", "token_missing")


scalars = st.sampled_from(
    [None, True, 0, -1, NOW + 1, 1e300, float("nan"), "", "*", "a*", "a*b", "a:b", "\ud800"]
)
json_values = (
    scalars
    | st.lists(scalars, max_size=3)
    | st.dictionaries(st.sampled_from(["subscribe", "publish", "x"]), scalars)
)


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["sub", "exp", "nbf", "iat", "aud", "iss", "jti", "client", "channels", "links"]),
        json_values,
    )
)
def test_no_claims_raise_anything_else(claims):
    token = forge({"alg": "HS256"}, {**CLAIMS, **claims})
    with contextlib.suppress(AuthenticationError):
        assert WITH_SECRET.authenticate(token, NOW).user
