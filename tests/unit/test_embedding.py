"""`Server`, embedded: its hooks, and the application as the client `$server`, with real clients beside it."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

import pytest
import structlog

import duolink
import duolink.server
from duolink.protocol.codec import DataError
from duolink.protocol.messages import LinkMessage
from duolink.server import (
    AuthenticationError,
    Config,
    ConfigError,
    Identity,
    Incoming,
    NotDelivered,
    PublishFailed,
    RequestRefused,
    Server,
    ServerLink,
)
from duolink.server.auth import EVERYTHING
from duolink.server.config import Links
from duolink.server.localclient import MAX_LINKS


@pytest.fixture(autouse=True)
def unconfigured() -> None:
    """An embedding program that has not set structlog up: whatever tests ran before."""
    structlog.reset_defaults()


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main, 15)
        assert len(asyncio.all_tasks()) == 1, "tasks outlive the server"

    asyncio.run(bounded())


def member(token: str | None) -> Identity | None:
    """Let in whoever brings his own name as a token."""
    if token == "trouble":
        raise RuntimeError("the database is down")
    if token == "forged":
        raise AuthenticationError("token_invalid", "the token is forged")
    if token is None:
        return None
    return Identity(user=token, subscribe=EVERYTHING, publish=EVERYTHING, links=EVERYTHING)


def test_the_example_of_its_docstring() -> None:
    async def main() -> None:
        async with Server(port=0) as server:

            @server.on_request
            async def answer(request: Incoming) -> Any:
                return {"you": request.client_id, "asked": request.data}

            position = await server.publish("news", {"hello": "everybody"})
            assert position.offset == 1 and position.epoch
            assert await server.set("news", "headline", "Hello") == 2
            async with duolink.connect(server.url, client_id="alice") as alice:
                assert await alice.link("$server").request("time") == {"you": "alice", "asked": "time"}
                messages = alice.link("$server").messages()
                sent = await server.link("alice").send({"hello": "alice"})
                assert not sent.settled
                async for message in messages:
                    assert message.data == {"hello": "alice"} and message.sender == "$server"
                    break
                await messages.aclose()
                await sent.delivered()
                assert server.link("alice").unsettled == 0

    run(main())


def test_messages_wait_for_a_client_that_is_not_here() -> None:
    async def main() -> None:
        async with Server(port=0) as server:
            sent = [await server.link("alice").send(value) for value in ("one", b"two", {"three": 3})]
            got: list[Any] = []
            async with duolink.connect(server.url, client_id="alice") as alice:
                alice.link("$server").on_message(lambda message: got.append(message.data))
                for each in sent:
                    await each.delivered()
            assert got == ["one", b"two", {"three": 3}]
            assert [each.seq for each in sent] == [1, 2, 3]

    run(main())


def test_a_message_to_nobody_expires() -> None:
    async def main() -> None:
        async with Server(port=0) as server:
            sent = await server.link("nobody").send("hello", expires=0.01)
            with pytest.raises(NotDelivered, match="expired") as lost:
                await sent.delivered()
            assert lost.value.reason == "expired" and lost.value.certain

    run(main())


def test_sending_waits_for_room() -> None:
    async def main() -> None:
        async with Server(port=0, config=Config(links=Links(window=1))) as server:
            link = server.link("alice")
            await link.send(1)
            second = asyncio.create_task(link.send(2))
            await asyncio.sleep(0)
            assert not second.done()
            got: list[Any] = []
            async with duolink.connect(server.url, client_id="alice") as alice:
                alice.link("$server").on_message(lambda message: got.append(message.data))
                await (await second).delivered()
            assert got == [1, 2]

    run(main())


def test_sending_waits_for_room_and_ends_with_the_server() -> None:
    async def main() -> None:
        async with Server(port=0, config=Config(links=Links(window=2))) as server:
            link = server.link("nobody")
            first = await link.send(1)
            await link.send(2)
            third = asyncio.create_task(link.send(3))
            await asyncio.sleep(0)
            assert not third.done()
            waiting = asyncio.create_task(first.delivered())
            fourth = asyncio.create_task(link.send(4))
            await asyncio.sleep(0)
        with pytest.raises(NotDelivered, match="closed"):
            await waiting
        with pytest.raises(RuntimeError):
            await fourth
        with pytest.raises(RuntimeError):
            await third
        with pytest.raises(RuntimeError, match="not running"):
            server.link("alice")
        with pytest.raises(RuntimeError, match="stopped"):
            await link.send(5)

    run(main())


def test_what_clients_send_is_delivered_when_its_handler_is_done() -> None:
    async def main() -> None:
        async with Server(port=0) as server:
            got: list[Any] = []
            release = asyncio.Event()

            @server.on_message
            async def take(message: Incoming) -> None:
                if message.data == "slow":
                    await release.wait()
                got.append((message.client_id, message.data, message.lane, message.seq))

            async with duolink.connect(server.url, client_id="alice") as alice:
                link = alice.link("$server")
                slow = await link.send("slow")
                fast = await link.send(b"fast", lane="bulk")
                await fast.delivered()
                assert slow.fate == "pending"
                release.set()
                await slow.delivered()
                server.on_message(lambda message: got.append(message.data))
                await (await link.send("plain")).delivered()
            assert got == [("alice", b"fast", "bulk", 1), ("alice", "slow", "messages", 1), "plain"]

    run(main())


def test_requests_may_fail_in_every_way(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Server(port=0) as server, duolink.connect(server.url, client_id="alice") as alice:
            link = alice.link("$server")

            async def failure(value: Any) -> str:
                with pytest.raises(duolink.RequestFailed) as failed:
                    await link.request(value)
                return str(failed.value)

            assert "no_handler" in await failure(1)

            @server.on_request
            def answer(request: Incoming) -> Any:
                if request.data == "refuse":
                    raise RequestRefused("not today")
                if request.data == "break":
                    raise KeyError("broken")
                if request.data == "object":
                    return object()
                return b"bytes"

            assert "not today" in await failure("refuse")
            assert "the handler failed" in await failure("break")
            assert "the handler failed" in await failure("object")
            assert await link.request("fine") == b"bytes"

            @server.on_request
            async def answer_later(request: Incoming) -> Any:
                await asyncio.sleep(0)
                raise RequestRefused("never") if request.data else ValueError("broken")

            assert "never" in await failure(1)
            assert "the handler failed" in await failure(0)
            await (await link.send("nobody listens")).delivered()

    run(main())


def test_publishing() -> None:
    async def main() -> None:
        heard: list[tuple[str, str, int, bytes, bool]] = []
        async with Server(port=0, published=lambda *what: heard.append(what)) as server:
            first = await server.publish("news", [1, 2], key="k")
            assert await server.publish("news", [1, 2], key="k") == first
            second = await server.publish("news", b"\0\n")
            assert second == (first.epoch, 2)
            with pytest.raises(PublishFailed) as failed:
                await server.publish("", 1)
            assert failed.value.code == "unknown_channel"
            for value in (object(), "x" * 70_000):
                with pytest.raises(DataError):
                    await server.publish("news", value)
            assert heard == [("news", "$server", 1, b"[1,2]", False), ("news", "$server", 2, b"\0\n", True)]

    run(main())


def test_shared_state() -> None:
    async def main() -> None:
        async with Server(port=0) as server:
            version = await server.set("doc", "title", {"text": "a"}, expect=0)
            for refused in (server.set("doc", "title", 1, expect=9), server.delete("doc", "title", expect=0)):
                with pytest.raises(PublishFailed) as failed:
                    await refused
                assert (failed.value.code, failed.value.version) == ("conflict", version)
            async with duolink.connect(server.url, client_id="alice") as alice:
                channel = alice.channel("doc")
                async with channel.subscribe(state=True) as subscription:
                    entry = subscription.state["title"]
                    assert (entry.value, entry.version, entry.sender) == ({"text": "a"}, version, "$server")
                    await channel.set("title", b"\0\n", expect=version)
                    item = await anext(subscription)
                    assert isinstance(item, duolink.StateSet) and item.value == b"\0\n"
                    await server.delete("doc", "title", expect=item.version)
                    assert isinstance(await anext(subscription), duolink.StateDeleted)
                    assert not subscription.state
                with pytest.raises(duolink.Conflict):
                    await channel.set("title", 1, expect=item.version)
                assert await channel.state() == {}
            for name in ("", "x" * 256):
                with pytest.raises(PublishFailed, match="malformed"):
                    await server.set("doc", name, 1)
            with pytest.raises(DataError):
                await server.set("doc", "title", object())

    run(main())


def test_hooks_decide_and_listen() -> None:
    async def main() -> None:
        heard: list[Any] = []
        gone = asyncio.Event()

        async def disconnected(client_id: str, code: int) -> None:
            heard.append(("disconnected", client_id, code))
            gone.set()

        def authorize(identity: Identity, action: str, channel: str) -> bool | None:
            return False if action == "publish" else None

        def connected(client_id: str, identity: Identity, resumed: bool) -> None:
            heard.append(("connected", client_id, identity.user, resumed))

        server = Server(
            port=0,
            authenticate=member,
            authorize=authorize,
            connected=connected,
            disconnected=disconnected,
            message=lambda *what: heard.append(what),
            ended=lambda client_id: heard.append(("ended", client_id)),
        )
        async with server:
            for bad in (None, "trouble", "forged", "bob"):
                with pytest.raises(duolink.Refused):
                    async with duolink.connect(server.url, client_id="alice", token=bad):
                        pass
            async with duolink.connect(server.url, client_id="alice", token="alice") as alice:
                with pytest.raises(duolink.CommandFailed):
                    await alice.channel("news").publish(1)
                await server.publish("news", 1)
                await (await alice.link("$server").send("hi")).delivered()
                assert server.disconnect("nobody") is False
                heard_before = heard[:]
            await asyncio.wait_for(gone.wait(), 5)
        assert heard_before[0] == ("connected", "alice", "alice", False)
        assert heard_before[1][:3] == ("alice", "$server", "messages")
        assert heard_before[1][4:] == (1, b'"hi"', False)
        assert ("ended", "alice") in heard and any(what[0] == "disconnected" for what in heard)

    run(main())


def test_a_client_can_be_sent_away() -> None:
    async def main() -> None:
        async with Server(port=0) as server:
            alice = duolink.connect(server.url, client_id="alice")
            await alice.open()
            closed = asyncio.Event()
            alice.on_event(lambda event: closed.set() if alice.state is duolink.State.CLOSED else None)
            assert server.disconnect("alice", "enough") is True
            await asyncio.wait_for(closed.wait(), 5)
            await alice.close()

    run(main())


def test_a_hook_that_fails_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def connected(client_id: str, identity: Identity, resumed: bool) -> None:
        raise RuntimeError("broken")

    async def main() -> None:
        async with (
            Server(port=0, connected=connected) as server,
            duolink.connect(server.url, client_id="alice") as alice,
        ):
            await (await alice.link("$server").send("hi")).delivered()

    with caplog.at_level(logging.ERROR):
        run(main())
    assert "a hook raised" in caplog.text and "broken" in caplog.text


def test_idle_links_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duolink.server.localclient.MAX_LINKS", 2)
    assert MAX_LINKS > 2

    async def main() -> None:
        async with Server(port=0) as server:
            busy: ServerLink = server.link("busy")
            await busy.send(1)
            idle = server.link("idle")
            server.link("new")
            assert server.link("busy") is busy
            assert server.link("idle") is not idle

    run(main())


def test_strangers_are_not_heard_while_no_link_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duolink.server.localclient.MAX_LINKS", 1)
    first = LinkMessage(run=1, seq=1, base=1, sender="stranger")

    async def main() -> None:
        async with Server(port=0) as server:
            sent = await server.link("busy").send(1)
            server._app.client.deliver(first)
            assert list(server._app.client.links) == ["busy"]
            async with duolink.connect(server.url, client_id="busy") as busy:
                async for _ in busy.messages():
                    break
                await sent.delivered()
            server._app.client.deliver(first)  # it has not been acknowledged, and comes again
            assert list(server._app.client.links) == ["stranger"]

    run(main())


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="not loopback"):
        Server(host="0.0.0.0")
    Server(host="0.0.0.0", authenticate=member)
    with pytest.raises(RuntimeError):
        Server().link("alice")

    async def main() -> None:
        async with Server(port=0, tcp_port=0) as server:
            assert server.tcp_port and server.http_url.endswith(f":{server.port}/")
            with pytest.raises(ValueError):
                server.link("$server")
            with pytest.raises(ValueError):
                await server.link("alice").send(1, lane="other")
            with pytest.raises(DataError):
                await server.link("alice").send(object())

    run(main())


def test_the_package_imports_only_what_is_used() -> None:
    program = (
        "import sys, duolink.server\n"
        "assert 'duolink.server.app' not in sys.modules\n"
        "assert duolink.server.Server.__name__ == 'Server'\n"
        "assert 'duolink.server.app' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert not hasattr(duolink.server, "Nothing")
