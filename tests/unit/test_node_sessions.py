"""Hello, registration, resume and refresh: who may be whom, and who owns a client id."""

from typing import Any

import pytest
from tests.node_world import Client, Tokens, World

from duolink.engines.base import Engines, Failure
from duolink.protocol import limits
from duolink.protocol.messages import (
    Ack,
    Error,
    Goodbye,
    Join,
    Leave,
    LinkMessage,
    Position,
    Publish,
    Refresh,
    Refreshed,
    Subscribe,
    Subscribed,
    Unsubscribed,
    Welcome,
)
from duolink.server.auth import EVERYTHING, Identity, Patterns
from duolink.server.greeter import MAX_QUEUED
from duolink.server.hooks import Hooks
from duolink.server.settings import Config, Heartbeat, Rates
from duolink.server.settings import Session as SessionSettings


@pytest.fixture
def world() -> World:
    return World()


def answer(client: Client) -> tuple[str, int]:
    """The error that ended a hello, and the close code."""
    error = client.last(Error)
    assert error.fatal and client.last(Goodbye).code == client.closed
    return error.code, client.closed


# --- hello -------------------------------------------------------------------------------------


def test_welcome_says_everything_a_client_needs(world):
    welcome = world.client("alice").welcome
    assert welcome.client_id == "alice" and not welcome.resumed and not welcome.durable
    assert welcome.run == welcome.generation == welcome.time == world.clock.wall_ms()
    assert welcome.attachment == 1 and welcome.session != welcome.secret and welcome.reconnect_spread == 0
    assert (welcome.heartbeat.interval, welcome.heartbeat.timeout, welcome.heartbeat.misses) == (
        30000,
        10000,
        3,
    )
    assert welcome.limits.window == limits.WINDOW and welcome.limits.message == limits.MAX_MESSAGE


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("alice", {"protocol": 2}, ("version", 3503)),
        ("$server", {}, ("bad_hello", 3504)),
        ("@alice", {}, ("bad_hello", 3504)),
        ("a\nb", {}, ("bad_hello", 3504)),
        ("é" * 65, {}, ("bad_hello", 3504)),
        ("alice", {"run": limits.MAX_INTEGER}, ("bad_hello", 3504)),
    ],
)
def test_an_impossible_hello_is_refused(world, name, fields, expected):
    assert answer(world.client(name, **fields)) == expected
    assert len(world.node.sessions) == 0


def test_a_run_a_little_ahead_of_the_clock_is_taken(world):
    run = world.clock.wall_ms() + limits.MAX_RUN_SKEW
    assert world.client("alice", run=run).welcome.run == run


@pytest.fixture
def guarded() -> World:
    return World(
        authenticator=Tokens(
            alice=Identity(user="alice", subscribe=EVERYTHING, publish=EVERYTHING, links=EVERYTHING),
            less=Identity(user="alice", subscribe=Patterns.of(["a"])),
            brief=Identity(user="alice", expires_at=1_800_001_060.0),
        )
    )


def test_a_token_must_be_good_and_allow_the_client_id(guarded):
    assert answer(guarded.client("alice", token="stolen")) == ("unauthorized", 3500)
    assert answer(guarded.client("alice")) == ("unauthorized", 3500)
    assert answer(guarded.client("bob", token="alice")) == ("unauthorized", 3500)
    assert guarded.client("alice:phone", token="alice").welcome.client_id == "alice:phone"


def test_an_expired_token_ends_the_connection_with_a_code_that_says_come_back(guarded):
    client = guarded.client("alice", token="brief")
    assert client.welcome.expires == 1_800_001_060_000
    guarded.advance(59.9)
    assert client.closed == 0
    guarded.advance(0.1)
    assert client.closed == 3003 and guarded.node.sessions.get("alice") is not None
    assert answer(guarded.client("alice", token="brief")) == ("unauthorized", 3003)


def test_an_authenticator_that_fails_is_not_a_refusal():
    class Broken(Tokens):
        def authenticate(self, token: str | None, now: float) -> Identity:
            raise OSError("key server")

    assert answer(World(authenticator=Broken()).client("alice")) == ("overloaded", 3005)


def test_no_hello_in_time(world):
    client = Client(world)
    world.advance(9.9)
    assert client.closed == 0
    world.advance(0.1)
    assert client.closed == 3004


