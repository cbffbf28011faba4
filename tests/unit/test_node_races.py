"""Each of these fails today."""

import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.node_world import Client, World
from tests.unit.mail_world import flaky, seqs
from tests.unit.sqlite_world import World as Disk

from duolink.engines.base import Failure, MailboxLimits, Page, Top
from duolink.protocol.codec import CLIENT, encode, encode_binary
from duolink.protocol.messages import (
    Ack,
    Ephemeral,
    Error,
    History,
    HistoryPage,
    LinkMessage,
    Ping,
    Position,
    PresenceList,
    PresenceQuery,
    Publish,
    Refresh,
    Refreshed,
    Stored,
    Subscribe,
    Subscribed,
    Subscribing,
    Watch,
    Welcome,
)
from duolink.server.auth import OpenAuthenticator, UnknownKey
from duolink.server.channels import MAX_FANOUTS
from duolink.server.mailbox import MAX_UNDER_WAY
from duolink.server.settings import Config, Wire
from duolink.server.timers import SLICE, Timers


def test_a_connection_that_ends_in_its_welcome_locks_nobody_out():
    world = World(Config(wire=Wire(send_buffer=131_072)))
    alice, pub = world.client("alice", subscriptions=[Position("room")]), world.client("pub")
    was, at = alice.welcome, alice.last(Subscribed)
    alice.cut()
    for i in range(10):
        pub.send(Publish(id=i + 1, channel="room", data=msgspec.Raw(b'"' + b"x" * 65_250 + b'"')))
    slow = Client(world)
    slow.wire.kernel = False
    slow.hello(
        "alice",
        run=was.run,
        session=was.session,
        secret=was.secret,
        subscriptions=[Position("room", at.epoch, at.offset)],
    )
    world.turn()
    assert slow.closed == 3001
    slow.cut()
    world.advance(60)
    assert world.client("alice").all(Welcome)


def test_strangers_cannot_hold_the_loop():
    began = time.process_time()
    CLIENT.text(b"[" * (1 << 20))
    assert time.process_time() - began < 0.05


def test_subscriptions_that_were_dropped_before_they_began_are_forgotten():
    world = World()
    alice = world.client("alice")
    alice.wire.kernel, alice.wire.waiting = False, 300 * 1024
    for i in range(15):
        alice.send(Subscribe(id=i + 1, channels=[Position(f"{'ab'[i % 2]}{j}") for j in range(128)]))
    session, recoveries = alice.user.session, alice.user.recoveries
    assert session is not None and recoveries is not None
    assert not alice.closed and len(session.subscriptions) == 128
    assert len(recoveries._queue) <= 128


def test_subscribing_to_others_again_and_again_does_not_hold_the_loop():
    world = World()
    eve = world.client("eve")
    sets = [
        b'{"type":"subscribe","id":%d,"channels":[%s]}'
        % (i, b",".join(b'{"channel":"%c%d"}' % (97 + i % 2, j) for j in range(128)))
        for i in range(1, 360)
    ]
    eve.user.received(b"\n".join(sets), False)
    assert eve.closed == 3005 and eve.all(Error)[-1].code == "overloaded"
    assert len(eve.all(Subscribing)) == 1 + (4096 - 128) // 256, "each ends 128 and begins 128"


def test_a_client_that_watches_others_again_and_again_is_sent_away():
    world = World()
    eve = world.client("eve")
    names = [[f"{letter}{j}" for j in range(256)] for letter in "ab"]
    for i in range(20):
        eve.send(Watch(id=i + 1, clients=names[i % 2]))
    assert eve.closed == 3005


def test_a_client_may_watch_and_subscribe_one_after_the_other():
    world = World()
    alice = world.client("alice")
    for count in range(1, 257):
        alice.send(Watch(id=count, clients=[f"peer {j}" for j in range(count)]))
    for count in range(1, 129):
        alice.send(Subscribe(id=count, channels=[Position(f"c{j}") for j in range(count)]))
    session = alice.user.session
    assert not alice.closed and session is not None and len(session.subscriptions) == 128


