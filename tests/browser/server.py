"""A real server process for pages, with whatever settings a test wants."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults import process

from duolink.server.auth import sign

SECRET = "an HS256 secret of 32 bytes, or more"


class Server(process.Server):
    """`duolink serve` on the same port (and database, if it has one) in each of its lives. `settings` are
    those of docs/configuration.md: `{"listen.origins": ["https://…"]}`."""

    def __init__(self, database: Path | None = None, *, auth: bool = False, **settings: Any) -> None:
        super().__init__(database)
        self.auth = auth
        self._settings = settings
        if auth:
            self._settings["auth.keys"] = [{"algorithm": "HS256", "key": SECRET}]

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def origin(self) -> str:
        """Where its own pages are."""
        return f"http://127.0.0.1:{self.port}"

    def token(self, client_id: str, **claims: Any) -> str:
        """Sign a token for a client, good for an hour."""
        return sign({"sub": client_id, "client_id": client_id, **claims}, SECRET, "HS256", 3600, time.time())

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """For as long, it neither reads nor writes nor closes; its system still takes what comes."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def _spawn(self) -> subprocess.Popen[bytes]:
        storage = ["--memory"] if self.database is None else ["--database", self.database]
        command = [sys.executable, "-m", "duolink.cli.main", "serve", *storage, "--log-level", "error"]
        settings = {"listen.host": "127.0.0.1", "listen.port": self.port, **self._settings}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DUOLINK_")}
        for name, value in settings.items():
            variable = "DUOLINK_" + name.replace(".", "_").upper()
            environment[variable] = value if isinstance(value, str) else json.dumps(value)
        null = subprocess.DEVNULL
        return subprocess.Popen(command, stdin=null, stdout=null, env=environment)
