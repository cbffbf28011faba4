"""Routing: what the node does with numbered messages, acknowledgements, signals and watchers."""

import json
from typing import Any

import msgspec
import pytest
from tests.node_world import Client, Tokens, World

from duolink.protocol import limits
from duolink.protocol.messages import (
    Ack,
    Ephemeral,
    Error,
    LinkMessage,
    Peer,
    Probe,
    Refresh,
    Signal,
    Skip,
    Wait,
    Watch,
    Watching,
)
from duolink.server import links
from duolink.server.auth import Identity, Patterns
from duolink.server.hooks import Hooks
from duolink.server.policy import TokenConsent
from duolink.server.settings import Config
from duolink.server.settings import Wire as WireSettings
from duolink.server.watchers import WAKE_SLICE


@pytest.fixture
def world() -> World:
    return World()


def seqs(client: Client) -> list[int]:
    return [message.seq for message in client.take() if type(message) is LinkMessage]


def waits(client: Client) -> list[tuple[int, int]]:
    return [(message.seq, message.last) for message in client.take() if type(message) is Wait]


def identity(client: str, *links: str) -> Identity:
    return Identity(user=client, client=client, links=Patterns.of(links))


# --- the straight way --------------------------------------------------------------------------


def test_a_message_arrives_with_its_sender_and_as_it_was(world):
    alice, bob = world.client("alice"), world.client("bob")
    bob.take()
    alice.say(1, data={"text": "hé\n"}, ask=True, request="r1", deadline=500)
    alice.say(2, lane="bulk")
    first, second = bob.take()
    assert (first.sender, first.seq, first.run, first.base) == ("alice", 1, alice.welcome.run, 1)
    assert json.loads(bytes(first.data)) == {"text": "hé\n"}
    assert (first.ask, first.request, first.deadline, second.lane) == (True, "r1", 500, "bulk")
    assert alice.take()[1:] == []  # nothing but welcome: the receiver answers


def test_a_message_whose_line_ends_in_white_space_arrives_too(world):
    alice, bob = world.client("alice"), world.client("bob")
    bob.take()
    alice.raw(b'{"type":"message","to":"bob","run":%d,"seq":1,"base":1,"data":1} ' % alice.welcome.run)
    assert [message.sender for message in bob.take()] == ["alice"]


def test_an_empty_from_cannot_hide_behind_the_servers(world):
    alice, bob = world.client("alice"), world.client("bob")
    run = alice.welcome.run
    for number in (1, 2):  # the first finds the way, the second takes it
        alice.raw(b'{"type":"message","from":"","to":"bob","run":%d,"seq":%d,"base":1}' % (run, number))
    assert [json.loads(payload)["from"] for payload, _ in bob.wire.payloads[1:]] == ["alice", "alice"]


def test_many_messages_of_one_read_are_one_write(world):
    alice, bob = world.client("alice"), world.client("bob")
    before = bob.wire.writes
    run = alice.welcome.run
    alice.send(*[LinkMessage(to="bob", run=run, seq=seq, base=1) for seq in range(1, 33)])
    assert bob.wire.writes == before + 1
    assert seqs(bob) == list(range(1, 33))


def test_binary_and_text_keep_their_order(world):
    alice, bob = world.client("alice"), world.client("bob")
    bob.take()
    run = alice.welcome.run
    header = b'{"type":"message","to":"bob","run":%d,"seq":%d,"base":1,"binary":true}\n'
    world.node.batching = True
    alice.user.received(b'{"type":"message","to":"bob","run":%d,"seq":1,"base":1}' % run, False)
    alice.user.received(header % (run, 2) + b"\x00\n\xff", True)
    alice.user.received(b'{"type":"message","to":"bob","run":%d,"seq":3,"base":1}' % run, False)
    alice.user.batch_ended()
    got = bob.take()
    assert [(m.seq, m.binary, m.sender) for m in got] == [
        (1, False, "alice"),
        (2, True, "alice"),
        (3, False, "alice"),
    ]
    assert bytes(got[1].data) == b"\x00\n\xff"