def test_what_one_client_tells_many_is_bounded():
    """Ephemeral messages are dropped, questions are refused; both are answered again a little later."""
    world = World()
    members = [world.client(f"m{i}", subscriptions=[Position("room")]) for i in range(400)]
    eve = members[0]
    for member in members:
        member.take()
    for _ in range(1000):
        eve.send(Ephemeral(channel="room", data=msgspec.Raw(b"1")))
    world.turn()
    heard = len(members[-1].all(Ephemeral))
    assert 600 < heard < 700  # 4096 / (400 / 64)
    eve.send(PresenceQuery(id=1, channel="room"))
    assert eve.last(Error).code == "overloaded" and eve.last(Error).retry_after == 1000 and not eve.closed
    world.advance(2)
    eve.send(PresenceQuery(id=2, channel="room"))
    assert eve.last(PresenceList).id == 2


def test_ephemeral_messages_to_many_wait_for_one_another_up_to_a_bound():
    world = World()
    members = [world.client(f"m{i}", subscriptions=[Position("room")]) for i in range(SLICE + 10)]
    for member in members:
        member.take()
    line = encode(Ephemeral(channel="room", data=msgspec.Raw(b"1")))
    members[0].user.received(b"\n".join([line] * (MAX_FANOUTS + 4)), False)
    assert len(world.node.work) == MAX_FANOUTS
    members[0].user.batch_ended()
    world.turn()
    assert [len(members[at].all(Ephemeral)) for at in (1, -1)] == [MAX_FANOUTS] * 2
    members[0].send(Ephemeral(channel="room", data=msgspec.Raw(b"2")))
    world.turn()
    assert len(members[-1].all(Ephemeral)) == MAX_FANOUTS + 1


def test_coming_and_going_before_many_watchers_takes_more(monkeypatch):
    monkeypatch.setattr("duolink.server.channels.TOLD_PER_EFFORT", 1 / 64)
    world = World()
    for i in range(4):
        world.client(f"w{i}", subscriptions=[Position("room", presence=True)])
    eve = world.client("eve")
    for i in range(1, 20):
        eve.send(Subscribe(id=i, channels=[Position("room")] if i % 2 else []))
    assert eve.closed == 3005 and len(eve.all(Subscribing)) == 4096 // (4 * 64 + 1)


@pytest.mark.parametrize(("binary", "size"), [(False, 1), (False, 64_800), (True, 1)])
def test_a_copy_to_be_stored_of_what_was_handed_over_is_not_handed_over_again(binary, size):
    world = World(durable=True)
    bob, alice = world.client("bob"), world.client("alice")
    for store in (False, True):
        data = b"x" * size if binary else b'"' + b"x" * size + b'"'
        message = LinkMessage(
            to="bob", run=alice.welcome.run, seq=1, base=1, binary=binary, store=store, data=msgspec.Raw(data)
        )
        alice.raw(encode_binary(message) if binary else encode(message), binary)
    assert seqs(bob) == [1]


def test_the_program_gets_messages_as_large_as_the_setting_allows():
    world = World(Config(wire=Wire(max_message=200_000)))
    got: list[object] = []
    world.node.local.attach(got.append)
    alice = world.client("alice")
    alice.say(1, to="$server", data="x" * 100_000)
    assert [type(each) for each in got] == [LinkMessage]


def test_who_is_here_is_not_forgotten():
    disk = Disk()
    disk.limits = MailboxLimits(known_only=True, forget_after=3600.0)
    disk.restart()
    world = World(engines=disk.engines, clock=disk)  # type: ignore[arg-type]
    bob, alice = world.client("bob"), world.client("alice")
    for _ in range(200):
        world.advance(20)
        bob.user.alive()
        alice.user.alive()
        disk.turn()
    bob.cut()
    alice.take()
    alice.say(1)
    world.settle()
    assert Stored in [type(m) for m in alice.take()]


def test_the_old_secret_works_until_the_new_one_was_seen():
    world = World()
    alice = world.client("alice")
    alice.send(Ping())
    was = alice.welcome
    alice.cut()
    for _ in range(3):
        again = world.client("alice", run=was.run, session=was.session, secret=was.secret)
        assert again.welcome.resumed
        again.cut()  # with its welcome


