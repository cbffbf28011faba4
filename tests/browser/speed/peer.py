"""`python peer.py URL COUNT`: the client bob. Told a number, he sends so many messages as fast as they go;
told `pace`, 1,000 a second until COUNT are sent. He takes whatever comes."""

import asyncio
import sys

import duolink

BODY = "x" * 40
TICK = 0.01
PER_TICK = 10


async def main(url: str, count: int) -> None:
    """Serve until the process is ended."""
    async with duolink.connect(url, client_id="bob") as bob:
        link = bob.link("alice")

        async def flood() -> None:
            for n in range(count):
                await link.send({"n": n, "text": BODY})

        async def pace() -> None:
            loop = asyncio.get_running_loop()
            start = loop.time()
            for tick in range(count // PER_TICK):
                await asyncio.sleep(start + tick * TICK - loop.time())
                for n in range(PER_TICK):
                    await link.send({"n": n, "text": BODY})

        running: set[asyncio.Task[None]] = set()

        def take(message: duolink.Message) -> None:
            if message.data in ("flood", "pace"):
                running.add(asyncio.create_task(flood() if message.data == "flood" else pace()))

        bob.on_message(take)
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
