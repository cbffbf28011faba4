"""Every operation of the API."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from duolink.protocol import limits
from duolink.server.api import documents as doc
from duolink.server.api.arguments import AFTER, LIMIT, PREFIX, Parameter
from duolink.server.api.backend import Backend
from duolink.server.api.channels import Channels
from duolink.server.api.clients import Clients
from duolink.server.api.mailboxes import Mailboxes
from duolink.server.api.messages import Messages
from duolink.server.api.openapi import OpenApi
from duolink.server.api.operations import Operation
from duolink.server.api.overview import Overview
from duolink.server.api.stream import Streams
from duolink.server.localclient import LocalClient

Id = Annotated[int, Meta(ge=0, le=limits.MAX_INTEGER)]
Interval = Annotated[int, Meta(ge=250, le=60_000)]

INTERVAL: Final = Parameter("interval", Interval, "Milliseconds between two samples.", 1000)
SINCE: Final = Parameter(
    "since", Id, "Begin with what happened behind this id; else with what happens now.", None
)
LAST_ID: Final = Parameter("last-event-id", Id, "The same, as browsers say it.", None, "header")
AFTER_ID: Final = Parameter("after", Id, "Only what happened behind this id.", 0)


STATE: Final = Parameter("state", Literal["active", "detached"], "Only clients in this state.", None)
ORDER: Final = Parameter("order", Literal["depth", "name"], "The deepest 100, or all by name.", "depth")
PRESENT: Final = Parameter("present", bool, "Only channels that have a subscriber on this node.", False)
FROM: Final = Parameter(
    "from", Id, "Begin with this offset; without it at the oldest (`reverse`: newest).", None
)
REVERSE: Final = Parameter("reverse", bool, "The newest first.", False)


def operations(
    backend: Backend, overview: Overview, streams: Streams, client: LocalClient
) -> list[Operation]:
    """Return the table."""
    openapi = OpenApi(backend.version)
    table = [
        *_about(openapi, overview, streams),
        *_clients(Clients(backend)),
        *_messages(Messages(backend, client)),
        *_channels(Channels(backend, client)),
        *_mailboxes(Mailboxes(backend)),
    ]
    openapi.make(table)
    return table


def _about(openapi: OpenApi, overview: Overview, streams: Streams) -> list[Operation]:
    return [
        Operation(
            method="GET",
            path="/api",
            name="getPage",
            tag="documents",
            summary="This document, for people",
            handler=openapi.page,
            answers={200: "text/html"},
        ),
        Operation(
            method="GET",
            path="/api/openapi.json",
            name="getOpenApi",
            tag="documents",
            summary="This document",
            handler=openapi.document,
            answers={200: "application/json"},
        ),
        Operation(
            method="GET",
            path="/api/server",
            name="getServer",
            tag="server",
            summary="What the server is, and how it is",
            handler=overview.server,
            answers={200: doc.ServerInfo},
        ),
        Operation(
            method="GET",
            path="/api/stats",
            name="getStats",
            tag="server",
            summary="One sample of what it does",
            description="A sample is at most 0.2 s old. Subtract two of them for rates.",
            handler=overview.stats,
            answers={200: doc.Stats},
        ),
        Operation(
            method="GET",
            path="/api/events",
            name="streamEvents",
            tag="server",
            summary="Samples and events as they come",
            description=(
                "Server-sent events: `server` first (as `GET /api/server`), `stats` at once and every "
                "interval (as `GET /api/stats`), `happened` with an `id` for each event (as an item of "
                "`GET /api/happenings`), and a comment after 15 s of silence. A slow reader misses samples. "
                "At most 16 streams; they end when the server drains."
            ),
            handler=streams.events,
            parameters=(INTERVAL, SINCE, LAST_ID),
            answers={200: "text/event-stream"},
            errors=(503,),
        ),
        Operation(
            method="GET",
            path="/api/happenings",
            name="listHappenings",
            tag="server",
            summary="What happened lately",
            description="The last 1000 events, at most 50 of a kind in one second.",
            handler=overview.happenings,
            parameters=(AFTER_ID, LIMIT),
            answers={200: doc.Happenings},
        ),
    ]


def _clients(clients: Clients) -> list[Operation]:
    return [
        Operation(
            method="GET",
            path="/api/clients",
            name="listClients",
            tag="clients",
            summary="Clients with a session on this node",
            description=(
                "In the order of their names. With `state`, at most 5000 names are looked at for a page, "
                "which may be shorter then, or empty, with a `next` all the same."
            ),
            handler=clients.page,
            parameters=(STATE, PREFIX, AFTER, LIMIT),
            answers={200: doc.Clients},
        ),
        Operation(
            method="GET",
            path="/api/clients/{client}",
            name="getClient",
            tag="clients",
            summary="A client in detail",
            handler=clients.get,
            answers={200: doc.ClientDetail},
            errors=(404, 503),
        ),
        Operation(
            method="DELETE",
            path="/api/clients/{client}",
            name="disconnectClient",
            tag="clients",
            summary="Send a client away",
            description=(
                "Closes its connection with 3505, which its SDK takes as final; with `reconnect`, with 1012, "
                "after which it comes back. A session that waits to be resumed ends, unless with "
                "`reconnect`. "
                "What waits in its mailbox stays."
            ),
            handler=clients.disconnect,
            body=doc.Disconnect,
            body_required=False,
            answers={204: None},
            errors=(404,),
            example={"reason": "moved to another plan", "reconnect": False},
        ),
    ]


def _messages(messages: Messages) -> list[Operation]:
    return [
        Operation(
            method="POST",
            path="/api/messages",
            name="sendMessage",
            tag="messages",
            summary="Send a message from `$server`",
            description=(
                "It is numbered, and delivered once and in order, as any message of a link. The answer comes "
                "when it has come as far as `wait` says (200), or when `timeout_ms` is over (202; also for "
                "`sent`): it goes its way all the same. `lost` comes with a reason. With a `key`, the same "
                "request again sends nothing, and tells what has become of the first one: within 10 minutes, "
                "of the last 10,000 keys, by this process. On a server without a database, a message waits "
                "in this process for a day at most."
            ),
            handler=messages.send,
            body=doc.Send,
            answers={200: doc.SentMessage, 202: doc.SentMessage},
            errors=(503,),
            example={"to": "bob", "data": {"text": "hello"}, "wait": "stored"},
        ),
    ]


def _channels(channels: Channels) -> list[Operation]:
    return [
        Operation(
            method="GET",
            path="/api/channels",
            name="listChannels",
            tag="channels",
            summary="Channels that have a subscriber, or were published to",
            handler=channels.page,
            parameters=(PREFIX, AFTER, LIMIT, PRESENT),
            answers={200: doc.Channels},
            errors=(503,),
        ),
        Operation(
            method="GET",
            path="/api/channels/{name}",
            name="getChannel",
            tag="channels",
            summary="A channel in detail",
            description="Also one that nobody subscribes to, if anything was ever published there.",
            handler=channels.get,
            answers={200: doc.ChannelDetail},
            errors=(404, 503),
        ),
        Operation(
            method="GET",
            path="/api/channels/{name}/presence",
            name="getPresence",
            tag="channels",
            summary="Who subscribes to a channel",
            handler=channels.presence,
            parameters=(AFTER, LIMIT),
            answers={200: doc.Presence},
            errors=(404,),
        ),
        Operation(
            method="GET",
            path="/api/channels/{name}/history",
            name="getHistory",
            tag="channels",
            summary="What was published to a channel",
            description="A page ends after about 1 MiB of data.",
            handler=channels.history,
            parameters=(FROM, LIMIT, REVERSE),
            answers={200: doc.History},
            errors=(404, 503),
        ),
        Operation(
            method="POST",
            path="/api/channels/{name}/messages",
            name="publish",
            tag="channels",
            summary="Publish to a channel as `$server`",
            description=(
                "It is in the channel's history, and on disk where that is durable, when the answer comes. "
                "With a `key`, the same request again answers with the first position."
            ),
            handler=channels.publish,
            body=doc.Publish,
            answers={200: doc.Published},
            errors=(404, 503),
            example={"data": {"headline": "hello"}, "key": "2026-1"},
        ),
        Operation(
            method="GET",
            path="/api/channels/{name}/state",
            name="getState",
            tag="channels",
            summary="The shared state of a channel",
            description="In the order of the names. A page ends after about 1 MiB of values.",
            handler=channels.state,
            parameters=(AFTER, LIMIT),
            answers={200: doc.State},
            errors=(404, 503),
        ),
        Operation(
            method="PUT",
            path="/api/channels/{name}/state/{key}",
            name="setValue",
            tag="channels",
            summary="Give a name of the shared state a value",
            handler=channels.set,
            body=doc.SetValue,
            answers={200: doc.Version},
            errors=(404, 409, 503, 507),
            example={"value": "Draft", "expect": 0},
        ),
        Operation(
            method="DELETE",
            path="/api/channels/{name}/state/{key}",
            name="deleteValue",
            tag="channels",
            summary="Take a name out of the shared state",
            handler=channels.delete,
            body=doc.DeleteValue,
            body_required=False,
            answers={200: doc.Version},
            errors=(404, 409, 503),
            example={"expect": 7},
        ),
    ]


def _mailboxes(mailboxes: Mailboxes) -> list[Operation]:
    return [
        Operation(
            method="GET",
            path="/api/mailboxes",
            name="listMailboxes",
            tag="mailboxes",
            summary="Mailboxes with messages",
            description="By `depth` the 100 with the most messages, in one page; by `name` all of them.",
            handler=mailboxes.page,
            parameters=(ORDER, AFTER, LIMIT),
            answers={200: doc.Mailboxes},
            errors=(503,),
        ),
    ]
