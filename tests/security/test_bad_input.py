"""Bad input over real sockets: each has its documented answer, its counter and its place in the log, no
traceback, and two clients who talk meanwhile notice nothing and lose nothing."""

import asyncio
import json
import logging
import re
import struct
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import structlog
import uvloop
from tests.conformance.websocket_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Peer,
    frame,
    request,
)

import duolink
from duolink import State
from duolink.protocol import limits
from duolink.server import Server
from duolink.server.config import Config
from duolink.server.options import ListenerOptions
from duolink.server.settings import Listen, Wire

TIMEOUT = 10.0
IMPATIENT = Config(
    listen=Listen(port=0, tcp_port=0),
    wire=Wire(handshake_timeout_s=0.3, hello_timeout_s=0.3, fragment_timeout_s=0.3, close_timeout_s=0.5),
)
PATIENT = Config(listen=Listen(port=0, tcp_port=0))


# --- the bystanders ----------------------------------------------------------------------------------


class Bystanders:
    """Two clients who exchange numbers, one after the other, as long as it lasts."""

    def __init__(self, alice: duolink.Client, bob: duolink.Client) -> None:
        self.alice, self.bob = alice, bob
        self.said = 0
        self.heard: list[tuple[str, Any]] = []
        self.changes: list[State] = []
        self._moved = asyncio.Event()
        for client in (alice, bob):
            client.on_event(lambda event: self.changes.append(getattr(event, "state", None)))  # type: ignore[arg-type]
        bob.on_message(self._hear)
        self._talking = asyncio.create_task(self._talk())

    def _hear(self, message: duolink.Message) -> None:
        self.heard.append((message.sender, message.data))
        self._moved.set()

    async def _talk(self) -> None:
        link = self.alice.link("bob")
        while True:
            sent = await link.send(self.said)
            self.said += 1
            await sent.delivered()

    async def go_on(self, count: int = 3) -> None:
        """Wait until some more messages have been delivered."""
        goal = len(self.heard) + count
        while len(self.heard) < goal:
            self._moved.clear()
            await asyncio.wait_for(self._moved.wait(), TIMEOUT)

    async def check(self) -> None:
        """Stop talking. Everything arrived, in order, from nobody else, and no connection was lost."""
        await self.go_on()
        self._talking.cancel()
        with suppress(asyncio.CancelledError):
            await self._talking
        async with asyncio.timeout(TIMEOUT):
            while len(self.heard) < self.said:
                self._moved.clear()
                await self._moved.wait()
        assert self.heard == [("alice", number) for number in range(self.said)]
        assert self.alice.state is self.bob.state is State.ONLINE
        assert not {State.RECONNECTING, State.OFFLINE, State.CLOSED} & set(self.changes)


# --- the attacker --------------------------------------------------------------------------------------


class Attacker:
    """A client that may send anything, over WebSocket or TCP."""

    def __init__(self, peer: Peer, tcp: bool) -> None:
        self.peer, self.tcp = peer, tcp
        self.run = 0
        self.code = 0
        """Once the connection has ended: the close code, of a TCP connection its goodbye's."""
        self._messages: list[dict[str, Any]] = []

    def send(self, payload: bytes, binary: bool = False) -> None:
        if self.tcp:
            self.peer.send(struct.pack(">I", len(payload) | binary << 31) + payload)
        else:
            self.peer.send(frame(BINARY if binary else TEXT, payload))

    def say(self, **fields: Any) -> None:
        self.send(line(**fields))

    async def hear(self) -> dict[str, Any]:
        """The next message; `closed` with its code when the connection has ended."""
        while not self._messages:
            payload = await self._payload()
            if payload is None:
                self.peer.writer.close()
                return {"type": "closed", "code": self.code}
            self._messages += [json.loads(part) for part in payload.split(b"\n")]
        message = self._messages.pop(0)
        if message["type"] == "goodbye" and self.tcp:
            self.code = message["code"]
        return message

    async def _payload(self) -> bytes | None:
        if self.tcp:
            async with asyncio.timeout(TIMEOUT):
                try:
                    size = int.from_bytes(await self.peer.reader.readexactly(4))
                except asyncio.IncompleteReadError:
                    return None
                return await self.peer.reader.readexactly(size)
        found = await self.peer.frame()
        while found is not None and found.opcode == PONG:
            found = await self.peer.frame()
        if found is None:
            return None
        if found.opcode == CLOSE:
            (self.code,) = struct.unpack(">H", found.payload[:2])
            self.peer.send(frame(CLOSE, found.payload))
            return None
        return found.payload

    async def until(self, kind: str) -> dict[str, Any]:
        while (message := await self.hear())["type"] != kind:
            assert message["type"] != "closed", f"closed with {self.code} before {kind}"
        return message

    async def greet(self) -> None:
        self.say(type="hello", protocol=1, client_id="mallory")
        self.run = (await self.until("welcome"))["run"]

    async def alive(self) -> None:
        """It is answered still."""
        self.say(type="ping", id=99)
        assert (await self.until("pong"))["id"] == 99


