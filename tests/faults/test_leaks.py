"""Thousands of clients come, talk and leave, on one server in the same process: nothing of them stays."""

import asyncio
import gc
import os
from collections import Counter
from typing import NamedTuple

import uvloop

import duolink
from duolink import Options, State
from duolink.server import Server
from duolink.server.config import Config
from duolink.server.settings import ChannelSettings

CYCLES = 2000
AT_ONCE = 20
HASTY = Options(backoff_initial=0.01, backoff_cap=0.05)

GROWTH = 1024 * 1024
"""Bytes that the second thousand cycles may add: 1 KiB each would be a leak, and the allocator's own noise
is some hundred KiB."""

KEPT = {"room*": ChannelSettings(history_count=10)}
"""What channels keep on purpose is full before it is counted. (So are the answers that clients' keys keep:
each client publishes with one key.)"""

SPARE = 200
"""Objects that may come and go between two counts: one per cycle would be a thousand."""


class Usage(NamedTuple):
    """What the process holds."""

    tasks: int
    descriptors: int
    objects: Counter[str]
    resident: int


def usage() -> Usage:
    for _ in range(3):
        gc.collect()
    objects = Counter(type(thing).__qualname__ for thing in gc.get_objects())
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Usage(len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")), objects, resident)


def connect(server: Server, name: str) -> duolink.Client:
    return duolink.connect(server.url, client_id=name, options=HASTY)


async def cycle(server: Server, name: str, number: int) -> None:
    """One client's visit: a message there and back, a channel, now and then a lost connection."""
    async with connect(server, name) as client:
        link = client.link("echo")
        async with client.channel(f"room{number % 7}").subscribe(presence=True) as room:
            await client.channel("visits").publish(name, key=name)
            await server.publish(f"room{number % 7}", number)
            async for publication in room:
                if isinstance(publication, duolink.Publication) and publication.data == number:
                    break
            if number % 5 == 0:
                client.cut()
            sent = await link.send({"number": number})
            assert await link.request(number) == number
        await sent.delivered()


async def visits(server: Server, first: int, count: int) -> None:
    numbers = iter(range(first, first + count))

    async def visitor(name: str) -> None:
        for number in numbers:
            await cycle(server, name, number)

    async with asyncio.TaskGroup() as group:
        for index in range(AT_ONCE):
            group.create_task(visitor(f"visitor{index}"))


async def settled(server: Server, connections: int) -> None:
    """Wait until the server has seen everybody leave; closing handshakes take a few turns."""
    async with asyncio.timeout(10):
        while server._app.node.connections > connections:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0)


def assert_empty(server: Server) -> None:
    node = server._app.node
    now = node.gauges()
    assert (now.connections, now.sessions_active, now.sessions_detached) == (0, 0, 0)
    assert (now.channels, now.subscriptions, now.links, now.buffered_bytes) == (0, 0, 0, 0)
    assert set(node.parties) == {"$server"}, "parties that nobody is, waits for or watches"
    assert node.dirty == [] and node.dirty_channels == []


def test_two_thousand_visits_leave_nothing() -> None:
    async def main() -> None:
        async with Server(port=0, config=Config(channels=KEPT)) as server:
            empty = usage()
            async with connect(server, "echo") as echo:
                echo.on_message(lambda message: None)
                echo.on_request(lambda message: message.data)
                await visits(server, 0, CYCLES // 2)
                await settled(server, 1)
                half = usage()
                await visits(server, CYCLES // 2, CYCLES // 2)
                await settled(server, 1)
                full = usage()
                assert echo.state is State.ONLINE
            assert (full.tasks, full.descriptors) == (half.tasks, half.descriptors)
            more = full.objects - half.objects
            del more["Happened"]  # a ring for the operator, which holds the last 1,000
            assert more.total() < SPARE, more.most_common(10)
            assert full.resident - half.resident < GROWTH, full.resident - half.resident
            await settled(server, 0)
            assert_empty(server)
            timers = len(server._app.node.timers)
            assert timers <= 2, "the node's own: its tick, the engine's sweep"
            last = usage()
            assert (last.tasks, last.descriptors) == (empty.tasks, empty.descriptors)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
