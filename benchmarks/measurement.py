"""One measurement: a fresh server on one core, the load generator on another."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from benchmarks.build import BUILD
from benchmarks.scenario import Scenario, Server

START_TIMEOUT: Final = 10.0
"""Seconds until a server must accept connections."""

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
    """Run one scenario against one server and return what the load generator found.

    `share` of the scenario's messages are sent. Raises `MeasurementError`.
    """
    with _running(server, cores.server) as (port, process):
        command = [
            str(BUILD / "load"),
            *("-address", f"127.0.0.1:{port}", "-pid", str(process.pid), "-protocol", server.protocol),
            *(argument.format(pairs=pairs) for argument in scenario.arguments),
            *server.arguments,
        ]
        if scenario.messages:
            command += ["-warmup", str(scenario.warmup), "-messages", str(int(scenario.messages * share))]
        try:
            run = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=LOAD_TIMEOUT,
                preexec_fn=lambda: os.sched_setaffinity(0, {cores.load}),
            )
        except subprocess.TimeoutExpired:
            raise MeasurementError(
                f"{scenario.name}, {server.name}: not done in {LOAD_TIMEOUT:.0f} s"
            ) from None
        if run.returncode:
            raise MeasurementError(f"{scenario.name}, {server.name}: {run.stderr.strip()}")
        result: dict[str, float] = json.loads(run.stdout)
        return result


@contextmanager
def _running(server: Server, core: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = _free_port()
    log = BUILD / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.format(port=port) for part in server.command],
            stdout=output,
            stderr=output,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        try:
            _wait_until_open(process, port, server)
            yield port, process
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


def _wait_until_open(process: subprocess.Popen[bytes], port: int, server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = (BUILD / "server.log").read_text(errors="replace")[-500:]
            raise MeasurementError(f"{server.name} ended at once (exit {process.returncode}): {tail}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise MeasurementError(f"{server.name} does not accept connections after {START_TIMEOUT:.0f} s")
