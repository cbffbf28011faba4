"""Consent: who may open a link to whom.

A link that is not allowed looks to its sender like one to a client that is away, so that nobody
learns from a refusal who exists.
"""

from typing import TYPE_CHECKING, Final, Protocol

from duolink.server.auth import Identity
from duolink.server.settings import Config

if TYPE_CHECKING:
    from duolink.server.party import Party
    from duolink.server.registry import Session

SERVER: Final = "$server"
"""The embedding application, as a client."""


class Consent(Protocol):
    """The port. Asked at the first message of a link, at every hello and at every signal; an answer
    must be cheap, and may change from one call to the next."""

    def may_link(self, sender: Identity, sender_id: str, receiver: Identity | None, receiver_id: str) -> bool:
        """Tell whether the sender's messages and signals may go to the receiver.

        `receiver` is None when the receiver is not connected here; the answer should be the same then.
        Acknowledgements of what the other side was allowed to send need no consent.
        """
        ...


class OpenConsent:
    """Everybody may link to everybody: development."""

    def may_link(self, sender: Identity, sender_id: str, receiver: Identity | None, receiver_id: str) -> bool:
        """Return True."""
        return True


class TokenConsent:
    """The sender's token decides: its `links` claim must cover the receiver's client id. What the
    receiver's token allows plays no part; to talk both ways, both tokens need the other's id."""

    def may_link(self, sender: Identity, sender_id: str, receiver: Identity | None, receiver_id: str) -> bool:
        """Return what the sender's claims say."""
        return sender.may_link(receiver_id)


def make_consent(config: Config) -> Consent:
    """Return the policy the settings ask for."""
    return OpenConsent() if config.consent == "open" else TokenConsent()


def may_link(consent: Consent, sender: "Session", receiver: "Party") -> bool:
    """Tell whether a session's messages may go to a party. The application itself is always allowed, both
    ways."""
    if sender.client_id == SERVER or receiver.name == SERVER:
        return True
    identity = receiver.session.identity if receiver.session is not None else None
    return consent.may_link(sender.identity, sender.client_id, identity, receiver.name)
