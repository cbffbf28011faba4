"""A client's session: connecting and coming back, commands, and what a server cannot make it do."""

from math import inf
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from duolink.protocol import codec, limits
from duolink.protocol.codes import CloseCode, ErrorCode
from duolink.protocol.commands import TooManyCommands
from duolink.protocol.events import (
    TRANSITIONS,
    Answered,
    Carry,
    Close,
    FromLink,
    Open,
    ProtocolTrouble,
    SignalReceived,
    State,
    StateChanged,
)
from duolink.protocol.link import Lost, PathFailed, PeerChanged, Received, Settled, Stored
from duolink.protocol.messages import (
    Ack,
    Ephemeral,
    Error,
    Goodbye,
    HeartbeatSettings,
    Hello,
    History,
    HistoryPage,
    Limits,
    LinkMessage,
    Message,
    Peer,
    Ping,
    Pong,
    PresenceList,
    PresenceQuery,
    Publication,
    Publish,
    Published,
    Refresh,
    Refreshed,
    Signal,
    Skip,
    Subscribe,
    Subscribed,
    Wait,
    Watch,
    Welcome,
)
from duolink.protocol.messages import Stored as StoredMessage
from duolink.protocol.options import Options
from duolink.protocol.paths import PathKind
from duolink.protocol.payload import Send, payloads
from duolink.protocol.session import NotOnlineYet, Session, TooManyLinks
from duolink.protocol.subscriptions import ChannelJoined, ChannelRefused

RUN = 7
WELCOME = Welcome(
    client_id="alice",
    session="s1",
    secret="x1",
    generation=1,
    attachment=1,
    run=RUN,
    resumed=False,
    durable=False,
    heartbeat=HeartbeatSettings(30_000, 10_000, 3),
    limits=Limits(65_536, 1_048_576, 128, 256, 8, 65_536),
    time=0,
)


class Client:
    """A session under a driver's hands, with dice that always show one half."""

    def __init__(self, *, online: bool = True, **options: Any) -> None:
        self.now = 0.0
        self.session = Session("alice", random=lambda: 0.5, options=Options(**options))
        self.events: list[Any] = []
        self.actions: list[Any] = []
        if online:
            self.start()
            self.opened()
            self.welcome()
            self.forget()

    def turn(self) -> list[Message]:
        """Take the actions and the events; returns the messages that were sent."""
        actions = self.session.take(self.now)
        self.actions += actions
        self.events += self.session.events()
        sent: list[Message] = []
        for action in actions:
            if isinstance(action, Send):
                decode = codec.CLIENT.binary if action.binary else codec.CLIENT.text
                sent += decode(action.payload)
        return sent

    def forget(self) -> None:
        self.events.clear()
        self.actions.clear()

    def start(self) -> None:
        self.session.start(self.now)
        self.turn()

    def opened(self) -> Hello:
        self.session.opened("t", self.now)
        (hello,) = self.turn()
        assert isinstance(hello, Hello)
        return hello

    def welcome(self, **changes: Any) -> list[Message]:
        return self.hear(msgspec.structs.replace(WELCOME, **changes))

    def hear(self, *messages: Message) -> list[Message]:
        self.session.received(b"\n".join(codec.encode(message) for message in messages), False, self.now)
        return self.turn()

    def lost(self, code: int = 1006) -> None:
        self.session.lost(code, "", self.now)
        self.turn()

    def at(self, now: float) -> list[Message]:
        """Let time pass, heeding every timer."""
        sent: list[Message] = []
        while (timer := self.session.next_timer(self.now)) <= now:
            assert timer >= self.now
            self.now = timer
            sent += self.turn()
        self.now = now
        return sent + self.turn()

    def back(self, **changes: Any) -> Hello:
        """The connection is lost; the next attempt succeeds."""
        self.lost()
        while not any(isinstance(action, Open) for action in self.actions):
            self.at(self.session.next_timer(self.now))
        hello = self.opened()
        self.welcome(resumed=True, attachment=2, secret="x2", **changes)
        return hello

    def states(self) -> list[State]:
        return [event.state for event in self.events if isinstance(event, StateChanged)]

    def link_events(self) -> list[Any]:
        return [event.event for event in self.events if isinstance(event, FromLink)]


# --- connecting ------------------------------------------------------------------------------------------


def test_every_state_can_be_left_only_as_the_table_says() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(State.CLOSED in after for before, after in TRANSITIONS.items() if before is not State.CLOSED)
    assert not TRANSITIONS[State.CLOSED]


