"""One struct per message of the wire.

A text frame holds one or more messages, JSON objects joined by newlines; a binary frame holds one
message with `"binary":true` instead of `data` on its first line, and the data, raw bytes, behind the
newline. `type` names the struct. Unknown fields are ignored. Times are milliseconds, integers lie in
0 … 2⁵³−1.

`to` is set by a client and `from` (here `sender`) by the server, which refuses a client's `from`.
`ALLOWED` says which types may arrive where.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from duolink.protocol import limits

Integer = Annotated[int, Meta(ge=0, le=limits.MAX_INTEGER)]
Number = Annotated[int, Meta(ge=1, le=limits.MAX_INTEGER)]
ClientId = Annotated[str, Meta(min_length=1, max_length=limits.MAX_CLIENT_ID)]
ChannelName = Annotated[str, Meta(min_length=1, max_length=limits.MAX_CHANNEL)]
Key = Annotated[str, Meta(max_length=limits.MAX_KEY)]
Text = Annotated[str, Meta(max_length=1024)]
Lane = Annotated[str, Meta(max_length=16)]
StateName = Annotated[str, Meta(min_length=1, max_length=limits.MAX_STATE_NAME)]

NO_DATA: Final = Raw(b"")


class Message(msgspec.Struct, tag_field="type", omit_defaults=True, gc=False):
    """The base of every message."""


# --- session ---------------------------------------------------------------------------------


class Position(msgspec.Struct, omit_defaults=True, gc=False):
    """One channel a client wants, and where it stands: an empty epoch means from now on."""

    channel: ChannelName
    epoch: Key = ""
    offset: Integer = 0
    presence: bool = False
    state: bool = False  # tell the shared state: a snapshot first, unless everything missed is recovered


class Hello(Message, tag="hello"):
    """First message of every connection, within the hello deadline."""

    protocol: Integer
    client_id: ClientId
    token: Annotated[str, Meta(max_length=limits.MAX_TOKEN)] = ""
    session: Key = ""  # with `secret`: resume this session
    secret: Key = ""
    run: Integer = 0  # 0: the first hello of this process
    features: Annotated[list[Text], Meta(max_length=32)] = []
    # The full desired sets, so that coming back costs one round trip; absent: keep what the session has.
    subscriptions: Annotated[list[Position], Meta(max_length=1024)] | UnsetType = UNSET
    watch: Annotated[list[ClientId], Meta(max_length=1024)] | UnsetType = UNSET


class HeartbeatSettings(msgspec.Struct, gc=False):
    """Milliseconds between pings, for an answer; unanswered pings in a row that mean lost."""

    interval: Integer
    timeout: Integer
    misses: Integer


class Limits(msgspec.Struct, gc=False):
    """What this server accepts. `window` and `window_bytes` are the credit of each lane of each
    link on the server path: how many numbers (and bytes) may be neither stored nor settled."""

    message: Integer
    payload: Integer
    subscriptions: Integer
    watched: Integer
    window: Integer
    window_bytes: Integer


class Welcome(Message, tag="welcome"):
    """The answer to an accepted hello."""

    client_id: str
    session: str
    secret: str
    generation: Integer
    attachment: Integer
    run: Integer
    resumed: bool
    durable: bool
    heartbeat: HeartbeatSettings
    limits: Limits
    time: Integer  # the server's wall clock
    reconnect_spread: Integer = 0
    expires: Integer = 0  # wall time at which the token ends; 0: never
    server: str = ""  # name and version, for people


class Goodbye(Message, tag="goodbye"):
    """Precedes every orderly close, on every transport and in both directions. From a client it
    ends the session at once. `spread`: wait a random time up to this many milliseconds."""

    code: Integer = 1000
    reason: Text = ""
    spread: Integer = 0


class Refresh(Message, tag="refresh"):
    """A fresh token for this connection."""

    id: Integer
    token: Annotated[str, Meta(max_length=limits.MAX_TOKEN)]


class Refreshed(Message, tag="refreshed"):
    id: Integer
    expires: Integer = 0


class Ping(Message, tag="ping"):
    """Asks for a `pong` with the same id. For those who cannot send or see RFC 6455 pings."""

    id: Integer = 0


class Pong(Message, tag="pong"):
    id: Integer = 0


class Error(Message, tag="error"):
    """A typed refusal. `id` names the command, or `to`, `lane`, `run`, `seq` the link message it answers;
    `fatal` says that a close follows; `retry_after` that trying again makes sense, and when."""

    code: str
    message: str = ""
    id: Integer = 0
    to: str = ""
    lane: str = ""
    run: Integer = 0
    seq: Integer = 0
    channel: str = ""
    version: Integer = 0  # with `conflict`: the version the name has
    retry_after: Integer = 0
    fatal: bool = False


# --- links -----------------------------------------------------------------------------------


class LinkMessage(Message, tag="message"):
    """Number `seq` of a lane of the sender's `run`. Everything below `base` is settled.

    `ack`, `ack_run` acknowledge the reverse lane as an `ack` would; `ask` wants an acknowledgement as
    soon as the application has finished with this one. A `request` names an answer that is wanted
    until `deadline` (ms from sending), a `reply` the request it answers, `failed` that the answer is an
    error text.

    To a durable server: `store` asks to keep this copy in the receiver's mailbox, since an earlier one was
    not acknowledged in time; `ttl` (ms from sending) is how long it is worth keeping, `collapse` a key whose
    newest message replaces older ones there. From a server, `user` names the user (`@bob`) it was sent
    to, if it was not sent to this client alone: those are numbered by themselves.
    """

    run: Number
    seq: Number
    base: Number
    to: str = ""
    sender: str = msgspec.field(default="", name="from")
    lane: Lane = "messages"
    ack_run: Integer = 0
    ack: Integer = 0
    ask: bool = False
    request: Key = ""
    deadline: Integer = 0
    reply: Key = ""
    failed: bool = False
    store: bool = False
    ttl: Integer = 0
    collapse: Key = ""
    user: str = ""
    binary: bool = False
    data: Raw = NO_DATA


class LostRange(msgspec.Struct, array_like=True, gc=False):
    """Numbers `first` … `last` that ended as lost at the receiver."""

    first: Number
    last: Number
    reason: Text


class Ack(Message, tag="ack"):
    """The receiver's cursors for one lane of the run it names.

    Its application has finished with everything up to `seq`, except what `lost` lists; everything
    up to `received` (never below `seq`) has arrived. `want`: send again from `received + 1`. `limit`: on a
    direct path, the highest number the receiver takes (its credit). `user`: what it acknowledges was sent to
    this user. A durable server acknowledges for a receiver that is away, from its mailbox; `kept` is up to
    where that has everything.
    """

    run: Number
    seq: Integer
    to: str = ""
    sender: str = msgspec.field(default="", name="from")
    lane: Lane = "messages"
    received: Integer = 0  # 0: the same as seq
    want: bool = False
    limit: Integer = 0
    lost: Annotated[list[LostRange], Meta(max_length=limits.MAX_LOST)] = []
    by: Integer = 0  # with `lost`: the run of the receiver, whose word it is
    kept: Integer | UnsetType = UNSET
    user: str = ""


class Skip(Message, tag="skip"):
    """Numbers `seq` … `last` will not come: they end as lost, in sequence. Repeated until acknowledged."""

    run: Number
    seq: Number
    last: Number
    base: Number
    reason: Text
    to: str = ""
    sender: str = msgspec.field(default="", name="from")
    lane: Lane = "messages"
    store: bool = False
    user: str = ""


class Probe(Message, tag="probe"):
    """The sender has sent up to `seq` and asks for an acknowledgement at once. With `start` it is a durable
    server's: a receiver that knows nothing of the run begins there, and tells `lost` as its own, for an
    earlier process of it had the numbers before."""

    run: Number
    seq: Integer
    base: Number
    to: str = ""
    sender: str = msgspec.field(default="", name="from")
    lane: Lane = "messages"
    start: Integer = 0
    lost: Annotated[list[LostRange], Meta(max_length=limits.MAX_LOST)] = []
    user: str = ""


class Wait(Message, tag="wait"):
    """The server handed number `seq` (of a skip: `seq` … `last`) to nobody, and will not take a later one
    until the sender sends `seq` or an earlier one again, or a `base` beyond it; best after `peer` has
    said that the other
    client is here. Every message and skip that is not taken is answered by one `wait`, so a sender knows
    exactly which copies nobody has. Absent, blocked and busy receivers look alike. `code` is `unavailable`
    when a durable server cannot store now."""

    to: str
    run: Number
    seq: Number
    last: Integer = 0  # 0: the same as seq
    lane: Lane = "messages"
    probe: bool = False  # answers a probe up to seq − 1: no copy was dropped
    code: str = ""


class Stored(Message, tag="stored"):
    """A durable mailbox has everything up to `seq` of this lane: the sender may forget the bodies."""

    to: str
    run: Number
    seq: Number
    lane: Lane = "messages"


class Watch(Message, tag="watch"):
    """The full set of peers whose state this client wants to hear. Each is answered by `peer`."""

    id: Integer
    clients: Annotated[list[ClientId], Meta(max_length=1024)]


class Watching(Message, tag="watching"):
    id: Integer


class Peer(Message, tag="peer"):
    """The state of a watched client: `here`, `reconnecting` or `away`. `run` is its process: a new one
    knows nothing of earlier messages, and paths to the old one are dead. `generation` and `attachment`
    name its connection: after a change, what was under way to the earlier one may be lost."""

    client_id: str
    state: str
    run: Integer = 0
    generation: Integer = 0
    attachment: Integer = 0


class Signal(Message, tag="signal"):
    """An SDP or ICE message for another client, at most once. The server adds whose it is."""

    data: Raw
    to: str = ""
    sender: str = msgspec.field(default="", name="from")
    generation: Integer = 0
    run: Integer = 0


class Ephemeral(Message, tag="ephemeral"):
    """Unnumbered data for a client (`to`) or a channel's subscribers, at most once: typing, cursors."""

    data: Raw = NO_DATA
    to: str = ""
    sender: str = msgspec.field(default="", name="from")
    channel: Annotated[str, Meta(max_length=limits.MAX_CHANNEL)] = ""
    binary: bool = False


