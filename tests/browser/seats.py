"""Clients of browser tests: in a page, and in this process."""

from typing import Any

from playwright.async_api import Page
from tests.browser.firefox import Window
from tests.browser.server import Server
from tests.browser.site import Site
from tests.browser.tab import Tab

import duolink
from duolink import Options

HASTY = Options(backoff_initial=0.05, backoff_cap=0.2)


def connect(server: Server, name: str) -> duolink.Client:
    """A client in this process."""
    return duolink.connect(server.url, client_id=name, options=HASTY)


async def sit(
    page: Page | Tab | Window, site: Site, server: Server, name: str = "alice", **options: Any
) -> dict[str, Any]:
    """Open a page, and a client in it; return its welcome."""
    await page.goto(site.origin)
    return await sit_down(page, server, name, **options)


async def sit_down(
    page: Page | Tab | Window, server: Server, name: str = "alice", **options: Any
) -> dict[str, Any]:
    """Open a client in a page that is there (`pages/seat.js` says with which options); return its welcome."""
    welcome: dict[str, Any] = await page.evaluate(
        "([url, name, options]) => seat.sit(url, name, options)", [server.url, name, options]
    )
    return welcome
