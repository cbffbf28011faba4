"""A server process for one scenario: the same port and database in each of its lives."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

import jwt

from tests.faults.process import PORTS

START: Final = 15.0
"""Seconds for a server to say that it is there, on a machine that is busy."""

KEY: Final = "a key that signs the tokens of scenarios"

ORIGIN: Final = "http://localhost"
"""Where the browsers' pages come from."""

_ports: Final = iter(Random(os.getpid()).sample(PORTS, len(PORTS)))


class Server:
    """`duolink serve` in a folder of its own. `settings` are as `--set` takes them; `database`: what it stores
    outlives it; `auth`: it wants tokens."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], database: bool = False, auth: bool = False
    ) -> None:
        self.port = next(_ports)
        self._folder = folder
        self._words = ["--port", str(self.port), "--origin", ORIGIN, "--log-level", "warning"]
        self._words += ["--database", str(folder / "duolink.db")] if database else ["--memory"]
        for name, value in settings.items():
            self._words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
        self._auth = auth
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.said: list[str] = []
        """Its lines on standard error, of all its lives."""

    async def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DUOLINK_")}
        if self._auth:
            clean["DUOLINK_AUTH_KEYS"] = json.dumps([{"algorithm": "HS256", "key": KEY}])
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "duolink.cli.main", "serve", *self._words,
            cwd=self._folder, env=clean, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        pipe = self._process.stderr
        assert pipe is not None
        async with asyncio.timeout(START):
            while True:
                line = (await pipe.readline()).decode()
                assert line, f"the server has ended: {self.said}"
                self.said.append(line.rstrip("\n"))
                if "Ctrl-C ends it" in line:
                    break
        self._reading = asyncio.create_task(self._read(pipe))

    async def _read(self, pipe: asyncio.StreamReader) -> None:
        while line := await pipe.readline():
            self.said.append(line.decode().rstrip("\n"))

    async def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it: SIGKILL, and it can neither save anything nor say goodbye; SIGTERM, and it drains."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        await process.wait()
        if self._reading is not None:
            await self._reading

    def token(self, kind: str, client: str) -> str:
        """Return a token: `good`, `expired`, `forged`, or `none`."""
        if kind == "none":
            return ""
        expires = time.time() + (-3600 if kind == "expired" else 3600)
        claims = {"sub": client, "exp": int(expires), "channels": ["*"], "links": ["*"]}
        return jwt.encode(claims, KEY if kind != "forged" else KEY[::-1], algorithm="HS256")
