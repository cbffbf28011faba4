"""Frames, messages and the closing handshake (RFC 6455 sections 5 to 7): bytes with their exact answer."""

import asyncio
import logging
import socket
import struct
from typing import Any

import picows
import pytest
import websockets.asyncio.client
from tests.conformance.websocket_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    LOOPS,
    PING,
    PONG,
    TEXT,
    Frame,
    Recorder,
    close,
    frame,
    request,
    run,
    serving,
)

from duolink.server.echo import echo_factory
from duolink.server.listener import Route
from duolink.server.options import ListenerOptions
from duolink.server.websocket import MAX_UNANSWERED_PINGS, WebSocketWire, close_frame

EURO = "\u20ac".encode()
KAPPA = "\u03ba\u1f79\u03c3\u03bc\u03b5".encode()


def text(payload: bytes = b"") -> Frame:
    """What the server sends."""
    return Frame(TEXT, payload)


def whole(payload: bytes) -> bytes:
    """A text in one frame."""
    return frame(TEXT, payload)


def first(payload: bytes = b"") -> bytes:
    """The first of several fragments of a text."""
    return frame(TEXT, payload, fin=False)


def middle(payload: bytes = b"") -> bytes:
    """A fragment that is neither first nor last."""
    return frame(CONTINUATION, payload, fin=False)


def last(payload: bytes = b"") -> bytes:
    """The last fragment."""
    return frame(CONTINUATION, payload)


def fragments(*parts: bytes, opcode: int = TEXT) -> bytes:
    """A message in fragments."""
    frames = [
        frame(opcode if index == 0 else CONTINUATION, part, fin=False) for index, part in enumerate(parts)
    ]
    frames[-1] = bytes([frames[-1][0] | 0x80]) + frames[-1][1:]
    return b"".join(frames)


# Well-formed: what comes back, before the close handshake that each case ends with.
ANSWERED = {
    "empty text": (frame(TEXT), [text()]),
    "text": (whole(b"hello"), [text(b"hello")]),
    "125 bytes": (whole(b"x" * 125), [text(b"x" * 125)]),
    "126 bytes": (whole(b"x" * 126), [text(b"x" * 126)]),
    "65535 bytes": (whole(b"x" * 65_535), [text(b"x" * 65_535)]),
    "65536 bytes": (whole(b"x" * 65_536), [text(b"x" * 65_536)]),
    "65536 bytes of binary": (frame(BINARY, b"\xfe" * 65_536), [Frame(BINARY, b"\xfe" * 65_536)]),
    "empty binary": (frame(BINARY), [Frame(BINARY, b"")]),
    "binary that is no UTF-8": (frame(BINARY, b"\xff\xfe\x00"), [Frame(BINARY, b"\xff\xfe\x00")]),
    "UTF-8 of two, three and four bytes": (
        whole(KAPPA + "\U0001f600".encode()),
        [text(KAPPA + "\U0001f600".encode())],
    ),
    "noncharacter U+FFFF": (whole(b"\xef\xbf\xbf"), [text(b"\xef\xbf\xbf")]),
    "last code point": (whole(b"\xf4\x8f\xbf\xbf"), [text(b"\xf4\x8f\xbf\xbf")]),
    "NUL": (whole(b"\0"), [text(b"\0")]),
    "three in one segment": (
        whole(b"1") + whole(b"2") + frame(BINARY, b"3"),
        [text(b"1"), text(b"2"), Frame(BINARY, b"3")],
    ),
    "two fragments": (fragments(b"frag", b"ment"), [text(b"fragment")]),
    "binary fragments": (fragments(b"\xff", b"\xfe", opcode=BINARY), [Frame(BINARY, b"\xff\xfe")]),
    "empty fragments": (fragments(b"", b"", b""), [text()]),
    "empty first and last fragment": (fragments(b"", b"middle", b""), [text(b"middle")]),
    "fragments of 65536 bytes": (
        fragments(b"x" * 32_768, b"y" * 32_768),
        [text(b"x" * 32_768 + b"y" * 32_768)],
    ),
    "4096 fragments": (fragments(*[b"x"] * 4096), [text(b"x" * 4096)]),
    "character across fragments": (fragments(EURO[:1], EURO[1:2], EURO[2:]), [text(EURO)]),
    "character across an empty fragment": (fragments(EURO[:2], b"", EURO[2:]), [text(EURO)]),
    "U+D7FF across fragments": (fragments(b"\xed\x9f", b"\xbf"), [text(b"\xed\x9f\xbf")]),
    "two fragmented messages": (
        fragments(b"a", b"b") + fragments(b"c", b"d", opcode=BINARY),
        [text(b"ab"), Frame(BINARY, b"cd")],
    ),
    "empty ping": (frame(PING), [Frame(PONG, b"")]),
    "ping": (frame(PING, b"are you there"), [Frame(PONG, b"are you there")]),
    "ping of 125 bytes": (frame(PING, b"\xfe" * 125), [Frame(PONG, b"\xfe" * 125)]),
    "ten pings": (
        b"".join(frame(PING, b"%d" % n) for n in range(10)),
        [Frame(PONG, b"%d" % n) for n in range(10)],
    ),
    "unsolicited pong": (frame(PONG, b"well") + whole(b"x"), [text(b"x")]),
    "ping amid fragments": (first(b"a") + frame(PING, b"p") + last(b"b"), [Frame(PONG, b"p"), text(b"ab")]),
    "pong amid fragments": (first(b"a") + frame(PONG, b"p") + last(b"b"), [text(b"ab")]),
    "ping between halves of a character": (
        first(EURO[:1]) + frame(PING) + last(EURO[1:]),
        [Frame(PONG, b""), text(EURO)],
    ),
}  # fmt: skip

