"""The client commands, in process: what they print, and how they end."""

import asyncio
import codecs
import contextlib
import json
import os
import pty
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from tests.unit.client_world import RUN, FakeServer, Line, make

from duolink.cli import terminal
from duolink.cli.channel import publish, subscribe
from duolink.cli.chat import MARKS, Talk, chat
from duolink.cli.screen import Screen
from duolink.cli.terminal import Lines, json_line, printable, text_line, value_of
from duolink.cli.transfer import listen, send
from duolink.client.client import Client
from duolink.client.errors import InvalidData
from duolink.protocol import codec
from duolink.protocol.messages import (
    Ack,
    Error,
    Gap,
    Hello,
    Join,
    Leave,
    LinkMessage,
    PresenceList,
    Publish,
    Published,
    Skip,
    Subscribe,
    Subscribed,
)

Patch = pytest.MonkeyPatch


class Typist:
    """The writing end of a command's standard input."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def type(self, data: bytes) -> None:
        os.write(self._descriptor, data)

    def end(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@pytest.fixture
def typist(monkeypatch: Patch) -> Iterator[Typist]:
    reading, writing = os.pipe()
    monkeypatch.setattr(terminal, "STDIN", reading)
    typist = Typist(writing)
    yield typist
    typist.end()
    for thread in threading.enumerate():
        if thread.name == "stdin":
            thread.join(5)
    os.close(reading)


class Script(FakeServer):
    """A server that does something by itself with what it gets."""

    def __init__(self, act: Any = None) -> None:
        super().__init__()
        self._act = act

    def _handle(self, line: Line, message: Any) -> None:
        super()._handle(line, message)
        if self._act is not None:
            self._act(self, line, message)


@pytest.fixture
def serve(monkeypatch: Patch) -> Any:
    """Have commands connect to a server of the test."""

    def use(server: FakeServer) -> FakeServer:
        monkeypatch.setattr("duolink.client.client.dialler", lambda address, tls: server.dial)
        return server

    return use


def invoke(command: Any, *words: str) -> Any:
    return CliRunner().invoke(command, list(words))


# --- pieces ----------------------------------------------------------------------------------------


def test_lines_come_as_they_are_typed(typist: Typist) -> None:
    async def work() -> list[bytes]:
        return [line async for line in Lines()]

    typist.type(b"one\r\ntwo\n\nun")
    typist.type("ended ü".encode())
    typist.end()
    assert asyncio.run(work()) == [b"one", b"two", b"", "unended ü".encode()]


def test_a_line_too_long_is_an_error(typist: Typist) -> None:
    async def work() -> None:
        async for _ in Lines():
            pass

    threading.Thread(target=typist.type, args=(b"x" * 200_000,), daemon=True).start()
    with pytest.raises(InvalidData):
        asyncio.run(work())


def test_values_of_lines() -> None:
    assert value_of(b'"x"', as_json=False) == '"x"'
    assert bytes(codec.encode_json(value_of(b'{"a": 1.50}', as_json=True))) == b'{"a": 1.50}'
    for line, as_json in ((b"\xff", False), (b"{", True), (b"[" * 70 + b"]" * 70, True)):
        with pytest.raises(InvalidData):
            value_of(line, as_json)


def test_data_as_lines() -> None:
    assert json_line({"from": "ü"}, b'{"a":1e400}', False) == '{"from": "ü", "data": {"a":1e400}}'.encode()
    assert json_line({"seq": 1}, b"", False) == b'{"seq": 1, "data": null}'
    assert json_line({"seq": 1}, b"\x00\xff", True) == b'{"seq": 1, "base64": "AP8="}'
    assert text_line(b'"two\\nlines"', False) == b"two\nlines"
    assert text_line(b"[1]", False) == b"[1]"
    assert text_line(b"\xffraw", True) == b"\\xffraw"
    assert printable("a\x1b[2Jb\tc\n") == "a�[2Jb\tc�"


# --- send and listen ---------------------------------------------------------------------------------


def acknowledge(server: FakeServer, line: Line, message: Any) -> None:
    if isinstance(message, LinkMessage):
        line.deliver(server.ack("bob", message.seq))


def test_send_counts_what_was_delivered(typist: Typist, serve: Any) -> None:
    server = serve(Script(acknowledge))
    typist.type(b"one\ntwo\n")
    typist.end()
    result = invoke(send, "alice", "bob")
    assert (result.exit_code, result.stdout) == (0, "2 delivered, 0 stored, 0 lost\n")
    assert [bytes(each.data) for each in server.got if isinstance(each, LinkMessage)] == [b'"one"', b'"two"']


def test_send_counts_what_is_lost(typist: Typist, serve: Any) -> None:
    def refuse_second(server: FakeServer, line: Line, message: Any) -> None:
        if isinstance(message, LinkMessage) and message.seq == 2:
            line.deliver(Error(code="too_large", to="bob", lane="messages", run=RUN, seq=2))
        elif isinstance(message, LinkMessage) and message.seq == 1:
            line.deliver(server.ack("bob", 1))

    serve(Script(refuse_second))
    typist.type(b"1\n2\n3\n")
    typist.end()
    result = invoke(send, "alice", "bob", "--json", "--timeout", "0.2")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"delivered": 1, "stored": 0, "lost": 2}
    assert "not everything is safe" in result.stderr


def test_send_stops_at_a_line_that_is_no_json(typist: Typist, serve: Any) -> None:
    serve(Script(acknowledge))
    typist.type(b"1\nnonsense\n3\n")
    typist.end()
    result = invoke(send, "alice", "bob", "--json")
    assert result.exit_code == 2 and "line 2" in result.stderr
    assert json.loads(result.stdout) == {"delivered": 1, "stored": 0, "lost": 0}


def test_an_input_that_cannot_be_read_is_an_error_and_no_end(serve: Any, monkeypatch: Patch) -> None:
    serve(Script(acknowledge))
    monkeypatch.setattr(terminal, "STDIN", 99_999)
    result = invoke(send, "alice", "bob")
    assert result.exit_code == 2 and "standard input cannot be read: Bad file descriptor" in result.stderr
    result = invoke(chat, "alice", "bob")
    assert result.exit_code == 2 and "standard input cannot be read" in result.stderr


def test_an_output_that_cannot_be_written_is_one_line(serve: Any, monkeypatch: Patch) -> None:
    def refuse(line: bytes) -> None:
        raise OSError(28, "No space left on device")

    serve(Script(acknowledge))
    monkeypatch.setattr(terminal, "forget_output", lambda: None)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.buffer", SimpleNamespace(write=refuse))
    result = invoke(send, "alice", "bob")
    assert result.exit_code == 1 and "standard output cannot be written" in result.stderr


def test_a_token_that_cannot_travel_is_a_usage_error(serve: Any) -> None:
    serve(FakeServer())
    result = invoke(listen, "bob", "--token", "a\udcff")
    assert result.exit_code == 2 and "a token is ASCII" in result.stderr


def test_data_that_is_no_text_is_refused(serve: Any) -> None:
    serve(FakeServer())
    result = invoke(publish, "room", "--data", "\udcff")
    assert result.exit_code == 2 and "not UTF-8" in result.stderr


def test_send_without_room(typist: Typist, serve: Any) -> None:
    server = FakeServer(window=1)
    serve(server)
    typist.type(b"1\n2\n")
    typist.end()
    result = invoke(send, "alice", "bob", "--timeout", "0.1")
    assert (result.exit_code, result.stdout) == (1, "0 delivered, 0 stored, 2 lost\n")
    assert "no room for line 2" in result.stderr


@pytest.mark.parametrize(
    ("here", "durable", "told"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_send_tells_that_it_waits_itself_for_who_is_away(
    typist: Typist, serve: Any, monkeypatch: Patch, here: bool, durable: bool, told: bool
) -> None:
    monkeypatch.setattr("duolink.cli.transfer.SILENCE", 0.3)
    server = Script()
    if here:
        server.clients["bob"] = None  # type: ignore[assignment]

    def greet(line: Line, hello: Hello) -> bool:
        welcome = server.welcome(hello)
        welcome.durable = durable
        line.deliver(welcome)
        return True

    server.on_hello = greet
    serve(server)
    typist.type(b"1\n")
    typist.end()
    result = invoke(send, "alice", "bob", "--timeout", "0.6")
    assert (result.exit_code, result.stdout) == (1, "0 delivered, 0 stored, 1 lost\n")
    assert ("bob is not here, and this server keeps nothing" in result.stderr) is told


def test_send_that_is_thrown_out(typist: Typist, serve: Any) -> None:
    def throw_out(server: FakeServer, line: Line, message: Any) -> None:
        if isinstance(message, LinkMessage):
            line.deliver(Error(code="superseded", fatal=True))
            line.end(3502, "a newer process")

    serve(Script(throw_out))
    typist.type(b"1\n")
    result = invoke(send, "alice", "bob")
    assert (result.exit_code, result.stdout) == (4, "0 delivered, 0 stored, 1 lost\n")


def test_listen_prints_and_acknowledges(serve: Any) -> None:
    def talk(server: FakeServer, line: Line, hello: Any) -> bool:
        line.deliver(server.welcome(hello))
        line.deliver(
            server.message("bob", 1, "hi"),
            Skip(run=7, seq=2, last=3, base=1, reason="expired", sender="bob"),
            server.message("bob", 4, {"a": 1}),
        )
        return True

    server = serve(FakeServer())
    server.on_hello = lambda line, hello: talk(server, line, hello)
    result = invoke(listen, "alice", "--count", "2", "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"from": "bob", "seq": 1, "data": "hi"},
        {"from": "bob", "seq": 4, "data": {"a": 1}},
    ]
    assert result.exit_code == 0 and "lost from bob: 2 … 3 (expired)" in result.stderr
    assert max(each.seq for each in server.got if isinstance(each, Ack)) == 4
    result = invoke(listen, "alice", "--count", "2", "--from", "bob")
    assert result.stdout == 'hi\n{"a":1}\n'
    assert invoke(listen, "alice", "--count", "0").stdout == ""


def test_wrong_names_and_unreachable_servers(serve: Any, monkeypatch: Patch) -> None:
    serve(FakeServer())
    assert invoke(listen, "@alice").exit_code == 2
    assert invoke(listen, "alice", "--from", "alice").exit_code == 2
    server = serve(FakeServer())
    server.failures = [OSError(111, "Connection refused")] * 9
    monkeypatch.setattr("duolink.client.client.random", lambda: 0.0)
    result = invoke(listen, "alice")
    assert result.exit_code == 3 and "Connection refused" in result.stderr

    def refuse(line: Line, hello: Any) -> bool:
        line.deliver(Error(code="duplicate", fatal=True))
        line.end(3501, "in use")
        return True

    server = serve(FakeServer())
    server.on_hello = refuse
    result = invoke(listen, "alice")
    assert result.exit_code == 4 and "duplicate" in result.stderr


# --- channels ----------------------------------------------------------------------------------------


def log(server: FakeServer, line: Line, message: Any) -> None:
    if isinstance(message, Publish):
        if bytes(message.data) == b'"bad"':
            line.deliver(Error(code="forbidden", id=message.id))
        else:
            line.deliver(Published(id=message.id, epoch="e", offset=message.id))


def test_publish_lines_and_data(typist: Typist, serve: Any) -> None:
    server = serve(Script(log))
    typist.type(b"one\ntwo\n")
    typist.end()
    result = invoke(publish, "room")
    assert (result.exit_code, result.stdout) == (0, "2 published, 0 failed\n")
    assert [bytes(each.data) for each in server.got if isinstance(each, Publish)] == [b'"one"', b'"two"']
    serve(Script(log))
    result = invoke(publish, "room", "--json", "--data", "1", "--data", '"bad"')
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"epoch": "e", "offset": 1},
        {"published": 1, "failed": 1},
    ]
    assert result.exit_code == 1 and "forbidden" in result.stderr
    serve(Script(log))
    result = invoke(publish, "room", "--data", "bad")
    assert (result.exit_code, result.stdout) == (4, "0 published, 1 failed\n")
    serve(Script(log))
    result = invoke(publish, "room", "--json", "--data", "nonsense")
    assert result.exit_code == 2
    assert invoke(publish, "", "--data", "x").exit_code == 2


def recount(server: FakeServer, line: Line, message: Any) -> None:
    if isinstance(message, Subscribe) and message.channels:
        line.deliver(
            Subscribed(channel="room", epoch="e1", offset=5, gap=Gap("evicted", 3, 5), id=message.id),
            PresenceList(channel="room", clients=["x"]),
            Join(channel="room", client_id="y"),
            Leave(channel="room", client_id="x"),
            server.publication("room", 6, "six", time=1),
        )


def test_subscribe_prints_publications_gaps_and_presence(serve: Any) -> None:
    serve(Script(recount))
    words = ["room", "--since", "e0:2", "--count", "1", "--presence"]
    result = invoke(subscribe, *words, "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert {"channel": "room", "present": ["x"]} in lines
    assert {"channel": "room", "joined": "y"} in lines and {"channel": "room", "left": "x"} in lines
    gap = {"reason": "evicted", "first": 3, "last": 5}
    assert {"channel": "room", "gap": gap, "epoch": "e1", "offset": 5} in lines
    publication = {"channel": "room", "epoch": "e1", "offset": 6, "from": "x", "time": 1, "data": "six"}
    assert lines[-1] == publication
    serve(Script(recount))
    result = invoke(subscribe, *words)
    assert result.stdout == "six\n"
    for text in ("missed (evicted): 3 … 5", "here: x", "y joined", "x left"):
        assert text in result.stderr
    assert invoke(subscribe, "room", "--since", "nonsense").exit_code == 2


def test_subscribe_refused(serve: Any) -> None:
    def refuse(server: FakeServer, line: Line, message: Any) -> None:
        if isinstance(message, Subscribe) and message.channels:
            line.deliver(Error(code="forbidden", channel="room", id=message.id))

    serve(Script(refuse))
    result = invoke(subscribe, "room")
    assert result.exit_code == 4 and "forbidden" in result.stderr


# --- chat --------------------------------------------------------------------------------------------


def test_chat_without_a_terminal(typist: Typist, serve: Any) -> None:
    def answer(server: FakeServer, line: Line, message: Any) -> None:
        if isinstance(message, LinkMessage):
            line.deliver(server.ack("bob", message.seq), server.message("bob", 1, "two\nlines"))
            line.loop.call_later(0.05, typist.end)

    serve(Script(answer))
    typist.type(b"hello\n\xff\n")
    result = invoke(chat, "alice", "bob")
    assert (result.exit_code, result.stdout) == (0, "bob: two\nbob: lines\n")
    for text in ("online as alice", "delivered: hello", "not sent"):
        assert text in result.stderr
    assert invoke(chat, "alice", "bob", "--json").exit_code == 2


def test_chat_is_thrown_out(typist: Typist, serve: Any) -> None:
    def throw_out(server: FakeServer, line: Line, message: Any) -> None:
        if isinstance(message, LinkMessage):
            line.end(3505, "go away")

    serve(Script(throw_out))
    typist.type(b"hello\n")
    result = invoke(chat, "alice", "bob")
    assert result.exit_code == 4 and "closed (go away)" in result.stderr
    assert "lost: hello" in result.stderr


class Terminal:
    """A terminal with somebody before it."""

    def __init__(self) -> None:
        self.master, self._slave = pty.openpty()
        os.set_blocking(self.master, False)
        self.stdin = open(self._slave, closefd=False)  # noqa: SIM115
        self.stdout = open(self._slave, "w", closefd=False)  # noqa: SIM115
        self.shown = ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def attach(self, monkeypatch: Patch) -> None:
        """Make it standard input and output; not in a fixture, where pytest has its own in place."""
        monkeypatch.setattr(sys, "stdin", self.stdin)
        monkeypatch.setattr(sys, "stdout", self.stdout)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    async def shows(self, text: str) -> None:
        """Wait until it has shown a text."""
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.master, readable.set)
        try:
            async with asyncio.timeout(5):
                while text not in self.shown:
                    readable.clear()
                    await readable.wait()
                    with contextlib.suppress(BlockingIOError):
                        self.shown += self._decode(os.read(self.master, 65536))
        finally:
            loop.remove_reader(self.master)

    def close(self) -> None:
        self.stdin.close()
        self.stdout.close()
        os.close(self.master)
        os.close(self._slave)


@pytest.fixture
def screen_terminal(monkeypatch: Patch) -> Iterator[Terminal]:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "10")
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_a_screen_keeps_what_is_typed(screen_terminal: Terminal, monkeypatch: Patch) -> None:
    screen_terminal.attach(monkeypatch)

    async def work() -> None:
        entered: list[str] = []
        ended = asyncio.Event()
        typed = asyncio.Event()
        screen = Screen(entered.append, typed.set, ended.set)
        try:
            screen.prompt("me> ", "bob is here")
            screen_terminal.type("half\x1b[A a wörd")
            await screen_terminal.shows("half a wörd")
            line = screen.print("me: first", MARKS["pending"])
            screen.print("news \x1b[2J")
            await screen_terminal.shows("me> half a wörd")
            assert screen.mark(line, "✓✓") and "\x1b[2J" not in screen_terminal.shown
            await screen_terminal.shows("me: first  ✓✓")
            screen_terminal.type("\x17\x7f!\n")
            screen_terminal.type("gone\x15\x0c")
            screen_terminal.type("x" * 60)
            await screen_terminal.shows("me> " + "x" * 35)
            assert entered == ["half !"] or entered == ["half!"]
            for number in range(20):
                screen.print(f"line {number}")
            assert not screen.mark(line, "✗")  # it has left the screen
            screen_terminal.type("\x15\x04")
            await asyncio.wait_for(ended.wait(), 5)
            assert typed.is_set()
        finally:
            screen.close()

    asyncio.run(work())


def test_chat_on_a_terminal(screen_terminal: Terminal, monkeypatch: Patch) -> None:
    screen_terminal.attach(monkeypatch)

    async def work() -> None:
        server = FakeServer(relay=True)
        async with make(server, "alice") as alice, make(server, "bob") as bob:
            talk = Talk(alice, "bob")
            running = asyncio.create_task(talk.run())
            link = bob.link("alice")
            typing = asyncio.Event()
            link.on_ephemeral(lambda data: typing.set())
            link.on_message(lambda message: None)
            await screen_terminal.shows("bob is here")
            screen_terminal.type("hello")
            await asyncio.wait_for(typing.wait(), 5)
            screen_terminal.type("\n")
            await screen_terminal.shows("alice: hello  ✓✓")
            await link.ephemeral({"typing": True})
            await screen_terminal.shows("bob is typing…")
            await link.send("hi there")
            await screen_terminal.shows("bob: hi there")
            await link.send({"not": "text"})
            await screen_terminal.shows('bob: {"not":"text"}')
            server.clients["alice"].end(1006, "cable")
            await screen_terminal.shows("(reconnecting) alice> ")
            screen_terminal.type("\x04")
            await asyncio.wait_for(running, 5)
            await talk.finish()

    asyncio.run(work())


def test_talk_takes_no_more_than_it_can_hold(monkeypatch: Patch, capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        monkeypatch.setattr("duolink.cli.chat.AHEAD", 1)
        client: Client = make(FakeServer())
        talk = Talk(client, "bob")
        talk.enter("one")
        talk.enter("two")

    asyncio.run(work())
    assert "was not taken" in capsys.readouterr().err
