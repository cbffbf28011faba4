"""One end of a link: what it sends where, what it takes, and the histories that break naive versions."""

from math import inf
from typing import Any

import pytest
from msgspec import Raw

from duolink.protocol import limits
from duolink.protocol.codes import PeerState
from duolink.protocol.former import MAX_FORMER
from duolink.protocol.link import (
    SERVER,
    SMALL,
    Link,
    Lost,
    PathFailed,
    PeerChanged,
    Received,
    Settled,
)
from duolink.protocol.messages import (
    Ack,
    Error,
    LinkMessage,
    Message,
    Peer,
    Ping,
    Pong,
    Probe,
    Signal,
    Skip,
    Stored,
    Wait,
)
from duolink.protocol.paths import PROMOTE_AFTER, PathKind
from duolink.protocol.receiving import REPORT

RUN, PEER_RUN = 7, 3


class End:
    """A link under a driver's hands: what it says is kept, by path."""

    def __init__(self, window: int = 8, *, online: bool = True) -> None:
        self.now = 0.0
        self.link = Link("B", RUN, window=window)
        self.said: list[tuple[str, Message]] = []
        self.events: list[Any] = []
        if online:
            self.up()

    def turn(self) -> list[Message]:
        """Take what is to be sent, and the events."""
        out = self.link.take(self.now)
        self.said += out
        self.events += self.link.events()
        return [message for _, message in out]

    def up(self, path: str = SERVER, kind: PathKind = PathKind.SERVER) -> list[Message]:
        self.link.path_up(path, kind, self.now)
        return self.turn()

    def down(self, path: str = SERVER) -> list[Message]:
        self.link.path_down(path)
        return self.turn()

    def send(self, *bodies: bytes, **how: Any) -> list[Message]:
        for body in bodies:
            self.link.submit(Raw(body), **how)
        return self.turn()

    def hear(self, message: Message, path: str = SERVER) -> list[Message]:
        self.link.receive(message, path, self.now)
        return self.turn()

    def at(self, now: float) -> list[Message]:
        """Let time pass, heeding every timer."""
        out: list[Message] = []
        while (timer := self.link.next_timer(self.now)) <= now:
            assert timer > self.now, "a timer in the past"
            self.now = timer
            out += self.turn()
        self.now = now
        return out + self.turn()

    def finish(self, message: LinkMessage) -> list[Message]:
        self.link.finish(message, self.now)
        return self.turn()

    def prove(self, path: str = "d1", kind: PathKind = PathKind.DIRECT) -> None:
        """Open a data channel and answer its pings; the peer has acknowledged something before."""
        self.link._opened = True
        self.up(path, kind)
        for number in range(1, PROMOTE_AFTER + 1):
            self.hear(Pong(id=number), path)

    def heard(self) -> list[Any]:
        """What the application heard since the last question."""
        told = [
            event.message.seq
            if isinstance(event, Received)
            else (event.first, event.last, event.reason)
            if isinstance(event, Lost)
            else (event.entry.seq, event.reason or "delivered", event.certain)
            if isinstance(event, Settled)
            else event
            for event in self.events
        ]
        self.events.clear()
        return told


def message(
    seq: int, base: int = 1, *, run: int = PEER_RUN, lane: str = "messages", **how: Any
) -> LinkMessage:
    return LinkMessage(run=run, seq=seq, base=base, lane=lane, data=Raw(b"1"), **how)


def ack(seq: int, **how: Any) -> Ack:
    return Ack(run=RUN, seq=seq, **how)


def wait(seq: int, last: int = 0) -> Wait:
    return Wait(to="B", run=RUN, seq=seq, last=last)


def here(run: int = PEER_RUN, generation: int = 1, attachment: int = 1) -> Peer:
    return Peer(client_id="B", state="here", run=run, generation=generation, attachment=attachment)


def seqs(messages: list[Message]) -> list[Any]:
    """What was sent: numbers of messages, ranges of skips, names of the rest."""
    shown: list[Any] = []
    for one in messages:
        if isinstance(one, LinkMessage):
            shown.append(one.seq)
        elif isinstance(one, Skip):
            shown.append((one.seq, one.last))
        else:
            shown.append(type(one).__name__.lower())
    return shown


