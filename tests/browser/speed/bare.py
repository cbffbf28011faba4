"""`python bare.py COUNT`: a WebSocket server without any protocol, on picows and uvloop as duolink's is. Told
`flood K`, it sends COUNT messages, K to a frame; else it counts them, and says when it has all."""

import asyncio
import sys

import picows
import uvloop

BODY = b"x" * 40


class Bare(picows.WSListener):
    """One connection."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._got = 0
        self._room = asyncio.Event()
        self._room.set()
        self._flooding: asyncio.Task[None]

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type != picows.WSMsgType.TEXT:
            return
        payload = frame.get_payload_as_bytes()
        if payload.startswith(b"flood"):
            self._flooding = asyncio.create_task(self._flood(transport, int(payload[5:])))
            return
        self._got += payload.count(b"\n") + 1
        if self._got == self._count:
            self._got = 0
            transport.send(picows.WSMsgType.TEXT, b"done")

    async def _flood(self, transport: picows.WSTransport, per_frame: int) -> None:
        for first in range(0, self._count, per_frame):
            lines = [b'{"n":%d,"text":"%s"}' % (n, BODY) for n in range(first, first + per_frame)]
            transport.send(picows.WSMsgType.TEXT, b"\n".join(lines))
            if first % 64 == 0:
                await asyncio.sleep(0)
            await self._room.wait()


async def main(count: int) -> None:
    """Serve until the process is ended; the port is printed."""
    server = await picows.ws_create_server(lambda _: Bare(count), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
