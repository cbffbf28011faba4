"""From mailboxes to clients that are here: in order, as fast as they take it, whatever comes between."""

import time
from typing import Any

import pytest
from tests.node_world import Client, World
from tests.unit.mail_world import Flaky, acknowledge, delivering, flaky, kept, put, seqs

from duolink.engines.base import Failure, Row, Stream
from duolink.protocol.messages import LinkMessage, Probe, Skip, Stored
from duolink.server import delivery
from duolink.server.delivery import MAX_READS, RETRY

WINDOW = 256


class Empty(Flaky):
    """A mailbox whose pages are empty."""

    def read(self, *arguments: Any) -> None:
        arguments[-1](())


@pytest.fixture
def world() -> World:
    return World(durable=True)


# --- pages -----------------------------------------------------------------------------------------


def test_what_was_kept_comes_in_order_behind_a_word_of_where_it_begins(world):
    for seq in range(1, 4):
        put(world, seq)
    bob = world.client("bob")
    _, probe, *messages = bob.take()
    assert (type(probe), probe.start, probe.seq, probe.sender) == (Probe, 1, 0, "alice")
    assert [message.seq for message in messages] == [1, 2, 3]
    acknowledge(bob, 3)
    assert kept(world) == 0
    assert delivering(world) is None


def test_a_receiver_is_given_a_window_beyond_what_it_has_acknowledged(world):
    for seq in range(1, 601):
        put(world, seq)
    bob = world.client("bob")
    assert seqs(bob) == list(range(1, WINDOW + 1))
    acknowledge(bob, 100)
    assert seqs(bob) == list(range(WINDOW + 1, WINDOW + 101))
    acknowledge(bob, WINDOW + 100)
    assert seqs(bob) == list(range(WINDOW + 101, 601))


def test_a_live_message_does_not_overtake_what_waits_in_its_mailbox():
    """The first page is being read when alice sends 101 live: handed over now, it
    would lie in the receiver's window until 1 … 100 have come."""
    world = World(seed=1, durable=True)
    bob = world.client("bob")  # his process is older than hers: no earlier one may have finished with it
    world.settle()
    bob.cut()
    alice = world.client("alice")
    world.settle()
    for seq in range(1, 101):
        alice.say(seq, store=True)
    world.settle()
    welcome = bob.welcome
    bob = Client(world)
    bob.hello("bob", run=welcome.run, session=welcome.session, secret=welcome.secret)
    while not any(backlog.reading for backlog in getattr(delivering(world), "_streams", {}).values()):
        assert world.late is not None and world.late.step()
        world.turn()
    alice.say(101)
    assert seqs(bob) == []
    world.settle()
    assert seqs(bob) == list(range(1, 102)), "by the mailbox, behind the others"


def test_what_is_stored_while_a_page_is_read_waits_for_the_pages_before_it():
    """300 are kept; while the first page of 128 is being read, number 301 is stored. It must not follow the
    page, for then 129 … 300 count as handed over, and nobody ever asks for them."""
    world = World(seed=1, durable=True)
    alice = world.client("alice")
    for seq in range(1, 301):
        alice.say(seq, store=True)
    world.settle()
    bob = Client(world)
    bob.hello("bob")
    while not any(backlog.reading for backlog in getattr(delivering(world), "_streams", {}).values()):
        assert world.late is not None and world.late.step()
        world.turn()
    alice.say(301, store=True)
    world.settle()
    assert seqs(bob) == list(range(1, WINDOW + 1))
    acknowledge(bob, WINDOW, run=alice.welcome.run)
    world.settle()
    assert seqs(bob) == list(range(WINDOW + 1, 302))


def test_what_is_stored_while_the_last_page_is_read_follows_it_from_memory(world):
    mailbox = flaky(world)
    alice = world.client("alice")
    alice.say(1)
    mailbox.held = []
    bob = world.client("bob")
    mailbox.release()  # what there is; now the page is read
    mailbox.held = []
    acknowledge(bob, 0, run=alice.welcome.run, want=True)
    reads = mailbox.calls.count("read")
    held, mailbox.held = mailbox.held, None
    alice.say(2, store=True)
    for answer in held:
        answer()
    assert [seq for seq in seqs(bob) if seq > 1] == [2]
    assert mailbox.calls.count("read") == reads, "it was at hand"


