"""What the documents say of the API and the metrics: the examples run, and no metric is left out."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest
from tests.unit.api_world import operating, run

import duolink
from duolink.server.metrics import Counts, Gauges, make_registry, render

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCKS = re.findall(r"```bash\n(.*?)```", (DOCS / "api.md").read_text("utf-8"), re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in BLOCKS for line in block.splitlines() if line.startswith("curl ")]
    assert len(lines) >= 10
    return lines


def test_the_examples_of_the_document_run() -> None:
    async def main() -> None:
        async with operating() as operator, duolink.connect(operator.app.url, client_id="bob") as bob:
            bob.on_message(lambda message: None)
            for line in commands():
                stream = "/api/events" in line
                limit = "--max-time 1" if stream else "--max-time 10"
                line = line.replace("localhost:8080", f"127.0.0.1:{operator.app.port}")
                # As curl 7.82 does it, for older ones.
                line = re.sub(r"--json ('[^']*')", r"-H 'content-type: application/json' -d \1", line)
                line = line.replace("curl ", f"curl --noproxy '*' --fail-with-body -sS {limit} ", 1)
                process = await asyncio.create_subprocess_exec(
                    "bash", "-c", line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
                )
                output, _ = await process.communicate()
                timed_out = 28  # what curl says of a stream that goes on
                assert process.returncode == (timed_out if stream else 0), (line, output)
                assert not stream or b"event: stats" in output

    if shutil.which("curl") is None:
        pytest.fail("this needs curl: run scripts/programs curl", pytrace=False)
    run(main())


def test_every_metric_is_in_the_document() -> None:
    text = (DOCS / "metrics.md").read_text("utf-8")
    _, body = render(make_registry(Counts(), Gauges))
    names = set(re.findall(r"^# TYPE (duolink_\w+) ", body.decode(), re.MULTILINE))
    assert len(names) > 20
    missing = sorted(name for name in names if f"`{name}" not in text)
    assert not missing
    told = {name for name in re.findall(r"`(duolink_\w+)", text)}
    assert told == names
