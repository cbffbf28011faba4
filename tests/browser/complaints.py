"""What a browser complains about while a test runs."""

import re

from playwright.async_api import BrowserContext, ConsoleMessage, WebError

REPORT = """addEventListener("securitypolicyviolation", (event) =>
  console.error("content security policy:", event.violatedDirective, event.blockedURI));"""


class Complaints:
    """Uncaught errors, console errors and violations of the content security policy, in every page (and
    worker) of the contexts it watches. A test fails by them, but for those it allows."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._allowed: list[re.Pattern[str]] = []

    async def watch(self, context: BrowserContext) -> None:
        """Listen to a context."""
        context.on("console", self._said)
        context.on("weberror", self._thrown)
        await context.add_init_script(REPORT)

    def allow(self, pattern: str) -> None:
        """What contains the pattern (a regular expression) is meant to happen."""
        self._allowed.append(re.compile(pattern))

    @property
    def unexpected(self) -> list[str]:
        """Those nobody has allowed."""
        return [text for text in self.heard if not any(each.search(text) for each in self._allowed)]

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.heard.append(f"{message.text} ({message.location.get('url', '')})")

    def _thrown(self, error: WebError) -> None:
        self.heard.append(f"uncaught: {error.error}")
