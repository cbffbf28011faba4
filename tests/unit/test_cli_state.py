"""`duolink state`: what it prints, what it writes, and how it ends."""

import json
from typing import Any

import pytest
from msgspec import Raw
from tests.unit.client_world import Line
from tests.unit.test_cli_client import Script, invoke, serve  # noqa: F401 (a fixture)

from duolink.cli.channel import subscribe
from duolink.cli.state import state
from duolink.protocol import codec
from duolink.protocol.messages import (
    Error,
    Gap,
    Publication,
    Published,
    Set,
    Snapshot,
    Subscribe,
    Subscribed,
    Unsubscribed,
)


def value(offset: int, name: str, data: Any, **fields: Any) -> Publication:
    binary = isinstance(data, bytes)
    raw = Raw(data) if binary else codec.encode_json(data)
    return Publication(
        channel="doc", offset=offset, sender="bob", time=5, name=name, binary=binary, data=raw, **fields
    )


ENTRIES = [value(3, "title", "Plan\n"), value(4, "icon", b"\x00\xff"), value(9, "by", {"who": "bob"})]


def later(line: Line, *messages: Any, turns: int = 20) -> None:
    """Deliver when the command has done what it does at once."""
    if turns:
        line.loop.call_soon(lambda: later(line, *messages, turns=turns - 1))
    else:
        line.deliver(*messages)


def holding(*after: Any) -> Script:
    """A server whose channel has these names; then things happen to it."""

    def act(server: Script, line: Any, message: Any) -> None:
        if isinstance(message, Subscribe) and message.channels:
            assert message.channels[0].state
            for entry in ENTRIES:
                entry.state = True
            line.deliver(
                Subscribed(channel="doc", epoch="e", offset=9, id=message.id),
                Snapshot(channel="doc", count=len(ENTRIES), id=message.id),
                *ENTRIES,
            )
            later(line, *after)

    return Script(act)


def writing(answer: Any) -> Script:
    """A server that answers a write."""

    def act(server: Script, line: Any, message: Any) -> None:
        if isinstance(message, Set):
            answer.id = message.id
            line.deliver(answer)

    return Script(act)


def test_all_names_are_printed_in_order(serve: Any) -> None:  # noqa: F811
    serve(holding())
    result = invoke(state, "doc")
    assert result.exit_code == 0
    assert result.stdout == 'by = {"who":"bob"}\nicon = \x00\\xff\ntitle = Plan\n\n'


def test_all_names_as_json(serve: Any) -> None:  # noqa: F811
    serve(holding())
    lines = [json.loads(line) for line in invoke(state, "doc", "--json").stdout.splitlines()]
    assert lines[0] == {
        "channel": "doc", "name": "by", "version": 9, "from": "bob", "time": 5, "data": {"who": "bob"},
    }  # fmt: skip
    assert (lines[1]["name"], lines[1]["base64"], lines[2]["name"]) == ("icon", "AP8=", "title")


def test_one_name_is_its_value_alone(serve: Any) -> None:  # noqa: F811
    serve(holding())
    result = invoke(state, "doc", "by")
    assert (result.exit_code, result.stdout) == (0, '{"who":"bob"}\n')


def test_a_name_that_is_not_there_ends_with_1(serve: Any) -> None:  # noqa: F811
    serve(holding())
    result = invoke(state, "doc", "lock")
    assert (result.exit_code, result.stdout) == (1, "") and "lock is not there" in result.stderr


def test_watching_tells_every_change_until_it_ends(serve: Any) -> None:  # noqa: F811
    changes = [
        value(10, "by", 1),
        value(11, "title", None, deleted=True),
        Publication(channel="doc", offset=12, sender="bob", data=codec.encode_json("just said")),
        Unsubscribed(channel="doc", code="forbidden"),
    ]
    serve(holding(*changes))
    result = invoke(state, "doc", "--watch")
    assert result.exit_code == 4 and "forbidden" in result.stderr
    assert result.stdout.splitlines()[-2:] == ["by = 1", "title deleted"]
    serve(holding(*changes))
    lines = [json.loads(line) for line in invoke(state, "doc", "--watch", "--json").stdout.splitlines()]
    assert len(lines) == 5 and lines[4] == {
        "channel": "doc", "name": "title", "version": 11, "from": "bob", "time": 5, "deleted": True,
    }  # fmt: skip
    serve(holding(*changes))
    result = invoke(state, "doc", "title", "--watch")
    assert result.stdout == "Plan\n\n" and "title deleted" in result.stderr


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_watching_tells_everything_again_after_a_gap(serve: Any, options: tuple[str, ...]) -> None:  # noqa: F811
    def act(server: Script, line: Any, message: Any) -> None:
        if not isinstance(message, Subscribe) or not message.channels:
            return
        position = message.channels[0]
        if not position.epoch:
            line.deliver(
                Subscribed(channel="doc", epoch="e", offset=1, id=message.id),
                Snapshot(channel="doc", count=0, id=message.id),
            )
            later(line, Unsubscribed(channel="doc", code="gap", resubscribe=True))
        else:
            line.deliver(
                Subscribed(channel="doc", epoch="e", offset=9, id=message.id, gap=Gap("evicted", 2, 9)),
                Snapshot(channel="doc", count=1, id=message.id),
                value(9, "by", 2, state=True),
            )
            later(line, Unsubscribed(channel="doc", code="forbidden"))

    serve(Script(act))
    result = invoke(state, "doc", "--watch", *options)
    if options:
        gap, again = map(json.loads, result.stdout.splitlines())
        assert gap == {"channel": "doc", "gap": {"reason": "evicted", "first": 2, "last": 9}}
        assert (again["name"], again["data"]) == ("by", 2)
    else:
        assert result.stdout == "by = 2\n" and "missed (evicted): 2 … 9" in result.stderr


