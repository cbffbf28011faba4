# ruff: noqa: E501 — tables are easier to read in long lines
"""Scripted histories of a client's session: what its driver, its server and its application do."""

from typing import Any

Step = dict[str, Any]

LIMITS = {
    "message": 65536, "payload": 1048576, "subscriptions": 128, "watched": 256, "window": 8, "window_bytes": 65536,
}  # fmt: skip
WELCOME = {
    "type": "welcome", "client_id": "alice", "session": "s1", "secret": "x1", "generation": 1, "attachment": 1,
    "run": 7, "resumed": False, "durable": False,
    "heartbeat": {"interval": 30000, "timeout": 10000, "misses": 3}, "limits": LIMITS, "time": 1795468800000,
}  # fmt: skip


def do(at: float, what: str, **how: Any) -> Step:
    return {"at": at, "do": what, **how}


def tick(*times: float) -> list[Step]:
    return [do(at, "nothing") for at in times]


def hear(at: float, *messages: dict[str, Any]) -> Step:
    return do(at, "receive", messages=list(messages))


def message(type_: str, **fields: Any) -> dict[str, Any]:
    return {"type": type_, **fields}


def welcome(at: float, **changes: Any) -> Step:
    return hear(at, WELCOME | changes)


def online(at: float = 0) -> list[Step]:
    """Start, connect, hello, welcome."""
    return [do(at, "start"), do(at, "opened", token="t"), welcome(at)]


def lost(at: float, code: int = 1006) -> Step:
    return do(at, "lost", code=code)


def again(at: float, **changes: Any) -> list[Step]:
    """The next transport: resumed."""
    return [do(at, "opened", token="t"), welcome(at, resumed=True, attachment=2, secret="x2", **changes)]


def entry(version: int, name: str) -> dict[str, Any]:
    """One name of a snapshot."""
    return message("publication", channel="doc", offset=version, name=name, state=True, data=version)