def test_a_newcomer_who_gave_up_does_not_make_the_others_wait_again():
    world = World()
    world.client("alice")
    world.advance(10)
    first, second = Client(world), Client(world)
    first.hello("alice")
    second.hello("alice")
    first.cut()
    world.advance(3.01)
    assert second.all(Welcome)


def test_only_who_has_room_again_is_called_back():
    world = World(durable=True)
    mail = flaky(world)
    alice, carol = world.client("alice"), world.client("carol")
    mail.held = []
    for i in range(MAX_UNDER_WAY):
        alice.say(i // 16 + 1, to=f"r{i % 16}")
    alice.say(1, to="bob")
    alice.take()
    carol.say(1, to="dave")
    mail.held.pop()()
    world.turn()
    assert not [m for m in alice.take() if type(m) is Ack and m.want]


def test_timers_that_are_cleaned_up_during_a_poll():
    timers = Timers()
    later = [timers.at(10, lambda now: None) for _ in range(3000)]
    for _ in range(500):
        timers.at(1, lambda now: None)

    def clean(now: float) -> None:
        for timer in later[:2900]:
            timer.cancel()

    timers.at(0.5, clean)
    timers.poll(1)
    assert len(timers) == 100


def test_sessions_that_end_together_while_nothing_can_be_stored_look_at_their_own_streams_only():
    """Else a network that parts while the disk is full holds the node up: quadratically."""

    class Unlisted(dict[Any, Any]):
        def __iter__(self) -> Any:
            raise AssertionError("all of them are looked at")

        items = keys = values = __iter__

    world = World(durable=True)
    mail = flaky(world)
    clients = [world.client(f"c{i}") for i in range(10)]
    mail.failing = {"store"}
    for client in clients:
        client.say(1)
    mailboxes = world.node.mailboxes
    mailboxes._turned_away = Unlisted(mailboxes._turned_away)
    assert len(mailboxes._turned_away) == 10
    for client in clients:
        client.cut()
    world.clock.seconds += 31
    world.node.poll(world.clock.seconds)
    assert not mailboxes._turned_away


def test_one_connection_reads_two_pages_of_history_at_once():
    """What everybody else reads stands behind them."""
    world = World()
    alice = world.client("alice")
    reads: list = []
    world.node.histories._log = SimpleNamespace(
        read=lambda *parts: reads.append(parts[-1]), top=lambda name, done: reads.append(done)
    )
    for number in range(1, 6):
        alice.send(History(id=number, channel="room", limit=5, epoch="e", offset=1))
    assert len(reads) == 2
    reads.pop(0)(Page(Top("e", 9)))
    world.turn()
    assert len(reads) == 2 and alice.last(HistoryPage).id == 1
    reads.pop(0)(Failure("the disk fails"))
    reads.pop(0)(Page(Top("e", 9)))
    world.turn()
    assert len(reads) == 2 and [page.id for page in alice.all(HistoryPage)] == [1, 3]
    alice.cut()
    while reads:
        reads.pop(0)(Page(Top("e", 9)))
    assert not world.node.histories._reads and not world.node.histories._waiting


def test_one_refresh_of_a_connection_waits_for_its_key():
    fetched: Future[None] = Future()
    known = False

    class Keys(OpenAuthenticator):
        def authenticate(self, token: str | None, now: float) -> Any:
            if token and not known:
                raise UnknownKey(fetched)  # type: ignore[arg-type]
            return super().authenticate(None, now)

    world = World(authenticator=Keys())
    alice = world.client("alice")
    for number in (1, 2, 3):
        alice.send(Refresh(id=number, token="t"))
    assert [(each.id, each.code) for each in alice.all(Error)] == [(2, "overloaded"), (3, "overloaded")]
    known = True
    fetched.set_result(None)
    world.turn()
    assert alice.last(Refreshed).id == 1
    alice.send(Refresh(id=4, token="t"))
    assert alice.last(Refreshed).id == 4
