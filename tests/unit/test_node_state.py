"""Shared state on a node: writes, snapshots, and what follows them."""

from typing import Any

import msgspec
import pytest
from tests.node_world import Client, Tokens, World

from duolink.engines.base import Failure, Top
from duolink.engines.base import Snapshot as Read
from duolink.protocol import limits
from duolink.protocol.messages import (
    Error,
    Gap,
    History,
    Position,
    Publication,
    Publish,
    Published,
    Set,
    Snapshot,
    Subscribe,
    Subscribed,
    Unsubscribed,
)
from duolink.server import recovery
from duolink.server.auth import EVERYTHING, Identity, Patterns
from duolink.server.hooks import Hooks
from duolink.server.settings import ChannelSettings, Config
from duolink.server.settings import Wire as WireSettings


@pytest.fixture
def world() -> World:
    return World()


def write(client: Client, name: str, value: Any = 1, *, channel: str = "doc", **fields: Any) -> None:
    client.send(Set(id=7, channel=channel, name=name, data=msgspec.Raw(msgspec.json.encode(value)), **fields))


def delete(client: Client, name: str, **fields: Any) -> None:
    client.send(Set(id=7, channel="doc", name=name, deleted=True, **fields))


def publish(client: Client, count: int = 1, size: int = 1) -> None:
    for _ in range(count):
        client.send(Publish(id=7, channel="doc", data=msgspec.Raw(b'"%b"' % (b"." * size))))


def follow(client: Client, epoch: str = "", offset: int = 0, command: int = 1) -> None:
    client.send(Subscribe(id=command, channels=[Position("doc", epoch, offset, state=True)]))


def told(client: Client) -> list[Any]:
    """What came of the channel since the last look, in short."""
    short: list[Any] = []
    for message in client.take():
        if type(message) is Subscribed:
            gap = message.gap
            short.append(("subscribed", message.offset, message.recovered, gap and gap.reason))
        elif type(message) is Snapshot:
            short.append(("snapshot", message.count))
        elif type(message) is Publication:
            what = "entry" if message.state else "publication"
            short.append((what, message.offset, message.name, message.deleted))
        elif type(message) is Unsubscribed:
            short.append(("unsubscribed", message.code, message.resubscribe))
    return short


# --- writing -----------------------------------------------------------------------------------


def test_a_write_is_answered_with_its_version_and_reaches_subscribers_as_a_publication(world):
    alice, bob = world.client("alice"), world.client("bob")
    bob.send(Subscribe(id=1, channels=[Position("doc")]))
    write(alice, "title", {"text": "a"})
    write(alice, "title", {"text": "b"})
    delete(alice, "title")
    assert [(each.id, each.offset) for each in alice.all(Published)] == [(7, 1), (7, 2), (7, 3)]
    first, second, third = bob.all(Publication)
    assert (first.offset, first.sender, first.name, first.deleted, first.state, bytes(first.data)) == (
        1, "alice", "title", False, False, b'{"text":"a"}',
    )  # fmt: skip
    assert (second.offset, bytes(second.data), second.deleted) == (2, b'{"text":"b"}', False)
    assert (third.offset, third.name, bytes(third.data), third.deleted) == (3, "title", b"", True)


def test_what_is_deleted_has_no_data_whatever_came_with_it(world):
    alice, bob = world.client("alice"), world.client("bob")
    bob.send(Subscribe(id=1, channels=[Position("doc")]))
    header = b'{"type":"set","id":1,"channel":"doc","name":"a","deleted":true,"binary":true}'
    alice.raw(header + b"\n\x00\x01", binary=True)
    publication = bob.last(Publication)
    assert (publication.deleted, publication.binary, bytes(publication.data)) == (True, False, b"")