def line(**fields: Any) -> bytes:
    if "sender" in fields:
        fields["from"] = fields.pop("sender")
    return json.dumps(fields, separators=(",", ":")).encode()


# --- the world -----------------------------------------------------------------------------------------


class World:
    def __init__(self, server: Server) -> None:
        self.server = server
        self._peers: list[Peer] = []

    async def attacker(self, transport: str, greeted: bool = True) -> Attacker:
        tcp = transport == "tcp"
        port = self.server.tcp_port if tcp else self.server.port
        peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
        self._peers.append(peer)
        if not tcp:
            await peer.open("/ws")
        attacker = Attacker(peer, tcp)
        if greeted:
            await attacker.greet()
        return attacker

    async def raw(self, transport: str) -> Peer:
        """A connection on which nothing has been said."""
        port = self.server.tcp_port if transport == "tcp" else self.server.port
        self._peers.append(Peer(*await asyncio.open_connection("127.0.0.1", port)))
        return self._peers[-1]

    async def metrics(self) -> Counter[str]:
        def scrape() -> str:
            with urllib.request.urlopen(self.server.http_url + "metrics", timeout=TIMEOUT) as answer:
                return str(answer.read().decode())

        text = await asyncio.to_thread(scrape)
        return Counter(
            {name: int(float(value)) for name, value in re.findall(r"^(duolink_\S+) (\S+)$", text, re.M)}
        )

    async def moved(self, before: Counter[str], *names: str) -> None:
        """Wait until these counters have moved: a close is counted when the transport is gone."""
        async with asyncio.timeout(TIMEOUT):
            while missing := [name for name in names if (await self.metrics())[name] <= before[name]]:
                assert missing

    async def aclose(self) -> None:
        for peer in self._peers:
            peer.writer.transport.abort()
            await peer.aclose()


@asynccontextmanager
async def world_of(config: Config) -> AsyncIterator[World]:
    async with Server(config=config) as server:
        world = World(server)
        async with (
            duolink.connect(server.url, client_id="alice") as alice,
            duolink.connect(server.url, client_id="bob") as bob,
        ):
            bystanders = Bystanders(alice, bob)
            await bystanders.go_on(1)
            try:
                yield world
            finally:
                await world.aclose()
            await bystanders.check()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the server logs; a traceback or an error in it fails the test."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.reset_defaults()  # another test may have sent the log elsewhere
    caplog.set_level(logging.INFO)
    yield caplog
    structlog.reset_defaults()
    if before is not None:
        structlog.configure(**before)
    for record in caplog.get_records("call"):
        assert record.levelno < logging.ERROR and not record.exc_info, record
        assert "Traceback" not in record.getMessage()


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.get_records("call") if record.levelno == logging.WARNING]


def play(work: Callable[[World], Coroutine[Any, Any, None]], config: Config = PATIENT) -> None:
    problems: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        async with asyncio.timeout(3 * TIMEOUT), world_of(config) as world:
            await work(world)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert not problems


def error(code: str) -> str:
    return f'duolink_errors_total{{code="{code}"}}'


def closed(code: int) -> str:
    return f'duolink_closes_total{{code="{code}"}}'


both = pytest.mark.parametrize("transport", ["ws", "tcp"])


# --- after welcome: a typed error, and the connection goes on --------------------------------------------

