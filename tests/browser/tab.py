"""A tab that can be hidden and frozen.

Playwright keeps its own pages visible and awake. This one it does not know: it is opened in the browser's
default profile and driven over the browser's connection (Chrome DevTools Protocol).
"""

import asyncio
import json
from typing import Any, Literal

from playwright.async_api import Browser, CDPSession
from tests.browser.complaints import REPORT, Complaints


class Tab:
    """One such tab. `tab = await Tab.open(browser, complaints)`."""

    def __init__(self, browser: CDPSession, target: str, session: str, complaints: Complaints) -> None:
        self._browser, self._target, self._session = browser, target, session
        self._complaints = complaints
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._loaded = asyncio.Event()
        browser.on("Target.receivedMessageFromTarget", self._received)

    @classmethod
    async def open(cls, browser: Browser, complaints: Complaints) -> "Tab":
        """Open one, behind all others."""
        devtools = await browser.new_browser_cdp_session()
        target = await devtools.send("Target.createTarget", {"url": "about:blank", "background": True})
        id_ = target["targetId"]
        session = await devtools.send("Target.attachToTarget", {"targetId": id_, "flatten": False})
        tab = cls(devtools, id_, session["sessionId"], complaints)
        for domain in ("Page", "Runtime", "Log"):
            await tab.send(f"{domain}.enable")
        await tab.send("Page.addScriptToEvaluateOnNewDocument", source=REPORT)
        return tab

    async def close(self) -> None:
        """Close it, as a person does."""
        await self._browser.send("Target.closeTarget", {"targetId": self._target})
        await self._browser.detach()

    async def send(self, method: str, **parameters: Any) -> Any:
        """Give a command of the Chrome DevTools Protocol; return its result."""
        number = len(self._answers) + 1
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = json.dumps({"id": number, "method": method, "params": parameters})
        await self._browser.send(
            "Target.sendMessageToTarget", {"sessionId": self._session, "message": message}
        )
        return await answer

    async def goto(self, url: str) -> None:
        """Open a page, and return when it has loaded."""
        self._loaded.clear()
        await self.send("Page.navigate", url=url)
        await self._loaded.wait()

    async def evaluate(self, expression: str, *arguments: Any) -> Any:
        """Evaluate an expression, or call a function with arguments; await and return its value."""
        if arguments:
            expression = f"({expression})({', '.join(map(json.dumps, arguments))})"
        answer = await self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def become(self, state: Literal["frozen", "active"]) -> None:
        """Freeze it, which hides it first, or let it go on; it stays hidden."""
        await self.send("Page.setWebLifecycleState", state=state)

    def _received(self, event: dict[str, Any]) -> None:
        if event["sessionId"] != self._session:
            return
        message = json.loads(event["message"])
        if "id" in message:
            error = message.get("error")
            answer = self._answers[message["id"]]
            if error:
                answer.set_exception(AssertionError(error))
            else:
                answer.set_result(message["result"])
        elif message["method"] == "Page.loadEventFired":
            self._loaded.set()
        else:
            self._complained(message["method"], message["params"])

    def _complained(self, method: str, event: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self._complaints.heard.append(f"uncaught: {event['exceptionDetails']}")
        elif method == "Runtime.consoleAPICalled" and event["type"] == "error":
            self._complaints.heard.append(" ".join(str(each.get("value")) for each in event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self._complaints.heard.append(event["entry"]["text"])