def test_hello_then_welcome_then_online() -> None:
    client = Client(online=False)
    client.start()
    assert client.actions == [Open()]
    hello = client.opened()
    assert (hello.protocol, hello.client_id, hello.token, hello.run, hello.session) == (
        1,
        "alice",
        "t",
        0,
        "",
    )
    client.welcome()
    assert client.states() == [State.CONNECTING, State.ONLINE]
    assert client.session.run == RUN


@pytest.mark.parametrize("name", ["", "@bob", "$server", "a\n", "a" * 129])
def test_an_impossible_name_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a client id"):
        Session(name, random=lambda: 0.5)


def test_a_first_connect_gives_up_after_five_tries() -> None:
    client = Client(online=False)
    client.start()
    delays = []
    for _ in range(4):
        begin = client.now
        client.lost()
        client.at(client.session.next_timer(client.now))
        delays.append(client.now - begin)
    client.lost()
    assert delays == [0.5, 1.0, 2.0, 4.0]
    assert client.events[-1] == StateChanged(State.CLOSED, 1006, "unreachable")


def test_a_session_that_was_online_never_gives_up() -> None:
    client = Client()
    for _ in range(50):
        client.lost()
        client.at(client.now + 31)
    assert client.session.state is State.OFFLINE
    client.opened()
    client.welcome(resumed=False)
    assert client.states() == [State.RECONNECTING, State.OFFLINE, State.ONLINE]


def test_the_delay_grows_to_its_cap_and_begins_anew_after_ten_stable_seconds() -> None:
    client = Client()
    delays = []
    for online in (1.0, 1.0, 9.5, 10.0):
        client.now += online
        client.lost()
        begin = client.now
        client.at(client.session.next_timer(begin))
        delays.append(client.now - begin)
        client.opened()
        client.welcome()
    assert delays == pytest.approx([0.5, 1.0, 2.0, 0.5])


@pytest.mark.parametrize("code", [1002, 1008, 3500, 3501, 3502, 3505, 4000])
def test_a_terminal_code_ends_everything(code: int) -> None:
    client = Client()
    client.lost(code)
    assert client.events == [StateChanged(State.CLOSED, code)]
    assert client.session.next_timer(client.now) == inf


def test_no_welcome_in_time_is_a_failed_attempt() -> None:
    client = Client(online=False, hello_timeout=3.0)
    client.start()
    client.opened()
    client.at(3.0)
    assert Close(CloseCode.HELLO_TIMEOUT, "no welcome") in client.actions
    assert client.session.state is State.CONNECTING


def test_a_goodbye_that_is_final_counts_where_the_transport_has_no_code() -> None:
    """TCP ends with 1006, and so does a proxy's."""
    client = Client()
    client.hear(Goodbye(code=CloseCode.DISCONNECTED))
    client.lost(1006)
    assert client.states() == [State.CLOSED]
    other = Client()
    other.hear(Goodbye(code=CloseCode.DISCONNECTED))
    other.lost(1001)
    assert other.states() == [State.RECONNECTING], "a transport that has a code knows better"


def test_history_20_the_welcome_with_the_rotated_secret_is_lost() -> None:
    """The server has rotated, the client never heard: it presents the previous secret, and its run."""
    client = Client()
    client.now = 20.0
    assert client.back().secret == "x1"
    client.lost()
    client.at(client.now + 2)
    hello = client.opened()
    assert (hello.session, hello.secret, hello.run) == ("s1", "x2", RUN)
    client.lost()  # this welcome never came
    client.at(client.now + 5)
    assert client.opened().secret == "x2"


def test_history_20_a_token_that_expired_is_asked_for_anew() -> None:
    """Each attempt brings its own token: 3003 comes back, with what the driver then has."""
    client = Client()
    client.lost(CloseCode.TOKEN_EXPIRED)
    client.at(5)
    client.session.opened("fresh", client.now)
    (hello,) = client.turn()
    assert isinstance(hello, Hello) and hello.token == "fresh"


def test_history_21_the_loser_of_a_duplicate_does_not_come_back() -> None:
    """A terminal code, and the word for it, so that hello loops are nobody's load."""
    client = Client(online=False)
    client.start()
    client.opened()
    client.hear(Error(code=ErrorCode.DUPLICATE, fatal=True))
    client.lost(CloseCode.DUPLICATE)
    assert client.events[-1] == StateChanged(State.CLOSED, 3501, "", "duplicate")


