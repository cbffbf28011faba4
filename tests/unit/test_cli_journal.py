"""`duolink send` and `duolink listen` with a journal, command after command."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.client_world import Line
from tests.unit.test_cli_client import Script, invoke

from duolink.cli import terminal
from duolink.cli.transfer import listen, send
from duolink.protocol.messages import Ack, Hello, LinkMessage

Patch = pytest.MonkeyPatch


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return str(tmp_path / "a.journal")


@pytest.fixture
def serve(monkeypatch: Patch) -> Callable[[Script], Script]:
    def use(server: Script) -> Script:
        monkeypatch.setattr("duolink.client.client.dialler", lambda address, tls: server.dial)
        return server

    return use


@pytest.fixture
def give(tmp_path: Path, monkeypatch: Patch) -> Any:
    """Have standard input be a text."""
    opened: list[int] = []

    def as_input(text: str) -> None:
        (tmp_path / "input").write_text(text)
        opened.append(os.open(tmp_path / "input", os.O_RDONLY))
        monkeypatch.setattr(terminal, "STDIN", opened[-1])

    yield as_input
    for descriptor in opened:
        os.close(descriptor)


def acknowledge_up_to(last: int) -> Callable[[Any, Line, Any], None]:
    def act(server: Any, line: Line, message: Any) -> None:
        if isinstance(message, LinkMessage) and message.seq <= last:
            line.deliver(server.ack("bob", message.seq))

    return act


def bodies(server: Script) -> list[tuple[int, str]]:
    return [(each.seq, json.loads(bytes(each.data))) for each in server.got if isinstance(each, LinkMessage)]


def test_send_goes_on_where_it_was(serve: Any, give: Any, journal: str) -> None:
    server = serve(Script(acknowledge_up_to(1)))
    give("one\ntwo\n")
    result = invoke(send, "alice", "bob", "--journal", journal, "--timeout", "0.2")
    assert (result.exit_code, result.stdout) == (1, "1 delivered, 0 stored, 0 lost, 1 kept\n")

    server = serve(Script(acknowledge_up_to(9)))
    give("one\ntwo\nthree\n")
    result = invoke(send, "alice", "bob", "--journal", journal, "--json")
    assert result.exit_code == 2 and "line 3" in result.stderr, "a line that is no JSON"
    assert json.loads(result.stdout) == {"delivered": 1, "stored": 0, "lost": 0, "kept": 0}
    assert "going on after line 2; 1 before it are under way" in result.stderr
    assert bodies(server) == [(2, "two")]

    server = serve(Script(acknowledge_up_to(9)))
    give("one\ntwo\nthree\n")
    result = invoke(send, "alice", "bob", "--journal", journal)
    assert (result.exit_code, result.stdout) == (0, "1 delivered, 0 stored, 0 lost, 0 kept\n")
    assert bodies(server) == [(3, "three")]

    server = serve(Script(acknowledge_up_to(9)))
    give("one\ntwo\nthree\n")
    result = invoke(send, "alice", "bob", "--journal", journal)
    assert (result.exit_code, result.stdout) == (0, "0 delivered, 0 stored, 0 lost, 0 kept\n")
    assert bodies(server) == []


def test_a_line_without_room_is_taken_by_the_next_command(serve: Any, give: Any, journal: str) -> None:
    server = Script()
    server.window = 1
    serve(server)
    give("one\ntwo\n")
    result = invoke(send, "alice", "bob", "--journal", journal, "--timeout", "0.1")
    assert (result.exit_code, result.stdout) == (1, "0 delivered, 0 stored, 0 lost, 1 kept\n")
    server = serve(Script(acknowledge_up_to(9)))
    give("one\ntwo\n")
    result = invoke(send, "alice", "bob", "--journal", journal)
    assert (result.exit_code, result.stdout) == (0, "2 delivered, 0 stored, 0 lost, 0 kept\n")
    assert bodies(server) == [(1, "one"), (2, "two")]


def test_a_journal_that_cannot_be_used_is_a_wrong_command(serve: Any, give: Any, journal: str) -> None:
    serve(Script(acknowledge_up_to(9)))
    give("one\n")
    assert invoke(send, "alice", "bob", "--journal", journal).exit_code == 0
    result = invoke(listen, "bob", "--journal", journal)
    assert result.exit_code == 2 and "is the journal of 'alice', not of 'bob'" in result.stderr


def test_listen_prints_once(serve: Any, tmp_path: Path) -> None:
    server: Script

    def say(script: Script, line: Line, hello: Hello) -> bool:
        line.deliver(script.welcome(hello))
        line.deliver(*(script.message("alice", seq, seq) for seq in (1, 2, 3)))
        return True

    journal = str(tmp_path / "b.journal")
    for count, printed in ((2, "1\n2\n"), (1, "3\n")):
        server = serve(Script())
        server.on_hello = lambda line, hello, server=server: say(server, line, hello)  # type: ignore[misc]
        result = invoke(listen, "bob", "--count", str(count), "--journal", journal)
        assert (result.exit_code, result.stdout) == (0, printed)
        assert [each.seq for each in server.got if isinstance(each, Ack)][-1] == int(printed[-2])