HISTORIES: list[tuple[str, str, list[Step]]] = [
    ("first connect", "hello, welcome, online.", online()),
    (
        "a first connect gives up after five tries",
        "Delays of half of 1, 2, 4, 8 s (the dice say 0.5).",
        [do(0, "start"), lost(0), *tick(0.5), lost(1), *tick(2), lost(3), *tick(5), lost(6), *tick(10), lost(11)],
    ),
    (
        "a lost connection is resumed",
        "Same run, session and secret in the hello; the backoff starts at 1 s; 10 s online reset it.",
        [*online(), lost(20), *tick(20.5), *again(20.6), lost(21), *tick(22), *again(22), lost(40), *tick(40.5)],
    ),
    (
        "[20] the welcome with the rotated secret is lost",
        "The client never saw it, so it presents the one before; the server still takes that.",
        [*online(), lost(5), *tick(5.5), do(5.6, "opened", token="t"), lost(5.7), *tick(7), do(7, "opened", token="t")],
    ),
    ("a terminal code", "3502: another process took over.", [*online(), lost(5, 3502)]),
    (
        "[20] [21] a refusal closes for good and says why",
        "`duplicate` and 3501 end it; the application hears the code.",
        [
            do(0, "start"), do(0, "opened", token="t"),
            hear(0.1, message("error", code="duplicate", message="in use", fatal=True)), lost(0.2, 3501),
        ],
    ),
    (
        "a goodbye's code counts where the transport has none",
        "TCP ends with 1006; the goodbye said 3505.",
        [*online(), hear(3, message("goodbye", code=3505, reason="sent away")), lost(3.1)],
    ),
    (
        "[26] spread",
        "A restart asks to come back within 20 s; the dice say 0.5.",
        [*online(), hear(3, message("goodbye", code=1012, spread=20000)), lost(3.1, 1012), *tick(13.1)],
    ),
    (
        "[26] reconnect_spread without a goodbye",
        "The connection just ends; the welcome said 8 s.",
        [do(0, "start"), do(0, "opened", token="t"), welcome(0, reconnect_spread=8000), lost(3), *tick(7)],
    ),
    (
        "[26] overloaded: not before retry_after",
        "Nor on a network change.",
        [
            do(0, "start"), do(0, "opened", token="t"),
            hear(0.1, message("error", code="overloaded", fatal=True, retry_after=9000)), lost(0.2, 3005),
            do(1, "network_changed"), *tick(9.2),
        ],
    ),
    (
        "a network that is called back too early: the backoff begins anew",
        "The attempt that it leads to fails; the next one comes within a second.",
        [
            *online(), lost(3), *tick(3.5), lost(4), *tick(5), lost(6), *tick(8), lost(10),
            do(11, "network_changed"), *tick(11), lost(12), *tick(12.5),
        ],
    ),
    (
        "[22] a silent server is lost after 100 s",
        "Pings at 30, 60, 90; the last has 10 s.",
        [*online(), *tick(30, 40, 60, 70, 90, 100)],
    ),
    (
        "[22] the machine slept: ping at once, one miss is enough",
        "The driver saw the clocks diverge.",
        [*online(), do(500, "network_changed"), *tick(510)],
    ),
    ("any sign of life puts the ping off", "A control frame at 29 s.", [*online(), do(29, "alive"), *tick(30, 59)]),
    ("a ping is answered", "And it is a sign of life.", [*online(), hear(10, message("ping", id=4)), *tick(30, 40)]),
    ("no welcome within 10 s", "Close 3004, and try again.", [do(0, "start"), do(0, "opened", token="t"), *tick(10, 10.5)]),
    (
        "offline after the resume window",
        "30 s after the loss; attempts go on.",
        [*online(), lost(20), *tick(20.5), lost(20.6), *tick(21.6), lost(49), *tick(50)],
    ),
    (
        "commands survive the connection",
        "A publish is sent again with its age; the answer comes once.",
        [
            *online(), do(1, "command", context="p", message=message("publish", channel="news", key="k", data=1)),
            lost(2), *tick(2.5), *again(3), hear(3.1, message("published", id=1, epoch="e", offset=4)),
            hear(3.2, message("published", id=1, epoch="e", offset=4)),
        ],
    ),
    (
        "a command given offline is not old",
        "`age` counts from the first sending.",
        [
            *online(), lost(2), do(2.1, "command", context="p", message=message("publish", channel="news", key="k", data=1)),
            *tick(2.5), *again(900),
        ],
    ),
    (
        "history: a page and its publications are one answer",
        "In between, live publications go their way.",
        [
            *online(), do(1, "command", context="h", message=message("history", channel="news", limit=2)),
            hear(
                1.1,
                message("history_page", id=1, channel="news", epoch="e", offset=9, count=2),
                message("publication", channel="news", offset=8, page=1, data=8),
                message("publication", channel="news", offset=9, page=1, data=9),
            ),
        ],
    ),
    (
        "closing answers every command and settles every number",
        "Acknowledgements leave first, then goodbye.",
        [
            *online(), do(1, "command", context="r", message=message("refresh", token="u")), do(1, "submit", peer="bob", data="hi"),
            hear(1, message("message", **{"from": "bob"}, run=3, seq=1, base=1, data="x")), do(1.5, "finish", peer="bob", run=3, seq=1),
            do(1.5, "close"), *tick(2),
        ],
    ),
    (
        "a channel from now on, its publications, and a hole",
        "11 is missing: begin again from 10, by giving the channel up first.",
        [
            *online(), do(1, "want", channel="news"),
            hear(1.1, message("subscribing", id=1), message("subscribed", channel="news", epoch="e", offset=9, id=1)),
            hear(2, message("publication", channel="news", offset=10, data=10), message("publication", channel="news", offset=12, data=12)),
            hear(
                2.1, message("subscribed", channel="news", epoch="e", offset=10, id=3, recovered=True),
                message("publication", channel="news", offset=11, data=11), message("publication", channel="news", offset=12, data=12),
            ),
        ],
    ),
    (
        "[19] an answer to an earlier beginning is stale",
        "Dropped and wanted again before the first answer came: only the second counts.",
        [
            *online(), do(1, "want", channel="news"), do(1.1, "drop", channel="news"), do(1.2, "want", channel="news"),
            hear(2, message("subscribed", channel="news", epoch="e", offset=3, id=1), message("publication", channel="news", offset=4, data=4)),
            hear(2.1, message("subscribed", channel="news", epoch="e", offset=9, id=3), message("publication", channel="news", offset=10, data=10)),
        ],
    ),
    (
        "channels come back with their positions, or with a gap",
        "One is recovered, one lost its log, one is refused.",
        [
            *online(), do(1, "want", channel="a"), do(1, "want", channel="b"), do(1, "want", channel="c"),
            hear(1.1, *[message("subscribed", channel=name, epoch="e", offset=5, id=number) for number, name in enumerate("abc", 1)]),
            lost(2), *tick(2.5), *again(3),
            hear(
                3.1, message("subscribed", channel="a", epoch="e", offset=5, recovered=True),
                message("subscribed", channel="b", epoch="f", offset=0, gap={"reason": "epoch"}),
                message("error", code="forbidden", channel="c"),
            ),
        ],
    ),
    (
        "a subscription the server ends",
        "With `resubscribe` it begins again from its position; without, it is over.",
        [
            *online(), do(1, "want", channel="a"), hear(1.1, message("subscribed", channel="a", epoch="e", offset=5, id=1)),
            hear(2, message("unsubscribed", channel="a", code="moved", resubscribe=True)),
            hear(3, message("subscribed", channel="a", epoch="e", offset=5, id=3, recovered=True)),
            hear(4, message("unsubscribed", channel="a", code="forbidden")),
        ],
    ),
    (
        "shared state: a snapshot, then what changes",
        "The subscription stands when the snapshot is whole; deltas are publications.",
        [
            *online(), do(1, "want", channel="doc", state=True),
            hear(1.1, message("subscribed", channel="doc", epoch="e", offset=9, id=1), message("snapshot", channel="doc", count=2, id=1), entry(3, "a")),
            hear(1.2, entry(8, "b"), message("publication", channel="doc", offset=10, name="a", deleted=True)),
            lost(2), *tick(2.5), *again(3),
            hear(
                3.1, message("subscribed", channel="doc", epoch="e", offset=10, recovered=True),
                message("publication", channel="doc", offset=11, name="a", data=11),
            ),
        ],
    ),
    (
        "shared state: cut in the middle of a snapshot",
        "The position stays that of the state the application has, so that the next answer is a gap and a snapshot, too.",
        [
            *online(), do(1, "want", channel="doc", epoch="d", offset=5, state=True),
            hear(
                1.1, message("subscribed", channel="doc", epoch="e", offset=9, id=1, gap={"reason": "epoch"}),
                message("snapshot", channel="doc", count=2, id=1), entry(3, "a"),
            ),
            lost(2), *tick(2.5), *again(3),
            hear(
                3.1, message("subscribed", channel="doc", epoch="e", offset=10, gap={"reason": "epoch"}),
                message("snapshot", channel="doc", count=1), entry(3, "a"),
            ),
        ],
    ),
    (
        "shared state: a snapshot of an earlier beginning",
        "Dropped and wanted again while it was on its way: what belongs to another id, or to nothing, is ignored.",
        [
            *online(), do(1, "want", channel="doc", state=True),
            hear(1.1, message("subscribed", channel="doc", epoch="e", offset=9, id=1), message("snapshot", channel="doc", count=2, id=1)),
            do(1.2, "drop", channel="doc"), do(1.3, "want", channel="doc", state=True), hear(1.4, entry(3, "a"), entry(8, "b")),
            hear(1.5, message("snapshot", channel="doc", count=0, id=1)),
            hear(2, message("subscribed", channel="doc", epoch="e", offset=9, id=3), message("snapshot", channel="doc", count=1, id=3), entry(9, "c")),
        ],
    ),
    (
        "a write that finds another version",
        "Keyed like a publish: over a reconnect it is sent again with its age.",
        [
            *online(), do(1, "command", context="w", message=message("set", channel="doc", name="a", key="k", expect=3, data=1)),
            lost(2), *tick(2.5), *again(3), hear(4, message("error", code="conflict", id=1, version=7)),
        ],
    ),
    (
        "presence",
        "A snapshot, then who joins and leaves.",
        [
            *online(), do(1, "want", channel="a", presence=True),
            hear(2, message("subscribed", channel="a", epoch="e", offset=0, id=1), message("presence_list", channel="a", clients=["alice", "bob"])),
            hear(3, message("join", channel="a", client_id="carol"), message("leave", channel="a", client_id="bob")),
        ],
    ),
    (
        "watching a peer",
        "The full set each time; states are events of the link.",
        [
            *online(), do(1, "watch", peer="bob"), hear(1.1, message("watching", id=1), message("peer", client_id="bob", state="away")),
            hear(2, message("peer", client_id="bob", state="here", run=3, generation=1, attachment=1)),
            hear(3, message("peer", client_id="bob", state="reconnecting")), do(4, "unwatch", peer="bob"),
        ],
    ),
    (
        "[30] the server forgot everybody: wait, then the peer comes",
        "Nothing is refused, nothing is lost.",
        [
            *online(), do(1, "submit", peer="bob", data="hi"), lost(2), *tick(2.5), *again(3, session="s2", generation=9),
            hear(3.1, message("wait", to="bob", run=7, seq=1)),
            hear(8, message("peer", client_id="bob", state="here", run=3, generation=1, attachment=1)),
            hear(8.1, message("ack", **{"from": "bob"}, run=7, seq=1)),
        ],
    ),
    (
        "signals and ephemerals are sent at most once",
        "Online they leave, offline they do not.",
        [
            *online(), do(1, "send", message=message("signal", to="bob", data=1)),
            hear(1, message("signal", **{"from": "bob"}, generation=1, run=3, data=2), message("ephemeral", **{"from": "bob"}, data=3)),
            lost(2), do(2.1, "send", message=message("ephemeral", to="bob", data=1)),
        ],
    ),
    (
        "a server that changes the run is not believed",
        "The numbers given so far would mean nothing.",
        [*online(), lost(2), *tick(2.5), *again(3, run=8)],
    ),
    (
        "lines that are no messages do no harm",
        "Each is reported, the others count.",
        [*online(), do(1, "receive", payload='{"type":"dance"}\n\n{"type":"ping","id":1}'), do(2, "receive", payload={"base64": "/w=="})],
    ),
    (
        "before its welcome a client says nothing but hello",
        "Not even pong.",
        [do(0, "start"), do(0, "opened", token="t"), hear(0.1, message("ping", id=1)), welcome(0.2)],
    ),
    ("closed is closed", "What comes afterwards changes nothing.", [*online(), do(1, "close"), welcome(1), *tick(50)]),
]  # fmt: skip


def cases() -> list[dict[str, Any]]:
    """The histories without their results."""
    return [
        {"name": name, "about": about, "client_id": "alice", "random": [0.5], "steps": steps}
        for name, about, steps in HISTORIES
    ]
