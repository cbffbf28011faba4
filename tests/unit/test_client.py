"""The client's life: connecting, coming back, tokens, leaving."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.client_world import FakeServer, make, play, turns

import duolink
from duolink import (
    ClientClosed,
    Forked,
    PeerState,
    Refused,
    State,
    StateChanged,
    Unreachable,
    Unsettled,
)
from duolink.client.transport import HandshakeRefused
from duolink.protocol.messages import Ack, Error, Goodbye, LinkMessage, Ping, Refresh, Refreshed, Watch

Patch = pytest.MonkeyPatch


async def online(client: duolink.Client) -> None:
    async for event in client.events():
        if isinstance(event, StateChanged) and event.state is State.ONLINE:
            return


def test_connects_and_leaves_nothing_behind(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server, token="secret") as client:
            assert client.state == "online"
            assert client.client_id == "alice"
        assert client.state == "closed"
        assert server.hellos[0].token == "secret" and server.hellos[0].client_id == "alice"
        assert [type(message) for message in server.got] == [Goodbye]
        assert server.line.closed_with == 1000
        assert client._driver is not None and client._driver.idle
        with pytest.raises(ClientClosed):
            client.link("bob")
        with pytest.raises(ClientClosed):
            await client.open()
        await client.close()

    play(monkeypatch, work())


def test_first_connect_gives_up_and_says_why(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        server.failures = [ConnectionRefusedError(111, "Connection refused") for _ in range(9)]
        with pytest.raises(Unreachable, match="ws://server:80/ws: Connection refused"):
            await make(server).open()
        assert server.dialled == 5

    play(monkeypatch, work())


@pytest.mark.parametrize(
    ("status", "error", "dialled"), [(404, Refused, 1), (403, Refused, 1), (503, Unreachable, 5)]
)
def test_first_connect_refused_by_http(
    monkeypatch: Patch, status: int, error: type[Exception], dialled: int
) -> None:
    async def work() -> None:
        server = FakeServer()
        server.failures = [HandshakeRefused(status, f"HTTP {status}") for _ in range(9)]
        with pytest.raises(error, match=f"HTTP {status}"):
            await make(server).open()
        assert server.dialled == dialled

    play(monkeypatch, work())


def test_http_errors_do_not_end_a_session(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            server.failures = [HandshakeRefused(404, "HTTP 404")]
            events = client.events()
            server.line.end()
            states = [(await anext(events)).state, (await anext(events)).state]  # type: ignore[union-attr]
            assert states == [State.RECONNECTING, State.ONLINE]

    play(monkeypatch, work())


def test_refused_by_the_server(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()

        def refuse(line: Any, hello: Any) -> bool:
            line.deliver(Error(code="duplicate", message="alice is here", fatal=True))
            line.end(3501, "duplicate")
            return True

        server.on_hello = refuse
        with pytest.raises(Refused) as caught:
            await make(server).open()
        assert (caught.value.code, caught.value.error) == (3501, "duplicate")

    play(monkeypatch, work())


def test_comes_back_with_its_session(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        tokens = iter(["one", "two"])
        async with make(server, token=lambda: next(tokens)) as client:
            heard: list[Any] = []
            client.on_event(heard.append)
            client.link("bob")
            await server.expect(Watch)
            server.line.end(1006, "gone")
            await online(client)
            first, second = server.hellos
            assert (first.token, second.token) == ("one", "two")
            assert first.session == "" and first.run == 0
            assert (second.session, second.secret, second.watch) == ("s1", "secret1", ["bob"])
            assert second.run == client.welcome.run  # type: ignore[union-attr]
            assert heard[:2] == [StateChanged(State.RECONNECTING, 1006, "gone"), StateChanged(State.ONLINE)]

    play(monkeypatch, work())


def test_offline_after_the_resume_window(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            events = client.events()
            server.failures = [OSError("no route")] * 8
            server.line.end()
            states = [(await anext(events)).state for _ in range(3)]  # type: ignore[union-attr]
            assert states == [State.RECONNECTING, State.OFFLINE, State.ONLINE]

    play(monkeypatch, work())


def test_callbacks_of_an_earlier_transport_are_ignored(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            old = server.line
            old.end()
            await online(client)
            old.open = True
            old.deliver(Goodbye(code=3500))
            old.user.closed(old, 3500, "late")
            old.user.alive(old)
            old.user.writable(old)
            await turns()
            assert client.state is State.ONLINE

    play(monkeypatch, work())


def test_terminal_close_ends_everything(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        client = make(server)
        await client.open()
        link = client.link("bob")
        sent = await link.send("x")
        await server.expect(LinkMessage)
        reading = asyncio.create_task(anext(link.messages()))
        asking = asyncio.create_task(link.request("q"))
        events, states = client.events(), link.states()
        await turns()
        server.line.deliver(Error(code="superseded", fatal=True))
        server.line.end(3502, "a newer process")
        for task in (reading, asking):
            with pytest.raises((Refused, duolink.Lost)):
                await task
        with pytest.raises(duolink.Lost) as lost:
            await sent.delivered()
        assert (lost.value.reason, lost.value.certain) == ("superseded", False)
        last = [event async for event in events][-1]
        assert last == StateChanged(State.CLOSED, 3502, "a newer process", "superseded")
        assert [state async for state in states] == [PeerState.AWAY]
        with pytest.raises(Refused):
            await link.send("y")
        with pytest.raises(Refused):
            await anext(client.messages())
        with pytest.raises(Unsettled) as unsettled:
            await client.close()
        assert unsettled.value.count == 2

    play(monkeypatch, work())


def test_who_is_cancelled_while_leaving_cancels_nobody_else(monkeypatch: Patch) -> None:
    """Two tasks close the client; the first is cancelled, which hurries the leaving; the second returns."""

    async def work() -> None:
        server = FakeServer()
        client = make(server, close_timeout=60)
        await client.open()
        await client.link("bob").send("x")
        first, second = (asyncio.create_task(client.close()) for _ in range(2))
        await turns()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(Unsettled):
            await second

    play(monkeypatch, work())


def test_leaving_waits_for_what_is_not_safe(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        loop = asyncio.get_running_loop()
        async with make(server) as client:
            sent = await client.link("bob").send("x")
            await server.expect(LinkMessage)
            loop.call_later(3, server.line.deliver, server.ack("bob", 1))
            began = loop.time()
        assert loop.time() - began == pytest.approx(3)
        assert sent.fate == "delivered"

    play(monkeypatch, work())


def test_leaving_gives_up_after_its_time(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        client = make(server, close_timeout=2)
        await client.open()
        link = client.link("bob")
        sent = [await link.send(number) for number in range(3)]
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unsettled) as caught:
            await client.close()
        assert caught.value.count == 3
        assert 2 <= asyncio.get_running_loop().time() - began < 2.5
        assert {each.fate for each in sent} == {"lost"}
        with pytest.raises(Unsettled):  # the same answer, whoever asks again
            await client.close()

    play(monkeypatch, work())


def test_leaving_with_an_error_does_not_hide_it(monkeypatch: Patch) -> None:
    async def work() -> None:
        async def use() -> None:
            async with make(FakeServer()) as client:
                await client.link("bob").send("x")
                raise KeyError("the application's own")

        with pytest.raises(KeyError):
            await use()

    play(monkeypatch, work())


def test_cancelled_client_leaves_at_once_but_in_order(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()

        async def use() -> None:
            async with make(server) as client:
                await client.link("bob").send("x")
                await asyncio.sleep(100)

        loop = asyncio.get_running_loop()
        task = loop.create_task(use())
        await server.expect(LinkMessage)
        began = loop.time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.time() - began < 0.1
        assert type(server.got[-1]) is Goodbye

    play(monkeypatch, work())


def test_leaving_sends_the_acknowledgements_it_owes(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            server.line.deliver(server.message("bob", 1, "hi"))
            async for message in client.messages():
                assert message.data == "hi"
                break
        kinds = [type(message) for message in server.got]
        assert kinds == [Ack, Goodbye]
        assert server.got[0].seq == 1

    play(monkeypatch, work())


def test_leaving_while_reconnecting_comes_back_to_acknowledge(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            server.line.deliver(server.message("bob", 1, "hi"))
            async for _ in client.messages():
                break
            server.line.end()
        assert [type(message) for message in server.got] == [Ack, Goodbye]
        assert len(server.hellos) == 2

    play(monkeypatch, work())


def test_open_that_is_cancelled_leaves_nothing(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        server.on_hello = lambda line, hello: True  # never answered
        client = make(server)
        task = asyncio.create_task(client.open())
        await turns(10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.state is State.CLOSED and client._driver is not None and client._driver.idle

    play(monkeypatch, work())


def test_a_server_that_never_says_welcome(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        server.on_hello = lambda line, hello: True
        with pytest.raises(Unreachable, match="no welcome"):
            await make(server).open()
        assert [line.closed_with for line in server.lines] == [3004] * 5

    play(monkeypatch, work())


def test_a_dial_that_hangs_is_given_up(monkeypatch: Patch) -> None:
    async def work() -> None:
        async def hang(user: Any) -> None:
            await asyncio.sleep(1000)

        client = duolink.Client("ws://server", "alice", dial=hang)
        with pytest.raises(Unreachable, match="no connection within 10 s"):
            await client.open()

    play(monkeypatch, work())


def test_token_is_refreshed_before_its_end(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer(expires=1_000_000 + 600_000)  # ten minutes of life
        count = 0

        async def token() -> str:
            nonlocal count
            count += 1
            return f"token{count}"

        async with make(server, token=token) as client:
            (refresh,) = await server.expect(Refresh)
            assert refresh.token == "token2"
            began = asyncio.get_running_loop().time()
            server.line.deliver(Refreshed(id=refresh.id, expires=1_000_000 + 540_000 + 240_000))
            refresh = (await server.expect(Refresh, 2))[1]
            assert asyncio.get_running_loop().time() - began == pytest.approx(180, abs=6)
            server.line.deliver(Error(code="unauthorized", id=refresh.id))
            await turns()
            assert client.state is State.ONLINE

    play(monkeypatch, work())


def test_a_token_function_that_raises_is_reported(monkeypatch: Patch) -> None:
    async def work() -> None:
        def token() -> str:
            raise RuntimeError("the vault is shut")

        client = make(FakeServer(), token=token)
        failures: list[Any] = []
        client.on_event(failures.append)
        with pytest.raises(Unreachable, match="the vault is shut"):
            await client.open()
        assert any(isinstance(event, duolink.HandlerFailed) for event in failures)

    play(monkeypatch, work())


def test_a_machine_that_slept_asks_for_life(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server):
            loop = asyncio.get_running_loop()
            await asyncio.sleep(1)
            assert not server.got
            late = SimpleNamespace(time=lambda: loop.time() + 1_000_000 + 3600)
            monkeypatch.setattr("duolink.client.driver.time", late)
            began = loop.time()
            await server.expect(Ping)
            assert loop.time() - began <= 5.0

    play(monkeypatch, work())


def test_a_forked_child_may_not_use_it(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            link = client.link("bob")
            await turns()
            with monkeypatch.context() as child:
                child.setattr("os.getpid", lambda: -1)
                with pytest.raises(Forked):
                    await link.send("x")
                with pytest.raises(Forked):
                    client.link("carol")
            assert not await server_got(server)

    async def server_got(server: FakeServer) -> list[Any]:
        await turns()
        return [message for message in server.got if type(message) is LinkMessage]

    play(monkeypatch, work())


def test_a_listener_that_raises_breaks_nothing(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        heard: list[Any] = []

        def broken(event: Any) -> None:
            raise ValueError("broken")

        client = make(server)
        client.on_event(broken)
        stop = client.on_event(heard.append)
        async with client:
            assert [event.state for event in heard] == [State.CONNECTING, State.ONLINE]
            stop()
            stop()
        assert len(heard) == 2

    play(monkeypatch, work())


@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "ws://",
        "ws://u:p@x",
        "ws://x?token=secret",
        "ws://x/ws?a=1&Access_Token=",
        "tcp://x",
        "tcp://x:1/path",
        "ws://x:99999",
        "nonsense",
        "ws://x#f",
    ],
)
def test_impossible_addresses(url: str) -> None:
    with pytest.raises(ValueError):
        duolink.connect(url, client_id="alice")


def test_addresses() -> None:
    assert duolink.connect("ws://x", client_id="a").address.url == "ws://x:80/ws"
    assert duolink.connect("wss://[::1]:9/p?q=1", client_id="a").address.url == "wss://[::1]:9/p?q=1"
    assert duolink.connect("tcp://x:9", client_id="a").address.url == "tcp://x:9"
    with pytest.raises(ValueError):
        duolink.connect("ws://x", client_id="@a")


def test_public_names() -> None:
    assert {name: getattr(duolink, name) for name in duolink.__all__}.keys() == set(dir(duolink))
    with pytest.raises(AttributeError):
        _ = duolink.nothing
