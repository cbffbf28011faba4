"""Channels: membership, publishing, fan-out, recovery, history and presence."""

from typing import Any

import msgspec
import pytest
from tests.node_world import Client, Tokens, World

from duolink.engines.base import Appended, Entry, Failure, Page, Top
from duolink.protocol import limits
from duolink.protocol.messages import (
    Ephemeral,
    Error,
    Gap,
    Goodbye,
    History,
    HistoryPage,
    Join,
    Leave,
    Ping,
    Pong,
    Position,
    PresenceList,
    PresenceQuery,
    Publication,
    Publish,
    Published,
    Subscribe,
    Subscribed,
    Subscribing,
    Unsubscribed,
)
from duolink.server import channels, recovery
from duolink.server.auth import EVERYTHING, Identity, Patterns
from duolink.server.channels import MAX_FANOUTS, MAX_IN_FLIGHT
from duolink.server.hooks import Hooks
from duolink.server.settings import ChannelSettings, Config
from duolink.server.settings import Limits as LimitSettings
from duolink.server.settings import Wire as WireSettings
from duolink.server.timers import SLICE


@pytest.fixture
def world() -> World:
    return World()


def subscribe(client: Client, *names: str, **position: Any) -> None:
    client.send(Subscribe(id=1, channels=[Position(name, **position) for name in names]))


def publish(client: Client, count: int = 1, channel: str = "room", **fields: Any) -> None:
    fields.setdefault("data", msgspec.Raw(b"1"))
    for _ in range(count):
        client.send(Publish(id=7, channel=channel, **fields))


def offsets(client: Client) -> list[int]:
    return [message.offset for message in client.take() if type(message) is Publication]


def names(client: Client) -> list[str]:
    return [type(message).__name__ for message in client.take()]


# --- live --------------------------------------------------------------------------------------


def test_a_publication_reaches_every_subscriber_with_offset_sender_and_time(world):
    alice, bob, carol = (world.client(name) for name in ("alice", "bob", "carol"))
    subscribe(alice, "room")
    subscribe(bob, "room")
    publish(carol, 2, data=msgspec.Raw(b'{"n":1}'))
    first, second = bob.all(Publication)
    assert (first.channel, first.offset, first.sender, first.time) == (
        "room",
        1,
        "carol",
        world.clock.wall_ms(),
    )
    assert (bytes(first.data), second.offset) == (b'{"n":1}', 2)
    assert offsets(alice) == [1, 2] and carol.all(Publication) == []
    assert [(p.id, p.offset) for p in carol.all(Published)] == [(7, 1), (7, 2)]
    assert carol.last(Published).epoch == bob.last(Subscribed).epoch != ""


def test_publications_of_one_read_are_one_write(world):
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(bob, "room")
    before = bob.wire.writes
    alice.send(*[Publish(id=1, channel="room") for _ in range(50)])
    assert bob.wire.writes == before + 1 and offsets(bob) == list(range(1, 51))


def test_what_a_subscriber_gets_in_one_turn_keeps_its_order(world):
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(bob, "room", "other")
    bob.take()
    bob.send(
        Ping(id=1),
        Publish(id=1, channel="room"),
        Publish(id=2, channel="other"),
        Publish(id=3, channel="room"),
    )
    got = bob.take()
    assert [m.offset for m in got if type(m) is Publication and m.channel == "room"] == [1, 2]
    assert type(got[0]) is Pong and len(got) == 7
    publish(alice, binary=False)
    assert offsets(bob) == [3]


def test_binary_and_text_publications_keep_their_order(world):
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(bob, "room")
    bob.take()
    text = b'{"type":"publish","id":1,"channel":"room","data":1}'
    binary = b'{"type":"publish","id":1,"channel":"room","binary":true}\n\x00\n'
    for payload, is_binary in [(text, False), (binary, True), (text, False), (text, False), (binary, True)]:
        alice.user.received(payload, is_binary)
    alice.user.batch_ended()
    got = bob.take()
    assert [(m.offset, m.binary) for m in got] == [(1, False), (2, True), (3, False), (4, False), (5, True)]
    assert bytes(got[1].data) == b"\x00\n"
    publish(alice, 1, binary=False)
    late = world.client("late")
    subscribe(late, "room", epoch=bob.last(Subscribed).epoch, offset=1)
    assert [(m.offset, m.binary) for m in late.all(Publication)] == [
        (2, True), (3, False), (4, False), (5, True), (6, False),
    ]  # fmt: skip


