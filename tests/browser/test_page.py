"""What a page does to a client that lives in it: reloads, duplicates, sleep, networks that come and go."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from playwright.async_api import BrowserContext, Page, WebSocket

import duolink
from tests.browser.complaints import Complaints
from tests.browser.seats import connect, sit, sit_down
from tests.browser.server import Server
from tests.browser.site import Site

NAME = "duolink alice at {url}/ws"
"""Where a page leaves its session for the next one."""


class Frames:
    """What a page's WebSockets carry."""

    def __init__(self, page: Page) -> None:
        self.sent: list[dict[str, Any]] = []
        self.sockets = 0
        page.on("websocket", self._opened)

    def _opened(self, socket: WebSocket) -> None:
        self.sockets += 1
        socket.on("framesent", lambda frame: self._sent(frame))

    def _sent(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            self.sent += [json.loads(line) for line in frame.split("\n")]

    def of(self, type_: str) -> list[dict[str, Any]]:
        """Those of one type."""
        return [message for message in self.sent if message["type"] == type_]


async def test_a_reloaded_page_resumes_its_session(page: Page, site: Site, server: Server) -> None:
    """The others see neither a leave nor a join, and messages sent meanwhile come once."""
    frames = Frames(page)
    first = await sit(page, site, server, channels=["room"])
    assert await page.evaluate("sessionStorage.length") == 0
    async with connect(server, "bob") as bob:
        changes: list[duolink.Event] = []
        bob.on_event(changes.append)
        room = bob.channel("room").subscribe(presence=True)
        async with room:
            link = bob.link("alice")
            await (await link.send("before")).delivered()
            await page.reload()
            sent = await link.send("between")
            second = await sit_down(page, server, channels=["room"])
            assert await page.evaluate("sessionStorage.length") == 0  # consumed
            await sent.delivered()
            assert await page.evaluate("seat.messages") == ["between"]
            await page.evaluate("async () => (await seat.client.link('bob').send('after')).stored")
            assert (await anext(link.messages())).data == "after"
    assert [first["resumed"], second["resumed"]] == [False, True]
    assert second["session"] == first["session"] and second["secret"] != first["secret"]
    hellos = frames.of("hello")
    assert [hello.get("session", "") for hello in hellos] == ["", first["session"]]
    kinds = [(event.joined, event.left) for event in changes if isinstance(event, duolink.PresenceChanged)]
    assert [kind for kind in kinds if "alice" in kind] == []
    assert not any(isinstance(event, duolink.MessagesLost) for event in changes)


async def test_a_duplicated_tab_does_not_steal_the_session(
    page: Page, context: BrowserContext, site: Site, server: Server, complaints: Complaints
) -> None:
    """It has a copy of the storage, but not the lock: the server hears of a new client, and refuses it."""
    welcome = await sit(page, site, server)
    kept = json.dumps({key: welcome[key] for key in ("session", "secret")})
    await page.evaluate(
        "([name, kept]) => sessionStorage.setItem(name, kept)", [NAME.format(url=server.url), kept]
    )
    async with context.expect_page() as opened:
        await page.evaluate("void open('/')")
    copy = await opened.value
    await copy.wait_for_load_state()
    assert await copy.evaluate("sessionStorage.length") == 1
    frames = Frames(copy)
    error = await copy.evaluate(
        "([url]) => seat.sit(url, 'alice').catch((error) => error.error)", [server.url]
    )
    assert error == "duplicate"
    assert [hello.get("session", "") for hello in frames.of("hello")] == [""]
    assert await copy.evaluate("sessionStorage.length") == 0
    assert await page.evaluate("[seat.states, seat.client.state]") == [["connecting", "online"], "online"]
