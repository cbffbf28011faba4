# ruff: noqa: E501 — tables are easier to read in long lines
"""Scripted histories of one end of a link: what happens to it. What it must do then is recorded beside it.

The end is `A`, run 7; its peer is `B`, run 3. A window of 8 keeps them short.
"""

from typing import Any

Step = dict[str, Any]

RUN, PEER_RUN = 7, 3


def up(at: float, path: str = "server", kind: str = "") -> Step:
    return {
        "at": at,
        "do": "path_up",
        "path": path,
        "kind": kind or ("server" if path == "server" else "direct"),
    }


def down(at: float, path: str = "server") -> Step:
    return {"at": at, "do": "path_down", "path": path}


def send(at: float, data: Any, **how: Any) -> Step:
    return {"at": at, "do": "submit", "data": data, **how}


def send_bytes(at: float, data: str) -> Step:
    return {"at": at, "do": "submit", "data_base64": data}


def hear(at: float, type_: str, path: str = "server", **fields: Any) -> Step:
    step: Step = {"at": at, "do": "receive", "message": {"type": type_, **fields}}
    if path != "server":
        step["path"] = path
    return step


def message(
    at: float, seq: int, base: int = 1, path: str = "server", run: int = PEER_RUN, **fields: Any
) -> Step:
    who = {"from": "B"} if path == "server" else {}
    return hear(at, "message", path, **who, run=run, seq=seq, base=base, data=f"{run}:{seq}", **fields)


def ack(at: float, seq: int, path: str = "server", **fields: Any) -> Step:
    who = {"from": "B"} if path == "server" else {}
    return hear(at, "ack", path, **who, run=RUN, seq=seq, **fields)


def wait(at: float, seq: int, **fields: Any) -> Step:
    return hear(at, "wait", to="B", run=RUN, seq=seq, **fields)


def stored(at: float, seq: int, **fields: Any) -> Step:
    return hear(at, "stored", to="B", run=RUN, seq=seq, **fields)


def here(at: float, run: int = PEER_RUN, generation: int = 1, attachment: int = 1) -> Step:
    return hear(
        at, "peer", client_id="B", state="here", run=run, generation=generation, attachment=attachment
    )


def gone(at: float, state: str = "away") -> Step:
    return hear(at, "peer", client_id="B", state=state)


def done(at: float, seq: int, run: int = PEER_RUN, **where: Any) -> Step:
    return {"at": at, "do": "finish", "run": run, "seq": seq, **where}


def tick(*times: float) -> list[Step]:
    return [{"at": at, "do": "nothing"} for at in times]


def proven(at: float, path: str = "d1") -> list[Step]:
    """A data channel opens and answers two pings: it may carry messages."""
    return [up(at, path), hear(at, "pong", path, id=1), hear(at, "pong", path, id=2)]


