"""A back end borrows a client per job: three clients serve twenty jobs."""

import asyncio

import duolink

URL = "ws://127.0.0.1:8080"


async def main(url: str = URL) -> None:
    async with (
        duolink.connect(url, client_id="clerk") as clerk,
        duolink.ConnectionPool(url, client_id="web-{n}", min_size=1, max_size=3) as pool,
    ):
        clerk.on_request(lambda request: request.data * 2)

        async def job(number: int) -> str:
            async with pool.acquire(timeout=5) as client:
                answer = await client.link("clerk").request(number, timeout=5)
                return f"{client.client_id}: {answer}"

        for line in await asyncio.gather(*(job(number) for number in range(20))):
            print(line)
        print(pool.size, "clients were enough")


if __name__ == "__main__":
    asyncio.run(main())
