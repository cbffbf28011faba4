"""What a durable node stores, and what it answers: to every copy something, `stored` only from the disk."""

import itertools
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.node_world import Client, ManualClock, Tokens, World
from tests.unit.mail_world import flaky, kept, put, seqs

from duolink.engines.base import Failure, MailboxLimits, StoreResult, Stream, Verdict
from duolink.engines.memory import memory_engines
from duolink.protocol.codes import ErrorCode
from duolink.protocol.messages import (
    Ack,
    Error,
    Goodbye,
    LinkMessage,
    LostRange,
    Peer,
    Probe,
    Refresh,
    Skip,
    Stored,
    Wait,
)
from duolink.server.auth import Identity, Patterns
from duolink.server.hooks import Hooks
from duolink.server.mailbox import ASK_AGAIN, MAX_UNDER_WAY
from duolink.server.policy import TokenConsent
from duolink.server.settings import Config
from duolink.server.settings import Wire as WireSettings


@pytest.fixture
def world() -> World:
    return World(durable=True)


def limited(**limits: Any) -> World:
    """A world whose mailboxes have these limits."""
    clock = ManualClock()
    names = itertools.count()
    engines = memory_engines(clock, lambda: f"e{next(names)}", mailboxes=MailboxLimits(**limits))
    return World(engines=replace(engines, durable=True), clock=clock)


def answers(client: Client) -> list[Any]:
    """What came since the last look, as tuples."""
    found: list[Any] = []
    for message in client.take():
        if type(message) is Stored:
            found.append(("stored", message.seq))
        elif type(message) is Wait:
            found.append(("wait", message.seq, message.last, message.code))
        elif type(message) is Ack:
            found.append(("ack", message.seq, message.received, message.want))
        elif type(message) is Error:
            found.append((message.code, message.seq))
    return found


def bodies(client: Client) -> list[Any]:
    return [json.loads(bytes(message.data)) for message in client.all(LinkMessage)]


def skip(client: Client, first: int, last: int, base: int = 1, **how: Any) -> None:
    client.send(
        Skip(run=client.welcome.run, seq=first, last=last, base=base, reason="expired", to="bob", **how)
    )


# --- storing ---------------------------------------------------------------------------------------


def test_what_is_sent_to_somebody_away_is_stored_and_comes_when_he_does(world):
    alice = world.client("alice")
    alice.say(1, data={"n": "é"}, ttl=5000)
    alice.say(2)
    assert answers(alice) == [("stored", 1), ("stored", 2)]
    bob = world.client("bob")
    assert bodies(bob) == [{"n": "é"}, 2]
    assert [message.sender for message in bob.all(LinkMessage)] == ["alice", "alice"]


def test_many_numbers_of_one_turn_have_one_answer(world):
    alice = world.client("alice")
    run = alice.welcome.run
    alice.take()
    body = msgspec.Raw(b"1")
    alice.send(*(LinkMessage(run=run, seq=seq, base=1, to="bob", data=body) for seq in range(1, 6)))
    assert answers(alice) == [("stored", 5)]


def test_a_node_without_a_disk_says_wait_and_stores_nothing():
    world = World()
    alice = world.client("alice")
    alice.take()
    alice.say(1)
    alice.say(2, store=True)
    assert answers(alice) == [("wait", 1, 0, ""), ("wait", 2, 0, "")]
    assert kept(world) == 0 and not alice.welcome.durable


def test_nothing_is_called_stored_before_the_disk_has_it():
    world = World(seed=1, durable=True)
    alice = world.client("alice")
    alice.take()
    alice.say(1)
    assert answers(alice) == []
    world.settle()
    assert answers(alice) == [("stored", 1)]


def test_history_3_what_was_under_way_to_a_dead_socket_is_in_the_mailbox_at_the_next_hello(world):
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    alice.say(1, store=True)  # not acknowledged in time
    bob.cut()
    assert seqs(bob.again()) == [1]


def test_a_copy_to_be_stored_is_not_handed_over_twice_when_the_first_was(world):
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    alice.say(1, store=True)
    assert [message.seq for message in bob.all(LinkMessage)] == [1]
    assert answers(alice)[-1] == ("stored", 1)
    bob.send(Ack(run=alice.welcome.run, seq=1, to="alice"))
    assert kept(world) == 0