def test_compare_and_set_ends_in_a_conflict_that_names_the_version_and_is_nobodys_mistake(world):
    alice = world.client("alice")
    write(alice, "a", 1, expect=0)
    write(alice, "a", 2, expect=0)
    error = alice.last(Error)
    assert (error.id, error.code, error.version, error.retry_after) == (7, "conflict", 1, 0)
    write(alice, "a", 2, expect=1)
    delete(alice, "b", expect=4)
    error = alice.last(Error)
    assert (error.code, error.version) == ("conflict", 0)
    assert [each.offset for each in alice.all(Published)] == [1, 2]
    assert world.counts.errors["conflict"] == 2 and world.log.lines == []


def test_a_write_under_a_known_key_gets_its_first_answer_and_is_not_told_again(world):
    alice, bob = world.client("alice"), world.client("bob")
    bob.send(Subscribe(id=1, channels=[Position("doc")]))
    write(alice, "a", 1, key="k", expect=0)
    write(alice, "a", 1, key="k", expect=0, age=100)
    assert [each.offset for each in alice.all(Published)] == [1, 1]
    assert len(bob.all(Publication)) == 1
    write(alice, "a", 1, key="unheard", age=10_000_000)
    assert alice.last(Error).code == "uncertain"


def test_names_and_bytes_are_bounded_by_the_channels_settings():
    world = World(Config(channels={"doc": ChannelSettings(state_keys=2, state_bytes=10)}))
    alice = world.client("alice")
    for name in ("a", "b", "c"):
        write(alice, name)
    assert [error.code for error in alice.all(Error)] == ["state_full"]
    write(alice, "a", "x" * 10)
    assert [error.code for error in alice.all(Error)] == ["state_full"] * 2
    assert len(alice.all(Published)) == 2


def test_a_channel_without_shared_state_says_so():
    world = World(Config(channels={"doc": ChannelSettings(state_keys=0)}))
    alice = world.client("alice")
    write(alice, "a")
    delete(alice, "a")
    assert [(error.id, error.code) for error in alice.all(Error)] == [(7, "forbidden")] * 2
    follow(alice)
    assert told(alice)[-2:] == [("subscribed", 0, False, None), ("snapshot", 0)]


@pytest.mark.parametrize("name", ["\n", "x" * 256, "ä" * 128])
def test_a_name_is_an_id_of_255_bytes(world, name):
    alice = world.client("alice")
    write(alice, name)
    assert (alice.last(Error).code, alice.last(Error).id) == ("malformed", 7 * (len(name) < 256))
    write(alice, "ä" * 127)
    assert alice.last(Published).offset == 1


def test_a_value_is_taken_if_everybody_can_be_told_it():
    """Live, in a page of history and in a snapshot it fits into a message, all names full of escapes."""
    world = World(Config(wire=WireSettings(max_message=4096)))
    channel, name = '"' * 255, "\\" * 255
    alice, bob = world.client('"' * 128), world.client("bob", subscriptions=[Position('"' * 255, state=True)])
    for size in range(2300, 3000):
        alice.send(Set(id=1, channel=channel, name=name, data=msgspec.Raw(b'"%b"' % (b"." * size))))
    taken = len(alice.all(Published))
    assert {error.code for error in alice.all(Error)} == {"too_large"} and 0 < taken < 700
    late = world.client("late", subscriptions=[Position(channel, state=True)])
    late.send(History(id=limits.MAX_INTEGER, channel=channel, offset=taken - 1))
    assert [len(bytes(p.data)) for p in late.all(Publication)] == 2 * [2300 + taken + 1]
    payloads = [payload for payload, _ in bob.wire.payloads + late.wire.payloads]
    assert 3950 < max(len(line) for payload in payloads for line in payload.split(b"\n")) <= 4096


