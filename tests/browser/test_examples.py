"""The pages of examples/, as they are but for the server's port, opened as files."""

from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Page, expect
from tests.browser.server import Server

from duolink.server.pages import ROOT as PAGES

EXAMPLES = Path(__file__).parents[2] / "examples"
PORT = "127.0.0.1:8080"


async def opened(
    context: BrowserContext, folder: Path, server: Server, name: str, *places: str
) -> list[Page]:
    """Open an example once for each place (the part of its address behind `#`)."""
    text = (EXAMPLES / name).read_text()
    assert PORT in text
    file = folder / name
    file.write_text(text.replace(PORT, f"127.0.0.1:{server.port}"))
    pages = []
    for place in places:
        page = await context.new_page()
        await page.goto(f"{file.as_uri()}{place}")
        pages.append(page)
    return pages


async def write(page: Page, text: str) -> None:
    await page.locator("input").fill(text)
    await page.locator("input").press("Enter")


async def test_a_page_without_a_build_tool_talks(
    context: BrowserContext, tmp_path: Path, server: Server
) -> None:
    if not (PAGES / "sdk/duolink.js").is_file():
        pytest.fail("tests/browser needs the pages: run make web", pytrace=False)
    alice, bob = await opened(context, tmp_path, server, "page.html", "", "#bob")
    for page in (alice, bob):
        await page.wait_for_function("document.querySelector('input').onchange !== null")  # it is connected
    await write(alice, "hello")
    await expect(bob.locator("pre")).to_have_text("alice: hello\n")
    await expect(alice.locator("pre")).to_have_text("✓✓ hello\n")
    await write(bob, "hi")
    await expect(alice.locator("pre")).to_have_text("✓✓ hello\nbob: hi\n")


async def test_a_page_without_an_sdk_offers_and_is_connected(
    context: BrowserContext, tmp_path: Path, server: Server
) -> None:
    one, other = await opened(context, tmp_path, server, "offer.html", "", "#answer")
    await expect(one.locator("input")).to_be_enabled()
    await write(one, "over the channel")
    await expect(other.locator("pre")).to_contain_text("< over the channel")
    await write(other, "and back")
    await expect(one.locator("pre")).to_contain_text("< and back")
