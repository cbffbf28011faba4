"""Identities: what claims allow, how times and keys are checked, how keys rotate."""

import json
import os
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from structlog.testing import capture_logs

from duolink.server.auth import (
    EVERYTHING,
    NOTHING,
    AuthenticationError,
    Identity,
    OpenAuthenticator,
    Patterns,
    TokenAuthenticator,
    VerificationKey,
    make_authenticator,
    read_jwks,
    sign,
)
from duolink.server.settings import Algorithm, Auth, ConfigError, Key

SECRET = "0123456789abcdef0123456789abcdef"
NOW = 1_700_000_000.0


@cache
def pair(algorithm: str) -> tuple[str, str]:
    """Return (private, public) PEM, or the secret twice."""
    if algorithm == "HS256":
        return SECRET, SECRET
    private: Any
    if algorithm == "RS256":
        private = rsa.generate_private_key(65537, 2048)
    elif algorithm == "ES256":
        private = ec.generate_private_key(ec.SECP256R1())
    else:
        private = ed25519.Ed25519PrivateKey.generate()
    return pem_private(private), pem_public(private)


def pem_private(key: Any) -> Any:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def pem_public(key: Any) -> Any:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def authenticator(**settings: Any) -> TokenAuthenticator:
    settings.setdefault("keys", [Key(algorithm="HS256", key=SECRET)])
    return TokenAuthenticator(Auth(**settings))


def token(expires_s: float = 60, **claims: Any) -> str:
    return sign({"sub": "bob", **claims}, SECRET, "HS256", expires_s, NOW)


def raw(claims: dict[str, Any], **header: Any) -> str:
    return jwt.encode(claims, SECRET, "HS256", headers=header)


def refusal(check: TokenAuthenticator, text: str | None, now: float = NOW) -> tuple[str, str]:
    with pytest.raises(AuthenticationError) as caught:
        check.authenticate(text, now)
    return caught.value.code, caught.value.message


# --- identities


def test_a_user_may_be_itself_and_its_devices():
    bob = Identity(user="bob")
    assert bob.may_be("bob")
    assert bob.may_be("bob:phone")
    for other in ("bobby", "alice", "bo", "Bob", "", "@bob", "$server"):
        assert not bob.may_be(other)


def test_a_client_claim_names_one_client_or_a_prefix():
    assert Identity(user="bob", client="phone").may_be("phone")
    assert not Identity(user="bob", client="phone").may_be("bob")
    some = Identity(user="bob", client="dev-*")
    assert some.may_be("dev-1")
    assert not some.may_be("dev")
    anyone = Identity(user="bob", client="*")
    assert anyone.may_be("x")
    assert not anyone.may_be("@x")
    assert not anyone.may_be("$server")


def test_patterns_are_exact_or_prefixes():
    patterns = Patterns.of(["a", "b:*", "c*"])
    assert [n for n in ("a", "aa", "b", "b:", "b:x", "c", "cat", "") if patterns.match(n)] == [
        "a",
        "b:",
        "b:x",
        "c",
        "cat",
    ]
    assert EVERYTHING.match("anything")
    assert EVERYTHING.match("")
    assert not NOTHING.match("")
    for wrong in ("", "a*b", "**", "*a"):
        with pytest.raises(ValueError, match="ends in"):
            Patterns.of([wrong])


def test_a_user_is_named_by_its_token_else_by_the_client_id():
    assert Identity(user="bob").user_of("phone") == "bob"
    assert Identity(user="").user_of("alice:phone") == "alice"
    assert Identity(user="").user_of("alice") == "alice"


def test_development_lets_everybody_do_everything():
    identity = OpenAuthenticator().authenticate("whatever", NOW)
    assert identity.may_be("anyone")
    assert identity.may_subscribe("x")
    assert identity.may_publish("x")
    assert identity.may_link("x")
    assert identity.expires_at is None
    assert identity == OpenAuthenticator().authenticate(None, NOW)
    with pytest.raises(AuthenticationError):
        OpenAuthenticator().room("x", NOW)


# --- claims


