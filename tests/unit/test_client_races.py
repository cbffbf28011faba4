"""Interleavings and inputs that once went wrong in the client; each test names its own."""

import asyncio
from contextlib import suppress

import pytest
from tests.unit.client_world import FakeServer, make, play, turns

from duolink.client.errors import (
    ClientClosed,
    CommandFailed,
    CommandTimeout,
    RequestFailed,
    Unreachable,
    Unsettled,
)
from duolink.client.events import HandlerFailed
from duolink.client.publication import Position
from duolink.protocol import codec, limits
from duolink.protocol.messages import Ack, Error, LinkMessage, Publish, Refresh, Subscribe, Watch
from duolink.protocol.options import Options


def world(monkeypatch, use, server=None, **arguments):
    """Use a client of a server that does nothing by itself."""
    server = server or FakeServer()

    async def body():
        with suppress(Unsettled):
            async with make(server, close_timeout=0, **arguments) as alice:
                await use(server, alice)

    play(monkeypatch, body())


def finished(server):
    """How far the client has acknowledged."""
    return max(
        (m.seq if isinstance(m, Ack) else m.ack for m in server.got if isinstance(m, Ack | LinkMessage)),
        default=0,
    )


def cancelled():
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    return future


def test_who_is_cancelled_in_the_turn_of_the_acknowledgement_hears_that_and_nothing_else(monkeypatch):
    async def use(server, alice):
        sent = await alice.link("bob", watch=False).send(1)
        await server.expect(LinkMessage)
        task = asyncio.create_task(sent.delivered())
        await turns()
        task.cancel()
        server.line.deliver(server.ack("bob", 1))  # the same turn
        with pytest.raises(asyncio.CancelledError):
            await task

    world(monkeypatch, use)


def test_who_waits_for_a_congested_connection_goes_on_with_the_next_one(monkeypatch):
    async def use(server, alice):
        server.line.congested = True
        task = asyncio.create_task(alice.link("bob", watch=False).send(1))
        await turns()
        online = asyncio.Event()
        alice.on_event(lambda event: online.set() if getattr(event, "state", "") == "online" else None)
        server.line.end()
        await online.wait()
        await turns()  # at once: not with the next timer
        done = task.done()
        task.cancel()
        await turns()
        assert done

    world(monkeypatch, use)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_handler_that_waits_for_what_was_cancelled_has_failed_and_no_more(monkeypatch, asynchronous):
    async def use(server, alice):
        shared, got = cancelled(), []

        async def later(message):
            got.append(message.data)
            if message.data == 1:
                await shared

        def now(message):
            got.append(message.data)
            if message.data == 1:
                shared.result()

        alice.on_message(later if asynchronous else now)
        with suppress(asyncio.CancelledError):
            server.line.deliver(server.message("bob", 1, 1), server.message("bob", 2, 2))
        await asyncio.sleep(5)
        assert (got, finished(server)) == ([1, 2], 2)

    world(monkeypatch, use)


def test_a_request_handler_that_waits_for_what_was_cancelled_has_failed_and_no_more(monkeypatch):
    async def use(server, alice):
        shared = cancelled()

        @alice.on_request
        async def handler(message):
            await shared

        server.line.deliver(server.message("bob", 1, 1, request="r"))
        await asyncio.sleep(5)
        assert [m.reply for m in server.got if isinstance(m, LinkMessage)] == ["r"] and finished(server) == 1

    world(monkeypatch, use)


def test_a_token_that_waits_for_what_was_cancelled_is_asked_for_again(monkeypatch):
    calls = []

    async def token():
        calls.append(1)
        if len(calls) == 2:
            await cancelled()
        return "t"

    async def use(server, alice):
        server.line.end()
        await asyncio.sleep(600)
        assert alice.state == "online", (alice.state, len(calls))

    world(monkeypatch, use, token=token)


def test_a_handler_that_closes_the_client_goes_on(monkeypatch):
    async def body():
        server, after = FakeServer(), asyncio.Event()
        alice = make(server)
        await alice.open()

        @alice.on_message
        async def handler(message):
            await alice.close()
            after.set()

        server.line.deliver(server.message("bob", 1, "stop"))
        await asyncio.sleep(10)
        assert alice.state == "closed" and after.is_set()

    play(monkeypatch, body())


def test_a_request_to_ones_own_user_comes_to_oneself_and_is_not_answered(monkeypatch):
    async def use(server, alice):
        got = []

        async def read():
            async for message in alice.messages():
                got.append(message.data)

        task = asyncio.create_task(read())
        await turns()
        server.line.deliver(
            server.message("alice", 1, 1, user="@alice", request="r"),
            server.message("alice", 2, 2, user="@alice"),
        )
        await asyncio.sleep(3)
        error = task.exception() if task.done() else None
        task.cancel()
        await turns()
        assert error is None and got == [1, 2] and finished(server) >= 1, (error, got)

    world(monkeypatch, use)