BIG = "x" * (limits.MAX_MESSAGE + 10)
DEEP = b'{"type":"message","to":"bob","run":RUN,"seq":1,"base":1,"data":'


def numbered(**fields: Any) -> bytes:
    head = {"type": "message", "to": "bob", "run": "RUN", "seq": 1, "base": 1, "data": "bad"}
    return line(**head | fields).replace(b'"RUN"', b"RUN")


ANSWERED: dict[str, tuple[bytes, str, dict[str, Any]]] = {
    "no JSON": (b"hello?", "malformed", {}),
    "half a message": (b'{"type":"message","to":"b', "malformed", {}),
    "nothing": (b"", "malformed", {}),
    "an empty object": (b"{}", "malformed", {}),
    "an array": (b"[]", "malformed", {}),
    "a bare number": (b"17", "malformed", {}),
    "a lone surrogate as a type": (rb'{"type":"\ud800"}', "malformed", {}),
    "two messages without a newline": (b'{"type":"ping","id":1}{"type":"ping","id":2}', "malformed", {}),
    "wrong type of a field": (numbered(to=5), "malformed", {}),
    "a number as text": (numbered(seq="1"), "malformed", {}),
    "a negative number": (numbered(seq=-1), "malformed", {}),
    "a number too large": (numbered(seq=2**53), "malformed", {}),
    "a fraction": (numbered(seq=1.5), "malformed", {}),
    "no number": (line(type="message", to="bob", data=1), "malformed", {}),
    "NaN": (DEEP + b"NaN}", "malformed", {}),
    "deep data": (DEEP + b"[" * 65 + b"]" * 65 + b"}", "malformed", {}),
    "very deep data": (DEEP + b"[" * 30_000 + b"]" * 30_000 + b"}", "malformed", {}),
    "a deep envelope": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "malformed", {}),
    "an unknown type": (line(type="launch"), "unknown_type", {}),
    "a server's type": (line(type="welcome"), "unknown_type", {}),
    "a large message": (numbered(data=BIG), "too_large", {"to": "bob", "seq": 1}),
    "a large publication": (line(type="publish", id=7, channel="c", data=BIG), "too_large", {"id": 7}),
    "a forged message": (numbered(sender="alice"), "forbidden", {"to": "bob", "seq": 1}),
    "a forged ack": (line(type="ack", to="bob", sender="alice", run=1, seq=1), "forbidden", {"to": "bob"}),
    "a forged signal": (line(type="signal", to="bob", sender="alice", data=1), "forbidden", {"to": "bob"}),
    "a forged ephemeral": (line(type="ephemeral", to="bob", sender="alice", data=1), "forbidden", {}),
    "another process's number": (numbered(run=1), "forbidden", {"to": "bob", "run": 1, "seq": 1}),
    "a user without a name": (numbered(to="@"), "forbidden", {"to": "@"}),
    "the server's namespace": (numbered(to="$root"), "forbidden", {"to": "$root"}),
    "a name with a newline": (numbered(to="bob\n"), "malformed", {"to": "bob\n"}),
    "no name": (numbered(to=""), "malformed", {"seq": 1}),
    "no such lane": (numbered(lane="fast"), "malformed", {"lane": "fast"}),
    "a number below its base": (numbered(base=2), "malformed", {"seq": 1}),
    "a backward skip": (numbered(type="skip", seq=5, last=4, reason="expired"), "malformed", {"seq": 5}),
    "a full window": (numbered(seq=limits.WINDOW + 1), "credit", {"to": "bob", "seq": limits.WINDOW + 1}),
    "an endless skip": (numbered(type="skip", last=2**53 - 1, reason="expired"), "credit", {"seq": 1}),
    "too many subscriptions": (
        line(type="subscribe", id=7, channels=[{"channel": f"c{n}"} for n in range(129)]), "limit", {"id": 7},
    ),
    "too many watched": (line(type="watch", id=7, clients=[f"c{n}" for n in range(257)]), "limit", {"id": 7}),
    "too many messages": (b"\n".join([line(type="ack", to="x", run=1, seq=1)] * 1025), "limit", {}),
    "an unknown channel": (
        line(type="subscribe", id=7, channels=[{"channel": "\0"}]), "unknown_channel", {"channel": "\0"},
    ),
    "a publication to no channel": (line(type="publish", id=7, channel="\n"), "unknown_channel", {"id": 7}),
    "a publication without a channel": (line(type="publish", id=7, channel=""), "malformed", {}),
    "history of no channel": (line(type="history", id=7, channel="\n"), "unknown_channel", {"id": 7}),
    "presence of no channel": (line(type="presence", id=7, channel="\n"), "forbidden", {"id": 7}),
    "binary in a text frame": (numbered(binary=True), "malformed", {}),
    "a newline in data": (DEEP + b'"a\nb"}', "malformed", {}),
}  # fmt: skip
"""What is sent (RUN stands for the run), the error's code, and what the error names."""