# --- histories -----------------------------------------------------------------------------------------


def test_history_1_an_expired_number_holds_nobody_up() -> None:
    """1–3 leave, 2 dies on the way and expires. B waits for 2: it asks, gets a skip, hears the loss in its
    place; A hears the same; the loss is repeated until base has passed it."""
    a, b = End(), End()
    a.hear(here())
    one, two, three = [*a.send(b"1"), *a.send(b"2", expires=1.0), *a.send(b"3")]
    for sent in (one, three):
        b.hear(sent)
    assert isinstance(one, LinkMessage) and isinstance(three, LinkMessage)
    assert b.heard() == [1]
    b.finish(one)
    assert seqs(a.at(1.0)) == []
    (pull,) = [asked for asked in b.at(1.0) if isinstance(asked, Ack) and asked.want]
    for answer in a.hear(pull):
        b.hear(answer)
    assert b.heard() == [(2, 2, "expired"), 3]
    b.finish(three)
    (word,) = b.at(1.1)
    assert isinstance(word, Ack) and [(lost.first, lost.last) for lost in word.lost] == [(2, 2)]
    a.hear(word)
    assert [end[:2] for end in a.heard() if not isinstance(end, PeerChanged)] == [
        (1, "delivered"),
        (2, "expired"),
        (3, "delivered"),
    ]
    assert two and a.link.idle


def test_history_1_a_refused_number_becomes_a_skip() -> None:
    """The server will never take 2 (with its sender's name it is too large): A skips it, 3 follows."""
    a = End()
    a.send(b"1", b"2", b"3")
    out = a.hear(Error(code="too_large", to="B", lane="messages", run=RUN, seq=2))
    assert seqs(out) == [(2, 2), 3]
    assert a.heard() == [(2, "refused", True)]
    a.hear(ack(3))
    assert a.heard() == [(1, "delivered", True), (3, "delivered", True)]


def test_history_2_direct_dies_and_the_next_number_goes_by_the_server() -> None:
    """A sends 1–5 direct, unacknowledged; direct dies; 6 is to go by the server: 1–5 go there before it."""
    a = End()
    a.prove()
    assert seqs(a.send(b"1", b"2", b"3", b"4", b"5")) == [1, 2, 3, 4, 5]
    assert {path for path, one in a.said if isinstance(one, LinkMessage)} == {"d1"}
    a.said.clear()
    a.down("d1")
    a.send(b"6")
    assert [(path, one.seq) for path, one in a.said if isinstance(one, LinkMessage)] == [
        (SERVER, seq) for seq in range(1, 7)
    ]


def test_history_2_b_restarts_without_memory_and_first_sees_51() -> None:
    """Every message carries `base`: 51 is settled up to 50, so that B starts there and waits for nothing."""
    b = End()
    b.hear(message(51, base=51))
    assert b.heard() == [51]
    b.hear(message(50, base=50))
    assert b.heard() == [], "settled before this process lived"


def test_history_3_a_gap_older_than_a_second_pulls() -> None:
    """B's frame with 2 died with its socket; 3 came on the next one."""
    b = End()
    for seq in (1, 3):
        b.hear(message(seq))
    assert b.at(0.9) == []
    (pull,) = b.at(1.0)
    assert isinstance(pull, Ack) and pull.want and pull.received == 1
    a = End()
    a.send(b"1", b"2", b"3")
    assert seqs(a.hear(Ack(run=RUN, seq=0, received=1, want=True))) == [2, 3]


def test_history_5_more_than_the_credit_closes_the_path() -> None:
    """10,000 are in the mailbox; direct opens; 10,001 comes direct, past B's reorder bound."""
    b = End()
    b.hear(message(1))
    b.prove()
    b.heard()
    b.hear(message(10_001), "d1")
    (failed,) = b.heard()
    assert isinstance(failed, PathFailed) and failed.path == "d1"
    b.up("d2", PathKind.DIRECT)
    b.hear(Skip(run=PEER_RUN, seq=10_000, last=10_001, base=1, reason="expired"), "d2")
    (failed,) = b.heard()
    assert isinstance(failed, PathFailed) and failed.path == "d2"


