"""One measurement: a fresh server on one core, the load generator on another, files in a fresh folder."""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.build import BUILD
from benchmarks.database import place
from benchmarks.scenario import Scenario, Server

START_TIMEOUT: Final = 10.0
"""Seconds until a server must accept connections."""

LOOK_EVERY: Final = 0.002
"""Seconds between two looks whether it does."""

STOP_TIMEOUT: Final = 5.0
"""Seconds from SIGTERM until a server is killed."""

LOAD_TIMEOUT: Final = 60.0
"""Seconds for one run of the load generator."""


class MeasurementError(Exception):
    """A server did not start, or did not do what it must: the message says which and what."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the server and the core of everything else."""

    server: int
    load: int

    @classmethod
    def choose(cls) -> "Cores":
        """Take the first and the last core this process may use.

        Raises `MeasurementError` when there is only one.
        """
        available = sorted(os.sched_getaffinity(0))
        if len(available) < 2:
            raise MeasurementError("two cores are needed: one for the server, one for the load generator")
        return cls(available[0], available[-1])


def measure(scenario: Scenario, server: Server, cores: Cores, pairs: int, share: float) -> dict[str, float]:
    """Run one scenario against one server and return what was found.

    `share` of the scenario's messages are sent. Raises `MeasurementError`.
    """
    what = f"{scenario.name}, {server.name}"
    with _folder() as folder:
        if not server.protocol:
            command = [part.format(folder=folder, share=share) for part in server.command]
            return _result(what, command, cores.server)
        database = folder / "duolink.db"
        place(database, server.holding(share), server.cold)
        if not scenario.arguments:
            with _running(server, cores.server, database, _welcomes) as (_, _, seconds):
                return {"start_ms": seconds * 1e3}
        with _running(server, cores.server, database, _accepts) as (port, process, _):
            command = [
                str(BUILD / "load"),
                *("-address", f"127.0.0.1:{port}", "-pid", str(process.pid), "-protocol", server.protocol),
                *(argument.format(pairs=pairs) for argument in scenario.arguments),
                *server.arguments,
            ]
            if scenario.messages:
                command += ["-warmup", str(scenario.warmup), "-messages", str(int(scenario.messages * share))]
            return _result(what, command, cores.load)


def _result(what: str, command: list[str], core: int) -> dict[str, float]:
    """Run a program on one core and return the JSON it prints."""
    try:
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=LOAD_TIMEOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"{what}: not done in {LOAD_TIMEOUT:.0f} s") from None
    if run.returncode:
        raise MeasurementError(f"{what}: {run.stderr.strip()}")
    result: dict[str, float] = json.loads(run.stdout)
    return result


@contextmanager
def _folder() -> Iterator[Path]:
    """Give a fresh folder, and delete it afterwards. Raises `MeasurementError` if it is not on a disk."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=BUILD) as name:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        holding = [mount for mount in mounts if Path(name).is_relative_to(mount[1])]
        kind = max(holding, key=lambda mount: len(mount[1]))[2]
        if kind in ("tmpfs", "ramfs"):
            raise MeasurementError(f"{BUILD} is in memory ({kind}); what is durable needs a disk")
        yield Path(name)


@contextmanager
def _running(
    server: Server, core: int, database: Path, ready: Callable[[int], None]
) -> Iterator[tuple[int, subprocess.Popen[bytes], float]]:
    """Start a server; once it is ready, give its port, its process, and the seconds that took."""
    port = _free_port()
    log = BUILD / "server.log"
    with log.open("wb") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            [part.format(port=port, database=database) for part in server.command],
            stdout=output,
            stderr=output,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        try:
            _wait_until(ready, process, port, server)
            yield port, process, time.monotonic() - began
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _wait_until(
    ready: Callable[[int], None], process: subprocess.Popen[bytes], port: int, server: Server
) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = (BUILD / "server.log").read_text(errors="replace")[-500:]
            raise MeasurementError(f"{server.name} ended at once (exit {process.returncode}): {tail}")
        try:
            ready(port)
        except OSError:
            time.sleep(LOOK_EVERY)
        else:
            return
    raise MeasurementError(f"{server.name} does not accept connections after {START_TIMEOUT:.0f} s")


def _accepts(port: int) -> None:
    """Return if somebody listens there. Raises OSError."""
    socket.create_connection(("127.0.0.1", port), 1).close()


def _welcomes(port: int) -> None:
    """Return when a hello was answered by a welcome. Raises OSError until somebody listens there."""
    request = (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    hello = b'{"type":"hello","protocol":1,"client_id":"first"}'
    with socket.create_connection(("127.0.0.1", port), START_TIMEOUT) as connection:
        connection.sendall(request.encode())
        _receive_until(connection, b"\r\n\r\n")
        connection.sendall(bytes((0x81, 0x80 | len(hello), 0, 0, 0, 0)) + hello)  # a mask of zeros: as it is
        _receive_until(connection, b'"type":"welcome"')


def _receive_until(connection: socket.socket, end: bytes) -> None:
    received = b""
    while end not in received:
        data = connection.recv(4096)
        if not data:
            raise MeasurementError(f"the server closed the connection: {received!r}")
        received += data
