"""Real disks that fail: file systems of a few MiB, and system calls that return errors."""

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from .process import TIMEOUT, free_port

MIB = 1 << 20
SIZE = 8 * MIB
LEFT = 3 * MIB // 2
"""Bytes that a server has before its disk is full."""


class SmallDisk:
    """A directory with little room, until `free` gives more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.limit = 0
        """Bytes that a file of the server may have; 0: as many as there is room for."""
        self._ballast = path / "ballast"

    def fill(self, left: int) -> None:
        """Leave so many bytes."""
        about = os.statvfs(self.path)
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, about.f_bavail * about.f_frsize - left)

    def free(self, server: "Server") -> None:
        """Give it room again."""
        if self.limit:
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        else:
            self._ballast.unlink()


@contextmanager
def small_disk(kind: str, path: Path) -> Iterator[SmallDisk]:
    """Make a small disk: an `ext4` on a loop device (for root only), or a `limit` to the size of files."""
    disk = SmallDisk(path / "disk")
    disk.path.mkdir()
    if kind == "limit":
        disk.limit = LEFT
        yield disk
        return
    if os.geteuid():
        pytest.skip("only root can mount a file system")
    image = path / "image"
    image.touch()
    os.truncate(image, SIZE)
    _run("mkfs.ext4", "-q", "-F", str(image))
    try:
        _run("mount", "-o", "loop", str(image), str(disk.path))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this root cannot mount a file system: {error.stderr}")
    try:
        disk.fill(LEFT)
        yield disk
    finally:
        _run("umount", str(disk.path))


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)


def find_strace() -> str:
    """Return the command; root installs it where it is missing (Debian)."""
    if shutil.which("strace") is None and not os.geteuid() and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "strace"]):
            subprocess.run(command, env=environment, capture_output=True, timeout=300)
    found = shutil.which("strace")
    if found is None:
        pytest.fail("strace is missing; on Debian:  sudo apt-get install strace")
    return found


class Server:
    """A server process, and where it listens."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"ws://127.0.0.1:{port}"

    async def readiness(self) -> tuple[int, dict[str, Any]]:
        """What `/readyz` answers."""
        return await asyncio.to_thread(_get, f"http://127.0.0.1:{self.port}/readyz")

    async def until_ready(self) -> None:
        """Ask until it is ready."""
        async with asyncio.timeout(TIMEOUT):
            while (await self.readiness())[0] != 200:  # noqa: ASYNC110 - nobody tells another process
                await asyncio.sleep(0.05)


def _get(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return int(answer.status), json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def launch(
    database: Path, port: int, *, before: tuple[str, ...] = (), limit: int = 0
) -> asyncio.subprocess.Process:
    """Start `duolink serve`, behind the words of another command, with files of so many bytes at most."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DUOLINK_")}
    process = await asyncio.create_subprocess_exec(
        *before, sys.executable, "-m", "duolink.cli.main", "serve",
        "--port", str(port), "--database", str(database), "--log-level", "error",
        cwd=database.parent, env=clean,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    if limit:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return process


@asynccontextmanager
async def serving(database: Path, *, before: tuple[str, ...] = (), limit: int = 0) -> AsyncIterator[Server]:
    """Run a server; it ends by SIGTERM, in order."""
    port = free_port()
    process = await launch(database, port, before=before, limit=limit)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            while line := await process.stderr.readline():
                if b"pid " in line:
                    break
            else:
                raise AssertionError(f"it ended with {await process.wait()}")
        yield Server(process, port)
        process.terminate()
        _, error = await asyncio.wait_for(process.communicate(), TIMEOUT)
        assert process.returncode == 0 and b"Traceback" not in error, error.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
