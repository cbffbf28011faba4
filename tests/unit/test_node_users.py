"""What is sent to a user: one numbering, a cursor for each of his clients, delivered at the first."""

from typing import Any

import pytest
from tests.node_world import Client, Tokens, World
from tests.unit.mail_world import acknowledge, flaky, kept, put, seqs

from duolink.protocol.messages import Ack, LinkMessage, Probe, Refresh, Skip, Stored, Wait
from duolink.server.auth import Identity, Patterns
from duolink.server.policy import TokenConsent


@pytest.fixture
def world() -> World:
    """Bob has two clients, both known."""
    world = World(durable=True)
    for device in ("bob:1", "bob:2"):
        world.client(device).cut()
    return world


def settled(client: Client) -> list[tuple[int, str]]:
    return [(ack.seq, ack.sender) for ack in client.all(Ack)]


def test_every_client_of_a_user_gets_each_message_once_and_in_order(world):
    one, alice = world.client("bob:1"), world.client("alice")
    for seq in (1, 2, 3):
        alice.say(seq, "@bob")
    two = world.client("bob:2")
    for device in (one, two):
        messages = device.all(LinkMessage)
        assert [(m.seq, m.sender, m.user) for m in messages] == [(seq, "alice", "@bob") for seq in (1, 2, 3)]
    assert alice.last(Stored).seq == 3
    assert two.all(Probe)[0].user == "@bob"


def test_it_is_delivered_when_the_first_client_has_finished_with_it(world):
    one, alice = world.client("bob:1"), world.client("alice")
    run = alice.welcome.run
    alice.say(1, "@bob")
    acknowledge(one, 1, run=run, user="@bob")
    assert settled(alice) == [(1, "@bob")]
    assert kept(world) == 1, "the other client has not got it"
    two = world.client("bob:2")
    assert [message.seq for message in two.all(LinkMessage)] == [1]
    acknowledge(two, 1, run=run, user="@bob")
    assert kept(world) == 0


def test_what_the_second_client_says_of_it_changes_nothing_for_the_sender(world):
    one, two, alice = world.client("bob:1"), world.client("bob:2"), world.client("alice")
    run = alice.welcome.run
    for seq in (1, 2):
        alice.say(seq, "@bob")
    acknowledge(one, 2, run=run, user="@bob")
    acknowledge(two, 1, run=run, user="@bob", received=1, want=True)
    assert {ack for ack in settled(alice)} == {(2, "@bob")}
    assert not any(ack.want for ack in alice.all(Ack)), "what it misses is in the mailbox"
    assert [message.seq for message in two.all(LinkMessage)] == [1, 2, 2]


def test_a_client_that_came_late_has_not_finished_with_what_was_there_before(world):
    """1 and 2 were sent before the third client was ever here. It is told that it begins at 3, acknowledges
    as much, and finishes with 3: nobody has finished with 1 and 2, and their sender must not hear so."""
    one, alice = world.client("bob:1"), world.client("alice")
    run = alice.welcome.run
    alice.say(1, "@bob")
    alice.say(2, "@bob")
    three = world.client("bob:3")
    acknowledge(three, 2, run=run, user="@bob")
    alice.say(3, "@bob")
    acknowledge(three, 3, run=run, user="@bob")
    assert not settled(alice)
    acknowledge(one, 1, run=run, user="@bob")
    assert settled(alice) == [(1, "@bob")]
    acknowledge(one, 2, run=run, user="@bob")
    assert settled(alice) == [(1, "@bob"), (3, "@bob")]


def test_a_sender_whose_mailbox_cannot_be_asked_hears_when_it_asks_again(world):
    mailbox = flaky(world)
    one, alice = world.client("bob:1"), world.client("alice")
    run = alice.welcome.run
    alice.say(1, "@bob")
    mailbox.failing = {"standing"}
    acknowledge(one, 1, run=run, user="@bob")
    assert not settled(alice)
    mailbox.failing = set()
    alice.send(Probe(run=run, seq=1, base=1, to="@bob"))
    assert settled(alice) == [(1, "@bob")]


def test_losses_of_the_first_client_are_told_as_its_word(world):
    one, alice = world.client("bob:1"), world.client("alice")
    run = alice.welcome.run
    alice.send(Skip(run=run, seq=1, last=1, base=1, reason="expired", to="@bob"))
    acknowledge(one, 1, run=run, user="@bob", lost=[(1, 1, "expired")], by=one.welcome.run)
    told = alice.last(Ack)
    assert [(lost.first, lost.reason) for lost in told.lost] == [(1, "expired")]
    assert told.by == one.welcome.run