def test_history_5_a_sender_keeps_to_what_the_receiver_granted() -> None:
    """Direct traffic both ways: the cursor rides, without a word of credit; that must stall nobody."""
    a = End(window=4)
    a.hear(message(1))
    a.prove()
    a.send(b"1", b"2", b"3", b"4")
    a.hear(Ack(run=RUN, seq=1, received=4, limit=5), "d1")
    assert seqs(a.send(b"5")) == [5]
    a.hear(message(2, ack_run=RUN, ack=5), "d1")
    assert seqs(a.send(b"6", b"7", b"8", b"9")) == [6, 7, 8, 9]
    a.down("d1")
    assert not a.link._granted, "credit ends with its path"


def test_history_6_a_lane_waits_only_for_itself() -> None:
    """101 of messages came by the data channel, bulk 100 is still under way on the WebSocket."""
    b = End()
    b.hear(message(101, base=101))
    b.hear(message(101, base=100, lane="bulk"))
    assert b.heard() == [101]
    b.hear(message(100, base=100, lane="bulk"))
    assert b.heard() == [100, 101]


def test_history_7_a_new_run_opens_through_the_server() -> None:
    """A restarts: r2:1 arrives direct while r1:3 is held behind 2. On the data channel it is dropped; through
    the server it ends r1: lost 2, then 3, then r2:1; what still comes of r1 is dropped."""
    b = End()
    b.hear(message(1))
    b.hear(message(3))
    b.prove()
    b.heard()
    b.hear(message(1, run=9), "d1")
    assert b.heard() == []
    b.hear(message(1, run=9))
    assert b.heard() == [(2, 2, "sender_restarted"), 3, 1]
    b.hear(message(2))
    b.hear(Probe(run=PEER_RUN, seq=3, base=1))
    assert b.heard() == []


def test_history_7_a_late_finish_of_an_ended_run_is_told_as_that_runs() -> None:
    """r1:1 is still in its handler when r2:1 comes. Its finish must not count for r2; but the mailbox that
    still has it must hear of it, or the next process gets it again."""
    b = End()
    old = message(1)
    b.hear(old)
    b.hear(message(1, run=9))
    assert b.finish(old) == []
    assert [(ack.run, ack.seq) for ack in b.at(1.0) if isinstance(ack, Ack)] == [(PEER_RUN, 1)]
    assert b.finish(message(1, lane="bulk")) == [], "nor in a lane that never was"


def test_history_7_a_repeat_of_an_ended_run_is_acknowledged_again() -> None:
    """The acknowledgement of r1:1 died with the connection; its mailbox hands it over once more."""
    b = End()
    b.hear(message(1))
    b.hear(message(1, run=9))
    b.finish(message(1))
    b.at(1.0)
    b.down()
    b.up()
    for again in (message(1), Probe(run=PEER_RUN, seq=1, base=1), message(1)):
        (told,) = b.hear(again)
        assert isinstance(told, Ack) and (told.run, told.seq, told.want) == (PEER_RUN, 1, False)
    assert b.hear(message(2)) != [], "and nothing beyond is"
    assert b.heard() == [1, 1]


def test_history_7_leaving_hurries_what_is_owed_to_an_ended_run() -> None:
    b = End()
    b.hear(message(1))
    b.hear(message(1, run=9))
    b.finish(message(1))
    assert b.link.owes_acks
    b.link.hurry(b.now)
    assert [(ack.run, ack.seq) for ack in b.turn() if isinstance(ack, Ack)] == [(PEER_RUN, 1)]
    assert not b.link.owes_acks


def test_history_7_what_is_remembered_of_ended_runs_is_bounded() -> None:
    b = End()
    for run in range(9, 9 + 3 * MAX_FORMER):
        b.hear(message(1, run=run))
    assert len(list(b.link._receiving.former)) == MAX_FORMER
    assert b.finish(message(1, run=9)) == [] and not b.link.owes_acks, "the oldest are forgotten"


