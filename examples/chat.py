"""Two people, one link: `python examples/chat.py alice bob` here, `… bob alice` there."""

import asyncio
import sys

import duolink


async def main(me: str, other: str) -> None:
    async with duolink.connect("ws://127.0.0.1:8080", client_id=me) as client:
        link = client.link(other)
        link.on_message(lambda message: print(f"{other}: {message.data}"))
        client.on_event(lambda event: print(f"[{event}]"))
        while line := (await asyncio.to_thread(sys.stdin.readline)).rstrip("\n"):
            sent = await link.send(line)
            await sent.stored()  # delivered, or kept for the other side


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
