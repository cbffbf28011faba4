"""One connection: stages, bad input, the heartbeat, deadlines, rate limits, and what is written when."""

import gc
import json
from typing import Any

import msgspec
import pytest
from tests.node_world import Client, World

from duolink.protocol import limits, messages
from duolink.protocol.codec import Malformed, encode
from duolink.protocol.messages import Error, Goodbye, Hello, LinkMessage, Ping, Pong, Publish
from duolink.server.channels import Channels
from duolink.server.connection import ERROR_BUDGET, Connection
from duolink.server.ratelimit import Bucket, Throttle
from duolink.server.registry import Session
from duolink.server.settings import Config, Heartbeat, Rates
from duolink.server.settings import Wire as WireSettings
from duolink.server.stages import HANDLERS, Stage


@pytest.fixture
def world() -> World:
    return World()


SAMPLES: dict[str, Any] = {
    "hello": Hello(protocol=1, client_id="alice"),
    "goodbye": Goodbye(),
    "refresh": messages.Refresh(id=1, token="t"),
    "ping": Ping(id=9),
    "pong": Pong(),
    "message": LinkMessage(to="bob", run=1, seq=1, base=1),
    "ack": messages.Ack(to="bob", run=1, seq=1),
    "skip": messages.Skip(to="bob", run=1, seq=1, last=1, base=1, reason="expired"),
    "probe": messages.Probe(to="bob", run=1, seq=1, base=1),
    "watch": messages.Watch(id=1, clients=["bob"]),
    "signal": messages.Signal(to="bob", data=msgspec.Raw(b"1")),
    "ephemeral": messages.Ephemeral(to="bob"),
    "subscribe": messages.Subscribe(id=1, channels=[messages.Position("room")]),
    "publish": Publish(id=1, channel="room"),
    "set": messages.Set(id=1, channel="room", name="a"),
    "history": messages.History(id=1, channel="room"),
    "presence": messages.PresenceQuery(id=1, channel="room"),
}
OPEN_ANSWERS = {
    "hello": ("error", "goodbye"), "goodbye": ("goodbye",), "refresh": ("refreshed",), "ping": ("pong",),
    "pong": (), "message": ("error",), "ack": (), "skip": ("error",), "probe": ("error",),
    "watch": ("watching", "peer"), "signal": (), "ephemeral": (), "subscribe": ("subscribing", "subscribed"),
    "publish": ("published",), "set": ("published",), "history": ("history_page",),
    "presence": ("presence_list",),
}  # fmt: skip


def types(client: Client) -> tuple[str, ...]:
    return tuple(message.__struct_config__.tag for message in client.take())


def test_the_samples_and_every_stage_of_the_table_cover_every_type():
    known = {struct.__struct_config__.tag for struct in messages.FromClient.__args__}
    assert known == set(SAMPLES) == set(OPEN_ANSWERS)
    for stage in Stage:
        assert set(HANDLERS[stage]) == {*messages.FromClient.__args__, Malformed}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("stage", Stage)
def test_every_message_in_every_stage_has_its_documented_answer(stage, name):
    world = World(seed=1 if stage is Stage.GREETING else None)
    if stage is Stage.NEW:
        client = Client(world)
    else:
        client = world.client("alice", settle=stage is not Stage.GREETING)
    if stage is Stage.CLOSING:
        client.send(Goodbye())
    client.take()
    client.send(SAMPLES[name])
    if stage is Stage.CLOSING:
        assert types(client) == ()
    elif stage is Stage.OPEN:
        assert types(client) == OPEN_ANSWERS[name]
        assert client.closed == {"hello": 1008, "goodbye": 1000}.get(name, 0)
    elif stage is Stage.NEW and name == "hello":
        assert types(client) == ("welcome",)
    else:
        error, goodbye = client.take()
        assert (error.code, error.fatal, goodbye.code, client.closed) == ("wrong_state", True, 1008, 1008)
    assert not [line for line in world.log.lines if line[0] == "internal"]


# --- bad input ---------------------------------------------------------------------------------