# Violations: what comes back before, and the code of the close frame that ends it.
FAILED = {
    "65537 bytes": (whole(b"x" * 65_537), [], 1009),
    "65537 bytes of binary": (frame(BINARY, b"x" * 65_537), [], 1009),
    "header of 16 MiB, nothing more": (frame(TEXT, length=1 << 24), [], 1009),
    "header of 2^62 bytes, nothing more": (frame(BINARY, length=1 << 62), [], 1009),
    "header of 2^63 bytes": (frame(BINARY, length=1 << 63), [], 1002),
    "too big by its last fragment": (fragments(b"x" * 65_536, b"y"), [], 1009),
    "too big before its last fragment": (first(b"x" * 40_000) + middle(b"x" * 40_000), [], 1009),
    "length 125 in 16 bits": (frame(TEXT, b"x" * 125, form=16), [], 1002),
    "length 65535 in 64 bits": (frame(TEXT, b"x" * 65_535, form=64), [], 1002),
    "RSV1": (frame(TEXT, b"x", rsv=4), [], 1002),
    "RSV2": (frame(TEXT, b"x", rsv=2), [], 1002),
    "RSV3": (frame(BINARY, b"x", rsv=1), [], 1002),
    "RSV1 on a ping": (frame(PING, b"x", rsv=4), [], 1002),
    "RSV1 on a close": (frame(CLOSE, b"\x03\xe8", rsv=4), [], 1002),
    "RSV1 on a continuation": (first(b"x") + frame(CONTINUATION, b"y", rsv=4), [], 1002),
    "RSV after a good message": (
        whole(b"good") + frame(TEXT, b"x", rsv=2) + frame(PING),
        [text(b"good")], 1002,
    ),
    "unmasked text": (frame(TEXT, b"hello", masked=False), [], 1002),
    "unmasked ping": (frame(PING, masked=False), [], 1002),
    "unmasked close": (frame(CLOSE, b"\x03\xe8", masked=False), [], 1002),
    "unmasked after a good message": (
        whole(b"good") + frame(TEXT, b"x", masked=False),
        [text(b"good")], 1002,
    ),
    **{f"opcode {opcode}": (frame(opcode, b"x"), [], 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "reserved opcode after a good message": (whole(b"good") + frame(3) + frame(PING), [text(b"good")], 1002),
    "reserved opcode in a second segment of fragments": (first(b"x") + frame(5), [], 1002),
    "fragmented ping": (frame(PING, b"x", fin=False), [], 1002),
    "fragmented pong": (frame(PONG, b"x", fin=False), [], 1002),
    "fragmented close": (frame(CLOSE, b"\x03\xe8", fin=False), [], 1002),
    "ping of 126 bytes": (frame(PING, b"x" * 126), [], 1002),
    "pong of 126 bytes": (frame(PONG, b"x" * 126), [], 1002),
    "close of 126 bytes": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), [], 1002),
    "continuation of nothing": (last(b"x"), [], 1002),
    "open continuation of nothing": (middle(b"x"), [], 1002),
    "continuation after a whole message": (whole(b"x") + last(b"y"), [text(b"x")], 1002),
    "continuation after the last fragment": (fragments(b"a", b"b") + last(b"y"), [text(b"ab")], 1002),
    "text amid fragments": (first(b"x") + whole(b"y"), [], 1002),
    "binary amid fragments": (first(b"x") + frame(BINARY, b"y"), [], 1002),
    "new fragmented message amid fragments": (first(b"x") + first(b"y"), [], 1002),
    "4097 fragments": (first() + middle() * 4096, [], 1008),
    "lone continuation byte": (whole(b"\x80"), [], 1007),
    "cut-off character": (whole(EURO[:2]), [], 1007),
    "overlong slash": (whole(b"\xc0\xaf"), [], 1007),
    "surrogate": (whole(b"\xed\xa0\x80"), [], 1007),
    "above U+10FFFF": (whole(b"\xf4\x90\x80\x80"), [], 1007),
    "byte FF": (whole(b"ok\xff"), [], 1007),
    "bad UTF-8 after a good message": (
        whole(b"good") + whole(b"\xff") + whole(b"late"),
        [text(b"good")], 1007,
    ),
    "bad byte in a first fragment": (first(b"ok\xff"), [], 1007),
    "bad byte in a second fragment": (first(KAPPA) + middle(b"\xf4\x90"), [], 1007),
    "surrogate seen at its second byte": (first(b"\xed") + middle(b"\xa0"), [], 1007),
    "character cut off by the last fragment": (fragments(b"x", EURO[:2]), [], 1007),
    "character cut off by an empty last fragment": (fragments(EURO[:2], b""), [], 1007),
    "character continued by ASCII": (first(EURO[:2]) + middle(b"x"), [], 1007),
    "more pings than anyone needs": (frame(PING) * 101, [Frame(PONG, b"")] * 100, 1008),
    "more pongs than anyone needs": (frame(PONG) * 101, [], 1008),
}  # fmt: skip