def test_rights_to_publish_write_and_rights_to_subscribe_read():
    reader = Identity(user="reader", subscribe=EVERYTHING, publish=Patterns(frozenset()), links=EVERYTHING)
    writer = Identity(user="writer", subscribe=Patterns(frozenset()), publish=EVERYTHING, links=EVERYTHING)
    world = World(authenticator=Tokens(reader=reader, writer=writer))
    one, two = world.client("reader", token="reader"), world.client("writer", token="writer")
    write(one, "a")
    assert one.last(Error).code == "forbidden"
    write(two, "a")
    follow(two)
    assert (two.last(Published).offset, two.last(Error).code) == (1, "forbidden")
    follow(one)
    assert told(one) == [("subscribed", 1, False, None), ("snapshot", 1), ("entry", 1, "a", False)]


def test_the_published_hook_hears_writes():
    heard: list[Any] = []
    world = World(hooks=Hooks(published=lambda *what: heard.append(what)))
    alice = world.client("alice")
    write(alice, "a", 5)
    write(alice, "a", 6, expect=0)
    delete(alice, "a")
    assert heard == [("doc", "alice", 1, b"5", False), ("doc", "alice", 2, b"", False)]


def test_history_names_what_was_written(world):
    alice = world.client("alice")
    publish(alice)
    write(alice, "a")
    delete(alice, "a")
    alice.send(History(id=3, channel="doc"))
    assert [(p.name, p.deleted, p.page, p.state) for p in alice.all(Publication)] == [
        ("", False, 3, False), ("a", False, 3, False), ("a", True, 3, False),
    ]  # fmt: skip


# --- snapshots ---------------------------------------------------------------------------------


def test_a_subscription_with_state_begins_with_a_snapshot_at_its_offset(world):
    alice, bob = world.client("alice"), world.client("bob")
    write(alice, "a", 1)
    write(alice, "b", 2)
    publish(alice)
    delete(alice, "b")
    write(alice, "a", 3)
    alice.raw(b'{"type":"set","id":1,"channel":"doc","name":"c","binary":true}\n\x00\n', binary=True)
    follow(bob, command=5)
    publish(alice)
    write(alice, "b", 4)
    assert told(bob) == [
        ("subscribed", 6, False, None), ("snapshot", 2), ("entry", 5, "a", False), ("entry", 6, "c", False),
        ("publication", 7, "", False), ("publication", 8, "b", False),
    ]  # fmt: skip
    assert bob.last(Snapshot).id == 5 == bob.last(Subscribed).id
    entry, binary = [p for p in bob.all(Publication) if p.state]
    assert (entry.sender, bytes(entry.data), entry.time) == ("alice", b"3", world.clock.wall_ms())
    assert (binary.binary, bytes(binary.data)) == (True, b"\x00\n")


def test_a_channel_whose_state_is_empty_has_an_empty_snapshot(world):
    bob = world.client("bob")
    follow(bob)
    assert told(bob) == [("subscribed", 0, False, None), ("snapshot", 0)]


def test_who_does_not_ask_for_state_gets_none(world):
    alice, bob = world.client("alice"), world.client("bob")
    write(alice, "a")
    bob.send(Subscribe(id=1, channels=[Position("doc")]))
    assert told(bob) == [("subscribed", 1, False, None)]


def test_what_was_missed_follows_instead_of_a_snapshot(world):
    alice, bob = world.client("alice"), world.client("bob")
    follow(bob)
    write(alice, "a")
    epoch = bob.last(Subscribed).epoch
    bob.cut()
    write(alice, "b")
    delete(alice, "a")
    bob = bob.again(subscriptions=[Position("doc", epoch, 1, state=True)])
    assert told(bob) == [
        ("subscribed", 1, True, None), ("publication", 2, "b", False), ("publication", 3, "a", True),
    ]  # fmt: skip