def test_a_copy_that_crosses_an_acknowledgement_with_losses_is_not_stored(world):
    """Alice asks to store 2 while bob's word that 1 was lost and 2 is finished with is on its way to her.
    Kept, 2 would wait for bob's next process, though she hears that it was delivered."""
    bob, alice = world.client("bob"), world.client("alice")
    run = alice.welcome.run
    lost = [LostRange(1, 1, "expired")]
    alice.send(Skip(run=run, seq=1, last=1, base=1, to="bob", reason="expired", store=True))
    bob.send(Ack(run=run, seq=1, to="alice", lost=lost, by=bob.welcome.run))
    alice.say(2)
    bob.send(Ack(run=run, seq=2, to="alice", lost=lost, by=bob.welcome.run))
    alice.take()
    alice.say(2, store=True)
    assert kept(world) == 0 and answers(alice) == []
    alice.say(3, base=3)
    assert seqs(bob)[-1] == 3, "what is beyond goes its way"
    again = alice.again()
    again.take()
    again.say(2)
    assert bob.all(LinkMessage)[-1].seq == 2, (
        "on another connection she may not have heard: bob says it again"
    )


@pytest.mark.parametrize("deaf", [False, True], ids=["lost on the way to her", "she is away"])
def test_what_an_acknowledgement_with_losses_settled_does_not_reach_the_next_process(world, deaf):
    """Bob says that 1 was lost and that he has finished with 2. Alice does not hear it; bob's process ends,
    another begins; alice comes back and sends again what is not settled for her."""
    bob, alice = world.client("bob"), world.client("alice")
    run, by = alice.welcome.run, bob.welcome.run
    lost = [LostRange(1, 1, "expired")]
    alice.send(Skip(run=run, seq=1, last=1, base=1, to="bob", reason="expired"))
    alice.say(2)
    if deaf:
        alice.cut()
    bob.send(Ack(run=run, seq=2, to="alice", lost=lost, by=by))
    alice.cut()
    bob.send(Goodbye(code=1000))
    bob.cut()
    younger = world.client("bob")
    assert younger.welcome.run > by
    again = alice.again()
    again.take()
    again.send(Skip(run=run, seq=1, last=1, base=1, to="bob", reason="expired"))
    again.say(2)
    heard = again.last(Ack)
    assert (heard.seq, heard.lost, heard.by) == (2, lost, by), "she hears now which of them was lost"
    again.say(3, base=3)
    begins, message = younger.take()[-2:]
    assert (begins.start, begins.lost, message.seq) == (3, lost, 3), "and his process that it was"
    assert [each.seq for each in younger.all(LinkMessage)] == [3] and younger.all(Skip) == []


def test_a_younger_process_hears_where_it_begins_before_a_copy_that_crosses_the_answer(world):
    """Alice has not heard that bob's process before took 1 and 2. She sends 3 again while she is told.
    Without a word of where it begins, bob's process would wait for 1, and call 1 and 2 gone when her base
    moves."""
    alice = world.client("alice")
    run = alice.welcome.run
    alice.say(1)
    alice.say(2)
    alice.cut()
    bob = world.client("bob")
    assert seqs(bob) == [1, 2]
    bob.send(Ack(run=run, seq=2, to="alice"))
    bob.send(Goodbye(code=1000))
    bob.cut()
    younger = world.client("bob")
    again = alice.again()
    again.take()
    younger.take()
    again.say(3)
    assert answers(again) == [("wait", 3, 0, ""), ("ack", 2, 0, True)]
    again.say(3)  # it left before she heard
    probe, message = younger.take()
    assert (type(probe), probe.sender, probe.run, probe.start) == (Probe, "alice", run, 3)
    assert (type(message), message.seq, message.base) == (LinkMessage, 3, 1)


def test_losses_are_remembered_for_the_run_of_a_sender_who_sent_here(world):
    """Else one client could fill the disk with streams of its own invention."""
    bob, alice, carol = (world.client(name) for name in ("bob", "alice", "carol"))
    asked: list[Stream] = []
    world.engines.mailbox.acknowledge = lambda stream, *rest: asked.append(stream)
    alice.say(1)

    def lost(to: str, run: int) -> None:
        bob.send(Ack(run=run, seq=1, to=to, lost=[LostRange(1, 1, "expired")], by=bob.welcome.run))

    lost("nobody", 7)
    lost("carol", carol.welcome.run)
    lost("alice", alice.welcome.run + 1)
    assert asked == []
    lost("alice", alice.welcome.run)
    assert asked == [Stream("bob", "alice", "messages", alice.welcome.run)]


def test_without_a_disk_losses_are_not_remembered():
    world = World()
    bob, alice = world.client("bob"), world.client("alice")
    asked: list[Any] = []
    world.engines.mailbox.acknowledge = lambda *parts: asked.append(parts)  # type: ignore[method-assign]
    alice.say(1)
    lost = [LostRange(1, 1, "expired")]
    bob.send(Ack(run=alice.welcome.run, seq=1, to="alice", lost=lost, by=bob.welcome.run))
    assert asked == []