def test_history_7_an_ended_run_waits_for_the_server_and_asks_for_nothing() -> None:
    """Its hole ended with it; the data channel leads to another process."""
    b = End()
    b.hear(message(1))
    b.hear(message(3))
    b.hear(message(1, run=9))
    b.down()
    b.finish(message(1))
    b.finish(message(3))
    assert b.at(40.0) == []
    told = b.up()
    assert [(ack.run, ack.seq, ack.want) for ack in told if isinstance(ack, Ack)] == [(PEER_RUN, 3, False)]


def test_history_9_a_newer_process_gets_what_the_old_one_had_not_finished() -> None:
    """Old B, alive on direct, took 2 and 3; new B takes over: the channel closes, new B gets both."""
    a = End()
    a.hear(here())
    a.send(b"1")
    a.hear(ack(1))
    a.prove()
    a.send(b"2", b"3")
    a.hear(ack(1, received=3), "d1")
    a.heard()
    assert seqs(a.hear(here(run=12, generation=2))) == [2, 3]
    failed, changed = a.heard()
    assert isinstance(failed, PathFailed) and changed == PeerChanged(PeerState.HERE, True)


def test_history_9_another_attachment_costs_the_data_channels_nothing() -> None:
    """B resumed on another connection: only what was under way through the server is sent again."""
    a = End()
    a.hear(here())
    a.send(b"1")
    a.up("d1", PathKind.DIRECT)
    a.heard()
    assert 1 in seqs(a.hear(here(attachment=2)))
    assert "d1" in a.link.paths and a.heard() == []
    assert seqs(a.hear(here(attachment=2))) == [], "the same once more is no news"


def test_history_10_each_side_leaves_its_own_dead_path() -> None:
    """A's way out is dead while B sees health: A's pings are unanswered, A goes both ways, then by the
    server, and takes what still comes on the data channel."""
    a = End()
    a.hear(message(1))
    a.prove()
    a.send(b"0")
    a.hear(ack(1), "d1")
    a.at(7.0)
    a.said.clear()
    a.send(b"small")
    assert sorted(path for path, one in a.said if isinstance(one, LinkMessage)) == ["d1", SERVER]
    a.said.clear()
    a.send(b"x" * (SMALL + 1))
    assert [path for path, one in a.said if isinstance(one, LinkMessage)] == [SERVER], "large ones go once"
    a.at(14.0)
    a.said.clear()
    a.send(b"small")
    assert [path for path, one in a.said if isinstance(one, LinkMessage)] == [SERVER]
    a.heard()
    a.hear(message(2), "d1")
    assert a.heard() == [2]


def test_history_11_a_handler_that_raised_has_finished() -> None:
    """The machine knows only `finish`: the second's handler returned, the first's raised; both count."""
    b = End()
    first, second = message(1), message(2)
    b.hear(first)
    b.hear(second)
    b.finish(second)
    words = [*b.at(0.1), *b.finish(first), *b.at(0.2)]
    assert [word.seq for word in words if isinstance(word, Ack)] == [0, 2], "2 alone says nothing"


@pytest.mark.parametrize(
    "forged",
    [
        Wait(to="B", run=RUN, seq=1),
        Stored(to="B", run=RUN, seq=1),
        Error(code="too_large", to="B", run=RUN, seq=1),
        Peer(client_id="B", state="away"),
        LinkMessage(run=PEER_RUN, seq=1, base=1, sender="carol"),
        Ack(run=RUN, seq=1, sender="carol"),
    ],
    ids=lambda forged: type(forged).__name__,
)
def test_history_14_a_peer_that_speaks_for_others_loses_its_path(forged: Message) -> None:
    """Verdicts are the server's, and whose a message is is what the server stamped on the signals."""
    a = End()
    a.send(b"1")
    a.prove()
    a.heard()
    a.hear(forged, "d1")
    (failed,) = a.heard()
    assert isinstance(failed, PathFailed) and "d1" not in a.link.paths and a.link.unsettled == 1


