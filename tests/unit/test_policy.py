"""Consent: who may link to whom."""

from duolink.server.auth import Identity, Patterns
from duolink.server.policy import OpenConsent, TokenConsent, make_consent
from duolink.server.settings import Auth, Config, Links

ALICE = Identity(user="alice", links=Patterns.of(["bob", "team-*"]))
BOB = Identity(user="bob")


def test_open_consent_lets_everybody_link():
    assert OpenConsent().may_link(BOB, "bob", None, "alice")
    assert OpenConsent().may_link(BOB, "bob", ALICE, "alice")


def test_token_consent_asks_the_senders_claims_only():
    consent = TokenConsent()
    assert consent.may_link(ALICE, "alice", BOB, "bob")
    assert consent.may_link(ALICE, "alice", None, "team-1")
    assert not consent.may_link(ALICE, "alice", BOB, "carol")
    assert not consent.may_link(BOB, "bob", ALICE, "alice")


def test_the_answer_is_the_same_for_one_who_is_not_here():
    for receiver in ("bob", "carol"):
        here = TokenConsent().may_link(ALICE, "alice", BOB, receiver)
        assert here == TokenConsent().may_link(ALICE, "alice", None, receiver)


def test_the_settings_choose_the_policy():
    secured = Auth(external=True)
    assert isinstance(make_consent(Config()), OpenConsent)
    assert isinstance(make_consent(Config(auth=secured)), TokenConsent)
    assert isinstance(make_consent(Config(auth=secured, links=Links(consent="open"))), OpenConsent)
