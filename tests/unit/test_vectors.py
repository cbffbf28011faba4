"""The Python core does what the vectors say; other languages read the same files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from spec import generate, replay

from duolink.protocol import codec
from duolink.protocol.messages import ALLOWED

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"


def cases(name: str) -> list[Any]:
    content = json.loads((VECTORS / name).read_text(encoding="utf-8"))
    assert content["version"] == 1
    return [pytest.param(case, id=case["name"]) for case in content["cases"]]


@pytest.mark.parametrize("case", cases("messages.json"))
def test_messages(case: dict[str, Any]) -> None:
    decoded = replay.decode(case)
    if "kinds" in case:
        assert generate.kinds(decoded) == case["kinds"]
    else:
        assert decoded == case["messages"]


@pytest.mark.parametrize("case", [case for case in cases("messages.json") if "messages" in case.values[0]])
def test_messages_encode_to_what_decodes_to_the_same(case: dict[str, Any]) -> None:
    for fields in case["messages"]:
        if "error" not in fields:
            assert replay.as_object(replay.as_message(fields, case["from"])) == fields


@pytest.mark.parametrize("case", cases("heartbeat.json"))
def test_heartbeat(case: dict[str, Any]) -> None:
    assert replay.heartbeat(case) == [step["then"] for step in case["steps"]]


@pytest.mark.parametrize("case", cases("backoff.json"))
def test_backoff(case: dict[str, Any]) -> None:
    assert replay.backoff(case) == [step["then"] for step in case["steps"]]


@pytest.mark.parametrize("case", cases("link.json"))
def test_link(case: dict[str, Any]) -> None:
    for step, then in zip(case["steps"], replay.link(case), strict=True):
        assert then == step["then"], step


@pytest.mark.parametrize("case", cases("session.json"))
def test_session(case: dict[str, Any]) -> None:
    for step, then in zip(case["steps"], replay.session(case), strict=True):
        assert then == step["then"], step


def test_the_files_are_those_of_the_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that was changed without recording it again, or a file edited by hand, shows here."""
    monkeypatch.setattr(generate, "VECTORS", tmp_path)
    generate.main()
    for written in tmp_path.iterdir():
        assert written.read_text(encoding="utf-8") == (VECTORS / written.name).read_text(encoding="utf-8")


def test_every_type_is_shown_from_every_end_that_may_send_it_and_twice() -> None:
    shown: Counter[tuple[str, str]] = Counter()
    for case in cases("messages.json"):
        values = case.values[0]
        kinds = values.get("kinds") or generate.kinds(values["messages"])
        shown.update((values["from"], kind) for kind in kinds)
    for end, union in ALLOWED.items():
        for struct in union.__args__:
            kind = struct.__struct_config__.tag
            assert shown[end, kind], (end, kind)
            assert sum(count for (_, other), count in shown.items() if other == kind) >= 2, kind


def test_a_drift_of_the_core_turns_the_vectors_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a decoder that forgets a field is noticed."""
    monkeypatch.setattr(codec.Decoder, "text", lambda self, payload: [])
    with pytest.raises(AssertionError):
        test_messages(cases("messages.json")[0].values[0])
