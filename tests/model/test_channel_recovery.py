"""Subscribers that are cut, come back and read slowly, on an engine that answers late: no silent hole, and
what they make of the shared state is what it was at their position."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tests.node_world import Client, World

from duolink.protocol.messages import (
    Error,
    Position,
    Publication,
    Snapshot,
    Subscribe,
    Subscribed,
    Unsubscribed,
)
from duolink.server import recovery
from duolink.server.settings import ChannelSettings, Config
from duolink.server.settings import Wire as WireSettings

CHANNEL = "room"
TALLY: Counter[str] = Counter()


def data(number: int) -> bytes:
    """What publication `number` carries; large enough that a dozen fill a reader who does not read."""
    return b'"%d%b"' % (number, b"." * 1000)


def change(number: int) -> tuple[str, bool]:
    """What publication `number` does to the shared state: which name it writes, and whether it deletes it."""
    return ("" if number % 3 == 0 else f"n{number % 13}"), number % 3 != 0 and number % 5 == 0


def apply(state: dict[str, int], number: int) -> None:
    name, deleted = change(number)
    if name:
        state.pop(name, None)
        if not deleted:
            state[name] = number


def made(top: int) -> dict[str, int]:
    """Name → version at an offset."""
    state: dict[str, int] = {}
    for number in range(1, top + 1):
        apply(state, number)
    return state


class Reader:
    """A subscriber that checks its stream: each publication is the next, or a gap was named. With `state` its
    position moves to that of a snapshot when it has all of it."""

    def __init__(self, world: World, name: str, state: bool) -> None:
        self.world, self.name, self.follows = world, name, state
        self.state: dict[str, int] = {}
        self.begun: Subscribed | None = None
        self.left = -1  # entries of the snapshot that are still to come
        self.picture: dict[str, int] = {}
        self.epoch, self.offset = "", 0
        self.joined = self.replays = False
        self.asked = ("", 0)
        self.run = 0
        self.session = self.secret = ""
        self.client: Client | None = None

    def position(self) -> Position:
        """Where it asks to go on."""
        TALLY["left in a snapshot"] += self.begun is not None
        self.joined, self.begun = False, None
        self.asked = (self.epoch, self.offset)
        return Position(CHANNEL, self.epoch, self.offset, state=self.follows)

    def connect(self, reads: bool) -> None:
        wanted = [self.position()]
        self.client = Client(self.world)
        self.client.wire.kernel = reads
        self.client.hello(
            self.name, run=self.run, session=self.session, secret=self.secret, subscriptions=wanted
        )

    def look(self) -> None:
        """Take what has come."""
        if self.client is None:
            return
        for message in self.client.take():
            if type(message).__name__ == "Welcome":
                self.run, self.session, self.secret = message.run, message.session, message.secret
            elif type(message) is Subscribed:
                self.begin(message)
            elif type(message) is Snapshot:
                assert self.begun is not None and message.id == self.begun.id and self.left < 0
                self.left, self.picture = message.count, {}
                self.entry(None)
            elif type(message) is Publication and message.state:
                self.entry(message)
            elif type(message) is Publication:
                assert self.joined, "a publication before its subscription"
                assert message.offset == self.offset + 1, "a hole, or a repeat"
                assert (message.name, message.deleted) == change(message.offset)
                assert message.deleted or bytes(message.data) == data(message.offset)
                self.offset = message.offset
                apply(self.state, message.offset)
                TALLY["replayed"] += self.replays
                self.replays = False
            elif type(message) is Unsubscribed:
                self.joined, self.begun = False, None
            elif type(message) is Error:
                assert message.code in ("overloaded", "duplicate", "superseded"), message

    def begin(self, message: Subscribed) -> None:
        epoch, offset = self.asked
        if not epoch:
            assert message.gap is None and not message.recovered
        elif message.recovered:
            assert (message.epoch, message.offset) == (epoch, offset) and message.gap is None
            TALLY["recovered"] += 1
            self.replays = True
        else:
            assert message.gap is not None
            TALLY[message.gap.reason] += 1
            if message.gap.reason != "epoch":
                assert (
                    message.gap.first == offset + 1
                    and message.gap.last == message.offset >= message.gap.first
                )
        assert not self.joined and self.begun is None
        if self.follows and not message.recovered:
            self.begun, self.left = message, -1
        else:
            self.stand(message)

    def stand(self, message: Subscribed) -> None:
        self.joined = True
        self.epoch, self.offset = message.epoch, message.offset

    def entry(self, entry: Publication | None) -> None:
        """Take one entry of a snapshot; with the last one the subscription stands."""
        assert self.begun is not None and self.left >= 0 and not self.joined
        if entry is not None:
            assert not entry.deleted and change(entry.offset) == (entry.name, False)
            assert bytes(entry.data) == data(entry.offset) and entry.name not in self.picture
            self.picture[entry.name] = entry.offset
            self.left -= 1
        if self.left == 0:
            begun, self.begun, self.left = self.begun, None, -1
            self.state = self.picture
            self.stand(begun)
            TALLY["snapshot"] += 1
            TALLY["snapshot after a gap"] += begun.gap is not None


class RecoveryMachine(RuleBasedStateMachine):
    """One channel with a short history, three readers, one publisher."""

    @initialize(seed=st.integers(0, 1000), keep=st.sampled_from([0, 3, 1000]))
    def start(self, seed: int, keep: int) -> None:
        channel = ChannelSettings(history_count=keep, history_age_s=60)
        self.world = World(
            Config(channels={CHANNEL: channel}, wire=WireSettings(send_buffer=16_384, max_message=8192)),
            seed=seed,
        )
        self.readers = [Reader(self.world, f"r{number}", number > 0) for number in range(3)]
        self.publisher = self.world.client("publisher")
        self.count = 0

    @rule(count=st.integers(1, 8))
    def publish(self, count: int) -> None:
        assert self.world.late is not None
        while self.publisher.user.in_flight > 100:  # an honest publisher waits for answers
            self.world.late.step()
        for _ in range(count):
            self.count += 1
            name, deleted = change(self.count)
            kind = b'"set","name":"%b"%b' % (name.encode(), b',"deleted":true' if deleted else b"")
            self.publisher.raw(
                b'{"type":%b,"id":%d,"channel":"room","data":%b}'
                % (kind if name else b'"publish"', self.count, data(self.count))
            )

    @rule(steps=st.integers(1, 20))
    def engine_answers(self, steps: int) -> None:
        assert self.world.late is not None
        for _ in range(steps):
            self.world.late.step()
        self.world.turn()

    @rule(number=st.integers(0, 2), reads=st.sampled_from([True, True, False]))
    def connect(self, number: int, reads: bool) -> None:
        reader = self.readers[number]
        if reader.client is None or reader.client.gone:
            reader.connect(reads)

    @rule(number=st.integers(0, 2), lost=st.integers(0, 3))
    def cut(self, number: int, lost: int) -> None:
        """The transport ends; the last payloads never arrived."""
        reader = self.readers[number]
        if reader.client is not None and not reader.client.gone:
            if lost:
                wire = reader.client.wire
                wire.payloads = wire.payloads[: max(len(wire.payloads) - lost, reader.client.read, 1)]
            reader.look()
            reader.client.cut()

    @rule(number=st.integers(0, 2))
    def resubscribe(self, number: int) -> None:
        """Give the channel up and want it again, in two commands of one payload."""
        reader = self.readers[number]
        reader.look()
        standing = reader.joined or reader.begun is not None
        if standing and reader.client is not None and not reader.client.gone:
            reader.client.send(Subscribe(id=1, channels=[]), Subscribe(id=2, channels=[reader.position()]))

    @rule(number=st.integers(0, 2), reads=st.booleans())
    def stops_or_reads_again(self, number: int, reads: bool) -> None:
        client = self.readers[number].client
        if client is not None and not client.gone:
            client.wire.kernel = reads
            if reads and client.wire.waiting:
                client.wire.waiting = 0
                client.user.writable()
                self.world.turn()

    @rule(seconds=st.sampled_from([1.0, 29.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        for reader in self.readers:
            if reader.client is not None and not reader.client.gone:
                reader.client.user.alive()
        self.publisher.user.alive()
        self.world.advance(seconds)

    @invariant()
    def every_stream_is_contiguous_or_has_a_typed_gap(self) -> None:
        if hasattr(self, "readers"):
            for reader in self.readers:
                reader.look()
                if reader.follows and reader.epoch:
                    assert reader.state == made(reader.offset), "another state than at this position"

    def teardown(self) -> None:
        if not hasattr(self, "readers"):
            return
        self.world.settle()
        for reader in self.readers:
            client = reader.client
            TALLY["slow"] += client is not None and client.closed == 3001
            if client is None or client.gone or client.closed:
                continue
            client.wire.waiting, client.wire.kernel = 0, True
            client.user.writable()
            self.world.settle()
            reader.look()
            if client.closed:
                continue
            assert reader.joined and reader.offset == self.count
        channel = self.world.node.channels._channels.get(CHANNEL)
        assert channel is None or (channel.recovery is None and channel.offset == self.count)
        assert not [line for line in self.world.log.lines if line[0] == "internal"]


def test_channel_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "BURST", 2048)  # a snapshot is sent in pieces
    TALLY.clear()
    run_state_machine_as_test(
        RecoveryMachine, settings=settings(max_examples=600, stateful_step_count=50, deadline=None)
    )
    # The hard cases really occurred.
    rare = ("recovered", "evicted", "slow", "replayed", "snapshot after a gap", "left in a snapshot")
    assert all(TALLY[what] > 3 for what in rare), TALLY