def test_acknowledgements_skips_and_probes_are_relayed(world):
    alice, bob = world.client("alice"), world.client("bob")
    run = alice.welcome.run
    alice.say(1)
    alice.send(Skip(to="bob", run=run, seq=2, last=3, base=1, reason="expired"))
    alice.send(Probe(to="bob", run=run, seq=3, base=1))
    bob.send(Ack(to="alice", run=run, seq=3))
    assert [type(message) for message in bob.take()[1:]] == [LinkMessage, Skip, Probe]
    ack = alice.take()[-1]
    assert (type(ack), ack.sender, ack.to, ack.seq) == (Ack, "bob", "", 3)


def test_a_client_may_link_to_itself(world):
    alice = world.client("alice")
    alice.say(1, to="alice")
    assert alice.last(LinkMessage).sender == "alice"


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"sender": "mallory"}, "forbidden"),
        ({"run": 1}, "forbidden"),
        ({"to": "@"}, "forbidden"),
        ({"to": "$other"}, "forbidden"),
        ({"to": ""}, "malformed"),
        ({"to": "b\x00b"}, "malformed"),
        ({"to": "é" * 65}, "malformed"),
        ({"lane": "fast"}, "malformed"),
        ({"base": 9}, "malformed"),
        ({"seq": limits.WINDOW + 1}, "credit"),
    ],
)
def test_what_can_never_be_routed_is_refused_by_number(world, fields: dict[str, Any], code):
    alice, bob = world.client("alice"), world.client("bob")
    bob.take()
    fields = {"seq": 5, **fields}
    alice.say(**fields)
    error = alice.last(Error)
    assert (error.code, error.seq) == (code, fields["seq"])
    assert bob.take() == [] and alice.closed == 0
    alice.say(1)
    assert seqs(bob) == [1]


def test_the_window_is_counted_from_base(world):
    alice, bob = world.client("alice"), world.client("bob")
    bob.take()
    alice.say(limits.WINDOW)
    alice.say(limits.WINDOW + 1)
    alice.say(limits.WINDOW + 1, base=2)
    assert seqs(bob) == [limits.WINDOW, limits.WINDOW + 1]


def test_a_skip_that_ends_before_it_begins_is_refused(world):
    alice = world.client("alice")
    alice.send(Skip(to="bob", run=alice.welcome.run, seq=3, last=2, base=1, reason="expired"))
    assert alice.last(Error).code == "malformed"


FORGED = [
    Ack(run=1, seq=1, to="bob", sender="x"),
    Signal(data=msgspec.Raw(b"1"), to="bob", sender="x"),
    Ephemeral(to="bob", sender="x"),
    Ephemeral(channel="room", sender="x"),
]


@pytest.mark.parametrize("kind", FORGED, ids=lambda kind: type(kind).__name__)
def test_a_forged_sender_is_forbidden_everywhere(world, kind):
    alice, bob = world.client("alice"), world.client("bob")
    bob.take()
    alice.send(kind)
    assert alice.last(Error).code == "forbidden" and bob.take() == []


def test_a_message_that_only_its_senders_name_makes_too_large_is_refused(world):
    name = "a" * 128
    alice, bob = world.client(name), world.client("b")
    alice.say(1, to="b", data="x" * (limits.MAX_MESSAGE - 120))
    assert (alice.last(Error).code, alice.last(Error).seq) == ("too_large", 1)
    assert bob.all(LinkMessage) == []


# --- wait --------------------------------------------------------------------------------------


def test_absence_is_never_a_refusal_and_every_dropped_copy_has_its_wait(world):
    alice = world.client("alice")
    for seq in (1, 2, 3):
        alice.say(seq)
    alice.send(Skip(to="bob", run=alice.welcome.run, seq=4, last=6, base=1, reason="expired"))
    assert waits(alice) == [(1, 0), (2, 0), (3, 0), (4, 6)]
    bob = world.client("bob")
    here = alice.take()
    assert [(peer.client_id, peer.state, peer.run) for peer in here] == [("bob", "here", bob.welcome.run)]
    alice.say(2)  # later than the refused number: still dropped
    assert waits(alice) == [(2, 0)] and bob.all(LinkMessage) == []
    for seq in (1, 2, 3):
        alice.say(seq)
    assert [message.seq for message in bob.all(LinkMessage)] == [1, 2, 3]