def test_a_failure_whose_text_cannot_travel_is_answered_as_far_as_it_can(monkeypatch):
    async def use(server, alice):
        got = []

        @alice.on_request
        def handler(message):
            raise RequestFailed("no file b\udcff")

        alice.on_message(lambda m: got.append(m.data))
        with suppress(ValueError):
            server.line.deliver(server.message("bob", 1, 1, request="r"), server.message("bob", 2, 2))
        await asyncio.sleep(3)
        assert (got, finished(server)) == ([2], 2)

    world(monkeypatch, use)


@pytest.mark.parametrize("expires", [float("nan"), 1e14])
def test_a_time_that_the_wire_cannot_carry_is_for_ever_or_refused(monkeypatch, expires):
    class Tolerant(FakeServer):
        bad = None

        def took(self, line, payload, binary):
            for part in payload.split(b"\n"):
                if isinstance(codec.CLIENT.text(part)[0], codec.Malformed):
                    self.bad = part
                else:
                    super().took(line, part, binary)

    async def use(server, alice):
        with suppress(ValueError):
            await alice.link("bob", watch=False).send(1, expires=expires)
            await turns(20)
            assert server.bad is None, server.bad
            assert [m.seq for m in server.got if isinstance(m, LinkMessage)] == [1]

    world(monkeypatch, use, Tolerant())


def test_a_request_may_wait_for_ever(monkeypatch):
    async def use(server, alice):
        task = asyncio.create_task(alice.link("bob", watch=False).request(1, timeout=float("inf")))
        await turns(20)
        done = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not done

    world(monkeypatch, use)


def test_a_handler_gets_nothing_that_it_could_not_finish_with_any_more(monkeypatch):
    async def use(server, alice):
        got, gate = [], asyncio.Event()

        @alice.on_message
        async def handler(message):
            got.append((message.data, str(alice.state)))
            await gate.wait()

        server.line.deliver(server.message("bob", 1, 1), server.message("bob", 2, 2))
        await turns()
        server.line.end(3505, "go")
        await turns()
        gate.set()
        await turns(20)
        assert got == [(1, "online")]

    world(monkeypatch, use)


def test_a_refresh_without_an_answer_does_not_follow_a_fresher_hello(monkeypatch):
    tokens = iter(f"t{n}" for n in range(100))

    async def use(server, alice):
        [refresh] = await server.expect(Refresh)
        assert refresh.token == "t1"
        server.line.end()
        await asyncio.sleep(5)
        assert server.hellos[-1].token == "t2"
        assert [m.token for m in server.got if isinstance(m, Refresh)] == ["t1"]

    world(monkeypatch, use, FakeServer(expires=1_400_000), token=lambda: next(tokens))


def test_a_reader_whose_stream_is_closed_elsewhere_ends(monkeypatch):
    async def body():
        server = FakeServer()
        async with make(server) as alice:
            stream = alice.link("bob", watch=False).messages()

            async def read():
                async for _ in stream:
                    pass

            task = asyncio.create_task(read())
            await turns()
            stream.close()
            await asyncio.sleep(5)
        done = task.done()
        task.cancel()
        await turns()
        assert done, "the reader hangs, even after the client has closed"

    play(monkeypatch, body())


@pytest.mark.parametrize("what", ["events", "states"])
def test_the_events_of_a_closed_client_end(monkeypatch, what):
    async def body():
        server = FakeServer()
        async with make(server) as alice:
            link = alice.link("bob", watch=False)
        async with asyncio.timeout(5):
            async for _ in alice.events() if what == "events" else link.states():
                pass

    play(monkeypatch, body())


def test_who_publishes_before_the_first_welcome_is_told_that_it_is_too_early(monkeypatch):
    async def body():
        keys = []
        for _ in range(2):  # two processes of one client
            server = FakeServer()
            alice = make(server)
            opening = asyncio.create_task(alice.open())
            await asyncio.sleep(0)
            publish = asyncio.create_task(alice.channel("news").publish("hi", timeout=1))
            await opening
            result = (await asyncio.gather(publish, return_exceptions=True))[0]
            await alice.close()
            keys += [m.key for m in server.got if isinstance(m, Publish)]
            assert isinstance(result, ClientClosed | CommandTimeout)
        assert len(set(keys)) == len(keys), keys

    play(monkeypatch, body())


