"""A channel: everybody hears everything, and who comes late reads what there was."""

import asyncio

import duolink

URL = "ws://127.0.0.1:8080"


async def main(url: str = URL) -> None:
    async with duolink.connect(url, client_id="alice") as alice, duolink.connect(url, client_id="bob") as bob:
        room = alice.channel("room")
        async with bob.channel("room").subscribe(presence=True) as subscription:
            position = await room.publish({"topic": "weather"})
            await room.publish("It rains.")
            async for item in subscription:
                if isinstance(item, duolink.ChannelGap):
                    print("missed:", item.first, "…", item.last, item.reason)
                    continue
                print(f"{item.offset} {item.sender}: {item.data}")
                if item.data == "It rains.":
                    break
            page = await room.history(since=position)  # what came after the first one
            print([entry.data for entry in page.publications], "with", sorted(subscription.present))


if __name__ == "__main__":
    asyncio.run(main())
