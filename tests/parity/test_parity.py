"""Every scenario of `spec/scenarios`, by both SDKs in every pairing: the same promises, the same words."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.parity.actors import Stage
from tests.parity.play import Play
from tests.parity.vocabulary import SCENARIOS, Scenario, Unreadable, load, load_all

PAIRINGS = (
    ("python", "python"),
    ("python", "browser"),
    ("browser", "python"),
    ("browser", "browser"),
    ("node", "python"),
)

QUICK = {
    "talk": ("python", "browser"),
    "requests": ("python", "browser"),
    "cut": ("browser", "python"),
    "half_open": ("browser", "python"),
    "mid_frame": ("python", "browser"),
    "late_bytes": ("browser", "python"),
    "kill": ("python", "browser"),
    "away": ("browser", "python"),
    "collapse": ("python", "browser"),
    "process_gone": ("browser", "python"),
    "resume": ("python", "browser"),
    "recovery": ("python", "browser"),
    "state": ("python", "browser"),
    "user": ("python", "browser"),
}
"""What `make test` plays: Python and a browser, each in the more telling part."""


def performances() -> Iterator[object]:
    for scenario in load_all():
        for sides in PAIRINGS:
            marks = [] if QUICK.get(scenario.name) == sides else [pytest.mark.browsers]
            yield pytest.param(scenario, sides, marks=marks, id=f"{scenario.name}-{'-'.join(sides)}")


@pytest.fixture(scope="session")
def stage(chromium: Browser) -> Iterator[Stage]:
    """For all pairings."""
    stage = Stage(chromium)
    yield stage
    stage.close()


@pytest.mark.parametrize(("scenario", "sides"), list(performances()))
def test_scenario(
    scenario: Scenario, sides: tuple[str, str], stage: Stage, runner: asyncio.Runner, tmp_path: Path
) -> None:
    runner.run(Play(scenario, sides, stage, tmp_path).run())


def test_what_make_test_plays_is_there() -> None:
    assert set(QUICK) <= {path.stem for path in SCENARIOS.glob("*.toml")}


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("steps = []\nclients = { alice = {} }", "without 'title'"),
        ('title = ""\nclients = { a = {} }\nsteps = []\nstep = 1', "step"),
        ('title = ""\nclients = { a = {} }\nsteps = [{ b = "connect" }]', "step 1: b is no client"),
        ('title = ""\nclients = { a = {} }\nsteps = [{ a = "dance" }]', "step 1: a cannot dance"),
        ('title = ""\nclients = { a = {} }\nsteps = [{ a = "watch", whom = "b" }]', "takes no .'whom'"),
        ('title = ""\nclients = { a = {} }\nsteps = [{ a = "sees", state = "online" }]', "without an event"),
        ('title = ""\nclients = { a = {} }\nsteps = [{ network = "cut", of = "b" }]', "b is no client"),
        ('title = ""\nclients = { a = {} }\nsteps = [{ server = "explode" }]', "cannot explode"),
        ('title = ""\nclients = { a = {} }\nsteps = [{ a = "never", event = "x" }]', "after the last step"),
    ],
)
def test_a_scenario_says_only_what_there_are_words_for(written: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(written)
    with pytest.raises(Unreadable, match=complaint):
        load(file)