def test_after_a_gap_comes_a_snapshot_and_the_gap_reaches_up_to_it():
    world = World(Config(channels={"doc": ChannelSettings(history_count=2)}))
    alice, bob = world.client("alice"), world.client("bob")
    follow(bob)
    epoch = bob.last(Subscribed).epoch
    for number in range(5):
        write(alice, f"n{number % 2}", number)
    follower = world.client("carol")
    follow(follower, epoch, 1)
    assert follower.last(Subscribed).gap == Gap("evicted", 2, 5)
    assert told(follower) == [
        ("subscribed", 5, False, "evicted"), ("snapshot", 2),
        ("entry", 4, "n1", False), ("entry", 5, "n0", False),
    ]  # fmt: skip


def test_after_another_epoch_and_after_too_much_comes_a_snapshot(world, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recovery, "MAX_RECOVERED", 3)
    alice, bob = world.client("alice"), world.client("bob")
    for number in range(5):
        write(alice, "a", number)
    follow(bob, "another", 3)
    assert told(bob) == [("subscribed", 5, False, "epoch"), ("snapshot", 1), ("entry", 5, "a", False)]
    carol = world.client("carol")
    follow(carol, bob.last(Subscribed).epoch, 1)
    assert carol.last(Subscribed).gap == Gap("overflow", 2, 5)
    assert told(carol)[1:] == [("snapshot", 1), ("entry", 5, "a", False)]
    dave = world.client("dave")
    follow(dave, bob.last(Subscribed).epoch, 99)
    assert told(dave) == [("subscribed", 5, False, "epoch"), ("snapshot", 1), ("entry", 5, "a", False)]


def test_a_resumed_session_whose_client_names_no_positions_begins_with_a_snapshot(world):
    alice, bob = world.client("alice"), world.client("bob")
    follow(bob)
    bob.cut()
    write(alice, "a")
    bob = bob.again()
    assert bob.last(Subscribed).gap == Gap("evicted", 0, 1)
    assert told(bob) == [("subscribed", 1, False, "evicted"), ("snapshot", 1), ("entry", 1, "a", False)]


def test_a_hello_decides_anew_whether_state_is_wanted(world):
    alice, bob = world.client("alice"), world.client("bob")
    write(alice, "a")
    follow(bob)
    bob.cut()
    bob = bob.again(subscriptions=[Position("doc")])
    assert told(bob) == [("subscribed", 1, False, None)]


@pytest.mark.parametrize("seed", range(40))
def test_a_snapshot_and_what_follows_make_the_servers_state_in_whatever_order_engines_answer(seed):
    """The state is read while writes are under way: its top may be ahead of what the channel has told, or
    behind it when the answer comes."""
    world = World(seed=seed)
    alice, bob = world.client("alice"), world.client("bob")
    write(alice, "a", 0)
    if seed % 2:
        bob.send(Subscribe(id=1, channels=[Position("doc")]))  # the channel is open
        world.settle()
    carol = world.client("carol")
    assert world.late is not None
    steps = seed
    for number in range(12):
        write(alice, f"n{number % 3}", number)
        if number == 4:
            world.settle() if seed % 5 == 0 else None
            follow(carol)
        if number % 4 == 3:
            delete(alice, "n1")
        for _ in range(steps % 3):
            world.late.step()
            world.turn()
        steps = steps * 7 + 1
    world.settle()
    (subscribed,), (snapshot,) = carol.all(Subscribed), carol.all(Snapshot)
    publications = carol.all(Publication)
    entries = publications[: snapshot.count]
    assert all(entry.state and entry.offset <= subscribed.offset for entry in entries)
    assert [p.offset for p in publications[snapshot.count :]] == list(range(subscribed.offset + 1, 17))
    made = {entry.name: entry.offset for entry in entries}
    for publication in publications[snapshot.count :]:
        assert not publication.state
        made.pop(publication.name, None)
        if not publication.deleted:
            made[publication.name] = publication.offset
    now: list[Any] = []
    world.engines.log.state("doc", now.append)
    world.settle()
    assert made == {entry.name: entry.offset for entry in now[0].entries}


# --- a crowd, slow readers, failures -----------------------------------------------------------


