"""Close codes, error codes and loss reasons: numbers and words that decide what happens next."""

from enum import IntEnum, StrEnum
from typing import Final


class CloseCode(IntEnum):
    """Why a connection ended (RFC 6455 §7.4; 3000 and up are ours). The range decides whether the
    other side comes back: see `may_reconnect`."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    ABNORMAL = 1006  # never on the wire: the transport just ended
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013

    # Come back, with backoff.
    SLOW_CONSUMER = 3001
    """The outgoing buffer reached its bound; resume and recover."""
    HEARTBEAT_LOST = 3002
    """Three pings in a row had no answer."""
    TOKEN_EXPIRED = 3003
    """Come back with a fresh token."""
    HELLO_TIMEOUT = 3004
    """No whole `hello` within the deadline."""
    OVERLOADED = 3005
    """Not admitted now; `goodbye.spread` or `error.retry_after` says when."""
    REPLACED_CONNECTION = 3006
    """A newer connection of the same session took over; the older one has nothing to do."""
    IDLE_TIMEOUT = 3007
    """No traffic for the idle deadline."""

    # Do not come back.
    UNAUTHORIZED = 3500
    """The token is missing, invalid, or of another client."""
    DUPLICATE = 3501
    """The client id is in use by a connection that answers."""
    SUPERSEDED = 3502
    """A newer process of the same client took over: this one is fenced."""
    WRONG_VERSION = 3503
    """No common protocol version."""
    BAD_HELLO = 3504
    """`hello` named an impossible client id, run or session."""
    DISCONNECTED = 3505
    """The application or an operator sent this client away."""


_RECONNECT: Final = frozenset({1000, 1001, 1005, 1006, 1011, 1012, 1013})


def may_reconnect(code: int) -> bool:
    """Whether a client whose connection ended with `code` tries again: 1000, 1001, 1005, 1006, 1011–1013 and
    3000–3499 yes, everything else no. (1000 and 1005 ended by the server: a proxy's polite end
    is no verdict on the client.)"""
    return code in _RECONNECT or 3000 <= code <= 3499


class ErrorCode(StrEnum):
    """The `code` of an `error` message."""

    MALFORMED = "malformed"  # not JSON, wrong types, newline or invalid UTF-8, too deep
    UNKNOWN_TYPE = "unknown_type"
    WRONG_STATE = "wrong_state"  # before hello, a second hello, or not allowed on this path
    TOO_LARGE = "too_large"
    FORBIDDEN = "forbidden"
    UNKNOWN_CHANNEL = "unknown_channel"
    LIMIT = "limit"  # too many subscriptions, watched peers, …
    CREDIT = "credit"  # a number beyond the window
    VERSION = "version"
    UNAUTHORIZED = "unauthorized"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    BAD_HELLO = "bad_hello"
    UNCERTAIN = "uncertain"  # a retried command whose first outcome is no longer known
    UNAVAILABLE = "unavailable"  # an engine failed; try again
    OVERLOADED = "overloaded"
    CONFLICT = "conflict"  # a compare-and-set found another version
    STATE_FULL = "state_full"  # no room in a channel's shared state
    MAILBOX_FULL = "mailbox_full"  # the number has ended as lost: its receiver's mailbox has no room
    NO_HANDLER = "no_handler"  # a request nobody answers
    INTERNAL = "internal"


class LossReason(StrEnum):
    """Why a number ended as `lost`."""

    EXPIRED = "expired"
    REPLACED = "replaced"
    MAILBOX_FULL = "mailbox_full"
    REFUSED = "refused"
    STORAGE_LOST = "storage_lost"  # it was stored, and the server has another database now, or an older one
    POISON = "poison"
    CANCELLED = "cancelled"
    SENDER_RESTARTED = "sender_restarted"  # a newer run began before the older one was complete
    SUPERSEDED = "superseded"  # this process is fenced; what it had not settled stays unknown
    CLOSED = "closed"  # the sender left before the end was known
    GONE = "gone"  # settled while this receiver was away: lost, or finished with by an earlier process
    UNCLEAR = "unclear"  # among more separate losses than can be told apart: lost, or delivered


class PeerState(StrEnum):
    """How a link reports its peer."""

    HERE = "here"
    RECONNECTING = "reconnecting"
    AWAY = "away"
