"""Server-sent events: a sample now and then, and what happens when it happens.

A stream keeps no queue: what it has not sent it takes from the ring, and of samples the newest. So a reader
that is slow misses samples, and the oldest events of more than the ring holds.
"""

import asyncio
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from duolink.server.answers import HEADERS
from duolink.server.api import documents as doc
from duolink.server.api.arguments import Ask
from duolink.server.api.backend import Backend
from duolink.server.api.overview import Overview, happening
from duolink.server.happenings import Happened

MAX_STREAMS: Final = 16
"""Streams at once: some operators with some windows each."""

KEEP_ALIVE: Final = 15.0
"""Seconds of silence after which a comment is sent, so that proxies see life."""

BURST: Final = 100
"""Events of one write."""

PATIENCE: Final = 60.0
"""Seconds a reader may take for one write. One that stays connected and does not read would keep its place
for good, and there are few."""


class Streams:
    """Answers `/api/events`."""

    def __init__(self, backend: Backend, overview: Overview) -> None:
        self._backend = backend
        self._overview = overview
        self._open: set[_Stream] = set()
        self._closing = False

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """End every stream; none begins any more."""
        self._closing = True
        for stream in self._open:
            stream.wake.set()

    @property
    def closing(self) -> bool:
        """Whether they are to end."""
        return self._closing or self._backend.node.draining

    async def events(self, ask: Ask) -> Response:
        """Begin a stream."""
        if self.closing:
            raise HTTPException(503, "this server is going down", {"retry-after": "5"})
        if len(self._open) >= MAX_STREAMS:
            raise HTTPException(503, f"there are {MAX_STREAMS} streams already", {"retry-after": "10"})
        happenings = self._backend.node.happenings
        since = ask.query["since"]
        last_id = ask.query["last-event-id"]
        since = last_id if last_id is not None else since
        return _Stream(self, happenings.last if since is None else since, ask.query["interval"] / 1000)

    def begin(self, stream: "_Stream") -> None:
        """A stream runs."""
        self._open.add(stream)
        self._backend.node.happenings.listen(stream.heard)

    def end(self, stream: "_Stream") -> None:
        """It has ended."""
        self._open.discard(stream)
        self._backend.node.happenings.silence(stream.heard)

    def opening(self) -> bytes:
        """Return what a stream begins with."""
        return _event("server", doc.encode(self._overview.info()))

    def sample(self) -> bytes:
        """Return a sample as an event."""
        return _event("stats", self._overview.sample())

    def happened(self, after: int) -> tuple[int, bytes]:
        """Return the events behind an id, some at most, and the id of the last one."""
        found = self._backend.node.happenings.after(after, BURST)
        if not found:
            return after, b""
        events = [_event("happened", doc.encode(happening(each)), each.id) for each in found]
        return found[-1].id, b"".join(events)


class _Stream(Response):
    """One reader, as the answer it gets."""

    def __init__(self, streams: Streams, last: int, interval: float) -> None:
        super().__init__(None, headers={**HEADERS, "x-accel-buffering": "no"}, media_type="text/event-stream")
        del self.headers["content-length"]
        self._streams = streams
        self._last = last
        self._interval = interval
        self._gone = False
        self.wake = asyncio.Event()

    def heard(self, happened: Happened) -> None:
        """Something has happened."""
        self.wake.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write until the reader goes, or the server."""
        streams = self._streams
        streams.begin(self)
        watch = asyncio.ensure_future(self._watch(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                await _within(send, streams.opening())
                await self._write(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            pass  # the server closes the connection of an answer that has no end
        finally:
            streams.end(self)
            watch.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self.wake.set()

    async def _write(self, send: Send) -> None:
        """Each write waits until the one before it was taken."""
        streams, loop = self._streams, asyncio.get_running_loop()
        due = spoken = loop.time()
        while not (streams.closing or self._gone):
            self.wake.clear()
            self._last, events = streams.happened(self._last)
            now = loop.time()
            if now >= due:
                events += streams.sample()
                due = max(due + self._interval, now)
            elif not events and now >= spoken + KEEP_ALIVE:
                events = b":\n\n"
            if events:
                await _within(send, events)
                spoken = loop.time()
            else:
                await self._sleep(min(due, spoken + KEEP_ALIVE) - now)
        if not self._gone:  # that the server goes is the last thing its readers hear
            await _within(send, streams.happened(self._last)[1] + streams.opening())

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            pass


async def _within(send: Send, body: bytes) -> None:
    """Write, and wait until it was taken. Raises `TimeoutError`."""
    async with asyncio.timeout(PATIENCE):
        await send({"type": "http.response.body", "body": body, "more_body": True})


def _event(kind: str, data: bytes, id: int | None = None) -> bytes:
    number = b"id: %d\n" % id if id is not None else b""
    return b"%sevent: %s\ndata: %s\n\n" % (number, kind.encode(), data)