def test_a_younger_process_hears_nothing_of_where_a_stream_begins_that_begins_at_its_first(world):
    alice = world.client("alice")
    bob = world.client("bob")
    bob.take()
    alice.say(1)
    alice.say(1)
    assert [type(message) for message in bob.take()] == [LinkMessage]


def test_where_a_run_begins_is_not_told_while_an_earlier_one_waits(world):
    """The receiver would drop what it has not had of the earlier one."""
    alice = world.client("alice")
    for seq in range(1, 301):  # more than a window
        alice.say(seq)
    alice.send(Goodbye(code=1000))
    alice.cut()
    later = world.client("alice")
    bob = world.client("bob")
    assert seqs(bob)[-1] == 256
    later.say(5, base=5)
    assert answers(later)[-1] == ("ack", 4, 0, True)
    assert not [probe for probe in bob.all(Probe) if probe.run == later.welcome.run]


def test_a_copy_to_be_stored_that_is_the_first_here_is_handed_over(world):
    """The earlier copy went another way, or to an earlier node."""
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1, store=True)
    assert [message.seq for message in bob.all(LinkMessage)] == [1]


def test_history_2_what_went_direct_and_was_not_settled_makes_a_hole_that_is_asked_for(world):
    """1–5 went direct and were not acknowledged; 6 comes to the server for bob, who is away."""
    alice = world.client("alice")
    alice.take()
    alice.say(6)
    assert answers(alice) == [("wait", 6, 0, ""), ("ack", 0, 0, True)]
    for seq in range(1, 7):
        alice.say(seq)
    assert answers(alice)[-1] == ("stored", 6)
    assert seqs(world.client("bob")) == [1, 2, 3, 4, 5, 6]


def test_the_same_hole_is_asked_for_once_a_second(world):
    alice = world.client("alice")
    alice.take()
    for seq in (6, 7, 6, 8):
        alice.say(seq)
    assert [answer[0] for answer in answers(alice)] == ["wait", "ack", "wait", "wait", "wait"]
    world.advance(ASK_AGAIN)
    alice.say(6)
    assert [answer[0] for answer in answers(alice)] == ["wait", "ack"]


def test_a_number_far_beyond_its_base_is_stored_once_those_before_it_are(world):
    """The window counts what is neither stored nor settled; a mailbox holds any number between."""
    alice = world.client("alice")
    for seq in range(1, 400):
        alice.say(seq)
    assert answers(alice)[-1] == ("stored", 399)
    bob = world.client("bob")
    alice.say(400)
    assert answers(alice)[-1] == ("stored", 400), "beyond the window it does not go live"
    assert seqs(bob)[-1] == 256


def test_a_skip_is_stored_in_its_place(world):
    alice = world.client("alice")
    alice.say(1)
    skip(alice, 2, 4)
    alice.say(5)
    assert answers(alice)[-1] == ("stored", 5)
    bob = world.client("bob")
    assert seqs(bob) == [1, (2, 4), 5]
    assert bob.last(Skip).reason == "expired"


def test_a_skip_of_more_than_any_window_is_refused(world):
    """Else one line would make the node count to 2⁵³ for whoever the mailbox belongs to."""
    alice = world.client("alice")
    alice.take()
    skip(alice, 1, 2**53 - 1)
    skip(alice, 1, 2049)
    assert [code for code, _ in answers(alice)] == [ErrorCode.CREDIT] * 2
    assert seqs(world.client("bob")) == []


def test_a_message_that_only_its_senders_name_makes_too_large_is_refused_and_not_stored():
    world = World(Config(wire=WireSettings(max_message=4096)), durable=True)
    alice = world.client("a" * 120)
    alice.take()
    line = b'{"type":"message","to":"bob","run":%d,"seq":1,"base":1,"data":"%s"}'
    body = line % (alice.welcome.run, b"")
    alice.raw(line % (alice.welcome.run, b"x" * (4096 - len(body))))
    assert answers(alice) == [(ErrorCode.TOO_LARGE, 1)]
    bob = world.client("bob")
    alice.say(2, base=2)
    assert [message.seq for message in bob.all(LinkMessage)] in ([2], [])
    assert kept(world) == 0


@pytest.mark.parametrize("ttl", [0, 1, 2**53 - 1])
def test_any_time_to_live_is_taken(world, ttl):
    alice = world.client("alice")
    alice.say(1, ttl=ttl)
    world.advance(1.0)
    assert answers(alice)[-1] == ("stored", 1)
    assert seqs(world.client("bob")) == ([(1, 1)] if ttl == 1 else [1])


def test_a_newer_message_of_the_same_collapse_key_replaces_the_older_one(world):
    alice = world.client("alice")
    for seq, key in ((1, "pos"), (2, ""), (3, "pos"), (4, "other")):
        alice.say(seq, collapse=key)
    bob = world.client("bob")
    assert seqs(bob) == [(1, 1), 2, 3, 4]
    assert bob.last(Skip).reason == "replaced"


