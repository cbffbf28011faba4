"""One port for everything: WebSockets to the node, plain HTTP to the ASGI application.

A connection begins as a `_Handshake`, which reads the request head under a size limit and a deadline. Then
its transport is handed on: to a `WebSocketWire` for an upgrade on a known path, to an HTTP protocol for
anything else, to a `Linger` when it is refused. The transports are aiofastnet's, which work on any loop.
"""

import asyncio
import logging
import math
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

import aiofastnet

from duolink.server.acceptor import Acceptor
from duolink.server.handshake import Headers, HeadReader, OriginPolicy, Refused, Upgrade, judge
from duolink.server.linger import Linger
from duolink.server.options import ListenerOptions
from duolink.server.websocket import WebSocketWire, WireContext
from duolink.server.wire import Count, Wire, WireUser

logger = logging.getLogger(__name__)

TLS_BUFFER = 16_384 + 64
"""Bytes of each of a TLS connection's two buffers: one record. aiofastnet's default is 16 records, half a
megabyte per connection."""

Admit = Callable[[str], float | None]
"""Called with a peer's address at accept: None admits, a number refuses with 503 and Retry-After."""

Enter = Callable[[str, Headers], Callable[[], None] | None]
"""Called for a connection that turns out to be plain HTTP, with the address and the first request's headers:
returns what to call at its end, or raises `Refused`."""


@dataclass(frozen=True, slots=True)
class Route:
    """A path that speaks WebSocket."""

    factory: Callable[[Wire, Upgrade], WireUser]
    """Makes the user of a new wire, or raises Refused. It runs before the 101, so it may keep the wire
    and read its addresses, but not write, ping or close yet."""
    max_message: int | None = None
    """The largest message, if smaller than the listener's."""
    subprotocols: tuple[str, ...] = ()
    """What may be chosen from a client's offer; offering is never required."""


class HTTPServer(Protocol):
    """What serves plain HTTP, as `asgi.ASGIServer` does."""

    @property
    def connections(self) -> int:
        """How many connections are open."""
        ...

    def protocol(self, ended: Callable[[], None] | None) -> asyncio.Protocol:
        """Return the protocol for one more connection, which calls `ended` at its end."""
        ...

    async def close(self, grace: float) -> None:
        """Finish what is under way within `grace` seconds and close every connection."""
        ...


def _count_nothing(event: str, label: str) -> None: ...


