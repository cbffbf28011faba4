"""A server inside your own program."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog
from starlette.types import ASGIApp

from duolink.protocol import codec
from duolink.protocol.messages import (
    LinkMessage,
    Publish,
    Published,
    Set,
)
from duolink.server.app import App
from duolink.server.auth import AuthenticationError, Identity
from duolink.server.config import Config, Storage
from duolink.server.hooks import Action, Hooks
from duolink.server.localclient import CommandFailed, deletion, publication, write
from duolink.server.policy import SERVER
from duolink.server.serverlink import Incoming, NotDelivered, Sent, ServerLink, encode

__all__ = [
    "Identity",
    "Incoming",
    "NotDelivered",
    "Position",
    "PublishFailed",
    "RequestRefused",
    "Sent",
    "Server",
    "ServerLink",
]

_log = structlog.get_logger("duolink.server")

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Position(NamedTuple):
    """Where a publication stands in its channel."""

    epoch: str
    offset: int


class PublishFailed(Exception):
    """A publication or a write was refused. `code` is an `ErrorCode`; `uncertain`: it may have happened all
    the same; `conflict`: the name has another `version` (0: is not there)."""

    def __init__(self, code: str, message: str, version: int = 0) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code, self.version = code, version


class RequestRefused(Exception):
    """Raised by a request handler: the client's request fails with this text. (Any other exception is logged,
    and the client hears only that the handler failed.)"""


class Server:
    """A duolink server as an object: ports open while its context is entered.

        async with Server(port=8080) as server:
            print(server.url)                                   # ws://127.0.0.1:8080/ws

            @server.on_request
            async def answer(request):                          # client.link("$server").request("time")
                return {"you": request.client_id, "asked": request.data}

            await server.publish("news", {"hello": "everybody"})
            await server.set("news", "headline", "Hello")       # shared state; returns its version
            sent = await server.link("alice").send({"hello": "alice"})
            await sent.delivered()                              # alice's application has finished with it

    Hooks decide and listen; each is optional, a plain function with plain arguments:

    - `authenticate(token) -> Identity | None`: who presents this token (None: there is no token); returning
      None refuses. With it the server may listen beyond loopback. It must answer at once.
    - `authorize(identity, "subscribe" | "publish", channel) -> bool | None`: None leaves it to the identity.
    - `connected(client_id, identity, resumed)`, `disconnected(client_id, code)`, `ended(client_id)`
    - `message(sender, receiver, lane, run, seq, data, binary)`: a link message was handed over; repeats too.
    - `published(channel, sender, offset, data, binary)`

    Those that only listen may be `async` functions; each call is then a task of its own.

    `database` is a file for mailboxes, history and shared state; without one they end with the process.
    `config` is everything else (see `docs/configuration.md`); what is named beside it stands above it.

    `app` is an ASGI application (FastAPI, Starlette, …) on the same port: it gets every HTTP request whose
    path is none of the server's own (`/ws`, `/metrics`, `/console`, the paths of the API; all are in
    `docs/api.md`), and its lifespan events. It gets no WebSockets: those of other paths are refused with 404.
    """

    def __init__(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        tcp_port: int | None = None,
        database: str | None = None,
        config: Config | None = None,
        app: ASGIApp | None = None,
        authenticate: Callable[[str | None], Identity | None] | None = None,
        authorize: Callable[[Identity, Action, str], bool | None] | None = None,
        connected: Callable[[str, Identity, bool], Any] | None = None,
        disconnected: Callable[[str, int], Any] | None = None,
        ended: Callable[[str], Any] | None = None,
        message: Callable[[str, str, str, int, int, bytes, bool], Any] | None = None,
        published: Callable[[str, str, int, bytes, bool], Any] | None = None,
    ) -> None:
        """Raises `ConfigError` for settings that are not allowed."""
        if not structlog.is_configured():
            _log_to_standard_library()
        self._authorize = authorize
        self._app = App(
            _configured(
                config or Config(), host, port, tcp_port, database, external=authenticate is not None
            ),
            authenticator=_HookAuthenticator(authenticate) if authenticate is not None else None,
            app=app,
            hooks=Hooks(
                authorize=self._may if authorize is not None else None,
                connected=self._listening(connected),
                disconnected=self._listening(disconnected),
                ended=self._listening(ended),
                message=self._listening(message),
                published=self._listening(published),
            ),
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_request: Callable[[Incoming], Any] | None = None
        self._on_message: Callable[[Incoming], Any] | None = None
        self._running = False

    # --- life ------------------------------------------------------------------------------------

    async def __aenter__(self) -> "Server":
        """Open database and ports. Raises `OSError` when a port cannot be had, `DatabaseError`, `ConfigError`
        when there are no keys at `auth.jwks_url`, `RuntimeError` when the `app` fails to start."""
        await self._app.start()
        self._running = True
        self._app.client.listen(self._handle)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Tell clients to come back later, close every connection and port, end the tasks of handlers."""
        self._running = False
        await self._app.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self._app.url

    @property
    def http_url(self) -> str:
        """Where health and metrics are."""
        return self._app.http_url

    @property
    def port(self) -> int:
        """The port of WebSocket and HTTP."""
        return self._app.port

    @property
    def tcp_port(self) -> int:
        """The port of plain TCP; 0 without one."""
        return self._app.tcp_port

    # --- what the application does -----------------------------------------------------------------

    def link(self, client_id: str) -> ServerLink:
        """Return the link to a client, or to a user (`@bob`: all his clients). Raises `ValueError` for what
        is neither."""
        self._check_running()
        return self._app.client.link(client_id)

    async def publish(self, channel: str, data: Any, *, key: str = "") -> Position:
        """Append a value (JSON, or bytes) to a channel; subscribers hear it from `$server`.

        A `key` makes it idempotent: the same key returns the first position while it is remembered. Raises
        `PublishFailed`, and `DataError` for a value that cannot travel.
        """
        published = await self._command(publication(channel, data, key))
        return Position(published.epoch, published.offset)

    async def set(
        self, channel: str, name: str, value: Any, *, expect: int | None = None, key: str = ""
    ) -> int:
        """Give a name of a channel's shared state a value (JSON, or bytes); return its version. With `expect`
        only if it has that version now (0: is not there). Raises as `publish` does.
        """
        return (await self._command(write(channel, name, value, expect, key))).offset

    async def delete(self, channel: str, name: str, *, expect: int | None = None, key: str = "") -> None:
        """Take a name out of a channel's shared state. See `set`."""
        await self._command(deletion(channel, name, expect, key))

    async def _command(self, message: Publish | Set) -> Published:
        self._check_running()
        try:
            return await self._app.client.command(message)
        except CommandFailed as failed:
            error = failed.error
            raise PublishFailed(error.code, error.message, error.version) from None

    def disconnect(self, client_id: str, reason: str = "disconnected") -> bool:
        """Send a client away for good (3505); return whether it was here."""
        self._check_running()
        return self._app.node.disconnect(client_id, reason)

    def on_request(self, handler: Handler) -> Handler:
        """Answer what clients ask of `$server`: `handler(request)` returns the answer, or an awaitable of it.

        To be used as a decorator; the last one counts. Without one, requests fail with `no_handler`.
        """
        self._on_request = handler
        return handler

    def on_message(self, handler: Handler) -> Handler:
        """Take what clients send to `$server`: `handler(message)`. A message is delivered when it has
        returned; async handlers of several messages overlap. Without one, messages are dropped, as
        delivered."""
        self._on_message = handler
        return handler

    # --- hooks -----------------------------------------------------------------------------------

    def _may(self, identity: Identity, action: Action, channel: str) -> bool | None:
        assert self._authorize is not None
        return True if identity.user == SERVER else self._authorize(identity, action, channel)

    def _listening(self, hook: Callable[..., Any] | None) -> Callable[..., None] | None:
        """Return a hook that may be async as one that is not."""
        if hook is None:
            return None

        def call(*arguments: Any) -> None:
            result = hook(*arguments)
            if inspect.isawaitable(result):
                self._spawn(_report(result, "a hook raised"))

        return call

    def _spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the node's side -------------------------------------------------------------------------

    def _check_running(self) -> None:
        if not self._running:
            raise RuntimeError("the server is not running: enter its context first")

    # --- handlers --------------------------------------------------------------------------------

    def _handle(self, link: ServerLink, message: LinkMessage) -> None:
        """Hand a message or a request to its handler, then finish with it."""
        incoming = Incoming(link.client_id, message)
        handler = self._on_request if message.request else self._on_message
        if handler is None:
            if message.request:
                self._answer(link, incoming, "no_handler", failed=True)
            link.finish(message)
            return
        try:
            result = handler(incoming)
        except Exception as error:
            self._failed(link, incoming, error)
        else:
            if inspect.isawaitable(result):
                self._spawn(self._finish_later(link, incoming, message, result))
                return
            if message.request:
                self._answer(link, incoming, result)
        link.finish(message)

    async def _finish_later(
        self, link: ServerLink, incoming: Incoming, message: LinkMessage, result: Awaitable[Any]
    ) -> None:
        try:
            value = await result
        except Exception as error:
            self._failed(link, incoming, error)
        else:
            if message.request:
                self._answer(link, incoming, value)
        link.finish(message)

    def _failed(self, link: ServerLink, incoming: Incoming, error: Exception) -> None:
        if incoming.request and isinstance(error, RequestRefused):
            self._answer(link, incoming, str(error), failed=True)
            return
        _log.error("a handler raised", exc_info=error)
        if incoming.request:
            self._answer(link, incoming, "the handler failed", failed=True)

    def _answer(self, link: ServerLink, request: Incoming, value: Any, failed: bool = False) -> None:
        try:
            body, binary = encode(value)
        except codec.DataError as error:
            _log.error("an answer cannot travel", problem=str(error))
            body, binary, failed = codec.encode_json("the handler failed"), False, True
        if not link.reply(request, body, binary, failed):
            _log.warning("an answer was dropped: its client takes none", client=link.client_id)