@pytest.mark.parametrize("spread", [0, 4_000, 60_000])
def test_history_26_everybody_comes_back_but_not_at_once(spread: int) -> None:
    """A node restarts: `reconnect_spread` of the welcome holds for a connection that ends without a word."""
    client = Client(online=False)
    client.start()
    client.opened()
    client.welcome(reconnect_spread=spread)
    client.lost()
    assert client.session.next_timer(client.now) == max(0.5, spread / 2000)


def test_history_26_overloaded_waits_as_long_as_it_was_told() -> None:
    client = Client(online=False)
    client.start()
    client.opened()
    client.hear(Error(code="overloaded", retry_after=9_000, fatal=True))
    client.lost(CloseCode.OVERLOADED)
    client.session.network_changed(client.now)
    assert client.session.next_timer(client.now) == 9.0


def test_a_network_that_is_back_does_not_wait_for_the_backoff() -> None:
    client = Client()
    client.lost()
    client.now = 0.1
    client.session.network_changed(client.now)
    client.turn()
    assert Open() in client.actions
    client.session.network_changed(client.now)
    assert client.session.next_timer(client.now) >= 30.0, "an attempt under way is left alone"


def test_a_network_that_is_called_back_too_early_is_tried_again_soon() -> None:
    """Browsers fire `online` before the network has an address; the attempt it leads to fails."""
    client = Client()
    client.lost()
    for _ in range(6):
        client.at(client.session.next_timer(client.now))
        client.lost()
    assert client.session.next_timer(client.now) > client.now + 10
    client.session.network_changed(client.now)
    client.turn()
    client.lost()
    assert client.session.next_timer(client.now) < client.now + 1
    client.at(client.session.next_timer(client.now))
    client.session.network_changed(client.now)  # while an attempt of before is under way
    client.lost()
    assert client.session.next_timer(client.now) < client.now + 1


def test_a_first_connect_counts_its_tries_from_the_last_change_of_the_network() -> None:
    client = Client(online=False)
    client.start()
    for _ in range(4):
        client.lost()
        client.at(client.session.next_timer(client.now))
    client.session.network_changed(client.now)
    for _ in range(4):
        client.lost()
        assert client.states() == [State.CONNECTING]
        client.at(client.session.next_timer(client.now))
    client.lost()
    assert client.states() == [State.CONNECTING, State.CLOSED]


def test_a_server_that_changes_the_run_is_not_believed() -> None:
    client = Client()
    client.back(run=8)
    assert client.session.state is State.CLOSED
    assert ProtocolTrouble("run", "the server changed this process's run") in client.events


def test_a_server_that_takes_small_messages_may_say_large_ones() -> None:
    """An acknowledgement with many losses, what others have published."""
    client = Client(online=False)
    client.start()
    client.opened()
    client.welcome(limits=Limits(1024, 1_048_576, 128, 256, 8, 65_536))
    client.hear(LinkMessage(run=3, seq=1, base=1, sender="bob", data=msgspec.Raw(b'"%b"' % (b"x" * 5000))))
    assert not [event for event in client.events if isinstance(event, ProtocolTrouble)]
    assert [event for event in client.events if isinstance(event, FromLink)]


def test_a_second_welcome_changes_nothing() -> None:
    client = Client()
    client.welcome(session="other")
    assert client.session.welcome is not None and client.session.welcome.session == "s1"


# --- heartbeat -------------------------------------------------------------------------------------------


def test_history_22_a_silent_server_is_lost_within_the_formula() -> None:
    """3 × 30 + 10 s; then 30 s in which the session lives on."""
    client = Client()
    sent = client.at(99.9)
    assert [type(one) for one in sent] == [Ping] * 3
    client.at(100.0)
    assert Close(CloseCode.HEARTBEAT_LOST, "the server does not answer") in client.actions
    client.at(129.9)
    assert client.states() == [State.RECONNECTING]
    client.at(130.0)
    assert client.states() == [State.RECONNECTING, State.OFFLINE]


def test_history_22_after_a_sleep_the_server_has_one_chance() -> None:
    """The clocks diverged: a ping at once, and 10 s."""
    client = Client()
    client.now = 4000.0
    client.session.network_changed(client.now)
    assert [type(one) for one in client.turn()] == [Ping]
    client.at(4010.0)
    assert client.states() == [State.RECONNECTING]


