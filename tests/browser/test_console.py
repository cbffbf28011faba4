"""The operator's console in a browser, on a real server with real clients."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, expect
from tests.browser.complaints import Complaints
from tests.browser.conftest import PATIENCE, launched
from tests.browser.seats import connect
from tests.browser.server import Server
from tests.browser.tab import Tab

import duolink
from duolink.server.pages import ROOT

Serve = Callable[..., Awaitable[Server]]
Axe = Callable[[Page], Awaitable[list[str]]]

TOKEN = "an operator's token of 32 characters, or more"

STRANGER = "console.test"
"""A name of this machine that is not a name of this machine to the server: it asks for a token there."""

NUMBER = re.compile("[1-9]")


@pytest.fixture(autouse=True)
def _built() -> None:
    if not (Path(ROOT) / "console/index.html").is_file():
        pytest.fail("tests/browser/test_console.py needs the built pages: run make web", pytrace=False)


async def open_console(page: Page, server: Server, place: str = "") -> None:
    """Open a place of the console, and wait until its feed is live."""
    await page.goto(f"{server.origin}/console/{place}")
    await expect(page.get_by_text("ready", exact=True)).to_be_visible()


def tile(page: Page, name: str) -> Locator:
    """A number of the overview."""
    return page.locator(".tile", has=page.locator("dt", has_text=name)).locator(".value")


def row(page: Page, table: str, name: str) -> Locator:
    """A row of a table."""
    head = page.get_by_role("rowheader", name=name, exact=True)
    return page.get_by_role("table", name=table, exact=True).get_by_role("row").filter(has=head)


@asynccontextmanager
async def talking(server: Server) -> AsyncIterator[tuple[duolink.Client, duolink.Client]]:
    """Alice, who sends to bob until it ends, and bob."""

    done = asyncio.Event()

    async def talk(link: duolink.Link) -> None:
        while not done.is_set():
            await (await link.send({"text": "hello"})).delivered()
            await asyncio.sleep(0.02)  # a conversation, not a flood

    async with connect(server, "alice") as alice, connect(server, "bob") as bob:
        bob.on_message(lambda message: None)
        talking = asyncio.create_task(talk(alice.link("bob")))
        try:
            yield alice, bob
        finally:
            done.set()
            await talking


async def leave(page: Page) -> None:
    """Close the console before the clients it shows are gone: Chromium would complain of each answer 404."""
    await page.goto("about:blank")


async def test_the_overview_moves_while_clients_talk(page: Page, server: Server, axe: Axe) -> None:
    async with talking(server):
        await open_console(page, server)
        await expect(tile(page, "Connections")).to_have_text("2")
        await expect(tile(page, "Messages in")).to_have_text(NUMBER)
        await expect(tile(page, "Delivery")).to_have_text(NUMBER)
        messages = page.get_by_role("table", name="Messages, last 10 minutes")
        await expect(messages.get_by_role("row", name="in").locator(".now")).to_have_text(NUMBER)
        plots = page.locator(".canvas")
        await expect(plots).to_have_count(12)
        for plot in await plots.all():
            await plot.scroll_into_view_if_needed()
            await expect(plot.locator("canvas")).to_be_visible()
        events = page.get_by_role("region", name="Events, newest first")
        await expect(events.get_by_role("listitem").filter(has_text="alice")).to_contain_text("connected")
        await page.get_by_label("Client", exact=True).fill("bo")
        await expect(events.get_by_role("listitem").filter(has_text="alice")).to_have_count(0)
        await expect(events.get_by_role("listitem").filter(has_text="bob")).not_to_have_count(0)
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            assert await axe(page) == []


async def test_a_server_without_a_database_says_that_nothing_is_kept(page: Page, server: Server) -> None:
    await open_console(page, server)
    await expect(page.get_by_role("status").filter(has_text="Nothing is kept")).to_be_visible()


async def test_a_client_is_found_and_sent_a_message(page: Page, server: Server, axe: Axe) -> None:
    async with talking(server) as (_, bob):
        heard: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        bob.on_message(lambda message: heard.put_nowait((message.sender, message.data)))
        await open_console(page, server, "#/clients")
        await expect(row(page, "Clients", "alice")).to_contain_text("active")
        await page.get_by_role("searchbox", name="Name begins with").fill("bo")
        await expect(row(page, "Clients", "alice")).to_have_count(0)
        await expect(page).to_have_url(re.compile("prefix=bo"))
        assert await axe(page) == []

        await page.get_by_role("link", name="bob", exact=True).click()
        await expect(page.get_by_role("heading", name="Client bob")).to_be_focused()
        await expect(page.get_by_role("definition").filter(has_text="websocket")).to_be_visible()
        await page.get_by_label("JSON", exact=True).check()
        await page.get_by_label("Data", exact=True).fill('{"n": 1}')
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_text("is delivered")).to_be_visible()
        while (said := await heard.get())[0] == "alice":
            pass
        assert said == ("$server", {"n": 1})
        await page.get_by_label("Data", exact=True).fill("{")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("alert")).to_contain_text("not JSON")
        assert await axe(page) == []
        await leave(page)


async def test_a_client_is_disconnected_after_a_question(
    page: Page, server: Server, complaints: Complaints, axe: Axe
) -> None:
    complaints.allow("status of 404")  # Chromium says so of a client that is gone
    ended = asyncio.Event()
    async with connect(server, "alice") as alice, connect(server, "bob") as bob:
        bob.on_event(lambda event: ended.set() if bob.ending else None)
        await open_console(page, server, "#/clients/bob")
        await page.get_by_role("button", name="Disconnect").click()
        dialog = page.get_by_role("dialog", name="Disconnect bob?")
        await expect(dialog).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        assert bob.ending is None

        await page.get_by_role("button", name="Disconnect").click()
        assert await axe(page) == []
        await dialog.get_by_label("Reason").fill("maintenance")
        await dialog.get_by_role("button", name="Disconnect").click()
        await expect(page.get_by_text("bob was disconnected.")).to_be_visible()
        await ended.wait()
        assert "maintenance" in str(bob.ending)
        await expect(page.get_by_text("There is no session and no mailbox")).to_be_visible()
        await expect(page.get_by_role("listitem").filter(has_text="disconnected")).to_be_visible()
        assert alice.ending is None


async def test_a_client_that_may_come_back_does(page: Page, server: Server) -> None:
    back = asyncio.Event()

    def changed(event: duolink.Event) -> None:
        if isinstance(event, duolink.StateChanged) and event.state == "online":
            back.set()

    async with connect(server, "bob") as bob:
        bob.on_event(changed)
        await open_console(page, server, "#/clients/bob")
        await page.get_by_role("button", name="Disconnect").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Let it reconnect").check()
        await dialog.get_by_role("button", name="Disconnect").click()
        await back.wait()
        await expect(page.get_by_role("listitem").filter(has_text="resumed")).to_be_visible()
        await leave(page)


async def test_a_channel_shows_its_members_history_and_state(page: Page, server: Server, axe: Axe) -> None:
    async with connect(server, "alice") as alice:
        news = alice.channel("news/sport")
        async with news.subscribe() as subscription:
            await news.publish({"text": "<b>first</b>"})
            await news.set("title", "Draft")
            await open_console(page, server, "#/channels")
            await row(page, "Channels", "news/sport").get_by_role("link").click()
            await expect(page.get_by_role("heading", name="Channel news/sport")).to_be_focused()
            assert page.url.endswith("#/channels/news%2Fsport")
            await expect(row(page, "Who is present", "alice")).to_be_visible()
            await expect(row(page, "Shared state", "title")).to_contain_text("Draft")
            history = page.get_by_role("table", name="History, newest first")
            await expect(history).to_contain_text("<b>first</b>")

            await page.get_by_label("Data", exact=True).fill("from an operator")
            await page.get_by_role("button", name="Publish").click()
            await expect(page.get_by_text("Published as number")).to_be_visible()
            await expect(history).to_contain_text("from an operator")
            async for publication in subscription:
                if isinstance(publication, duolink.Publication) and publication.data == "from an operator":
                    break
            assert await axe(page) == []


async def test_mailboxes_are_listed_by_depth(page: Page, serve: Serve, axe: Axe) -> None:
    server = await serve(database=True)
    async with connect(server, "zoe"), connect(server, "carol"):
        pass  # now they are known
    async with connect(server, "alice") as alice:
        for name, number in (("zoe", 3), ("carol", 1)):
            link = alice.link(name)
            for sent in [await link.send("for later") for _ in range(number)]:
                await sent.stored()
        await open_console(page, server, "#/mailboxes")
        table = page.get_by_role("table", name="Mailboxes, deepest first")
        await expect(table.get_by_role("rowheader")).to_have_text(["zoe", "carol"])
        await expect(row(page, "Mailboxes, deepest first", "zoe")).to_contain_text("3")
        await page.get_by_role("link", name="By name").click()
        table = page.get_by_role("table", name="Mailboxes by name")
        await expect(table.get_by_role("rowheader")).to_have_text(["carol", "zoe"])
        assert await axe(page) == []
        await page.get_by_role("link", name="zoe").click()
        await expect(page.get_by_text("In its mailbox", exact=True)).to_be_visible()


@pytest.fixture
def serve_operators(serve: Serve) -> Callable[[], Awaitable[Server]]:
    """Start a server with authentication, that knows an operator's token."""
    return lambda: serve(auth=True, **{"http.operator_token": TOKEN})