def test_setting_tells_the_version(serve: Any) -> None:  # noqa: F811
    server = serve(writing(Published(id=0, epoch="e", offset=10)))
    result = invoke(state, "doc", "by", "--set", '{"who": "me"}', "--expect", "9")
    assert (result.exit_code, result.stdout) == (0, "") and "by has version 10" in result.stderr
    (command,) = [message for message in server.got if isinstance(message, Set)]
    assert (command.name, command.expect, json.loads(bytes(command.data))) == ("by", 9, {"who": "me"})
    result = invoke(state, "doc", "by", "--set", "null", "--json")
    assert json.loads(result.stdout) == {"channel": "doc", "name": "by", "version": 10}


def test_deleting(serve: Any) -> None:  # noqa: F811
    server = serve(writing(Published(id=0, epoch="e", offset=10)))
    result = invoke(state, "doc", "by", "--delete", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (
        0, {"channel": "doc", "name": "by", "deleted": True},
    )  # fmt: skip
    assert [message.deleted for message in server.got if isinstance(message, Set)] == [True]


def test_a_conflict_ends_with_1_and_tells_the_version(serve: Any) -> None:  # noqa: F811
    serve(writing(Error(code="conflict", version=12)))
    result = invoke(state, "doc", "by", "--delete", "--expect", "9")
    assert (result.exit_code, result.stdout) == (1, "") and "has version 12" in result.stderr
    result = invoke(state, "doc", "by", "--set", "1", "--expect", "9", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (
        1, {"channel": "doc", "name": "by", "conflict": 12},
    )  # fmt: skip


@pytest.mark.parametrize(("code", "ends"), [("forbidden", 4), ("state_full", 1), ("uncertain", 1)])
def test_a_write_that_is_refused(serve: Any, code: str, ends: int) -> None:  # noqa: F811
    serve(writing(Error(code=code)))
    result = invoke(state, "doc", "by", "--set", "1")
    assert result.exit_code == ends and f"not written: {code}" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("doc", "--set", "1"),
        ("doc", "by", "--set", "1", "--delete"),
        ("doc", "by", "--delete", "--watch"),
        ("doc", "by", "--expect", "1"),
        ("doc", "by", "--set", "{no json"),
        ("doc", "\n", "--set", "1"),
        ("\n", "by", "--set", "1"),
        ("doc", "by", "--set", "1", "--expect", "-1"),
    ],
    ids=lambda words: " ".join(words[1:]).strip() or "nothing",
)
def test_a_wrong_command_line_ends_with_2(serve: Any, words: tuple[str, ...]) -> None:  # noqa: F811
    serve(Script())
    assert invoke(state, *words).exit_code == 2


def test_subscribe_prints_writes_with_their_names(serve: Any) -> None:  # noqa: F811
    def act(server: Script, line: Any, message: Any) -> None:
        if isinstance(message, Subscribe) and message.channels:
            line.deliver(
                Subscribed(channel="doc", epoch="e", offset=0, id=message.id),
                value(1, "by", 1),
                value(2, "by", None, deleted=True),
            )

    serve(Script(act))
    assert invoke(subscribe, "doc", "--count", "2").stdout == "by = 1\nby deleted\n"
    lines = invoke(subscribe, "doc", "--count", "2", "--json").stdout.splitlines()
    assert [(each["name"], each["deleted"]) for each in map(json.loads, lines)] == [
        ("by", False), ("by", True),
    ]  # fmt: skip
