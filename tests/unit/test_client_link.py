"""Links: sending, fates, reading, handlers, requests."""

import asyncio
import gc
from typing import Any

import pytest
from tests.unit.client_world import RUN, FakeServer, make, play, turns

from duolink import (
    Busy,
    ClientClosed,
    HandlerFailed,
    InvalidData,
    Lost,
    MessagesLost,
    PeerState,
    RequestFailed,
    RequestTimeout,
    Trouble,
    WindowFull,
)
from duolink.protocol.messages import Ack, Ephemeral, Error, LinkMessage, Peer, Signal, Skip
from duolink.protocol.messages import Stored as StoredMessage

Patch = pytest.MonkeyPatch


def acknowledged(server: FakeServer) -> int:
    return max((message.seq for message in server.got if type(message) is Ack), default=0)


async def acks(server: FakeServer) -> int:
    """The highest number acknowledged when nothing more is due."""
    await asyncio.sleep(0.1)
    return acknowledged(server)


# --- sending -------------------------------------------------------------------------------------


def test_a_message_is_numbered_and_delivered(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            sent = await client.link("bob").send({"hi": 1})
            assert (sent.seq, sent.fate, sent.peer) == (1, "pending", "bob")
            waiting = asyncio.create_task(sent.delivered())
            (message,) = await server.expect(LinkMessage)
            assert bytes(message.data) == b'{"hi":1}' and message.to == "bob" and message.run == RUN
            server.line.deliver(server.ack("bob", 1))
            await waiting
            await sent.stored()
            assert sent.fate == "delivered" and client.link("bob").unsettled == 0

    play(monkeypatch, work())


def test_who_waits_at_once_asks_for_the_acknowledgement(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            link = client.link("bob")

            async def send_and_wait() -> None:
                sent = await link.send(1)
                await sent.delivered()

            waiting = asyncio.create_task(send_and_wait())
            (message,) = await server.expect(LinkMessage)
            await link.send(2)
            second = (await server.expect(LinkMessage, 2))[1]
            assert (message.ask, second.ask) == (True, False)
            server.line.deliver(server.ack("bob", 2))
            await waiting

    play(monkeypatch, work())


def test_stored_then_delivered(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            sent = await client.link("bob").send("x")
            await server.expect(LinkMessage)
            server.line.deliver(StoredMessage(to="bob", run=RUN, seq=1))
            await sent.stored()
            assert sent.fate == "stored" and await sent.resolved() == "stored"
            waiting = asyncio.create_task(sent.delivered())
            await turns()
            assert not waiting.done()
            server.line.deliver(server.ack("bob", 1))
            await waiting

    play(monkeypatch, work())


def test_stored_is_safe_enough_to_leave(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            await client.link("bob").send("x")
            await server.expect(LinkMessage)
            server.line.deliver(StoredMessage(to="bob", run=RUN, seq=1))

    play(monkeypatch, work())


def test_a_refused_message_is_lost(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            sent = await client.link("bob").send("x")
            await server.expect(LinkMessage)
            server.line.deliver(Error(code="forbidden", to="bob", lane="messages", run=RUN, seq=1))
            for wait in (sent.delivered, sent.stored):
                with pytest.raises(Lost) as caught:
                    await wait()
                assert (caught.value.reason, caught.value.certain) == ("refused", True)

    play(monkeypatch, work())


def test_an_expired_message_is_lost(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            server.line.end()
            await turns()
            sent = await client.link("bob").send("x", expires=0.1)
            with pytest.raises(Lost, match="expired"):
                await sent.delivered()
            await asyncio.sleep(1)
            assert not [message for message in server.got if type(message) in (LinkMessage, Skip)]

    play(monkeypatch, work())


def test_the_window_makes_senders_wait_in_turn(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer(window=2)
        async with make(server) as client:
            link = client.link("bob")
            for number in (1, 2):
                await link.send(number)
            with pytest.raises(WindowFull):
                link.try_send("no room")
            waiting = [asyncio.create_task(link.send(number)) for number in (3, 4, 5)]
            await turns()
            assert not any(task.done() for task in waiting)
            server.line.deliver(server.ack("bob", 1))
            await turns()
            assert [task.done() for task in waiting] == [True, False, False]
            assert link.unsettled == 2
            with pytest.raises(WindowFull):  # who waits goes first
                link.try_send("overtakes")
            server.line.deliver(server.ack("bob", 3))
            assert [(await task).seq for task in waiting] == [3, 4, 5]
            messages = await server.expect(LinkMessage, 5)
            assert [bytes(message.data) for message in messages] == [b"1", b"2", b"3", b"4", b"5"]
            server.line.deliver(server.ack("bob", 5))
            assert link.try_send("now").seq == 6
            await server.expect(LinkMessage, 6)
            server.line.deliver(server.ack("bob", 6))

    play(monkeypatch, work())


def test_cancelling_a_send_that_waits_numbers_nothing(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer(window=1)
        async with make(server) as client:
            link = client.link("bob")
            await link.send("first")
            cancelled = asyncio.create_task(link.send("cancelled"))
            third = asyncio.create_task(link.send("third"))
            await turns()
            cancelled.cancel()
            await server.expect(LinkMessage)
            server.line.deliver(server.ack("bob", 1))
            assert (await third).seq == 2
            assert bytes((await server.expect(LinkMessage, 2))[1].data) == b'"third"'
            server.line.deliver(server.ack("bob", 2))

    play(monkeypatch, work())


def test_cancelling_after_numbering_withdraws_nothing(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer(window=1)
        async with make(server) as client:
            link = client.link("bob")
            await link.send("first")
            second = asyncio.create_task(link.send("second"))
            await server.expect(LinkMessage)
            server.line.deliver(server.ack("bob", 1))  # numbers the second …
            second.cancel()  # … whose sender has not run yet
            with pytest.raises(asyncio.CancelledError):
                await second
            await server.expect(LinkMessage, 2)
            server.line.deliver(server.ack("bob", 2))

    play(monkeypatch, work())


def test_cancelling_who_waits_for_delivery_leaves_the_others(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            sent = await client.link("bob").send("x")
            one, two = asyncio.create_task(sent.delivered()), asyncio.create_task(sent.delivered())
            await server.expect(LinkMessage)
            one.cancel()
            await turns()
            server.line.deliver(server.ack("bob", 1))
            await two
            assert one.cancelled()

    play(monkeypatch, work())


def test_a_congested_transport_makes_senders_wait(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            link = client.link("bob")
            server.line.congested = True
            waiting = asyncio.create_task(link.send("x"))
            await turns()
            assert not waiting.done()
            assert not await link.ephemeral("dropped")
            server.line.congested = False
            server.line.user.writable(server.line)
            await waiting
            await server.expect(LinkMessage)
            server.line.deliver(server.ack("bob", 1))

    play(monkeypatch, work())


def test_who_waits_for_room_hears_of_the_end(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer(window=1)
        client = make(server, close_timeout=0)
        await client.open()
        link = client.link("bob")
        await link.send("first")
        waiting = asyncio.create_task(link.send("second"))
        await turns()
        with pytest.raises(Exception, match="1 message was"):
            await client.close()
        with pytest.raises(ClientClosed):
            await waiting
        with pytest.raises(ClientClosed):
            link.try_send("third")

    play(monkeypatch, work())


@pytest.mark.parametrize("value", [object(), {1: {2, 3}.pop}, "x" * 66_000, b"x" * 66_000, "\ud800"])
def test_what_cannot_travel_is_refused_before_it_has_a_number(monkeypatch: Patch, value: Any) -> None:
    async def work() -> None:
        async with make(FakeServer()) as client:
            link = client.link("bob")
            with pytest.raises(InvalidData):
                await link.send(value)
            assert link.unsettled == 0

    play(monkeypatch, work())


def test_unknown_lane_and_impossible_peer(monkeypatch: Patch) -> None:
    async def work() -> None:
        async with make(FakeServer()) as client:
            with pytest.raises(ValueError):
                await client.link("bob").send("x", lane="fast")
            for peer in ("alice", "", "@", "$x"):
                with pytest.raises(ValueError):
                    client.link(peer)

    play(monkeypatch, work())


def test_watching_has_a_limit(monkeypatch: Patch) -> None:
    async def work() -> None:
        async with make(FakeServer()) as client:  # which allows two
            client.link("b")
            client.link("c")
            client.link("b")
            with pytest.raises(ValueError, match="watch=False"):
                client.link("d")
            assert client.link("d", watch=False).state is PeerState.AWAY

    play(monkeypatch, work())


# --- reading -------------------------------------------------------------------------------------


def test_asking_for_the_next_message_finishes_the_one_before(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            server.line.deliver(*(server.message("bob", seq, seq) for seq in (1, 2, 3)))
            seen: list[Any] = []
            async for message in client.link("bob"):
                assert await acks(server) == len(seen)
                seen.append((message.data, message.seq, message.sender, message.run, message.lane))
                if len(seen) == 3:
                    break
            assert await acks(server) == 3
            assert seen[0] == (1, 1, "bob", 7, "messages")

    play(monkeypatch, work())


def test_leaving_the_loop_by_an_error_finishes_the_message(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            server.line.deliver(server.message("bob", 1, 1), server.message("bob", 2, 2))

            async def fail() -> None:
                async for _ in client.link("bob"):
                    raise KeyError

            with pytest.raises(KeyError):
                await fail()
            gc.collect()
            assert await acks(server) == 1
            async for message in client.link("bob"):  # and the next reader goes on
                assert message.data == 2
                break

    play(monkeypatch, work())


def test_acks_by_hand(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            server.line.deliver(server.message("bob", 1, 1), server.message("bob", 2, 2))
            stream = client.link("bob").messages(acks="manual")
            first, second = await anext(stream), await anext(stream)
            second.ack()
            assert await acks(server) == 0
            first.ack()
            first.ack()
            assert await acks(server) == 2
            await stream.aclose()
            with pytest.raises(ValueError):
                client.link("bob").messages(acks="never")

    play(monkeypatch, work())


def test_one_reader_at_a_time(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            link = client.link("bob")
            stream = link.messages()
            reading = asyncio.create_task(anext(stream))
            await turns()
            with pytest.raises(Busy):
                await anext(stream)
            with pytest.raises(Busy):
                await anext(link.messages())
            with pytest.raises(Busy):
                link.on_message(print)
            reading.cancel()
            await turns()
            stream.close()
            server.line.deliver(server.message("bob", 1, "x"))
            assert (await anext(link.messages())).data == "x"

    play(monkeypatch, work())


def test_messages_wait_until_somebody_reads(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            server.line.deliver(server.message("bob", 1, "b1"), server.message("carol", 1, "c1"))
            assert await acks(server) == 0
            carol = client.link("carol").messages()
            assert (await anext(carol)).data == "c1"
            everybody = client.messages()
            assert (await anext(everybody)).data == "b1"
            server.line.deliver(server.message("carol", 2, "c2"), server.message("dave", 1, "d1"))
            assert (await anext(everybody)).data == "d1"  # carol has a reader of her own
            assert (await anext(carol)).data == "c2"
            server.line.deliver(server.message("carol", 3, "c3"))
            carol.close()
            message = await anext(everybody)
            assert (message.data, message.sender, message.link.peer) == ("c3", "carol", "carol")
            assert "Message 3 from 'carol'" in repr(message)
            everybody.close()

    play(monkeypatch, work())


def test_bytes_travel(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer(relay=True)
        async with make(server) as alice, make(server, "bob") as bob:
            await alice.link("bob").send(b"\x00\n\xff")
            async for message in bob.link("alice"):
                assert message.binary and message.data == b"\x00\n\xff" and message.raw == message.data
                break

    play(monkeypatch, work())


def test_json_that_python_cannot_hold(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            message = server.message("bob", 1, 0)
            message.data = type(message.data)(b"1e999")
            server.line.deliver(message)
            got = await anext(client.link("bob").messages())
            with pytest.raises(InvalidData):
                _ = got.data
            assert got.raw == b"1e999"

    play(monkeypatch, work())


def test_losses_are_told(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            heard: list[Any] = []
            client.on_event(heard.append)
            server.line.deliver(
                server.message("bob", 1, "one"),
                Skip(run=7, seq=2, last=2, base=1, reason="expired", sender="bob"),
                Skip(run=7, seq=3, last=4, base=1, reason="expired", sender="bob"),
                server.message("bob", 5, "five"),
            )
            stream = client.link("bob").messages(losses=True)
            items = [await anext(stream) for _ in range(3)]
            assert [items[0].data, items[2].data] == ["one", "five"]
            assert items[1] == MessagesLost("bob", "messages", 2, 4, "expired")
            losses = [event for event in heard if isinstance(event, MessagesLost)]
            assert sum(loss.last - loss.first + 1 for loss in losses) == 3

    play(monkeypatch, work())


def test_losses_of_what_was_sent_to_the_user_are_told_as_that(monkeypatch: Patch) -> None:
    """They are numbered by themselves, and run into no others though the numbers meet."""

    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            lost = Skip(run=7, seq=1, last=1, base=1, reason="expired", sender="bob")
            of_user = Skip(run=7, seq=2, last=2, base=2, reason="expired", sender="bob", user="@me")
            server.line.deliver(lost, of_user)
            stream = client.link("bob").messages(losses=True)
            assert [await anext(stream) for _ in range(2)] == [
                MessagesLost("bob", "messages", 1, 1, "expired"),
                MessagesLost("bob", "messages", 2, 2, "expired", "@me"),
            ]

    play(monkeypatch, work())


def test_what_comes_for_the_user_is_acknowledged_as_his(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            for_user = server.message("bob", 1, "hi")
            for_user.user = "@me"
            server.line.deliver(server.message("bob", 1, "ho"), for_user)
            got = []
            async for message in client.link("bob"):
                got.append((message.data, message.user, message.seq))
                if len(got) == 2:
                    break
            assert got == [("ho", "", 1), ("hi", "@me", 1)]
            assert {ack.user for ack in await server.expect(Ack, 2)} == {"", "@me"}

    play(monkeypatch, work())


def test_what_nobody_reads_is_bounded(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        monkeypatch.setattr("duolink.client.stream.HELD", 3)
        async with make(server) as client:
            heard: list[Any] = []
            client.on_event(heard.append)
            for run in range(1, 6):  # a sender that restarts again and again
                server.line.deliver(server.message("bob", 1, run, run=run))
            stream = client.link("bob").messages()
            assert [(await anext(stream)).data for _ in range(3)] == [3, 4, 5]
            assert [event for event in heard if isinstance(event, MessagesLost)] == [
                MessagesLost("bob", "messages", 1, 1, "overflow")
            ] * 2

    play(monkeypatch, work())


# --- handlers ------------------------------------------------------------------------------------


def test_a_handler_gets_messages_in_order_and_finishes_them(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            seen: list[Any] = []
            server.line.deliver(server.message("bob", 1, 1))
            link = client.link("bob")
            link.on_message(lambda message: seen.append(message.data))
            server.line.deliver(server.message("bob", 2, 2))
            assert seen == [1, 2] and await acks(server) == 2
            link.on_message(None)
            server.line.deliver(server.message("bob", 3, 3))
            assert await acks(server) == 2
            assert (await anext(link.messages())).data == 3

    play(monkeypatch, work())


def test_a_coroutine_handler_runs_one_message_at_a_time(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            trace: list[Any] = []

            async def handler(message: Any) -> None:
                trace.append(("in", message.data))
                await asyncio.sleep(1)
                trace.append(("out", message.data))

            client.on_message(handler)
            server.line.deliver(server.message("bob", 1, 1), server.message("bob", 2, 2))
            assert await acks(server) == 0
            await asyncio.sleep(3)
            assert trace == [("in", 1), ("out", 1), ("in", 2), ("out", 2)]
            assert await acks(server) == 2

    play(monkeypatch, work())


def test_a_handler_that_raises_is_reported_and_the_message_finished(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            failures: list[Any] = []
            client.on_event(failures.append)

            def broken(message: Any) -> None:
                raise KeyError(message.data)

            async def broken_later(message: Any) -> None:
                await asyncio.sleep(0)
                raise KeyError(message.data)

            client.link("bob").on_message(broken)
            client.link("carol").on_message(broken_later)
            server.line.deliver(server.message("bob", 1, 1), server.message("carol", 1, 2))
            await asyncio.sleep(0.1)
            assert {message.to for message in server.got if type(message) is Ack} == {"bob", "carol"}
            errors = [event.error for event in failures if isinstance(event, HandlerFailed)]
            assert [repr(error) for error in errors] == ["KeyError(1)", "KeyError(2)"]

    play(monkeypatch, work())


def test_a_handler_that_is_running_at_the_end_did_not_finish(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            started = asyncio.Event()

            async def handler(message: Any) -> None:
                started.set()
                await asyncio.sleep(1000)

            client.on_message(handler)
            server.line.deliver(server.message("bob", 1, 1))
            await started.wait()
        assert acknowledged(server) == 0

    play(monkeypatch, work())


# --- requests ------------------------------------------------------------------------------------


def test_request_and_answer(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer(relay=True)
        async with make(server) as alice, make(server, "bob") as bob:

            @bob.on_request
            async def answer(message: Any) -> Any:
                await asyncio.sleep(0.01)
                return {"twice": 2 * message.data}

            link = alice.link("bob")
            assert await link.request(4) == {"twice": 8}
            bob.link("alice").on_request(lambda message: message.data.encode())
            assert await link.request("bytes") == b"bytes"

    play(monkeypatch, work())


def test_a_request_that_fails_there(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer(relay=True)
        async with make(server) as alice, make(server, "bob") as bob:
            failures: list[Any] = []
            bob.on_event(failures.append)

            def broken(message: Any) -> None:
                raise ValueError("a secret")

            def refusing(message: Any) -> None:
                raise RequestFailed("no such thing")

            async def broken_later(message: Any) -> Any:
                return object()

            bob.on_request(broken)
            with pytest.raises(RequestFailed, match=r"^the handler failed$"):
                await alice.link("bob").request("x")
            bob.on_request(refusing)
            with pytest.raises(RequestFailed, match=r"^no such thing$"):
                await alice.link("bob").request("x")
            bob.on_request(broken_later)
            with pytest.raises(RequestFailed):
                await alice.link("bob").request("x")
            assert sum(isinstance(event, HandlerFailed) for event in failures) == 2

    play(monkeypatch, work())


def test_a_request_nobody_answers(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer(relay=True)
        async with make(server) as alice, make(server, "bob") as bob:
            bob.on_message(lambda message: None)
            with pytest.raises(RequestFailed, match="no_handler"):
                await alice.link("bob").request("x")
            bob.on_message(lambda message: message.reply("by hand"))
            assert await alice.link("bob").request("x") == "by hand"

            def twice(message: Any) -> None:
                message.reply(1)
                message.reply(2)

            bob.on_message(twice)
            assert await alice.link("bob").request("x") == 1

    play(monkeypatch, work())


def test_a_request_that_came_before_its_handler(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer(relay=True)
        async with make(server) as alice, make(server, "bob") as bob:
            asking = asyncio.create_task(alice.link("bob").request("x"))
            await turns(20)
            bob.on_request(lambda message: "late")
            assert await asking == "late"

    play(monkeypatch, work())


def test_a_request_times_out_and_expires(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            link = client.link("bob")
            with pytest.raises(RequestTimeout):
                await link.request("x", timeout=2)
            (message,) = await server.expect(LinkMessage)
            assert message.deadline == 2000
            reply = server.message("bob", 1, "too late", reply=message.request)
            server.line.deliver(server.ack("bob", 1), reply)
            assert await acks(server) == 1  # finished with, and dropped
            assert not client._requests

    play(monkeypatch, work())


def test_a_request_that_is_lost(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            asking = asyncio.create_task(client.link("bob").request("x"))
            await server.expect(LinkMessage)
            server.line.deliver(Error(code="forbidden", to="bob", lane="messages", run=RUN, seq=1))
            with pytest.raises(Lost, match="refused"):
                await asking

    play(monkeypatch, work())


def test_an_overdue_request_is_not_begun(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            server.line.deliver(server.message("bob", 1, "x", request="r", deadline=1000))
            await asyncio.sleep(2)
            begun: list[Any] = []
            client.on_request(begun.append)
            (refusal,) = await server.expect(LinkMessage)
            assert begun == [] and refusal.failed
            assert (refusal.reply, refusal.ack) == ("r", 1)
            server.line.deliver(server.ack("bob", 1))

    play(monkeypatch, work())


def test_answers_wait_for_room(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer(window=1)
        async with make(server) as client:
            client.on_request(lambda message: message.data)
            server.line.deliver(
                server.message("bob", 1, "a", request="r1", deadline=9000),
                server.message("bob", 2, "b", request="r2", deadline=9000),
            )
            await turns()
            assert len([message for message in server.got if type(message) is LinkMessage]) == 1
            server.line.deliver(server.ack("bob", 1))
            answers = await server.expect(LinkMessage, 2)
            assert [(answer.reply, bytes(answer.data)) for answer in answers] == [
                ("r1", b'"a"'),
                ("r2", b'"b"'),
            ]
            server.line.deliver(server.ack("bob", 2))

    play(monkeypatch, work())


def test_answers_nobody_takes_are_dropped_in_the_end(monkeypatch: Patch) -> None:
    monkeypatch.setattr("duolink.client.link.MAX_ANSWERS", 2)

    async def work() -> None:
        server = FakeServer(window=1)
        async with make(server) as client:
            troubles: list[str] = []
            client.on_event(lambda event: troubles.append(event.code) if isinstance(event, Trouble) else None)
            client.on_request(lambda message: message.data)
            server.line.deliver(
                *(server.message("bob", n, n, request=f"r{n}", deadline=9000) for n in range(1, 6))
            )
            await turns()
            assert troubles == ["overflow", "overflow"]  # of five one is out, and two wait
            for number in range(1, 4):
                await server.expect(LinkMessage, number)
                server.line.deliver(server.ack("bob", number))
            await turns()
            assert client.link("bob").unsettled == 0

    play(monkeypatch, work())


# --- at most once, and the peer --------------------------------------------------------------------


def test_ephemeral_and_signal(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer(relay=True)
        async with make(server) as alice, make(server, "bob") as bob:
            heard: list[Any] = []
            failures: list[Any] = []
            bob.on_event(failures.append)
            link = bob.link("alice")
            link.on_ephemeral(heard.append)

            async def signalled(data: Any) -> None:
                heard.append(data)

            link.on_signal(signalled)
            assert await alice.link("bob").ephemeral({"typing": True})
            assert await alice.link("bob").ephemeral(b"raw")
            assert await alice.link("bob").signal({"sdp": "…"})
            with pytest.raises(InvalidData):
                await alice.link("bob").signal(b"raw")
            await turns(20)
            assert heard == [{"typing": True}, b"raw", {"sdp": "…"}]
            link.on_ephemeral(lambda data: 1 / 0)
            await alice.link("bob").ephemeral(1)
            await turns(20)
            assert any(isinstance(event, HandlerFailed) for event in failures)
            assert {type(message) for message in server.got} >= {Ephemeral, Signal}
            server.line.end()
            await turns()
            assert not await bob.link("alice").ephemeral("nobody there")

    play(monkeypatch, work())


def test_the_state_of_a_peer(monkeypatch: Patch) -> None:
    async def work() -> None:
        server = FakeServer()
        async with make(server) as client:
            link = client.link("bob")
            heard: list[Any] = []
            client.on_event(heard.append)
            states = link.states()
            for state in ("here", "reconnecting", "here"):
                server.line.deliver(Peer(client_id="bob", state=state, run=3, generation=1, attachment=1))
            assert [await anext(states) for _ in range(4)] == ["away", "here", "reconnecting", "here"]
            assert link.state is PeerState.HERE and "bob" in repr(link)
            assert len(heard) == 3
            waiting = asyncio.create_task(anext(states))
            await turns()
            with pytest.raises(Busy):
                await anext(states)
            waiting.cancel()
            states.close()

    play(monkeypatch, work())