def test_a_detached_session_receives_nothing_and_its_position_decides_what_is_replayed(world):
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(bob, "room")
    publish(alice, 2)
    epoch = bob.last(Subscribed).epoch
    bob.cut()
    publish(alice, 3)
    bob = bob.again(subscriptions=[Position("room", epoch, 1)])
    assert names(bob) == ["Welcome", "Subscribed"] + 4 * ["Publication"]
    subscribed = bob.last(Subscribed)
    assert (subscribed.recovered, subscribed.offset, subscribed.gap) == (True, 1, None)
    assert [m.offset for m in bob.all(Publication)] == [2, 3, 4, 5]


def test_a_resume_without_positions_keeps_the_set_and_says_that_nobody_knows_what_was_missed(world):
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(bob, "room")
    bob.cut()
    publish(alice, 3)
    bob = bob.again()
    assert bob.last(Subscribed).gap == Gap("evicted", 0, 3) and not bob.last(Subscribed).recovered
    publish(alice)
    assert [m.offset for m in bob.all(Publication)] == [4]


def test_an_empty_set_in_hello_ends_every_subscription(world):
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(bob, "room")
    bob.cut()
    bob = bob.again(subscriptions=[])
    publish(alice)
    assert names(bob) == ["Welcome"] and len(world.node.channels) == 0


def test_subscribe_is_the_full_set_and_what_is_there_goes_on(world):
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(bob, "a", "b")
    bob.take()
    bob.send(Subscribe(id=2, channels=[Position("c"), Position("b", "x", 99), Position("c")]))
    got = bob.take()
    assert [type(m) for m in got] == [Subscribing, Subscribed] and got[1].channel == "c"
    for name in "abc":
        publish(alice, channel=name)
    assert [message.channel for message in bob.take()] == ["b", "c"]


# --- refusals ----------------------------------------------------------------------------------


def test_too_many_subscriptions_change_nothing():
    world = World(Config(limits=LimitSettings(subscriptions_per_client=2)))
    alice = world.client("alice", subscriptions=[Position(name) for name in "xyz"])
    assert alice.last(Error).code == "limit" and alice.all(Subscribed) == []
    subscribe(alice, "a", "b")
    alice.send(Subscribe(id=5, channels=[Position(name) for name in "abc"]))
    assert (alice.last(Error).code, alice.last(Error).id) == ("limit", 5)
    publish(alice, channel="a")
    assert len(alice.all(Publication)) == 1


@pytest.mark.parametrize("name", ["a\nb", "é" * 128])
def test_a_name_that_cannot_be_a_channel_is_unknown(world, name):
    alice = world.client("alice")
    subscribe(alice, name, "good")
    assert (alice.last(Error).code, alice.last(Error).channel) == ("unknown_channel", name)
    assert alice.last(Subscribed).channel == "good"
    alice.send(Publish(id=2, channel=name), History(id=3, channel=name))
    assert [(error.code, error.id) for error in alice.all(Error)[1:]] == [
        ("unknown_channel", 2),
        ("unknown_channel", 3),
    ]