def test_history_22_unacknowledged_traffic_makes_a_dead_transport_visible() -> None:
    """3 × 30 + 10 s is long: a sender probes after 2 s, then 4, 8, 16, 30 s."""
    a = End()
    a.send(b"1")
    times = []
    for _ in range(6):
        a.now = a.link.next_timer(a.now)
        (probe,) = a.turn()
        assert isinstance(probe, Probe) and probe.seq == 1
        times.append(a.now)
    assert times == [2, 6, 14, 30, 60, 90]
    a.hear(ack(1))
    assert a.link.next_timer(a.now) == inf


def test_history_22_a_slow_handler_is_not_probed_more_often_than_a_dead_one() -> None:
    """An acknowledgement without progress does not begin the waiting anew."""
    a = End()
    a.send(b"1")
    times = []
    for _ in range(4):
        a.now = a.link.next_timer(a.now)
        a.turn()
        times.append(a.now)
        a.hear(ack(0))
    assert times == [2, 6, 14, 30]


def test_history_30_absence_is_no_refusal() -> None:
    """The server restarts while both live; A is back before B: wait, not an error; and when B comes, all of
    it, in order, once."""
    a = End()
    a.send(b"1", b"2")
    for seq in (1, 2):
        assert a.hear(wait(seq)) == []
    assert a.send(b"3") == [], "held"
    assert a.heard() == []
    assert seqs(a.hear(here())) == [1, 2, 3]


def test_history_30_what_expires_while_nobody_has_it_is_lost_for_certain() -> None:
    """An absent receiver must not let expired numbers fill the window: base goes on without it."""
    a = End(window=2)
    for _ in range(5):
        out = a.send(b"1", b"2", expires=a.now + 10.0)
        assert not a.link.has_room(1)
        until = a.now + 10.0
        while a.now < until:  # B is away: whatever comes is answered by wait
            for copy in out:
                assert isinstance(copy, LinkMessage)
                a.hear(wait(copy.seq))
            a.now = min(a.link.next_timer(a.now), until)
            out = a.turn()
    assert [end[1:] for end in a.heard()] == [("expired", True)] * 10
    assert a.link.idle and a.link.has_room(1)


# --- the rest of the promises --------------------------------------------------------------------------


def test_while_held_one_number_knocks() -> None:
    """Should `peer` have been lost, a knock finds out; each is answered by another wait."""
    a = End()
    a.send(b"1", b"2")
    a.hear(wait(1))
    a.hear(wait(2))
    knocks = []
    for _ in range(3):
        a.now = a.link.next_timer(a.now)
        while not (out := a.turn()):
            a.now = a.link.next_timer(a.now)
        assert seqs(out) == [1]
        knocks.append(a.now)
        a.hear(wait(1))
    assert knocks[0] <= 2.5 and knocks[2] - knocks[1] > knocks[1] - knocks[0]


def test_the_wait_that_answers_a_probe_is_no_copys() -> None:
    """A number of which a copy may be somewhere must not be called lost for certain."""
    a = End()
    a.send(b"1", expires=5.0)
    a.hear(Wait(to="B", run=RUN, seq=2, probe=True))
    a.at(6.0)
    assert a.heard() == [] and a.link.unsettled == 1


def test_an_acknowledgement_lifts_a_hold() -> None:
    """The wait answered a copy from before; a later one arrived: nothing stands for it."""
    a = End()
    a.send(b"1")
    a.hear(wait(1))
    a.hear(ack(1))
    assert seqs(a.send(b"2")) == [2]


def test_a_receiver_that_asks_is_there() -> None:
    a = End()
    a.send(b"1", b"2")
    a.hear(wait(1))
    assert seqs(a.hear(ack(0, want=True))) == [1, 2]