HISTORIES: list[tuple[str, str, list[Step]]] = [
    ("one message, delivered", "The plainest history.", [up(0), send(0, "hi"), ack(0.1, 1)]),
    (
        "receive and acknowledge within 20 ms",
        "Finished is acknowledged after 20 ms, unless reverse traffic takes it along.",
        [up(0), message(0, 1), done(0, 1), *tick(0.019, 0.02)],
    ),
    (
        "an acknowledgement rides on a message",
        "Reverse traffic within 20 ms carries the cursor; no ack of its own follows.",
        [up(0), message(0, 1), done(0, 1), send(0.01, "reply"), *tick(0.02)],
    ),
    (
        "a message that asks is acknowledged when it is finished",
        "`ask`: not when it comes, not 20 ms later, but at once when the application has finished.",
        [up(0), message(0, 1, ask=True), *tick(1), done(1, 1)],
    ),
    (
        "a repeat is dropped and acknowledged again",
        "The sender has not heard of the first.",
        [up(0), message(0, 1), done(0, 1), *tick(0.02), message(3, 1)],
    ),
    (
        "[1] an expired number is skipped in sequence",
        "1–3 left, 2 died on the way and expires; when B asks, a skip takes its place; B says it was lost.",
        [
            up(0), here(0), send(0, "1"), send(0, "2", expires_in=1), send(0, "3"), *tick(1), ack(1.1, 1, want=True),
            ack(1.2, 3, lost=[[2, 2, "expired"]], by=PEER_RUN),
        ],
    ),
    (
        "losses that can be told apart no more are certain for nobody",
        "The word of the only process that may have the bodies: 1 and 2 are lost or delivered, 3 is lost for certain.",
        [
            up(0), here(0), send(0, "1"), send(0, "2"), send(0, "3"),
            ack(0.1, 3, lost=[[1, 2, "unclear"], [3, 3, "replaced"]], by=PEER_RUN),
        ],
    ),
    (
        "[1] an expired number that had arrived stays delivered",
        "The skip comes too late: the ack lists nothing as lost.",
        [up(0), send(0, "1", expires_in=1), *tick(1), ack(1.1, 1)],
    ),
    (
        "[1] the receiver hears of a skip in its place",
        "1, skip 2–3, 4: the application hears 1, lost 2, lost 3, 4; the ack lists them until base has passed.",
        [
            up(0), message(0, 1),
            hear(0, "skip", **{"from": "B"}, run=PEER_RUN, seq=2, last=3, base=1, reason="expired"),
            message(0, 4), done(0, 1), done(0, 4), *tick(0.02), message(1, 5, base=5), done(1, 5), *tick(1.02),
        ],
    ),
    (
        "[1] a refused number becomes a skip",
        "The server will never take 2 (too large with its sender's name, say): A skips it, `refused`.",
        [
            up(0), send(0, "1"), send(0, "2"), send(0, "3"),
            hear(0.1, "error", code="too_large", to="B", lane="messages", run=RUN, seq=2), ack(0.2, 3),
        ],
    ),
    (
        "[2] a receiver without memory starts at base",
        "B's 51 is the first this process sees: everything below is settled, an earlier process had it.",
        [up(0), message(0, 51, base=51), message(0, 50, base=50), done(0, 51), *tick(0.02)],
    ),
    (
        "[2] what was sent on a dead path is sent again on the next",
        "1–2 leave on a data channel, unacknowledged; it closes; 1–3 go through the server.",
        [
            up(0), send(0, "0"), ack(0, 1), *proven(0.5), send(1, "1"), send(1, "2"), down(1.5, "d1"),
            send(1.6, "3"), ack(2, 4),
        ],
    ),
    (
        "[3] a hole older than a second is asked for",
        "1 came, 3 came, 2 died with a socket: after 1 s the receiver wants what follows `received`.",
        [up(0), message(0, 1), message(0, 3), done(0, 1), *tick(0.02, 1), message(1.1, 2), done(1.1, 2), done(1.1, 3)],
    ),
    (
        "a hole that stays open is asked for less and less often",
        "After 1, 2, 4 … s, at most 30.",
        [up(0), message(0, 1), message(0, 3), *tick(1, 3, 7, 15, 31, 61)],
    ),
    (
        "an ack that wants makes the sender go back",
        "B has 1 and asks for what follows.",
        [up(0), send(0, "1"), send(0, "2"), send(0, "3"), ack(1, 1, want=True)],
    ),
    (
        "a probe that names more than has come is answered by a want",
        "B sent up to 4, this end has 2.",
        [up(0), message(0, 1), message(0, 2), hear(2, "probe", **{"from": "B"}, run=PEER_RUN, seq=4, base=1)],
    ),
    (
        "[22] unacknowledged traffic is probed for",
        "2 s after the last progress, then 4, 8, 16, 30, 30 s.",
        [up(0), send(0, "1"), *tick(2, 6, 14, 30, 60, 90), ack(91, 1)],
    ),
    (
        "[5] a number beyond the credit closes a data channel",
        "The receiver granted 8 ahead; number 10,001 is a protocol error there, and ignored from the server.",
        [up(0), message(0, 1), *proven(1), message(2, 10001, path="d1"), message(2, 10002)],
    ),
    (
        "[5] a sender keeps to the credit of a data channel",
        "Eight are out, the ninth waits until the receiver has finished with some.",
        [
            up(0), send(0, 0), ack(0, 1), *proven(0.5), *[send(1, number) for number in range(8)],
            ack(1.1, 1, path="d1", received=9, limit=9), ack(1.2, 3, path="d1", received=9, limit=11), send(1.3, 8), send(1.3, 9),
        ],
    ),
    (
        "[6] lanes do not wait for each other",
        "messages 1 is missing; bulk 1 is handed over all the same; each lane has its own acks.",
        [
            up(0), message(0, 2), message(0, 1, lane="bulk"), done(0, 1, lane="bulk"), *tick(0.02), message(0.5, 1),
            send(0.6, "m"), send(0.6, "b", lane="bulk"),
        ],
    ),
    (
        "[7] a new run begins through the server and ends the old one",
        "B restarts: its new run's 1 on a data channel is dropped; through the server it is taken; 2 of the old "
        "run was missing, 3 was held: lost (sender_restarted), then 3, then the new run; old numbers are dropped, and "
        "acknowledged as far as the application has finished with them, whenever that is.",
        [
            up(0), message(0, 1), message(0, 3), *proven(0.1), message(0.2, 1, path="d1", run=9), message(0.3, 1, run=9),
            message(0.4, 2), done(0.5, 1, run=9), *tick(0.52), done(0.6, 1), done(0.6, 3), *tick(0.62), message(0.7, 3),
        ],
    ),
    (
        "[9] a newer process of the peer closes the data channels to the old one",
        "`peer` names another run: what went to the old process goes to the new one, through the server.",
        [up(0), here(0), send(0, "1"), ack(0, 1), *proven(0.5), send(1, "2"), here(2, run=12, generation=2), ack(3, 2)],
    ),
    (
        "[9] another attachment costs a repeat, not the data channels",
        "The peer resumed: what was under way to its earlier connection is sent again.",
        [up(0), here(0), send(0, "1"), gone(1, "reconnecting"), here(2, attachment=2), ack(3, 1)],
    ),
    (
        "[10] each sender chooses its own way",
        "The data channel stops answering pings: after 6.5 s small messages go both ways, after 13 s the server's "
        "alone; what comes on the data channel meanwhile is taken.",
        [
            up(0), send(0, 0), ack(0, 1), *proven(0.5), send(1, "a"), ack(1.1, 2, path="d1", limit=10), *tick(3.5, 6.5),
            send(7.1, "b"), message(7.2, 1, path="d1", base=1), message(7.3, 1), *tick(9.5, 13.5), send(14, "c"),
        ],
    ),
    (
        "[11] a handler that raised has finished",
        "The machine knows only `finish`: an error in the handler changes nothing on the wire.",
        [up(0), message(0, 1), message(0, 2), done(0.1, 2), *tick(0.12), done(0.2, 1), *tick(0.22)],
    ),
    (
        "[14] a peer that says what only a server may loses the data channel",
        "A `wait` on a data channel; then nothing comes from there any more.",
        [up(0), send(0, "1"), ack(0, 1), up(1, "d1"), hear(1, "wait", "d1", to="B", run=RUN, seq=1)],
    ),
    (
        "[14] a peer that names a sender loses the data channel",
        "Identity is what the server stamped on the signals.",
        [up(0), message(0, 1), up(1, "d1"), hear(1, "message", "d1", **{"from": "carol"}, run=PEER_RUN, seq=2, base=1, data=0)],
    ),
    (
        "[30] the peer is away: wait, and go on when it is here",
        "The server restarted; A is back first. `wait` for each copy; `peer` says when sending makes sense.",
        [up(0), send(0, "1"), send(0, "2"), wait(0.1, 1), wait(0.1, 2), send(1, "3"), *tick(5), here(20), ack(20.1, 3)],
    ),
    (
        "[30] the peer stays away: what expires is lost for certain",
        "Every copy was answered by wait, so nobody has it; base moves on and the window is free.",
        [up(0), send(0, "1", expires_in=5), wait(0.1, 1), *tick(5), here(60), send(61, "2")],
    ),
    (
        "while it is held, a lane knocks with one number",
        "Nothing says that B is here; should that have been lost, a knock finds out.",
        [up(0), send(0, "1"), send(0, "2"), wait(0.1, 1), wait(0.1, 2), *tick(2.1), wait(2.2, 1), *tick(6.1, 6.2), ack(6.3, 1)],
    ),
    (
        "an acknowledgement lifts a hold",
        "The wait answered an old copy; a later one arrived.",
        [up(0), send(0, "1"), wait(0.1, 1), ack(0.2, 1), send(0.3, "2")],
    ),
    (
        "a reconnected sender sends again what is not acknowledged",
        "After every welcome: from `received` + 1.",
        [up(0), send(0, "1"), send(0, "2"), send(0, "3"), ack(0.1, 1, received=2), down(1), send(2, "4"), up(5), ack(5.1, 4)],
    ),
    (
        "a number beyond the window the server allows is held",
        "error credit: the server dropped it; after 2 s it is tried again.",
        [up(0), send(0, "1"), hear(0.1, "error", code="credit", to="B", lane="messages", run=RUN, seq=1), *tick(2.1)],
    ),
    (
        "base runs ahead: what is below is gone",
        "The sender settled 2–4 as lost while this receiver was away.",
        [up(0), message(0, 1), message(5, 5, base=5), done(5, 1), done(5, 5), *tick(5.02)],
    ),
    (
        "stored: the mailbox has it, the body may be forgotten",
        "It still ends by the receiver's word.",
        [up(0), send(0, "1"), send(0, "2"), hear(1, "stored", to="B", run=RUN, seq=1), down(2), up(3), ack(9, 2)],
    ),
    (
        "acknowledgements of another run, or of numbers never sent, change nothing",
        "Nor do waits and errors of another run.",
        [
            up(0), send(0, "1"), hear(0.1, "ack", **{"from": "B"}, run=6, seq=1), ack(0.2, 2),
            hear(0.3, "wait", to="B", run=6, seq=1), hear(0.3, "error", code="refused", to="B", run=6, seq=1), ack(0.4, 1),
        ],
    ),
    (
        "bytes and requests",
        "A binary body, then a request with a deadline.",
        [up(0), send_bytes(0, "AP8KCg=="), send(0, {"q": 1}, request="r1", deadline=5000, ask=True), ack(0.1, 2)],
    ),
    (
        "every 32nd message is acknowledged at once",
        "Without waiting for 20 ms.",
        [up(0)] + [step for seq in range(1, 34) for step in (message(0, seq, base=max(1, seq - 3)), done(0, seq))],
    ),
]  # fmt: skip