def test_rights_come_from_the_token_and_the_application_has_the_last_word():
    asked: list[tuple[str, str]] = []

    def authorize(identity: Identity, action: str, name: str) -> bool | None:
        asked.append((action, name))
        if name == "broken":
            raise RuntimeError
        return {"opened": True, "closed": False}.get(name)

    identity = Identity(user="alice", subscribe=Patterns.of(["in*", "closed"]), publish=Patterns.of(["out"]))
    world = World(authenticator=Tokens(alice=identity), hooks=Hooks(authorize=authorize))
    alice = world.client("alice", token="alice")
    subscribe(alice, "in1", "out", "opened", "closed", "broken")
    assert [message.channel for message in alice.all(Subscribed)] == ["in1", "opened"]
    assert [(e.code, e.channel) for e in alice.all(Error)] == [
        ("forbidden", "out"), ("forbidden", "closed"), ("forbidden", "broken"),
    ]  # fmt: skip
    alice.take()
    publish(alice, channel="in1")
    publish(alice, channel="out")
    alice.send(PresenceQuery(id=1, channel="out"), History(id=2, channel="out"), Ephemeral(channel="in1"))
    assert [getattr(m, "code", "ok") for m in alice.take()] == ["forbidden", "ok"] + 3 * ["forbidden"]
    assert ("subscribe", "in1") in asked and ("publish", "out") in asked


def test_a_channel_may_be_full():
    world = World(Config(channels={"room": ChannelSettings(max_subscribers=1)}))
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(alice, "room")
    subscribe(bob, "room")
    assert (bob.last(Error).code, bob.last(Error).channel) == ("limit", "room")
    alice.cut()
    assert alice.again().last(Subscribed)


def test_a_publication_too_large_with_its_senders_name_is_refused(world):
    name = "a" * 128
    alice = world.client(name)
    publish(alice, data=msgspec.Raw(b'"' + b"x" * (limits.MAX_MESSAGE - 100) + b'"'))
    assert (alice.last(Error).code, alice.last(Error).id) == ("too_large", 7)


# --- idempotency -------------------------------------------------------------------------------


def test_a_repeated_key_returns_the_first_answer_and_is_not_published_again(world):
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(bob, "room")
    publish(alice, key="k")
    publish(alice, key="k", age=100)
    assert [p.offset for p in alice.all(Published)] == [1, 1] and len(bob.all(Publication)) == 1


def test_a_retry_that_nobody_can_know_is_uncertain(world):
    alice = world.client("alice")
    publish(alice, key="k", age=1000)
    assert (alice.last(Error).code, alice.last(Error).id) == ("uncertain", 7)


# --- recovery ----------------------------------------------------------------------------------


def recover(world: World, offset: int, epoch: str = "", name: str = "late") -> Client:
    late = world.client(name)
    late.send(
        Subscribe(
            id=1, channels=[Position("room", epoch or world.node.channels._channels["room"].epoch, offset)]
        )
    )
    world.settle()
    return late


@pytest.fixture
def history(world: World) -> World:
    alice = world.client("alice")
    subscribe(alice, "room")
    publish(alice, 10)
    return world


def test_recovery_is_exact(history):
    late = recover(history, 4)
    assert late.last(Subscribed) == Subscribed("room", late.last(Subscribed).epoch, 4, 1, recovered=True)
    assert [m.offset for m in late.all(Publication)] == [5, 6, 7, 8, 9, 10]
    nothing = recover(history, 10, name="nothing")
    assert nothing.last(Subscribed).recovered and nothing.all(Publication) == []
    assert history.counts.recoveries == {"complete": 2}


@pytest.mark.parametrize(("epoch", "offset"), [("another", 3), ("", 11)])
def test_another_epoch_or_a_position_from_the_future_is_a_gap(history, epoch, offset):
    late = recover(history, offset, epoch)
    subscribed = late.last(Subscribed)
    assert (subscribed.gap, subscribed.offset, subscribed.recovered) == (Gap("epoch"), 10, False)
    assert history.counts.recoveries == {"gap": 1}


def test_history_16_a_memory_channel_has_another_epoch_after_a_restart(history):
    epoch = history.node.channels._channels["room"].epoch
    fresh = World(clock=history.clock)
    fresh.names.seed(99)
    alice = fresh.client("alice")
    publish(alice, 10)
    late = fresh.client("late", subscriptions=[Position("room", epoch, 10)])
    assert late.last(Subscribed).gap == Gap("epoch")


def test_evicted_publications_are_a_gap_and_the_rest_follows():
    world = World(Config(channels={"room": ChannelSettings(history_count=3)}))
    alice = world.client("alice")
    subscribe(alice, "room")
    publish(alice, 10)
    late = recover(world, 2)
    assert (late.last(Subscribed).gap, late.last(Subscribed).offset) == (Gap("evicted", 3, 7), 7)
    assert [m.offset for m in late.all(Publication)] == [8, 9, 10]


