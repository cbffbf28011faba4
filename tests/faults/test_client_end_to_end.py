"""Clients and the command line against a real server process: talk, kill, restart, leave, leak."""

import asyncio
import contextlib
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from click.testing import CliRunner

import duolink
from duolink import Options, PeerState, Refused, State, StateChanged, Unreachable
from duolink.cli.demo import Server, demo

HASTY = Options(backoff_initial=0.05, backoff_cap=0.2)


def run(work: Callable[[Server], Coroutine[Any, Any, None]], seconds: float = 30) -> None:
    """Run against a fresh server; no task may be left."""

    async def body() -> None:
        server = Server()
        try:
            async with asyncio.timeout(seconds):
                await server.start()
                await work(server)
        finally:
            server.kill()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(body())


def connect(server: Server, name: str) -> duolink.Client:
    return duolink.connect(f"ws://127.0.0.1:{server.port}", client_id=name, options=HASTY)


async def collect(link: duolink.Link, count: int) -> list[Any]:
    got: list[Any] = []
    async for message in link:
        got.append(message.data)
        if len(got) == count:
            break
    return got


def test_two_clients_talk() -> None:
    async def work(server: Server) -> None:
        async with connect(server, "alice") as alice, connect(server, "bob") as bob:
            there, back = alice.link("bob"), bob.link("alice")
            async for state in there.states():
                if state is PeerState.HERE:
                    break
            back.on_request(lambda message: {"answer": message.data})
            sent = await there.send(["hi", 1, None])
            assert await collect(back, 1) == [["hi", 1, None]]
            await sent.delivered()
            await back.send(b"\x00\xff")
            assert await collect(there, 1) == [b"\x00\xff"]
            assert await there.request("?") == {"answer": "?"}

    run(work)


def test_a_killed_server_loses_nothing_and_repeats_nothing() -> None:
    """kill -9 in the middle of a stream both ways, five times, each time restarted on the same port."""

    async def work(server: Server) -> None:
        count, rounds = 3000, 5
        async with connect(server, "alice") as alice, connect(server, "bob") as bob:
            there, back = alice.link("bob"), bob.link("alice")
            seen = {"alice": 0, "bob": 0}
            moved = asyncio.Event()
            got: dict[str, list[Any]] = {"alice": [], "bob": []}

            def take(name: str) -> Callable[[duolink.Message], None]:
                def handler(message: duolink.Message) -> None:
                    got[name].append(message.data)
                    seen[name] += 1
                    moved.set()

                return handler

            there.on_message(take("alice"))
            back.on_message(take("bob"))

            async def talk(link: duolink.Link) -> None:
                for number in range(count):
                    sent = await link.send(number)
                await sent.delivered()

            talking = [asyncio.create_task(talk(there)), asyncio.create_task(talk(back))]
            for number in range(1, rounds + 1):
                while min(seen.values()) < number * count // (rounds + 1):
                    moved.clear()
                    await moved.wait()
                server.kill()
                await server.start()
            await asyncio.gather(*talking)
            assert got["alice"] == list(range(count))
            assert got["bob"] == list(range(count))

    run(work, 60)


def test_a_cut_connection_is_resumed() -> None:
    async def work(server: Server) -> None:
        async with connect(server, "alice") as alice, connect(server, "bob") as bob:
            events = bob.events()
            before = bob.welcome
            bob.cut()
            sent = [await alice.link("bob").send(number) for number in range(10)]
            assert await collect(bob.link("alice"), 10) == list(range(10))
            await sent[-1].delivered()
            states = [(await anext(events)).state for _ in range(2)]  # type: ignore[union-attr]
            assert states == [State.RECONNECTING, State.ONLINE]
            assert before is not None and bob.welcome is not None
            assert bob.welcome.resumed and bob.welcome.session == before.session

    run(work)


