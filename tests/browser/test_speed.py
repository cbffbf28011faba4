"""What the SDK costs a page, beside a bare WebSocket in the same browser, in turns."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import pytest
from playwright.async_api import BrowserContext, Page
from tests.browser.server import Server
from tests.browser.site import Site

pytestmark = [pytest.mark.browsers, pytest.mark.timeout(300)]

SPEED = Path(__file__).parent / "speed"
COUNT = 20_480
"""Messages of one run: a multiple of what goes to a frame."""

ROUNDS = 5
BATCH = 32
LEAST = 0.4
"""Of the rate of a bare page with one message to a frame."""


@asynccontextmanager
async def program(name: str, *arguments: str) -> AsyncIterator[str]:
    """Run a program beside the browser; yields the line by which it says that it is there."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SPEED / name), *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
def speed_site(site: Site) -> Site:
    site.page("/speed.html", script="/speed.js")
    return site


async def test_the_sdk_is_not_far_from_a_bare_page(
    context: BrowserContext, speed_site: Site, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    rates: dict[str, list[float]] = {}
    async with program("bare.py", str(COUNT)) as port, program("peer.py", server.url, str(COUNT)):
        pages = [await context.new_page() for _ in range(2)]
        for page in pages:
            await page.goto(f"{speed_site.origin}/speed.html")
        bare, sdk = pages
        for _ in range(ROUNDS):
            for way in ("receives", "sends"):
                for per_frame in (1, BATCH):
                    rate = await bare.evaluate(
                        "(arguments) => speed.bare(...arguments)",
                        [f"ws://127.0.0.1:{port}", COUNT, per_frame, way == "sends"],
                    )
                    rates.setdefault(f"{way} bare {per_frame}", []).append(rate)
                rate = await sdk.evaluate(
                    "(arguments) => speed.sdk(...arguments)", [server.url, COUNT, way == "sends"]
                )
                rates.setdefault(f"{way} sdk", []).append(rate)
    rate_of = {name: median(each) for name, each in rates.items()}
    ratios = {way: rate_of[f"{way} sdk"] / rate_of[f"{way} bare 1"] for way in ("receives", "sends")}
    with capsys.disabled():
        print("\nmessages/s, medians: a page")
        for name, each in rate_of.items():
            print(f"  {name:20}{each:10,.0f}")
        for way, ratio in ratios.items():
            print(f"  {way}: the SDK {ratio:.2f} of the bare page with 1 to a frame (at least {LEAST})")
    assert min(ratios.values()) >= LEAST


async def test_no_task_is_long_at_a_thousand_messages_a_second(
    page: Page, speed_site: Site, server: Server
) -> None:
    """In both directions, for five seconds."""
    async with program("peer.py", server.url, "5000"):
        await page.goto(f"{speed_site.origin}/speed.html")
        result = await page.evaluate("([url]) => speed.pace(url, 5000)", [server.url])
    assert result["tasks"] == []
    assert result["sent"] > 2500  # the page's timer may be late; it was not idle
