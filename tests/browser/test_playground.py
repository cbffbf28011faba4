"""The playground, used as a person uses it."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Locator, Page, expect
from tests.browser.complaints import Complaints
from tests.browser.server import Server

from duolink.server.pages import ROOT

Serve = Callable[..., Awaitable[Server]]

GREETING = [
    "Hello Bob! Can you hear me?",
    "Loud and clear, Alice.",
    "Now switch my network off, write as me, and switch it on again.",
]


@pytest.fixture(autouse=True)
def _built() -> None:
    if not (ROOT / "playground/index.html").is_file():
        pytest.fail("tests/browser needs the pages: run make web", pytrace=False)


class Pane:
    """One client on the page."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.element = page.locator(f"#pane-{name}")
        self.state = self.element.locator(".state")
        self.field = self.element.locator("input")
        self.switch = self.element.get_by_role("switch")
        self.lines = self.element.locator(".lines .text")
        self.mine = self.element.locator(".line.mine")
        self.count = self.element.locator(".count")
        self.strokes = self.element.locator(".board .stroke")
        self.board = self.element.locator(".board svg")
        self.log = self.element.locator(".entries")

    async def online(self) -> None:
        await expect(self.state).to_have_text("online")

    async def write(self, text: str) -> None:
        await self.field.fill(text)
        await self.field.press("Enter")

    async def has(self, *texts: str) -> None:
        """Wait until it shows exactly these lines, in this order."""
        await expect(self.lines).to_have_text(list(texts))

    def line(self, text: str, mark: str) -> Locator:
        return self.element.locator(f'.line.mine[data-mark="{mark}"]', has_text=text)

    async def draw(self, *points: tuple[float, float]) -> None:
        """Draw with the mouse; points in parts of the board."""
        box = await self.board.bounding_box()
        assert box is not None
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        await self.page.mouse.move(*places[0])
        await self.page.mouse.down()
        for place in places[1:]:
            await self.page.mouse.move(*place, steps=4)
        await self.page.mouse.up()


async def visit(page: Page, server: Server, path: str = "/") -> tuple[Pane, Pane]:
    await page.goto(server.origin + path)
    panes = Pane(page, "alice"), Pane(page, "bob")
    for pane in panes:
        await pane.online()
    return panes


async def greeted(page: Page, server: Server) -> tuple[Pane, Pane]:
    alice, bob = await visit(page, server)
    for pane in (alice, bob):
        await pane.has(*GREETING)
    return alice, bob


async def test_opened_it_shows_two_clients_that_talk(page: Page, server: Server) -> None:
    alice, bob = await greeted(page, server)
    assert re.search(r"/playground/\?room=[a-z2-9]{5}$", page.url)
    await alice.write("one")
    await bob.write("two")
    await alice.has(*GREETING, "one", "two")
    await bob.has(*GREETING, "one", "two")
    await expect(alice.line("one", "delivered")).to_contain_text("delivered in")
    await expect(bob.line("two", "delivered")).to_be_visible()
    await expect(alice.log).to_contain_text("new session, generation")


async def test_cut_off_it_queues_and_back_everything_arrives_once_in_order(page: Page, serve: Serve) -> None:
    server = await serve(database=True)
    alice, bob = await greeted(page, server)
    await alice.switch.click()
    await expect(alice.state).to_have_text("reconnecting")
    await expect(alice.switch).to_have_attribute("aria-checked", "false")
    await expect(bob.element.locator(".peer")).to_contain_text("reconnecting")
    texts = [f"from alice {n}" for n in range(5)]
    for text in texts:
        await alice.write(text)
        await expect(alice.line(text, "queued")).to_be_visible()
    await bob.write("from bob")
    await expect(bob.line("from bob", "stored")).to_be_visible()  # in her mailbox, on disk
    await bob.has(*GREETING, "from bob")
    await alice.switch.click()
    await alice.online()
    for text in texts:
        await expect(alice.line(text, "delivered")).to_be_visible()
    await expect(bob.line("from bob", "delivered")).to_be_visible()
    await bob.has(*GREETING, "from bob", *texts)
    await alice.has(*GREETING, *texts, "from bob")
    await expect(alice.log).to_contain_text("session resumed")