def _log_to_standard_library() -> None:
    """Hand log lines to `logging`, which is the embedding program's to set up; structlog by itself prints
    them to standard output."""
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


class _HookAuthenticator:
    """An authenticator that asks the application."""

    def __init__(self, authenticate: Callable[[str | None], Identity | None]) -> None:
        self._authenticate = authenticate

    def authenticate(self, token: str | None, now: float) -> Identity:
        """See `Authenticator.authenticate`."""
        try:
            identity = self._authenticate(token)
        except AuthenticationError:
            raise
        except Exception as error:
            _log.error("the authenticate hook raised", exc_info=error)
            identity = None
        if identity is None:
            raise AuthenticationError(
                "token_invalid" if token else "token_missing", "this token lets nobody in"
            )
        return identity

    def room(self, token: str | None, now: float) -> str:
        """Raise: tickets for rooms need configured keys."""
        raise AuthenticationError("token_invalid", "this server has no keys to check a ticket with")


def _configured(
    config: Config,
    host: str | None,
    port: int | None,
    tcp_port: int | None,
    database: str | None,
    external: bool,
) -> Config:
    """Return the settings with what the arguments say. Raises `ConfigError`."""
    given = {"host": host, "port": port, "tcp_port": tcp_port}
    listen = msgspec.structs.replace(config.listen, **{k: v for k, v in given.items() if v is not None})
    auth = msgspec.structs.replace(config.auth, external=True) if external else config.auth
    storage = Storage(database=database) if database is not None else config.storage
    return msgspec.structs.replace(config, listen=listen, auth=auth, storage=storage)


async def _report(work: Awaitable[Any], what: str) -> None:
    """Await something whose failure only the log should hear of."""
    try:
        await work
    except Exception as error:
        _log.error(what, exc_info=error)
