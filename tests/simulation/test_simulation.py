"""Thousands of seeded worlds: nothing lost, repeated, reordered or invented, and everything settles.

A failing seed replays exactly: `python -m tests.simulation SEED`.
"""

from collections import Counter

import pytest

from .world import World

SEEDS = 2000
BLOCK = 200

SOMETIMES = (
    "resumed",
    "new session",
    "client reconnecting",
    "client offline",
    "client killed",
    "node killed",
    "connection cut",
    "connection went dark",
    "reader stalled",
    "started twice",
    "turned away with duplicate",
    "turned away with superseded",
    "peer here",
    "peer reconnecting",
    "peer away",
    "peer here restarted",
    "message on a direct path",
    "path went dark",
    "page reloaded",
    "resumed by a reloaded page",
    "window full",
    "seen again by a receiver's next life",
    "received after it was stored",
    "received by another client of the user",
    "received from a sender's earlier life",
    "receiver heard lost(mailbox_full)",
    "sender heard stored",
    "disk failed",
    "sender told unavailable",
    "sender heard from the mailbox",
    "message waited for what the mailbox has",
    "receiver heard lost(expired)",
    "receiver heard lost(gone)",
    "sender heard lost",
    "sender heard perhaps",
    "channel recovered",
    "channel gap (epoch)",
    "publish answered uncertain",
)
"""The hard cases, each of which must really have occurred somewhere in a block of seeds."""


def run_block(first: int, count: int) -> Counter[str]:
    tally: Counter[str] = Counter()
    for seed in range(first, first + count):
        world = World(seed)
        try:
            tally += world.run().sometimes
        except BaseException as error:
            error.add_note(f"replay: python -m tests.simulation {seed}")
            raise
    return tally


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_every_promise_holds_in_every_world(first: int) -> None:
    tally = run_block(first, BLOCK)
    missing = [what for what in SOMETIMES if not tally[what]]
    assert not missing, f"never happened in {BLOCK} worlds: {missing}"


def test_a_seed_replays_exactly() -> None:
    assert World(7).run().sometimes == World(7).run().sometimes
