"""Negative controls: an SDK with a planted defect turns these tests red."""

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Page
from tests.browser.seats import connect, sit
from tests.browser.server import Server
from tests.browser.site import ROOT, Site

DEFECTS = {
    "it drops acknowledgements": (
        "src/link.ts",
        "    machine.finish(raw, this._now());\n",
        "",
    ),
    "it repeats a message": (
        "src/link.ts",
        "    else client._put(this.peer, message);\n",
        "    else {\n      client._put(this.peer, message);\n      client._put(this.peer, message);\n    }\n",
    ),
}
"""Name → file, what stands there, what stands there then."""

BUILD = """import { build } from "esbuild";
const settings = { bundle: true, format: "esm", target: "es2022", write: false };
const { outputFiles } = await build({ entryPoints: [process.argv[1]], ...settings });
process.stdout.write(outputFiles[0].text);"""


async def talk(page: Page, site: Site, server: Server) -> list[int]:
    """The promise: what is sent to the page arrives once, in order, and its sender hears so."""
    await sit(page, site, server)
    async with connect(server, "bob") as bob:
        for n in range(3):
            sent = await bob.link("alice").send(n)
        async with asyncio.timeout(5):
            await sent.delivered()
        messages: list[int] = await page.evaluate("seat.messages")
        return messages


async def build(folder: Path) -> str:
    """Build the SDK that lies there; return the module."""
    process = await asyncio.create_subprocess_exec(
        ROOT / "scripts/web", "node", "--input-type=module", "--eval", BUILD, str(folder / "src/index.ts"),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


@pytest.mark.parametrize("defect", [None, *DEFECTS])
async def test_a_planted_defect_is_seen(
    page: Page, site: Site, server: Server, tmp_path: Path, defect: str | None
) -> None:
    sources = ROOT / "web/sdk/src"
    for path in sources.rglob("*.ts"):
        copy = tmp_path / "src" / path.relative_to(sources)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    if defect is not None:
        file, there, then = DEFECTS[defect]
        text = (tmp_path / file).read_text()
        assert text.count(there) == 1, f"{file} has changed: plant the defect elsewhere"
        (tmp_path / file).write_text(text.replace(there, then))
    site.file("/sdk/duolink.js", await build(tmp_path))
    try:
        seen = await talk(page, site, server)
    except TimeoutError:
        seen = []
    assert (seen == [0, 1, 2]) is (defect is None)