def test_lanes_wait_by_themselves(world):
    alice = world.client("alice")
    alice.say(1, lane="bulk")
    bob = world.client("bob")
    alice.say(1)
    alice.say(2, lane="bulk")
    alice.say(1, lane="bulk")
    assert [(m.lane, m.seq) for m in bob.all(LinkMessage)] == [("messages", 1), ("bulk", 1)]


def test_a_probe_to_nobody_says_that_nothing_after_it_is_taken(world):
    alice = world.client("alice")
    alice.send(Probe(to="bob", run=alice.welcome.run, seq=7, base=1))
    assert waits(alice) == [(8, 0)]
    world.client("bob")
    assert alice.take()[-1].state == "here"


def test_history_30_the_server_restarts_and_the_sender_is_back_first():
    """Both live; the node restarts; A's hello and messages come before B's hello. B's name means
    nothing to the fresh node, and yet A is never refused: it waits, is told, and B gets everything."""
    world = World()
    alice, bob = world.client("alice"), world.client("bob")
    alice.say(1)
    fresh = World(clock=world.clock)
    world.clock.seconds += 1
    alice2 = fresh.client("alice", run=alice.welcome.run, session=alice.welcome.session, secret="x")
    assert alice2.welcome.resumed is False and alice2.welcome.run == alice.welcome.run
    alice2.say(1)
    alice2.say(2)
    assert alice2.all(Error) == [] and waits(alice2) == [(1, 0), (2, 0)]
    bob2 = fresh.client("bob", run=bob.welcome.run)
    assert alice2.take()[-1].state == "here"
    alice2.say(1)
    alice2.say(2)
    assert seqs(bob2) == [1, 2]


def test_history_2_what_was_under_way_when_the_receiver_was_cut_is_asked_for_again(world):
    """A's 1 is handed to B's dead socket; B resumes with another attachment; A's probe reaches B, whose
    answer asks for 1. The node adds nothing and takes nothing away: `base` and the numbers are A's."""
    alice, bob = world.client("alice"), world.client("bob")
    alice.send(Watch(id=1, clients=["bob"]))
    alice.say(1)
    bob.cut()
    alice.send(Probe(to="bob", run=alice.welcome.run, seq=1, base=1))
    bob = bob.again()
    states = [(peer.state, peer.attachment) for peer in alice.all(Peer)]
    assert states == [("here", 1), ("reconnecting", 0), ("here", 2), ("here", 2)]
    alice.send(Probe(to="bob", run=alice.welcome.run, seq=1, base=1))
    bob.send(Ack(to="alice", run=alice.welcome.run, seq=0, want=True))
    assert bob.last(Probe).base == 1 and alice.last(Ack).want
    alice.say(1)
    assert bob.last(LinkMessage).seq == 1


def test_a_sender_who_came_back_begins_again_whatever_was_refused(world):
    alice = world.client("alice")
    alice.say(5)
    alice.cut()
    bob = world.client("bob")
    alice = alice.again()
    alice.say(6)
    assert seqs(bob) == [6]


# --- slow receivers ----------------------------------------------------------------------------


def test_history_28_a_reader_that_stops_costs_its_senders_and_loses_nothing():
    """B stops reading. Beyond a quarter of its buffer its senders hear `wait`; nothing more is kept for
    it; when it reads again they are woken, and send again."""
    world = World(Config(wire=WireSettings(send_buffer=256 * 1024)))
    alice, bob, carol = (world.client(name) for name in ("alice", "bob", "carol"))
    bob.wire.kernel = False
    big = "x" * 30_000
    seq = 0
    while not alice.all(Wait):
        seq += 1
        alice.say(seq, data=big)
    assert bob.wire.waiting < 128 * 1024 and bob.closed == 0
    carol.say(1)
    assert waits(carol) == [(1, 0)]
    alice.say(1, to="carol")
    assert seqs(carol) == [1]  # nobody else notices
    handed = len(bob.all(LinkMessage))
    bob.wire.kernel, bob.wire.waiting = True, 0
    bob.user.writable()
    world.turn()
    assert alice.last(Peer).state == carol.last(Peer).state == "here"
    alice.say(handed + 1, data=big)
    carol.say(1)
    assert [m.seq for m in bob.all(LinkMessage) if m.sender == "alice"] == list(range(1, handed + 2))


