"""A client from docs/protocol.md alone: `by_hand.py alice bob` sends bob each line typed, and prints his."""

import asyncio
import sys
from contextlib import suppress
from json import dumps, loads

import websockets


async def main(me, other, url="ws://127.0.0.1:8080/ws"):
    async def read(seq=0):
        while line := await asyncio.to_thread(sys.stdin.readline, 10_000):  # the longest fits one message
            seq += 1
            numbers = dict(run=hello["run"], seq=seq, base=min(unsettled, default=seq))
            unsettled[seq] = dumps(dict(type="message", to=other, **numbers, data=line.rstrip("\n")))
            with suppress(websockets.ConnectionClosed):  # it leaves with the others on the next one
                await online.send(unsettled[seq])
            while len(unsettled) >= 256 or len("\n".join(unsettled.values())) > 900_000:  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # the window, in numbers and bytes, is full

    hello = dict(type="hello", protocol=1, client_id=me, watch=[other])
    unsettled, run, at, reading = {}, 0, 0, None  # number → message; their run, and what is printed of it
    async for socket in websockets.connect(url):  # with exponential backoff
        with suppress(websockets.ConnectionClosed):
            await socket.send(dumps(hello))
            async for data in socket:
                for message in map(loads, data.split("\n") if type(data) is str else data.split(b"\n")[:1]):
                    kind, seq = message["type"], message.get("seq")
                    if kind == "welcome":
                        hello.update({key: message[key] for key in ("run", "session", "secret")})
                        online, reading = socket, reading or asyncio.create_task(read())
                    elif kind == "ping":
                        await socket.send(dumps(dict(type="pong", id=message.get("id", 0))))
                    elif kind == "ack" and message["run"] == hello["run"]:
                        unsettled = {number: line for number, line in unsettled.items() if number > seq}
                    elif "base" in message and message["from"] == other and message.get("lane") != "bulk":
                        run, at = max((run, at), (message["run"], message.get("start", message["base"]) - 1))
                        if kind != "probe" and (message["run"], seq) == (run, at + 1):
                            print(message.get("data", f"({message.get('reason', 'bytes')})"), flush=True)
                            at = message.get("last", seq)
                        await socket.send(dumps(dict(type="ack", to=other, run=run, seq=at, want=seq > at)))
                    if unsettled and (kind == "peer" or message.get("want")):  # they are back, or ask for it
                        await socket.send("\n".join(unsettled.values()))
        if socket.close_code >= 3500 or socket.close_code in (1002, 1003, 1007, 1008, 1009, 1010):
            sys.exit(socket.close_reason)  # it would be refused again
        await asyncio.sleep(1)


asyncio.run(main(*sys.argv[1:]))