def test_anything_from_the_server_is_a_sign_of_life() -> None:
    client = Client()
    client.now = 29.0
    client.session.alive(client.now)
    assert client.at(58.9) == []
    client.hear(Pong())
    assert client.at(88.8) == []


@pytest.mark.parametrize("beat", [(0, 0, 0), (1000, 5000, 1), (2**53 - 1, 0, 1), (1, 1, 2**53 - 1)])
def test_no_heartbeat_a_server_may_name_breaks_the_client(beat: tuple[int, int, int]) -> None:
    client = Client(online=False)
    client.start()
    client.opened()
    client.welcome(heartbeat=HeartbeatSettings(*beat))
    assert client.session.state is State.ONLINE
    assert client.session.next_timer(client.now) >= client.now + 0.1, "and does not make it spin"


def test_numbered_messages_before_the_welcome_are_dropped() -> None:
    """They come again; a link without a run could not take them."""
    client = Client(online=False)
    client.start()
    client.opened()
    client.hear(from_bob(1))
    client.welcome()
    assert client.link_events() == [] and not client.session.links


def test_the_servers_own_limit_of_a_message_counts() -> None:
    large = Signal(sender="bob", data=Raw(b'"' + b"x" * limits.MAX_MESSAGE + b'"'))
    for allowed, heard in ((limits.MAX_MESSAGE, ProtocolTrouble), (2 * limits.MAX_MESSAGE, SignalReceived)):
        client = Client(online=False)
        client.start()
        client.opened()
        client.welcome(limits=msgspec.structs.replace(WELCOME.limits, message=allowed))
        client.hear(large)
        assert type(client.events[-1]) is heard
    client.now = 20.0
    client.back()
    client.hear(large)
    assert type(client.events[-1]) is ProtocolTrouble, "the next server has the default again"


def test_pings_are_answered_but_not_before_the_welcome() -> None:
    client = Client(online=False)
    client.start()
    client.opened()
    assert client.hear(Ping(id=1)) == []
    client.welcome()
    assert client.hear(Ping(id=2)) == [Pong(id=2)]


# --- links -----------------------------------------------------------------------------------------------


def from_bob(seq: int, **how: Any) -> LinkMessage:
    return LinkMessage(run=3, seq=seq, base=1, sender="bob", data=Raw(b"1"), **how)


def test_links_need_a_run() -> None:
    client = Client(online=False)
    with pytest.raises(NotOnlineYet):
        client.session.link("bob")


@pytest.mark.parametrize("peer", ["", "alice", "@", "$other", "a\n"])
def test_what_cannot_be_the_other_end(peer: str) -> None:
    client = Client()
    with pytest.raises(ValueError, match="cannot be the other end"):
        client.session.link(peer)
    assert client.session.link("$server") is client.session.link("$server")


def test_numbers_are_never_given_twice_whoever_writes() -> None:
    """Links are not forgotten to make room: the next number to an old peer would be 1 again, and be dropped
    as a repeat. Strangers are refused instead."""
    client = Client()
    for number in range(limits.MAX_LINKS):
        client.session.link(f"peer{number}")
    with pytest.raises(TooManyLinks):
        client.session.link("one more")
    client.hear(from_bob(1))
    assert [type(event) for event in client.events] == [ProtocolTrouble]


def test_a_strangers_message_makes_a_link_a_verdict_does_not() -> None:
    client = Client()
    client.hear(
        Ack(run=RUN, seq=1, sender="carol"),
        Wait(to="dave", run=RUN, seq=1),
        Peer(client_id="erin", state="here"),
    )
    assert not client.session.links
    client.hear(from_bob(1))
    (event,) = client.link_events()
    assert isinstance(event, Received) and list(client.session.links) == ["bob"]


def test_what_comes_for_the_user_is_numbered_by_itself() -> None:
    """Bob writes to alice's client and to her user, and both begin with 1; so does what she herself sends to
    all her clients."""
    client = Client()
    client.hear(from_bob(1), from_bob(1, user="@alice"))
    own = from_bob(1, user="@alice")
    own.sender = "alice"
    client.hear(own)
    got = [event for event in client.events if isinstance(event, FromLink)]
    assert [(event.peer, event.user) for event in got] == [
        ("bob", ""),
        ("bob", "@alice"),
        ("alice", "@alice"),
    ]
    for event in got:
        assert isinstance(event.event, Received)
        client.session.link(event.peer, event.user).finish(event.event.message, client.now)
        client.session.touch(client.session.link(event.peer, event.user))
    acks = [one for one in client.at(1.0) if isinstance(one, Ack)]
    assert sorted((one.to, one.user, one.seq) for one in acks) == [
        ("alice", "@alice", 1),
        ("bob", "", 1),
        ("bob", "@alice", 1),
    ]