def test_who_links_before_the_first_welcome_is_told_that_it_is_too_early(monkeypatch):
    async def body():
        alice = make(FakeServer())
        opening = asyncio.create_task(alice.open())
        await asyncio.sleep(0)
        try:
            with pytest.raises(ClientClosed):
                alice.link("bob")
        finally:
            await opening
            await alice.close()

    play(monkeypatch, body())


def test_who_is_closed_while_it_opens_hears_that(monkeypatch):
    async def body():
        server = FakeServer()
        server.on_hello = lambda line, hello: True  # no welcome
        alice = make(server)
        opening = asyncio.create_task(alice.open())
        await turns(10)
        await alice.close()
        [result] = await asyncio.gather(opening, return_exceptions=True)
        assert isinstance(result, ClientClosed), repr(result)  # as the TypeScript SDK

    play(monkeypatch, body())


@pytest.mark.parametrize("journal", ["failed", "opening", "connecting"])
def test_a_journal_may_be_left_twice(tmp_path, journal):
    async def body():
        server = FakeServer()
        server.on_hello = lambda line, hello: True
        if journal == "failed":
            server.failures = [OSError(111, "refused")] * 9
        alice = make(server, journal=tmp_path / "j", options=Options(first_tries=1))
        opening = asyncio.create_task(alice.open())
        await asyncio.sleep(0)
        if journal == "failed":
            await asyncio.wait([opening])
        while journal == "connecting" and not server.hellos:  # noqa: ASYNC110 (the journal has a thread)
            await asyncio.sleep(0.01)
        await alice.close()
        [result] = await asyncio.gather(opening, return_exceptions=True)
        assert isinstance(result, ClientClosed | Unreachable), repr(result)

    asyncio.run(body())


def test_what_a_token_raises_is_not_blamed_on_the_server(monkeypatch):
    async def body():
        def token():
            raise ConnectionRefusedError(111, "connection refused")  # the auth service

        alice = make(FakeServer(), token=token)
        heard: list[object] = []
        alice.on_event(heard.append)
        with pytest.raises(Unreachable) as caught:
            await alice.open()
        assert [e for e in heard if isinstance(e, HandlerFailed)], str(caught.value)

    play(monkeypatch, body())


def test_as_many_commands_as_may_wait_do_beside_a_renewal_of_the_token(monkeypatch):
    async def use(server, alice):
        await server.expect(Refresh)  # which the server does not answer
        channel = alice.channel("c")
        work = [asyncio.create_task(channel.publish(n, timeout=5)) for n in range(limits.MAX_PENDING)]
        results = await asyncio.gather(*work, return_exceptions=True)
        assert {type(r).__name__ for r in results} == {"CommandTimeout"}

    world(monkeypatch, use, FakeServer(expires=1_400_000), token=lambda: "t")


def test_an_unknown_lane_is_refused_at_once_though_the_connection_is_congested(monkeypatch):
    async def use(server, alice):
        link = alice.link("bob", watch=False)
        server.line.congested = True
        bad = asyncio.create_task(link.send(1, lane="mesages"))
        good = asyncio.create_task(link.send(2))
        await turns()
        server.line.congested = False
        try:
            server.line.user.writable(server.line)
            await turns()
        finally:
            state = bad.done() and isinstance(bad.exception(), ValueError), good.done()
            bad.cancel(), good.cancel()
            await asyncio.gather(bad, good, return_exceptions=True)
        assert state == (True, True)

    world(monkeypatch, use)


def test_who_waits_for_room_gets_what_expires(monkeypatch):
    async def use(server, alice):
        link, big = alice.link("bob", watch=False), "x" * 64_000
        for _ in range(16):
            link.try_send(big, expires=1)
        await turns()
        task = asyncio.create_task(link.send(big))
        await asyncio.sleep(1.5)
        room, done = link._has_room("messages", codec.encode_json(big)), task.done()
        task.cancel()
        await turns()
        assert (room, done) == (True, True)

    world(monkeypatch, use)


@pytest.mark.parametrize("what", ["history", "set", "since"])
def test_numbers_that_cannot_be_are_refused_here(monkeypatch, what):
    async def use(server, alice):
        channel = alice.channel("c")

        async def ask():
            if what == "history":
                await channel.history(1.5, timeout=1)
            elif what == "set":
                await channel.set("a", 1, expect=1.5, timeout=1)
            else:
                async with asyncio.timeout(1), channel.subscribe(since=Position("e", -1)):
                    pass

        with pytest.raises(ValueError, match=r"cannot be|a page of history"):
            await ask()

    world(monkeypatch, use)


