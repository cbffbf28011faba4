"""Debian's Firefox, driven over WebDriver BiDi (W3C, webdriver-bidi): as much of it as the tests need."""

import asyncio
import contextlib
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.browser.complaints import Complaints
from websockets.asyncio.client import ClientConnection, connect

PREFERENCES = {
    "remote.active-protocols": 1,  # WebDriver BiDi
    "app.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.dns.disableIPv6": True,
    "services.settings.server": "data:,",  # it asks nobody for anything
    "toolkit.telemetry.reportingpolicy.firstRun": False,
}

START = 30.0
"""Seconds until it has to be there."""


class Window:
    """One tab of it. Errors and console errors go to the test's complaints."""

    def __init__(self, socket: ClientConnection, complaints: Complaints) -> None:
        self._socket = socket
        self._complaints = complaints
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._context = ""

    async def begin(self) -> None:
        """Begin the session, and take the tab there is."""
        await self._send("session.new", capabilities={})
        await self._send("session.subscribe", events=["log.entryAdded"])
        tree = await self._send("browsingContext.getTree")
        self._context = tree["contexts"][0]["context"]

    async def goto(self, url: str) -> None:
        """Open a page, and return when it has loaded."""
        await self._send("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def reload(self) -> None:
        """Load the page anew."""
        await self._send("browsingContext.reload", context=self._context, wait="complete")

    async def evaluate(self, expression: str, argument: Any = None) -> Any:
        """As of Playwright's pages: evaluate an expression, or call a function with an argument; await its
        value and return it."""
        call = "" if argument is None else f"({json.dumps(argument)})"
        answer = await self._send(
            "script.evaluate",
            expression=f"(async () => JSON.stringify((await ({expression}){call}) ?? null))()",
            target={"context": self._context},
            awaitPromise=True,
        )
        if answer["type"] == "exception":
            raise AssertionError(answer["exceptionDetails"]["text"])
        return json.loads(answer["result"]["value"])

    async def _send(self, method: str, **parameters: Any) -> Any:
        number = len(self._answers) + 1
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        return await answer

    async def read(self) -> None:
        """Take what it says, until the connection ends."""
        async for text in self._socket:
            message = json.loads(text)
            if message["type"] == "success":
                self._answers[message["id"]].set_result(message["result"])
            elif message["type"] == "error" and message["id"]:
                self._answers[message["id"]].set_exception(AssertionError(message["message"]))
            elif message.get("method") == "log.entryAdded" and message["params"]["level"] == "error":
                self._complaints.heard.append(message["params"]["text"])


@asynccontextmanager
async def firefox(profile: Path, complaints: Complaints) -> AsyncIterator[Window]:
    """Start one with a profile of its own."""
    path = shutil.which("firefox-esr")
    if path is None:
        pytest.fail("this needs Firefox: run scripts/programs firefox-esr", pytrace=False)
    lines = [f'user_pref("{name}", {json.dumps(value)});' for name, value in PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(lines))
    process = await asyncio.create_subprocess_exec(
        path, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HOME": str(profile), "MOZ_CRASHREPORTER_DISABLE": "1"},
    )  # fmt: skip
    try:
        url = await asyncio.wait_for(_listening(process), START)
        draining = asyncio.create_task(_drain(process))
        async with connect(f"{url}/session", max_size=None, proxy=None) as socket:
            window = Window(socket, complaints)
            reading = asyncio.create_task(window.read())
            await window.begin()
            yield window
            reading.cancel()
        draining.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _listening(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async for line in process.stderr:
        if found := re.search(rb"WebDriver BiDi listening on (ws://\S+)", line):
            return found[1].decode()
    raise AssertionError("Firefox ended")


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    async for _ in process.stderr:
        pass