def test_a_loss_for_the_user_is_told_as_that() -> None:
    client = Client()
    client.hear(Skip(run=3, seq=1, last=1, base=1, reason="expired", sender="bob", user="@alice"))
    (event,) = [event for event in client.events if isinstance(event, FromLink)]
    assert isinstance(event.event, Lost) and event.user == "@alice"


def test_a_user_is_sent_to_and_answers_with_his_name() -> None:
    client = Client()
    link = client.session.link("@bob")
    link.submit(Raw(b"1"))
    client.session.touch(link)
    (sent,) = client.turn()
    assert isinstance(sent, LinkMessage) and sent.to == "@bob"
    client.hear(StoredMessage(to="@bob", run=RUN, seq=1), Ack(run=RUN, seq=1, sender="@bob"))
    assert [type(event) for event in client.link_events()] == [Stored, Settled]


def test_a_link_learns_at_each_welcome_whether_the_server_stores() -> None:
    client = Client()
    link = client.session.link("bob")
    assert not link.durable
    client.back(durable=True)
    assert link.durable and client.session.link("carol").durable
    link.submit(Raw(b"1"))
    client.session.touch(link)
    client.turn()
    assert [one.store for one in client.at(client.now + 0.3) if isinstance(one, LinkMessage)] == [True]
    client.back(durable=False)
    assert not link.durable


def test_a_message_from_nobody_is_trouble_not_an_exception() -> None:
    client = Client()
    client.hear(LinkMessage(run=3, seq=1, base=1, data=Raw(b"1")))
    assert [type(event) for event in client.events] == [ProtocolTrouble]


def test_a_link_lives_through_connections() -> None:
    client = Client()
    link = client.session.link("bob")
    link.submit(Raw(b"1"))
    client.session.touch(link)
    (first,) = client.turn()
    client.lost()
    link.submit(Raw(b"2"))
    client.session.touch(link)
    assert client.turn() == []
    client.at(0.5)
    client.opened()
    assert [one.seq for one in client.welcome() if isinstance(one, LinkMessage)] == [1, 2]
    client.hear(Ack(run=RUN, seq=2, sender="bob"))
    assert [type(event) for event in client.link_events()] == [Settled, Settled]
    assert isinstance(first, LinkMessage)


def test_a_link_made_offline_waits_for_the_connection() -> None:
    client = Client()
    client.lost()
    link = client.session.link("bob")
    link.submit(Raw(b"1"))
    client.session.touch(link)
    assert client.turn() == []
    client.at(0.5)
    client.opened()
    assert [one.seq for one in client.welcome() if isinstance(one, LinkMessage)] == [1]


def test_a_smaller_window_of_the_next_server_is_heeded() -> None:
    client = Client()
    link = client.session.link("bob")
    client.now = 20
    client.back(limits=Limits(65_536, 1_048_576, 5, 256, 1, 10))
    link.submit(Raw(b"1"))
    assert not link.has_room(1)
    assert client.session.subscriptions.maximum == 5


def test_history_30_the_server_forgot_everybody_and_nothing_is_refused() -> None:
    """A reconnects before B; B's name means nothing to the fresh node: wait, until `peer` says here."""
    client = Client()
    link = client.session.link("bob")
    link.submit(Raw(b"1"))
    client.session.touch(link)
    client.turn()
    client.now = 15.0
    client.back(session="s2", generation=9)
    client.forget()
    client.hear(Wait(to="bob", run=RUN, seq=1))
    assert client.link_events() == []
    here = Peer(client_id="bob", state="here", run=3, generation=1, attachment=1)
    assert [one.seq for one in client.hear(here) if isinstance(one, LinkMessage)] == [1]


def test_a_refusal_of_a_number_goes_to_its_link() -> None:
    client = Client()
    link = client.session.link("bob")
    link.submit(Raw(b"1"))
    client.session.touch(link)
    client.turn()
    client.hear(Error(code="forbidden", to="bob", run=RUN, seq=1))
    (event,) = client.link_events()
    assert isinstance(event, Settled) and event.reason == "refused"
    client.hear(Error(code="forbidden", to="nobody", run=RUN, seq=1))