# --- channels --------------------------------------------------------------------------------


class Subscribe(Message, tag="subscribe"):
    """The full set of channels this client wants. Positions of channels it already has are ignored."""

    id: Integer
    channels: Annotated[list[Position], Meta(max_length=1024)]


class Subscribing(Message, tag="subscribing"):
    """The set was taken; a `subscribed` or an `error` follows (or came before) for each new channel."""

    id: Integer


class Gap(msgspec.Struct, omit_defaults=True, gc=False):
    """Publications that cannot be had: `first` … `last`, or an unknown number after another epoch."""

    reason: str  # "epoch": the log was lost; "evicted": retention; "overflow": too many at once
    first: Integer = 0
    last: Integer = 0


class Subscribed(Message, tag="subscribed"):
    """From here on every publication after `offset` of `epoch` follows, in order and without a hole.

    When the position given could be served, `offset` is that position (the missed publications
    follow) and `recovered` is true. Else `gap` says why and what is missing. `id` is the `subscribe`
    that began it, 0 for a hello.
    """

    channel: str
    epoch: str
    offset: Integer
    id: Integer = 0
    recovered: bool = False
    gap: Gap | None = None


class Unsubscribed(Message, tag="unsubscribed"):
    """The server ended a subscription: rights withdrawn, or it must start again from its position
    (`resubscribe`)."""

    channel: str
    code: str
    resubscribe: bool = False