def test_a_client_that_comes_first_after_the_message_gets_what_comes_after_it(world):
    alice = world.client("alice")
    alice.say(1, "@bob")
    three = world.client("bob:3")
    alice.say(2, "@bob")
    assert [message.seq for message in three.all(LinkMessage)] == [2]


@pytest.mark.parametrize("name", ["@nobody", "@" + "x" * 127])
def test_a_user_that_was_never_here_is_waited_for(world, name):
    alice = world.client("alice")
    alice.take()
    alice.say(1, name)
    assert [type(message) for message in alice.take()] == [Wait]


def test_a_user_may_send_to_himself(world):
    one, two = world.client("bob:1"), world.client("bob:2")
    one.say(1, "@bob")
    for device in (one, two):
        assert [(m.seq, m.sender) for m in device.all(LinkMessage)] == [(1, "bob:1")]
    acknowledge(one, 1, "bob:1", run=one.welcome.run, user="@bob")
    assert one.last(Ack).sender == "@bob"


def test_losses_of_a_user_are_told_to_each_of_his_clients(world):
    alice = world.client("alice")
    alice.say(1, "@bob")
    run = alice.welcome.run
    alice.send(Skip(run=run, seq=2, last=2, base=1, reason="expired", to="@bob"))
    for device in ("bob:1", "bob:2"):
        client = world.client(device)
        assert seqs(client) == [1, (2, 2)]
        assert client.last(Skip).user == "@bob"


def test_binary_messages_to_a_user_say_so(world):
    alice = world.client("alice")
    alice.raw(
        b'{"type":"message","to":"@bob","run":%d,"seq":1,"base":1,"binary":true}\n\x00' % alice.welcome.run,
        binary=True,
    )
    message = world.client("bob:1").last(LinkMessage)
    assert (message.user, message.sender, bytes(message.data)) == ("@bob", "alice", b"\x00")


def test_a_probe_is_answered_for_a_user_by_his_mailbox(world):
    alice = world.client("alice")
    alice.say(1, "@bob")
    alice.take()
    alice.send(Probe(run=alice.welcome.run, seq=2, base=1, to="@bob"))
    stored, ack = alice.take()
    assert (type(stored), stored.seq) == (Stored, 1)
    assert (ack.sender, ack.seq, ack.received, ack.want) == ("@bob", 0, 1, True)


@pytest.mark.parametrize("user", ["@bob", "@alice", "@", "bob", "bob:1"])
def test_who_is_no_client_of_a_user_settles_nothing_for_him(world, user):
    alice = world.client("alice")
    alice.say(1, "@bob")
    alice.say(1, "bob:1")
    mallory = world.client("mallory")
    alice.take()
    acknowledge(mallory, 1, run=alice.welcome.run, user=user)
    assert not [message for message in alice.take() if type(message) is Ack]
    assert kept(world) == 2


def test_a_client_cannot_finish_with_more_than_there_is_for_the_others(world):
    one, alice = world.client("bob:1"), world.client("alice")
    run = alice.welcome.run
    alice.say(1, "@bob")
    acknowledge(one, 2**53 - 1, run=run, user="@bob")
    alice.say(2, "@bob", base=2)
    two = world.client("bob:2")
    assert [message.seq for message in two.all(LinkMessage)] == [1, 2]


def test_an_acknowledgement_of_a_stream_that_never_was_changes_nothing(world):
    one, alice = world.client("bob:1"), world.client("alice")
    alice.take()
    acknowledge(one, 5, run=alice.welcome.run, user="@bob")
    acknowledge(one, 5, "nobody", run=1, user="@bob")
    assert not [message for message in alice.take() if type(message) is Ack]
    alice.say(1, "@bob")
    assert [message.seq for message in one.all(LinkMessage)] == [1]


def test_a_user_needs_no_disk(world):
    """Without one, nothing is called stored; it is delivered all the same while the node lives."""
    world = World()
    for device in ("bob:1", "bob:2"):
        world.client(device).cut()
    alice = world.client("alice")
    alice.say(1, "@bob")
    assert not alice.all(Stored) and not alice.all(Wait)
    one = world.client("bob:1")
    acknowledge(one, 1, run=alice.welcome.run, user="@bob")
    assert settled(alice) == [(1, "@bob")]
    assert [message.seq for message in world.client("bob:2").all(LinkMessage)] == [1]


