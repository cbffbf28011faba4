"""The SDK in Firefox: handshake, link, resume after a reload."""

from pathlib import Path

import pytest
from tests.browser.complaints import Complaints
from tests.browser.firefox import firefox
from tests.browser.seats import connect, sit, sit_down
from tests.browser.server import Server
from tests.browser.site import Site

pytestmark = pytest.mark.browsers


async def test_firefox_talks_and_resumes_after_a_reload(
    tmp_path: Path, site: Site, server: Server, complaints: Complaints
) -> None:
    async with firefox(tmp_path, complaints) as page:
        first = await sit(page, site, server, channels=["room"])
        async with connect(server, "bob") as bob:
            link = bob.link("alice")
            link.on_request(lambda message: [message.data])
            await page.evaluate("""(async () => {
                const link = seat.client.link("bob");
                await link.send({ text: "ä 😀" });
                await link.send(new Uint8Array([0, 10, 255]));
            })()""")
            messages = link.messages()
            assert (await anext(messages)).data == {"text": "ä 😀"}
            assert (await anext(messages)).data == b"\x00\x0a\xff"
            await messages.aclose()
            await (await link.send(b"\x00\xff")).delivered()
            assert await page.evaluate("seat.messages") == [[0, 255]]
            assert await page.evaluate("seat.client.link('bob').request('?')") == ["?"]
            assert await page.evaluate("sessionStorage.length") == 0

            await page.reload()
            sent = await link.send("between")
            second = await sit_down(page, server, channels=["room"])
            await sent.delivered()
            assert [second["resumed"], second["session"]] == [True, first["session"]]
            assert await page.evaluate("[seat.messages, sessionStorage.length]") == [["between"], 0]