def test_too_many_publications_are_an_overflow(history, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recovery, "MAX_RECOVERED", 5)
    late = recover(history, 4)
    assert (late.last(Subscribed).gap, late.last(Subscribed).offset) == (Gap("overflow", 5, 10), 10)
    assert late.all(Publication) == []


def test_a_long_recovery_is_sent_as_fast_as_it_is_read():
    """Ten times as much as may wait for a connection: nothing is lost, and no more than that ever waits."""
    world = World(Config(wire=WireSettings(send_buffer=128 * 1024)))
    alice = world.client("alice")
    subscribe(alice, "room")
    publish(alice, 60, data=msgspec.Raw(b'"' + b"x" * 20_000 + b'"'))
    late = Client(world)
    late.wire.kernel = False
    late.hello("late", subscriptions=[Position("room", alice.last(Subscribed).epoch, 0)])
    publish(alice, 3)
    while late.wire.waiting:
        assert late.wire.waiting < 128 * 1024
        late.wire.waiting = 0
        late.user.writable()
        world.turn()
    assert late.closed == 0 and late.last(Subscribed).recovered
    assert [m.offset for m in late.all(Publication)] == list(range(1, 64))


def test_a_recovery_that_retention_overtakes_begins_again_and_names_the_gap():
    world = World(
        Config(
            channels={"room": ChannelSettings(history_count=60)}, wire=WireSettings(send_buffer=128 * 1024)
        )
    )
    alice = world.client("alice")
    subscribe(alice, "room")
    publish(alice, 60, data=msgspec.Raw(b'"' + b"x" * 20_000 + b'"'))
    late = Client(world)
    late.wire.kernel = False
    late.hello("late", subscriptions=[Position("room", alice.last(Subscribed).epoch, 0)])
    publish(alice, 2000)
    while not late.all(Unsubscribed):
        late.wire.waiting = 0
        late.user.writable()
        world.turn()
    assert late.last(Unsubscribed).resubscribe
    reached = late.last(Publication).offset
    assert [m.offset for m in late.all(Publication)] == list(range(1, reached + 1))
    late.wire.kernel, late.wire.waiting = True, 0
    late.user.writable()
    subscribe(late, "room", epoch=late.last(Subscribed).epoch, offset=reached)
    assert late.last(Subscribed).gap == Gap("evicted", reached + 1, 2000)
    assert late.last(Publication).offset == 2060


def test_recovery_waits_until_its_connection_can_take_it():
    """A client with many channels comes back and does not read: what it holds stays bounded, and nothing
    is lost once it reads."""
    world = World(Config(wire=WireSettings(send_buffer=256 * 1024)))
    alice = world.client("alice")
    rooms = [f"r{number}" for number in range(10)]
    subscribe(alice, *rooms)
    for room in rooms:
        publish(alice, 2, channel=room, data=msgspec.Raw(b'"' + b"x" * 40_000 + b'"'))
    late = Client(world)
    late.wire.kernel = False
    late.hello("late")
    epochs = {name: channel.epoch for name, channel in world.node.channels._channels.items()}
    late.send(Subscribe(id=1, channels=[Position(room, epochs[room], 0) for room in rooms]))
    assert late.wire.waiting < 192 * 1024 and late.closed == 0
    while len(late.all(Subscribed)) < 10:
        late.wire.waiting = 0
        late.user.writable()
        world.turn()
    assert len(late.all(Publication)) == 20


@pytest.mark.parametrize("seed", range(30))
def test_recovery_never_races_live_delivery(seed):
    """Publications, reads and their answers come in any order: the stream is contiguous all the same."""
    world = World(seed=seed)
    alice = world.client("alice")
    subscribe(alice, "room")
    world.settle()
    epoch = alice.last(Subscribed).epoch
    publish(alice, 5)
    world.settle()
    late = world.client("late")
    late.send(Subscribe(id=1, channels=[Position("room", epoch, 2)]))
    for step in range(12):
        publish(alice)
        for _ in range(step % 3):
            assert world.late is not None
            world.late.step()
            world.turn()
    world.settle()
    assert late.last(Subscribed).offset == 2
    assert [m.offset for m in late.all(Publication)] == list(range(3, 18))


