"""`duolink serve` as a process: what starts, what stops, what is killed and comes back."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

HELLO = '{"type":"hello","protocol":1,"client_id":"alice"}'


class Server:
    """A server process and where it listens."""

    def __init__(self, process: asyncio.subprocess.Process, banner: str) -> None:
        self.process = process
        self.banner = banner
        self.port = self._port(r"ws://127\.0\.0\.1:(\d+)/ws")

    def _port(self, pattern: str) -> int:
        found = re.search(pattern, self.banner)
        assert found is not None, self.banner
        return int(found[1])

    @property
    def tcp_port(self) -> int:
        return self._port(r"tcp +127\.0\.0\.1:(\d+)")

    def connect(self) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}/ws", compression=None, ping_interval=None)

    def status(self, path: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return int(answer.status)


async def launch(
    directory: Path, *arguments: str, env: dict[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start `duolink serve` in a directory, without the settings of whoever runs the tests."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DUOLINK_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "duolink.cli.main", "serve", *arguments,
        cwd=directory, env={**clean, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@asynccontextmanager
async def serving(
    directory: Path, *arguments: str, env: dict[str, str] | None = None
) -> AsyncIterator[Server]:
    """Run a server until its banner is out; kill what is left of it at the end."""
    process = await launch(directory, *arguments, env=env)
    assert process.stderr is not None
    try:
        banner = b""
        while b"pid " not in banner:
            line = await asyncio.wait_for(process.stderr.readline(), 10)
            assert line, f"it ended: {banner.decode()}"
            banner += line
        yield Server(process, banner.decode())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def refusal(directory: Path, *arguments: str) -> str:
    """Return the one line with which a server refuses to start."""
    process = await launch(directory, *arguments)
    out, error = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 2 and out == b""
    text = error.decode()
    assert "Traceback" not in text and text.count("\n") == 1, text
    return text


async def enter(connection: ClientConnection) -> dict[str, Any]:
    await connection.send(HELLO)
    welcome: dict[str, Any] = json.loads(await connection.recv())
    assert welcome["type"] == "welcome"
    return welcome


async def ended(server: Server, within: float) -> int:
    """Wait for the process's end; return its exit code."""
    return await asyncio.wait_for(server.process.wait(), within)


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main, 40)

    asyncio.run(bounded())


def test_it_is_healthy_and_its_pid_owns_the_ports(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, "--port", "0", "--tcp", "0", "--memory") as server:
            for path in ("/healthz", "/readyz"):
                assert await asyncio.to_thread(server.status, path) == 200
            assert listening(server.process.pid) >= {server.port, server.tcp_port}
            assert "development" in server.banner
            reader, writer = await asyncio.open_connection("127.0.0.1", server.tcp_port)
            writer.write(b"HELLO")
            assert (await reader.readline()).startswith(b"duolink ")
            writer.close()
            await writer.wait_closed()

    run(main())


def listening(pid: int) -> set[int]:
    """Return the TCP ports on which a process listens (proc(5))."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor))
        if found is not None:
            inodes.add(found[1])
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[9] in inodes}


def test_sigterm_says_goodbye_closes_with_1012_and_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            serving(tmp_path, "--port", "0", "--tcp", "0") as server,
            server.connect() as connection,
        ):
            await enter(connection)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.tcp_port)
            hello = HELLO.replace("alice", "bob").encode()
            writer.write(len(hello).to_bytes(4, "big") + hello)
            await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
            server.process.send_signal(signal.SIGTERM)
            goodbye = json.loads(await connection.recv())
            assert goodbye["type"] == "goodbye" and goodbye["code"] == 1012 and goodbye["spread"] == 5000
            with pytest.raises(ConnectionClosed) as closed:
                await connection.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
            rest = await reader.read()
            assert json.loads(rest[4:])["code"] == 1012
            writer.close()
            await writer.wait_closed()
            assert await ended(server, 5) == 0

    run(main())


def test_sigterm_does_not_wait_for_those_who_do_not_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(
            tmp_path, "--port", "0", "--tcp", "0", "--set", "session.drain_timeout_s=0.3"
        ) as server:
            with (
                socket.create_connection(("127.0.0.1", server.port)),  # not even a request
                socket.create_connection(("127.0.0.1", server.tcp_port)) as device,
            ):
                await asyncio.to_thread(device.sendall, b"HELLO")
                await asyncio.to_thread(device.recv, 10)
                server.process.send_signal(signal.SIGTERM)
                assert await ended(server, 3) == 0

    run(main())


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, "--port", "0", "--tcp", "0", "--set", "session.drain_timeout_s=30",
                           "--set", "wire.close_timeout_s=30") as server:  # fmt: skip
            with socket.create_connection(("127.0.0.1", server.tcp_port)) as device:
                await asyncio.to_thread(device.sendall, b"HELLO\n\0")
                await asyncio.to_thread(device.recv, 1000)
                server.process.send_signal(signal.SIGINT)
                while await asyncio.to_thread(device.recv, 1000):
                    pass  # the goodbye, and the end of what it sends: the first signal has been seen
                server.process.send_signal(signal.SIGTERM)
                assert await ended(server, 3) == 128 + signal.SIGTERM

    run(main())


def test_killed_it_comes_back_on_the_same_port_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, "--port", "0") as server, server.connect() as connection:
            await enter(connection)
            port = server.port
            server.process.kill()
            await server.process.wait()
            async with serving(tmp_path, "--port", str(port)) as again:
                assert again.port == port
                async with again.connect() as second:
                    assert (await enter(second))["resumed"] is False

    run(main())


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            assert f"port {port}: the port is in use" in await refusal(tmp_path, "--port", port)
            line = await refusal(tmp_path, "--port", "0", "--tcp", port)
            assert port in line and "the port is in use" in line

    run(main())


def test_without_authentication_it_does_not_leave_loopback(tmp_path: Path) -> None:
    async def main() -> None:
        assert "is not loopback" in await refusal(tmp_path, "--host", "0.0.0.0")

    run(main())


def test_flags_are_above_variables_and_variables_above_the_file(tmp_path: Path) -> None:
    (tmp_path / "duolink.toml").write_text(
        "[listen]\nport = 1\n[heartbeat]\ninterval_s = 21\ntimeout_s = 9\nmisses = 7\n"
    )

    async def main() -> None:
        variables = {"DUOLINK_LISTEN_PORT": "2", "DUOLINK_HEARTBEAT_INTERVAL_S": "22"}
        async with (
            serving(tmp_path, "--port", "0", env=variables) as server,
            server.connect() as connection,
        ):
            assert (await enter(connection))["heartbeat"] == {
                "interval": 22_000,
                "timeout": 9000,
                "misses": 7,
            }

    run(main())