class Listener:
    """Accepts connections on one port, from `start` until `stop_accepting` or `close`.

    `count` is called with (event, label): ("handshake_accepted", path), ("handshake_refused", why),
    ("connection_refused", why) and ("protocol_error", close code); labels come from small fixed sets.
    `clock` is monotonic, in seconds. With `http` None, plain HTTP is answered 404. `tls` needs a
    certificate and key loaded. `trusts` says of a peer's address whether it is a proxy whose word counts;
    `elsewhere` how many connections the process's other ports have: `max_connections` bounds them together.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        http: HTTPServer | None = None,
        origins: OriginPolicy | None = None,
        tls: ssl.SSLContext | None = None,
        options: ListenerOptions | None = None,
        admit: Admit | None = None,
        enter: Enter | None = None,
        trusts: Callable[[str], bool] = lambda address: False,
        elsewhere: Callable[[], int] = lambda: 0,
        count: Count = _count_nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options or ListenerOptions()
        self._routes = dict(routes)
        self._subprotocols = {path: route.subprotocols for path, route in routes.items()}
        self._host = host
        self._port = port
        self._http = http
        self._origins = origins or OriginPolicy()
        self._tls = tls
        self._admit = admit
        self._enter = enter
        self._trusts = trusts
        self._elsewhere = elsewhere
        self.count = count
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop
        self._quiet_loop: asyncio.AbstractEventLoop
        self._contexts: dict[str, WireContext] = {}
        self._acceptor = Acceptor(self.options.backlog, self._accepted)
        self._handshakes: set[_Handshake] = set()
        self._lingering: set[Linger] = set()
        self._wires: set[WebSocketWire] = set()
        self._one_ended = asyncio.Event()

    @property
    def handshakes(self) -> int:
        """Connections that have not finished their request head."""
        return len(self._handshakes)

    @property
    def wires(self) -> int:
        """Open WebSockets, those that are closing included."""
        return len(self._wires)

    @property
    def connections(self) -> int:
        """All open connections."""
        http = self._http.connections if self._http is not None else 0
        return len(self._handshakes) + len(self._lingering) + len(self._wires) + http

    async def start(self) -> int:
        """Bind and listen; return the port. Raises OSError when that fails."""
        self._loop = loop = asyncio.get_running_loop()
        self._quiet_loop = cast(asyncio.AbstractEventLoop, _QuietLoop(loop))
        for path, route in self._routes.items():
            limit = min(route.max_message or self.options.max_message, self.options.max_message)
            self._contexts[path] = WireContext(
                self.options, limit, loop, self._clock, self.count, self._wire_lost
            )
        return await self._acceptor.start(self._host, self._port)

    def stop_accepting(self) -> None:
        """Close the port; connections that exist live on. Repeating is safe."""
        self._acceptor.stop()

    async def close(self, code: int = 1001, reason: str = "server is going away") -> None:
        """Stop accepting and end every connection: wires with a close frame, the rest at once.

        Returns when all are gone, after about `close_timeout` at the latest. Cancelling is unsafe.
        """
        self.stop_accepting()
        self._acceptor.abort()
        for handshake in list(self._handshakes):
            handshake.abort()
        for linger in list(self._lingering):
            linger.abort()
        for wire in list(self._wires):
            wire.close(code, reason)
        if self._http is not None:
            await self._http.close(self.options.close_timeout)
        await self._acceptor.wait()
        await self.wait_empty()  # each wire has its close deadline

    async def wait_empty(self) -> None:
        """Wait until no connection is left but those of plain HTTP. Cancelling is safe."""
        while self._handshakes or self._lingering or self._wires:
            self._one_ended.clear()
            await self._one_ended.wait()

    # Accepting.

    def _accepted(self, connection: socket.socket, address: str) -> None:
        if self.connections + self._elsewhere() >= self.options.max_connections:
            self._turn_away(connection, "max_connections")
        elif len(self._handshakes) >= self.options.max_handshakes:
            self._turn_away(connection, "max_handshakes")
        else:
            self._receive(connection, address)

    def _turn_away(self, connection: socket.socket, why: str) -> None:
        """Refuse at the lowest price: without a transport, and hence without lingering."""
        self.count("connection_refused", why)
        with connection, suppress(OSError):
            if self._tls is None:
                connection.send(Refused(503, "too many connections").response())

    def _receive(self, connection: socket.socket, address: str) -> None:
        handshake = _Handshake(self, address)
        retry_after = self._admit(address) if self._admit is not None else None
        if retry_after is not None:
            handshake.refusal = Refused(
                503, "busy, come back later", label="admission",
                headers=[("Retry-After", str(math.ceil(retry_after)))],
            )  # fmt: skip
        self._handshakes.add(handshake)
        self._acceptor.arrive(connection, self._make_transport(connection, handshake))

    async def _make_transport(self, connection: socket.socket, handshake: "_Handshake") -> None:
        options = self.options
        try:
            if self._tls is None:
                await aiofastnet.connect_accepted_socket(self._loop, lambda: handshake, connection)
            else:
                await aiofastnet.connect_accepted_socket(
                    self._quiet_loop, lambda: handshake, connection, ssl=self._tls,
                    ssl_handshake_timeout=options.handshake_timeout,
                    ssl_shutdown_timeout=options.close_timeout,
                    ssl_incoming_bio_size=TLS_BUFFER, ssl_outgoing_bio_size=TLS_BUFFER,
                )  # fmt: skip
        except OSError:  # as ssl.SSLError is; the transport has closed the socket
            self.count("connection_refused", "tls" if self._tls is not None else "transport")
            self.handshake_lost(handshake)

    # What a handshake leads to.

    def head_received(self, handshake: "_Handshake", head: bytes, rest: bytes) -> None:
        """Judge a whole request head and hand the transport on. Raises Refused."""
        transport = handshake.transport
        secure, proxied = self._tls is not None, self._trusts(handshake.address)
        asked = judge(head, self._subprotocols, self._origins, secure, proxied)
        if not isinstance(asked, Upgrade):
            if self._http is None:
                raise Refused(404, "nothing here but WebSockets", label="no_http")
            ended = self._enter(handshake.address, asked.headers) if self._enter is not None else None
            self._handshakes.discard(handshake)
            protocol = self._http.protocol(ended)
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            protocol.data_received(head + rest)
            return
        wire = WebSocketWire(self._contexts[asked.path], transport, handshake.address, asked.secure)
        try:
            user = self._routes[asked.path].factory(wire, asked)
        except Refused:
            raise
        except Exception:
            logger.exception("the factory of %s failed", asked.path)
            raise Refused(500, "internal error", label="factory_failed") from None
        self.count("handshake_accepted", asked.path)
        self._handshakes.discard(handshake)
        self._wires.add(wire)
        wire.open(user, asked.response(), rest)

    def refuse(self, handshake: "_Handshake", refusal: Refused) -> None:
        """Answer with the refusal and end the connection."""
        self.count("handshake_refused", refusal.label)
        self._handshakes.discard(handshake)
        transport = handshake.transport
        deadline = self._loop.call_later(self.options.close_timeout, transport.abort)
        linger = Linger(transport, deadline, lambda: self._linger_lost(linger))
        self._lingering.add(linger)
        transport.write(refusal.response())
        linger.begin()

    def handshake_lost(self, handshake: "_Handshake") -> None:
        """The transport went before the request head was whole."""
        self._handshakes.discard(handshake)
        self._one_ended.set()

    def _linger_lost(self, linger: Linger) -> None:
        self._lingering.discard(linger)
        self._one_ended.set()

    def _wire_lost(self, wire: WebSocketWire) -> None:
        self._wires.discard(wire)
        self._one_ended.set()


class _Handshake(asyncio.Protocol):
    """The first protocol of every connection: reads its request head."""

    __slots__ = ("_deadline", "_listener", "_reader", "address", "refusal", "transport")

    transport: asyncio.Transport

    def __init__(self, listener: Listener, address: str) -> None:
        self.address = address
        self.refusal: Refused | None = None
        """Set when the client was not admitted: sent when it has asked, so that it can read the answer."""
        self._listener = listener
        self._reader = HeadReader(listener.options.head_limit)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        timeout = self._listener.options.handshake_timeout
        self._deadline = asyncio.get_running_loop().call_later(timeout, self._overdue)

    def data_received(self, data: bytes) -> None:
        try:
            found = self._reader.feed(data)
            if found is None:
                return
            self._cancel_deadline()
            if self.refusal is not None:
                raise self.refusal
            self._listener.head_received(self, *found)
        except Refused as refusal:
            self._cancel_deadline()
            self._listener.refuse(self, refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self._listener.handshake_lost(self)

    def abort(self) -> None:
        """Cut the connection off, if it has a transport yet."""
        if self._deadline is not None:
            self.transport.abort()

    def _overdue(self) -> None:
        self._deadline = None
        if self._reader.started:
            self._listener.refuse(self, Refused(408, "request head takes too long"))
        else:  # browsers open spare connections and use them or not
            self._listener.count("handshake_refused", "silent")
            self.transport.abort()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _QuietLoop:
    """A loop that does not report failed TLS handshakes; the listener counts them.

    aiofastnet 1.2 reports one with a traceback whenever a client goes away in the middle (its exception
    is a class where an instance is expected, so the check for OSError misses it): any port scanner could
    flood the log.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._loop, name)
        setattr(self, name, value)  # once per name
        return value

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if context.get("message") != "SSL handshake failed":
            self._loop.call_exception_handler(context)
