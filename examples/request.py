"""Ask and answer: one client offers a service, another one uses it."""

import asyncio

import duolink

URL = "ws://127.0.0.1:8080"


async def main(url: str = URL) -> None:
    async with (
        duolink.connect(url, client_id="clerk") as clerk,
        duolink.connect(url, client_id="guest") as guest,
    ):

        @clerk.on_request
        async def divide(request: duolink.Message) -> float:
            if request.data["b"] == 0:
                raise duolink.RequestFailed("nobody can divide by zero")
            return request.data["a"] / request.data["b"]  # type: ignore[no-any-return]

        link = guest.link("clerk")
        print(await link.request({"a": 22, "b": 7}, timeout=5))
        try:
            await link.request({"a": 1, "b": 0}, timeout=5)
        except duolink.RequestFailed as error:
            print("the clerk says:", error)


if __name__ == "__main__":
    asyncio.run(main())