def test_history_28_what_cannot_wait_closes_the_slow_reader_with_a_code_that_says_resume():
    world = World(Config(wire=WireSettings(send_buffer=256 * 1024)))
    alice, bob = world.client("alice"), world.client("bob")
    bob.wire.kernel = False
    signal = Signal(data=msgspec.Raw(b'"' + b"x" * 30_000 + b'"'), to="bob")
    for _ in range(20):
        alice.send(signal)
    assert bob.closed == 0 and bob.wire.waiting < 128 * 1024  # at most once: dropped when full
    for _ in range(20):
        alice.send(Ack(to="bob", run=1, seq=1, lost=[]))
        bob.raw(b'{"type":"ping","id":1}\n' * 999 + b'{"type":"ping","id":1}')
    assert bob.closed == 3001
    assert world.node.sessions.get("bob") is not None


def test_many_senders_are_woken_a_few_at_a_time(world):
    senders = [world.client(f"s{number}") for number in range(3 * WAKE_SLICE)]
    for sender in senders:
        sender.say(1)
    bob = Client(world)
    bob.user.received(b'{"type":"hello","protocol":1,"client_id":"bob"}', False)
    bob.user.batch_ended()
    woken = sum(bool(sender.all(Peer)) for sender in senders)
    assert woken == WAKE_SLICE
    world.turn()
    assert all(len(sender.all(Peer)) == 1 for sender in senders)


# --- consent -----------------------------------------------------------------------------------


@pytest.fixture
def guarded() -> World:
    tokens = Tokens(
        alice=identity("alice", "bob"), bob=identity("bob"), eve=identity("eve"), eve2=identity("eve", "bob")
    )
    return World(authenticator=tokens, consent=TokenConsent())


def test_history_23_blocked_and_absent_look_alike(guarded):
    """Eve may not link to Bob. Before he comes, while he is here and after he left she sees the same: `wait`,
    and `away`; never an error, never `here`."""
    eve = guarded.client("eve", token="eve")
    eve.send(Watch(id=1, clients=["bob"]))

    def see() -> list[str]:
        eve.say(1)
        eve.send(Probe(to="bob", run=eve.welcome.run, seq=1, base=1))
        eve.send(Signal(data=msgspec.Raw(b"1"), to="bob"), Ephemeral(to="bob"))
        eve.send(Watch(id=2, clients=["bob"]))
        return [str(message) for message in eve.take()]

    eve.take()
    absent = see()
    bob = guarded.client("bob", token="bob")
    assert {getattr(message, "state", "") for message in eve.take()} <= {"away"}
    present = see()
    bob.cut()
    eve.take()
    detached = see()
    assert absent == present == detached
    assert [type(message) for message in bob.take()[1:]] == []


def test_acknowledgements_go_back_to_whoever_may_send_here(guarded):
    alice, bob = guarded.client("alice", token="alice"), guarded.client("bob", token="bob")
    alice.say(1)
    bob.send(Ack(to="alice", run=alice.welcome.run, seq=1))
    assert alice.last(Ack).seq == 1
    bob.say(1, to="alice")
    assert waits(bob) == [(1, 0)]


def test_acknowledgements_to_strangers_go_nowhere(guarded):
    eve, alice = guarded.client("eve", token="eve"), guarded.client("alice", token="alice")
    eve.send(Ack(to="alice", run=1, seq=1), Ack(to="nobody", run=1, seq=1), Ack(to="", run=1, seq=1))
    assert alice.all(Ack) == [] and eve.all(Error) == []


def test_a_refreshed_token_opens_what_it_allows(guarded):
    eve, bob = guarded.client("eve", token="eve"), guarded.client("bob", token="bob")
    eve.say(1)
    eve.send(Refresh(id=1, token="eve2"))
    assert eve.last(Peer).state == "here"
    eve.say(1)
    assert seqs(bob) == [1]
    eve.send(Refresh(id=2, token="eve"))
    eve.say(2)
    assert seqs(bob) == []