async def test_elsewhere_than_here_an_operator_shows_a_token(
    serve_operators: Callable[[], Awaitable[Server]], complaints: Complaints, axe: Axe
) -> None:
    server = await serve_operators()
    complaints.allow("status of 40[13]")
    complaints.allow("Cross-Origin-Opener-Policy")  # without TLS it is ignored
    async with launched(f"--host-resolver-rules=MAP {STRANGER} 127.0.0.1") as browser:
        context = await browser.new_context()
        context.set_default_timeout(PATIENCE)
        await complaints.watch(context)
        page = await context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"http://{STRANGER}:{server.port}/console/#/clients")
        token = page.get_by_label("Token", exact=True)
        await expect(token).to_be_visible()
        await expect(page.get_by_text("not encrypted")).to_be_visible()
        assert await axe(page) == []

        await token.fill("a guess")
        await page.get_by_role("button", name="Open the console").click()
        await expect(page.get_by_role("alert")).to_contain_text("not accepted")
        await token.fill(server.token("carol"))
        await page.get_by_role("button", name="Open the console").click()
        await expect(page.get_by_role("alert")).to_contain_text("not allowed")
        await token.fill(server.token("carol", operator=True))
        await page.get_by_role("button", name="Open the console").click()
        await expect(page.get_by_role("heading", name="Clients")).to_be_visible()
        assert await page.evaluate("sessionStorage.length + localStorage.length") == 0
        await page.reload()
        await token.fill(TOKEN)
        await page.get_by_label("Keep it").check()
        await page.get_by_role("button", name="Open the console").click()
        await expect(page.get_by_text("ready", exact=True)).to_be_visible()
        await page.reload()
        await expect(page.get_by_text("ready", exact=True)).to_be_visible()
        await page.get_by_role("button", name="Sign out").click()
        await expect(token).to_be_visible()
        assert await page.evaluate("sessionStorage.length + localStorage.length") == 0
        assert not any("token" in url or "operator" in url for url in asked)
        await page.close()