@both
@pytest.mark.parametrize("name", ANSWERED)
def test_answered_by_an_error(name: str, transport: str, log: pytest.LogCaptureFixture) -> None:
    payload, code, fields = ANSWERED[name]

    async def work(world: World) -> None:
        attacker = await world.attacker(transport)
        before = await world.metrics()
        attacker.send(payload.replace(b"RUN", str(attacker.run).encode()))
        answer = await attacker.until("error")
        assert answer["code"] == code and not answer.get("fatal"), answer
        assert {key: answer.get(key) for key in fields} == fields, answer
        await attacker.alive()
        await world.moved(before, error(code))

    play(work)
    assert warnings(log)


def test_a_newline_smuggles_no_message(log: pytest.LogCaptureFixture) -> None:
    """What follows a newline in data is a message of the attacker's own, and is treated as one."""

    async def work(world: World) -> None:
        attacker = await world.attacker("ws")
        before = await world.metrics()
        inner = numbered(sender="alice", data="forged").replace(b"RUN", str(attacker.run).encode())
        attacker.send(numbered(data="INNER").replace(b"INNER", b"\n" + inner + b"\n"))
        answers = [(await attacker.until("error"))["code"] for _ in range(3)]
        assert answers == ["malformed", "forbidden", "malformed"]
        await attacker.alive()
        await world.moved(before, error("malformed"), error("forbidden"))

    play(work)


@both
def test_bad_binary_payloads(transport: str, log: pytest.LogCaptureFixture) -> None:
    async def work(world: World) -> None:
        attacker = await world.attacker(transport)
        before = await world.metrics()
        header = numbered(binary=True).replace(b"RUN", str(attacker.run).encode())
        for payload in (b"", b"\n", b"\xff\n", header, header + b"\nbytes", line(type="ping", id=1) + b"\n"):
            attacker.send(payload, binary=True)
            assert (await attacker.until("error"))["code"] == "malformed", payload
        await attacker.alive()
        await world.moved(before, error("malformed"))

    play(work)


@both
def test_a_fuzzer_is_sent_away_and_does_not_fill_the_log(
    transport: str, log: pytest.LogCaptureFixture
) -> None:
    async def work(world: World) -> None:
        attacker = await world.attacker(transport)
        before = await world.metrics()
        for _ in range(17):
            attacker.send(b"?")
        answers = [await attacker.hear() for _ in range(19)]
        assert [answer.get("code") for answer in answers] == ["malformed"] * 17 + [1008] * 2
        await world.moved(before, error("malformed"), closed(1008))
        lines = [record for record in log.get_records("call") if record.getMessage() == "bad message"]
        assert 1 <= len(lines) <= 5

    play(work)


# --- what ends the connection ------------------------------------------------------------------------------

HELLO: dict[str, Any] = {"type": "hello", "protocol": 1, "client_id": "mallory"}

