"""Plain HTTP on a listener's port: an ASGI application under uvicorn's HTTP protocol."""

import asyncio
import logging
from email.utils import formatdate
from typing import Any

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.config import Config
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

    def __init__(self, app: ASGI3Application, *, keep_alive: int = KEEP_ALIVE_TIMEOUT) -> None:
        self._config = Config(
            _refusing_upgrades(app),
            interface="asgi3",
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

    def protocol(self) -> asyncio.Protocol:
        """Return the protocol for a new connection; call its `connection_made` and feed what was read."""
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        make: Any = self._config.http_protocol_class
        protocol: asyncio.Protocol = make(config=self._config, server_state=self._state, app_state={})
        return protocol

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
