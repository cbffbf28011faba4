"""The server process of a scenario."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from duolink.server.auth import sign
from tests.browser import server


class Server(server.Server):
    """`duolink serve` on the same port in each of its lives; with `database` what it stores outlives it, with
    `auth` it wants tokens. Pages come from `origin`."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], database: bool, auth: bool, origin: str
    ) -> None:
        origins = {"listen.origins": [origin]}
        super().__init__(folder / "duolink.db" if database else None, auth=auth, **settings, **origins)

    async def drain(self) -> None:
        """End it with SIGTERM, and wait until it has told its clients and is gone."""
        assert self._process is not None
        self._process.terminate()
        await asyncio.to_thread(self._process.wait)

    def ticket(self, kind: str, client_id: str) -> str:
        """Return a token for everything: `good`, `short` (for two seconds), `forged` (signed by somebody
        else), or `none`."""
        if kind == "none" or not self.auth:
            return ""
        claims = {"sub": client_id, "channels": ["*"], "links": ["*"]}
        secret = server.SECRET[::-1] if kind == "forged" else server.SECRET
        return sign(claims, secret, "HS256", 2 if kind == "short" else 3600, time.time())
