"""Plain HTTP on a listener's port: an ASGI application under uvicorn's HTTP protocol."""

import asyncio
import logging
from collections.abc import Callable
from email.utils import formatdate

import h11
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

KEEP_ALIVE_TIMEOUT = 15
"""Seconds an idle HTTP connection stays open: long enough for the console's polling, short enough that
idle clients do not count against the connections of others."""


class ASGIServer:
    """Makes uvicorn protocols for connections that turned out to be plain HTTP, and tracks them.

    The application runs without lifespan events; who composes the node starts and stops what it needs.
    A WebSocket upgrade on a connection that has been used for HTTP is answered 426: a client that wants
    one opens a new connection.
    """

    def __init__(
        self,
        app: ASGI3Application,
        *,
        keep_alive: int = KEEP_ALIVE_TIMEOUT,
        head_timeout: float = 10.0,
        body_timeout: float = 60.0,
    ) -> None:
        self._timeouts = head_timeout, body_timeout
        self._config = Config(
            _refusing_upgrades(app),
            interface="asgi3",
            http="h11",
            ws="none",
            lifespan="off",
            proxy_headers=False,  # who is trusted to name the client is the application's to decide
            server_header=False,
            date_header=False,  # set below: uvicorn's own server loop, which does it, is not run
            access_log=False,
            log_config=None,
            log_level=logging.ERROR,  # its warnings are one per malformed request: a flood at will
            timeout_keep_alive=keep_alive,
        )
        self._config.load()
        self._state = ServerState()

    @property
    def connections(self) -> int:
        """How many HTTP connections are open."""
        return len(self._state.connections)

    def protocol(self, ended: Callable[[], None] | None = None) -> asyncio.Protocol:
        """Return the protocol for a new connection; call its `connection_made` and feed what was read. It
        calls `ended` at its end."""
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        return _Protocol(self._config, self._state, self._timeouts, ended)

    def shutdown(self) -> None:
        """Close idle connections now and the others after the response they are at."""
        for connection in list(self._state.connections):
            connection.shutdown()

    async def close(self, grace: float) -> None:
        """Shut down, wait for requests under way for `grace` seconds at most, then cut them off."""
        self.shutdown()
        tasks = set(self._state.tasks)
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=grace)
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending)
        for connection in list(self._state.connections):
            connection.transport.abort()
        while self._state.connections:  # noqa: ASYNC110 - the loop tells them in its next turn
            await asyncio.sleep(0)


class _Protocol(H11Protocol):
    """uvicorn's protocol, with what it lacks: deadlines for a request's head, for its body, and for a client
    that does not read. (Between requests its own `timeout_keep_alive` runs.)"""

    def __init__(
        self,
        config: Config,
        state: ServerState,
        timeouts: tuple[float, float],
        ended: Callable[[], None] | None,
    ) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._head_timeout, self._body_timeout = timeouts
        self._ended = ended
        self._waits_for = ""
        self._deadline: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waits_for == "body":
            self._wait("", 0.0)  # it goes on
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait("reader", self._body_timeout)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait("", 0.0)
        super().connection_lost(exc)
        if self._ended is not None:
            self._ended()

    def _look(self) -> None:
        if self.flow.write_paused:
            return
        if self.conn.their_state is h11.SEND_BODY:
            self._wait("body", self._body_timeout)
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait("head", self._head_timeout)
        else:
            self._wait("", 0.0)

    def _wait(self, what: str, seconds: float) -> None:
        """Let something take so long at most. More of the same does not move the deadline."""
        if what == self._waits_for:
            return
        self._waits_for = what
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if what and not self.transport.is_closing():
            self._deadline = self.loop.call_later(seconds, self.transport.abort)


def _refusing_upgrades(app: ASGI3Application) -> ASGI3Application:
    async def refusing(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "http" or not any(
            name == b"upgrade" and b"websocket" in value.lower() for name, value in scope["headers"]
        ):
            return await app(scope, receive, send)
        body = b"open a new connection for a WebSocket\n"
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (b"upgrade", b"websocket"),
        ]
        await send({"type": "http.response.start", "status": 426, "headers": headers, "trailers": False})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return refusing