# The peer's close frame, and the code that comes back.
CLOSES = {
    "empty": (close(), 1000),
    "one byte": (frame(CLOSE, b"\x03"), 1002),
    "with reason": (close(1000, b"bye"), 1000),
    "longest reason": (close(1000, b"x" * 123), 1000),
    "reason no UTF-8": (close(1000, b"\xff"), 1007),
    "reason cut off": (close(1000, EURO[:2]), 1007),
    "then text": (close(1000) + whole(b"late"), 1000),
    "then a ping": (close(1000) + frame(PING, b"late"), 1000),
    "then garbage": (close(1000) + b"\xff" * 100, 1000),
    "twice": (close(1001) + close(1000), 1001),
    "amid fragments": (first(b"x") + close(1000), 1000),
    **{
        f"code {code}": (close(code), code)
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1014, 3000, 4999)
    },
    **{
        f"code {code}": (close(code), 1002)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
}  # fmt: skip


def codes(frames: list[Frame]) -> list[int]:
    """The codes of close frames, each of which must be well-formed."""
    for found in frames:
        assert found.opcode == CLOSE and len(found.payload) >= 2
        found.payload[2:].decode()
    return [int.from_bytes(found.payload[:2]) for found in frames]


async def send(peer, data, pieces):
    if pieces == "whole":
        peer.send(data)
    else:
        await peer.trickle(data, 1 if len(data) < 2000 else 997)


PIECES = pytest.mark.parametrize("pieces", ["whole", "in pieces"])


@PIECES
@pytest.mark.parametrize("name", ANSWERED)
def test_answers(name, pieces):
    data, answer = ANSWERED[name]

    async def test():
        async with serving() as endpoint:
            peer = await endpoint.connect("/echo")
            await send(peer, data + close(1000), pieces)
            frames = await peer.frames()
            assert frames[:-1] == answer
            assert codes(frames[-1:]) == [1000]
            await peer.aclose()
            await endpoint.quiet()
            assert not any(event == "protocol_error" for event, _ in endpoint.counts)

    run(test)