def test_history_26_one_read_serves_all_who_stand_at_the_same_place(history, monkeypatch: pytest.MonkeyPatch):
    world = World(seed=5)
    alice = world.client("alice")
    subscribe(alice, "room")
    publish(alice, 10)
    world.settle()
    epoch = alice.last(Subscribed).epoch
    crowd = [world.client(f"c{number}") for number in range(20)]
    reads: list[int] = []
    read = world.engines.log.read

    def counted(channel: str, epoch: str, after: int, limit: int, done: Any) -> None:
        reads.append(after)
        read(channel, epoch, after, limit, done)

    monkeypatch.setattr(world.engines.log, "read", counted)
    for client in crowd:
        client.send(Subscribe(id=1, channels=[Position("room", epoch, 3)]))
    world.settle()
    assert reads == [3]
    assert {tuple(m.offset for m in client.all(Publication)) for client in crowd} == {tuple(range(4, 11))}


def test_the_remembered_publications_are_bounded_and_older_ones_are_read_again(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(recovery, "MAX_RECENT", 3)
    monkeypatch.setattr(recovery, "PAGE", 2)
    world = World(seed=11)
    alice = world.client("alice")
    subscribe(alice, "room")
    publish(alice, 5)
    world.settle()
    late = world.client("late")
    late.send(Subscribe(id=1, channels=[Position("room", alice.last(Subscribed).epoch, 0)]))
    publish(alice, 20)
    world.settle()
    assert [m.offset for m in late.all(Publication)] == list(range(1, 26))


# --- late and failing engines ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_history_19_a_subscription_that_is_gone_when_the_answer_comes(seed):
    """Between the question and its completion the client unsubscribes, subscribes again, is cut, or comes
    back on another connection: stale completions are dropped, and every subscription is answered once."""
    world = World(seed=seed)
    alice = world.client("alice")
    publish(alice, 5)
    world.settle()
    subscribe(alice, "room", epoch="x", offset=1)
    assert world.late is not None
    world.late.step()
    alice.send(Subscribe(id=2, channels=[]))
    world.late.step()
    subscribe(alice, "room")
    publish(alice, 1)
    alice.cut()
    world.late.step()
    again = world.client(
        "alice",
        settle=False,
        run=alice.welcome.run,
        session=alice.welcome.session,
        secret=alice.welcome.secret,
        subscriptions=[Position("room", "y", 0)],
    )
    world.settle()
    assert len(again.all(Subscribed)) == 1 and again.all(Published) == []
    publish(again, 2)
    world.settle()
    offset = again.last(Subscribed).offset
    assert [m.offset for m in again.all(Publication)] == list(range(offset + 1, 9))
    again.send(Goodbye())
    assert len(world.node.channels) == 0


def test_history_19_a_published_answer_goes_to_nobody_elses_connection():
    world = World(seed=2)
    alice = world.client("alice")
    publish(alice)
    alice.cut()
    again = alice.again()
    assert again.all(Published) == [] and alice.all(Published) == []
    publish(again)
    world.settle()
    assert again.last(Published).offset == 2


def test_a_log_that_fails_says_try_again(world, monkeypatch: pytest.MonkeyPatch):
    alice, log = world.client("alice"), world.engines.log
    for name in ("append", "read", "top"):
        monkeypatch.setattr(log, name, lambda *arguments: arguments[-1](Failure("down")))
    subscribe(alice, "room")
    publish(alice)
    alice.send(History(id=3, channel="room"), History(id=4, channel="room", last=True))
    errors = [(error.code, error.id, error.channel) for error in alice.all(Error)]
    assert errors == [
        ("unavailable", 0, "room"),
        ("unavailable", 7, ""),
        ("unavailable", 3, ""),
        ("unavailable", 4, ""),
    ]
    assert len(world.node.channels) == 0
    monkeypatch.undo()
    monkeypatch.setattr(log, "append", lambda *arguments: arguments[-1](Failure("down", uncertain=True)))
    publish(alice)
    assert alice.last(Error).code == "uncertain"


@pytest.mark.parametrize("answer", [Failure("down"), Page(Top("another", 10)), Page(Top("", 10))])
def test_a_read_that_fails_during_recovery_ends_the_subscription(
    history, answer, monkeypatch: pytest.MonkeyPatch
):
    epoch = history.node.channels._channels["room"].epoch
    if isinstance(answer, Page) and not answer.top.epoch:
        answer = Page(Top(epoch, 10))
    monkeypatch.setattr(history.engines.log, "read", lambda *arguments: arguments[-1](answer))
    late = recover(history, 2)
    assert (late.last(Error).code, late.last(Error).channel) == ("unavailable", "room")
    monkeypatch.undo()
    subscribe(late, "room", epoch=epoch, offset=2)
    assert len(late.all(Publication)) == 8


def test_a_log_that_jumps_makes_everyone_begin_again(history):
    """A hole in what the engine completes, or another epoch: no subscriber sees a stream with a hole."""
    bob = history.client("bob")
    subscribe(bob, "room")
    bob.cut()
    alice = history.node.sessions.get("alice")
    assert alice is not None
    channel = history.node.channels._channels["room"]
    history.node.channels._accept(channel, Appended("other", Entry(3, "x", 1, b"1")))
    carol = history.client("carol")
    subscribe(carol, "room")
    assert carol.last(Subscribed) == Subscribed("room", "other", 3, 1)
    assert "room" not in alice.subscriptions


def test_commands_in_flight_are_bounded():
    world = World(seed=1)
    alice = world.client("alice")
    alice.send(*[Publish(id=number, channel="room") for number in range(MAX_IN_FLIGHT)])
    alice.send(Publish(id=200, channel="room"), History(id=201, channel="room"))
    assert [(error.code, error.id) for error in alice.all(Error)] == [
        ("overloaded", 200),
        ("overloaded", 201),
    ]
    world.settle()
    assert len(alice.all(Published)) == MAX_IN_FLIGHT
    alice.send(History(id=202, channel="room"))
    world.settle()
    assert alice.last(HistoryPage).id == 202


# --- large channels ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd() -> tuple[World, list[Client]]:
    world = World()
    clients = []
    for number in range(SLICE + 100):
        client = world.client(f"c{number}")
        subscribe(client, "room")
        client.take()
        clients.append(client)
    return world, clients


def test_history_27_a_large_fan_out_runs_in_slices_and_pings_flow_between(crowd):
    world, clients = crowd
    alice = world.client("alice")
    alice.user.received(encode_publish(1), False)
    alice.user.batch_ended()
    served = [bool(len(client.wire.payloads) > client.read) for client in clients]
    assert sum(served) == SLICE
    alice.raw(b'{"type":"ping","id":5}')
    assert alice.last(Pong).id == 5
    world.turn()
    assert all(len(offsets(client)) == 1 for client in clients)


def test_slices_keep_the_order_of_publications_and_skip_who_left(crowd):
    world, clients = crowd
    alice, last = world.client("alice2"), clients[-1]
    for number in range(3):
        alice.user.received(encode_publish(number), False)
        alice.user.batch_ended()
    epoch = world.node.channels._channels["room"].epoch
    top = world.node.channels._channels["room"].offset
    # The last subscriber leaves and is back, at the old position, before its slices came.
    last.user.received(b'{"type":"subscribe","id":1,"channels":[]}', False)
    again = b'{"type":"subscribe","id":2,"channels":[{"channel":"room","epoch":"%s","offset":%d}]}'
    last.user.received(again % (epoch.encode(), top - 3), False)
    last.user.batch_ended()
    world.turn()
    assert {tuple(offsets(client)) for client in clients} == {(top - 2, top - 1, top)}


def test_a_publisher_who_is_faster_than_the_slices_waits_for_them(crowd):
    world, clients = crowd
    alice = world.client("alice3")
    for number in range(3 * MAX_FANOUTS):
        alice.user.received(encode_publish(number), False)
        alice.user.batch_ended()
        assert len(world.node.channels._channels["room"].fanouts) <= MAX_FANOUTS
    world.turn()
    assert {len(offsets(client)) for client in clients} == {3 * MAX_FANOUTS}


def encode_publish(number: int) -> bytes:
    return b'{"type":"publish","id":%d,"channel":"room","data":1}' % number


def test_many_publications_in_one_read_stay_within_a_payload(world):
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(bob, "room")
    for _ in range(2):
        alice.user.received(b"\n".join([encode_publish(1)] * 1000), False)
    alice.user.batch_ended()
    assert offsets(bob) == list(range(1, 2001))
    assert all(payload.count(b"\n") < limits.MAX_BATCH for payload, _ in bob.wire.payloads)


def test_history_28_a_slow_subscriber_is_closed_with_a_code_that_says_resume_and_loses_nothing():
    world = World(Config(wire=WireSettings(send_buffer=256 * 1024)))
    alice, bob, carol = (world.client(name) for name in ("alice", "bob", "carol"))
    subscribe(bob, "room")
    subscribe(carol, "room")
    bob.wire.kernel = False
    publish(alice, 10, data=msgspec.Raw(b'"' + b"x" * 50_000 + b'"'))
    assert (bob.closed, carol.closed, alice.closed) == (3001, 0, 0)
    assert len(carol.all(Publication)) == 10
    epoch = bob.last(Subscribed).epoch
    bob.cut()
    bob = bob.again(subscriptions=[Position("room", epoch, 3)])
    assert [m.offset for m in bob.all(Publication)] == list(range(4, 11))


# --- presence ----------------------------------------------------------------------------------


def test_presence_lists_joins_and_leaves(world):
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(alice, "room", presence=True)
    assert alice.take()[-1] == PresenceList("room", ["alice"])
    subscribe(bob, "room")
    subscribe(bob, "room", "other")
    bob.send(PresenceQuery(id=4, channel="room"), PresenceQuery(id=5, channel="empty"))
    assert bob.take()[-2:] == [PresenceList("room", ["alice", "bob"], 4), PresenceList("empty", [], 5)]
    bob.send(Goodbye())
    assert alice.take() == [Join("room", "bob"), Leave("room", "bob")]


def test_a_channel_may_keep_presence_to_itself():
    world = World(Config(channels={"room": ChannelSettings(presence=False)}))
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(alice, "room", presence=True)
    subscribe(bob, "room")
    alice.send(PresenceQuery(id=4, channel="room"))
    assert (alice.last(Error).code, alice.last(Error).id) == ("forbidden", 4)
    assert alice.all(PresenceList) == alice.all(Join) == []


def test_a_presence_list_fits_into_a_message(world, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(channels, "PRESENCE_BYTES", 100)
    for number in range(10):
        client = world.client(f"c{number}")
        subscribe(client, "room")
    client.send(PresenceQuery(id=4, channel="room"))
    assert client.last(PresenceList).clients == ["c0", "c1", "c2", "c3", "c4", "c5"]


def test_ephemeral_messages_reach_everyone_else_in_the_channel(world):
    alice, bob, carol = (world.client(name) for name in ("alice", "bob", "carol"))
    subscribe(alice, "room")
    subscribe(bob, "room")
    alice.send(Ephemeral(channel="room", data=msgspec.Raw(b'"typing"')), Ephemeral(channel="empty"))
    alice.raw(b'{"type":"ephemeral","channel":"room","binary":true}\n\x01', True)
    first, second = bob.all(Ephemeral)
    assert (first.sender, first.channel, bytes(first.data)) == ("alice", "room", b'"typing"')
    assert (second.binary, bytes(second.data)) == (True, b"\x01")
    assert alice.all(Ephemeral) == carol.all(Ephemeral) == []


# --- history -----------------------------------------------------------------------------------


def ask(world: World, **query: Any) -> tuple[HistoryPage, list[Publication]]:
    client = world.client("reader", run=0)
    client.send(History(id=9, channel="room", **query))
    world.settle()
    page, found = client.last(HistoryPage), client.all(Publication)
    assert page.count == len(found) and {m.page for m in found} <= {9}
    client.send(Goodbye())
    return page, found


def test_history_pages(history):
    page, found = ask(history, offset=2, limit=3)
    assert (page.offset, page.gap, [m.offset for m in found]) == (10, None, [3, 4, 5])
    assert [m.offset for m in ask(history, last=True, limit=4)[1]] == [7, 8, 9, 10]
    assert ask(history, epoch=page.epoch, offset=10)[1] == []
    assert ask(history, epoch="another", offset=2)[0].gap == Gap("epoch")
    assert ask(history, epoch=page.epoch, offset=11)[0].gap == Gap("epoch")


def test_history_names_what_is_gone():
    world = World(Config(channels={"room": ChannelSettings(history_count=3)}))
    publish(world.client("alice"), 10)
    page, found = ask(world, offset=2)
    assert (page.gap, [m.offset for m in found]) == (Gap("evicted", 3, 7), [8, 9, 10])
    page, found = ask(world, last=True, limit=5)
    assert (page.gap, len(found)) == (None, 3)


def test_a_page_is_bounded_in_bytes(world):
    publish(world.client("alice"), 8, data=msgspec.Raw(b'"' + b"x" * 60_000 + b'"'))
    assert [m.offset for m in ask(world)[1]] == [1, 2, 3, 4]
    assert [m.offset for m in ask(world, offset=4)[1]] == [5, 6, 7, 8]


def test_a_page_for_a_connection_that_ended_goes_nowhere():
    world = World(seed=4)
    alice = world.client("alice")
    alice.send(History(id=1, channel="room", last=True))
    alice.cut()
    world.settle()
    assert alice.all(HistoryPage) == []


def test_the_published_hook_hears_every_publication_once():
    heard: list[Any] = []
    world = World(hooks=Hooks(published=lambda *arguments: heard.append(arguments)))
    alice = world.client("alice")
    publish(alice, key="k")
    publish(alice, key="k", age=5)
    world.node.local.say(Publish(id=1, channel="news", data=msgspec.Raw(b"2")))
    assert heard == [("room", "alice", 1, b"1", False), ("news", "$server", 1, b"2", False)]


def test_unsubscribed_clients_hear_why():
    tokens = Tokens(
        all=Identity(user="alice", subscribe=EVERYTHING),
        some=Identity(user="alice", subscribe=Patterns.of(["a"])),
    )
    world = World(authenticator=tokens)
    alice = world.client("alice", token="all")
    subscribe(alice, "a", "b")
    alice.cut()
    alice = alice.again(token="some")
    assert [m.channel for m in alice.all(Subscribed)] == ["a"] and alice.all(Unsubscribed) == []
    assert alice.last(Error).channel == "b"


def test_a_position_the_channel_has_not_reached_yet_waits_for_it(monkeypatch: pytest.MonkeyPatch):
    """The log has appended 1 and history has shown it; the publisher's answer, and with it the fan-out, is
    still under way when a reader subscribes from there: it is released when the fan-out has come, and
    does not hear 1 again."""
    world = World()
    alice, bob = world.client("alice"), world.client("bob")
    subscribe(alice, "room")
    epoch = alice.last(Subscribed).epoch
    answers: list[Any] = []
    append = world.engines.log.append

    def hold(channel: str, draft: Any, retention: Any, done: Any) -> None:
        append(channel, draft, retention, lambda result: answers.append((done, result)))

    monkeypatch.setattr(world.engines.log, "append", hold)
    publish(alice, 2)
    bob.send(History(id=1, channel="room"))
    assert bob.last(Publication).offset == 2
    bob.take()
    subscribe(bob, "room", epoch=epoch, offset=1)
    assert names(bob) == ["Subscribing"]
    for done, result in answers:
        done(result)
    world.turn()
    subscribed, publication = bob.take()
    assert (subscribed.recovered, subscribed.offset, publication.offset) == (True, 1, 2)
