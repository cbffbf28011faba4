"""The SDK in a page: it talks, with programs and with pages."""

import asyncio

import pytest
from playwright.async_api import Page
from tests.browser.seats import connect, sit
from tests.browser.server import Server
from tests.browser.site import Site

import duolink
from duolink.protocol.limits import WINDOW


async def test_a_page_and_a_program_are_linked_both_ways(page: Page, site: Site, server: Server) -> None:
    await sit(page, site, server)
    async with connect(server, "bob") as bob:
        link = bob.link("alice")
        link.on_request(lambda message: {"answer": message.data})
        await page.evaluate("""async () => {
            const link = seat.client.link("bob");
            await link.send({ text: "ä 😀", none: null });
            await link.send(new Uint8Array([0, 10, 255]));
        }""")
        messages = link.messages()
        assert (await anext(messages)).data == {"text": "ä 😀", "none": None}
        assert (await anext(messages)).data == b"\x00\x0a\xff"
        for data in ([1.5, "two"], b"\x00\x0a\xff"):
            await (await link.send(data)).delivered()
        assert await page.evaluate("seat.messages") == [[1.5, "two"], [0, 10, 255]]
        assert await page.evaluate("seat.client.link('bob').request('?')") == {"answer": "?"}
        await page.evaluate("seat.client.onRequest((message) => [message.data, message.sender])")
        assert await link.request(21) == [21, "bob"]
        await messages.aclose()
        assert await page.evaluate("""async () => {
            const sent = await seat.client.link("bob").send("unread");
            const before = sent.fate;
            await seat.client.close().catch(() => {});
            return [before, seat.client.state];
        }""") == ["pending", "closed"]


async def test_a_page_and_a_program_share_a_channel_and_its_state(
    page: Page, site: Site, server: Server
) -> None:
    await sit(page, site, server)
    async with connect(server, "bob") as bob:
        doc = bob.channel("doc")
        async with doc.subscribe(presence=True) as his:
            version = await page.evaluate("""async () => {
                const doc = seat.client.channel("doc");
                seat.subscription = await doc.subscribe({ state: true, presence: true });
                await doc.publish({ n: 1 });
                return doc.set("title", "Plan", { expect: 0 });
            }""")
            published, written = await anext(his), await anext(his)
            assert isinstance(published, duolink.Publication) and published.data == {"n": 1}
            assert isinstance(written, duolink.StateSet)
            assert (written.name, written.value, written.version) == ("title", "Plan", version)
            await doc.set("title", "Draft", expect=version)
            assert await page.evaluate("""async () => {
                for await (const entry of seat.subscription) if (entry.value === "Draft") break;
                return [[...seat.subscription.state].map(([name, { value }]) => [name, value]),
                    [...seat.subscription.present].sort()];
            }""") == [[["title", "Draft"]], ["alice", "bob"]]


@pytest.mark.parametrize(
    ("start", "scope"),
    [
        ("new Worker('/worker.js')", "DedicatedWorkerGlobalScope"),
        ("new Worker('/worker.js', { type: 'module' })", "DedicatedWorkerGlobalScope"),
        ("new SharedWorker('/worker.js', { type: 'module' }).port", "SharedWorkerGlobalScope"),
    ],
    ids=["classic", "module", "shared"],
)
async def test_a_worker_is_a_client(page: Page, site: Site, server: Server, start: str, scope: str) -> None:
    await page.goto(site.origin)
    async with connect(server, "bob") as bob:
        bob.on_request(lambda message: "!")
        talk = asyncio.create_task(
            page.evaluate(
                f"""([url]) => new Promise((resolve) => {{
                    const worker = {start};
                    worker.onmessage = (event) => resolve(event.data);
                    worker.postMessage({{ url, clientId: "alice" }});
                }})""",
                [server.url],
            )
        )
        assert (await anext(bob.link("alice").messages())).data == "from a worker"
        assert await talk == {"said": "!", "scope": scope}


async def test_a_slow_page_costs_its_sender_and_loses_nothing(page: Page, site: Site, server: Server) -> None:
    await sit(page, site, server)
    await page.evaluate("""() => {
        seat.got = [];
        seat.ring = new Promise((resolve) => { seat.go = resolve; });
        seat.client.onMessage(async (message) => {
            await seat.ring;
            seat.got.push(message.data);
        });
    }""")
    async with connect(server, "bob") as bob:
        link = bob.link("alice")
        for n in range(WINDOW):
            link.try_send(n)
        with pytest.raises(duolink.WindowFull):
            link.try_send(WINDOW)
        last = asyncio.create_task(link.send(WINDOW))
        await page.evaluate("seat.go()")
        await (await last).delivered()
        assert await page.evaluate("seat.got") == list(range(WINDOW + 1))


async def test_a_page_waits_for_a_slow_peer(page: Page, site: Site, server: Server) -> None:
    await sit(page, site, server)
    async with connect(server, "bob") as bob:
        stream = bob.link("alice").messages(acks="manual")
        assert await page.evaluate("""async () => {
            const link = seat.client.link("bob");
            let count = 0;
            try {
                for (;;) { link.trySend(count); count += 1; }
            } catch (error) {
                if (error.name !== "WindowFull") throw error;
            }
            seat.last = link.send("last");
            return [count, await Promise.race([seat.last, "waits"])];
        }""") == [WINDOW, "waits"]
        got = []
        async for message in stream:
            message.ack()
            got.append(message.data)
            if message.data == "last":
                break
        assert got == [*range(WINDOW), "last"]
        await page.evaluate("async () => (await seat.last).delivered()")


async def test_a_page_holds_back_while_its_socket_is_full(page: Page, site: Site, server: Server) -> None:
    """The server stands still: what the socket does not take is not made more."""
    await sit(page, site, server)
    async with connect(server, "bob") as bob:
        with server.standing_still():
            full = await page.evaluate("""async () => {
                const text = "x".repeat(60_000);
                let left = 0;
                while (left < 1000 && seat.client.link("bob").ephemeral(text)) {
                    left += 1;
                    await new Promise((resolve) => setTimeout(resolve));
                }
                return left;
            }""")
            assert 1 < full < 1000
        await page.evaluate("seat.client.link('bob').send('at last')")
        assert (await anext(bob.link("alice").messages())).data == "at last"