async def test_what_finds_no_room_is_not_taken_and_stays_in_its_field(page: Page, server: Server) -> None:
    alice, _ = await greeted(page, server)
    await alice.switch.click()
    for n in range(257):  # one more than a window
        await alice.write(f"line {n}")
    await expect(alice.element.locator(".typing")).to_contain_text("Too many messages wait")
    await expect(alice.field).to_have_value("line 256")
    await expect(alice.mine).to_have_count(200)
    await expect(alice.lines.last).to_have_text("line 255")


async def test_a_server_that_is_killed_comes_back_and_nothing_is_missing(
    page: Page, serve: Serve, complaints: Complaints
) -> None:
    complaints.allow("WebSocket connection to")  # refused while there is no server
    server = await serve(database=True)
    alice, bob = await greeted(page, server)
    server.kill()
    await expect(alice.state).to_have_text("reconnecting")
    await alice.write("while it was dead")
    await server.start()
    await expect(alice.line("while it was dead", "delivered")).to_be_visible()
    await bob.has(*GREETING, "while it was dead")


async def test_both_count_and_no_click_is_lost(page: Page, server: Server) -> None:
    alice, bob = await visit(page, server)
    # At once, without waiting for one another: some writes meet and are made again.
    await page.evaluate("""() => {
        const button = (name) => document.querySelector(`#pane-${name} .count-row :last-child`);
        const add = [button("alice"), button("bob")];
        for (let n = 0; n < 20; n++) setTimeout(() => add[n % 2].click(), 3 * n);
    }""")
    for pane in (alice, bob):
        await expect(pane.count).to_have_text("20")
    await alice.switch.click()
    for _ in range(3):
        await alice.element.get_by_label("Subtract one").click()
    await expect(alice.element.locator(".note")).to_contain_text("−3 waiting")
    await bob.element.get_by_label("Add one").click()
    await expect(bob.count).to_have_text("21")
    await expect(alice.count).to_have_text("20")
    await alice.switch.click()
    for pane in (alice, bob):
        await expect(pane.count).to_have_text("18")


async def test_what_one_draws_all_see_and_also_who_comes_later(
    page: Page, server: Server, context: BrowserContext
) -> None:
    alice, bob = await visit(page, server)
    await alice.draw((0.1, 0.1), (0.5, 0.9), (0.9, 0.1))
    await expect(bob.strokes).to_have_count(1)
    await expect(bob.element.locator(".stroke.stored.ink-1")).to_have_count(1)
    await bob.switch.click()
    await bob.draw((0.2, 0.2), (0.8, 0.2))
    await expect(bob.element.locator(".stroke.waiting")).to_have_count(1)
    await expect(alice.strokes).to_have_count(1)
    await bob.switch.click()
    for pane in (alice, bob):
        await expect(pane.element.locator(".stroke.stored")).to_have_count(2)
    later = await context.new_page()
    await later.goto(page.url + "&as=carol")
    await expect(Pane(later, "carol").strokes).to_have_count(2)
    await later.get_by_role("button", name="Clear").click()
    await expect(alice.strokes).to_have_count(0)


async def test_the_board_can_be_drawn_on_with_keys(page: Page, server: Server) -> None:
    alice, bob = await visit(page, server)
    await alice.element.get_by_role("application").focus()
    for key in ("Space", "ArrowRight", "ArrowRight", "ArrowDown", "Space"):
        await page.keyboard.press(key)
    await expect(bob.element.locator(".stroke.stored")).to_have_attribute(
        "points", "500 250 525 250 550 250 550 275"
    )
    await expect(alice.element.get_by_role("status").last).to_have_text("pen up")


async def test_a_second_window_is_another_client(page: Page, server: Server, context: BrowserContext) -> None:
    alice, _ = await greeted(page, server)
    async with context.expect_page() as opening:
        await page.get_by_role("button", name="New window").click()
    window = await opening.value
    carol = Pane(window, "carol")
    await carol.online()
    await carol.write("Hello from the other window")
    await expect(carol.line("Hello", "delivered")).to_be_visible()
    peer = alice.element.locator(".peer", has_text="Carol")
    await expect(peer).to_contain_text("1 new")
    await peer.click()
    await alice.has("Hello from the other window")
    await alice.field.press_sequentially("Hi")
    await expect(carol.element.locator(".typing")).to_have_text("Alice is typing …")
    await alice.field.press("Enter")
    await carol.has("Hello from the other window", "Hi")
    await window.close()
    await expect(peer).to_contain_text("reconnecting")