class Publish(Message, tag="publish"):
    """Append to a channel. `key` makes it idempotent: the same key returns the first answer while it is kept.
    `age`, on a retry: milliseconds since the first attempt."""

    id: Integer
    channel: ChannelName
    key: Key = ""
    age: Integer = 0
    binary: bool = False
    data: Raw = NO_DATA


class Set(Message, tag="set"):
    """Write to a channel's shared state: `name` becomes `data`, or is `deleted`. A publication like any
    other (`key`, `age`, answered by `published`); its offset is the version the name then has. With
    `expect` it counts only if the name has that version (0: is not there); else it is answered by error
    `conflict`."""

    id: Integer
    channel: ChannelName
    name: StateName
    key: Key = ""
    age: Integer = 0
    expect: Integer | UnsetType = UNSET
    deleted: bool = False
    binary: bool = False
    data: Raw = NO_DATA


class Published(Message, tag="published"):
    id: Integer
    epoch: str
    offset: Integer


class Publication(Message, tag="publication"):
    """One entry of a channel's log."""

    channel: str
    offset: Integer
    sender: str = msgspec.field(default="", name="from")
    time: Integer = 0
    page: Integer = 0  # the history question this one answers; 0: live or recovered
    name: str = ""  # it changed the shared state: this name …
    deleted: bool = False  # … was deleted, or has this data now, and its offset as version
    state: bool = False  # belongs to a snapshot; then its offset is no place in the stream
    binary: bool = False
    data: Raw = NO_DATA