# --- who is there ------------------------------------------------------------------------------


def test_watchers_hear_every_change(world):
    alice = world.client("alice")
    alice.send(Watch(id=3, clients=["bob", "carol"]))
    assert [type(message) for message in alice.take()[1:]] == [Watching, Peer, Peer]
    bob = world.client("bob")
    bob.cut()
    bob = bob.again()
    bob.cut()
    world.advance(30)
    states = [(peer.client_id, peer.state, peer.generation, peer.attachment) for peer in alice.take()]
    generation = bob.welcome.generation
    assert states == [
        ("bob", "here", generation, 1),
        ("bob", "reconnecting", 0, 0),
        ("bob", "here", generation, 2),
        ("bob", "reconnecting", 0, 0),
        ("bob", "away", 0, 0),
    ]


def test_watch_is_the_full_set_and_has_a_limit(world):
    alice = world.client("alice")
    alice.send(Watch(id=1, clients=["bob"]), Watch(id=2, clients=["carol"]))
    alice.send(Watch(id=3, clients=[f"c{number}" for number in range(257)]))
    assert (alice.last(Error).code, alice.last(Error).id) == ("limit", 3)
    alice.send(Watch(id=4, clients=["c\x01"]))
    assert (alice.last(Error).code, alice.last(Error).id) == ("malformed", 4)
    alice.take()
    world.client("bob")
    assert alice.take() == []
    world.client("carol")
    assert [peer.client_id for peer in alice.take()] == ["carol"]


def test_a_hello_may_bring_the_watched_set_and_a_resumed_session_keeps_it(world):
    alice = world.client("alice", watch=["bob"])
    assert [type(message).__name__ for message in alice.take()] == ["Welcome", "Peer"]
    alice.cut()
    alice = alice.again()
    assert [type(message).__name__ for message in alice.take()] == ["Welcome", "Peer"]
    world.client("bob")
    assert alice.take()[-1].state == "here"


def test_signals_and_ephemeral_messages_are_stamped(world):
    alice, bob = world.client("alice"), world.client("bob")
    alice.send(Signal(data=msgspec.Raw(b'{"sdp":1}'), to="bob"), Ephemeral(data=msgspec.Raw(b"1"), to="bob"))
    signal, ephemeral = bob.take()[1:]
    welcome = alice.welcome
    assert (signal.sender, signal.generation, signal.run) == ("alice", welcome.generation, welcome.run)
    assert (ephemeral.sender, ephemeral.to, bytes(ephemeral.data)) == ("alice", "", b"1")


# --- nothing stays -----------------------------------------------------------------------------


def test_nothing_is_kept_of_clients_that_are_gone(world):
    empty = len(world.node.parties)
    for number in range(50):
        client = world.client(f"c{number}", watch=["x", "y"])
        client.say(1, to=f"c{number - 1}")
        client.say(1, to="nobody")
        client.send(Ack(to=f"c{number - 1}", run=1, seq=1))
        client.cut()
    world.advance(31)
    assert (len(world.node.parties), world.node.links.count, len(world.node.sessions)) == (empty, 0, 0)