async def test_a_reload_resumes_the_session(page: Page, server: Server, context: BrowserContext) -> None:
    alice, bob = await greeted(page, server)
    watcher = await context.new_page()
    await watcher.goto(page.url + "&as=carol")
    carol = Pane(watcher, "carol")
    await expect(carol.log).to_contain_text("3 here")
    await page.reload()
    for pane in (alice, bob):
        await pane.online()
        await pane.has(*GREETING)
        await expect(pane.log).to_contain_text("session resumed")
        await expect(pane.mine.first).to_have_attribute("data-mark", "delivered")
    await alice.write("after")
    await bob.has(*GREETING, "after")
    await expect(carol.log).not_to_contain_text("left")


async def test_a_name_that_is_taken_says_so_and_offers_another(
    page: Page, server: Server, context: BrowserContext
) -> None:
    await greeted(page, server)
    double = await context.new_page()
    await double.goto(page.url)
    for name in ("alice", "bob"):
        ending = double.locator(f"#pane-{name} .ending")
        await expect(ending).to_contain_text("is here already")
        await ending.get_by_role("button", name="Take another name").click()
    for name in ("carol", "dave"):
        await Pane(double, name).online()
    assert double.url.endswith("&as=carol,dave")


async def test_the_code_leads_to_the_next_client(page: Page, server: Server) -> None:
    await visit(page, server)
    await page.get_by_role("button", name="QR code").click()
    dialog = page.get_by_role("dialog")
    address = dialog.get_by_role("link")
    await expect(address).to_have_attribute("href", page.url + "&as=carol")
    await expect(dialog.locator(".code svg path")).to_be_visible()
    await expect(dialog).to_contain_text("adb reverse")
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()


async def test_what_comes_from_outside_is_text(page: Page, server: Server) -> None:
    alice, bob = await visit(page, server)
    text = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    await alice.write(text)
    await expect(bob.lines.last).to_have_text(text)
    assert await page.locator(".lines img, .lines script").count() == 0


async def test_with_authentication_it_asks_for_a_token_and_keeps_it_nowhere(
    page: Page, serve: Serve, complaints: Complaints
) -> None:
    server = await serve(auth=True, **{"http.playground": True})
    await page.goto(server.origin)
    field = page.locator("#pane-alice .ending input")
    token = server.token("playground", channels=["playground:*"], links=["playground:*"])
    await field.fill(token)
    await field.press("Enter")
    for name in ("alice", "bob"):
        await Pane(page, name).online()
    await Pane(page, "alice").write("with a token")
    await expect(Pane(page, "bob").lines.last).to_have_text("with a token")
    kept: Any = await page.evaluate(
        "[JSON.stringify(localStorage), JSON.stringify(sessionStorage), location.href]"
    )
    assert token not in "".join(kept)


async def test_on_a_phone_the_panes_are_tabs(page: Page, server: Server) -> None:
    await page.set_viewport_size({"width": 390, "height": 844})
    await page.goto(server.origin)
    alice, bob = Pane(page, "alice"), Pane(page, "bob")
    await alice.online()
    await expect(bob.element).to_be_hidden()
    await page.get_by_role("tab", name="Alice").focus()
    await page.keyboard.press("ArrowRight")
    await expect(bob.element).to_be_visible()
    await expect(alice.element).to_be_hidden()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.set_viewport_size({"width": 1280, "height": 900})
    await expect(alice.element).to_be_visible()
    await expect(page.get_by_role("tab")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_use_it(
    page: Page, server: Server, axe: Callable[[Page], Awaitable[list[str]]], scheme: Any
) -> None:
    await page.emulate_media(color_scheme=scheme)
    alice, _ = await greeted(page, server)
    assert await axe(page) == []
    await alice.switch.click()
    await alice.write("queued")
    await expect(alice.line("queued", "queued")).to_be_visible()
    assert await axe(page) == []
    await page.get_by_role("button", name="QR code").click()
    assert await axe(page) == []
    await page.keyboard.press("Escape")
    await page.set_viewport_size({"width": 390, "height": 844})
    assert await axe(page) == []


async def test_the_theme_can_be_chosen_and_stays(page: Page, server: Server) -> None:
    await visit(page, server)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = await page.evaluate(ground)
    button = page.get_by_role("button", name="Theme")
    await button.click()
    await button.click()
    await expect(button).to_have_text("Theme: dark")
    dark = await page.evaluate(ground)
    assert dark != light
    await page.reload()
    await expect(button).to_have_text("Theme: dark")
    assert await page.evaluate(ground) == dark