def test_a_token_says_who_and_what():
    identity = authenticator().authenticate(
        token(client="phone", channels=["a", "b:*"], links=["alice"], extra=1), NOW
    )
    assert (identity.user, identity.client, identity.expires_at) == ("bob", "phone", NOW + 60 + 5)
    assert identity.may_subscribe("b:1")
    assert identity.may_publish("a")
    assert not identity.may_publish("c")
    assert identity.may_link("alice")
    assert not identity.may_link("carol")
    assert identity.claims["extra"] == 1


def test_channels_may_differ_by_direction():
    identity = authenticator().authenticate(token(channels={"subscribe": ["*"], "publish": ["p"]}), NOW)
    assert identity.may_subscribe("x")
    assert not identity.may_publish("x")
    assert identity.may_publish("p")
    reader = authenticator().authenticate(token(channels={"subscribe": ["*"]}), NOW)
    assert not reader.may_publish("x")


def test_a_claim_that_is_absent_allows_nothing():
    identity = authenticator().authenticate(token(), NOW)
    assert identity.subscribe == identity.publish == identity.links == NOTHING
    assert identity.may_be("bob")


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 129},
        {"sub": "a\nb"},
        {"sub": "\ud800"},
        {"sub": "a:b"},
        {"client": ""},
        {"client": None},
        {"client": 3},
        {"client": "a*b"},
        {"channels": "x"},
        {"channels": [1]},
        {"channels": ["a*b"]},
        {"channels": [""]},
        {"channels": ["x"] * 257},
        {"channels": {"read": ["x"]}},
        {"channels": {"publish": "x"}},
        {"links": {"x": 1}},
        {"links": [None]},
    ],
)
def test_claims_of_the_wrong_shape_let_nobody_in(claims):
    code, message = refusal(authenticator(), token(**claims))
    assert code == "token_invalid"
    assert message


def test_a_user_with_a_colon_needs_a_client_claim():
    assert "keep users apart" in refusal(authenticator(), token(sub="bob:x"))[1]
    assert authenticator().authenticate(token(sub="bob:x", client="bob-x"), NOW).may_be("bob-x")


# --- times


def test_a_token_ends_when_it_says_with_leeway():
    check = authenticator(leeway_s=5)
    assert check.authenticate(token(60), NOW + 64.9).expires_at == NOW + 65
    assert refusal(check, token(60), NOW + 65)[0] == "token_expired"
    assert refusal(authenticator(leeway_s=0), token(60), NOW + 60)[0] == "token_expired"


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_begins_when_it_says_with_leeway(claim):
    early = raw({"sub": "bob", "exp": NOW + 100, claim: NOW + 10})
    assert refusal(authenticator(), early, NOW + 4.9)[0] == "token_not_yet_valid"
    assert authenticator().authenticate(early, NOW + 5).user == "bob"


@pytest.mark.parametrize(
    "value", ["soon", None, True, -1, 1e300, float("inf"), float("nan"), [1], 253_402_300_800]
)
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
def test_a_time_is_a_number_of_seconds(claim, value):
    strange = raw({"sub": "bob", "exp": NOW + 60, claim: value})
    assert refusal(authenticator(), strange)[0] == "token_invalid"


@pytest.mark.parametrize("missing", ["exp", "sub"])
def test_exp_and_sub_are_required(missing):
    claims = {"sub": "bob", "exp": NOW + 60}
    del claims[missing]
    assert refusal(authenticator(), raw(claims)) == ("token_invalid", f"the token lacks the claim {missing}")


def test_other_claims_may_be_required():
    check = authenticator(required_claims=["tenant"])
    assert refusal(check, token()) == ("token_invalid", "the token lacks the claim tenant")
    assert check.authenticate(token(tenant="t"), NOW).claims["tenant"] == "t"


def test_issuer_and_audience_count_when_they_are_configured():
    check = authenticator(issuer="me", audience="duolink")
    assert check.authenticate(token(iss="me", aud=["other", "duolink"]), NOW).user == "bob"
    assert refusal(check, token(iss="you", aud="duolink"))[1] == "the token is from another issuer"
    assert refusal(check, token(iss="me", aud="other"))[1] == "the token is for another audience"
    assert refusal(check, token(aud="duolink"))[1] == "the token lacks the claim iss"
    assert refusal(check, token(iss="me"))[1] == "the token lacks the claim aud"
    assert authenticator().authenticate(token(iss="you", aud="other"), NOW).user == "bob"