def test_credit_that_shrank_is_waited_for_not_fought() -> None:
    """A server with a smaller window refuses 5: sending it again at once would be a loop over the network."""
    a = End()
    a.send(b"1", b"2")
    for _ in range(3):
        assert a.hear(Error(code="credit", to="B", lane="messages", run=RUN, seq=2)) == []
    assert a.heard() == []
    a.hear(message(1))
    a.link.adapt(1, 100, False)
    assert not a.link.has_room(1)
    assert seqs(a.hear(message(3))) == [] and seqs(a.hear(message(2))) == []
    assert [seq for seq in a.heard() if isinstance(seq, int)] == [1, 2], "3 lies beyond the window now"


def test_a_new_connection_sends_again_from_what_has_arrived() -> None:
    a = End()
    a.send(b"1", b"2", b"3")
    a.hear(ack(0, received=2))
    a.down()
    assert a.send(b"4") == [] and a.at(100.0) == []
    assert seqs(a.up())[:2] == [3, 4]


def test_the_peers_states_are_told_once_each() -> None:
    a = End()
    for peer in (
        here(),
        here(),
        Peer(client_id="B", state="reconnecting"),
        Peer(client_id="B", state="dreaming"),
    ):
        a.hear(peer)
    a.hear(Peer(client_id="B", state="away"))
    assert a.heard() == [
        PeerChanged(PeerState.HERE, False),
        PeerChanged(PeerState.RECONNECTING, False),
        PeerChanged(PeerState.AWAY, False),
    ]


def test_acknowledgements_ride_on_reverse_traffic_of_their_lane() -> None:
    b = End()
    one = message(1)
    b.hear(one)
    b.finish(one)
    assert not b.link.idle
    (other,) = b.send(b"x", lane="bulk")
    (reply,) = b.send(b"x")
    assert isinstance(reply, LinkMessage) and isinstance(other, LinkMessage)
    assert (reply.ack_run, reply.ack, other.ack_run) == (PEER_RUN, 1, 0)
    assert b.at(0.1) == []
    a = End()
    a.send(b"1")
    a.hear(message(1, ack_run=RUN, ack=1))
    assert (1, "delivered", True) in a.heard()
    a.hear(message(2, ack_run=RUN, ack=1, lane="bulk"))
    a.hear(message(2, ack_run=6, ack=1))


def test_what_was_acknowledged_on_other_paths_is_reported_to_the_server() -> None:
    """Within a second, so that a restart does not replay it."""
    b = End()
    b.hear(message(1))
    b.prove()
    two = message(2)
    b.hear(two, "d1")
    b.finish(message(1))
    b.finish(two)
    b.said.clear()
    b.at(0.02 + REPORT)
    words = [(path, one.seq, one.limit > 0) for path, one in b.said if isinstance(one, Ack)]
    assert words == [("d1", 2, True), (SERVER, 2, False)]


def test_a_cursor_that_rode_on_a_data_channel_is_reported_to_the_server_too() -> None:
    """It rides on a message, the data channel dies with it, and nothing more is to be said: the mailbox,
    which has handed over a window and waits for an acknowledgement, would wait for ever."""
    b = End()
    b.hear(message(1))
    b.prove()
    b.said.clear()
    b.finish(message(1))
    (riding,) = b.send(b"1")
    assert isinstance(riding, LinkMessage) and riding.ack == 1 and b.said[-1][0] == "d1"
    b.down("d1")
    b.said.clear()
    b.at(b.now + REPORT)
    assert [(path, m.seq) for path, m in b.said if isinstance(m, Ack)] == [(SERVER, 1)]


def test_acknowledgements_find_another_way_when_theirs_is_gone() -> None:
    b = End()
    b.hear(message(1))
    b.prove()
    two = message(2)
    b.hear(two, "d1")
    b.finish(message(1))
    b.finish(two)
    b.said.clear()
    b.down("d1")
    b.at(0.1)
    assert [path for path, _ in b.said] == [SERVER]
    three = message(3)
    b.hear(three)
    b.finish(three)
    b.down()
    assert b.at(100.0) == [], "or wait until there is one"
    assert seqs(b.up()) == ["ack"]


def test_leaving_does_not_let_acknowledgements_wait() -> None:
    b = End()
    assert not b.link.owes_acks
    one = message(1)
    b.hear(one)
    b.finish(one)
    b.hear(message(1, lane="bulk"))
    assert b.link.owes_acks
    b.link.hurry(b.now)
    assert seqs(b.turn()) == ["ack"]


