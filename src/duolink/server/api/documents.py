"""What the API answers and takes, as types: the schemas of the OpenAPI document are made from them.

Times are milliseconds since 1970, durations milliseconds unless a name ends in `_s`.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from duolink.protocol import limits
from duolink.server.happenings import Kind

ClientName = Annotated[
    str, Meta(min_length=1, description=f"A client id, at most {limits.MAX_CLIENT_ID} bytes of UTF-8.")
]
ReceiverName = Annotated[str, Meta(min_length=1, description="A client id, or `@` and a user.")]
ChannelName = Annotated[
    str, Meta(min_length=1, description=f"A channel, at most {limits.MAX_CHANNEL} bytes of UTF-8.")
]
Milliseconds = Annotated[int, Meta(description="Milliseconds since 1970 (UTC).")]
Next = Annotated[str | None, Meta(description="Give it as `after` for the next page; null: there is none.")]


class Document(Struct, kw_only=True):
    """What all documents are: by keyword."""


class Problem(Document, kw_only=True):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


# --- the server -------------------------------------------------------------------------------


class ClientLimits(Document, kw_only=True):
    """The limits a client is told in `welcome`."""

    message: Annotated[int, Meta(description="Bytes of a message.")]
    payload: Annotated[int, Meta(description="Bytes of a frame.")]
    subscriptions: int
    watched: int
    window: Annotated[int, Meta(description="Unsettled messages per link and lane.")]
    window_bytes: int


class ServerInfo(Document, kw_only=True):
    """The server: what it is, and how it is."""

    node: str
    version: str
    started: Milliseconds
    now: Milliseconds
    uptime_s: float
    development: Annotated[
        bool, Meta(description="Nobody is authenticated, and it listens on loopback only.")
    ]
    durable: Annotated[bool, Meta(description="What waits in mailboxes outlives the process.")]
    database: Annotated[str | None, Meta(description="The file; null: all is in memory.")]
    ready: bool
    reasons: Annotated[list[str], Meta(description="Why it is not ready.")]
    draining: bool
    auth: Literal["none", "jwt", "external"]
    limits: ClientLimits


class ConnectionCounts(Document, kw_only=True):
    """Open connections by transport."""

    websocket: int
    tcp: int
    http: int


class SessionCounts(Document, kw_only=True):
    """Sessions by state."""

    active: int
    detached: int


class Totals(Document, kw_only=True):
    """Both directions, since the start."""

    received: int
    sent: int


Bucket = Annotated[
    tuple[float | None, int],
    Meta(description="Upper bound in seconds (null: infinity), and how many took at most that long."),
]


class DeliveryTimes(Document, kw_only=True):
    """How long messages took from their arrival at this node to their receiver's acknowledgement. Measured of
    messages that were handed over at once: about one a second of each link."""

    count: int
    buckets: list[Bucket]


class MailboxTotals(Document, kw_only=True):
    """All mailboxes together."""

    mailboxes: int
    messages: int
    bytes: int


class SlowConsumers(Document, kw_only=True):
    """Connections that do not take what they are sent."""

    held: Annotated[int, Meta(description="Now over a quarter of their send buffer: their senders wait.")]
    closed: Annotated[int, Meta(description="Closed with 3001, since the start.")]


class Stats(Document, kw_only=True):
    """One sample. What counts, counts since the start; the rest is as of now."""

    time: Milliseconds
    uptime_s: float
    connections: ConnectionCounts
    sessions: SessionCounts
    messages: Annotated[Totals, Meta(description="Messages of links and channels, ephemeral ones included.")]
    bytes: Annotated[Totals, Meta(description="Bytes of payloads; sent ones with their frames.")]
    delivery: DeliveryTimes
    channels: Annotated[int, Meta(description="Channels with a subscriber.")]
    subscriptions: int
    mailboxes: MailboxTotals
    slow_consumers: SlowConsumers
    refusals: Annotated[int, Meta(description="Handshakes and connections refused.")]
    errors: Annotated[int, Meta(description="Errors sent to clients.")]
    loop_lag_ms: Annotated[float, Meta(description="How late the event loop was at the last look.")]
    cpu_s: Annotated[float, Meta(description="Processor time of the process.")]
    memory: Annotated[int, Meta(description="Resident bytes of the process.")]


class Happening(Document, kw_only=True):
    """Something that happened to a client, or to the server."""

    id: int
    time: Milliseconds
    kind: Kind
    client: str | None
    user: str | None
    address: str | None
    detail: str


class Happenings(Document, kw_only=True):
    """Recent events, the newest last. `next`: give it as `after` for what comes next."""

    items: list[Happening]
    next: int | None


# --- clients ----------------------------------------------------------------------------------


class ClientItem(Document, kw_only=True):
    """A client with a session on this node."""

    client: ClientName
    user: str | None
    state: Literal["active", "detached", "away"]
    transport: Annotated[
        str | None, Meta(description="`websocket`, `tcp`, or `local` for the embedding program.")
    ]
    address: str | None
    since: Annotated[int | None, Meta(description="When the session began.")]
    attached: Annotated[int | None, Meta(description="When its connection said hello.")]
    generation: int | None
    attachment: int | None
    sent: Annotated[int, Meta(description="Messages of any kind written to this connection.")]
    received: Annotated[int, Meta(description="Messages of any kind that came on this connection.")]
    bytes_sent: int
    bytes_received: int
    buffered: Annotated[int, Meta(description="Bytes that the network has not taken yet.")]
    slow: bool
    subscriptions: int
    mailbox: Annotated[
        int | None, Meta(description="Messages that wait for it; null: none, or not known now.")
    ]


class Clients(Document, kw_only=True):
    """A page of clients, in the order of their names."""

    items: list[ClientItem]
    next: Next


class ChannelPosition(Document, kw_only=True):
    """A channel a client subscribes to, and the newest offset there."""

    name: ChannelName
    offset: int


class LinkItem(Document, kw_only=True):
    """A way to a peer. `in_flight`: numbers that were handed over there and are not acknowledged."""

    peer: ReceiverName
    lane: Literal["messages", "bulk"]
    in_flight: int


class MailboxContent(Document, kw_only=True):
    """What waits in a mailbox."""

    messages: int
    bytes: int
    oldest: Annotated[int | None, Meta(description="When the oldest waiting message was stored.")]


class Rights(Document, kw_only=True):
    """What a client's token allows. Patterns are exact names, or end in `*`."""

    user: str | None
    client: Annotated[str | None, Meta(description="The client ids it may use; null: its user's own.")]
    subscribe: list[str]
    publish: list[str]
    links: list[str]
    expires: Annotated[int | None, Meta(description="When the token ends; null: never.")]
    operator: bool