@PIECES
@pytest.mark.parametrize("name", FAILED)
def test_fails(name, pieces):
    data, answer, code = FAILED[name]

    async def test():
        # The clock stands still, so that a slow machine does not forgive a flood.
        async with serving(clock=lambda: 1.0) as endpoint:
            peer = await endpoint.connect("/echo")
            await send(peer, data, pieces)
            frames = await peer.frames()
            assert frames[:-1] == answer
            assert codes(frames[-1:]) == [code]
            await peer.aclose()
            await endpoint.quiet()
            assert endpoint.counts["protocol_error", str(code)] == 1

    run(test)


@PIECES
@pytest.mark.parametrize("name", CLOSES)
def test_closes(name, pieces):
    data, code = CLOSES[name]

    async def test():
        async with serving() as endpoint:
            peer = await endpoint.connect("/echo")
            await send(peer, data, pieces)
            assert codes(await peer.frames()) == [code]

    run(test)


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        (close(), (1005, "")),
        (close(1001, b"leaving"), (1001, "leaving")),
        (close(4000, KAPPA), (4000, KAPPA.decode())),
        (close(1006), (1002, "invalid close code")),
        (frame(TEXT, b"\xff"), (1007, "invalid UTF-8")),
    ],
)
def test_the_user_hears_how_it_ended(sent, heard):
    async def test():
        async with serving() as endpoint:
            peer, user = await endpoint.record()
            peer.send(sent)
            await peer.frames()
            await peer.aclose()
            assert await user.until_closed() == heard
            assert endpoint.listener.wires == 0

    run(test)


def test_what_came_before_a_failure_is_delivered_and_nothing_after():
    async def test():
        async with serving() as endpoint:
            peer, user = await endpoint.record()
            peer.send(frame(TEXT, b"1") + frame(BINARY, b"2") + frame(3) + frame(TEXT, b"3"))
            await peer.frames()
            await peer.aclose()
            await user.until_closed()
            assert user.events[:-1] == [(b"1", False), (b"2", True), "batch"]

    run(test)


def test_batches_and_signs_of_life():
    async def test():
        async with serving() as endpoint:
            peer, user = await endpoint.record()
            peer.send(frame(TEXT, b"1") + frame(PING) + fragments(b"2", b"3"))
            await user.until("batch")
            assert user.events == [(b"1", False), "alive", (b"23", False), "batch"]
            user.events.clear()
            peer.send(frame(PONG))
            await user.until("batch")
            assert user.events == ["alive", "batch"]
            user.events.clear()
            peer.send(frame(TEXT, b"4") + frame(TEXT, b"cut")[:4])
            await user.until("batch")
            assert user.events == [(b"4", False), "batch"]
            user.events.clear()
            peer.send(frame(TEXT, b"5") + close(1000))  # answers can still be written before the close
            await user.until("batch")

    run(test)


def test_an_answer_in_batch_ended_precedes_the_close_frame():
    class Late(Recorder):
        def batch_ended(self):
            self.wire.write(self.wire.frame(b"answer"))

    async def test():
        async with serving(routes={"/late": Route(Late)}) as endpoint:
            peer = await endpoint.connect("/late")
            peer.send(frame(TEXT, b"question") + close(1000))
            first, *rest = await peer.frames()
            assert first == text(b"answer") and codes(rest) == [1000]

    run(test)


@pytest.mark.parametrize("loop", LOOPS)
def test_our_close_is_a_handshake(loop):
    async def test():
        async with serving() as endpoint:
            peer, user = await endpoint.record()
            user.wire.write(user.wire.frame(b"last words"))
            user.wire.close(4001, "enough")
            user.wire.close(4002, "again")
            user.wire.write(user.wire.frame(b"too late"))
            assert await peer.frame() == text(b"last words")
            assert await peer.frame() == Frame(CLOSE, struct.pack(">H", 4001) + b"enough")
            peer.send(frame(TEXT, b"crossed") + frame(PING) + first(b"\xff") + close(4001))
            assert await peer.frame() is None
            await peer.aclose()
            assert await user.until_closed() == (4001, "enough")
            assert [event for event in user.events if event != "batch"] == [("closed", 4001, "enough")]
            assert not endpoint.counts["protocol_error", "1007"]

    run(test, loop)


def test_our_close_while_the_peer_violates():
    async def test():
        async with serving() as endpoint:
            peer, user = await endpoint.record()
            user.wire.close(4001)
            peer.send(frame(3))
            assert codes(await peer.frames()) == [4001]

    run(test)


