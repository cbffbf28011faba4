"""Who plays a client of a scenario: the Python SDK in this process, the TypeScript SDK in Node, or in a page
of Chromium."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from playwright.async_api import Browser, Page, Route

from tests.parity.history import Record
from tests.parity.proxy import Proxy
from tests.parity.python_actor import PythonActor
from tests.parity.server import ORIGIN

HERE: Final = Path(__file__).parent
WEB: Final = HERE.parent.parent / "web"
SDK: Final = WEB / "sdk" / "dist" / "duolink.js"
WS: Final = WEB / "node_modules" / "ws" / "wrapper.mjs"

LONGEST: Final = 4 * 1024 * 1024
"""Bytes of a line that an actor says: a message of 64 KiB in any notation."""

Take = Callable[[Record], None]


class Actor(Protocol):
    """A client process that does what it is told and tells what it sees."""

    async def do(self, verb: str, how: dict[str, Any]) -> dict[str, Any]:
        """Do something: `{"result": …}`, or `{"error": {"name": …}}`."""

    async def drop(self, proxy: Proxy) -> None:
        """End as a process ends that is killed, or a page that is reloaded: without a goodbye, with a new run.
        From then on it is another life, that may connect."""

    async def end(self) -> None:
        """Leave nothing."""


class Python:
    """An actor on the Python SDK."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._actor = PythonActor(take)

    async def do(self, verb: str, how: dict[str, Any]) -> dict[str, Any]:
        """See `Actor`."""
        return await self._actor.do(verb, how)

    async def drop(self, proxy: Proxy) -> None:
        """See `Actor`: what it says at its end gets no further than the proxy."""
        proxy.hold("up")
        ending = asyncio.create_task(self._actor.end())
        proxy.cut()
        await ending
        self._actor = PythonActor(self._take)

    async def end(self) -> None:
        """See `Actor`."""
        await self._actor.end()


class Node:
    """An actor on the TypeScript SDK in a process of Node."""

    def __init__(self, take: Take, sdk: Path) -> None:
        self._take, self._sdk = take, sdk
        self._process: asyncio.subprocess.Process
        self._reading: asyncio.Task[None]
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)

    async def start(self) -> None:
        """Start the process."""
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            "node", str(HERE / "node_actor.mjs"), str(self._sdk), str(WS),
            stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, limit=LONGEST,
        )  # fmt: skip
        ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers = {0: ready}
        self._reading = asyncio.create_task(self._read())
        await ready

    async def _read(self) -> None:
        out = self._process.stdout
        assert out is not None
        while line := await out.readline():
            said = json.loads(line)
            if "record" in said:
                self._take(said["record"])
            else:
                self._answers.pop(said.get("id", 0)).set_result(said.get("answer", {}))
        for answer in self._answers.values():
            answer.cancel()

    async def do(self, verb: str, how: dict[str, Any]) -> dict[str, Any]:
        """See `Actor`."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "verb": verb, "how": how}).encode() + b"\n")
        return await answer

    async def drop(self, proxy: Proxy) -> None:
        """See `Actor`."""
        await self.end()
        await self.start()

    async def end(self) -> None:
        """See `Actor`."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading


class InPage:
    """An actor on the TypeScript SDK in a page of its own."""

    def __init__(self, take: Take, sdk: Path) -> None:
        self._take, self._sdk = take, sdk
        self._page: Page

    async def start(self, browser: Browser) -> None:
        """Open the page."""
        context = await browser.new_context()
        await context.route(f"{ORIGIN}/**", self._serve)
        self._page = await context.new_page()
        await self._page.expose_function("record", self._take)
        await self._page.goto(ORIGIN)
        await self._page.wait_for_function("globalThis.actor")

    async def _serve(self, route: Route) -> None:
        name = route.request.url.rsplit("/", 1)[1] or "page.html"
        path = self._sdk if name == "duolink.js" else HERE / name
        kind = "text/html" if name.endswith(".html") else "text/javascript"
        if path.exists():
            await route.fulfill(body=path.read_text(), content_type=kind)
        else:
            await route.fulfill(status=404)

    async def do(self, verb: str, how: dict[str, Any]) -> dict[str, Any]:
        """See `Actor`."""
        said: dict[str, Any] = await self._page.evaluate("([verb, how]) => actor.do(verb, how)", [verb, how])
        return said

    async def drop(self, proxy: Proxy) -> None:
        """See `Actor`: the page is reloaded."""
        await self._page.reload()
        await self._page.wait_for_function("globalThis.actor")

    async def end(self) -> None:
        """See `Actor`."""
        await self._page.context.close()


class Stage:
    """What actors need: the SDK's module, and a browser if there are pages."""

    def __init__(self, sdk: Path = SDK, browser: Browser | None = None) -> None:
        self.sdk, self.browser = sdk, browser

    async def actor(self, kind: str, take: Take) -> Actor:
        """Return an actor of a kind: `python`, `node` or `browser`."""
        if kind == "python":
            return Python(take)
        if kind == "node":
            node = Node(take, self.sdk)
            await node.start()
            return node
        assert kind == "browser" and self.browser is not None
        page = InPage(take, self.sdk)
        await page.start(self.browser)
        return page