class ClientDetail(ClientItem, kw_only=True):
    """A client in detail. `state` is `away` for one that has a mailbox and no session."""

    session: str | None
    run: int | None
    rtt_ms: Annotated[float | None, Meta(description="Round trip of the last ping; null: none yet.")]
    last_seen: int | None
    channels: Annotated[list[ChannelPosition], Meta(description="At most 1000.")]
    links: Annotated[list[LinkItem], Meta(description="At most 1000.")]
    mailbox: MailboxContent | None  # type: ignore[assignment]
    claims: Rights | None


Reason = Annotated[
    str, Meta(max_length=limits.MAX_REASON, description=f"At most {limits.MAX_REASON} bytes of UTF-8.")
]


class Disconnect(Document, kw_only=True, forbid_unknown_fields=True):
    """How to send a client away."""

    reason: Reason = "disconnected"
    reconnect: Annotated[bool, Meta(description="Let it come back at once, and resume.")] = False


# --- messages ---------------------------------------------------------------------------------

Key = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.MAX_KEY,
        description="Makes it idempotent: the same key, the same answer.",
    ),
]
Time = Annotated[int, Meta(ge=1, le=limits.MAX_INTEGER)]


class Send(Document, kw_only=True, forbid_unknown_fields=True):
    """A message from `$server` to a client, or to all clients of a user."""

    to: ReceiverName
    data: Raw
    key: Key | UnsetType = UNSET
    ttl_ms: Time | UnsetType = UNSET
    collapse: (
        Annotated[
            str,
            Meta(
                min_length=1, max_length=limits.MAX_KEY, description="Replaces what waits with the same key."
            ),
        ]
        | UnsetType
    ) = UNSET
    wait: Literal["sent", "stored", "delivered"] = "sent"
    timeout_ms: Annotated[int, Meta(ge=1, le=60_000, description="How long to wait for that.")] = 10_000