def test_the_spread_of_reconnects_grows_with_the_number_of_connections(world):
    for number in range(100):
        world.client(f"c{number}")
    assert world.client("last").welcome.reconnect_spread == 50


# --- resume ------------------------------------------------------------------------------------


def test_a_lost_session_is_resumed_with_its_generation_and_another_attachment(world):
    first = world.client("alice")
    first.cut()
    again = first.again()
    before, after = first.welcome, again.welcome
    assert after.resumed and after.attachment == 2
    assert (after.session, after.generation, after.run) == (before.session, before.generation, before.run)
    assert after.secret != before.secret


def test_after_the_window_a_new_session_begins(world):
    first = world.client("alice")
    first.cut()
    world.advance(limits.RESUME_WINDOW)
    again = first.again()
    assert not again.welcome.resumed and again.welcome.generation > first.welcome.generation
    assert again.welcome.run == first.welcome.run


@pytest.mark.parametrize("wrong", [{"secret": "guess"}, {"session": "guess"}, {"session": "", "secret": ""}])
def test_a_wrong_or_forgotten_secret_is_no_error_but_a_new_session(world, wrong: dict[str, Any]):
    first = world.client("alice")
    first.cut()
    again = first.again(**wrong)
    assert not again.welcome.resumed and again.welcome.generation > first.welcome.generation


def test_history_20_the_welcome_with_the_rotated_secret_is_lost(world):
    """Resume rotates the secret, its welcome never arrives; the client comes back with the one it knows.
    The previous secret works until the first payload under the new one; a pong proves nothing."""
    first = world.client("alice")
    first.cut()
    lost = first.again()
    lost.user.alive()
    lost.cut()
    again = first.again()
    assert again.welcome.resumed and again.welcome.attachment == 3
    again.raw(b'{"type":"ping"}')
    again.cut()
    assert not lost.again().welcome.resumed


def test_history_20_the_previous_secret_is_void_while_the_newer_connection_lives(world):
    first = world.client("alice")
    first.cut()
    second = first.again()
    second.raw(b'{"type":"ping"}')
    thief = first.again()
    assert thief.all(Welcome) == []  # not a resume, so it meets the duplicate probe
    second.user.alive()
    assert answer(thief) == ("duplicate", 3501)


def test_history_20_a_stolen_secret_alone_resumes_nothing(guarded):
    first = guarded.client("alice", token="alice")
    first.cut()
    assert answer(first.again()) == ("unauthorized", 3500)


def test_history_20_authorisation_runs_again_at_every_hello(guarded):
    """A client with two channels loses its rights to one while it is away: it resumes without it."""
    first = guarded.client("alice", token="alice")
    first.send(Subscribe(id=1, channels=[Position("a"), Position("b")]))
    first.cut()
    again = first.again(token="less")
    assert again.welcome.resumed
    assert [message.channel for message in again.all(Subscribed)] == ["a"]
    assert (again.last(Error).code, again.last(Error).channel) == ("forbidden", "b")


def test_history_9_resume_meets_the_live_connection(world):
    """The client comes back while its old connection is not yet known to be dead: the newest attachment
    owns the session, and what the old one still sends is discarded."""
    old, bob = world.client("alice"), world.client("bob")
    bob.take()
    new = old.again()
    assert (old.closed, new.welcome.resumed, new.welcome.attachment) == (3006, True, 2)
    old.say(1)
    assert bob.take() == []
    old.cut(3006)
    new.say(1)
    assert [message.seq for message in bob.take()] == [1]
    session = world.node.sessions.get("alice")
    assert session is not None and session.connection is new.user


def test_a_process_without_run_that_resumes_gets_a_new_run(world):
    first = world.client("alice")
    first.cut()
    again = first.again(run=0)
    assert again.welcome.resumed and again.welcome.run > first.welcome.run
    assert answer(first.again()) == ("superseded", 3502)


def test_the_numbers_of_another_process_that_resumes_are_new(world):
    """What a receiver had finished with of the process before says nothing of them: they are handed over."""
    alice, bob = world.client("alice"), world.client("bob")
    alice.say(1)
    bob.send(Ack(to="alice", run=alice.welcome.run, seq=1))
    bob.send(Goodbye())  # the node remembers for alice how far bob was
    alice.cut()
    again = alice.again(run=0)
    assert again.welcome.resumed
    bob = world.client("bob")
    bob.take()
    again.take()
    again.say(1, data="of the next process")
    assert [bytes(message.data) for message in bob.take()] == [b'"of the next process"']
    assert again.all(Ack) == []


