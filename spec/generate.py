"""Records what the Python core does with the scripts: `python -m spec.generate` writes `spec/vectors/*.json`.

What is recorded is then pinned: the tests replay the files and never write them. Read the difference before
you commit it; every changed line is a changed protocol.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from spec import replay
from spec.scripts import link, messages, session, timers

VECTORS = Path(__file__).parent / "vectors"

LONG = 1000
"""Bytes of a payload above which a case of messages.json tells the types only."""


def kinds(decoded: Iterable[dict[str, Any]]) -> list[str]:
    """The type or the error code of each decoded item."""
    return [str(item.get("type") or item["error"]) for item in decoded]


def message_cases() -> list[dict[str, Any]]:
    """The cases of messages.json. Raises `SystemExit` where the decoder and the script disagree."""
    cases = []
    for case, expected in messages.cases():
        decoded = replay.decode(case)
        if kinds(decoded) != (expected or [str(decoded[0].get("type"))] * len(decoded)):
            raise SystemExit(f"{case['name']}: expected {expected}, got {decoded}")
        long = len(replay.payload(case["payload"])) > LONG
        cases.append(case | ({"kinds": kinds(decoded)} if long else {"messages": decoded}))
    return cases


def played(cases: Iterable[dict[str, Any]], play: Callable[[Any], list[Any]]) -> list[dict[str, Any]]:
    """Histories with the result of each step beside it."""
    return [
        case
        | {"steps": [step | {"then": then} for step, then in zip(case["steps"], play(case), strict=True)]}
        for case in cases
    ]


def write(name: str, cases: list[dict[str, Any]]) -> None:
    """Write one file, a step or a simple case per line, so that differences are readable."""
    lines = []
    for case in cases:
        if "steps" not in case:
            lines.append("  " + json.dumps(case, ensure_ascii=False))
            continue
        head = json.dumps({key: value for key, value in case.items() if key != "steps"}, ensure_ascii=False)
        steps = ",\n    ".join(json.dumps(step, ensure_ascii=False) for step in case["steps"])
        lines.append(f'  {head[:-1]}, "steps": [\n    {steps}\n  ]}}')
    body = ",\n".join(lines)
    (VECTORS / name).write_text(f'{{"version": 1, "cases": [\n{body}\n]}}\n', encoding="utf-8")


def main() -> None:
    """Write all files."""
    write("messages.json", message_cases())
    write("heartbeat.json", played(timers.heartbeats(), replay.heartbeat))
    write("backoff.json", played(timers.backoffs(), replay.backoff))
    write("link.json", played(link.cases(), replay.link))
    write("session.json", played(session.cases(), replay.session))


if __name__ == "__main__":
    main()
