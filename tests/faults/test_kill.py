"""kill -9 in mid-stream, of the server and of either client: real processes, real pipes.

Each round has a seed, which chooses who is killed and after how many lines. A round replays with
`ROUNDS=… pytest -m torture -k "[SEED]"`, as far as the machine's own timing allows.
"""

import asyncio
import os
from random import Random

import pytest

from duolink.protocol import limits

from .process import TIMEOUT, Listener, Sender, Server

ROUNDS = int(os.environ.get("ROUNDS", "50"))
LINES = 2000
PAD = "x" * 400
"""What makes a line long: pipes and readers then hold a few hundred of them, not the whole stream."""

VICTIMS = (
    ("server",),
    ("receiver",),
    ("sender",),
    ("server", "receiver"),
    ("receiver", "sender", "server"),
)


class Violation(AssertionError):
    """A promise was broken."""


def check(lives: list[list[tuple[int, int, int]]], sent: dict[int, int], delivered: dict[int, int]) -> None:
    """Check what the lives of a receiver printed: (life of the sender, seq, number of the line) in order.

    `sent`: how many lines each life of the sender was given; `delivered`: how many it said were delivered.
    """
    reached = dict.fromkeys(sent, 0)
    """The highest line that any life has printed, for each life of the sender."""
    for number, printed in enumerate(lives):
        before = (0, 0)
        for life, seq, line in printed:
            if not 1 <= line <= sent.get(life, 0) or seq != line:
                raise Violation(f"invented: line {line} of life {life} as number {seq}")
            if (life, line) <= before:
                raise Violation(f"repeated or reordered: {life}:{line} after {before} in life {number}")
            if life == before[0]:
                if line != before[1] + 1:
                    raise Violation(f"a hole: {life}:{line} after {before} in life {number}")
            elif not reached[life] - limits.WINDOW < line <= reached[life] + 1:
                raise Violation(f"life {number} begins at {life}:{line}, not near {reached[life]}")
            before = (life, line)
            reached[life] = max(reached[life], line)
    for life, count in delivered.items():
        if reached[life] < count:
            raise Violation(f"life {life} heard of {count} delivered lines, printed were {reached[life]}")
    for life, later in zip(sorted(reached), sorted(reached)[1:], strict=False):
        if reached[later] and not reached[life]:
            raise Violation(f"nothing of life {life} was printed, though it was killed in mid-stream")


async def play(seed: int, victims: tuple[str, ...]) -> list[list[tuple[int, int, int]]]:
    """Run a stream, kill who is to be killed, let it end, and check it. Returns what was printed."""
    random = Random(seed)
    moments = sorted(random.sample(range(1, LINES * 3 // 4), len(victims)))
    moved = asyncio.Event()
    server, sender = Server(), Sender(1, lines(1, LINES))
    listeners = [Listener(moved.set)]
    sent, delivered = {1: LINES}, {}
    try:
        await server.start()
        await listeners[-1].start(server.port)
        await sender.start(server.port)
        for victim, moment in zip(victims, moments, strict=True):
            while sum(len(listener.printed) for listener in listeners) < moment:
                moved.clear()
                await asyncio.wait_for(moved.wait(), TIMEOUT)
            if victim == "server":
                server.kill()
                await server.start()
            elif victim == "receiver":
                await listeners[-1].kill()
                listeners.append(Listener(moved.set))
                await listeners[-1].start(server.port)
            else:
                await sender.kill()
                life = sender.life + 1
                sender = Sender(life, lines(life, LINES - moment))
                sent[life] = LINES - moment
                await sender.start(server.port)
        report = await sender.report()
        assert report == {"delivered": sent[sender.life], "stored": 0, "lost": 0}
        delivered[sender.life] = report["delivered"]
        assert await listeners[-1].stop() == 0
    finally:
        server.kill()
        await sender.kill()
        for listener in listeners:
            await listener.kill()
    printed = [[entry_of(printed) for printed in listener.printed] for listener in listeners]
    check(printed, sent, delivered)
    return printed


def lines(life: int, count: int) -> list[str]:
    return [f"{life} {number} {PAD}" for number in range(1, count + 1)]


def entry_of(printed: dict[str, object]) -> tuple[int, int, int]:
    assert printed["from"] == "alice" and isinstance(printed["seq"], int)
    life, number, pad = str(printed["data"]).split()
    assert pad == PAD
    return int(life), printed["seq"], int(number)


def play_round(seed: int) -> None:
    victims = VICTIMS[seed % len(VICTIMS)]
    printed = asyncio.run(asyncio.wait_for(play(seed, victims), 4 * TIMEOUT))
    if victims == ("server",):
        assert printed == [[(1, number, number) for number in range(1, LINES + 1)]], "exactly once, in order"


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_survives_kills(seed: int) -> None:
    play_round(seed)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(1000, 1000 + ROUNDS))
def test_a_stream_survives_many_kills(seed: int) -> None:
    play_round(seed)


def stream(life: int, first: int, last: int) -> list[tuple[int, int, int]]:
    return [(life, number, number) for number in range(first, last + 1)]


def test_the_checker_accepts() -> None:
    check([stream(1, 1, 10)], {1: 10}, {1: 10})
    check([stream(1, 1, 7), stream(1, 5, 10)], {1: 10}, {1: 10})
    check([stream(1, 1, 7), [], stream(1, 8, 9) + stream(2, 1, 5)], {1: 10, 2: 5}, {2: 5})


@pytest.mark.parametrize(
    ("lives", "what"),
    [
        ([stream(1, 1, 9)], "heard of 10"),
        ([stream(1, 1, 11)], "invented"),
        ([stream(1, 1, 5) + stream(1, 5, 10)], "repeated"),
        ([stream(1, 1, 5) + stream(1, 7, 7) + stream(1, 6, 6)], "a hole"),
        ([stream(1, 1, 4) + [(1, 6, 5)] + stream(1, 6, 10)], "invented"),
        ([stream(1, 1, 5) + stream(1, 7, 10)], "a hole"),
        ([stream(1, 1, 5), stream(1, 7, 10)], "begins at"),
        ([stream(1, 2, 10)], "begins at"),
        ([stream(2, 1, 3) + stream(1, 1, 10)], "reordered"),
    ],
)
def test_the_checker_refuses(lives: list[list[tuple[int, int, int]]], what: str) -> None:
    with pytest.raises(Violation, match=what):
        check(lives, {1: 10, 2: 5}, {1: 10})