def test_a_ticket_opens_a_room():
    check = authenticator()
    assert check.room(sign({"room": "r1"}, SECRET, "HS256", 60, NOW), NOW) == "r1"
    for wrong in (token(), sign({"room": ""}, SECRET, "HS256", 60, NOW), None):
        with pytest.raises(AuthenticationError):
            check.room(wrong, NOW)


# --- keys


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("half", [0, 1])
def test_each_algorithm_signs_and_checks(algorithm: Algorithm, half, tmp_path):
    file = tmp_path / "key.pem"
    file.write_text(pair(algorithm)[half] + "\n")
    check = authenticator(keys=[Key(algorithm=algorithm, key_file=str(file))])
    signed = sign({"sub": "bob"}, pair(algorithm)[0], algorithm, 60, NOW)
    assert check.authenticate(signed, NOW).user == "bob"
    assert refusal(check, signed[:-8] + "AAAAAAAA")[0] == "token_invalid"


def test_a_kid_chooses_the_key():
    other = SECRET[::-1]
    check = authenticator(
        keys=[Key(algorithm="HS256", key=SECRET, kid="a"), Key(algorithm="HS256", key=other, kid="b")]
    )
    for key, kid, good in (
        (SECRET, "a", True),
        (other, "b", True),
        (SECRET, "b", False),
        (SECRET, "c", False),
        (SECRET, None, True),
        (other, None, True),
    ):
        signed = sign({"sub": "bob"}, key, "HS256", 60, NOW, kid)
        if good:
            assert check.authenticate(signed, NOW).user == "bob"
        else:
            assert refusal(check, signed)[1] == "the token is not signed with a key that counts here"


def test_a_key_without_kid_checks_tokens_with_any():
    assert (
        authenticator().authenticate(sign({"sub": "bob"}, SECRET, "HS256", 60, NOW, "k1"), NOW).user == "bob"
    )


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (Key(algorithm="HS256", key="short"), "at least 32 bytes"),
        (Key(algorithm="HS256", key=pair("RS256")[1]), "a secret, not a PEM key"),
        (Key(algorithm="RS256", key=SECRET), "expected a PEM key of that kind"),
        (Key(algorithm="RS256", key=pair("ES256")[1]), "expected"),
        (Key(algorithm="ES256", key=pair("RS256")[1]), "expected"),
        (Key(algorithm="ES256", key=pem_public(ec.generate_private_key(ec.SECP384R1()))), "expected"),
        (Key(algorithm="EdDSA", key=pair("RS256")[1]), "expected"),
        (Key(algorithm="EdDSA", key=pem_public(ed448.Ed448PrivateKey.generate())), "expected an Ed25519 key"),
        (Key(algorithm="RS256", key=pem_public(rsa.generate_private_key(65537, 1024))), "too short"),
        (Key(algorithm="HS256", key_file="/nonexistent/key"), "cannot be read: No such file"),
    ],
)
def test_a_key_must_fit_its_algorithm(key, expected):
    with pytest.raises(ConfigError, match=r"auth\.keys\[0\]: is no usable") as caught:
        authenticator(keys=[key])
    assert expected in str(caught.value)
    assert key.key is None or key.key not in str(caught.value)


def test_signing_needs_the_private_key():
    for algorithm in ("RS256", "ES256", "EdDSA"):
        with pytest.raises(ValueError, match="needs the private one"):
            sign({"sub": "bob"}, pair(algorithm)[1], algorithm, 60, NOW)
    with pytest.raises(ValueError, match="32 bytes"):
        sign({"sub": "bob"}, "short", "HS256", 60, NOW)


def test_keys_are_not_shown():
    assert SECRET not in repr(VerificationKey("k", "HS256", SECRET.encode()))


def test_the_settings_choose_the_authenticator():
    assert isinstance(make_authenticator(Auth()), OpenAuthenticator)
    made = make_authenticator(Auth(keys=[Key(algorithm="HS256", key=SECRET)]))
    assert isinstance(made, TokenAuthenticator)
    with pytest.raises(ConfigError, match="no key"):
        TokenAuthenticator(Auth())


# --- JWKS


