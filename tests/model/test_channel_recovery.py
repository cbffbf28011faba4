"""Subscribers that are cut, come back and read slowly, on an engine that answers late: no silent hole."""

from collections import Counter

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
    Subscribe,
    Subscribed,
    Unsubscribed,
)
from duolink.server.settings import ChannelSettings, Config
from duolink.server.settings import Wire as WireSettings

CHANNEL = "room"
TALLY: Counter[str] = Counter()


def data(number: int) -> bytes:
    """What publication `number` carries; large enough that a dozen fill a reader who does not read."""
    return b'"%d%b"' % (number, b"." * 1000)


class Reader:
    """A subscriber that checks its stream: each publication is the next, or a gap was named."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.epoch, self.offset = "", 0
        self.joined = self.replays = False
        self.asked = ("", 0)
        self.run = 0
        self.session = self.secret = ""
        self.client: Client | None = None

    def connect(self) -> None:
        self.joined = False
        self.asked = (self.epoch, self.offset)
        wanted = [Position(CHANNEL, self.epoch, self.offset)]
        self.client = Client(self.world)
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
            elif type(message) is Publication:
                assert self.joined, "a publication before its subscription"
                assert message.offset == self.offset + 1, "a hole, or a repeat"
                assert bytes(message.data) == data(message.offset)
                self.offset = message.offset
                TALLY["replayed"] += self.replays
                self.replays = False
            elif type(message) is Unsubscribed:
                self.joined = False
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
        assert not self.joined
        self.joined = True
        self.epoch, self.offset = message.epoch, message.offset


class RecoveryMachine(RuleBasedStateMachine):
    """One channel with a short history, three readers, one publisher."""

    @initialize(seed=st.integers(0, 1000), keep=st.sampled_from([0, 3, 1000]))
    def start(self, seed: int, keep: int) -> None:
        channel = ChannelSettings(history_count=keep, history_age_s=60)
        self.world = World(
            Config(channels={CHANNEL: channel}, wire=WireSettings(send_buffer=16_384, max_message=8192)),
            seed=seed,
        )
        self.readers = [Reader(self.world, f"r{number}") for number in range(3)]
        self.publisher = self.world.client("publisher")
        self.count = 0

    @rule(count=st.integers(1, 8))
    def publish(self, count: int) -> None:
        assert self.world.late is not None
        while self.publisher.user.in_flight > 100:  # an honest publisher waits for answers
            self.world.late.step()
        for _ in range(count):
            self.count += 1
            self.publisher.raw(
                b'{"type":"publish","id":%d,"channel":"room","data":%b}' % (self.count, data(self.count))
            )

    @rule(steps=st.integers(1, 20))
    def engine_answers(self, steps: int) -> None:
        assert self.world.late is not None
        for _ in range(steps):
            self.world.late.step()
        self.world.turn()

    @rule(number=st.integers(0, 2))
    def connect(self, number: int) -> None:
        reader = self.readers[number]
        if reader.client is None or reader.client.gone:
            reader.connect()

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
        if reader.joined and reader.client is not None and not reader.client.gone:
            reader.joined = False
            reader.asked = (reader.epoch, reader.offset)
            reader.client.send(
                Subscribe(id=1, channels=[]), Subscribe(id=2, channels=[Position(CHANNEL, *reader.asked)])
            )

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


def test_channel_recovery() -> None:
    TALLY.clear()
    run_state_machine_as_test(
        RecoveryMachine, settings=settings(max_examples=400, stateful_step_count=50, deadline=None)
    )
    # The hard cases really occurred.
    assert all(TALLY[what] > 3 for what in ("recovered", "evicted", "slow", "replayed")), TALLY