def test_goodbye_ends_the_session_at_once(world):
    alice = world.client("alice")
    alice.send(Goodbye())
    assert alice.closed == 1000 and world.node.sessions.get("alice") is None


# --- registration ------------------------------------------------------------------------------


def test_a_client_that_answers_keeps_its_id(world):
    first, second = world.client("alice"), None
    world.advance(10)
    second = world.client("alice")
    assert first.wire.pings_sent == 1 and second.wire.payloads == []
    world.advance(1)
    first.user.alive()
    world.turn()
    assert answer(second) == ("duplicate", 3501)
    assert first.closed == 0


def test_any_payload_is_a_sign_of_life_and_a_pong_message_one_at_once(world):
    first = Client(world, kind="tcp", pings=False)
    first.hello("alice")
    world.advance(10)
    second, third = world.client("alice"), world.client("alice")
    first.raw(b'{"type":"pong"}')
    assert answer(second) == answer(third) == ("duplicate", 3501)
    world.advance(10)
    fourth = world.client("alice")
    first.say(1)
    world.advance(3)
    assert answer(fourth) == ("duplicate", 3501)


def test_a_client_that_does_not_answer_is_taken_over(world):
    first = world.client("alice")
    world.advance(10)
    second = world.client("alice")
    world.advance(2.9)
    assert second.wire.payloads == []
    world.advance(0.2)
    assert second.welcome.generation > first.welcome.generation
    assert answer(first) == ("superseded", 3502)


def test_a_connection_that_ends_during_the_probe_frees_the_id_at_once(world):
    first = world.client("alice")
    world.advance(10)
    second = world.client("alice")
    first.cut()
    assert second.welcome.attachment == 1


def test_a_detached_session_is_taken_over_at_once(world):
    first = world.client("alice")
    first.cut()
    assert world.client("alice").welcome.generation > first.welcome.generation


def test_history_9_a_fenced_session_has_no_say_any_more(world):
    """Old B is taken over; its acks and messages, still under way, change nothing, and its hello is
    refused."""
    alice, old = world.client("alice"), world.client("bob")
    old.cut()
    new = world.client("bob")
    old.say(1, to="alice")
    assert alice.all(LinkMessage) == []
    assert answer(old.again()) == ("superseded", 3502)
    assert new.closed == 0


def test_history_21_hello_loops_get_one_shared_probe(world):
    """A crowd says hello under someone's id: one probe serves them all, no second one within 3 s, and all
    of them get a terminal code; those without a right to the id are refused before anybody is probed."""
    first = world.client("alice")
    world.advance(10)
    crowd = [world.client("alice") for _ in range(MAX_QUEUED + 3)]
    assert first.wire.pings_sent == 1
    assert [client.closed for client in crowd[MAX_QUEUED:]] == [3005] * 3
    first.user.alive()
    world.turn()
    assert {client.closed for client in crowd[:MAX_QUEUED]} == {3501}
    assert world.client("alice").closed == 3501 and first.wire.pings_sent == 1
    world.advance(3.1)
    world.client("alice")
    assert first.wire.pings_sent == 2


def test_history_21_who_may_not_be_that_client_learns_nothing(guarded):
    first = guarded.client("alice", token="alice")
    assert answer(guarded.client("alice", token="stolen")) == ("unauthorized", 3500)
    assert first.wire.pings_sent == 0


def test_only_the_first_newcomer_takes_over_and_the_next_meets_it(world):
    first = world.client("alice")
    world.advance(10)
    second, third = world.client("alice"), world.client("alice")
    world.advance(3)
    assert (first.closed, second.closed) == (3502, 0)
    assert answer(third) == ("duplicate", 3501)  # the second has just said hello


def test_a_resume_during_the_probe_saves_the_session(world):
    first = world.client("alice")
    world.advance(10)
    second = world.client("alice")
    again = first.again()
    assert again.welcome.resumed and answer(second) == ("duplicate", 3501)


def test_replace_lets_the_newest_win_without_a_probe():
    world = World(Config(session=SessionSettings(duplicate="replace")))
    first, second = world.client("alice"), world.client("alice")
    assert answer(first) == ("superseded", 3502)
    assert first.wire.pings_sent == 0 and second.welcome.generation > first.welcome.generation


