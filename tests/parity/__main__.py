"""Play scenarios by hand: `python -m tests.parity python,node cut kill`; without names, all of them."""

import asyncio
import sys
import tempfile
import time
import traceback
from contextlib import AsyncExitStack
from pathlib import Path

from tests.browser.conftest import launched
from tests.parity.actors import Stage
from tests.parity.play import Failed, Play
from tests.parity.vocabulary import load_all


async def main(sides: list[str], names: list[str]) -> int:
    """Returns how many failed."""
    failures = 0
    async with AsyncExitStack() as stack:
        browser = await stack.enter_async_context(launched()) if "browser" in sides else None
        stage = Stage(browser)
        stack.callback(stage.close)
        for scenario in load_all():
            if names and scenario.name not in names:
                continue
            begin = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                try:
                    await Play(scenario, sides, stage, Path(folder)).run()
                    outcome = "ok"
                except Failed as error:
                    failures += 1
                    outcome = str(error)
                except Exception:
                    failures += 1
                    outcome = traceback.format_exc()
            print(f"{scenario.name:20} {time.perf_counter() - begin:5.2f} s  {outcome}", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1].split(","), sys.argv[2:])))
