"""Shared state in the SDK: the map at the reader's position, writes, and what a slow reader sees."""

import asyncio
from typing import Any

import pytest
from tests.unit.client_world import FakeServer, Line, make, play, turns

from duolink import (
    Busy,
    ChannelGap,
    Client,
    CommandFailed,
    CommandTimeout,
    Conflict,
    InvalidData,
    Position,
    Publication,
    State,
    StateChanged,
    StateDeleted,
    StateSet,
    Subscription,
)
from duolink.protocol import codec
from duolink.protocol.messages import (
    Error,
    Gap,
    History,
    HistoryPage,
    Published,
    Set,
    Snapshot,
    Subscribe,
    Subscribed,
)
from duolink.protocol.messages import Publication as Wire

Patch = pytest.MonkeyPatch


def value(offset: int, name: str, data: Any, **fields: Any) -> Wire:
    fields.setdefault("sender", "bob")
    return Wire(channel="doc", offset=offset, name=name, data=codec.encode_json(data), **fields)


async def followed(server: FakeServer, number: int, offset: int, *entries: Wire, **answer: Any) -> Subscribe:
    """Wait for the subscribe command of that number, and let its channel stand with a snapshot."""
    command = (await server.expect(Subscribe, number))[number - 1]
    assert command.channels[0].state
    for entry in entries:
        entry.state = True
    head = Subscribed(**{"channel": "doc", "epoch": "e1", "offset": offset, "id": command.id, **answer})
    snapshot = [] if head.recovered else [Snapshot(channel="doc", count=len(entries), id=command.id)]
    server.line.deliver(head, *snapshot, *entries)
    return command


def held(subscription: Subscription) -> dict[str, tuple[Any, int]]:
    return {name: (entry.value, entry.version) for name, entry in subscription.state.items()}


async def cut(server: FakeServer, client: Client) -> None:
    """Cut the connection, and wait until the client is back."""
    events = client.events()
    server.line.end()
    async for event in events:
        if isinstance(event, StateChanged) and event.state is State.ONLINE:
            break
    await turns()


# --- following ---------------------------------------------------------------------------------------


def test_the_state_is_there_when_the_subscription_stands_and_changes_as_items_are_taken(
    monkeypatch: Patch,
) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            answering = asyncio.create_task(
                followed(server, 1, 9, value(3, "title", {"text": "a"}, time=5), value(8, "lock", "bob"))
            )
            async with client.channel("doc").subscribe(state=True) as subscription:
                await answering
                title, view = subscription.state["title"], subscription.state
                assert (title.value, title.version, title.sender, title.time, title.name) == (
                    {"text": "a"}, 3, "bob", 5, "title",
                )  # fmt: skip
                assert subscription.position == Position("e1", 9) and len(view) == 2
                server.line.deliver(
                    value(10, "title", {"text": "b"}),
                    server.publication("doc", 11, "hi"),
                    value(12, "lock", None, deleted=True),
                )
                assert held(subscription)["title"] == ({"text": "a"}, 3), "nothing was taken"
                first = await anext(subscription)
                assert isinstance(first, StateSet) and (first.value, first.version) == ({"text": "b"}, 10)
                assert view["title"] is first and subscription.position == first.position
                second = await anext(subscription)
                assert type(second) is Publication and (second.data, second.name) == ("hi", "")
                assert "lock" in view
                third = await anext(subscription)
                assert isinstance(third, StateDeleted) and (third.name, third.version) == ("lock", 12)
                assert repr(third) == "<StateDeleted 12 of 'doc' by 'bob'>" and view.keys() == {"title"}
                with pytest.raises(TypeError):
                    view["x"] = first  # type: ignore[index]

    play(monkeypatch, work())


