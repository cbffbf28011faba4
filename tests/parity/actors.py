"""Who plays a client of a scenario: the Python SDK in this process, the TypeScript SDK in Node, or in a page
of Chromium."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from playwright.async_api import Browser, Page

from tests.browser.site import Site
from tests.parity.history import Record
from tests.parity.proxy import Proxy
from tests.parity.python_actor import PythonActor

HERE: Final = Path(__file__).parent
WEB: Final = HERE.parent.parent / "web"
SDK: Final = WEB / "sdk" / "dist" / "duolink.js"
WS: Final = WEB / "node_modules" / "ws" / "wrapper.mjs"

LONGEST: Final = 4 * 1024 * 1024
"""Bytes of a line that an actor says: a message of 64 KiB in any notation."""

PAGE: Final = """
import * as sdk from "/duolink.js";
import { Actor } from "/actor.js";
let waiting = [];
globalThis.flush = () => globalThis.records(waiting.splice(0));
globalThis.actor = new Actor(sdk, undefined, (record) => {
  if (waiting.push(record) === 1) setTimeout(globalThis.flush);
});
"""
"""The page's script. Records go out together: one call into Chromium costs more than what is told."""

Take = Callable[[Record], None]


class Actor(Protocol):
    """A client process that does what it is told and tells what it sees."""

    async def do(self, verb: str, how: dict[str, Any]) -> dict[str, Any]:
        """Do something: `{"result": …}`, or `{"error": {"name": …}}`."""

    async def drop(self, proxy: Proxy) -> None:
        """End as a process that is killed, or a page that is reloaded: without a goodbye. From then on it is
        another life, that may connect."""

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
        done: dict[str, Any] = await answer
        return done

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

    def __init__(self, take: Take) -> None:
        self._take = take
        self._page: Page

    async def start(self, browser: Browser, site: Site) -> None:
        """Open the page."""
        context = await browser.new_context()
        self._page = await context.new_page()
        await self._page.expose_function("records", self._records)
        await self._page.goto(f"{site.origin}/actor")
        await self._page.wait_for_function("globalThis.actor")

    def _records(self, records: list[Record]) -> None:
        for record in records:
            self._take(record)

    async def do(self, verb: str, how: dict[str, Any]) -> dict[str, Any]:
        """See `Actor`."""
        said: dict[str, Any] = await self._page.evaluate("([verb, how]) => actor.do(verb, how)", [verb, how])
        return said

    async def drop(self, proxy: Proxy) -> None:
        """See `Actor`: the page is reloaded."""
        await self._page.evaluate("flush()")
        await self._page.reload()
        await self._page.wait_for_function("globalThis.actor")

    async def end(self) -> None:
        """See `Actor`."""
        await self._page.context.close()


class Stage:
    """What actors need: the SDK's module, and for pages a browser and where they come from."""

    def __init__(self, browser: Browser | None = None, sdk: Path = SDK) -> None:
        self._browser, self._sdk = browser, sdk
        self._site = Site()
        self._site.file("/duolink.js", sdk.read_text())
        self._site.file("/actor.js", (HERE / "actor.mjs").read_text())
        self._site.file("/page.js", PAGE)
        self._site.page("/actor", script="/page.js", title="Actor")

    @property
    def origin(self) -> str:
        """Where the pages come from."""
        return self._site.origin

    def close(self) -> None:
        """No more pages come from here."""
        self._site.close()

    async def actor(self, kind: str, take: Take) -> Actor:
        """Return an actor of a kind: `python`, `node` or `browser`."""
        if kind == "python":
            return Python(take)
        if kind == "node":
            node = Node(take, self._sdk)
            await node.start()
            return node
        assert kind == "browser" and self._browser is not None
        page = InPage(take)
        await page.start(self._browser, self._site)
        return page