class SentMessage(Document, kw_only=True):
    """What has become of a message so far."""

    to: ReceiverName
    seq: int
    state: Literal["sent", "stored", "delivered", "lost"]
    reason: str | UnsetType = UNSET
    certain: Annotated[
        bool | UnsetType, Meta(description="Of a lost one: whether it surely did not arrive.")
    ] = UNSET


# --- channels ---------------------------------------------------------------------------------


class ChannelItem(Document, kw_only=True):
    """A channel."""

    name: ChannelName
    subscribers: int
    epoch: str
    offset: int
    durable: bool


class Channels(Document, kw_only=True):
    """A page of channels, in the order of their names."""

    items: list[ChannelItem]
    next: Next


class RetentionInfo(Document, kw_only=True):
    """What a channel keeps."""

    history_count: int
    history_age_s: float
    history_bytes: int
    state_keys: int
    state_bytes: int


class ChannelDetail(ChannelItem, kw_only=True):
    """A channel in detail."""

    retention: RetentionInfo
    state_entries: Annotated[int | None, Meta(description="Names in its shared state; null: not known now.")]


class PresenceItem(Document, kw_only=True):
    """A subscriber. `since`: when its session began."""

    client: ClientName
    user: str | None
    since: Milliseconds


class Presence(Document, kw_only=True):
    """A page of subscribers, in the order of their names."""

    items: list[PresenceItem]
    next: Next


class HistoryItem(Document, kw_only=True):
    """A publication. It has `data`, or, when it is no JSON, `data_base64`; a write to the shared state has a
    `name`, and neither when it was `deleted`."""

    offset: int
    time: Milliseconds
    sender: str = field(name="from")
    data: Raw | UnsetType = UNSET
    data_base64: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    deleted: bool | UnsetType = UNSET


class History(Document, kw_only=True):
    """A page of a channel's history. `next`: give it as `from` for the next page."""

    items: list[HistoryItem]
    epoch: str
    next: int | None


class Publish(Document, kw_only=True, forbid_unknown_fields=True):
    """A publication from `$server`."""

    data: Raw
    key: Key | UnsetType = UNSET


class Published(Document, kw_only=True):
    """Where it stands."""

    epoch: str
    offset: int


class StateItem(Document, kw_only=True):
    """A name of the shared state: its `value`, or, when that is no JSON, `value_base64`."""

    name: str
    value: Raw | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET
    version: int


class State(Document, kw_only=True):
    """A page of a channel's shared state, in the order of the names."""

    items: list[StateItem]
    next: Next


Expect = Annotated[
    int, Meta(ge=0, le=limits.MAX_INTEGER, description="Only if it has this version now (0: is not there).")
]


class SetValue(Document, kw_only=True, forbid_unknown_fields=True):
    """A value for a name."""

    value: Raw
    expect: Expect | UnsetType = UNSET
    key: Key | UnsetType = UNSET


class DeleteValue(Document, kw_only=True, forbid_unknown_fields=True):
    """Take a name away."""

    expect: Expect | UnsetType = UNSET
    key: Key | UnsetType = UNSET


class Version(Document, kw_only=True):
    """The version a name has now; of one that was taken away, that of the change."""

    version: int


# --- mailboxes --------------------------------------------------------------------------------


class MailboxItem(Document, kw_only=True):
    """A mailbox with messages: of a client, or of a user (`@user`)."""

    client: ReceiverName
    messages: int
    bytes: int
    oldest: Annotated[int | None, Meta(description="When the oldest waiting message was stored.")]
    senders: Annotated[int, Meta(description="How many senders have messages in it.")]


class Mailboxes(Document, kw_only=True):
    """A page of mailboxes."""

    items: list[MailboxItem]
    next: Next


encode = msgspec.json.Encoder(decimal_format="number").encode