class Snapshot(Message, tag="snapshot"):
    """A channel's shared state at the offset that the `subscribed` before it named: `count` publications with
    `state` follow, each a name that is there. `id` is that of the `subscribed`."""

    channel: str
    count: Integer
    id: Integer = 0


class History(Message, tag="history"):
    """Asks for up to `limit` publications after `offset` of `epoch` (empty: the current one);
    without an offset and with `last`, for the newest `limit`."""

    id: Integer
    channel: ChannelName
    epoch: Key = ""
    offset: Integer = 0
    limit: Annotated[int, Meta(ge=0, le=limits.MAX_HISTORY_PAGE)] = 100
    last: bool = False


class HistoryPage(Message, tag="history_page"):
    """The answer to `history`; its `count` publications follow, each with this id as its `page`.
    `offset` and `epoch` are the log's top; `gap` says what the question named and the log no longer
    has."""

    id: Integer
    channel: str
    epoch: str
    offset: Integer
    count: Integer = 0
    gap: Gap | None = None


class PresenceQuery(Message, tag="presence"):
    """Asks who is subscribed to a channel."""

    id: Integer
    channel: ChannelName


class PresenceList(Message, tag="presence_list"):
    """Who is subscribed: the answer to `presence` (with its id), or the snapshot that follows a
    subscription with presence (id 0)."""

    channel: str
    clients: list[str]
    id: Integer = 0
    more: Integer = 0  # how many are not named, for want of room in one message


class Join(Message, tag="join"):
    channel: str
    client_id: str


class Leave(Message, tag="leave"):
    channel: str
    client_id: str


CARRIER_TYPES: Final = frozenset({LinkMessage, Ephemeral, Publish, Set, Publication})
"""The messages whose user data may be bytes."""

BOUNDED_TYPES: Final = frozenset({Hello, Subscribe, Watch, Ack})
"""The messages that carry what other limits bound: channels, peers, losses."""

FromClient = (
    Hello | Goodbye | Refresh | Ping | Pong | LinkMessage | Ack | Skip | Probe | Watch | Signal | Ephemeral
    | Subscribe | Publish | Set | History | PresenceQuery
)  # fmt: skip
"""What a client may send to a server."""

FromServer = (
    Welcome | Goodbye | Refreshed | Ping | Pong | Error | LinkMessage | Ack | Skip | Probe | Wait | Stored
    | Watching | Peer | Signal | Ephemeral | Subscribing | Subscribed | Unsubscribed | Published
    | Publication | Snapshot | HistoryPage | PresenceList | Join | Leave
)  # fmt: skip
"""What a server may send to a client."""

FromPeer = LinkMessage | Ack | Skip | Probe | Ping | Pong
"""What a peer may send over a data channel: identity is what the server stamped on the signals,
so nothing here may say who it is from."""

ALLOWED: Final[dict[str, Any]] = {"client": FromClient, "server": FromServer, "peer": FromPeer}
"""Far end → the types it may send."""