def test_a_loser_does_not_fence_the_winner(world):
    """The newcomer presents a higher run and loses to the probe: the first must still be able to come
    back."""
    first = world.client("alice")
    world.advance(10)
    second = world.client("alice", run=first.welcome.run + 5000)
    first.user.alive()
    assert answer(second) == ("duplicate", 3501)
    first.cut()
    assert first.again().welcome.resumed


# --- late engines ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_history_19_hellos_that_overtake_each_other_leave_one_owner(seed):
    """Between a hello's question to the engine and its answer the connection ends, another hello comes,
    the old session detaches: whatever the order, one session is left, carried by a connection that lives."""
    world = World(seed=seed)
    first = world.client("alice")
    first.cut()
    clients = [Client(world) for _ in range(4)]
    clients[0].hello(
        "alice", run=first.welcome.run, session=first.welcome.session, secret=first.welcome.secret
    )
    assert world.late is not None
    world.late.step()
    clients[1].hello("alice")
    world.late.step()
    clients[0].cut()
    clients[2].hello("alice", run=first.welcome.run)
    clients[3].hello("alice")
    world.settle()
    world.advance(10)
    world.settle()
    session = world.node.sessions.get("alice")
    assert session is not None and session.connection is not None
    owner = [client for client in clients if client.user is session.connection]
    assert len(owner) == 1 and not owner[0].closed
    assert all(client.closed or client.gone for client in clients if client is not owner[0])
    assert len(world.node.greeter) == 0


def test_history_19_a_hello_whose_connection_ended_registers_nobody():
    world = World(seed=1)
    client = world.client("alice", settle=False)
    client.cut()
    world.settle()
    assert len(world.node.sessions) == 0 and len(world.node.greeter) == 0


def test_history_19_a_connection_that_ends_between_its_run_and_its_generation():
    """The engine has issued a run and is asked for a generation when the connection ends: no session
    begins, and the next hello of the client is decided."""
    for steps in range(1, 6):
        world = World(seed=1)
        assert world.late is not None
        client = world.client("alice", settle=False)
        for _ in range(steps):
            world.late.step()
        world.turn()
        if client.all(Welcome):
            assert steps == 4
            break
        client.cut()
        world.settle()
        assert len(world.node.sessions) == 0
        assert world.client("alice").welcome.attachment == 1


def test_nothing_but_the_answer_is_allowed_while_a_hello_is_decided():
    world = World(seed=1)
    client = world.client("alice", settle=False)
    client.raw(b'{"type":"ping"}')
    assert answer(client) == ("wrong_state", 1008)
    world.settle()
    assert client.all(Welcome) == []


def test_hellos_of_one_client_are_decided_one_after_the_other_and_are_bounded():
    world = World(seed=1)
    crowd = [world.client("alice", settle=False) for _ in range(MAX_QUEUED + 2)]
    assert crowd[-1].closed == 3005
    world.settle()
    assert sum(not client.closed for client in crowd) == 1


@pytest.mark.parametrize("which", ["issue_run", "present_run", "issue_generation"])
def test_an_engine_that_fails_sends_the_client_away_to_come_back(
    world, which, monkeypatch: pytest.MonkeyPatch
):
    registry = world.engines.registry
    monkeypatch.setattr(registry, which, lambda *arguments: arguments[-1](Failure("down")))
    run = world.clock.wall_ms() if which == "present_run" else 0
    assert answer(world.client("alice", run=run)) == ("overloaded", 3005)
    monkeypatch.undo()
    assert world.client("alice").welcome


def test_the_ports_are_all_a_node_asks_for(world):
    assert isinstance(world.engines, Engines)


# --- load --------------------------------------------------------------------------------------


def test_history_26_a_crowd_that_reconnects_is_admitted_before_its_tokens_are_checked():
    """20 clients after a restart, room for 10: the others are told when to come, without a look at the
    token."""
    checked: list[str | None] = []

    class Counting(Tokens):
        def authenticate(self, token: str | None, now: float) -> Identity:
            checked.append(token)
            return Identity(user="", client="*")

    world = World(Config(rates=Rates(admissions_per_s=10, admissions_burst=10)), authenticator=Counting())
    crowd = [world.client(f"c{number}") for number in range(20)]
    assert len(checked) == 10
    refused = [client for client in crowd if client.closed]
    assert {answer(client) for client in refused} == {("overloaded", 3005)}
    delays = [client.last(Error).retry_after for client in refused]
    assert delays == sorted(delays) and delays[0] > 0
    world.advance(1)
    assert world.client("late").welcome


