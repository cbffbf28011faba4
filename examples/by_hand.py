"""A client by hand, from docs/protocol.md alone: `python examples/by_hand.py alice bob` sends each line of
standard input to bob and prints what he sends. It survives restarts of the server, and repeats nothing."""

import asyncio
import json
import sys
from contextlib import suppress

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


async def main(me: str, other: str, url: str = "ws://127.0.0.1:8080/ws") -> None:
    hello = {"type": "hello", "protocol": 1, "client_id": me, "watch": [other]}
    unsettled = {}  # number → what is not acknowledged yet
    their_run = finished = 0  # the other side's run, and how far this side is in it
    socket = None

    async def tell(kind, **fields):
        with suppress(ConnectionClosed):
            await socket.send(json.dumps({"type": kind, "to": other, **fields}))

    async def say(seqs):
        for seq in seqs if "run" in hello else ():
            await tell("message", run=hello["run"], seq=seq, base=min(unsettled), data=unsettled[seq])

    async def took(message):
        nonlocal their_run, finished
        kind = message["type"]
        if kind == "welcome":  # to be presented at the next hello
            hello.update({key: message[key] for key in ("run", "session", "secret")})
        if kind == "welcome" or (kind == "peer" and message["state"] == "here"):
            await say(sorted(unsettled))
        elif kind == "ack" and message["run"] == hello["run"]:
            for seq in [seq for seq in unsettled if seq <= message["seq"]]:
                print("delivered:", unsettled.pop(seq), file=sys.stderr)
        elif (
            kind in ("message", "skip", "probe") and message["from"] == other and message["run"] >= their_run
        ):
            if message["run"] > their_run:  # a new life of the other side, or the first one heard of
                their_run, finished = message["run"], 0
            finished = max(finished, message["base"] - 1)
            if kind != "probe" and message["seq"] == finished + 1:
                finished = message.get("last", message["seq"])
                print(message.get("data", "(lost)"), flush=True)
            await tell("ack", run=their_run, seq=finished, want=message["seq"] > finished)

    async def listen():
        nonlocal socket
        async for socket in connect(url):  # comes back, with backoff
            with suppress(ConnectionClosed):
                await socket.send(json.dumps(hello))
                async for payload in socket:
                    for line in payload.split("\n") if isinstance(payload, str) else ():
                        await took(json.loads(line))

    listening, count = asyncio.create_task(listen()), 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        count += 1
        unsettled[count] = line.rstrip("\n")
        await say([count])
    while unsettled:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await socket.close()
    listening.cancel()


asyncio.run(main(*sys.argv[1:3]))
