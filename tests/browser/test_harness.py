"""The fixtures themselves: they can fail."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from playwright.async_api import Page
from tests.browser.complaints import Complaints
from tests.browser.server import Server
from tests.browser.site import Site

WORKER = "setTimeout(() => { throw new Error('planted in a worker') })"


async def test_what_a_page_complains_about_is_heard(page: Page, site: Site, complaints: Complaints) -> None:
    site.file("/worker.js", WORKER)
    site.file(
        "/bad.js",
        "console.error('planted, said'); new Worker('/worker.js'); throw new Error('planted, thrown')",
    )
    site.page("/bad.html", '<script>"planted inline"</script>', script="/bad.js")
    async with page.expect_console_message(lambda message: "inline" in message.text.lower()):
        await page.goto(f"{site.origin}/bad.html")
    while len(complaints.heard) < 5:
        await page.evaluate("0")
    kinds = ["planted, said", "planted, thrown", "planted in a worker", "security policy"]
    assert [kind for kind in kinds if not any(kind in text for text in complaints.heard)] == []
    assert complaints.unexpected == complaints.heard
    complaints.allow("planted")
    complaints.allow("ecurity [Pp]olicy")


async def test_axe_finds_what_is_not_accessible(
    page: Page, site: Site, axe: Callable[[Page], Awaitable[list[str]]]
) -> None:
    site.page("/good.html", "<h1>Test</h1>")
    site.page("/bad.html", "<h1>Test</h1><button></button>")
    await page.goto(f"{site.origin}/good.html")
    assert await axe(page) == []
    await page.goto(f"{site.origin}/bad.html")
    assert "button-name" in (await axe(page))[0]


async def test_a_page_of_a_site_connects_with_a_token(
    page: Page, site: Site, serve: Callable[..., Coroutine[Any, Any, Server]]
) -> None:
    server = await serve(database=True, auth=True, **{"listen.origins": [site.origin]})
    await page.goto(site.origin)
    state = await page.evaluate(
        """async ([url, token]) => {
            const { connect } = await import("/sdk/duolink.js");
            const client = await connect(url, { clientId: "alice", token });
            return client.state;
        }""",
        [server.url, server.token("alice")],
    )
    assert state == "online"