def test_draining_sends_everyone_away_and_lets_nobody_in(world):
    clients = [world.client(f"c{number}") for number in range(600)]
    waiting = Client(world)
    world.node.drain(5000)
    assert sum(client.closed == 1012 for client in clients) == 500
    world.turn()
    assert {(client.closed, client.last(Goodbye).spread) for client in clients} == {(1012, 5000)}
    assert waiting.closed == 1012
    late = world.client("late")
    assert answer(late) == ("overloaded", 1012)
    assert len(world.node.sessions) == 600


def test_disconnect_sends_away_for_good(world):
    alice = world.client("alice")
    assert world.node.disconnect("alice", "spam") and not world.node.disconnect("nobody")
    assert alice.closed == 3505 and world.node.sessions.get("alice") is None


# --- refresh -----------------------------------------------------------------------------------


def test_a_refreshed_token_replaces_the_old_ones_end_and_rights(guarded):
    client = guarded.client("alice", token="brief")
    client.send(Refresh(id=1, token="alice"))
    assert client.last(Refreshed).expires == 0
    guarded.advance(60)
    client.user.alive()
    assert client.closed == 0
    client.send(Subscribe(id=2, channels=[Position("a"), Position("b")]), Refresh(id=3, token="less"))
    assert [(m.channel, m.code) for m in client.all(Unsubscribed)] == [("b", "forbidden")]
    client.send(Publish(id=4, channel="a"))
    assert (client.last(Error).code, client.last(Error).id) == ("forbidden", 4)


def test_a_bad_refresh_changes_nothing(guarded):
    client = guarded.client("alice:1", token="alice")
    client.send(Refresh(id=7, token="stolen"))
    assert (client.last(Error).code, client.last(Error).id, client.closed) == ("unauthorized", 7, 0)


def test_an_authenticator_that_fails_at_a_refresh_ends_nothing(guarded, monkeypatch):
    def fail(token: str | None, now: float) -> Identity:
        raise OSError("key server")

    client = guarded.client("alice", token="alice")
    monkeypatch.setattr(guarded.node.greeter._authenticator, "authenticate", fail)
    client.send(Refresh(id=7, token="alice"))
    error = client.last(Error)
    assert (error.code, error.id, error.retry_after, client.closed) == ("unavailable", 7, 5000, 0)


def test_a_refresh_for_another_client_is_refused(guarded):
    guarded.node.greeter._authenticator.identities["bob"] = Identity(user="bob")
    client = guarded.client("alice", token="alice")
    client.send(Refresh(id=8, token="bob"))
    assert (client.last(Error).code, client.last(Error).id, client.closed) == ("unauthorized", 8, 0)


# --- presence over a resume, hooks -------------------------------------------------------------


def test_a_resume_causes_no_leave_and_no_join(world):
    watcher, alice = world.client("watcher"), world.client("alice")
    watcher.send(Subscribe(id=1, channels=[Position("room", presence=True)]))
    alice.send(Subscribe(id=1, channels=[Position("room")]))
    alice.cut()
    alice = alice.again()
    assert len(watcher.all(Join)) == 1 and watcher.all(Leave) == []
    alice.cut()
    world.advance(31)
    assert [message.client_id for message in watcher.all(Leave)] == ["alice"]


def test_hooks_hear_who_comes_and_goes_and_may_fail():
    heard: list[Any] = []

    def connected(client_id: str, identity: Identity, resumed: bool) -> None:
        heard.append(("connected", client_id, resumed))
        raise RuntimeError

    world = World(
        Config(heartbeat=Heartbeat()),
        hooks=Hooks(
            connected=connected,
            disconnected=lambda client_id, code: heard.append(("disconnected", client_id, code)),
            ended=lambda client_id: heard.append(("ended", client_id)),
        ),
    )
    alice = world.client("alice")
    alice.cut(1001)
    alice = alice.again()
    alice.send(Goodbye())
    assert heard == [
        ("connected", "alice", False),
        ("disconnected", "alice", 1001),
        ("connected", "alice", True),
        ("disconnected", "alice", 1000),
        ("ended", "alice"),
    ]
    assert ("hook connected", "a hook raised") in world.log.lines
