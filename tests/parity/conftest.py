"""One loop and one Chromium for all scenarios."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from playwright.async_api import Browser

from tests.browser.conftest import launched
from tests.parity.actors import SDK


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """The loop of all scenarios."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def chromium(runner: asyncio.Runner) -> Iterator[Browser]:
    """One Chromium for all pages."""
    stack = AsyncExitStack()
    browser = runner.run(stack.enter_async_context(launched()))
    yield browser
    runner.run(stack.aclose())


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    if not SDK.is_file():
        pytest.fail("tests/parity needs the built SDK: run make web", pytrace=False)
