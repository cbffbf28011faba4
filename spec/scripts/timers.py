# ruff: noqa: E501 — tables are easier to read in long lines
"""Scripted histories of a heartbeat and of a backoff."""

from typing import Any

Step = dict[str, Any]

DEFAULT = {"interval": 30.0, "timeout": 10.0, "misses": 3}


def poll(*times: float) -> list[Step]:
    return [{"at": at, "do": "poll"} for at in times]


def alive(at: float) -> Step:
    return {"at": at, "do": "alive"}


def suspect(at: float) -> Step:
    return {"at": at, "do": "suspect"}


HEARTBEATS: list[tuple[str, dict[str, Any], list[Step]]] = [
    ("silence: 3 × 30 + 10 s", DEFAULT, poll(0, 29.9, 30, 39.9, 40, 60, 70, 90, 99.9, 100, 130)),
    ("a life after a ping resets the misses", DEFAULT, [*poll(30, 40, 60), alive(65), *poll(70, 95, 105, 125, 135, 155, 165)]),
    ("life every 20 s: never a ping", DEFAULT, [step for at in range(20, 121, 20) for step in (alive(at), *poll(at))]),
    ("doubt: one miss is enough", DEFAULT, [suspect(5), *poll(5, 14.9, 15, 100)]),
    ("doubt, and an answer", DEFAULT, [suspect(5), *poll(5), alive(6), *poll(15, 36, 46, 66, 76, 96, 106)]),
    ("late polls keep the rhythm", DEFAULT, poll(33, 43, 60, 70, 90, 100)),
    ("a poll after a long sleep", DEFAULT, poll(1000, 1010, 1030, 1040, 1060, 1070)),
    ("timeout as long as the interval", {"interval": 5.0, "timeout": 5.0, "misses": 2}, poll(5, 10, 15, 20)),
    ("one miss", {"interval": 5.0, "timeout": 1.0, "misses": 1}, poll(5, 6, 20)),
]  # fmt: skip

FULL = {"initial": 1.0, "factor": 2.0, "cap": 30.0}


def tries(*randoms: float) -> list[Step]:
    return [{"do": "next", "random": random} for random in randoms]


BACKOFFS: list[tuple[str, dict[str, Any], list[Step]]] = [
    ("the longest delays", FULL, tries(*[0.999999] * 8)),
    ("full jitter", FULL, tries(0, 0.5, 0.25, 0.75, 0.1)),
    ("a reset begins anew", FULL, [*tries(0.5, 0.5, 0.5), {"do": "reset"}, *tries(0.5)]),
    ("factor 1", {"initial": 2.0, "factor": 1.0, "cap": 30.0}, tries(0.5, 0.5, 0.5)),
    ("initial at the cap", {"initial": 30.0, "factor": 2.0, "cap": 30.0}, tries(0.5, 0.5)),
]


def heartbeats() -> list[dict[str, Any]]:
    """The histories of heartbeats without their results."""
    return [{"name": name, "pace": pace, "begin": 0, "steps": steps} for name, pace, steps in HEARTBEATS]


def backoffs() -> list[dict[str, Any]]:
    """The histories of backoffs without their results."""
    return [{"name": name, "options": options, "steps": steps} for name, options, steps in BACKOFFS]
