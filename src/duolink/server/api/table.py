"""Every operation of the API."""

from typing import Annotated, Final

from msgspec import Meta

from duolink.protocol import limits
from duolink.server.api import documents as doc
from duolink.server.api.arguments import LIMIT, Parameter
from duolink.server.api.backend import Backend
from duolink.server.api.openapi import OpenApi
from duolink.server.api.operations import Operation
from duolink.server.api.overview import Overview
from duolink.server.api.stream import Streams

Id = Annotated[int, Meta(ge=0, le=limits.MAX_INTEGER)]
Interval = Annotated[int, Meta(ge=250, le=60_000)]

INTERVAL: Final = Parameter("interval", Interval, "Milliseconds between two samples.", 1000)
SINCE: Final = Parameter(
    "since", Id, "Begin with what happened behind this id; else with what happens now.", None
)
LAST_ID: Final = Parameter("last-event-id", Id, "The same, as browsers say it.", None, "header")
AFTER_ID: Final = Parameter("after", Id, "Only what happened behind this id.", 0)


def operations(backend: Backend, overview: Overview, streams: Streams) -> list[Operation]:
    """Return the table."""
    openapi = OpenApi(backend.version)
    table = [
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
    openapi.make(table)
    return table
