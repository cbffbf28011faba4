"""Fixtures for tests in real browsers.

Tests may be `async def`; all of them run on one loop, which Chromium's connection also lives on. Unmarked
tests are part of `make test`; those marked `browsers` run in `make browsers` only.
"""

import asyncio
import inspect
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect
from tests.browser.complaints import Complaints
from tests.browser.server import Server
from tests.browser.site import ROOT, SDK, Site
from tests.browser.tab import Tab

TIMEOUT = 30.0
"""Seconds for one test."""

LONG = 240.0
"""For one that only `make browsers` runs."""

PATIENCE = 15_000.0
"""Milliseconds for one step of a page; no test waits so long unless it fails."""
expect.set_options(timeout=PATIENCE)

UNLIKE_OURS = [
    "--disable-back-forward-cache",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
]
"""What Playwright starts Chromium with, and users do not: their pages sleep and come back."""

AXE = ROOT / "web/node_modules/axe-core/axe.min.js"

runner_key = pytest.StashKey[asyncio.Runner]()


@pytest.fixture(scope="session")
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """The loop of all browser tests."""
    with asyncio.Runner() as runner:
        request.config.stash[runner_key] = runner
        yield runner


@pytest.fixture(autouse=True)
def _on_the_loop(runner: asyncio.Runner) -> None:
    """Every test here has the loop."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test on the loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    test = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    patience = LONG if pyfuncitem.get_closest_marker("browsers") else TIMEOUT
    pyfuncitem.config.stash[runner_key].run(asyncio.wait_for(test, patience))
    return True


@asynccontextmanager
async def launched(*arguments: str) -> AsyncIterator[Browser]:
    """A headless Chromium: Debian's, started with `arguments` besides the usual ones."""
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("tests/browser needs Chromium: run scripts/programs chromium", pytrace=False)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path,
            chromium_sandbox=os.geteuid() != 0,
            args=["--disable-gpu", "--disable-quic", *arguments],
            ignore_default_args=UNLIKE_OURS,
        )
        try:
            yield browser
        finally:
            await browser.close()


@pytest.fixture(scope="session")
def chromium(runner: asyncio.Runner) -> Iterator[Browser]:
    """One Chromium for all tests."""
    stack = AsyncExitStack()
    browser = runner.run(stack.enter_async_context(launched()))
    yield browser
    runner.run(stack.aclose())


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """What the browser complains about; `allow` what is meant to happen."""
    complaints = Complaints()
    yield complaints
    if complaints.unexpected:
        pytest.fail("the browser complains:\n" + "\n".join(complaints.unexpected), pytrace=False)


@pytest.fixture
def serve(runner: asyncio.Runner, tmp_path: Path) -> Iterator[Callable[..., Coroutine[Any, Any, Server]]]:
    """Start a server process: `await serve()`. `database=True`: on SQLite, else in memory; `auth=True`: with
    tokens (`server.token`); `settings`: those of docs/configuration.md, by their full names."""
    servers: list[Server] = []

    async def serve(*, database: bool = False, auth: bool = False, **settings: Any) -> Server:
        file = tmp_path / f"duolink-{len(servers)}.db" if database else None
        server = Server(file, auth=auth, **settings)
        servers.append(server)
        await server.start()
        return server

    yield serve
    for server in servers:
        server.kill()


@pytest.fixture
def context(
    runner: asyncio.Runner, chromium: Browser, complaints: Complaints, serve: Callable[..., Any]
) -> Iterator[BrowserContext]:
    """A profile of its own: storage, locks and network are nobody else's. It closes before the
    servers do, whose absence it would complain about."""
    context = runner.run(chromium.new_context())
    context.set_default_timeout(PATIENCE)
    runner.run(complaints.watch(context))
    yield context
    runner.run(context.close())


@pytest.fixture
def page(runner: asyncio.Runner, context: BrowserContext) -> Page:
    """An empty tab; the test fails if anything in it complains (see `complaints`)."""
    return runner.run(context.new_page())


@pytest.fixture
def tab(
    runner: asyncio.Runner, chromium: Browser, complaints: Complaints, serve: Callable[..., Any]
) -> Iterator[Tab]:
    """A tab that can be hidden and frozen; other than a `page` it shares its storage with other tests."""
    tab = runner.run(Tab.open(chromium, complaints))
    yield tab
    runner.run(tab.close())


@pytest.fixture
def server(runner: asyncio.Runner, serve: Callable[..., Coroutine[Any, Any, Server]]) -> Server:
    """A server process in memory, without authentication."""
    return runner.run(serve())


@pytest.fixture
def site() -> Iterator[Site]:
    """Where test pages come from, with the built SDK at `/sdk/duolink.js`."""
    if not (SDK / "duolink.js").is_file():
        pytest.fail("tests/browser needs the built SDK: run make web", pytrace=False)
    site = Site()
    yield site
    site.close()


@pytest.fixture
def axe() -> Callable[[Page], Awaitable[list[str]]]:
    """Check a page for accessibility: `assert await axe(page) == []`. Returns what axe-core finds, one
    sentence for each."""
    if not AXE.is_file():
        pytest.fail("tests/browser needs axe-core: run make web", pytrace=False)
    source = AXE.read_text()

    async def check(page: Page) -> list[str]:
        await page.evaluate(source)
        found: list[str] = await page.evaluate(
            """async () => (await axe.run()).violations.flatMap(({ id, help, nodes }) =>
                nodes.map(({ target }) => `${id}: ${help}: ${target}`))"""
        )
        return found

    return check