def test_a_name_in_use_is_refused() -> None:
    async def work(server: Server) -> None:
        async with connect(server, "alice") as alice:
            with pytest.raises(Refused) as caught:
                await connect(server, "alice").open()
            assert (caught.value.code, caught.value.error) == (3501, "duplicate")
            assert alice.state is State.ONLINE

    run(work)


def test_no_server() -> None:
    async def work(server: Server) -> None:
        server.kill()
        with pytest.raises(Unreachable):
            await connect(server, "alice").open()

    run(work)


def test_a_server_that_drains_is_left_and_found_again() -> None:
    async def work(server: Server) -> None:
        async with connect(server, "alice") as alice:
            events = alice.events()
            assert server._process is not None
            server._process.terminate()
            change = await anext(events)
            assert isinstance(change, StateChanged) and (change.state, change.code) == (
                State.RECONNECTING,
                1012,
            )
            await asyncio.to_thread(server._process.wait)
            await server.start()
            assert (await anext(events)).state is State.ONLINE  # type: ignore[union-attr]

    run(work)


@pytest.mark.parametrize("cycles", [100, pytest.param(2000, marks=pytest.mark.torture)])
def test_connect_talk_leave_leaks_nothing(cycles: int) -> None:
    async def work(server: Server) -> None:
        async def cycle(number: int) -> None:
            async with connect(server, "alice") as alice:
                sent = await alice.link("bob").send(number)
                await sent.delivered()

        async with connect(server, "bob") as bob:
            bob.on_message(lambda message: None)
            for number in range(20):
                await cycle(number)
            base = usage()
            for number in range(cycles):
                await cycle(number)
            after = usage()
            assert after[:2] == base[:2], "tasks, descriptors"
            assert after[2] - base[2] < 4 * 1024 * 1024, "bytes"

    run(work, 600)


def usage() -> tuple[int, int, int]:
    """Tasks, descriptors and resident bytes."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE")


# --- the command line ------------------------------------------------------------------------------


class Command:
    """A `duolink` command that runs beside the test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr

    async def line(self) -> str:
        """The next line of its standard output."""
        return (await asyncio.wait_for(self.stdout.readline(), 15)).decode().rstrip("\n")

    async def says(self, text: str) -> None:
        """Wait until a line of its standard error contains a text."""
        seen = ""
        while text not in seen:
            line = (await asyncio.wait_for(self.stderr.readline(), 15)).decode()
            assert line, f"no {text!r} in {seen!r}"
            seen += line

    async def type(self, *lines: str) -> None:
        """Write lines to its standard input."""
        for line in lines:
            self.stdin.write(line.encode() + b"\n")
        await self.stdin.drain()

    async def end(self, data: bytes = b"") -> tuple[int, str, str]:
        """Close its standard input, wait: exit code, rest of standard output and error."""
        out, err = await asyncio.wait_for(self.process.communicate(data), 20)
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


@contextlib.asynccontextmanager
async def command(server: Server, *words: str) -> Any:
    pipe = asyncio.subprocess.PIPE
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DUOLINK_")}
    arguments = [*words, "--url", f"ws://127.0.0.1:{server.port}"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "duolink.cli.main", *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=clean
    )  # fmt: skip
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def play(server: Server, *words: str, data: bytes = b"") -> tuple[int, str, str]:
    async with command(server, *words) as it:
        answer: Awaitable[tuple[int, str, str]] = it.end(data)
        return await answer


def test_send_and_listen() -> None:
    async def work(server: Server) -> None:
        assert await play(server, "listen", "bob", "--count", "0") == (0, "", "")
        async with command(server, "listen", "bob", "--json", "--count", "3") as listen:
            data = '"quoted"\nzwei ü\nthree'.encode()
            code, out, _ = await play(server, "send", "alice", "bob", data=data)
            assert (code, out) == (0, "3 delivered, 0 stored, 0 lost\n")
            code, out, _ = await listen.end()
        lines = [json.loads(line) for line in out.splitlines()]
        assert code == 0 and lines == [
            {"from": "alice", "seq": 1, "data": '"quoted"'},
            {"from": "alice", "seq": 2, "data": "zwei ü"},
            {"from": "alice", "seq": 3, "data": "three"},
        ]

    run(work)


