"""A WebSocket client that can do everything wrong: raw sockets, frames built by hand."""

import asyncio
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import uvloop

from duolink.server.echo import ECHO_MAX_MESSAGE, echo_factory
from duolink.server.handshake import Upgrade
from duolink.server.listener import Listener, Route
from duolink.server.options import ListenerOptions
from duolink.server.wire import Wire

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
TIMEOUT = 20.0  # no test waits so long unless it fails
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3, as is the answer
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def run(test: Callable[[], Awaitable[None]], loop: str = "uvloop") -> None:
    """Run an asynchronous test; what the loop would only log fails it."""
    problems: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        await asyncio.wait_for(test(), 4 * TIMEOUT)

    try:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(main())
    finally:
        assert not problems


def request(
    path: str = "/echo",
    *,
    drop: str = "",
    add: Mapping[str, str] | None = None,
    line: str = "",
    **change: str,
) -> bytes:
    """Return an opening handshake; `change` names fields with underscores for hyphens."""
    fields = {
        "Host": "example.com",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    fields.pop(drop, None)
    by_name = {name.lower().replace("-", "_"): name for name in fields}
    for name, value in change.items():
        fields[by_name[name]] = value
    lines = [line or f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    lines += [f"{name.rstrip('+')}: {value}" for name, value in (add or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
    form: int | None = None,
) -> bytes:
    """Return a client frame: `length` lies about the size, `form` (7, 16, 64) chooses the field."""
    size = len(payload) if length is None else length
    form = form or (7 if size < 126 else 16 if size < 65_536 else 64)
    mask_bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if form == 7:
        head += bytes([mask_bit | size])
    elif form == 16:
        head += bytes([mask_bit | 126]) + struct.pack(">H", size)
    else:
        head += bytes([mask_bit | 127]) + struct.pack(">Q", size)
    if not masked:
        return head + payload
    mask = b"\x12\x34\x56\x78"
    repeated = mask * (len(payload) // 4 + 1)
    masked_payload = int.from_bytes(payload) ^ int.from_bytes(repeated[: len(payload)])
    return head + mask + masked_payload.to_bytes(len(payload))


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    """Return a client's close frame."""
    return frame(CLOSE, (b"" if code is None else struct.pack(">H", code)) + reason)


class Frame(NamedTuple):
    """A frame the server sent."""

    opcode: int
    payload: bytes


class Response(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Peer:
    """One client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def trickle(self, data: bytes, size: int = 1) -> None:
        """Send in pieces, each in a loop turn of its own."""
        for start in range(0, len(data), size):
            self.writer.write(data[start : start + size])
            await asyncio.sleep(0)

    async def response(self, head_only: bool = False) -> Response:
        """Read an HTTP response."""
        head = (await self._within(self.reader.readuntil(b"\r\n\r\n"))).decode("latin-1")
        status, *lines = head[:-4].split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        size = 0 if head_only else int(headers.get("content-length", 0))
        return Response(int(status.split()[1]), headers, await self._within(self.reader.readexactly(size)))

    async def frame(self) -> Frame | None:
        """Read a frame, None at the end of the stream. Server frames are whole and unmasked."""
        try:
            first, second = await self._within(self.reader.readexactly(2))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None
        assert first & 0xF0 == 0x80 and second < 0x80
        size = second
        if size == 126:
            (size,) = struct.unpack(">H", await self._within(self.reader.readexactly(2)))
        elif size == 127:
            (size,) = struct.unpack(">Q", await self._within(self.reader.readexactly(8)))
        return Frame(first & 15, await self._within(self.reader.readexactly(size)))

    async def frames(self) -> list[Frame]:
        """Read frames until the end of the stream."""
        found = []
        while (frame := await self.frame()) is not None:
            found.append(frame)
        return found

    async def ended(self) -> bytes:
        """Read to the end of the stream."""
        rest: bytes = await self._within(self.reader.read())
        return rest

    def stop_reading(self) -> None:
        """Let what the server sends pile up."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def read_on(self) -> None:
        """End that."""
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def open(self, path: str = "/echo") -> None:
        """Do the opening handshake."""
        self.send(request(path))
        response = await self.response()
        assert response.status == 101 and response.headers["sec-websocket-accept"] == ACCEPT

    async def aclose(self) -> None:
        self.writer.close()
        with suppress(OSError):  # a reset is a legitimate end of many tests
            await self.writer.wait_closed()

    @staticmethod
    async def _within(awaitable: Awaitable[Any]) -> Any:
        return await asyncio.wait_for(awaitable, TIMEOUT)


class Recorder:
    """A wire user that writes down what it hears; `changed` is set at each event."""

    def __init__(self, wire: Wire, upgrade: Upgrade) -> None:
        self.wire = wire
        self.upgrade = upgrade
        self.events: list[Any] = []
        self.changed = asyncio.Event()

    def _note(self, event: Any) -> None:
        self.events.append(event)
        self.changed.set()

    def received(self, payload: bytes, binary: bool) -> None:
        assert type(payload) is bytes and type(binary) is bool
        self._note((payload, binary))

    def batch_ended(self) -> None:
        self._note("batch")

    def alive(self) -> None:
        self._note("alive")

    def writable(self) -> None:
        self._note("writable")

    def closed(self, code: int, reason: str) -> None:
        self._note(("closed", code, reason))

    async def until(self, event: Any) -> None:
        """Wait for an event."""
        while event not in self.events:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), TIMEOUT)

    async def until_closed(self) -> tuple[int, str]:
        """Wait for the last event; return its code and reason."""
        while not self.events or self.events[-1][0] != "closed":
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), TIMEOUT)
        _, code, reason = self.events[-1]
        return code, reason


class Endpoint:
    """A listener under test, with `/echo` and `/record`."""

    def __init__(self, options: ListenerOptions, **settings: Any) -> None:
        self.users: list[Recorder] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.client_tls: ssl.SSLContext | None = settings.pop("client_tls", None)
        routes = {
            "/echo": Route(echo_factory(options), max_message=ECHO_MAX_MESSAGE),
            "/record": Route(self._record, subprotocols=("duolink", "other")),
            **settings.pop("routes", {}),
        }
        self.listener = Listener(routes, options=options, count=self._count, **settings)
        self.port = 0
        self._peers: list[Peer] = []
        self._changed = asyncio.Event()

    def _record(self, wire: Wire, upgrade: Upgrade) -> Recorder:
        self.users.append(Recorder(wire, upgrade))
        return self.users[-1]

    def _count(self, event: str, label: str) -> None:
        self.counts[event, label] += 1
        self._changed.set()

    async def connect(self, path: str | None = None) -> Peer:
        """Connect; with a path, also do the opening handshake."""
        name = "localhost" if self.client_tls else None
        streams = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.client_tls, server_hostname=name
        )
        peer = Peer(*streams)
        self._peers.append(peer)
        if path is not None:
            await peer.open(path)
        return peer

    async def record(self) -> tuple[Peer, Recorder]:
        """Open a WebSocket to a recorder."""
        peer = await self.connect("/record")
        return peer, self.users[-1]

    async def quiet(self) -> None:
        """Wait until no connection is left."""
        await asyncio.wait_for(self.listener.wait_empty(), TIMEOUT)

    async def counted(self, event: str, label: str) -> None:
        """Wait until this has been counted."""
        while not self.counts[event, label]:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), TIMEOUT)

    async def aclose(self) -> None:
        for peer in self._peers:
            await peer.aclose()
        await asyncio.wait_for(self.listener.close(), TIMEOUT)
        assert self.listener.connections == 0


@asynccontextmanager
async def serving(options: ListenerOptions | None = None, **settings: Any) -> AsyncIterator[Endpoint]:
    """Run a listener; at the end nothing may be left of it."""
    endpoint = Endpoint(options or ListenerOptions(close_timeout=1.0), **settings)
    endpoint.port = await endpoint.listener.start()
    try:
        yield endpoint
    finally:
        await endpoint.aclose()
