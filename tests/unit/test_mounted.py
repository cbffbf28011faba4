"""An ASGI application on the server's port: which requests it gets, and its lifespan."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from structlog.testing import capture_logs
from tests.unit.api_world import Answer, ask, run
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import duolink
from duolink.server import lifespan
from duolink.server.app import App
from duolink.server.config import Config, Listen
from duolink.server.lifespan import Lifespan, LifespanFailed

CONFIG = Config(listen=Listen(port=0))


def application(events: list[str]) -> Starlette:
    @contextlib.asynccontextmanager
    async def life(app: Any) -> AsyncIterator[dict[str, Any]]:
        events.append("started")
        yield {"shelf": "books"}
        events.append("stopped")

    async def page(request: Request) -> Response:
        return JSONResponse({"path": request.path_params, "shelf": request.state.shelf})

    async def echo(request: Request) -> Response:
        return PlainTextResponse(await request.body(), 201)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/api/books/{book}", page),
            Route("/api/stats", page),
            Route("/books", echo, methods=["POST"]),
            WebSocketRoute("/live", page),
        ],
        lifespan=life,
    )


async def send(app: App, method: str, path: str, body: bytes = b"") -> Answer:
    return await ask(app._http._config.loaded_app, method, path, body)


def test_it_gets_what_is_left() -> None:
    events: list[str] = []

    async def main() -> None:
        app = App(CONFIG, app=application(events))
        await app.start()
        assert events == ["started"]
        assert (await send(app, "GET", "/")).json() == {"path": {}, "shelf": "books"}
        assert (await send(app, "GET", "/api/books/7")).json() == {"path": {"book": "7"}, "shelf": "books"}
        answer = await send(app, "POST", "/books", b"a book")
        assert (answer.status, answer.body) == (201, b"a book")
        assert (await send(app, "GET", "/nothing")).body == b"Not Found"
        assert "uptime_s" in (await send(app, "GET", "/api/stats")).json(), (
            "the server's own paths stay its own"
        )
        assert (await send(app, "GET", "/healthz")).json() == {"alive": True}
        await app.stop()
        assert events == ["started", "stopped"]

    run(main())


def test_it_gets_no_websockets() -> None:
    async def main() -> None:
        async with duolink.Server(config=CONFIG, app=application([])) as server:
            with pytest.raises(InvalidStatus) as refused:
                async with connect(f"ws://127.0.0.1:{server.port}/live"):
                    pass
            assert refused.value.response.status_code == 404
            async with duolink.connect(server.url, client_id="alice"):
                pass

    run(main())


def test_a_plain_application_without_lifespan_is_served_too() -> None:
    async def plain(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async def quiet(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await plain(scope, receive, send)

    async def main() -> None:
        for each in (plain, quiet):
            app = App(CONFIG, app=each)
            await app.start()
            assert (await send(app, "GET", "/x/y")).body == b"/x/y"
            await app.stop()

    run(main())


def test_one_that_fails_to_start_keeps_the_server_from_starting() -> None:
    @contextlib.asynccontextmanager
    async def broken(app: Any) -> AsyncIterator[None]:
        raise RuntimeError("no shelf")
        yield

    async def main() -> None:
        with pytest.raises(LifespanFailed, match="no shelf"):
            await App(CONFIG, app=Starlette(lifespan=broken)).start()

    run(main())


def test_one_that_fails_to_stop_is_logged() -> None:
    @contextlib.asynccontextmanager
    async def broken(app: Any) -> AsyncIterator[None]:
        yield
        raise RuntimeError("the shelf fell")

    async def main() -> None:
        app = App(CONFIG, app=Starlette(lifespan=broken))
        await app.start()
        with capture_logs() as logs:
            await app.stop()
        assert any("the shelf fell" in line.get("problem", "") for line in logs)

    run(main())


def test_one_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifespan, "TIMEOUT", 0.01)

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        life = Lifespan(silent)
        with pytest.raises(LifespanFailed, match="more than"):
            await life.start()
        await life.stop()

    run(main())


def test_one_whose_lifespan_raises_later_is_logged() -> None:
    async def raising(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise RuntimeError("later")

    async def main() -> None:
        life = Lifespan(raising)
        await life.start()
        with capture_logs() as logs:
            await life.stop()
        assert [line["event"] for line in logs] == [
            "the application's lifespan raised", "the application failed to stop",
        ]  # fmt: skip

    run(main())


def test_a_port_that_cannot_be_had_stops_the_application_again() -> None:
    events: list[str] = []

    async def main() -> None:
        async with duolink.Server(config=CONFIG) as server:
            taken = Config(listen=Listen(port=server.port))
            with pytest.raises(OSError):
                await App(taken, app=application(events)).start()
            assert events == ["started", "stopped"]

    run(main())
