"""`Server(database=…)`: what the application sends waits on disk, and goes on over restarts."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

import duolink
from duolink.server import Server


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 15))


def test_what_the_application_sends_to_an_absent_client_outlives_the_server(tmp_path: Path) -> None:
    database = str(tmp_path / "app.db")

    async def main() -> None:
        async with Server(port=0, database=database) as server:
            for number in range(3):
                sent = await server.link("alice").send(number)
            await sent.stored()
            assert not sent.settled
        async with Server(port=0, database=database) as server:
            await (await server.link("alice").send("from its next life")).stored()
            async with duolink.connect(server.url, client_id="alice") as alice:
                assert alice.welcome is not None and alice.welcome.durable
                heard = []
                async for message in alice.link("$server"):
                    heard.append(message.data)
                    if len(heard) == 4:
                        break
        assert heard == [0, 1, 2, "from its next life"]

    run(main())


def test_the_application_hears_of_a_delivery_from_the_mailbox(tmp_path: Path) -> None:
    async def main() -> None:
        async with Server(port=0, database=str(tmp_path / "app.db")) as server:
            sent = await server.link("alice").send("hello")
            await sent.stored()
            async with duolink.connect(server.url, client_id="alice") as alice:
                async for message in alice.link("$server"):
                    assert message.data == "hello"
                    message.ack()
                    break
                await sent.delivered()

    run(main())


def test_another_database_ends_what_was_stored_as_lost(tmp_path: Path) -> None:
    """Alice has 3 stored for bob; the server comes back with an empty database, while she lives."""

    async def main() -> None:
        first = Server(port=0, database=str(tmp_path / "first.db"))
        async with first:
            alice = duolink.connect(first.url, client_id="alice")
            await alice.open()
            early = [await alice.link("bob").send(number) for number in range(3)]
            await early[-1].stored()
        async with Server(port=first.port, database=str(tmp_path / "second.db")) as second:
            late = await alice.link("bob").send("more")
            await late.stored()
            async with duolink.connect(second.url, client_id="bob") as bob:
                async for message in bob.link("alice").messages(losses=True):
                    if isinstance(message, duolink.MessagesLost):
                        assert message.reason == "storage_lost"
                    else:
                        assert message.data == "more"
                        break
            with pytest.raises(duolink.Lost, match="storage_lost"):
                await early[0].delivered()
            await alice.close()

    run(main())


def test_a_mailbox_full_of_separate_holes_is_drained_to_its_end(tmp_path: Path) -> None:
    """Of 2,400 messages every second one replaces the one before it, which leaves more losses than an
    acknowledgement lists. Their sender, who has gone, settles none of them: bob goes on all the same."""

    async def main() -> None:
        async with Server(port=0, database=str(tmp_path / "app.db")) as server:
            async with duolink.connect(server.url, client_id="alice") as alice:
                link = alice.link("bob")
                for number in range(1200):
                    await link.send(number)
                    last = await link.send("position", collapse="position")
                await last.stored()
            heard: list[Any] = []
            lost = 0
            async with duolink.connect(server.url, client_id="bob") as bob:
                async for message in bob.link("alice").messages(losses=True):
                    if isinstance(message, duolink.MessagesLost):
                        lost += message.last - message.first + 1
                    elif message.data == "position":
                        break
                    else:
                        heard.append(message.data)
            assert heard == list(range(1200)) and lost == 1199

    run(main())


def test_a_user_is_written_to_on_all_his_devices(tmp_path: Path) -> None:
    async def main() -> None:
        async with Server(port=0, database=str(tmp_path / "app.db")) as server:
            phone = duolink.connect(server.url, client_id="bob:phone")
            laptop = duolink.connect(server.url, client_id="bob:laptop")
            async with phone, laptop:
                sent = await server.link("@bob").send("to both")
                for device in (phone, laptop):
                    async for message in device.messages():
                        assert (message.data, message.sender, message.user) == ("to both", "$server", "@bob")
                        break
                await sent.delivered()

    run(main())


def test_channels_keep_their_history_and_state_over_a_restart(tmp_path: Path) -> None:
    database = str(tmp_path / "app.db")

    async def main() -> None:
        async with Server(port=0, database=database) as server:
            first = await server.publish("news", 1)
            await server.set("news", "title", "kept")
        async with Server(port=0, database=database) as server:
            assert (await server.publish("news", 2)).epoch == first.epoch
            async with duolink.connect(server.url, client_id="alice") as alice:
                page = await alice.channel("news").history(10)
                assert [entry.data for entry in page.publications if not entry.name] == [1, 2]
                state = await alice.channel("news").state()
                assert state["title"].value == "kept"

    run(main())


def test_without_a_database_nothing_is_stored() -> None:
    async def main() -> None:
        async with Server(port=0) as server:
            alice = duolink.connect(server.url, client_id="alice", close_timeout=0.0)
            await alice.open()
            assert alice.welcome is not None and not alice.welcome.durable
            sent = await alice.link("bob").send("hello")
            assert sent.fate == "pending"
            with pytest.raises(duolink.Unsettled):
                await alice.close()

    run(main())