def test_what_the_server_is_told_about_storing_does_not_travel_on(world):
    alice = world.client("alice")
    alice.raw(
        b'{"type":"message","to":"bob","run":%d,"seq":1,"base":1,"binary":true,"store":true,"ttl":900,'
        b'"collapse":"k"}\nxy' % alice.welcome.run,
        binary=True,
    )
    message = world.client("bob").last(LinkMessage)
    assert (message.store, message.ttl, message.collapse, message.to, message.sender) == (
        False,
        0,
        "",
        "",
        "alice",
    )


@pytest.mark.parametrize("field", [{"user": "@bob"}, {"user": "x"}, {"sender": "carol"}], ids=repr)
def test_only_the_server_names_a_sender_or_a_user(world, field):
    """On the way that is open already, too: each forged user would be another link of the receiver's."""
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    alice.say(1)
    count = len(bob.all(LinkMessage))
    alice.take()
    alice.say(2, **field)
    run = alice.welcome.run
    alice.send(Skip(run=run, seq=2, last=2, base=1, reason="x", to="bob", **field))
    alice.send(Probe(run=run, seq=2, base=1, to="bob", **field))
    assert [code for code, _ in answers(alice)] == [ErrorCode.FORBIDDEN] * 3
    assert len(bob.all(LinkMessage)) == count and not bob.all(Skip)


# --- full, nobody ----------------------------------------------------------------------------------


def test_a_full_mailbox_refuses_the_newest_and_the_next_one_may_fit():
    world = limited(pair_messages=2)
    alice = world.client("alice")
    alice.take()
    for seq in (1, 2, 3):
        alice.say(seq)
    assert answers(alice) == [("stored", 1), ("stored", 2), (ErrorCode.MAILBOX_FULL, 3)]
    bob = world.client("bob")
    assert seqs(bob) == [1, 2, (3, 3)]
    assert bob.last(Skip).reason == "mailbox_full"
    bob.send(Ack(run=alice.welcome.run, seq=3, to="alice"))
    bob.cut()
    alice.say(4, base=4)
    assert answers(alice)[-1] == ("stored", 4)


def test_who_is_here_hears_of_what_a_full_mailbox_refused_in_its_place():
    """1 and 2 are to be stored, and there is no room; 3 is a skip, which takes none. A receiver that knows
    nothing of the stream must not be told to begin behind them, as if somebody had finished with them."""
    world = limited(pair_messages=1)
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1, "carol")
    alice.say(1, store=True)
    alice.say(2, store=True)
    assert seqs(bob) == [1, (2, 2)]
    bob.take()
    for seq in (1, 2):
        alice.say(seq, lane="bulk", store=True)
    skip(alice, 3, 3, lane="bulk", store=True)
    came = bob.take()
    assert [(m.seq, m.last) for m in came if type(m) is Skip] == [(1, 1), (2, 2), (3, 3)]
    assert [m.start for m in came if type(m) is Probe] == [1]


def test_history_23_invented_names_do_not_fill_the_disk():
    world = limited(known_only=True)
    world.client("bob").cut()
    alice = world.client("alice")
    alice.take()
    for name in ("bob", "nobody", "x" * 128):
        alice.say(1, name)
    assert answers(alice) == [("stored", 1), ("wait", 1, 0, ""), ("wait", 1, 0, "")]
    assert kept(world) == 1


def test_history_23_a_stranger_fills_his_own_share_only():
    world = limited(pair_messages=3, messages=5)
    mallory, alice = world.client("mallory"), world.client("alice")
    for seq in range(1, 10):
        mallory.say(seq)
    alice.take()
    for seq in (1, 2, 3):
        alice.say(seq)
    assert answers(alice) == [("stored", 1), ("stored", 2), (ErrorCode.MAILBOX_FULL, 3)]
    assert kept(world) == 5


def test_who_has_no_mailbox_is_waited_for(world):
    world = limited(known_only=True)
    alice = world.client("alice")
    alice.say(1)
    bob = world.client("bob")
    assert alice.last(Peer).state == "here"
    alice.say(1)
    alice.say(1)  # after it was asked what an earlier bob had finished with
    assert [message.seq for message in bob.all(LinkMessage)] == [1]


# --- consent ---------------------------------------------------------------------------------------


