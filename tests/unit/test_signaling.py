"""`/connect`: the rooms on a clock that the test moves, and their driver over wires that take notes."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import cast

import pytest

from duolink.protocol import codec
from duolink.protocol.codes import CloseCode
from duolink.protocol.messages import Error
from duolink.server.handshake import Headers, Refused, Upgrade
from duolink.server.signaling import (
    LEFT,
    MAX_UNREAD,
    Close,
    Effect,
    Ping,
    RoomOptions,
    Rooms,
    Seat,
    Send,
    Signaling,
    Subprotocols,
)
from duolink.server.tcp import TcpWire

OFFER = b'{ "type" : "offer",\n"data":"v=0\\r\\n", "more": [1, {"a": 2}] }'
ANSWER = b'{"data":"\xc3\xa9","type":"answer"}'
CANDIDATE = b'{"type":"candidate","candidate":null}'


class Hall:
    """Rooms with people, who are named by strings."""

    def __init__(self, **options: float) -> None:
        self.now = 1000.0
        self.rooms: Rooms[str] = Rooms(RoomOptions(**options))  # type: ignore[arg-type]

    def enter(self, who: str, room: str = "r1", address: str = "127.0.0.1") -> list[Effect[str]]:
        return self.rooms.enter(who, room, address, self.now)

    def say(self, who: str, payload: bytes, binary: bool = False) -> list[Effect[str]]:
        return self.rooms.receive(who, payload, binary, self.now)

    def poll(self, after: float = 0) -> list[Effect[str]]:
        self.now += after
        return self.rooms.poll(self.now)


def closed(effects: list[Effect[str]], who: str) -> int:
    """Return the code of the one effect, which must be the close of `who`."""
    (effect,) = effects
    assert isinstance(effect, Close) and effect.seat == who
    return effect.code


def refused_with(effects: list[Effect[str]], who: str) -> str:
    """Return the code of the one effect, which must be an error sent to `who`."""
    (effect,) = effects
    assert isinstance(effect, Send) and effect.seat == who
    (message,) = codec.SERVER.text(effect.payload)
    assert isinstance(message, Error)
    return message.code


def test_signals_go_to_the_other_byte_for_byte() -> None:
    hall = Hall()
    assert hall.enter("a") == [] == hall.enter("b")
    assert hall.say("a", OFFER) == [Send("b", OFFER)]
    assert hall.say("b", ANSWER) == [Send("a", ANSWER)]
    assert hall.say("a", CANDIDATE) == [Send("b", CANDIDATE)]


def test_what_comes_first_waits_in_order() -> None:
    hall = Hall()
    hall.enter("a")
    assert hall.say("a", OFFER) == [] == hall.say("a", CANDIDATE)
    hall.now += 29
    assert hall.enter("b") == [Send("b", OFFER), Send("b", CANDIDATE)]
    hall.rooms.leave("b")
    assert hall.enter("c") == [], "it was delivered once"


def test_what_waits_too_long_is_forgotten_by_itself() -> None:
    hall = Hall()
    hall.enter("a")
    hall.say("a", OFFER)
    hall.now += 20
    hall.say("a", CANDIDATE)
    hall.now += 10
    assert hall.enter("b") == [Send("b", CANDIDATE)]


def test_room_for_what_waits_is_free_again_when_it_was_forgotten() -> None:
    hall = Hall(hold_frames=2)
    hall.enter("a")
    hall.say("a", OFFER)
    hall.say("a", OFFER)
    hall.poll(30)
    assert hall.say("a", CANDIDATE) == []
    assert hall.enter("b") == [Send("b", CANDIDATE)]


@pytest.mark.parametrize("options", [{"hold_frames": 3}, {"hold_bytes": 3 * len(CANDIDATE)}])
def test_what_waits_is_bounded(options: dict[str, float]) -> None:
    hall = Hall(**options)
    hall.enter("a")
    for _ in range(3):
        assert hall.say("a", CANDIDATE) == []
    assert closed(hall.say("a", CANDIDATE), "a") == 1008
    assert hall.say("a", CANDIDATE) == [], "closing: nothing more is heard"


def test_the_defaults_hold_64_frames_and_256_kib() -> None:
    hall = Hall()
    hall.enter("a")
    frame = b'{"type":"offer","data":"' + b"x" * 60_000 + b'"}'
    for _ in range(4):
        assert hall.say("a", frame) == []
    assert closed(hall.say("a", frame), "a") == 1008
    hall = Hall()
    hall.enter("a")
    for _ in range(64):
        assert hall.say("a", CANDIDATE) == []
    assert closed(hall.say("a", CANDIDATE), "a") == 1008


def test_a_third_is_refused_before_it_hears_anything() -> None:
    hall = Hall()
    hall.enter("a")
    hall.say("a", OFFER)
    hall.enter("b")
    assert closed(hall.enter("c"), "c") == 1008
    assert hall.say("a", OFFER) == [Send("b", OFFER)]
    assert hall.say("c", OFFER) == []
    assert hall.rooms.leave("c") == [], "nobody hears of it"
    assert hall.enter("d", "r2") == []


def test_who_stays_hears_left_and_the_seat_is_free() -> None:
    hall = Hall()
    hall.enter("a")
    hall.enter("b")
    assert hall.rooms.leave("a") == [Send("b", LEFT)]
    assert hall.say("b", OFFER) == []
    assert hall.enter("c") == [Send("c", OFFER)]
    assert hall.rooms.leave("b") == [Send("c", LEFT)]
    assert hall.rooms.leave("c") == []
    assert len(hall.rooms) == 0


def test_what_waited_goes_with_who_left() -> None:
    hall = Hall()
    hall.enter("a")
    hall.say("a", OFFER)
    hall.rooms.leave("a")
    assert hall.enter("b") == []


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "malformed"),
        (b"offer", "malformed"),
        (b'["offer"]', "malformed"),
        (b'{"type":1}', "malformed"),
        (b'{"data":"offer"}', "malformed"),
        (b'{"type":"offer"}{"type":"offer"}', "malformed"),
        (b'{"type":"offer"', "malformed"),
        (b'{"type":"offer","data":' + b"[" * 64 + b"]" * 64 + b"}", "malformed"),
        (b'{"type":"left"}', "unknown_type"),
        (b'{"type":"Offer"}', "unknown_type"),
        (b'{"type":"offer","type":"left"}', "unknown_type"),
        (b'{"type":"hello","protocol":1,"client_id":"a"}', "unknown_type"),
    ],
)
def test_what_is_no_signal_is_answered_and_not_forwarded(payload: bytes, code: str) -> None:
    hall = Hall()
    hall.enter("a")
    hall.enter("b")
    assert refused_with(hall.say("a", payload), "a") == code


def test_too_much_that_is_no_signal_closes() -> None:
    hall = Hall()
    hall.enter("a")
    for _ in range(16):
        assert refused_with(hall.say("a", b"?"), "a") == "malformed"
    assert closed(hall.say("a", b"?"), "a") == 1008


def test_binary_closes() -> None:
    hall = Hall()
    hall.enter("a")
    assert closed(hall.say("a", OFFER, binary=True), "a") == 1003


def test_a_seat_is_no_free_relay() -> None:
    hall = Hall(seat_bytes=2 * len(OFFER))
    hall.enter("a")
    hall.enter("b")
    hall.say("a", OFFER)
    hall.say("a", OFFER)
    assert closed(hall.say("a", OFFER), "a") == 1008
    assert hall.say("b", ANSWER) == [Send("a", ANSWER)]


def test_rooms_and_seats_of_an_address_are_bounded() -> None:
    hall = Hall(max_rooms=2, max_per_address=2)
    hall.enter("a", "r1")
    hall.enter("b", "r2")
    assert closed(hall.enter("c", "r1"), "c") == 1008
    assert closed(hall.enter("d", "r3", "10.0.0.1"), "d") == 1013
    assert hall.enter("e", "r1", "10.0.0.1") == []
    hall.rooms.leave("a")
    hall.rooms.leave("b")
    assert hall.enter("f", "r3") == []
    assert closed(Hall(max_per_address=0, max_rooms=0).enter("a"), "a") == 1013


def test_a_seat_lasts_its_lifetime_whatever_happens() -> None:
    hall = Hall(lifetime=50)
    hall.enter("a")
    hall.now += 10
    hall.enter("b")
    for _ in range(39):
        hall.now += 1
        hall.rooms.alive("a", hall.now)
        hall.rooms.alive("b", hall.now)
        assert hall.poll() == []
    assert closed(hall.poll(1), "a") == 1000
    assert hall.poll() == [], "told once"
    assert hall.rooms.leave("a") == [Send("b", LEFT)]


def test_silence_is_pinged_and_then_lost() -> None:
    hall = Hall()
    hall.enter("a")
    assert hall.poll(29.9) == []
    assert hall.poll(0.1) == [Ping("a")]
    assert hall.poll(1) == []
    assert hall.poll(29) == [Ping("a")]
    hall.rooms.alive("a", hall.now)
    assert hall.poll(30) == [Ping("a")]
    assert closed(hall.poll(70), "a") == 3002
    hall.rooms.alive("nobody", hall.now)


# --- the driver ------------------------------------------------------------------------------------


class NotedWire(TcpWire):
    """A wire that takes notes; its frames are those of TCP, which are easy to take apart."""

    kind = "websocket"

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.peer_address = address
        self.written: list[bytes] = []
        self.waiting = 0
        self.pings = 0
        self.end: int | None = None

    def write(self, data: bytes) -> None:
        self.written.append(data[4:])

    def buffered(self) -> int:
        return self.waiting

    def ping(self) -> bool:
        self.pings += 1
        return True

    def close(self, code: int, reason: str = "") -> None:
        self.end = code


def upgrade(query: str, *subprotocols: str) -> Upgrade:
    fields = [("sec-websocket-protocol", ", ".join(subprotocols))] if subprotocols else []
    return Upgrade("/connect", query, Headers(fields), None, "")


def driven(scene: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a scene; no timer may be left behind."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await scene()
        assert [h for h in loop._scheduled if not h.cancelled()] == []  # type: ignore[attr-defined]

    asyncio.run(main())


def test_wires_get_seats_after_their_handshake() -> None:
    async def scene() -> None:
        closes: list[int] = []
        signaling = Signaling(closed=closes.append)
        wires = [NotedWire() for _ in range(3)]
        first = signaling.make(wires[0], upgrade("room=r%201&x=y"))
        await asyncio.sleep(0)
        first.received(OFFER, False)
        second = signaling.make(wires[1], upgrade("room=r+1"))
        assert wires[1].written == []
        await asyncio.sleep(0)
        assert wires[1].written == [OFFER]
        third = signaling.make(wires[2], upgrade("room=r%201"))
        await asyncio.sleep(0)
        assert wires[2].end == CloseCode.POLICY_VIOLATION and wires[2].written == []
        third.closed(1008, "")
        second.received(ANSWER, False)
        second.batch_ended()
        second.writable()
        second.alive()
        assert wires[0].written == [ANSWER]
        first.closed(1001, "")
        assert wires[1].written == [OFFER, LEFT]
        second.closed(1006, "")
        assert closes == [1008, 1001, 1006]

    driven(scene)


def test_a_frame_that_comes_with_the_handshake_is_not_lost() -> None:
    async def scene() -> None:
        signaling = Signaling()
        wires = [NotedWire(), NotedWire()]
        first, second = (signaling.make(wire, upgrade("room=r")) for wire in wires)
        first.received(OFFER, False)
        await asyncio.sleep(0)
        assert wires[1].written == [OFFER]
        first.closed(1006, "")
        second.closed(1006, "")

    driven(scene)


def test_a_wire_that_closes_at_once_takes_no_seat() -> None:
    async def scene() -> None:
        signaling = Signaling()
        wires = [NotedWire(), NotedWire()]
        for wire in wires:
            signaling.make(wire, upgrade("room=r")).closed(1006, "")
        await asyncio.sleep(0)
        assert [wire.end for wire in wires] == [None, None]

    driven(scene)


def test_a_page_that_does_not_read_is_closed() -> None:
    async def scene() -> None:
        signaling = Signaling()
        wires = [NotedWire(), NotedWire()]
        first, second = (signaling.make(wire, upgrade("room=r")) for wire in wires)
        await asyncio.sleep(0)
        wires[1].waiting = MAX_UNREAD + 1
        first.received(OFFER, False)
        assert wires[1].end == 3001 and wires[0].end is None
        first.closed(1006, "")
        second.closed(3001, "")

    driven(scene)


def test_the_clock_ticks_while_somebody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duolink.server.signaling.TICK", 0.001)

    async def main() -> None:
        signaling = Signaling(RoomOptions(ping_after=0.0, lost_after=1e9))
        wire = NotedWire()
        pinged = asyncio.Event()
        monkeypatch.setattr(wire, "ping", pinged.set)
        seat = signaling.make(wire, upgrade("room=r"))
        await asyncio.wait_for(pinged.wait(), 5)
        pinged.clear()
        await asyncio.wait_for(pinged.wait(), 5)
        seat.closed(1006, "")

    asyncio.run(main())


@pytest.mark.parametrize(
    "query",
    [
        "",
        "room=",
        "room",
        "room=a&room=b",
        "room=%00",
        "room=" + "x" * 256,
        "room=%ff",
        "&".join("abcdefghi"),
    ],
)
def test_a_request_without_a_room_is_refused(query: str) -> None:
    with pytest.raises(Refused) as refused:
        Signaling().make(NotedWire(), upgrade(query))
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("offers", "status"),
    [
        ((), 401),
        (("duolink",), 401),
        (("ticket.a", "ticket.b"), 401),
        (("ticket.r2",), 403),
        (("ticket.",), 403),
    ],
)
def test_a_ticket_must_open_the_room(offers: tuple[str, ...], status: int) -> None:
    signaling = Signaling(ticket={"r1": "r1", "r2": "r2"}.get)
    with pytest.raises(Refused) as refused:
        signaling.make(NotedWire(), upgrade("room=r1", *offers))
    assert refused.value.status == status


def test_a_good_ticket_opens_the_room() -> None:
    async def scene() -> None:
        signaling = Signaling(ticket={"r1": "r1"}.get)
        seat = signaling.make(NotedWire(), upgrade("room=r1", "duolink", "ticket.r1"))
        await asyncio.sleep(0)
        assert cast(Seat, seat).entered
        seat.closed(1000, "")

    driven(scene)


def test_every_ticket_is_a_subprotocol() -> None:
    offered = Subprotocols(("duolink",))
    assert "ticket.abc" in offered and "duolink" in offered
    assert "other" not in offered and "Ticket.abc" not in offered