def test_closing_reads_on_after_a_pause():
    async def test():
        async with serving() as endpoint:
            peer, user = await endpoint.record()
            user.wire.pause_reading()
            user.wire.close(1000)
            peer.send(close(1000))
            assert codes(await peer.frames()) == [1000]
            await peer.aclose()
            await endpoint.quiet()

    run(test)


def test_a_peer_that_does_not_answer_a_close_is_cut_off():
    async def test():
        async with serving(ListenerOptions(close_timeout=0.05)) as endpoint:
            peer, user = await endpoint.record()
            user.wire.close(4001, "enough")
            assert await user.until_closed() == (4001, "enough")
            await endpoint.quiet()
            assert codes([await peer.frame() or text()]) == [4001]  # and then no FIN but a reset, or both

    run(test)


def test_a_peer_that_does_not_end_after_its_close_is_cut_off():
    async def test():
        async with serving(ListenerOptions(close_timeout=0.05)) as endpoint:
            peer, user = await endpoint.record()
            peer.send(close(1000))
            assert codes(await peer.frames()) == [1000]  # the stream ends; we leave our half open
            assert await user.until_closed() == (1000, "")
            await endpoint.quiet()

    run(test)


def test_abort():
    async def test():
        async with serving() as endpoint:
            _, user = await endpoint.record()
            user.wire.abort()
            user.wire.abort()
            assert await user.until_closed() == (1006, "")
            user.wire.abort()
            user.wire.close(1000)
            user.wire.pause_reading()
            user.wire.resume_reading()
            assert user.wire.ping() and user.wire.buffered() == 0
            user.wire.write(b"into the void")
            assert len([event for event in user.events if event[0] == "closed"]) == 1

    run(test)


