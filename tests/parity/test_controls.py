"""The scenarios can fail: an SDK with a fault in it turns one of them red, with a complaint that fits.

A fault is a change in the source of an SDK; the TypeScript SDK is bundled with it, and plays in Node.
"""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from duolink.client import link
from duolink.client.message import Message
from duolink.protocol.messages import LinkMessage
from tests.parity.actors import WEB, Stage
from tests.parity.play import Failed, Play
from tests.parity.vocabulary import SCENARIOS, load

SOURCE = WEB / "sdk" / "src"
ESBUILD = WEB / "node_modules" / ".bin" / "esbuild"

PATIENCE = 6.0
"""Seconds for a step: what should come, and does not, is waited for so long."""


class Fault(NamedTuple):
    """In `file`, `before` (which stands there once) becomes `after`. Then `scenario` fails with `complaint`,
    the faulty SDK being on side `side`."""

    name: str
    file: str
    before: str
    after: str
    scenario: str
    side: int
    complaint: str


FAULTS = [
    Fault(
        "a message is handed over twice",
        "link.ts",
        "else client._put(this.peer, message);",
        "else { client._put(this.peer, message); client._put(this.peer, message); }",
        "talk", 1, r"'expect'.*: item 2 is ",
    ),
    Fault(
        "the newest message comes first",
        "stream.ts",
        "items.push(item);",
        "items.unshift(item);",
        "slow_reader", 1, r"'expect'.*: item \d+ is \d+, not \d+",
    ),
    Fault(
        "acknowledgements are dropped",
        "link.ts",
        "machine.finish(raw, this._now());",
        "",
        "talk", 1, r"'fate'.*: nothing of that",
    ),
    Fault(
        "stored is called delivered",
        "client.ts",
        'sent._become("stored");',
        'sent._become("delivered");',
        "away", 0, r"'fate'.*'stored'}: it is .*'delivered'",
    ),
    Fault(
        "every loss is called certain",
        "message.ts",
        "this._certain = certain;",
        "this._certain = true;",
        "replaced", 0, r"'fate'.*: it is .*'certain': True",
    ),
    Fault(
        "a conflict has no class of its own",
        "client.ts",
        'if (refusal.code === "conflict") throw new Conflict(refusal.version);',
        "",
        "state", 1, r"'set'.*: it failed with .*'CommandFailed'",
    ),
    Fault(
        "a refused client tries again",
        "protocol/codes.ts",
        "code >= 3000 && code <= 3499",
        "code >= 3000",
        "token", 1, r"'connect'.*'unauthorized'.*: nothing of that",
    ),
    Fault(
        "a snapshot replaces nothing",
        "state.ts",
        "this.values.clear();",
        "",
        "state_lost", 1, r"'map'.*: nothing of that",
    ),
    Fault(
        "a gap is not in its place",
        "subscription.ts",
        "this._put(item, size, snapshot);",
        "",
        "gap", 1, r"'entries'.*'gap'.*: nothing of that",
    ),
    Fault(
        "leaving waits for nothing",
        "client.ts",
        "while (!late && !this._allSafe())",
        "while (late && !this._allSafe())",
        "close_flushes", 0, r"'close'.*: it failed with .*'Unsettled'",
    ),
    Fault(
        "an event has another name",
        "link.ts",
        "return client._tell({ ...event, peer: this.peer });",
        'return client._tell({ ...event, kind: "friend", peer: this.peer } as never);',
        "talk", 0, r"'sees'.*'peer'.*: nothing of that",
    ),
    Fault(
        "an event has another field",
        "link.ts",
        "return client._tell({ ...event, peer: this.peer });",
        "return client._tell({ ...event, peer: this.peer, friend: this.peer } as never);",
        "talk", 0, r"the fields of .*'friend'",
    ),
]  # fmt: skip


def bundled(fault: Fault | None, folder: Path) -> Path:
    """Return the TypeScript SDK with a fault in it; None: as it is."""
    source = Path(shutil.copytree(SOURCE, folder / "src"))
    if fault is not None:
        file = source / fault.file
        text = file.read_text()
        assert text.count(fault.before) == 1, f"{fault.before!r} stands {text.count(fault.before)} times"
        file.write_text(text.replace(fault.before, fault.after))
    module = folder / "faulty.mjs"
    words = [str(ESBUILD), str(source / "index.ts"), "--bundle", "--format=esm", f"--outfile={module}"]
    subprocess.run([*words, "--log-level=error"], check=True)
    return module


def play(name: str, sides: tuple[str, str], stage: Stage, runner: asyncio.Runner, folder: Path) -> None:
    try:
        runner.run(Play(load(SCENARIOS / f"{name}.toml"), sides, stage, folder, PATIENCE).run())
    finally:
        stage.close()


def faults() -> Iterator[object]:
    """The first one is cheap enough for `make test`."""
    for number, fault in enumerate(FAULTS):
        yield pytest.param(fault, marks=[pytest.mark.browsers] if number else [], id=fault.name)


@pytest.mark.parametrize("fault", list(faults()))
def test_a_faulty_sdk_is_found_out(fault: Fault, runner: asyncio.Runner, tmp_path: Path) -> None:
    stage = Stage(sdk=bundled(fault, tmp_path))
    sides = ("node", "python") if fault.side == 0 else ("python", "node")
    with pytest.raises(Failed, match=fault.complaint):
        play(fault.scenario, sides, stage, runner, tmp_path)


@pytest.mark.browsers
def test_it_is_the_fault_that_is_found(runner: asyncio.Runner, tmp_path: Path) -> None:
    play("talk", ("node", "python"), Stage(sdk=bundled(None, tmp_path)), runner, tmp_path)


def test_a_faulty_python_sdk_is_found_out(
    runner: asyncio.Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(self: link.Link, raw: LinkMessage) -> None:
        for _ in range(2):
            self._client._put(self.peer, Message(raw, self, self._client._now()))

    monkeypatch.setattr(link.Link, "_received", twice)
    with pytest.raises(Failed, match=r"'expect'.*: item 2 is "):
        play("talk", ("python", "python"), Stage(), runner, tmp_path)
