"""How long deliveries take: which messages are timed, and what ends their time."""

import pytest
from tests.node_world import Client, World

from duolink.protocol.codes import CloseCode
from duolink.protocol.messages import Ack
from duolink.server import timing
from duolink.server.metrics import DELIVERY_BUCKETS


@pytest.fixture
def world() -> World:
    return World()


def timed(world: World) -> int:
    """How many were timed so far."""
    return sum(world.counts.delivery_buckets)


def ack(client: Client, seq: int, run: int, to: str = "alice", lane: str = "messages") -> None:
    client.send(Ack(run=run, seq=seq, to=to, lane=lane))


def tick(world: World) -> None:
    """Let the node look around; no time passes for what is on its way."""
    world.node.links.timing.sample()


def test_the_first_message_is_timed_up_to_its_acknowledgement(world):
    alice, bob = world.client("alice"), world.client("bob")
    alice.say(1)
    world.clock.seconds += 0.25
    assert timed(world) == 0
    ack(bob, 1, alice.welcome.run)
    assert timed(world) == 1 and world.counts.delivery_sum == pytest.approx(0.25)
    bounds = [bound for bound, count in world.counts.deliveries() if count]
    assert bounds == [bound for bound in (*DELIVERY_BUCKETS, None) if bound is None or bound >= 0.25]


def test_the_others_are_not_until_the_node_looks_around(world):
    alice, bob = world.client("alice"), world.client("bob")
    run = alice.welcome.run
    for seq in (1, 2, 3):
        alice.say(seq)
        ack(bob, seq, run)
    assert timed(world) == 1
    tick(world)
    world.clock.seconds += 5  # between messages is not on the way
    alice.say(4, base=4)
    alice.say(5, base=4)
    world.clock.seconds += 0.5
    ack(bob, 5, run)
    assert timed(world) == 2 and world.counts.delivery_sum == pytest.approx(0.5)


def test_the_node_looks_around_by_itself(world):
    alice, bob = world.client("alice"), world.client("bob")
    for seq in (1, 2, 3):
        alice.say(seq)
        ack(bob, seq, alice.welcome.run)
        world.advance(1.5)
    assert timed(world) == 3


def test_an_acknowledgement_of_less_ends_nothing(world):
    alice, bob = world.client("alice"), world.client("bob")
    run = alice.welcome.run
    alice.say(1)
    ack(bob, 1, run)
    tick(world)
    alice.say(2)
    ack(bob, 1, run)
    ack(bob, 9, run, lane="bulk")
    assert timed(world) == 1
    ack(bob, 2, run)
    assert timed(world) == 2


def test_acknowledgements_that_ride_on_messages_count(world):
    alice, bob = world.client("alice"), world.client("bob")
    run, back = alice.welcome.run, bob.welcome.run
    alice.say(1)
    bob.say(1, to="alice", ack=1, ack_run=run)
    assert timed(world) == 1
    alice.say(2, ack=1, ack_run=back)
    assert timed(world) == 2, "both directions"
    flow = world.node.sessions.get("bob").flows["alice"]
    assert flow.quick_run == flow.ack_run == run
    bob.say(2, to="alice", ack=2, ack_run=run)
    assert flow.ack_messages == 2 and timed(world) == 2, "only noted"
    tick(world)
    alice.say(3, ack=2, ack_run=back)
    assert flow.quick_run == -1, "somebody waits"
    bob.say(3, to="alice", ack=2, ack_run=run)
    assert timed(world) == 2
    bob.say(4, to="alice", ack=3, ack_run=run)
    assert timed(world) == 3 and flow.quick_run == run


def test_the_bulk_lane_is_timed_too(world):
    alice, bob = world.client("alice"), world.client("bob")
    alice.say(1, lane="bulk")
    alice.say(1)
    ack(bob, 1, alice.welcome.run)
    assert timed(world) == 0
    ack(bob, 1, alice.welcome.run, lane="bulk")
    assert timed(world) == 1


def test_what_is_lost_on_the_way_is_timed_anew(world):
    alice, bob = world.client("alice"), world.client("bob")
    run = alice.welcome.run
    alice.say(1)
    bob.user.closed(1006, "")
    bob = world.client("bob", session=bob.welcome.session, secret=bob.welcome.secret, run=bob.welcome.run)
    world.clock.seconds += 60
    ack(bob, 0, run)
    assert timed(world) == 0
    alice.say(1)
    world.clock.seconds += 0.1
    ack(bob, 1, run)
    assert timed(world) == 1 and world.counts.delivery_sum == pytest.approx(0.1)


def test_a_sender_that_comes_back_with_another_run_is_timed_anew(world):
    alice, bob = world.client("alice"), world.client("bob")
    alice.say(1)
    alice.user.closed(1000, "")
    world.clock.seconds += 40
    world.advance(40)
    again = world.client("alice")
    assert again.welcome.run > alice.welcome.run
    again.say(1)
    ack(bob, 1, alice.welcome.run)
    ack(bob, 1, again.welcome.run)
    assert timed(world) == 1


def test_so_many_flows_are_timed_again_at_most(world, monkeypatch):
    monkeypatch.setattr(timing, "MAX_SAMPLED", 1)
    alice, bob, carol = world.client("alice"), world.client("bob"), world.client("carol")
    run = alice.welcome.run
    for name, client in (("bob", bob), ("carol", carol)):
        alice.say(1, to=name)
        ack(client, 1, run)
    tick(world)
    for name, client in (("bob", bob), ("carol", carol)):
        alice.say(2, to=name)
        ack(client, 2, run)
    assert timed(world) == 3


def test_nothing_is_kept_of_a_flow_that_has_ended(world):
    alice, bob = world.client("alice"), world.client("bob")
    alice.say(1)
    ack(bob, 1, alice.welcome.run)
    alice.user.closed(1000, "")
    world.clock.seconds += 0.01
    assert len(world.node.links.timing._sampled) == 1
    world.node.send_away("alice", CloseCode.DISCONNECTED, "")
    assert not world.node.links.timing._sampled


def test_newest_numbers_are_noted_for_the_operator(world):
    alice, bob = world.client("alice"), world.client("bob")
    for seq in (1, 2, 3):
        alice.say(seq)
    alice.say(1, lane="bulk")
    alice.say(2, lane="bulk")
    flow = world.node.sessions.get("alice").flows["bob"]
    assert (flow.last_messages, flow.last_bulk) == (3, 2)
    ack(bob, 3, alice.welcome.run)
    assert (flow.last_messages, flow.last_bulk) == (3, 2)
