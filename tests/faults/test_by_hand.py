"""The client written by hand from docs/protocol.md talks to `duolink chat`, over a killed server."""

import asyncio
import re
import sys
from pathlib import Path

from tests.faults.process import TIMEOUT, Server

EXAMPLE = Path(__file__).parents[2] / "examples" / "by_hand.py"
LINES = 60
PIPE = asyncio.subprocess.PIPE


async def read_until(stream: asyncio.StreamReader, pattern: str, count: int) -> list[str]:
    """What the pattern found in the lines, until there are as many."""
    found: list[str] = []
    async with asyncio.timeout(TIMEOUT):
        while len(found) < count:
            line = (await stream.readline()).decode()
            assert line, f"ended after {found}"
            found += re.findall(pattern, line.rstrip())
    return found


def say(process: asyncio.subprocess.Process, name: str, first: int, last: int) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{name}{number}\n" for number in range(first, last)).encode())


async def talk() -> None:
    server = Server()
    await server.start()
    url = f"ws://127.0.0.1:{server.port}"
    hand = await asyncio.create_subprocess_exec(
        sys.executable, "-u", EXAMPLE, "alice", "bob", f"{url}/ws", stdin=PIPE, stdout=PIPE
    )
    chat = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "duolink.cli.main", "chat", "bob", "alice", "--url", url),
        stdin=PIPE,
        stdout=PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert hand.stdout is not None
    assert chat.stdout is not None
    try:
        say(hand, "a", 0, LINES // 2)
        say(chat, "b", 0, LINES // 2)
        heard_by_chat = await read_until(chat.stdout, r"\ba\d+$", 10)
        server.kill()
        say(hand, "a", LINES // 2, LINES)
        say(chat, "b", LINES // 2, LINES)
        await server.start()
        heard_by_chat += await read_until(chat.stdout, r"\ba\d+$", LINES - len(heard_by_chat))
        assert heard_by_chat == [f"a{number}" for number in range(LINES)]
        assert await read_until(hand.stdout, r"b\d+$", LINES) == [f"b{number}" for number in range(LINES)]
    finally:
        for process in (hand, chat):
            if process.returncode is None:
                process.kill()
            await process.communicate()
        server.kill()


def test_a_client_written_by_hand_keeps_the_promises() -> None:
    asyncio.run(talk())