def test_a_renewal_that_hangs_does_not_keep_the_next_one_away(monkeypatch):
    calls = []

    async def token():
        calls.append(1)
        if len(calls) == 2:
            await asyncio.Event().wait()  # the token service hangs, once
        return "t"

    async def use(server, alice):
        await asyncio.sleep(399)
        server.line.end(3003, "expired")
        await asyncio.sleep(390)
        assert [m for m in server.got if isinstance(m, Refresh)]

    world(monkeypatch, use, FakeServer(expires=1_400_000), token=token)


def test_a_new_handler_waits_until_the_old_one_is_done(monkeypatch):
    async def use(server, alice):
        running, most = [], [0]

        async def handler(message):
            running.append(1)
            most[0] = max(most[0], len(running))
            await asyncio.sleep(1)
            running.pop()

        alice.on_message(handler)
        server.line.deliver(server.message("bob", 1, 1), server.message("bob", 2, 2))
        await turns()
        alice.on_message(handler)
        await asyncio.sleep(5)
        assert most == [1]

    world(monkeypatch, use)


def test_close_is_not_held_up_by_a_sender_that_gave_up(monkeypatch):
    async def body():
        server = FakeServer()
        alice = make(server)
        await alice.open()
        server.line.congested = True
        task = asyncio.create_task(alice.link("bob", watch=False).send(1))
        await turns()
        began = asyncio.get_running_loop().time()
        closing = asyncio.create_task(alice.close())
        await turns()
        task.cancel()
        await closing
        assert asyncio.get_running_loop().time() - began < 1

    play(monkeypatch, body())


def test_the_reason_that_a_subscription_has_ended_is_told_after_the_client_has_closed_too(monkeypatch):
    async def body():
        server = FakeServer()
        async with make(server) as alice:
            subscription = alice.channel("c").subscribe()
            opening = asyncio.create_task(subscription.__aenter__())
            [command] = await server.expect(Subscribe)
            server.line.deliver(Error(code="forbidden", channel="c", id=command.id, message="no"))
            with pytest.raises(CommandFailed, match="forbidden"):
                await opening
        with pytest.raises(CommandFailed, match="forbidden"):
            await anext(subscription)

    play(monkeypatch, body())


def test_who_has_heard_that_not_all_was_safe_does_not_hear_it_again_on_leaving(monkeypatch):
    async def body():
        async with make(FakeServer(), close_timeout=0) as alice:
            await alice.link("bob", watch=False).send(1)
            with pytest.raises(Unsettled):
                await alice.close()

    play(monkeypatch, body())


def test_a_request_to_a_user_is_not_refused_by_a_client_without_a_handler(monkeypatch):
    """Another one of that user may have it."""

    async def use(server, alice):
        alice.on_message(lambda message: None)
        server.line.deliver(server.message("bob", 1, 1, user="@alice", request="r"))
        await asyncio.sleep(3)
        assert finished(server) == 1 and not [m for m in server.got if isinstance(m, LinkMessage)]

    world(monkeypatch, use)


def test_who_is_watched_no_more_makes_room(monkeypatch):
    async def use(server, alice):
        alice.link("bob")
        alice.link("carol")
        with pytest.raises(ValueError, match="watched already"):
            alice.link("dave")
        alice.unwatch("bob")
        alice.link("dave")
        assert (await server.expect(Watch))[-1].clients == ["carol", "dave"]

    world(monkeypatch, use)


@pytest.mark.parametrize("handlers", [2, 3])
def test_of_many_new_handlers_the_last_one_goes_on(monkeypatch, handlers):
    async def use(server, alice):
        got, gate = [], asyncio.Event()

        def handler(name):
            async def handle(message):
                got.append((name, message.data))
                await gate.wait()

            return handle

        alice.on_message(handler(0))
        server.line.deliver(server.message("bob", 1, "a"), server.message("bob", 2, "b"))
        await turns()
        for name in range(1, handlers):
            alice.on_message(handler(name))
        await turns()
        assert got == [(0, "a")]
        gate.set()
        await turns(20)
        assert got == [(0, "a"), (handlers - 1, "b")]

    world(monkeypatch, use)


def test_a_handler_that_replaces_itself_is_followed_by_the_next(monkeypatch):
    async def use(server, alice):
        got = []

        def first(message):
            got.append(("first", message.data))
            alice.on_message(lambda message: got.append(("second", message.data)))

        alice.on_message(first)
        server.line.deliver(server.message("bob", 1, "a"), server.message("bob", 2, "b"))
        await turns()
        assert got == [("first", "a"), ("second", "b")]

    world(monkeypatch, use)