DURABLE: list[tuple[str, str, dict[str, Any], list[Step]]] = [
    (
        "not acknowledged within 250 ms: the server is asked to store it",
        "Another copy, with `store`; only what has left to the server and has not been acknowledged. Stored, it is not sent again.",
        {},
        [up(0), send(0, "1"), send(0.1, "2"), *tick(0.249, 0.25), ack(0.3, 1), *tick(0.35), stored(0.4, 2), *tick(1)],
    ),
    (
        "the receiver is away: stored at once, and the window moves on",
        "Nine numbers through a window of eight: what is stored makes room, though base stays.",
        {},
        [up(0), *[send(0, str(n)) for n in range(8)], stored(0.01, 8), send(0.02, "9"), stored(0.03, 9), ack(60, 9)],
    ),
    (
        "[4] acknowledged before it is stored",
        "The copy that asks to be stored is late: an ack has settled the number, and `stored` changes nothing.",
        {},
        [up(0), send(0, "1"), *tick(0.25), ack(0.26, 1), stored(0.3, 1)],
    ),
    (
        "a skip is stored, too",
        "An expired number has a place in the mailbox: without it, what follows would not be taken.",
        {},
        [up(0), send(0, "1", expires_in=0.1), send(0, "2"), *tick(0.1, 0.25), stored(0.3, 2), ack(9, 2, lost=[[1, 1, "expired"]], by=3)],
    ),
    (
        "a hole in the mailbox",
        "1 and 2 went to a receiver who has left; the mailbox does not take 3 without them, and asks. What was dropped is told by wait.",
        {},
        [up(0), send(0, "1"), send(0, "2"), send(0.1, "3"), wait(0.12, 3), ack(0.12, 0, want=True), stored(0.15, 3)],
    ),
    (
        "the mailbox is full",
        "The number has ended as lost; those behind it go on, and no skip is needed.",
        {},
        [up(0), send(0, "1"), send(0, "2"), hear(0.01, "error", code="mailbox_full", to="B", run=RUN, seq=2), stored(0.01, 2), send(1, "3")],
    ),
    (
        "[29] the disk fails, and works again",
        "`wait` with a code: the application hears of it, the number is kept and tried again; then the server calls.",
        {},
        [
            up(0), send(0, "1"), wait(0.01, 1, code="unavailable"), send(0.1, "2"), *tick(1), wait(2.02, 1, code="unavailable"), *tick(2.02),
            ack(5, 0, want=True), stored(5.01, 2),
        ],
    ),
    (
        "stored lifts a hold",
        "A number that had to wait was knocked with, and is stored: what follows leaves.",
        {},
        [up(0), send(0, "1"), wait(0.01, 1), send(0.1, "2"), *tick(2.01), stored(2.02, 1), *tick(2.03)],
    ),
    (
        "what went another way is sent to the server, then stored",
        "A data channel carries 1, and dies silently: after 250 ms the server gets it, after 250 ms more it is to store it.",
        {},
        [up(0), send(0, "0"), ack(0.05, 1), *proven(0.1), send(1, "1"), *tick(1.25, 1.5), stored(1.51, 2)],
    ),
    (
        "the mailbox acknowledges for a receiver who has left",
        "Both were never there together: a probe is answered from the mailbox.",
        {},
        [up(0), send(0, "1"), stored(0.01, 1), down(1), up(100), *tick(102), stored(102.01, 1), ack(102.01, 1)],
    ),
    (
        "[2] a receiver without memory begins where the mailbox says",
        "`start` 5 of a probe, and what an earlier process had lost: its acks tell it, until base has passed.",
        {},
        [
            up(0), hear(0, "probe", **{"from": "B"}, run=PEER_RUN, seq=4, base=1, start=5, lost=[[2, 3, "expired"]]), message(0, 5), done(0, 5),
            *tick(0.02), message(1, 6, base=5), done(1, 6), *tick(1.02),
        ],
    ),
    (
        "a receiver that knows the run goes on where it is",
        "It is further than its last acknowledgement says: a start at or below what it expects is no news.",
        {},
        [
            up(0), message(0, 1), done(0, 1), *tick(0.02), message(1, 2), hear(1.1, "probe", **{"from": "B"}, run=PEER_RUN, seq=1, base=1, start=2),
            message(1.2, 3), done(1.3, 2), done(1.3, 3), *tick(1.4),
        ],
    ),
    (
        "what lies below the start and has not come is lost",
        "A server without memory was restarted, and its mailbox begins at 4: 2 and 3 will not come. The ack says so.",
        {},
        [
            up(0), message(0, 1), done(0, 1), *tick(0.02), hear(1, "probe", **{"from": "B"}, run=PEER_RUN, seq=3, base=1, start=4),
            message(1.2, 4), done(1.3, 4), *tick(1.4),
        ],
    ),
    (
        "a lane to which nothing has come begins at a later start without a word",
        "A killed server has forgotten that an earlier process had finished with 1 … 3, and says so later.",
        {},
        [
            up(0), hear(0, "probe", **{"from": "B"}, run=PEER_RUN, seq=0, base=1, start=1),
            hear(0.1, "probe", **{"from": "B"}, run=PEER_RUN, seq=3, base=1, start=4),
            message(0.2, 4), done(0.3, 4), *tick(0.4),
        ],
    ),
    (
        "what was sent to a user is acknowledged as that",
        "The end of a stream to @carol at one of her clients.",
        {"user": "@carol"},
        [up(0), message(0, 1, user="@carol"), done(0, 1), *tick(0.02)],
    ),
    (
        "ttl and collapse travel with the message",
        "The time that is left, in milliseconds, when the copy leaves.",
        {},
        [up(0), send(0, "1", expires_in=10, collapse="position"), *tick(0.25), stored(0.3, 1)],
    ),
]  # fmt: skip
"""On a durable server: name, about, what the link is made with, steps."""


def cases() -> list[dict[str, Any]]:
    """The histories without their results."""
    plain: list[tuple[str, str, dict[str, Any], list[Step]]] = [
        (name, about, {}, steps) for name, about, steps in HISTORIES
    ]
    durable = [(name, about, {"durable": True, **made}, steps) for name, about, made, steps in DURABLE]
    return [
        {
            "name": name,
            "about": about,
            "peer": "B",
            "run": RUN,
            "window": 8,
            "window_bytes": 65536,
            **made,
            "steps": steps,
        }
        for name, about, made, steps in [*plain, *durable]
    ]