class Reads:
    """Counts reads of the state, and may hold their answers back."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, hold: bool = False) -> None:
        self.count = 0
        self.hold = hold
        self.held: list[Any] = []
        self._read = world.engines.log.state
        monkeypatch.setattr(world.engines.log, "state", self)

    def __call__(self, channel: str, done: Any) -> None:
        self.count += 1
        self._read(channel, (lambda read: self.held.append((done, read))) if self.hold else done)

    def release(self) -> None:
        held, self.held = self.held, []
        for done, read in held:
            done(read)


def test_one_read_serves_all_who_ask_before_it_comes(world, monkeypatch: pytest.MonkeyPatch):
    alice = world.client("alice")
    write(alice, "a")
    reads = Reads(world, monkeypatch, hold=True)
    crowd = [world.client(f"c{number}") for number in range(20)]
    for client in crowd:
        follow(client)
        write(alice, "a")
    reads.release()
    world.turn()
    assert reads.count == 1
    for client in crowd:
        assert told(client) == [
            ("subscribed", 1, False, None), ("snapshot", 1), ("entry", 1, "a", False),
            *[("publication", offset, "a", False) for offset in range(2, 22)],
        ]  # fmt: skip


def slow_world(**channel: Any) -> World:
    return World(
        Config(
            channels={"doc": ChannelSettings(**channel)},
            wire=WireSettings(send_buffer=16_384, max_message=8192),
        )
    )


def test_a_snapshot_waits_until_its_connection_can_take_it(monkeypatch: pytest.MonkeyPatch):
    """And while it waits, it serves those who come as long as what is remembered follows it."""
    monkeypatch.setattr(recovery, "BURST", 2048)
    world = slow_world()
    alice, bob = world.client("alice"), world.client("bob")
    for number in range(40):
        write(alice, f"n{number}", "x" * 1000)
    reads = Reads(world, monkeypatch)
    bob.wire.kernel = False
    follow(bob)
    got = told(bob)
    assert got[:2] == [("subscribed", 40, False, None), ("snapshot", 40)]
    assert 2 < len(got) < 12 and bob.user.full and not bob.closed
    write(alice, "n0", 1)
    carol = world.client("carol")
    follow(carol)
    assert told(carol)[0] == ("subscribed", 40, False, None) and carol.last(Publication).offset == 41
    assert reads.count == 1
    while bob.wire.waiting:
        bob.wire.waiting = 0
        bob.user.writable()
        world.turn()
    got += told(bob)
    assert [each[0] for each in got] == ["subscribed", "snapshot"] + 40 * ["entry"] + ["publication"]


def test_a_snapshot_that_nothing_remembered_follows_is_read_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recovery, "BURST", 2048)
    monkeypatch.setattr(recovery, "MAX_RECENT", 3)
    world = slow_world()
    alice, bob = world.client("alice"), world.client("bob")
    for number in range(40):
        write(alice, f"n{number}", "x" * 1000)
    reads = Reads(world, monkeypatch)
    bob.wire.kernel = False
    follow(bob)
    publish(alice, 4)
    carol = world.client("carol")
    follow(carol)
    assert told(carol)[0] == ("subscribed", 44, False, None) and reads.count == 2


def test_a_state_that_was_asked_for_before_a_gap_is_asked_for_again(monkeypatch: pytest.MonkeyPatch):
    """Bob's read is under way; the log moves on and forgets; Carol, whose position lies behind what that read
    will show, has missed something: her snapshot must not be older than her position."""
    monkeypatch.setattr(recovery, "MAX_RECENT", 1)
    world = World(Config(channels={"doc": ChannelSettings(history_count=0)}))
    alice, bob = world.client("alice"), world.client("bob")
    write(alice, "a")
    reads = Reads(world, monkeypatch, hold=True)
    follow(bob)
    publish(alice, 5)
    carol = world.client("carol")
    (opened,) = world.node.channels.positions().values()
    follow(carol, opened[0], 3)
    assert (reads.count, told(carol)) == (1, [])
    reads.hold = False
    reads.release()
    world.turn()
    assert reads.count == 2 and carol.last(Subscribed).gap == Gap("evicted", 4, 6)
    assert told(carol) == [("subscribed", 6, False, "evicted"), ("snapshot", 1), ("entry", 1, "a", False)]
    # And Bob's is older than what is remembered: he is told to begin again.
    assert told(bob) == [
        ("subscribed", 1, False, None), ("snapshot", 1), ("entry", 1, "a", False),
        ("unsubscribed", "gap", True),
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["unsubscribes", "is cut", "comes back"])
def test_a_snapshot_that_comes_too_late_goes_to_nobody(world, monkeypatch: pytest.MonkeyPatch, ending: str):
    alice, bob = world.client("alice"), world.client("bob")
    write(alice, "a")
    reads = Reads(world, monkeypatch, hold=True)
    follow(bob)
    before = bob
    if ending == "unsubscribes":
        bob.send(Subscribe(id=2, channels=[]))
    elif ending == "is cut":
        bob.cut()
    else:
        bob = bob.again(subscriptions=[Position("doc", state=True)])
    reads.release()
    world.turn()
    assert before.all(Snapshot) == []
    assert [(each.count, each.id) for each in bob.all(Snapshot)] == [(1, 0)] * (ending == "comes back")
    assert all(channel.recovery is None for channel in world.node.channels._channels.values())


def test_a_connection_that_is_cut_in_the_middle_of_a_snapshot_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(recovery, "BURST", 2048)
    world = slow_world()
    alice, bob = world.client("alice"), world.client("bob")
    for number in range(40):
        write(alice, f"n{number}", "x" * 1000)
    bob.wire.kernel = False
    follow(bob)
    assert bob.user.full
    bob.cut()
    assert world.node.channels._channels["doc"].recovery is None
    bob = bob.again(subscriptions=[Position("doc", state=True)])
    assert [each[0] for each in told(bob)] == ["subscribed", "snapshot"] + 40 * ["entry"]


@pytest.mark.parametrize("answer", [Failure("down"), Read(Top("another", 9))], ids=["failure", "epoch"])
def test_a_state_that_cannot_be_read_ends_the_subscription(
    world, monkeypatch: pytest.MonkeyPatch, answer: Any
):
    bob = world.client("bob")
    with monkeypatch.context() as broken:
        broken.setattr(world.engines.log, "state", lambda channel, done: done(answer))
        follow(bob)
    error = bob.last(Error)
    assert (error.code, error.channel, error.id, error.retry_after) == ("unavailable", "doc", 1, 1000)
    assert bob.all(Subscribed) == [] and len(world.node.channels) == 0
    follow(bob, command=2)
    assert bob.last(Snapshot).id == 2


def test_a_read_that_fails_after_the_subscription_was_told_makes_it_begin_again(
    world, monkeypatch: pytest.MonkeyPatch
):
    """An error would be for a subscription that stands already: nobody would ask again."""
    monkeypatch.setattr(recovery, "PAGE", 2)
    alice, bob = world.client("alice"), world.client("bob")
    publish(alice, 6)
    read = world.engines.log.read
    epoch: list[Read] = []
    world.engines.log.state("doc", epoch.append)

    def second_fails(channel: str, epoch: str, after: int, limit: int, done: Any) -> None:
        if after:
            done(Failure("down"))
        else:
            read(channel, epoch, after, limit, done)

    monkeypatch.setattr(world.engines.log, "read", second_fails)
    follow(bob, epoch[0].top.epoch, 0)
    assert told(bob) == [
        ("subscribed", 0, True, None), ("publication", 1, "", False), ("publication", 2, "", False),
        ("unsubscribed", "gap", True),
    ]  # fmt: skip
    assert bob.all(Error) == []