def test_giving_up_names_every_number() -> None:
    a = End()
    a.send(b"1")
    a.send(b"2", lane="bulk")
    assert [(end.entry.seq, end.reason) for end in a.link.abandon("closed")] == [(1, "closed"), (1, "closed")]
    assert a.link.unsettled == 0 and a.link.next_timer(0.0) <= 2.0
    assert a.at(5.0) == [] and a.link.next_timer(5.0) == inf


def test_a_long_probing_sender_asks_the_server_too() -> None:
    """The data channel may be the very thing that is broken."""
    a = End()
    a.prove()
    a.send(b"1")
    a.said.clear()
    for now in (2.0, 6.0):
        a.now = now
        a.hear(Pong(id=3), "d1")
        a.at(now)
    assert {path for path, one in a.said if isinstance(one, Probe)} == {"d1", SERVER}
    a.hear(wait(1))
    a.said.clear()
    a.at(14.5)
    assert SERVER not in {path for path, one in a.said if isinstance(one, Probe)}, "held: a knock asks"


def test_a_probe_is_answered_where_it_came_from() -> None:
    b = End()
    b.hear(message(1))
    b.prove()
    b.said.clear()
    b.hear(Probe(run=PEER_RUN, seq=1, base=1), "d1")
    assert [(path, type(one)) for path, one in b.said] == [("d1", Ack)]


def test_pings_are_answered_on_their_path() -> None:
    b = End()
    b.hear(Ping(id=4), "d9")
    assert b.said[-1] == ("d9", Pong(id=4))
    b.hear(Pong(id=1), "d9")


def test_stored_numbers_are_told_and_not_sent_again() -> None:
    a = End()
    a.send(b"1", b"2")
    a.hear(Stored(to="B", run=RUN, seq=1))
    (event,) = a.events
    assert event.entry.seq == 1
    a.down()
    assert seqs(a.up())[:1] == [2]


@pytest.mark.parametrize(
    "stray",
    [
        Ack(run=6, seq=1),
        Ack(run=RUN, seq=1, lane="bulk"),
        Wait(to="B", run=6, seq=1),
        Wait(to="B", run=RUN, seq=1, lane="bulk"),
        Stored(to="B", run=6, seq=1),
        Stored(to="B", run=RUN, seq=1, lane="bulk"),
        Error(code="refused", to="B", run=6, seq=1),
        Error(code="refused", to="B", run=RUN, seq=1, lane="bulk"),
        Error(code="refused", to="B", run=RUN),
        LinkMessage(run=PEER_RUN, seq=1, base=1, lane="fast"),
        Probe(run=PEER_RUN, seq=1, base=1, lane="fast"),
        LinkMessage(run=2, seq=1, base=1, ack_run=RUN, ack=0),
        Wait(to="B", run=RUN, seq=1, probe=True, lane="other"),
    ],
    ids=lambda stray: type(stray).__name__,
)
def test_what_is_of_another_run_or_lane_changes_nothing(stray: Message) -> None:
    a = End()
    a.hear(message(1))
    a.send(b"1")
    a.heard()
    a.hear(stray)
    assert a.heard() == [] and a.link.unsettled == 1
    assert seqs(a.send(b"2")) == [2]


def test_a_message_that_is_no_link_message_is_ignored_from_the_server() -> None:
    a = End()
    assert a.hear(Signal(data=Raw(b"1"))) == [] and a.heard() == []


def test_an_unknown_lane_is_the_callers_mistake() -> None:
    a = End()
    with pytest.raises(ValueError, match="messages, bulk, not 'fast'"):
        a.link.submit(Raw(b"1"), lane="fast")
    with pytest.raises(ValueError, match="not 'fast'"):
        a.link.has_room(1, "fast")


def test_limits_are_the_default() -> None:
    link = Link("B", RUN)
    assert (link.window, link.window_bytes) == (limits.WINDOW, limits.WINDOW_BYTES)