def test_more_than_fits_at_hand_is_read(world, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(delivery, "MAX_FRESH", 2)
    mailbox = flaky(world)
    alice = world.client("alice")
    alice.say(1)
    bob = world.client("bob")
    bob.take()
    mailbox.held = []
    acknowledge(bob, 0, run=alice.welcome.run, want=True)
    held, mailbox.held = mailbox.held, None
    for seq in range(2, 8):
        alice.say(seq, store=True)
    reads = mailbox.calls.count("read")
    for answer in held:
        answer()
    assert seqs(bob) == [1, 2, 3, 4, 5, 6, 7]
    assert mailbox.calls.count("read") == reads + 1


def test_a_copy_that_was_handed_over_hides_nothing_of_what_is_sent_again(world):
    """Bob misses 1 and 2, which are being read, when 3 is stored that has gone to him before."""
    mailbox = flaky(world)
    bob, alice = world.client("bob"), world.client("alice")
    for seq in (1, 2, 3):
        alice.say(seq)
    alice.say(1, store=True)
    alice.say(2, store=True)
    bob.take()
    mailbox.held = []
    acknowledge(bob, 0, run=alice.welcome.run, want=True)
    held, mailbox.held = mailbox.held, None
    alice.say(3, store=True)
    for answer in held:
        answer()
    assert seqs(bob) == [1, 2, 3]


def test_a_page_of_what_was_finished_with_meanwhile_ends_the_backlog(world):
    put(world, 1)
    mailbox = flaky(world)
    mailbox.held = []
    bob = world.client("bob")
    (opened,) = mailbox.held
    mailbox.held = []
    opened()
    world.engines.mailbox.acknowledge(Stream("bob", "alice", "messages", 1), "bob", 1, (), 0)
    held, mailbox.held = mailbox.held, None
    bob.take()
    world.node.mailboxes.engine = Empty(world.engines.mailbox)
    acknowledge(bob, 0, want=True)
    for answer in held:
        answer()
    bob.take()
    delivery_ = delivering(world)
    assert delivery_ is None or delivery_._behind == {}


def test_a_backlog_that_turns_out_empty_is_forgotten(world):
    put(world, 1)
    world.node.mailboxes.engine = Empty(world.engines.mailbox)
    bob = world.client("bob")
    assert seqs(bob) == []
    assert delivering(world) is None


@pytest.mark.parametrize("count", [1, 40])
def test_streams_are_read_a_few_at_a_time_and_all_have_their_turn(count):
    world = World(seed=count, durable=True)
    for number in range(count * 25):
        for lane in ("messages", "bulk"):
            put(world, 1, f"s{number}", lane=lane)
            put(world, 2, f"s{number}", lane=lane)
    world.settle()
    mailbox = flaky(world)
    bob = world.client("bob", settle=False)
    most = 0
    while world.late is not None and world.late.step():
        world.turn()
        if delivering(world) is not None:
            most = max(most, delivering(world)._reads)
            if count > 1 and mailbox.calls.count("read") % 7 == 0:
                delivering(world).run()  # as a connection does that has drained
            assert len(delivering(world)._blocked) <= count * 25
    assert most <= MAX_READS
    assert len(bob.all(LinkMessage)) == count * 100


def test_a_stream_that_is_finished_with_while_it_is_read_lets_the_next_one_read(world):
    """Eight reads are under way and more streams wait. The eight streams end before their pages come: the
    pages are dropped, and those that wait must have their turn all the same."""
    for number in range(MAX_READS + 3):
        put(world, 1, f"s{number}")
    mailbox = flaky(world)
    mailbox.held = []
    bob = world.client("bob")
    (opened,) = mailbox.held
    mailbox.held = []
    opened()
    pages, mailbox.held = mailbox.held, None
    assert len(pages) == MAX_READS
    for number in range(MAX_READS):
        acknowledge(bob, 1, to=f"s{number}")
    for page in pages:
        page()
    world.turn()
    assert {message.sender for message in bob.all(LinkMessage)} == {
        f"s{MAX_READS + number}" for number in range(3)
    }


# --- slow receivers --------------------------------------------------------------------------------


def test_history_28_a_slow_reader_gets_its_mailbox_as_it_drains():
    world = World(durable=True)
    for seq in range(1, 201):
        stream = Stream("bob", "alice", "messages", 1)
        body = b'{"type":"message","run":1,"seq":%d,"base":1,"from":"alice","data":"%s"}' % (
            seq,
            b"x" * 20000,
        )
        world.engines.mailbox.store(stream, Row(seq, seq, body), 1, lambda result: None)
    bob = Client(world)
    bob.wire.kernel = False
    bob.hello("bob")
    world.settle()
    got = seqs(bob)
    assert 0 < len(got) < 40 and bob.user.full and not bob.closed
    while len(got) < 200:
        bob.wire.waiting = 0
        bob.user.writable()
        world.turn()
        more = seqs(bob)
        assert more, "it has drained and gets nothing"
        got += more
        assert not bob.closed
    assert got == list(range(1, 201))


def test_a_connection_that_drains_inside_one_streams_turn_wakes_the_others(world):
    """The first stream finds the connection full. While the second has its turn the connection drains: the
    first must be gone on with, though the second's turn is not over."""
    put(world, 1, "s1")
    put(world, 1, "s2")
    mailbox = flaky(world)
    mailbox.held = []
    bob = world.client("bob")
    (opened,) = mailbox.held
    mailbox.held = None
    bob.user.full = True
    opened()
    session: Any = world.node.sessions.get("bob")
    advance = session.delivery._advance_runs

    def advancing(sender: tuple[str, str]) -> None:
        advance(sender)
        if sender[1] == "s2" and bob.user.full:
            bob.user.full = False
            world.node.links.drained(session.party)

    patch = pytest.MonkeyPatch()
    patch.setattr(delivery.Delivery, "_advance_runs", lambda self, sender: advancing(sender))
    session.delivery.run()
    patch.undo()
    world.turn()
    assert seqs(bob) == [1, 1]


def test_a_receiver_that_is_full_in_the_middle_of_a_page_reads_it_again(world):
    for seq in range(1, 11):
        put(world, seq)
    mailbox = flaky(world)
    mailbox.held = []
    bob = world.client("bob")
    (opened,) = mailbox.held
    mailbox.held = []
    opened()
    (page,) = mailbox.held
    mailbox.held = None
    bob.user.full = True
    bob.wire.waiting = 10**6 // 2
    page()
    assert seqs(bob) == []
    bob.wire.waiting = 0
    bob.user.writable()
    world.turn()
    assert seqs(bob) == list(range(1, 11))


def test_a_store_finds_the_receiver_full_and_follows_when_it_has_drained(world):
    bob, alice = world.client("bob"), world.client("alice")
    bob.take()
    bob.user.full = True
    alice.say(1)
    assert seqs(bob) == [] and [type(m) for m in alice.take()[1:]] == [Stored]
    bob.user.full = False
    world.node.links.drained(world.node.sessions.get("bob").party)
    world.turn()
    assert seqs(bob) == [1]


# --- losses ----------------------------------------------------------------------------------------


def test_a_huge_loss_is_told_a_window_at_a_time(world):
    """Many skips become one row of the mailbox. It must neither flood the receiver nor keep the node busy."""
    for number in range(10):
        put(world, 1 + number * 2000, last=(number + 1) * 2000, reason="expired")
    put(world, 20001)
    bob = world.client("bob")
    told: list[Any] = []
    while not told or told[-1] != 20001:
        more = seqs(bob)
        assert 0 < len(more) <= 2
        told += more
        last = told[-1]
        if last != 20001:
            acknowledge(bob, last[1])
    numbers = [seq for first, last in told[:-1] for seq in range(first, last + 1)]
    assert numbers == list(range(1, 20001))
    assert all(last - first < WINDOW for first, last in told[:-1])


def test_a_loss_behind_numbers_that_nobody_kept_says_that_it_begins_there(world):
    """Its receiver has told 31 … 40 as lost; its sender has not heard of it and sends 31 … 45 as lost again,
    of which 41 … 45 are handed over. Were their `base` 41, the receiver would forget what it has told, and
    its next acknowledgement would call 31 … 40 delivered."""
    put(world, 1, to="@bob")
    assert kept(world) == 0, "nobody is bob"
    world.client("bob:1").cut()
    bob = world.client("bob:2")
    put(world, 1, to="@bob")
    acknowledge(bob, 1, user="@bob")
    put(world, 5, last=6, to="@bob", base=5, reason="expired")  # 2 … 4 ended before they left
    one = world.client("bob:1")
    *_, probe, skip = [message for message in one.take() if type(message) in (Probe, Skip)]
    assert (probe.seq, probe.start, probe.base, probe.user) == (4, 5, 1, "@bob")
    assert (skip.seq, skip.last, skip.base, skip.user) == (5, 6, 1, "@bob")


def test_a_message_behind_numbers_that_are_settled_says_that_it_begins_there(world):
    """A server was killed before bob's cursor was on the disk, and begins at 1 again; his sender knows that
    1 … 3 are settled. A receiver that waits for them would wait until it connects anew."""
    mailbox = flaky(world)
    put(world, 1)
    mailbox.held = []
    bob = world.client("bob")
    put(world, 4, base=4)  # behind the list of what there is
    mailbox.release()
    probes = [message for message in bob.take() if type(message) is Probe]
    assert [(probe.seq, probe.start) for probe in probes][-1] == (3, 4)


def test_binary_rows_travel_as_they_were_kept(world):
    alice = world.client("alice")
    header = b'{"type":"message","to":"bob","run":%d,"seq":1,"base":1,"binary":true}\n\x00\n\xff' % (
        alice.welcome.run
    )
    alice.raw(header, binary=True)
    bob = world.client("bob")
    message = bob.last(LinkMessage)
    assert (bytes(message.data), message.binary, message.sender) == (b"\x00\n\xff", True, "alice")


# --- acknowledgements ------------------------------------------------------------------------------


def test_history_4_an_acknowledgement_that_overtakes_the_commit_counts_behind_it():
    """5 went live and is also on its way to the disk; bob acknowledges it; the commit comes. A later bob must
    not see it again."""
    for seed in range(20):
        world = World(seed=seed, durable=True)
        alice, bob = world.client("alice"), world.client("bob")
        run = alice.welcome.run
        alice.say(1)
        world.settle()
        alice.say(1)
        world.settle()
        assert 1 in seqs(bob)
        alice.say(1, store=True)
        acknowledge(bob, 1, run=run)
        world.settle()
        assert delivering(world) is None
        assert kept(world) == 0
        bob.cut()
        assert seqs(world.client("bob")) == []


def test_history_4_what_was_lost_is_told_behind_the_commit_too():
    world = World(seed=4, durable=True)
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    world.settle()
    alice.say(1, store=True)
    run = alice.welcome.run
    acknowledge(bob, 1, run=run, lost=[(1, 1, "expired")], by=bob.welcome.run)
    world.settle()
    heard: list[Any] = []
    world.engines.mailbox.standing(Stream("bob", "alice", "messages", run), heard.append)
    world.settle()
    assert (heard[0].settled, heard[0].lost[0].reason) == (1, "expired")


def test_a_store_that_fails_after_its_number_was_acknowledged_leaves_nothing_behind(world):
    mailbox = flaky(world)
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    mailbox.held = []
    alice.say(1, store=True)
    mailbox.held = None
    acknowledge(bob, 1, run=alice.welcome.run)
    assert delivering(world) is not None
    world.node.mailboxes._done(
        alice.user,
        alice.user.session,
        Stream("bob", "alice", "messages", alice.welcome.run),
        Row(1, 1, b"{}"),
        None,
        Failure("gone"),
    )
    assert delivering(world) is None


@pytest.mark.parametrize("riding", [False, True])
def test_an_acknowledgement_before_it_is_known_what_there_is_counts(world, riding):
    for seq in range(1, 4):
        put(world, seq)
    mailbox = flaky(world)
    world.client("alice")
    mailbox.held = []
    bob = world.client("bob")
    if riding:
        bob.say(1, "alice", ack=2, ack_run=1)
        bob.say(1, "alice", ack=1, ack_run=1)
    else:
        acknowledge(bob, 2)
        acknowledge(bob, 1)
    mailbox.release()
    assert seqs(bob) == [3]
    acknowledge(bob, 3)
    assert kept(world) == 0


def test_acknowledgements_that_wait_for_the_list_are_bounded(world, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(delivery, "MAX_EARLY", 3)
    mailbox = flaky(world)
    mailbox.held = []
    bob = world.client("bob")
    for number in range(10):
        acknowledge(bob, 1, to=f"s{number}")
    assert len(delivering(world)._early) == 3


@pytest.mark.parametrize(
    "forged",
    [
        {"run": 2},
        {"lane": "bulk"},
        {"to": "carol"},
        {"user": "@bob"},
        {"user": "@carol"},
        {"user": "carol"},
        {"user": "bob"},
    ],
    ids=repr,
)
def test_an_acknowledgement_of_another_stream_finishes_nothing(world, forged):
    put(world, 1)
    put(world, 1, to="carol")
    bob = world.client("bob")
    acknowledge(bob, **{"seq": 1, **forged})
    assert kept(world) == 2
    assert delivering(world) is not None


def test_nobody_acknowledges_for_a_stream_that_is_on_its_way_to_somebody_else():
    """The store for carol is under way. Bob claims to have finished with it, as carol and as `@carol`."""
    world = World(seed=2, durable=True)
    alice, bob = world.client("alice"), world.client("bob")
    world.client("carol").cut()
    alice.say(1, "carol")
    alice.say(1, "@carol")
    for user in ("carol", "@carol"):
        acknowledge(bob, 1, run=alice.welcome.run, user=user)
    world.settle()
    assert kept(world) == 2


def test_a_hole_is_filled_from_the_mailbox(world):
    for seq in range(1, 6):
        put(world, seq)
    bob = world.client("bob")
    assert seqs(bob) == [1, 2, 3, 4, 5]
    acknowledge(bob, 1, received=2, want=True)
    assert seqs(bob) == [3, 4, 5]
    acknowledge(bob, 5, want=True)
    assert seqs(bob) == [] and kept(world) == 0


def test_a_thousand_losses_in_every_acknowledgement_cost_the_disk_one_word(world):
    for seq in range(1, 4):
        put(world, seq)
    mailbox = flaky(world)
    bob = world.client("bob")
    lost = [(number, number, "expired") for number in range(1, 1025)]
    for _ in range(50):
        acknowledge(bob, 2, lost=lost, by=bob.welcome.run)
    assert mailbox.calls.count("acknowledge") == 1


# --- runs ------------------------------------------------------------------------------------------


def test_history_7_a_run_is_handed_over_behind_those_before_it():
    for seed in range(20):
        world = World(seed=seed, durable=True)
        for run in (1, 2, 3):
            for lane in ("messages", "bulk"):
                for seq in range(1, 4):
                    put(world, seq, run=run, lane=lane)
        world.settle()
        bob = world.client("bob")
        runs = [message.run for message in bob.all(LinkMessage)]
        assert runs == sorted(runs) and len(runs) == 18


def test_history_7_a_long_run_is_finished_before_the_next_begins(world):
    for seq in range(1, 301):
        put(world, seq, run=1)
    put(world, 1, run=2)
    bob = world.client("bob")
    assert {message.run for message in bob.all(LinkMessage)} == {1}
    acknowledge(bob, 200)
    assert [message.run for message in bob.all(LinkMessage)][-2:] == [1, 2]


def test_history_7_a_live_message_of_a_new_run_waits_for_the_old_ones_rows(world):
    for seq in range(1, 301):
        put(world, seq, run=1)
    bob, alice = world.client("bob"), world.client("alice")
    alice.say(1)
    alice.say(1)
    assert alice.welcome.run not in {message.run for message in bob.all(LinkMessage)}
    acknowledge(bob, 256)
    assert bob.all(LinkMessage)[-1].run == alice.welcome.run


def test_a_run_whose_rows_are_finished_with_lets_the_next_one_go(world):
    for seq in range(1, 301):
        put(world, seq, run=1)
    put(world, 1, run=2)
    bob = world.client("bob")
    acknowledge(bob, 300)  # it has had them another way
    assert bob.all(LinkMessage)[-1].run == 2


def test_thousands_of_runs_of_one_sender_are_handed_over_without_delay(world):
    """A program that is started again and again, each time with one message for somebody who is away."""
    count = 3000
    for run in range(1, count + 1):
        put(world, 1, run=run)
    before = time.process_time()
    bob = world.client("bob")
    assert len(bob.all(LinkMessage)) == count
    for run in range(1, count + 1):
        acknowledge(bob, 1, run=run)
    assert time.process_time() - before < 2.0, "some microseconds a run; quadratic would be minutes"
    assert kept(world) == 0


# --- who comes and goes ----------------------------------------------------------------------------


def test_a_receiver_replaced_in_the_middle_of_a_page_begins_again():
    """Whatever the engine has answered by then: the next process gets everything, the first one no more."""
    for steps in range(40):
        world = World(seed=steps, durable=True)
        for seq in range(1, 301):
            put(world, seq)
        world.settle()
        bob = world.client("bob", settle=False)
        for _ in range(min(steps // 3, 8)):
            assert world.late is not None and world.late.step()
            world.turn()
        bob.cut()
        before = len(bob.wire.payloads)
        assert seqs(world.client("bob")) == list(range(1, WINDOW + 1))
        assert len(bob.wire.payloads) == before


def test_an_engine_that_answers_after_everyone_has_gone_is_not_heard(world):
    put(world, 1)
    mailbox = flaky(world)
    mailbox.held = []
    bob = world.client("bob")
    (opened,) = mailbox.held
    mailbox.held = []
    opened()
    (page,) = mailbox.held
    bob.cut()
    page()
    assert seqs(bob) == [] and kept(world) == 1
    mailbox.held = []
    late = world.client("bob", run=bob.welcome.run)
    late.cut()
    mailbox.release()
    assert seqs(late) == []


# --- failures --------------------------------------------------------------------------------------


def test_history_29_a_list_that_cannot_be_read_is_asked_for_again(world):
    put(world, 1)
    mailbox = flaky(world)
    mailbox.failing = {"open"}
    bob = world.client("bob")
    world.advance(3 * RETRY)
    assert seqs(bob) == [] and 3 <= mailbox.calls.count("open") <= 5
    mailbox.failing = set()
    world.advance(RETRY)
    assert seqs(bob) == [1]


def test_history_29_pages_that_cannot_be_read_are_asked_for_again_once_a_second(world):
    """An engine that fails at once must not be asked in a circle, nor by ever more timers."""
    for number in range(20):
        put(world, 1, f"s{number}")
    mailbox = flaky(world)
    mailbox.failing = {"read"}
    bob = world.client("bob")
    world.advance(10 * RETRY)
    assert mailbox.calls.count("read") <= 12 and seqs(bob) == []
    mailbox.failing = set()
    world.advance(RETRY)
    assert len(seqs(bob)) == 20


def test_a_retry_for_a_client_that_has_gone_asks_for_nothing(world):
    put(world, 1)
    mailbox = flaky(world)
    mailbox.failing = {"read"}
    bob = world.client("bob")
    bob.cut()
    calls = len(mailbox.calls)
    world.advance(2 * RETRY)
    assert len(mailbox.calls) == calls


def test_an_engine_that_raises_leaves_the_delivery_able_to_go_on(world):
    put(world, 1)
    mailbox = flaky(world)
    mailbox.held = []
    bob = world.client("bob")
    (opened,) = mailbox.held
    mailbox.held = None

    def read(*arguments: Any) -> None:
        raise RuntimeError("a bug")

    mailbox.read = read
    with pytest.raises(RuntimeError):
        opened()
    del mailbox.read
    acknowledge(bob, 0, want=True)
    assert not delivering(world)._running


# --- nothing stays ---------------------------------------------------------------------------------


def test_nothing_is_kept_in_memory_of_clients_that_came_and_went():
    world = World(seed=11, durable=True)
    for number in range(30):
        bob = world.client("bob:1", settle=False)
        alice = world.client(f"alice{number}")
        alice.say(1, "bob:1")
        alice.say(1, "@bob")
        alice.say(1, "nobody")
        bob.cut()
        alice.say(2, "bob:1")
        alice.cut()
        world.settle()
        world.advance(60)
        world.settle()
    mailboxes, node = world.node.mailboxes, world.node
    assert len(node.parties) == 0
    assert node.links.count == 0 and len(node.sessions) == 0
    for table in (
        mailboxes._under_way,
        mailboxes._users,
        mailboxes._stored,
        mailboxes._holes,
        mailboxes._turned_away,
    ):
        assert not table