async def test_a_drain_and_a_return_are_told(page: Page, serve: Serve, complaints: Complaints) -> None:
    complaints.allow("ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|status of 503|ERR_INCOMPLETE|ERR_EMPTY")
    server = await serve(database=True)
    await open_console(page, server)
    os.kill(server.pid, signal.SIGTERM)
    status = page.get_by_role("status")
    await expect(status.filter(has_text="The server is draining")).to_be_visible()
    await expect(status.filter(has_text="Disconnected from the server")).to_be_visible()
    await expect(page.get_by_role("button", name="Try now")).to_be_visible()
    server.kill()
    await server.start()
    await page.evaluate("dispatchEvent(new Event('online'))")  # it need not wait for its next attempt
    await expect(page.get_by_text("ready", exact=True)).to_be_visible()
    await expect(status.filter(has_text="The server is draining")).to_have_count(0)


async def test_the_console_fits_a_phone_and_a_keyboard(
    chromium: Browser, complaints: Complaints, server: Server
) -> None:
    context = await chromium.new_context(viewport={"width": 360, "height": 740}, has_touch=True)
    context.set_default_timeout(PATIENCE)
    await complaints.watch(context)
    page = await context.new_page()
    async with connect(server, "a-client-with-a-name-that-is-rather-long-for-such-a-screen"):
        for place in ("", "#/clients", "#/channels", "#/mailboxes", "#/nowhere"):
            await open_console(page, server, place)
            assert await page.evaluate("document.documentElement.scrollWidth") == 360, place
        await page.reload()
        await expect(page.get_by_role("heading", name="Nothing is here")).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("main")).to_be_focused()
        assert page.url.endswith("#/nowhere")
    await context.close()


WAIT_FOR_A_ROW = """new Promise((resolve) => {
  const look = () => (document.querySelector("tbody tr") ? resolve() : setTimeout(look, 50));
  look();
})"""

WATCH = """async () => {
  const resources = () => performance.getEntriesByType("resource");
  const asked = () => resources().filter(({ name }) => name.includes("/api/clients"));
  let changes = 0;
  const all = { subtree: true, childList: true, characterData: true };
  new MutationObserver(() => (changes += 1)).observe(document.body, all);
  const before = asked().length;
  const reader = (await fetch("/api/events?interval=1000")).body.getReader();
  for (let samples = 0; samples < 5; samples += 1) await reader.read();
  await reader.cancel();
  return [document.hidden, asked().length - before, changes];
}"""


async def test_a_hidden_tab_draws_nothing_and_asks_for_no_lists(
    chromium: Browser, complaints: Complaints, server: Server
) -> None:
    tab = await Tab.open(chromium, complaints)
    async with connect(server, "alice"):
        await tab.goto(f"{server.origin}/console/#/clients")
        await tab.evaluate(WAIT_FOR_A_ROW)
        hidden, asked, changes = await tab.evaluate(f"({WATCH})()")
        assert not hidden and asked and changes  # so that one sees what would be seen
        await tab.become("frozen")
        await tab.become("active")
        assert await tab.evaluate(f"({WATCH})()") == [True, 0, 0]
    await tab.close()
