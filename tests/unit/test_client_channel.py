"""Channels: publishing, subscriptions, gaps, slow readers, presence, history."""

import asyncio
import gc
from typing import Any

import pytest
from tests.unit.client_world import FakeServer, make, play, turns

from duolink import (
    Busy,
    ChannelGap,
    Client,
    ClientClosed,
    CommandFailed,
    CommandTimeout,
    Position,
    PresenceChanged,
    Publication,
    State,
    SubscriptionEnded,
)
from duolink.protocol import codec
from duolink.protocol.messages import (
    Ephemeral,
    Error,
    Gap,
    History,
    HistoryPage,
    Join,
    Leave,
    PresenceList,
    PresenceQuery,
    Publish,
    Published,
    Subscribe,
    Subscribed,
    Unsubscribed,
)

Patch = pytest.MonkeyPatch
SEVEN = codec.encode_json(7)


async def subscribed(server: FakeServer, count: int, **answer: Any) -> Subscribe:
    """Wait for the subscribe command of that number, and let its channel stand."""
    command = (await server.expect(Subscribe, count))[count - 1]
    fields = {"channel": "room", "epoch": "e1", "offset": 0, "id": command.id, **answer}
    server.line.deliver(Subscribed(**fields))
    return command


def test_a_subscription_carries_publications(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            channel = client.channel("room")
            assert channel is client.channel("room") and "room" in repr(channel)
            entering = asyncio.create_task(channel.subscribe().__aenter__())
            command = await subscribed(server, 1, offset=4)
            assert [(each.channel, each.epoch) for each in command.channels] == [("room", "")]
            subscription = await entering
            assert subscription.position == Position("e1", 4)
            server.line.deliver(server.publication("room", 5, {"a": 1}, time=9))
            binary = server.publication("room", 6, 0, binary=True)
            binary.data = type(binary.data)(b"\x00")
            server.line.deliver(binary)
            first, second = await anext(subscription), await anext(subscription)
            assert isinstance(first, Publication) and isinstance(second, Publication)
            assert (first.data, first.sender, first.time, first.channel) == ({"a": 1}, "x", 9, "room")
            assert (second.data, second.binary, second.position) == (b"\x00", True, Position("e1", 6))
            assert subscription.position == Position("e1", 6)
            await subscription.__aexit__()
            assert (await server.expect(Subscribe, 2))[1].channels == []
            with pytest.raises(ClientClosed):
                await anext(subscription)

    play(monkeypatch, work())


def test_iterating_over_a_channel_subscribes_for_the_loop(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:

            async def read() -> Any:
                async for item in client.channel("room"):
                    return item

            reading = asyncio.create_task(read())
            await subscribed(server, 1)
            server.line.deliver(server.publication("room", 1, "x"))
            assert (await reading).data == "x"
            gc.collect()
            assert (await server.expect(Subscribe, 2))[1].channels == []

    play(monkeypatch, work())


def test_iterating_uses_the_subscription_there_is(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            channel = client.channel("room")
            answering = asyncio.create_task(subscribed(server, 1))
            async with channel.subscribe(presence=True) as subscription:
                assert (await answering).channels[0].presence
                assert aiter(channel) is subscription
                with pytest.raises(Busy):
                    await channel.subscribe().__aenter__()
                reading = asyncio.create_task(anext(subscription))
                await turns()
                with pytest.raises(Busy):
                    await anext(subscription)
                server.line.deliver(server.publication("room", 1, "x"))
                await reading
            with pytest.raises(Busy):
                await subscription.__aenter__()

    play(monkeypatch, work())


def test_a_reconnect_is_not_seen(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            stream = client.channel("room").subscribe(since=Position("e1", 3))
            reading = asyncio.create_task(anext(stream))
            command = await subscribed(server, 1, offset=3, recovered=True)
            assert (command.channels[0].epoch, command.channels[0].offset) == ("e1", 3)
            server.line.deliver(server.publication("room", 4, 4))
            await reading
            server.line.end()
            async for event in client.events():
                if getattr(event, "state", None) is State.ONLINE:
                    break
            position = server.hellos[1].subscriptions[0]  # type: ignore[index]
            assert (position.channel, position.epoch, position.offset) == ("room", "e1", 4)
            server.line.deliver(
                Subscribed(channel="room", epoch="e1", offset=4, recovered=True),
                server.publication("room", 5, 5),
            )
            item = await anext(stream)
            assert isinstance(item, Publication) and item.offset == 5
            stream.close()

    play(monkeypatch, work())


def test_a_gap_is_named_in_its_place(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            heard: list[Any] = []
            client.on_event(heard.append)
            stream = client.channel("room").subscribe(since=Position("e0", 3))
            reading = asyncio.create_task(anext(stream))
            await subscribed(server, 1, offset=8, gap=Gap("evicted", 4, 8))
            server.line.deliver(server.publication("room", 9, 9))
            gap = ChannelGap("room", "evicted", 4, 8, "e1", 8)
            assert await reading == gap and heard == [gap]
            assert stream.position == Position("e1", 8)
            item = await anext(stream)
            assert isinstance(item, Publication) and item.position == Position("e1", 9)
            stream.close()

    play(monkeypatch, work())


def test_a_slow_reader_recovers_what_it_had_no_room_for(monkeypatch: Patch) -> None:
    async def work() -> None:
        monkeypatch.setattr("duolink.client.subscription.QUEUE", 2)
        server = FakeServer()
        async with make(server) as client:
            stream = client.channel("room").subscribe()
            reading = asyncio.create_task(anext(stream))
            await subscribed(server, 1)
            await turns()
            for offset in range(1, 7):
                server.line.deliver(server.publication("room", offset, offset))
            items = [await reading, await anext(stream)]
            reading = asyncio.create_task(anext(stream))
            # It gives the channel up, and wants it again from where it stands.
            again = await subscribed(server, 3, offset=2, recovered=True)
            assert (again.channels[0].epoch, again.channels[0].offset) == ("e1", 2)
            for offset in range(3, 5):
                server.line.deliver(server.publication("room", offset, offset))
            items += [await reading, await anext(stream)]
            assert [item.offset for item in items] == [1, 2, 3, 4]
            assert not any(isinstance(item, ChannelGap) for item in items)
            stream.close()

    play(monkeypatch, work())


@pytest.mark.parametrize("how", ["refused", "ended"])
def test_a_channel_that_is_not_allowed(monkeypatch: Patch, how: str) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            heard: list[Any] = []
            client.on_event(heard.append)
            entering = asyncio.create_task(client.channel("room").subscribe().__aenter__())
            if how == "refused":
                (command,) = await server.expect(Subscribe)
                server.line.deliver(Error(code="forbidden", channel="room", id=command.id, message="no"))
                with pytest.raises(CommandFailed, match="forbidden: no"):
                    await entering
            else:
                await subscribed(server, 1)
                subscription = await entering
                server.line.deliver(Unsubscribed(channel="room", code="forbidden"))
                with pytest.raises(CommandFailed, match="forbidden"):
                    await anext(subscription)
            assert [type(event) for event in heard] == [SubscriptionEnded]
            assert "room" not in client._session.subscriptions

    play(monkeypatch, work())


def test_presence_is_followed(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            heard: list[Any] = []
            client.on_event(heard.append)
            answering = asyncio.create_task(subscribed(server, 1))
            async with client.channel("room").subscribe(presence=True) as subscription:
                await answering
                server.line.deliver(
                    PresenceList(channel="room", clients=["a", "b"]),
                    Join(channel="room", client_id="c"),
                    Leave(channel="room", client_id="a"),
                )
                assert subscription.present == {"b", "c"}
            assert heard == [
                PresenceChanged("room", frozenset("ab")),
                PresenceChanged("room", frozenset("abc"), joined="c"),
                PresenceChanged("room", frozenset("bc"), left="a"),
            ]

    play(monkeypatch, work())


def test_the_end_of_the_client_ends_subscriptions(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        client = make(server)
        await client.open()
        stream = client.channel("room").subscribe()
        reading = asyncio.create_task(anext(stream))
        await server.expect(Subscribe)
        await client.close()
        with pytest.raises(StopAsyncIteration):
            await reading
        stream.close()

    play(monkeypatch, work())


def test_too_many_subscriptions_and_impossible_names(monkeypatch: Patch) -> None:
    async def work() -> None:
        async with make(FakeServer()) as client:
            client._session.subscriptions.maximum = 0
            with pytest.raises(ValueError, match="at most"):
                await client.channel("room").subscribe().__aenter__()
            with pytest.raises(ValueError):
                client.channel("")

    play(monkeypatch, work())


# --- commands --------------------------------------------------------------------------------------


async def publishing(server: FakeServer, client: Client, **options: Any) -> "asyncio.Task[Position]":
    task = asyncio.create_task(client.channel("room").publish({"x": 1}, **options))
    await server.expect(Publish)
    return task


def test_publish_returns_the_position(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            task = await publishing(server, client)
            (command,) = await server.expect(Publish)
            assert (command.channel, bytes(command.data), command.age) == ("room", b'{"x":1}', 0)
            server.line.deliver(Published(id=command.id, epoch="e", offset=3))
            assert await task == Position("e", 3)
            with pytest.raises(ValueError):
                await client.channel("room").publish(1, key="k" * 65)

    play(monkeypatch, work())


def test_publish_goes_on_over_a_reconnect_with_its_key(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            task = await publishing(server, client, key="mine")
            server.line.end()
            first, again = await server.expect(Publish, 2)
            assert first.key == again.key == "mine" and again.age > 0
            server.line.deliver(Published(id=again.id, epoch="e", offset=1))
            assert await task == Position("e", 1)

    play(monkeypatch, work())


def test_publish_that_fails(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            task = await publishing(server, client)
            (command,) = await server.expect(Publish)
            server.line.deliver(Error(code="uncertain", id=command.id))
            with pytest.raises(CommandFailed) as caught:
                await task
            assert caught.value.code == "uncertain"
            with pytest.raises(CommandTimeout):
                await client.channel("room").publish("x", timeout=2)
            forgotten = asyncio.create_task(client.channel("room").publish("x"))
            await server.expect(Publish, 3)
            forgotten.cancel()
            await turns()
            assert not any(message.id in client._session.commands for message in await server.expect(Publish))
            last = asyncio.create_task(client.channel("room").publish("x"))
            await turns()
        with pytest.raises(ClientClosed):
            await last

    play(monkeypatch, work())


def test_more_commands_than_may_be_pending_wait(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        client = make(server)
        client._commands = asyncio.Semaphore(1)
        async with client:
            one = await publishing(server, client)
            two = asyncio.create_task(client.channel("room").publish(2))
            await turns()
            (command,) = await server.expect(Publish)
            server.line.deliver(Published(id=command.id, epoch="e", offset=1))
            await one
            command = (await server.expect(Publish, 2))[1]
            server.line.deliver(Published(id=command.id, epoch="e", offset=2))
            assert (await two).offset == 2

    play(monkeypatch, work())


def test_history(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            channel = client.channel("room")
            asking = asyncio.create_task(channel.history(2, since=Position("e0", 5)))
            (query,) = await server.expect(History)
            assert (query.epoch, query.offset, query.limit, query.last) == ("e0", 5, 2, False)
            server.line.deliver(
                HistoryPage(id=query.id, channel="room", epoch="e1", offset=9, count=2, gap=Gap("epoch")),
                server.publication("room", 1, "a", page=query.id),
                server.publication("room", 2, "b", page=query.id),
            )
            page = await asking
            assert [entry.data for entry in page.publications] == ["a", "b"]
            assert page.top == Position("e1", 9) and page.gap == ChannelGap("room", "epoch", 0, 0, "e1", 9)
            asking = asyncio.create_task(channel.history())
            query = (await server.expect(History, 2))[1]
            assert query.last and query.limit == 100
            server.line.deliver(HistoryPage(id=query.id, channel="room", epoch="e1", offset=0))
            assert (await asking).publications == () and (await asking).gap is None
            with pytest.raises(ValueError):
                await channel.history(1001)

    play(monkeypatch, work())


def test_presence_question_and_ephemeral(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            channel = client.channel("room")
            asking = asyncio.create_task(channel.presence())
            (query,) = await server.expect(PresenceQuery)
            server.line.deliver(PresenceList(channel="room", clients=["b", "a"], id=query.id))
            assert await asking == ["a", "b"]
            heard: list[Any] = []
            channel.on_ephemeral(lambda data, sender: heard.append((data, sender)))
            server.line.deliver(Ephemeral(channel="room", sender="bob", data=SEVEN))
            assert heard == [(7, "bob")]
            assert await channel.ephemeral("here")
            assert (await server.expect(Ephemeral))[0].channel == "room"

    play(monkeypatch, work())