ENDED: dict[str, tuple[bytes, str, int]] = {
    "no JSON before hello": (b"GET / HTTP/1.1", "malformed", 1008),
    "an unknown type before hello": (line(type="launch"), "unknown_type", 1008),
    "nothing before hello": (b"", "malformed", 1008),
    "a publication before hello": (line(type="publish", id=1, channel="c", data=1), "wrong_state", 1008),
    "a message before hello": (numbered().replace(b"RUN", b"1"), "wrong_state", 1008),
    "a goodbye before hello": (line(type="goodbye", code=1000), "wrong_state", 1008),
    "two hellos at once": (line(**HELLO) + b"\n" + line(**HELLO), "wrong_state", 1008),
    "another version": (line(**HELLO | {"protocol": 2}), "version", 3503),
    "no client id": (line(**HELLO | {"client_id": ""}), "malformed", 1008),
    "the server's name": (line(**HELLO | {"client_id": "$server"}), "bad_hello", 3504),
    "a user's name": (line(**HELLO | {"client_id": "@bob"}), "bad_hello", 3504),
    "a newline in the name": (line(**HELLO | {"client_id": "a\nb"}), "bad_hello", 3504),
    "a run from the future": (line(**HELLO | {"run": 2**53 - 1}), "bad_hello", 3504),
    "a name in use": (line(**HELLO | {"client_id": "alice"}), "duplicate", 3501),
    "an earlier run of a client": (line(**HELLO | {"client_id": "alice", "run": 1}), "superseded", 3502),
}
"""What is sent first, the error's code, the close code."""


@both
@pytest.mark.parametrize("name", ENDED)
def test_ended_before_it_began(name: str, transport: str, log: pytest.LogCaptureFixture) -> None:
    payload, code, close = ENDED[name]

    async def work(world: World) -> None:
        attacker = await world.attacker(transport, greeted=False)
        before = await world.metrics()
        attacker.send(payload)
        answer = await attacker.until("error")
        assert answer["code"] == code and answer["fatal"], answer
        assert (await attacker.until("goodbye"))["code"] == close
        assert await attacker.hear() == {"type": "closed", "code": close}
        await world.moved(before, error(code), closed(close))

    play(work)
    assert warnings(log)


@both
def test_a_second_hello(transport: str, log: pytest.LogCaptureFixture) -> None:
    async def work(world: World) -> None:
        attacker = await world.attacker(transport)
        before = await world.metrics()
        attacker.say(**HELLO)
        answer = await attacker.until("error")
        assert answer["code"] == "wrong_state" and answer["fatal"]
        await attacker.until("goodbye")
        assert await attacker.hear() == {"type": "closed", "code": 1008}
        await world.moved(before, error("wrong_state"), closed(1008))

    play(work)
    assert warnings(log)


@both
@pytest.mark.parametrize(
    ("payload", "code"),
    [(b'{"type":"\xff"}', 1007), (b"x" * (limits.MAX_PAYLOAD + 1), 1009)],
    ids=["not UTF-8", "a huge payload"],
)
def test_a_payload_no_transport_takes(
    payload: bytes, code: int, transport: str, log: pytest.LogCaptureFixture
) -> None:
    async def work(world: World) -> None:
        attacker = await world.attacker(transport)
        before = await world.metrics()
        attacker.send(payload)
        while (await attacker.hear())["type"] != "closed":
            pass
        assert attacker.code == code
        await world.moved(before, closed(code))

    play(work)


@both
def test_no_hello_in_time(transport: str, log: pytest.LogCaptureFixture) -> None:
    async def work(world: World) -> None:
        attacker = await world.attacker(transport, greeted=False)
        before = await world.metrics()
        await attacker.until("goodbye")
        assert await attacker.hear() == {"type": "closed", "code": 3004}
        await world.moved(before, closed(3004))

    play(work, IMPATIENT)


# --- slow, endless, half -----------------------------------------------------------------------------------


def test_a_slow_loris_on_the_request_head(log: pytest.LogCaptureFixture) -> None:
    async def work(world: World) -> None:
        before = await world.metrics()
        peers = [await world.raw("ws") for _ in range(50)]
        trickling = [asyncio.create_task(trickle(peer, request("/ws")[:-2])) for peer in peers]
        for peer in peers:
            assert (await peer.response()).status == 408
        for task in trickling:
            task.cancel()
        await asyncio.gather(*trickling, return_exceptions=True)
        await world.moved(before, 'duolink_handshake_refusals_total{reason="request_timeout"}')

    play(work, IMPATIENT)


async def trickle(peer: Peer, data: bytes) -> None:
    """A byte per turn of the loop, then silence: never a whole head."""
    with suppress(OSError):
        await peer.trickle(data)


