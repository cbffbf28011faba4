"""The lifespan of an ASGI application that is served beside the node (ASGI specification, lifespan 2.0)."""

import asyncio
from typing import Any, Final

import structlog
from starlette.types import ASGIApp

TIMEOUT: Final = 60.0
"""Seconds an application may take to start, and to stop."""

_log = structlog.get_logger("duolink.server")


class LifespanFailed(RuntimeError):
    """The application did not start; `str()` is what it says about it."""


class Lifespan:
    """Tells an application when the server starts and stops. One that knows no such events is served without
    them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._to: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._supported = False
        self.state: dict[str, Any] = {}
        """What the application keeps in its lifespan: a copy is in the scope of each request."""

    async def start(self) -> None:
        """Return when the application is ready. Raises `LifespanFailed`."""
        self._task = asyncio.create_task(self._run())
        answer = await self._say("lifespan.startup")
        if answer is None:
            return  # it has ended without a word: it knows no lifespan
        self._supported = answer["type"] == "lifespan.startup.complete"
        if not self._supported:
            raise LifespanFailed(answer.get("message") or "the application failed to start")

    async def stop(self) -> None:
        """Return when the application has stopped; one that fails is logged."""
        if self._supported:
            answer = await self._say("lifespan.shutdown")
            if answer is None or answer["type"] != "lifespan.shutdown.complete":
                _log.error("the application failed to stop", problem=(answer or {}).get("message", ""))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _say(self, kind: str) -> dict[str, Any] | None:
        self._to.put_nowait({"type": kind})
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._from.get()
        except TimeoutError:
            return {"type": f"{kind}.failed", "message": f"it takes more than {TIMEOUT:g} s"}

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._to.get, self._send)
        except Exception as error:
            # Before it has answered, an exception says that it knows no lifespan.
            if self._supported:
                _log.error("the application's lifespan raised", exc_info=error)
        finally:
            self._from.put_nowait(None)

    async def _send(self, message: Any) -> None:
        self._from.put_nowait(message)


def with_state(app: ASGIApp, state: dict[str, Any]) -> ASGIApp:
    """Return the application with its lifespan's state in the scope of each request."""

    async def stateful(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return stateful