def jwk(algorithm: str, half: int = 1, **more: Any) -> dict[str, Any]:
    method = jwt.get_algorithm_by_name(algorithm)
    return {**method.to_jwk(method.prepare_key(pair(algorithm)[half]), as_dict=True), **more}


def write_jwks(path: Any, keys: Any) -> str:
    path.write_text(json.dumps({"keys": keys}))
    return str(path)


@pytest.mark.parametrize("half", [0, 1])
def test_a_jwks_file_gives_the_keys(tmp_path, half):
    path = write_jwks(
        tmp_path / "keys.json", [jwk(a, half, kid=a) for a in ("HS256", "RS256", "ES256", "EdDSA")]
    )
    check = TokenAuthenticator(Auth(jwks_file=path))
    for algorithm in ("HS256", "RS256", "ES256", "EdDSA"):
        signed = sign({"sub": "bob"}, pair(algorithm)[0], algorithm, 60, NOW, algorithm)
        assert check.authenticate(signed, NOW).user == "bob"
    assert refusal(check, sign({"sub": "bob"}, SECRET, "HS256", 60, NOW, "RS256"))[0] == "token_invalid"


def test_keys_of_a_jwks_file_that_are_not_for_us_are_skipped(tmp_path):
    strangers: list[Any] = [
        7,
        {},
        {"kty": "AKP"},
        {"kty": ["RSA"]},
        {"kty": "RSA"},
        jwk("RS256", use="enc"),
        jwk("RS256", alg="RS512"),
        jwk("HS256", k="c2hvcnQ"),
        jwk("ES256", crv="P-384"),
        jwk("EdDSA", x="!"),
    ]
    path = write_jwks(tmp_path / "keys.json", [*strangers, jwk("ES256", kid=5)])
    (key,) = read_jwks(path)
    assert (key.algorithm, key.kid) == ("ES256", None)
    with pytest.raises(ValueError, match="holds no key"):
        read_jwks(write_jwks(tmp_path / "keys.json", strangers))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"keys": 1}', "[" * 100_000, '{"keys": []}', " " * 1_048_577]
)
def test_a_file_that_is_no_jwks_is_a_configuration_error(tmp_path, content):
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(ConfigError, match=r"auth\.jwks_file"):
        TokenAuthenticator(Auth(jwks_file=str(tmp_path / "keys.json")))


def test_a_jwks_file_has_a_bounded_number_of_keys(tmp_path):
    with pytest.raises(ValueError, match="more than 100"):
        read_jwks(write_jwks(tmp_path / "keys.json", [{}] * 101))


def test_an_absent_jwks_file_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        TokenAuthenticator(Auth(jwks_file=str(tmp_path / "keys.json")))


def test_keys_rotate_without_a_restart(tmp_path):
    file = tmp_path / "keys.json"
    path = write_jwks(file, [jwk("HS256", kid="old")])
    check = TokenAuthenticator(Auth(jwks_file=path))
    old = sign({"sub": "bob"}, SECRET, "HS256", 60, NOW, "old")
    new = sign({"sub": "bob"}, pair("EdDSA")[0], "EdDSA", 60, NOW, "new")
    assert check.authenticate(old, NOW).user == "bob"
    write_jwks(file, [jwk("EdDSA", kid="new")])
    assert refusal(check, new, NOW + 0.5)[0] == "token_invalid"  # looked at less than a second ago
    with capture_logs() as logs:
        assert check.authenticate(new, NOW + 1).user == "bob"
    assert logs[0]["keys"] == 1
    assert refusal(check, old, NOW + 1)[0] == "token_invalid"


def test_a_broken_jwks_file_leaves_the_last_good_keys_and_is_logged_once(tmp_path):
    file = tmp_path / "keys.json"
    path = write_jwks(file, [jwk("HS256")])
    check = TokenAuthenticator(Auth(jwks_file=path))
    file.write_text("{")
    with capture_logs() as logs:
        assert check.authenticate(token(), NOW).user == "bob"
        assert check.authenticate(token(), NOW + 2).user == "bob"
    assert [line["log_level"] for line in logs] == ["warning"]
    os.unlink(path)
    with capture_logs() as logs:
        assert check.authenticate(token(), NOW + 4).user == "bob"
    assert "No such file" in logs[0]["problem"]