BAD = {
    b"": "malformed",
    b"{": "malformed",
    b"[]": "malformed",
    b"1": "malformed",
    b"{}": "malformed",
    b'{"type":"nonsense"}': "unknown_type",
    b'{"type":"welcome"}': "unknown_type",
    b'{"type":"message"}': "malformed",
    b'{"type":"ack","run":1,"seq":-1}': "malformed",
    b'{"type":"ack","run":1,"seq":9007199254740993}': "malformed",
    b'{"type":"signal","data":' + b"[" * 100 + b"]" * 100 + b"}": "malformed",
    b'{"type":"message","to":"b","run":1,"seq":1,"base":1,"binary":true}': "malformed",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_is_answered_and_the_rest_of_its_payload_is_processed(world, line):
    alice = world.client("alice")
    alice.take()
    alice.raw(b'{"type":"ping","id":1}\n' + line + b'\n{"type":"ping","id":2}')
    first, error, second = alice.take()
    assert (first.id, error.code, second.id, alice.closed) == (1, BAD[line], 2, 0)


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_instead_of_hello_ends_the_connection(world, line):
    client = Client(world)
    client.raw(line)
    assert (client.take()[0].code, client.closed) == (BAD[line], 1008)


def test_bad_binary_payloads_are_answered(world):
    alice = world.client("alice")
    alice.raw(b"no newline", True)
    alice.raw(b'{"type":"ping","id":1}\nxx', True)
    alice.raw(b'{"type":"message"\xff}\nxx', True)
    assert [error.code for error in alice.all(Error)] == ["malformed"] * 3


def test_too_many_messages_in_one_payload(world):
    alice = world.client("alice")
    alice.raw(b"\n".join([b'{"type":"ping"}'] * (limits.MAX_BATCH + 1)))
    assert alice.last(Error).code == "limit" and alice.all(Pong) == []


def test_a_too_large_message_is_refused_by_its_number(world):
    alice = world.client("alice")
    alice.say(3, data="x" * limits.MAX_MESSAGE, lane="bulk")
    error = alice.last(Error)
    assert (error.code, error.to, error.lane, error.seq, error.run) == (
        "too_large", "bob", "bulk", 3, alice.welcome.run,
    )  # fmt: skip
    for number in range(2 * ERROR_BUDGET):  # honest, so it costs nothing of the budget
        alice.send(
            Publish(id=number, channel="room", data=msgspec.Raw(b'"' + b"x" * limits.MAX_MESSAGE + b'"'))
        )
    assert alice.last(Error).id == 2 * ERROR_BUDGET - 1 and alice.closed == 0


def test_the_largest_message_may_be_set_lower():
    world = World(Config(wire=WireSettings(max_message=2048)))
    alice = world.client("alice")
    assert alice.welcome.limits.message == 2048
    alice.say(1, data="x" * 2048)
    assert alice.last(Error).code == "too_large"
    names = [f"client {number}" for number in range(200)]
    alice.send(messages.Watch(id=7, clients=names))
    assert alice.last(messages.Watching).id == 7 and alice.closed == 0


def test_too_many_bad_lines_end_the_connection_but_not_if_spread_over_time(world):
    alice = world.client("alice")
    for _ in range(3):
        alice.raw(b"\n".join([b"{"] * ERROR_BUDGET))
        world.advance(10.1)
        alice.user.alive()
    assert alice.closed == 0
    alice.raw(b"\n".join([b"{"] * (ERROR_BUDGET + 5)))
    assert alice.closed == 1008
    assert len(alice.all(Error)) == 4 * ERROR_BUDGET + 1  # the rest of the payload counts no more


def test_history_13_data_with_newlines_is_not_a_second_message(world):
    """Raw user data with newlines that spell a forged ack: it is split before anything is decoded, so no
    line of it is a message with data, and what reaches bob is at most alice's own ack."""
    alice, bob = world.client("alice"), world.client("bob")
    alice.raw(
        b'{"type":"message","to":"bob","run":%d,"seq":1,"base":1,"data":[\n'
        b'{"type":"ack","to":"bob","from":"carol","run":1,"seq":9}\n]}' % alice.welcome.run
    )
    assert [error.code for error in alice.all(Error)] == ["malformed", "forbidden", "malformed"]
    assert bob.take()[1:] == []
    for payload, _ in bob.wire.payloads:
        assert all(json.loads(line) for line in payload.split(b"\n"))


def test_history_13_a_binary_header_cannot_smuggle_lines(world):
    alice, bob = world.client("alice"), world.client("bob")
    header = b'{"type":"message","to":"bob","run":%d,"seq":1,"base":1,"binary":true}' % alice.welcome.run
    alice.raw(header + b'\n{"type":"ack","from":"carol","run":1,"seq":9}\n', True)
    payload, binary = bob.wire.payloads[-1]
    assert binary and payload.count(b"\n") == 2
    assert bob.take()[-1].sender == "alice"


def test_a_bug_in_the_node_closes_one_connection_and_is_logged(world, monkeypatch: pytest.MonkeyPatch):
    def broken(self: Channels, *arguments: Any) -> None:
        raise ZeroDivisionError

    alice, bob = world.client("alice"), world.client("bob")
    monkeypatch.setattr(Channels, "publish", broken)
    alice.send(Publish(id=1, channel="room"))
    assert (alice.last(Error).code, alice.closed, bob.closed) == ("internal", 1011, 0)
    assert world.log.lines[-1] == ("internal", "a message broke the node")


# --- time --------------------------------------------------------------------------------------


def test_history_22_silence_is_lost_after_misses_intervals_and_the_timeout(world):
    alice = world.client("alice")
    world.advance(99.9)
    assert (alice.wire.pings_sent, alice.closed) == (3, 0)
    world.advance(0.2)
    assert (alice.closed, world.counts.heartbeats_lost) == (3002, 1)
    assert world.node.sessions.get("alice") is not None


def test_history_22_silence_is_counted_from_the_last_sign_of_life(world):
    """One payload after a while: the pings it answered are forgotten, those after it are not."""
    alice = world.client("alice")
    world.advance(35)
    alice.raw(b'{"type":"ping"}')
    world.advance(99)
    assert alice.closed == 0
    world.advance(2)
    assert alice.closed == 3002


def test_any_traffic_counts_as_life(world):
    alice = world.client("alice")
    for turn in range(30):
        world.advance(20)
        if turn % 2:
            alice.user.alive()
        else:
            alice.raw(b'{"type":"pong"}')
    assert (alice.wire.pings_sent, alice.closed) == (0, 0)


def test_wires_without_pings_get_a_ping_message(world):
    client = Client(world, kind="tcp", pings=False)
    client.hello("alice")
    world.advance(31)
    assert len(client.all(Ping)) == 1


def test_the_pace_is_the_settings():
    world = World(Config(heartbeat=Heartbeat(interval_s=0.2, timeout_s=0.1, misses=2)))
    alice = world.client("alice")
    world.advance(0.49)
    assert alice.closed == 0
    world.advance(0.02)
    assert alice.closed == 3002


def test_an_idle_connection_is_closed_where_that_is_set():
    world = World(Config(wire=WireSettings(idle_timeout_s=60)))
    alice, bob = world.client("alice"), world.client("bob")
    for _ in range(13):
        alice.user.alive()
        bob.raw(b'{"type":"ping"}')
        world.advance(10)
    assert (alice.closed, bob.closed) == (3007, 0)


def test_timers_of_closed_connections_are_gone(world):
    for number in range(10):
        client = world.client(f"c{number}")
        client.send(Goodbye())
        client.cut()
    world.advance(2)
    assert len(world.node.timers) == 0


# --- rate limits -------------------------------------------------------------------------------


def test_rate_limits_pause_reading_and_lose_nothing():
    world = World(Config(rates=Rates(connection_messages_per_s=10, connection_messages_burst=20)))
    alice, bob = world.client("alice"), world.client("bob")
    run = alice.welcome.run
    alice.send(*[LinkMessage(to="bob", run=run, seq=seq, base=1) for seq in range(1, 31)])
    assert not alice.wire.reading and len(bob.all(LinkMessage)) == 30
    world.advance(1.0)
    alice.send(LinkMessage(to="bob", run=run, seq=31, base=1))  # had been parsed already
    world.advance(0.15)
    assert not alice.wire.reading
    world.advance(0.1)
    assert alice.wire.reading and world.counts.rate_limited == 2


def test_a_clients_limit_survives_its_reconnects():
    world = World(Config(rates=Rates(client_messages_per_s=1, client_messages_burst=11)))
    alice = world.client("alice")
    alice.send(*[Ping()] * 10)
    assert alice.wire.reading
    alice.send(Goodbye())
    alice.cut()
    alice = world.client("alice")
    alice.send(*[Ping()] * 10)
    assert not alice.wire.reading


def test_a_throttle_of_the_address_is_shared(world):
    shared = Throttle([Bucket(1, 5, world.clock.seconds)], [])
    wires = []
    for name in ("alice", "bob"):
        client = Client(world)
        client.user = world.node.connected(client.wire, shared)
        client.hello(name)
        client.send(Ping(), Ping())
        wires.append(client.wire)
    assert [wire.reading for wire in wires] == [True, False]


# --- writing -----------------------------------------------------------------------------------


def test_everything_for_one_connection_in_one_read_is_one_write(world):
    alice = world.client("alice")
    before = alice.wire.writes
    alice.send(*[Ping(id=number) for number in range(10)])
    assert alice.wire.writes == before + 1


def test_what_no_read_caused_is_written_at_the_end_of_the_turn():
    world = World(seed=3)
    alice = world.client("alice")
    alice.send(Publish(id=1, channel="room"))
    assert world.late is not None
    before = alice.wire.writes
    while not world.deferred:
        world.late.step()
    assert alice.wire.writes == before
    world.turn()
    assert alice.take()[-1].id == 1


def test_payloads_stay_within_what_a_receiver_takes(world):
    alice = world.client("alice")
    for _ in range(3):
        alice.user.received(b"\n".join([b'{"type":"ping","id":9007199254740991}'] * 1000), False)
    alice.user.batch_ended()
    assert len(alice.all(Pong)) == 3000
    assert all(len(payload) <= limits.MAX_PAYLOAD for payload, _ in alice.wire.payloads)
    assert all(payload.count(b"\n") < limits.MAX_BATCH for payload, _ in alice.wire.payloads)


def test_a_closed_connection_leaves_no_object_behind():
    """The collector is frozen in production, so reference counting must do."""
    world = World()
    bob = world.client("bob")

    def visit(number: int) -> None:
        client = world.client(
            f"c{number}", watch=["bob"], subscriptions=[messages.Position("room", "x", 3, True)]
        )
        client.say(1)
        client.say(1, to="nobody")
        bob.send(messages.Ack(to=f"c{number}", run=client.welcome.run, seq=1))
        again = client.again()
        again.send(Publish(id=1, channel="room"))
        client.cut()
        again.send(Goodbye())
        again.cut()

    def count() -> int:
        return sum(isinstance(thing, (Connection, Session)) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = count()
        for number in range(10):
            visit(number)
        world.advance(1)
        after = count()
    finally:
        gc.enable()
    assert after == before
    assert (world.node.connections, len(world.node.channels)) == (1, 0)


def test_metrics_count_what_happened(world):
    alice = world.client("alice")
    world.client("bob")
    alice.say(1)
    gauges = world.node.gauges()
    assert (gauges.connections, gauges.sessions_active, gauges.links) == (2, 2, 1)
    counts = world.counts
    assert (counts.connections, counts.message_in, counts.message_out) == (2, 1, 1)
    assert gauges.bytes_received > 0 and counts.bytes_out > 0 and counts.writes == 3
    alice.cut(1001)
    assert counts.closes == {"1001": 1} and len(encode(alice.welcome)) > 0
