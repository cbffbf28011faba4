"""What the API asks and acts on."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException

from duolink.engines.base import Failure
from duolink.server.metrics import Counts
from duolink.server.node import Node
from duolink.server.settings import Config

ENGINE_TIMEOUT = 10.0
"""Seconds an engine has for an answer; a disk that takes longer is told of as unavailable."""


class Transports(NamedTuple):
    """Open connections by transport."""

    websocket: int
    tcp: int
    http: int


class Backend:
    """A node with what stands around it."""

    def __init__(
        self,
        config: Config,
        node: Node,
        counts: Counts,
        version: str,
        not_ready: Callable[[], tuple[str, ...]],
        transports: Callable[[], Transports],
    ) -> None:
        self.config = config
        self.node = node
        self.counts = counts
        self.version = version
        self.not_ready = not_ready
        self.transports = transports
        self.started_wall = node.clock.wall_ms()
        self.started = node.clock.monotonic()

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return self.node.clock.monotonic() - self.started

    def wall(self, then: float) -> int:
        """Return wall milliseconds of a moment on the monotonic clock, by what the wall said at the start."""
        return self.started_wall + round((then - self.started) * 1000)


async def ask(request: Callable[..., None], *arguments: Any) -> Any:
    """Ask an engine and wait for its answer. Raises `HTTPException` 503 for a failure, or when none comes."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(result: Any) -> None:
        if not answer.done():
            answer.set_result(result)

    request(*arguments, done)
    try:
        async with asyncio.timeout(ENGINE_TIMEOUT):
            result = await answer
    except TimeoutError:
        raise HTTPException(503, "the storage does not answer", {"retry-after": "5"}) from None
    if isinstance(result, Failure):
        raise HTTPException(503, f"the storage failed: {result.reason}", {"retry-after": "1"})
    return result