def test_a_watched_peer_is_heard_of_without_a_word_to_it() -> None:
    client = Client()
    client.session.watch("bob")
    client.session.watch("bob")
    assert client.turn() == [Watch(id=1, clients=["bob"])]
    client.hear(Peer(client_id="bob", state="here", run=3))
    (event,) = client.link_events()
    assert isinstance(event, PeerChanged)
    client.session.unwatch("bob")
    client.session.unwatch("bob")
    assert client.turn() == [Watch(id=2, clients=[])]


def test_a_watched_peer_before_the_welcome_is_no_exception() -> None:
    client = Client(online=False)
    client.session.watch("bob")
    client.start()
    assert client.opened().watch == ["bob"]
    client.hear(Peer(client_id="bob", state="here", run=3))
    assert client.link_events() == []


# --- data channels ---------------------------------------------------------------------------------------


def test_other_paths_carry_what_the_link_sends_on_them() -> None:
    client = Client()
    client.session.path_up("bob", "d1", PathKind.DIRECT, client.now)
    client.turn()
    (carried,) = client.actions
    assert carried == Carry("bob", "d1", codec.encode(Ping(id=1)), False)
    client.session.received_on("bob", "d1", b'{"type":"pong","id":1}', False, client.now)
    assert client.session.links["bob"].paths["d1"].answers == 1
    client.session.path_down("bob", "d1")
    client.session.path_down("carol", "d1")
    client.session.received_on("bob", "d1", b'{"type":"pong","id":2}', False, client.now)
    client.session.received_on("carol", "d1", b'{"type":"ping"}', False, client.now)
    assert "d1" not in client.session.links["bob"].paths


@pytest.mark.parametrize("payload", [b'{"type":"welcome"}', b"nonsense", b'{"type":"ping"}\n\xff'])
def test_history_14_a_peer_that_says_what_it_may_not_loses_its_path(payload: bytes) -> None:
    client = Client()
    client.session.path_up("bob", "d1", PathKind.DIRECT, client.now)
    client.session.received_on("bob", "d1", payload, False, client.now)
    client.turn()
    assert any(isinstance(event, PathFailed) for event in client.link_events())


def test_bytes_come_on_data_channels_too() -> None:
    client = Client()
    client.hear(from_bob(1))
    client.session.path_up("bob", "d1", PathKind.DIRECT, client.now)
    data = codec.encode_binary(LinkMessage(run=3, seq=2, base=1, binary=True, data=Raw(b"\xff")))
    client.session.received_on("bob", "d1", data, True, client.now)
    client.turn()
    assert [bytes(event.message.data) for event in client.link_events() if isinstance(event, Received)] == [
        b"1",
        b"\xff",
    ]


# --- commands --------------------------------------------------------------------------------------------


def test_commands_are_answered_once_over_as_many_connections_as_it_takes() -> None:
    client = Client()
    client.session.command(Publish(id=0, channel="c", key="k", data=Raw(b"1")), "mine", client.now)
    (publish,) = client.turn()
    assert isinstance(publish, Publish) and publish.age == 0
    client.now = 5.0
    client.lost()
    client.at(6.0)
    client.opened()
    (again,) = client.welcome()
    assert isinstance(again, Publish) and (again.id, again.key, again.age) == (publish.id, "k", 6000)
    client.hear(Published(id=1, epoch="e", offset=4), Published(id=1, epoch="e", offset=4))
    assert [event.context for event in client.events if isinstance(event, Answered)] == ["mine"]