def test_a_sender_has_a_bounded_number_of_receivers(world, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(links, "MAX_FLOWS", 10)
    alice = world.client("alice")
    world.client("bob")
    alice.say(1)
    for number in range(9):
        alice.say(1, to=f"n{number}")
    assert world.node.links.count == 10
    alice.say(1, to="one more")  # takes the place of the idle way to bob
    alice.say(1, to="and another")  # there is none to take
    assert waits(alice)[-1] == (1, 0)
    assert world.node.links.count == 10


# --- the embedding application -----------------------------------------------------------------


def test_the_server_is_a_client_of_its_own_node(world):
    heard: list[Any] = []
    world.node.local.attach(heard.append)
    alice = world.client("alice")
    alice.say(1, to="$server", data="hi")
    alice.raw(
        b'{"type":"message","to":"$server","run":%d,"seq":2,"base":1,"binary":true}\n\x00'
        % alice.welcome.run,
        True,
    )
    assert [(m.sender, bytes(m.data), m.binary) for m in heard] == [
        ("alice", b'"hi"', False),
        ("alice", b"\x00", True),
    ]
    local = world.node.local
    local.say(Ack(to="alice", run=alice.welcome.run, seq=2))
    local.say(LinkMessage(to="alice", run=local.run, seq=1, base=1, data=msgspec.Raw(b"1")))
    local.say(LinkMessage(to="bob", run=local.run, seq=1, base=1))
    world.turn()
    assert [(type(m), m.sender) for m in alice.take()[1:]] == [(Ack, "$server"), (LinkMessage, "$server")]
    assert heard[-1].seq == 1 and type(heard[-1]) is Wait
    world.client("bob")
    assert [message.state for message in heard if type(message) is Peer] == ["here"]


def test_without_an_application_the_server_is_away(world):
    alice = world.client("alice")
    alice.say(1, to="$server")
    assert waits(alice) == [(1, 0)]
    alice.send(Watch(id=1, clients=["$server"]))
    assert alice.last(Peer).state == "away"
    heard: list[Any] = []
    world.node.local.attach(heard.append)
    world.turn()
    assert alice.last(Peer).state == "here"
    alice.say(1, to="$server")
    assert [m.seq for m in heard] == [1]


def test_a_deliver_that_raises_breaks_nothing(world):
    def deliver(message: Any) -> None:
        raise ValueError

    world.node.local.attach(deliver)
    alice = world.client("alice")
    alice.say(1, to="$server")
    assert world.log.lines[-1] == ("hook deliver", "a hook raised") and alice.closed == 0


def test_the_message_hook_hears_what_is_handed_over():
    heard: list[Any] = []
    world = World(hooks=Hooks(message=lambda *arguments: heard.append(arguments)))
    alice = world.client("alice")
    world.client("bob")
    alice.say(1)
    alice.say(1, to="nobody")
    assert heard == [("alice", "bob", "messages", alice.welcome.run, 1, b"1", False)]


def test_a_forged_sender_is_forbidden_on_an_open_way_too(world):
    alice, bob = world.client("alice"), world.client("bob")
    alice.say(1)
    alice.say(2, sender="mallory")
    assert (alice.last(Error).code, alice.last(Error).seq) == ("forbidden", 2)
    assert [message.seq for message in bob.all(LinkMessage)] == [1]


@pytest.mark.parametrize("reloaded", [False, True])
@pytest.mark.parametrize("lane", limits.LANES)
def test_a_repeat_reaches_no_other_process_by_a_way_that_is_open(world, reloaded, lane):
    """Bob had finished with 1 while alice was gone; another process of his is here. She sends 1 twice when
    she comes back, and a skip between the two opens the way."""
    alice, bob = world.client("alice"), world.client("bob")
    alice.say(1, lane=lane)
    alice.cut()
    bob.send(Ack(run=alice.welcome.run, seq=1, to="alice", lane=lane))
    bob.cut()
    again = bob.again(run=0) if reloaded else world.client("bob")
    assert again.welcome.run > bob.welcome.run and again.welcome.resumed is reloaded
    alice = alice.again()
    alice.say(1, lane=lane)
    alice.send(Skip(run=alice.welcome.run, seq=2, last=2, base=1, to="bob", lane=lane, reason="expired"))
    alice.say(1, lane=lane)
    alice.say(3, lane=lane)
    assert seqs(again) == [3]
    assert [ack.seq for ack in alice.all(Ack)] == [1, 1]


def test_a_copy_that_is_on_its_way_while_a_page_is_reloaded_does_not_reach_the_new_one(world):
    """Alice hears of the acknowledgement, but has sent 1 once more before."""
    alice, bob = world.client("alice"), world.client("bob")
    alice.say(1)
    bob.send(Ack(run=alice.welcome.run, seq=1, to="alice"))
    again = bob.again(run=0)
    alice.say(2)
    alice.say(1)
    assert seqs(again) == [2]