def test_history_23_what_is_blocked_is_not_stored_and_is_when_it_may():
    identities = {
        "a": Identity(user="alice", client="alice", links=Patterns.of(["carol"])),
        "a2": Identity(user="alice", client="alice", links=Patterns.of(["bob"])),
    }
    world = World(durable=True, authenticator=Tokens(**identities), consent=TokenConsent())
    alice = world.client("alice", token="a")
    alice.take()
    alice.say(1)
    alice.say(1, store=True)
    alice.say(1, "@bob")
    assert answers(alice) == [("wait", 1, 0, "")] * 3
    alice.send(Refresh(id=1, token="a2"))
    alice.say(1)
    assert answers(alice)[-1] == ("stored", 1)
    alice.send(Refresh(id=2, token="a"))
    alice.say(2)
    assert answers(alice)[-1] == ("wait", 2, 0, "")
    assert kept(world) == 1


def test_history_30_no_name_that_could_be_a_clients_is_refused(world):
    alice = world.client("alice")
    alice.take()
    for name in ("x", "x" * 128, "@x", "@" + "x" * 127):
        alice.say(1, name)
    assert all(answer[0] in ("stored", "wait") for answer in answers(alice))
    for name in ("", "x" * 129, "@", "$x", "@" + "x" * 128):
        alice.say(1, name)
    assert {answer[0] for answer in answers(alice)} <= {ErrorCode.FORBIDDEN, ErrorCode.MALFORMED}


# --- floods ----------------------------------------------------------------------------------------