def test_late_answers_change_no_clients_order():
    for seed in range(20):
        world = World(seed=seed, durable=True)
        world.client("bob:1").cut()
        two, alice = world.client("bob:2"), world.client("alice")
        for seq in range(1, 6):
            alice.say(seq, "@bob")
        one = world.client("bob:1", settle=False)
        for seq in range(6, 9):
            alice.say(seq, "@bob")
        world.settle()
        for device in (one, two):
            assert seqs(device) == [1, 2, 3, 4, 5, 6, 7, 8], f"seed {seed}"


def test_a_lagging_client_is_given_a_window_at_a_time_and_holds_nobody_up(world):
    for seq in range(1, 401):
        put(world, seq, to="@bob")
    one, two = world.client("bob:1"), world.client("bob:2")
    assert seqs(one) == seqs(two) == list(range(1, 257))
    acknowledge(one, 256, user="@bob")
    assert seqs(one) == list(range(257, 401)) and seqs(two) == []
    acknowledge(one, 400, user="@bob")
    acknowledge(two, 200, user="@bob")
    assert seqs(two) == list(range(257, 401))


def test_consent_is_asked_for_the_users_name():
    identities: dict[str, Any] = {
        "a": Identity(user="alice", client="alice", links=Patterns.of(["@bob"])),
        "b": Identity(user="bob", client="phone"),
    }
    world = World(durable=True, authenticator=Tokens(**identities), consent=TokenConsent())
    phone, alice = world.client("phone", token="b"), world.client("alice", token="a")
    alice.say(1, "@bob")
    alice.say(1, "@carol")
    alice.say(1, "phone")
    assert [(message.seq, message.user) for message in phone.all(LinkMessage)] == [(1, "@bob")]
    assert [(wait.to, wait.seq) for wait in alice.all(Wait)] == [("@carol", 1), ("phone", 1)]
    acknowledge(phone, 1, run=alice.welcome.run, user="@bob")
    assert settled(alice) == [(1, "@bob")], "an acknowledgement needs no consent"


def test_an_acknowledgement_for_a_user_whose_sender_has_gone_counts_in_the_mailbox(world):
    one, alice = world.client("bob:1"), world.client("alice")
    alice.say(1, "@bob")
    alice.cut()
    acknowledge(one, 1, run=alice.welcome.run, user="@bob")
    two = world.client("bob:2")
    acknowledge(two, 1, run=alice.welcome.run, user="@bob")
    assert kept(world) == 0


def test_a_store_for_a_user_that_fails_is_told_to_wait(world):
    mailbox = flaky(world)
    one, alice = world.client("bob:1"), world.client("alice")
    mailbox.failing = {"store"}
    alice.say(1, "@bob")
    assert (alice.last(Wait).to, alice.last(Wait).code) == ("@bob", "unavailable")
    mailbox.failing = set()
    alice.say(1, "@bob")
    assert [message.seq for message in one.all(LinkMessage)] == [1]


def test_a_client_whose_new_token_names_another_user_gets_no_more_of_the_first_ones():
    identities: dict[str, Any] = {
        "alice": Identity(user="alice", client="alice", links=Patterns.of(["*"])),
        "bob": Identity(user="bob", client="phone"),
        "carol": Identity(user="carol", client="phone"),
    }
    world = World(durable=True, authenticator=Tokens(**identities))
    phone, alice = world.client("phone", token="bob"), world.client("alice", token="alice")
    alice.say(1, "@bob")
    phone.send(Refresh(id=1, token="carol"))
    alice.say(2, "@bob")
    assert [(m.seq, m.user) for m in phone.all(LinkMessage)] == [(1, "@bob")]
    acknowledge(phone, 1, run=alice.welcome.run, user="@bob")
    assert not alice.all(Ack)


def test_progress_while_the_mailbox_is_asked_is_told_once_more(world):
    mailbox = flaky(world)
    one, alice = world.client("bob:1"), world.client("alice")
    run = alice.welcome.run
    for seq in range(1, 10):
        alice.say(seq, "@bob")
    mailbox.held = []
    for seq in range(1, 10):
        acknowledge(one, seq, run=run, user="@bob")
    assert mailbox.calls.count("standing") == 1
    mailbox.release()
    world.turn()
    assert settled(alice)[-1] == (9, "@bob") and mailbox.calls.count("standing") == 2
    assert not world.node.mailboxes._settling