def test_a_publish_given_offline_is_new_when_it_is_first_sent() -> None:
    """Its age counts from the first attempt: an hour offline does not make it `uncertain`."""
    client = Client()
    client.lost()
    client.session.command(Publish(id=0, channel="c", key="k", data=Raw(b"1")), "mine", client.now)
    client.at(3600.0)
    client.opened()
    (publish,) = client.welcome()
    assert isinstance(publish, Publish) and publish.age == 0


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (Refresh(id=0, token="t"), Refreshed(id=1, expires=5)),
        (PresenceQuery(id=0, channel="c"), PresenceList(id=1, channel="c", clients=["a"])),
        (History(id=0, channel="c"), HistoryPage(id=1, channel="c", epoch="e", offset=4)),
        (History(id=0, channel="c"), Error(code="forbidden", id=1)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_each_command_has_its_answer(command: Any, answer: Message) -> None:
    client = Client()
    client.session.command(command, "mine", client.now)
    client.hear(answer)
    assert Answered("mine", answer) in client.events


def test_a_history_answer_is_whole_or_begins_again() -> None:
    """Cut in the middle of a page: the next connection asks again, and no publication is told twice."""
    client = Client()
    page = HistoryPage(id=1, channel="c", epoch="e", offset=9, count=2)
    entries = [Publication(channel="c", offset=offset, page=1, data=Raw(b"1")) for offset in (8, 9)]
    client.session.command(History(id=0, channel="c"), "mine", client.now)
    client.turn()
    client.hear(entries[0])  # without its page: nothing
    client.hear(page, entries[0])
    client.now = 15.0
    client.back()
    client.hear(page, *entries)
    (answered,) = [event for event in client.events if isinstance(event, Answered)]
    assert [one.offset for one in answered.publications] == [8, 9]
    client.hear(page, *entries)
    assert len([event for event in client.events if isinstance(event, Answered)]) == 1


def test_nobody_hears_an_answer_that_was_given_up() -> None:
    client = Client()
    client.session.command(Refresh(id=0, token="t"), "mine", client.now)
    client.session.command(Refresh(id=0, token="t"), "other", client.now)
    client.session.commands.forget("mine")
    client.hear(Refreshed(id=1), Refreshed(id=2))
    assert [event.context for event in client.events] == ["other"]


def test_commands_without_an_answer_are_bounded() -> None:
    client = Client()
    for _ in range(limits.MAX_PENDING):
        client.session.command(Refresh(id=0, token="t"), None, client.now)
    with pytest.raises(TooManyCommands):
        client.session.command(Refresh(id=0, token="t"), None, client.now)


# --- channels --------------------------------------------------------------------------------------------


def test_history_19_an_answer_of_an_earlier_beginning_is_dropped() -> None:
    """Unsubscribed and subscribed again while the engine was still at the first: ids tell them apart."""
    client = Client()
    channels = client.session.subscriptions
    for wanted in (True, False, True):
        if wanted:
            channels.want("news")
        else:
            channels.drop("news")
        client.turn()
    client.hear(Subscribed(channel="news", epoch="e", offset=1, id=1))
    assert client.events == []
    client.hear(Subscribed(channel="news", epoch="e", offset=9, id=3))
    assert client.events == [ChannelJoined("news", "e", 9, False, None)]


def test_a_channel_that_cannot_be_served_now_is_asked_for_after_a_while() -> None:
    client = Client()
    client.session.subscriptions.want("news")
    client.turn()
    client.hear(Error(code="unavailable", channel="news", id=1, retry_after=2_000))
    assert client.events == []
    sent = client.at(2.0)
    assert [len(one.channels) for one in sent if isinstance(one, Subscribe)] == [0, 1]
    client.hear(Error(code="forbidden", channel="news", id=99))
    assert client.events == []
    client.hear(Error(code="forbidden", channel="news", id=3))
    assert [type(event) for event in client.events] == [ChannelRefused]


def test_a_hello_that_would_be_too_large_says_the_rest_after_the_welcome() -> None:
    """128 channels, 256 peers and a token, each within its limit, are more than one message."""
    client = Client(online=False)
    for number in range(256):
        client.session.watch(f"{number:03}" + "w" * 125)
    client.start()
    assert len(client.opened().watch) == 256  # type: ignore[arg-type]
    client.lost()
    client.at(5)
    for number in range(128):
        client.session.subscriptions.want(f"{number:03}" + "c" * 252)
    hello = client.opened()
    assert hello.watch is msgspec.UNSET and len(hello.subscriptions) == 128  # type: ignore[arg-type]
    assert [type(one) for one in client.welcome()] == [Watch]


def test_a_hello_too_large_for_its_channels_says_them_after_the_welcome() -> None:
    client = Client(online=False)
    for number in range(128):
        client.session.subscriptions.want(f"{number:03}" + '"' * 252, epoch="e" * 64, offset=2**50)
    client.start()
    hello = client.opened()
    assert hello.subscriptions == [] and len(codec.encode(hello)) < limits.MAX_MESSAGE


# --- the rest --------------------------------------------------------------------------------------------


def test_at_most_once_is_sent_now_or_not_at_all() -> None:
    client = Client()
    assert client.session.send(Signal(to="bob", data=Raw(b"1")))
    assert [type(one) for one in client.turn()] == [Signal]
    client.lost()
    assert not client.session.send(Ephemeral(to="bob", data=Raw(b"1")))
    client.at(1.0)
    client.opened()
    assert client.welcome() == []


def test_bytes_travel_in_binary_payloads_between_the_others() -> None:
    client = Client()
    client.session.send(Ephemeral(to="bob", binary=True, data=Raw(b"")))
    client.session.send(Signal(to="bob", data=Raw(b"1")))
    client.session.send(Ephemeral(to="bob", binary=True, data=Raw(b"\xff\n")))
    client.session.send(Signal(to="bob", data=Raw(b"2")))
    client.turn()
    assert [action.binary for action in client.actions if isinstance(action, Send)] == [
        True,
        False,
        True,
        False,
    ]
    data = codec.encode_binary(Ephemeral(sender="bob", binary=True, data=Raw(b"\xff\n")))
    client.session.received(data, True, client.now)
    client.turn()
    assert bytes(client.events[-1].ephemeral.data) == b"\xff\n"


def test_a_turn_without_end_does_not_fill_the_memory() -> None:
    """Nothing has left yet, so nothing could be slow: only the bound of a turn says no."""
    client = Client()
    left = [client.session.send(Ephemeral(to="bob", data=Raw(b"1"))) for _ in range(2000)]
    assert left == [True] * limits.MAX_UNNUMBERED + [False] * (2000 - limits.MAX_UNNUMBERED)
    client.turn()
    assert client.session.send(Signal(to="bob", data=Raw(b"1")))


def test_payloads_keep_within_the_limits() -> None:
    many = [Ping(id=number) for number in range(limits.MAX_BATCH + 1)]
    assert [send.payload.count(b"\n") + 1 for send in payloads(many)] == [limits.MAX_BATCH, 1]
    large = [Signal(to="b", data=Raw(b'"' + b"x" * 60_000 + b'"')) for _ in range(40)]
    sends = payloads(large)
    assert all(len(send.payload) <= limits.MAX_PAYLOAD for send in sends)
    assert [one for send in sends for one in codec.CLIENT.text(send.payload)] == large
    assert len(sends) == 3 and payloads([]) == []


def test_lines_that_are_no_messages_do_no_harm() -> None:
    client = Client()
    client.session.received(b'{"type":"dance"}\n{"type":"ping","id":1}', False, client.now)
    assert client.turn() == [Pong(id=1)]
    client.hear(Error(code="limit", message="no"))
    assert [event.code for event in client.events] == ["unknown_type", "limit"]


def test_closing_acknowledges_says_goodbye_and_settles_everything() -> None:
    client = Client()
    client.hear(from_bob(1))
    client.session.links["bob"].finish(from_bob(1), client.now)
    client.session.links["bob"].submit(Raw(b"1"))
    client.session.command(Refresh(id=0, token="t"), "mine", client.now)
    client.forget()
    client.session.close(client.now, reason="done")
    sent = client.turn()
    assert isinstance(sent[-1], Goodbye) and sent[-1].reason == "done"
    assert any(isinstance(one, Ack) or (isinstance(one, LinkMessage) and one.ack == 1) for one in sent)
    assert client.actions[-1] == Close(1000, "done")
    assert [type(event) for event in client.events] == [FromLink, Answered, StateChanged]


def test_closed_is_closed() -> None:
    """Whatever still comes, in whatever order."""
    client = Client()
    client.session.close(client.now)
    client.welcome()
    client.hear(Ping(), from_bob(1))
    client.forget()
    client.session.close(client.now)
    client.session.lost(1006, "", client.now)
    client.session.network_changed(client.now)
    client.session.alive(client.now)
    assert client.at(1000.0) == [] and client.events == [] and client.actions == []


def test_a_transport_that_opens_after_the_close_is_closed() -> None:
    client = Client(online=False)
    client.start()
    client.session.close(client.now)
    client.turn()
    client.session.opened("t", client.now)
    client.turn()
    assert isinstance(client.actions[-1], Close)
    assert client.session.next_timer(client.now) == inf


def test_closing_before_the_start_is_possible() -> None:
    client = Client(online=False)
    client.session.close(client.now)
    assert client.turn() == [] and client.states() == [State.CLOSED]


def test_a_superseded_process_learns_that_its_numbers_stay_unknown() -> None:
    client = Client()
    link = client.session.link("bob")
    link.submit(Raw(b"1"))
    client.session.touch(link)
    client.turn()
    client.hear(Error(code="superseded", fatal=True))
    client.lost(CloseCode.SUPERSEDED)
    (event,) = client.link_events()
    assert isinstance(event, Settled) and (event.reason, event.certain) == ("superseded", False)
