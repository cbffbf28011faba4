"""What a page does to a client that lives in it: reloads, duplicates, sleep, networks that come and go."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from playwright.async_api import BrowserContext, Page, WebSocket
from tests.browser.complaints import Complaints
from tests.browser.seats import connect, sit, sit_down
from tests.browser.server import Server
from tests.browser.site import Site
from tests.browser.tab import Tab

import duolink

PATIENT: Any = {"backoffInitial": 3600, "backoffCap": 3600}
"""Who only waits for its next attempt comes too late for these tests."""

CUT_OFF = "Page entered Back-Forward Cache"
"""What Chromium says of the connections of a page that it freezes or puts aside."""

Serve = Callable[..., Awaitable[Server]]

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
            await page.evaluate("seat.client.link('bob').send('after').then(({ seq }) => seq)")
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
    """It has a copy of the storage, but not the lock: the server hears of a new client, and refuses it.

    The tab is opened while the browser gives its opener the lock, which Chromium may let fall then.
    """
    await page.goto(site.origin)
    async with context.expect_page() as opened:
        await page.evaluate(
            """async ([url, name]) => {
                const { session, secret } = await seat.sit(url, "alice");
                sessionStorage.setItem(name, JSON.stringify({ session, secret }));
                open("/");
            }""",
            [server.url, NAME.format(url=server.url)],
        )
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


async def test_a_page_is_back_at_once_when_the_network_is(
    page: Page, context: BrowserContext, site: Site, server: Server, complaints: Complaints
) -> None:
    """It does not wait for the timer of its next attempt, which is far away."""
    complaints.allow("ERR_INTERNET_DISCONNECTED")
    await sit(page, site, server, **PATIENT)
    async with connect(server, "bob") as bob:
        await context.set_offline(True)
        await page.evaluate("seat.client.cut()")
        await page.evaluate("seat.until(({ states }) => states.includes('reconnecting'))")
        sent = await bob.link("alice").send("meanwhile")
        await context.set_offline(False)
        await page.evaluate("void dispatchEvent(new Event('online'))")  # Chromium's may come too early
        await sent.delivered()
        assert await page.evaluate("seat.states") == ["connecting", "online", "reconnecting", "online"]
        assert await page.evaluate("[seat.messages, seat.client.welcome.resumed]") == [["meanwhile"], True]


async def test_a_page_that_hears_it_is_offline_looks_whether_that_is_so(
    page: Page, context: BrowserContext, site: Site, server: Server
) -> None:
    """`offline` may be wrong, as it is here (the open socket is untouched): a ping tells."""
    frames = Frames(page)
    await sit(page, site, server)
    await page.evaluate(
        "void (seat.network = new Promise((resolve) => addEventListener('offline', resolve)))"
    )
    await context.set_offline(True)
    await page.evaluate("async () => void await seat.network")
    await context.set_offline(False)
    await page.evaluate("seat.client.channel('room').presence()")
    assert frames.of("ping")
    assert await page.evaluate("seat.states") == ["connecting", "online"]


async def test_a_frozen_page_is_back_at_once_when_it_thaws(
    tab: Tab, site: Site, server: Server, complaints: Complaints
) -> None:
    """Chromium has closed its connection. What was sent meanwhile comes, once."""
    complaints.allow(CUT_OFF)
    first = await sit(tab, site, server, **PATIENT)
    async with connect(server, "bob") as bob:
        await tab.become("frozen")
        sent = await bob.link("alice").send("while frozen")
        assert await bob.channel("room").presence() == []  # the server has had it
        assert sent.fate == "pending"
        await tab.become("active")
        await sent.delivered()
    states = ["connecting", "online", "reconnecting", "online"]
    assert await tab.evaluate("[seat.messages, seat.states]") == [["while frozen"], states]
    assert await tab.evaluate("seat.client.welcome.session") == first["session"]


async def test_a_frozen_page_finds_a_server_that_has_begun_anew(
    tab: Tab, site: Site, serve: Serve, complaints: Complaints
) -> None:
    complaints.allow(CUT_OFF)
    server = await serve(database=True)
    await sit(tab, site, server, **PATIENT)
    await tab.become("frozen")
    server.kill()
    await server.start()
    async with connect(server, "bob") as bob:
        sent = await bob.link("alice").send("while frozen")
        await sent.stored()
        await tab.become("active")
        await sent.delivered()
    assert await tab.evaluate("seat.messages") == ["while frozen"]


async def test_a_machine_that_slept_asks_for_life(page: Page, site: Site, server: Server) -> None:
    """The clock of the day has gone on, that of the page has not: at its next turn it sends a ping."""
    frames = Frames(page)
    await sit(page, site, server)
    await page.evaluate("seat.client.channel('room').presence()")
    assert frames.of("ping") == []
    await page.evaluate("""async () => {
        const now = Date.now;
        Date.now = () => now() + 60_000;
        await seat.client.channel("room").presence();
        await seat.client.channel("room").presence();
    }""")
    assert len(frames.of("ping")) == 1
    assert await page.evaluate("seat.states") == ["connecting", "online"]


async def test_a_hidden_page_acknowledges_at_once(
    tab: Tab, site: Site, server: Server, complaints: Complaints
) -> None:
    """Chromium lets its timers fire once in a second: nothing waits for one."""
    complaints.allow(CUT_OFF)
    await sit(tab, site, server)
    await tab.become("frozen")
    await tab.become("active")
    assert await tab.evaluate("document.visibilityState") == "hidden"
    assert await tab.evaluate("new Promise((resolve) => setTimeout(resolve, 1)).then(() => 1)")
    async with connect(server, "bob") as bob:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for n in range(10):
            sent = await bob.link("alice").send(n)
            await bob.channel("room").presence()  # it has left, and did not ask to be acknowledged at once
            await sent.delivered()
        assert loop.time() - start < 5  # ten timers would have taken 10 s


async def test_a_page_from_the_back_forward_cache_goes_on(
    page: Page, site: Site, server: Server, complaints: Complaints
) -> None:
    """Chromium closes its connection when it goes there; back, it resumes its session at once."""
    complaints.allow(CUT_OFF)
    first = await sit(page, site, server, **PATIENT)
    site.page("/other.html")
    async with connect(server, "bob") as bob:
        await page.goto(f"{site.origin}/other.html")
        assert await page.evaluate("sessionStorage.length") == 1  # what a page that replaces it would resume
        sent = await bob.link("alice").send("while away")
        await page.go_back(wait_until="commit")
        await sent.delivered()
    assert await page.evaluate("seat.shown") == [False, True]
    assert await page.evaluate("sessionStorage.length") == 0
    assert await page.evaluate("[seat.client.welcome.session, seat.messages]") == [
        first["session"],
        ["while away"],
    ]