def test_more_than_the_disk_takes_is_told_to_wait_and_called_back(world):
    mailbox_ = flaky(world)
    alice = world.client("alice")
    alice.take()
    mailbox_.held = []
    for lane in ("messages", "bulk"):
        for seq in range(1, MAX_UNDER_WAY // 2 + 2):
            alice.say(seq, lane=lane)
    assert len(mailbox_.held) == MAX_UNDER_WAY and alice.user.storing == MAX_UNDER_WAY
    assert answers(alice) == [("wait", 1024, 0, ""), ("wait", 1025, 0, "")]
    mailbox_.release()
    world.turn()
    got = answers(alice)
    assert ("ack", 0, 0, True) in got and ("stored", 1025) in got and ("stored", 1023) in got
    assert alice.user.storing == 0 and not world.node.mailboxes._turned_away


def test_what_was_turned_away_is_forgotten_with_its_sender(world):
    mailbox_ = flaky(world)
    mailbox_.failing = {"store"}
    alice = world.client("alice")
    alice.say(1)
    assert world.node.mailboxes._turned_away
    alice.cut()
    world.advance(60)
    assert not world.node.mailboxes._turned_away


# --- failures --------------------------------------------------------------------------------------


def test_history_29_a_full_disk_stops_storing_and_nothing_else(world):
    """Senders are told why, live delivery goes on, and when the disk is well they are called back."""
    mailbox_ = flaky(world)
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    alice.take()
    mailbox_.failing = {"store"}
    alice.say(1, "carol")
    alice.say(2, "carol")
    assert answers(alice) == [("wait", 1, 0, "unavailable"), ("wait", 2, 0, "")]
    alice.say(2)
    assert [message.seq for message in bob.all(LinkMessage)] == [1, 2]
    mailbox_.failing = set()
    world.node.mailboxes.call_back()
    world.turn()
    assert answers(alice) == [("ack", 0, 0, True)]
    for seq in (1, 2):
        alice.say(seq, "carol")
    assert answers(alice) == [("stored", 1), ("stored", 2)]


def test_history_29_the_node_notices_that_the_disk_is_well_again():
    problem = ["no space left"]
    clock = ManualClock()
    engines = memory_engines(clock, lambda: "e")
    world = World(engines=replace(engines, durable=True, problem=lambda: problem[0]), clock=clock)
    mailbox_ = flaky(world)
    mailbox_.failing = {"store"}
    alice = world.client("alice")
    alice.say(1)
    world.advance(5)
    assert [event for _, event in world.log.lines] == ["nothing can be stored"]
    mailbox_.failing = set()
    problem[0] = ""
    alice.take()
    world.advance(5)
    assert answers(alice) == [("ack", 0, 0, True)]
    assert world.log.lines[-1] == ("storage", "the storage is well again")


def test_the_first_store_that_succeeds_calls_everybody_back(world):
    mailbox_ = flaky(world)
    mailbox_.failing = {"store"}
    alice, carol = world.client("alice"), world.client("carol")
    alice.say(1)
    alice.take()
    mailbox_.failing = set()
    carol.say(1)
    assert answers(alice) == [("ack", 0, 0, True)]


def test_a_copy_that_fails_while_its_receiver_is_here_comes_again(world):
    mailbox_ = flaky(world)
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    alice.take()
    mailbox_.failing = {"store"}
    alice.say(1, store=True)
    assert answers(alice) == [("wait", 1, 0, "unavailable")]
    alice.say(1)
    assert [message.seq for message in bob.all(LinkMessage)] == [1, 1]


def test_a_copy_that_may_be_on_the_disk_is_not_counted_as_dropped(world):
    """The disk failed in the middle of the commit: to call the number lost for certain would be a guess."""
    mailbox_ = flaky(world)
    mailbox_.failing, mailbox_.failure = {"store"}, Failure("the disk is gone", uncertain=True)
    world.client("bob").cut()
    alice = world.client("alice")
    alice.say(1)
    wait = alice.last(Wait)
    assert (wait.seq, wait.code, wait.probe) == (1, "unavailable", True)


# --- who comes and goes ----------------------------------------------------------------------------


def test_a_sender_replaced_while_its_row_is_on_the_way_hears_nothing_of_it():
    for seed in range(10):
        world = World(seed=seed, durable=True)
        alice = world.client("alice")
        alice.say(1)
        alice.cut()
        later = world.client("alice")
        assert [type(m) for m in later.take() if type(m) in (Stored, Wait, Ack)] == []
        world.settle()
        assert kept(world) == 1 and alice.user.storing == 0


def test_a_sender_that_came_back_hears_on_its_new_connection_what_was_stored():
    world = World(seed=3, durable=True)
    alice = world.client("alice")
    alice.say(1)
    alice.cut()
    again = alice.again()
    world.settle()
    assert ("stored", 1) in answers(again)


@pytest.mark.parametrize("result", [Verdict.FULL, Verdict.HOLE, Verdict.NOBODY, None])
def test_an_answer_for_a_connection_that_has_gone_is_not_told(world, result):
    alice = world.client("alice")
    session = alice.user.session
    mailbox_ = flaky(world)
    mailbox_.held = []
    alice.say(1)
    alice.cut()
    stream = Stream("bob", "alice", "messages", alice.welcome.run)
    from duolink.engines.base import Row

    answer = StoreResult(result) if result is not None else Failure("gone")
    world.node.mailboxes._done(alice.user, session, stream, Row(1, 1, b"{}"), None, answer)
    world.turn()
    assert alice.user.storing == 0 and not world.node.mailboxes._under_way
    world.advance(60)
    assert not world.node.mailboxes._turned_away and not world.node.mailboxes._holes


def test_a_receiver_that_comes_while_a_row_is_on_the_way_gets_it_once():
    for seed in range(30):
        world = World(seed=seed, durable=True)
        alice = world.client("alice")
        for seq in range(1, 6):
            alice.say(seq)
        bob = world.client("bob", settle=False)
        world.settle()
        assert seqs(bob) == [1, 2, 3, 4, 5], f"seed {seed}"


def test_history_7_a_new_run_waits_for_rows_of_the_old_one_that_are_on_their_way():
    for seed in range(20):
        world = World(seed=seed, durable=True)
        alice = world.client("alice")
        for seq in (1, 2, 3):
            alice.say(seq)
        alice.cut()
        later = world.client("alice", settle=False)
        bob = world.client("bob", settle=False)
        while world.late is not None and world.late.step():
            world.turn()
            if later.all(type(alice.welcome)) and not later.all(Stored):
                later.say(1)
                break
        for _ in range(4):
            world.settle()
            world.advance(3)
            later.say(1)
        runs = [message.run for message in bob.all(LinkMessage)]
        assert runs == sorted(runs), f"seed {seed}"
        assert alice.welcome.run in runs


def test_history_7_a_new_run_does_not_overtake_a_row_of_the_old_one_that_is_on_its_way(world):
    """Bob can take nothing for a moment, so 1 goes to the disk; its sender ends, and her next process writes
    to him before the disk has answered."""
    mailbox_ = flaky(world)
    bob, alice = world.client("bob"), world.client("alice")
    bob.user.full = True
    mailbox_.held = []
    alice.say(1)
    bob.user.full = False
    alice.cut()
    later = world.client("alice")
    later.say(1)
    assert bob.all(LinkMessage) == []
    while mailbox_.held:
        mailbox_.release()
        world.turn()
    assert [message.run for message in bob.all(LinkMessage)] == [alice.welcome.run, later.welcome.run]


# --- younger receivers -----------------------------------------------------------------------------


def test_history_2_a_younger_process_is_not_sent_what_an_earlier_one_had_finished_with(world):
    """Bob finished with 1 and 2, alice has not heard it; both are cut, and another bob is here when she
    comes back: the mailbox knows."""
    bob, alice = world.client("bob"), world.client("alice")
    for seq in (1, 2, 3):
        alice.say(seq, store=True)
    alice.cut()
    bob.send(Ack(run=alice.welcome.run, seq=2, to="alice"))
    bob.cut()
    world.advance(60)
    younger = world.client("bob")
    alice = alice.again()
    assert alice.all(type(alice.welcome))
    alice.take()
    for seq in (1, 2, 3):
        alice.say(seq)
    got = answers(alice)
    assert got.count(("ack", 2, 0, True)) == 1, "numbers 1 and 2 are settled; go on from there"
    assert [message.seq for message in younger.all(LinkMessage)] == [3]


def test_the_mailbox_is_asked_once_for_each_younger_process(world):
    mailbox_ = flaky(world)
    alice, bob = world.client("alice"), world.client("bob")
    for _ in range(3):
        alice.say(1)
        alice.say(1, lane="bulk")
    assert mailbox_.calls.count("standing") == 2
    assert len(bob.all(LinkMessage)) == 4
    bob.cut()
    later = world.client("bob")
    alice.say(1)
    alice.say(1)
    assert mailbox_.calls.count("standing") == 3 and later.all(LinkMessage)


def test_a_question_of_a_lost_connection_answers_for_no_other(world):
    """Alice's connection ends while the mailbox is asked about a younger bob, and she resumes. She has not
    heard the answer: her next number must not go to him unasked, for an earlier bob may have finished with
    it."""
    mailbox_ = flaky(world)
    bob, alice = world.client("bob"), world.client("alice")
    run = alice.welcome.run
    for lane in ("messages", "bulk"):
        alice.say(1, lane=lane)
        bob.send(Ack(run=run, seq=1, to="alice", lane=lane))
    bob.cut()
    world.advance(60)
    younger = world.client("bob")
    mailbox_.held = []
    alice.say(2)
    alice.cut()
    again = alice.again()
    mailbox_.release()
    world.turn()
    again.say(2)
    assert not younger.all(LinkMessage) and mailbox_.calls.count("standing") == 2
    again.say(2)
    assert [message.seq for message in younger.all(LinkMessage)] == [2]


def test_nobody_piles_up_questions(world):
    mailbox_ = flaky(world)
    alice, bob = world.client("alice"), world.client("bob")
    mailbox_.held = []
    for _ in range(100):
        alice.say(1)
        alice.say(1, lane="bulk")
        probe(alice, 1, to="carol")
    assert mailbox_.calls.count("standing") == 3 and not bob.all(LinkMessage)
    mailbox_.release()
    assert not world.node.mailboxes._asking


def test_a_mailbox_that_cannot_be_asked_keeps_the_sender_waiting(world):
    mailbox_ = flaky(world)
    alice, bob = world.client("alice"), world.client("bob")
    mailbox_.failing = {"standing"}
    alice.take()
    alice.say(1)
    assert answers(alice) == [("wait", 1, 0, "")] and not bob.all(LinkMessage)
    mailbox_.failing = set()
    world.node.mailboxes.call_back()
    world.turn()
    assert answers(alice) == [("ack", 0, 0, True)]
    alice.say(1)
    alice.say(1)
    assert bob.all(LinkMessage)


def test_a_sender_that_has_gone_hears_no_answer_of_the_mailbox(world):
    mailbox_ = flaky(world)
    alice, bob = world.client("alice"), world.client("bob")
    mailbox_.held = []
    alice.say(1)
    alice.cut()
    count = len(alice.wire.payloads)
    mailbox_.release()
    assert len(alice.wire.payloads) == count and bob


# --- probes ----------------------------------------------------------------------------------------


def probe(client: Client, seq: int, base: int = 1, to: str = "bob") -> None:
    client.send(Probe(run=client.welcome.run, seq=seq, base=base, to=to))


def test_a_probe_to_somebody_away_is_answered_by_the_mailbox(world):
    alice = world.client("alice")
    alice.say(1)
    alice.say(2)
    alice.take()
    probe(alice, 2)
    assert answers(alice) == [("stored", 2), ("ack", 0, 2, False)]
    probe(alice, 5)
    assert answers(alice) == [("stored", 2), ("ack", 0, 2, True)], "3 … 5 are to come again"


def test_a_probe_to_somebody_here_is_answered_by_both(world):
    bob, alice = world.client("bob"), world.client("alice")
    for seq in (1, 2, 3):
        alice.say(seq, store=True)
    bob.send(Ack(run=alice.welcome.run, seq=1, to="alice"))
    alice.take()
    bob.take()
    probe(alice, 3)
    assert answers(alice) == [("stored", 3), ("ack", 1, 3, False)]
    (heard,) = [message for message in bob.take() if type(message) is Probe]
    assert (heard.start, heard.seq, heard.sender, heard.to) == (2, 3, "alice", "")
    probe(alice, 1)
    assert not [message for message in bob.take() if type(message) is Probe], "nothing it could add"


def test_a_probe_whose_mailbox_cannot_be_read_goes_to_the_receiver_all_the_same(world):
    mailbox_ = flaky(world)
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    bob.take()
    mailbox_.failing = {"standing"}
    probe(alice, 1)
    assert [type(message) for message in bob.take()] == [Probe]
    bob.user.full = True
    probe(alice, 1)
    assert bob.take() == []


def test_a_probe_of_a_new_run_waits_for_the_old_ones_rows(world):
    for seq in range(1, 301):
        put(world, seq, run=1)
    bob, alice = world.client("bob"), world.client("alice")
    probes = len(bob.all(Probe))
    probe(alice, 1)
    assert len(bob.all(Probe)) == probes


def test_a_probe_reaches_a_receiver_whose_acknowledgement_was_lost_on_the_way(world):
    """A window of rows was handed over, and the acknowledgement went another way and was lost: the mailbox
    waits for it, the receiver has nothing more to say. The sender's probe makes it."""
    bob, alice = world.client("bob"), world.client("alice")
    for seq in range(1, 301):
        alice.say(seq, store=True)
    assert seqs(bob) == list(range(1, 257))
    bob.take()
    probe(alice, 300)
    assert [message.seq for message in bob.take() if type(message) is Probe] == [300]
    bob.send(Ack(run=alice.welcome.run, seq=256, to="alice", want=True))
    assert seqs(bob) == list(range(257, 301))


def test_a_probe_that_is_answered_after_its_sender_left_is_not_heard(world):
    mailbox_ = flaky(world)
    alice = world.client("alice")
    mailbox_.held = []
    probe(alice, 1)
    alice.cut()
    count = len(alice.wire.payloads)
    mailbox_.release()
    assert len(alice.wire.payloads) == count


# --- what is remembered ----------------------------------------------------------------------------


def test_what_was_acknowledged_while_the_sender_was_away_is_told_when_it_comes(world):
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    alice.cut()
    bob.send(Ack(run=alice.welcome.run, seq=1, to="alice"))
    again = alice.again()
    again.take()
    again.say(1)
    assert answers(again) == [("ack", 1, 0, False)]


def test_what_was_acknowledged_outlives_the_senders_session(world):
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    alice.cut()
    bob.send(Ack(run=alice.welcome.run, seq=1, to="alice"))
    world.advance(60)
    bob.cut()
    world.advance(60)
    later = world.client("alice", run=alice.welcome.run)
    later.take()
    later.say(1)
    later.say(1)
    assert ("stored", 1) in answers(later) and kept(world) == 0


def test_a_session_that_was_left_for_good_is_not_remembered(world):
    mailbox_ = flaky(world)
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    bob.send(Ack(run=alice.welcome.run, seq=1, to="alice"))
    alice.send(Goodbye(code=1000, reason=""))
    alice.cut(1000)
    world.advance(60)
    assert "acknowledge" not in mailbox_.calls


# --- the application's own -------------------------------------------------------------------------


def test_the_server_stores_for_its_clients_and_is_stored_for_by_nobody(world):
    heard: list[Any] = []
    world.node.local.attach(heard.append)
    run = world.node.local.run
    body = msgspec.Raw(b'"hello"')
    world.node.local.say(LinkMessage(run=run, seq=1, base=1, to="bob", data=body))
    world.node.local.say(LinkMessage(run=run, seq=1, base=1, to="@bob", data=body, binary=True))
    world.turn()
    assert [(message.to, message.seq) for message in heard if type(message) is Stored] == [("bob", 1)]
    bob = world.client("bob")
    assert (bodies(bob), bob.last(LinkMessage).sender) == (["hello"], "$server")
    bob.say(1, "$server", store=True)
    world.turn()
    assert [message.seq for message in heard if type(message) is LinkMessage] == [1]
    assert kept(world) == 1


def test_the_message_hook_hears_what_comes_from_a_mailbox_when_it_is_handed_over():
    heard: list[Any] = []
    hooks = Hooks(message=lambda *what: heard.append(what))
    world = World(durable=True, hooks=hooks)
    alice = world.client("alice")
    alice.say(1, data="x")
    skip(alice, 2, 2)
    alice.raw(
        b'{"type":"message","to":"bob","run":%d,"seq":3,"base":1,"binary":true}\nxy' % alice.welcome.run,
        binary=True,
    )
    assert heard == []
    world.client("bob")
    run = alice.welcome.run
    assert heard == [
        ("alice", "bob", "messages", run, 1, b'"x"', False),
        ("alice", "bob", "messages", run, 3, b"xy", True),
    ]


def test_an_acknowledgement_of_an_earlier_run_hides_nothing_of_the_current_one(world):
    """Bob finishes late with something of alice's earlier run; what he said of the current one still counts
    when she comes back and asks."""
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    bob.send(Ack(run=alice.welcome.run, seq=1, to="alice"))
    bob.send(Ack(run=alice.welcome.run - 1, seq=7, to="alice"))
    alice.cut()
    again = alice.again()
    again.take()
    again.say(1)
    assert answers(again) == [("ack", 1, 0, False)]