def test_send_json_and_listen_from() -> None:
    async def work(server: Server) -> None:
        async with command(server, "listen", "bob", "--from", "alice", "--count", "2") as listen:
            code, out, _ = await play(server, "send", "alice", "bob", "--json", data=b'{"a": 1}\n"text"\n')
            assert code == 0 and json.loads(out) == {"delivered": 2, "stored": 0, "lost": 0}
            assert await listen.end() == (0, '{"a": 1}\ntext\n', "")

    run(work)


def test_send_to_nobody_counts_as_lost() -> None:
    async def work(server: Server) -> None:
        code, out, err = await play(server, "send", "alice", "bob", "--timeout", "0.2", data=b"a\nb\n")
        assert (code, out) == (1, "0 delivered, 0 stored, 2 lost\n")
        assert "not everything is safe" in err

    run(work)


def test_exit_codes() -> None:
    async def work(server: Server) -> None:
        code, out, err = await play(server, "send", "alice", "bob", "--json", data=b"not json\n")
        assert (code, out) == (2, '{"delivered": 0, "stored": 0, "lost": 0}\n') and "line 1" in err
        for words in (
            ("send", "@a", "b"),
            ("send", "a", "a"),
            ("listen", "a", "--count", "-1"),
            ("chat", "a"),
        ):
            code, out, err = await play(server, *words)
            assert (code, out) == (2, ""), (words, err)
            assert "Traceback" not in err
        async with connect(server, "alice"):
            code, _, err = await play(server, "send", "alice", "bob", data=b"x\n")
            assert code == 4 and "duplicate" in err

    run(work)


@pytest.mark.parametrize("signal", [2, 15])
def test_listen_gets_its_acks_out_when_it_is_stopped(signal: int) -> None:
    async def work(server: Server) -> None:
        async with connect(server, "alice") as alice, command(server, "listen", "bob") as listen:
            sent = await alice.link("bob").send("x")
            assert await listen.line() == "x"
            listen.process.send_signal(signal)
            assert await listen.end() == (0, "", "")
            await sent.delivered()

    run(work)


def test_chat_survives_a_killed_server() -> None:
    async def work(server: Server) -> None:
        async with (
            command(server, "chat", "alice", "bob") as alice,
            command(server, "chat", "bob", "alice") as bob,
        ):
            await alice.says("bob is here")
            await bob.says("alice is here")
            await alice.type("one", "two")
            assert [await bob.line(), await bob.line()] == ["alice: one", "alice: two"]
            await alice.says("delivered: two")
            server.kill()
            await alice.says("reconnecting")
            await bob.says("reconnecting")
            await alice.type("three", "four")
            await bob.type("and back")
            await server.start()
            assert [await bob.line(), await bob.line()] == ["alice: three", "alice: four"]
            assert await alice.line() == "bob: and back"
            await alice.says("delivered: four")
            await bob.says("delivered: and back")
            assert (await alice.end())[:2] == (0, "")
            assert (await bob.end())[:2] == (0, "")

    run(work, 60)


def test_chat_tells_what_did_not_arrive() -> None:
    async def work(server: Server) -> None:
        async with command(server, "chat", "alice", "bob") as alice:
            await alice.says("online")
            code, out, err = await alice.end(b"anybody?\n")
            assert code == 1 and out == ""
            assert "lost: anybody?" in err and "1 message was neither" in err

    run(work)


def test_the_demo() -> None:
    result = CliRunner().invoke(demo, [])
    assert result.exit_code == 0, result.output
    assert "all 10 messages arrived once, in order" in result.output


def test_a_demo_whose_claims_do_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duolink.cli.demo.Person._message", lambda self, message: self._changed.set())
    result = CliRunner().invoke(demo, [])
    assert result.exit_code == 1
    assert "not so: three messages sent, three delivered" in result.output