def test_bytes_are_values_and_what_is_no_json_says_so(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            binary = value(1, "a", 0, binary=True)
            binary.data = type(binary.data)(b"\x00\n")
            answering = asyncio.create_task(followed(server, 1, 2, binary, value(2, "b", 0)))
            async with client.channel("doc").subscribe(state=True) as subscription:
                await answering
                assert (subscription.state["a"].value, subscription.state["a"].raw) == (b"\x00\n", b"\x00\n")
                impossible = value(3, "b", 0)
                impossible.data = type(impossible.data)(b"1e999")
                server.line.deliver(impossible)
                await anext(subscription)
                with pytest.raises(InvalidData):
                    assert subscription.state["b"].value

    play(monkeypatch, work())


def test_without_state_writes_are_publications_with_a_name_and_there_is_no_map(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            channel = client.channel("doc")
            stream = channel.subscribe()
            reading = asyncio.create_task(anext(stream))
            (command,) = await server.expect(Subscribe)
            assert not command.channels[0].state
            server.line.deliver(
                Subscribed(channel="doc", epoch="e1", offset=0, id=command.id), value(1, "a", "x")
            )
            item = await reading
            assert isinstance(item, Publication) and (item.name, item.data) == ("a", "x")
            assert stream.state == {}
            stream.close()
            asking = asyncio.create_task(channel.history())
            (query,) = await server.expect(History)
            server.line.deliver(
                HistoryPage(id=query.id, channel="doc", epoch="e1", offset=2, count=2),
                value(1, "a", "x", page=query.id),
                value(2, "a", None, page=query.id, deleted=True),
            )
            entries = (await asking).publications
            assert [(type(entry), entry.name) for entry in entries] == [(StateSet, "a"), (StateDeleted, "a")]

    play(monkeypatch, work())


def test_who_follows_the_state_begins_now(monkeypatch: Patch) -> None:
    async def work() -> None:
        async with make(FakeServer()) as client:
            with pytest.raises(ValueError, match="begins now"):
                client.channel("doc").subscribe(state=True, since=Position("e", 1))

    play(monkeypatch, work())


def test_a_reconnect_is_not_seen_when_everything_missed_follows(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()

        def welcomed(line: Line, hello: Any) -> bool:
            line.deliver(server.welcome(hello))
            for wanted in hello.subscriptions or []:
                assert (wanted.epoch, wanted.offset, wanted.state) == ("e1", 4, True)
                line.deliver(
                    Subscribed(channel="doc", epoch="e1", offset=4, recovered=True), value(5, "b", 2)
                )
            return True

        server.on_hello = welcomed
        async with make(server) as client:
            answering = asyncio.create_task(followed(server, 1, 4, value(4, "a", 1)))
            async with client.channel("doc").subscribe(state=True) as subscription:
                await answering
                server.line.end()
                item = await anext(subscription)
                assert isinstance(item, StateSet)
                assert held(subscription) == {"a": (1, 4), "b": (2, 5)}

    play(monkeypatch, work())


def test_after_a_gap_the_state_is_another_one_and_the_gap_is_the_one_event(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()

        def welcomed(line: Line, hello: Any) -> bool:
            line.deliver(server.welcome(hello))
            if hello.subscriptions:
                gap = Gap("evicted", 5, 20)
                line.deliver(
                    Subscribed(channel="doc", epoch="e1", offset=20, gap=gap),
                    Snapshot(channel="doc", count=2),
                    value(18, "b", 2, state=True),
                    value(19, "c", 3, state=True),
                    value(21, "c", 4),
                )
            return True

        server.on_hello = welcomed
        async with make(server) as client:
            heard: list[Any] = []
            client.on_event(lambda event: heard.append(event) if isinstance(event, ChannelGap) else None)
            answering = asyncio.create_task(followed(server, 1, 4, value(4, "a", 1)))
            async with client.channel("doc").subscribe(state=True) as subscription:
                await answering
                view = subscription.state
                server.line.end()
                gap = await anext(subscription)
                assert gap == ChannelGap("doc", "evicted", 5, 20, "e1", 20) and heard == [gap]
                assert held(subscription) == {"b": (2, 18), "c": (3, 19)} and view is subscription.state
                assert subscription.position == Position("e1", 20)
                await anext(subscription)
                assert held(subscription)["c"] == (4, 21)

    play(monkeypatch, work())


def test_a_gap_that_waits_for_its_reader_leaves_the_state_as_it_is(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()

        def welcomed(line: Line, hello: Any) -> bool:
            line.deliver(server.welcome(hello))
            if hello.subscriptions:
                line.deliver(
                    Subscribed(channel="doc", epoch="e2", offset=1, gap=Gap("epoch")),
                    Snapshot(channel="doc", count=1),
                    value(1, "new", 1, state=True),
                )
            return True

        server.on_hello = welcomed
        async with make(server) as client:
            answering = asyncio.create_task(followed(server, 1, 4, value(4, "a", 1)))
            async with client.channel("doc").subscribe(state=True) as subscription:
                await answering
                server.line.deliver(value(5, "a", 2))
                for _ in range(2):  # two snapshots wait, each in the place of its gap
                    await cut(server, client)
                assert held(subscription) == {"a": (1, 4)}
                assert isinstance(await anext(subscription), StateSet)
                assert held(subscription) == {"a": (2, 5)}
                for _ in range(2):
                    assert isinstance(await anext(subscription), ChannelGap)
                    assert held(subscription) == {"new": (1, 1)}
                assert subscription.position == Position("e2", 1) and subscription._bytes == 0

    play(monkeypatch, work())


@pytest.mark.parametrize("gap", [False, True], ids=["everything", "a gap"])
def test_a_slow_reader_gets_what_it_had_no_room_for_or_another_state(monkeypatch: Patch, gap: bool) -> None:
    async def work() -> None:
        monkeypatch.setattr("duolink.client.subscription.QUEUE", 2)
        server = FakeServer()
        async with make(server) as client:
            answering = asyncio.create_task(followed(server, 1, 0))
            async with client.channel("doc").subscribe(state=True) as subscription:
                await answering
                for offset in range(1, 7):
                    server.line.deliver(value(offset, f"n{offset % 2}", offset))
                await anext(subscription)
                await anext(subscription)
                assert held(subscription) == {"n1": (1, 1), "n0": (2, 2)}
                reading = asyncio.create_task(anext(subscription))
                if gap:
                    again = await followed(
                        server, 3, 6, value(5, "n1", 5), value(6, "n0", 6), gap=Gap("evicted", 3, 6)
                    )
                else:
                    again = await followed(server, 3, 2, recovered=True)
                    server.line.deliver(value(3, "n1", 3), value(4, "n0", 4))
                position = again.channels[0]
                assert (position.epoch, position.offset, position.state) == ("e1", 2, True)
                item = await reading
                assert isinstance(item, ChannelGap) is gap
                assert held(subscription) == (
                    {"n1": (5, 5), "n0": (6, 6)} if gap else {"n1": (3, 3), "n0": (2, 2)}
                )

    play(monkeypatch, work())


def test_a_snapshot_for_which_there_is_no_room_is_asked_for_again(monkeypatch: Patch) -> None:
    """It would else wait behind what is unread, one for each connection that was lost."""

    async def work() -> None:
        monkeypatch.setattr("duolink.client.subscription.QUEUE_BYTES", 100)
        server = FakeServer()

        def welcomed(line: Line, hello: Any) -> bool:
            line.deliver(server.welcome(hello))
            if hello.subscriptions:
                line.deliver(
                    Subscribed(channel="doc", epoch="e2", offset=1, gap=Gap("epoch")),
                    Snapshot(channel="doc", count=1),
                    value(1, "big", "x" * 90, state=True),
                    value(2, "big", "y"),
                )
            return True

        server.on_hello = welcomed
        async with make(server) as client:
            heard: list[Any] = []
            client.on_event(lambda event: heard.append(event) if isinstance(event, ChannelGap) else None)
            answering = asyncio.create_task(followed(server, 1, 4, value(4, "a", 1)))
            async with client.channel("doc").subscribe(state=True) as subscription:
                await answering
                server.line.deliver(value(5, "a", "x" * 20))
                await cut(server, client)
                assert heard == [] and isinstance(await anext(subscription), StateSet)
                reading = asyncio.create_task(anext(subscription))
                again = await followed(server, 3, 2, value(2, "big", "y"), epoch="e2", gap=Gap("epoch"))
                assert (again.channels[0].epoch, again.channels[0].offset) == ("e1", 5)
                assert isinstance(await reading, ChannelGap) and len(heard) == 1
                assert held(subscription) == {"big": ("y", 2)}

    play(monkeypatch, work())


# --- writing -----------------------------------------------------------------------------------------


def test_set_and_delete_are_commands_that_go_on_over_a_reconnect(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            channel = client.channel("doc")
            setting = asyncio.create_task(channel.set("title", {"text": "a"}, expect=0))
            (first,) = await server.expect(Set)
            assert (first.channel, first.name, first.expect, bytes(first.data)) == (
                "doc", "title", 0, b'{"text":"a"}',
            )  # fmt: skip
            server.line.end()
            again = (await server.expect(Set, 2))[1]
            assert again.key == first.key != "" and again.age > 0 and again.expect == 0
            server.line.deliver(Published(id=again.id, epoch="e", offset=12))
            assert await setting == 12
            deleting = asyncio.create_task(channel.delete("title", key="mine"))
            command = (await server.expect(Set, 3))[2]
            assert (command.deleted, command.key, bytes(command.data)) == (True, "mine", b"")
            assert isinstance(command.expect, int) is False
            server.line.deliver(Published(id=command.id, epoch="e", offset=13))
            assert await deleting is None  # type: ignore[func-returns-value]
            setting = asyncio.create_task(channel.set("icon", b"\x00\n"))
            command = (await server.expect(Set, 4))[3]
            assert command.binary and bytes(command.data) == b"\x00\n"
            server.line.deliver(Error(code="state_full", id=command.id))
            with pytest.raises(CommandFailed, match="state_full"):
                await setting

    play(monkeypatch, work())


def test_a_conflict_names_the_version_that_is_there(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            for number, (version, text) in enumerate([(7, "has version 7"), (0, "is not there")], 1):
                writing = asyncio.create_task(client.channel("doc").set("title", 1, expect=3))
                command = (await server.expect(Set, number))[-1]
                server.line.deliver(Error(code="conflict", id=command.id, version=version))
                with pytest.raises(Conflict, match=text) as caught:
                    await writing
                assert (caught.value.version, caught.value.code) == (version, "conflict")
                assert isinstance(caught.value, CommandFailed)

    play(monkeypatch, work())


def test_what_cannot_be_written_is_said_at_once(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            channel = client.channel("doc")
            for name in ("", "\n", "x" * 256):
                with pytest.raises(ValueError, match="cannot be a name"):
                    await channel.set(name, 1)
                with pytest.raises(ValueError, match="cannot be a name"):
                    await channel.delete(name)
            with pytest.raises(ValueError, match="cannot be a version"):
                await channel.set("a", 1, expect=-1)
            with pytest.raises(InvalidData):
                await channel.set("a", "x" * 70_000)
            with pytest.raises(ValueError, match="a key"):
                await channel.set("a", 1, key="k" * 65)
            assert not [message for message in server.got if isinstance(message, Set)]

    play(monkeypatch, work())


# --- a look ------------------------------------------------------------------------------------------


def test_the_state_can_be_looked_at_without_staying(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            looking = asyncio.create_task(client.channel("doc").state())
            await followed(server, 1, 4, value(4, "a", 1))
            found = await looking
            assert {name: entry.value for name, entry in found.items()} == {"a": 1}
            assert (await server.expect(Subscribe, 2))[1].channels == []
            with pytest.raises(CommandTimeout):
                await client.channel("doc").state(timeout=2)
            answering = asyncio.create_task(followed(server, 5, 4))
            async with client.channel("doc").subscribe(state=True):
                await answering
                with pytest.raises(Busy):
                    await client.channel("doc").state()

    play(monkeypatch, work())