@pytest.mark.parametrize("loop", LOOPS)
def test_reset_by_the_peer(loop):
    async def test():
        async with serving() as endpoint:
            peer, user = await endpoint.record()
            linger = struct.pack("ii", 1, 0)
            peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            peer.writer.transport.abort()
            assert await user.until_closed() == (1006, "")

    run(test, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_half_close_ends_the_wire_after_what_was_written(loop):
    async def test():
        async with serving() as endpoint:
            peer = await endpoint.connect("/echo")
            payload = b"x" * 60_000
            peer.send(frame(TEXT, payload) * 5)
            peer.writer.write_eof()
            assert await peer.frames() == [text(payload)] * 5
            await endpoint.quiet()

    run(test, loop)


def test_half_close_without_reading_is_cut_off():
    async def test():
        options = ListenerOptions(close_timeout=0.05)
        async with serving(options) as endpoint:
            peer, user = await endpoint.record()
            peer.stop_reading()
            while user.wire.buffered() < 1 << 20:
                user.wire.write(user.wire.frame(b"x" * 65_536))
            peer.writer.write_eof()
            assert await user.until_closed() == (1006, "")
            await endpoint.quiet()

    run(test)


def test_a_message_that_never_ends():
    async def test():
        async with serving(ListenerOptions(fragment_timeout=0.05)) as endpoint:
            peer = await endpoint.connect("/echo")
            peer.send(first(b"once upon a time"))
            assert codes(await peer.frames()) == [1008]

    run(test)


def test_the_fragment_deadline_ends_with_the_message():
    async def test():
        async with serving(ListenerOptions(fragment_timeout=0.05)) as endpoint:
            peer, user = await endpoint.record()
            peer.send(fragments(b"a", b"b"))
            await user.until((b"ab", False))
            loop = asyncio.get_running_loop()
            passed = loop.create_future()
            loop.call_later(0.1, passed.set_result, None)  # armed later, so it fires later
            await passed
            peer.send(frame(TEXT, b"c"))
            await user.until((b"c", False))

    run(test)


def test_one_pong_answers_all_pings_of_a_congested_peer():
    async def test():
        async with serving(ListenerOptions(write_high=1000, write_low=100)) as endpoint:
            peer, user = await endpoint.record()
            for pings in (10, 0):  # the second time, nothing may be left of the first
                user.events.clear()
                written = 0
                peer.stop_reading()
                while user.wire.buffered() <= 1000:
                    user.wire.write(user.wire.frame(b"x" * 65_536))
                    written += 1
                peer.send(b"".join(frame(PING, b"%d" % n) for n in range(pings)))
                while user.events.count("alive") < pings:
                    user.changed.clear()
                    await asyncio.wait_for(user.changed.wait(), 5)
                peer.read_on()
                for _ in range(written):
                    assert await peer.frame() == text(b"x" * 65_536)
                if pings:
                    assert await peer.frame() == Frame(PONG, b"9")
                await user.until("writable")
            peer.send(frame(PING, b"now"))
            assert await peer.frame() == Frame(PONG, b"now")

    run(test)


def test_a_peer_that_pings_and_does_not_read_is_closed():
    async def test():
        async with serving(ListenerOptions(write_high=1000, write_low=100)) as endpoint:
            peer, user = await endpoint.record()
            peer.stop_reading()
            written = 0
            while user.wire.buffered() <= 1000:
                user.wire.write(user.wire.frame(b"x" * 65_536))
                written += 1
            peer.send(frame(PING) * (MAX_UNANSWERED_PINGS + 1))
            await endpoint.counted("protocol_error", "1008")
            peer.read_on()
            frames = await peer.frames()
            assert len(frames) == written + 1
            assert codes(frames[-1:]) == [1008]

    run(test)


def test_pings_are_forgiven_after_a_second():
    now = 1.0

    async def test():
        nonlocal now
        async with serving(clock=lambda: now) as endpoint:
            peer = await endpoint.connect("/echo")
            for _ in range(3):
                peer.send(frame(PING, b"x") * 100)
                for _ in range(100):
                    assert await peer.frame() == Frame(PONG, b"x")
                now += 1.0
            peer.send(close(1000))
            assert codes(await peer.frames()) == [1000]

    run(test)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_peer_that_does_not_read_is_not_read(loop):
    """The echo holds a bounded amount for it, and goes on when it reads again."""

    async def test():
        options = ListenerOptions(close_timeout=1.0)
        async with serving(options) as endpoint:
            peer = await endpoint.connect("/echo")
            (wire,) = endpoint.listener._wires
            peer.stop_reading()
            payload = b"x" * 65_000
            sent = 0
            while not wire._paused:
                peer.send(frame(TEXT, payload))
                sent += 1
                await asyncio.sleep(0)
            assert wire.buffered() <= options.write_high + 4 * 65_536
            peer.read_on()
            for _ in range(sent):
                assert await peer.frame() == text(payload)
            assert not wire._paused

    run(test, loop)


def test_a_stalled_echo_is_cut_off():
    async def test():
        options = ListenerOptions()
        routes = {"/stall": Route(echo_factory(options, stall_timeout=0.05))}
        async with serving(options, routes=routes) as endpoint:
            peer = await endpoint.connect("/stall")
            peer.stop_reading()
            peer.send(frame(TEXT, b"x" * 1_000_000) * 10)
            await endpoint.quiet()

    run(test)


def test_pause_and_resume_reading():
    async def test():
        async with serving() as endpoint:
            peer, user = await endpoint.record()
            user.wire.pause_reading()
            user.wire.pause_reading()
            peer.send(frame(TEXT, b"1"))
            other, witness = await endpoint.record()  # a whole handshake later
            other.send(frame(TEXT, b"2"))
            await witness.until((b"2", False))
            assert user.events == []
            user.wire.resume_reading()
            user.wire.resume_reading()
            await user.until((b"1", False))

    run(test)


def test_a_flood_of_small_messages_comes_in_bounded_batches():
    async def test():
        async with serving(ListenerOptions(read_limit=4096)) as endpoint:
            peer, user = await endpoint.record()
            peer.send(frame(TEXT, b"x") * 20_000 + frame(TEXT, b"end"))
            await user.until((b"end", False))
            await user.until("batch")
            largest = size = 0
            for event in user.events:
                size = 0 if event == "batch" else size + 1
                largest = max(largest, size)
            assert 0 < largest <= 8192 // 7  # the read limit and what was left of the read before

    run(test)


def test_a_large_buffer_is_given_back_at_the_next_control_frame():
    async def test():
        async with serving() as endpoint:
            peer, user = await endpoint.record()
            wire: Any = user.wire
            parser = wire._parser
            peer.send(frame(TEXT, b"x" * 100_000))
            await user.until("batch")
            peer.send(frame(PONG) + frame(TEXT, b"cut")[:5])  # not while half a frame is in it
            await user.until("alive")
            assert wire._parser is parser
            peer.send(frame(TEXT, b"cut")[5:] + frame(PING, b"p"))
            assert await peer.frame() == Frame(PONG, b"p")
            assert wire._parser is not parser
            parser = wire._parser
            peer.send(frame(PING, b"q") + frame(TEXT, b"end"))
            await user.until((b"end", False))
            assert (b"cut", False) in user.events
            assert wire._parser is parser
            peer.send(frame(PING, b"r"))
            assert await peer.frame() == Frame(PONG, b"q")
            assert await peer.frame() == Frame(PONG, b"r")
            assert wire._parser is parser  # small: nothing to give back

    run(test)


def test_a_user_that_raises_ends_its_wire_only(caplog):
    class Faulty(Recorder):
        def received(self, payload, binary):
            super().received(payload, binary)
            raise ZeroDivisionError

    async def test():
        async with serving(routes={"/faulty": Route(Faulty)}) as endpoint:
            peer = await endpoint.connect("/faulty")
            bystander, _ = await endpoint.record()
            peer.send(frame(TEXT, b"1") + frame(TEXT, b"2"))
            assert codes(await peer.frames()) == [1011]
            bystander.send(close(1000))
            assert codes(await bystander.frames()) == [1000]

    with caplog.at_level(logging.ERROR):
        run(test)
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


def test_protocol_errors_are_not_logged(caplog):
    async def test():
        async with serving() as endpoint:
            for data in (frame(3), frame(TEXT, b"\xff"), frame(TEXT, b"x", masked=False), b"\x88\x80"):
                peer = await endpoint.connect("/echo")
                peer.send(data)
                peer.writer.write_eof()
                await peer.frames()

    with caplog.at_level(logging.INFO, logger="duolink"), caplog.at_level(logging.INFO, logger="picows"):
        run(test)
    assert not caplog.records


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_frame_and_its_reading(size):
    for binary, opcode in ((False, 1), (True, 2)):
        built = WebSocketWire.frame(b"x" * size, binary)
        unmasked = frame(opcode, b"x" * size, masked=False)
        assert built == unmasked


def test_close_reasons_are_cut_between_characters():
    built = close_frame(1000, "\u20ac" * 100)
    assert built[:4] == bytes([0x88, 2 + 123]) + b"\x03\xe8"
    assert built[4:].decode() == "\u20ac" * 41
    assert close_frame(1000, "\ud800")[4:] == b"?"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_a_code_that_may_not_be_sent_is_refused(code):
    async def test():
        async with serving() as endpoint:
            _, user = await endpoint.record()
            with pytest.raises(ValueError):
                user.wire.close(code)

    run(test)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_websockets_library(loop):
    async def test():
        async with serving() as endpoint:
            uri = f"ws://127.0.0.1:{endpoint.port}/echo"
            # It offers permessage-deflate, which is not agreed to.
            async with websockets.asyncio.client.connect(uri, proxy=None) as client:
                await client.send("caf\u00e9")
                assert await client.recv() == "caf\u00e9"
                await client.send([b"a", b"b", b"c"])
                assert await client.recv() == b"abc"
                await (await client.ping(b"x"))
            assert client.close_code == 1000

    run(test, loop)


def test_the_picows_client():
    class Client(picows.WSListener):
        def __init__(self):
            self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def on_ws_connected(self, transport):
            transport.send(picows.WSMsgType.TEXT, b"hello")

        def on_ws_frame(self, transport, frame):
            if frame.msg_type == picows.WSMsgType.TEXT:
                self.answer.set_result(frame.get_payload_as_bytes())
                transport.send_close(picows.WSCloseCode.OK)

    async def test():
        async with serving() as endpoint:
            uri = f"ws://127.0.0.1:{endpoint.port}/echo"
            client = Client()
            transport, _ = await picows.ws_connect(lambda: client, uri)
            assert await asyncio.wait_for(client.answer, 5) == b"hello"
            await asyncio.wait_for(transport.wait_disconnected(), 5)
            received = transport.close_handshake.recv
            assert received is not None and received.code == picows.WSCloseCode.OK

    run(test)


def test_upgrade_on_both_loops_survives_one_byte_reads():
    async def test():
        async with serving() as endpoint:
            peer = await endpoint.connect()
            await peer.trickle(request() + frame(TEXT, b"hello") + close(1000))
            assert (await peer.response()).status == 101
            first, *rest = await peer.frames()
            assert first == text(b"hello") and codes(rest) == [1000]

    for loop in LOOPS:
        run(test, loop)