def test_a_slow_loris_on_tcp(log: pytest.LogCaptureFixture) -> None:
    async def work(world: World) -> None:
        before = await world.metrics()
        attacker = await world.attacker("tcp", greeted=False)
        attacker.peer.send(struct.pack(">I", 100) + b"{")
        await attacker.until("goodbye")
        assert await attacker.hear() == {"type": "closed", "code": attacker.code}
        assert attacker.code in (3004, 1008), "the hello's deadline or the payload's, whichever is first"
        await world.moved(before, closed(attacker.code))

    play(work, IMPATIENT)


def test_fragments_that_never_end(log: pytest.LogCaptureFixture) -> None:
    async def work(world: World) -> None:
        attacker = await world.attacker("ws")
        before = await world.metrics()
        attacker.peer.send(frame(TEXT, b"once", fin=False))
        while (await attacker.hear())["type"] != "closed":
            pass
        assert attacker.code == 1008
        await world.moved(before, closed(1008))

    play(work, IMPATIENT)


def test_fragments_without_number(log: pytest.LogCaptureFixture) -> None:
    async def work(world: World) -> None:
        attacker = await world.attacker("ws")
        before = await world.metrics()
        attacker.peer.send(frame(TEXT, b"x", fin=False))
        piece = frame(CONTINUATION, b"x" * 60_000, fin=False)
        attacker.peer.send(piece * (limits.MAX_PAYLOAD // 60_000 + 1))
        while (await attacker.hear())["type"] != "closed":
            pass
        assert attacker.code == 1009
        await world.moved(before, closed(1009))

    play(work)


def test_a_flood_of_control_frames(log: pytest.LogCaptureFixture) -> None:
    """So many in a second are answered; with more it is no client any more."""

    async def work(world: World) -> None:
        allowed = ListenerOptions().max_controls
        attacker = await world.attacker("ws")
        before = await world.metrics()
        attacker.peer.send(frame(PING, b"?" * 125) * (allowed // 2))
        await attacker.alive()
        attacker.peer.send(frame(PING, b"?" * 125) * (10 * allowed))
        while (await attacker.hear())["type"] != "closed":
            pass
        assert attacker.code == 1008
        await world.moved(before, closed(1008))

    play(work)


@both
def test_a_flood_of_pings_that_reads_nothing(transport: str, log: pytest.LogCaptureFixture) -> None:
    """What waits for it is bounded: beyond that it is closed, and cut off if it does not read even then."""

    async def work(world: World) -> None:
        attacker = await world.attacker(transport)
        before = await world.metrics()
        attacker.peer.stop_reading()
        pings = b"\n".join([line(type="ping", id=2**53 - 1)] * 1000)

        async def flood() -> None:
            while True:
                attacker.send(pings)
                await attacker.peer.writer.drain()

        flooding = asyncio.create_task(flood())
        await world.moved(before, closed(3001))
        flooding.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await flooding

    config = Config(listen=PATIENT.listen, wire=Wire(send_buffer=131_072, close_timeout_s=0.3))
    play(work, config)


@both
def test_a_half_closed_socket(transport: str, log: pytest.LogCaptureFixture) -> None:
    """Who ends its half has left: what it said counts, and its session waits to be resumed."""

    async def work(world: World) -> None:
        attacker = await world.attacker(transport)
        before = await world.metrics()
        attacker.say(type="ping", id=1)
        attacker.peer.writer.write_eof()
        assert (await attacker.hear()) == {"type": "pong", "id": 1}
        await attacker.peer.ended()
        await world.moved(before, closed(1006))
        now = await world.metrics()
        assert now['duolink_sessions{state="detached"}'] == 1

    play(work)


@both
def test_a_reset_in_the_middle_of_a_payload(transport: str, log: pytest.LogCaptureFixture) -> None:
    async def work(world: World) -> None:
        attacker = await world.attacker(transport)
        before = await world.metrics()
        attacker.peer.send(
            frame(TEXT, b"x" * 100)[:50] if not attacker.tcp else struct.pack(">I", 100) + b"x"
        )
        attacker.peer.writer.transport.abort()
        await world.moved(before, closed(1006))

    play(work)
