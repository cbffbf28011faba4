"""Mutated payloads against the codec: `python -m tests.fuzz.codec --seconds 60 --seed 1`.

Whatever the bytes, this holds (`check`):

- decoding never raises; a text payload gives one item for each of its lines, the same as line by line;
- what decodes, encodes to one line, which decodes to the same message: nobody can make the server write
  a line that it did not read;
- data that is let through is JSON (by another parser), UTF-8, without a newline, at most 64 deep.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from duolink.protocol import codec, limits
from duolink.protocol.codec import Decoder, Malformed
from duolink.protocol.messages import CARRIER_TYPES

CORPUS: Final = Path(__file__).parent / "corpus.json"
DECODERS: Final = {"client": codec.CLIENT, "server": codec.SERVER, "peer": codec.PEER}

TOKENS: Final[Sequence[bytes]] = (
    b"\n", b"\r", b"\x00", b"\x7f", b"\xff", b"\xc3\xa9", b"\xe2\x80\xa8", b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b'"', b"\\", b'\\"', b"\\u0000", b"\\ud800", b"\\udc00", b"\\n", b"{", b"}", b"[", b"]", b":", b",",
    b"{}", b"[]", b"null", b"true", b"0", b"-1", b"1.0", b"1e999", b"9007199254740991", b"9007199254740992",
    b"18446744073709551616", b"9" * 400, b"[" * 64, b"[" * 65, b"]" * 64, b'{"a":' * 64, b"}" * 64,
    b'"type":"ping"', b'"type":"welcome"', b'"binary":true', b'"from":"b"', b'"to":"b"', b'"data":1',
    b'"data":""',
    b'{"type":"ping"}', b'\n{"type":"ping"}', b'}\n{', b'{"type":"ping"}\n', b" ", b"\t", b"\xef\xbb\xbf",
)  # fmt: skip
"""What is worth putting somewhere: delimiters, extremes, pieces of other messages."""


class Broken(AssertionError):
    """An invariant does not hold."""


def corpus() -> list[bytes]:
    """The payloads every run begins with."""
    return [from_json(entry) for entry in json.loads(CORPUS.read_text(encoding="utf-8"))]


def from_json(entry: Any) -> bytes:
    """A payload of a JSON file: a string is UTF-8, a list joins strings, byte values and [piece, times]."""
    if isinstance(entry, str):
        return entry.encode()
    return b"".join(
        piece.encode()
        if isinstance(piece, str)
        else bytes([piece])
        if isinstance(piece, int)
        else from_json([piece[0]]) * piece[1]
        for piece in entry
    )


def check(payload: bytes, decoder: Decoder) -> int:
    """Raise `Broken` unless everything promised holds for these bytes. Returns how many messages they are."""
    if len(payload) < 1000 and codec.depth(payload) != nesting(payload):
        raise Broken(f"depth {codec.depth(payload)} is {nesting(payload)}")
    messages = decoder.text(payload)
    lines = payload.split(b"\n")
    if len(messages) != len(lines) and not (len(messages) == 1 and isinstance(messages[0], Malformed)):
        raise Broken(f"{len(messages)} items for {len(lines)} lines")
    if len(lines) > 1 and len(messages) == len(lines):
        alone = [decoder.text(line)[0] for line in lines]
        if [_kind(message) for message in alone] != [_kind(message) for message in messages]:
            raise Broken(f"together {messages}, alone {alone}")
    good = [message for message in messages if not isinstance(message, Malformed)]
    for message in good:
        _check_message(message, decoder)
    again = b"\n".join(codec.encode(message) for message in good)
    if good and len(good) <= limits.MAX_BATCH and decoder.text(again) != good:
        raise Broken(f"{good} changed on the way")
    for message in decoder.binary(payload):
        if isinstance(message, Malformed):
            continue
        good.append(message)
        if message != decoder.binary(codec.encode_binary(message))[0]:
            raise Broken(f"{message} changed on the way")
    return len(good)


def _kind(item: Any) -> Any:
    return item[:1] if isinstance(item, Malformed) else item


def _check_message(message: Any, decoder: Decoder) -> None:
    line = codec.encode(message)
    if b"\n" in line:
        raise Broken(f"{message} has a newline")
    if type(message) in CARRIER_TYPES and message.binary:
        raise Broken("binary data in a text payload")
    data = bytes(getattr(message, "data", b""))
    if not data:
        return
    try:
        json.loads(data.decode())
    except ValueError as error:
        raise Broken(f"data is not JSON: {data[:80]!r}: {error}") from None
    if nesting(data) > limits.MAX_DEPTH:
        raise Broken(f"data is {nesting(data)} deep")
    with suppress(codec.DataError):  # JSON that Python cannot hold, such as 1e999
        codec.decode_json(message.data)


def nesting(text: bytes) -> int:
    """How deep a JSON text nests, counted byte by byte: the slow, obvious way."""
    level = deepest = 0
    within = escaped = False
    for byte in text:
        if within:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                within = False
        elif byte == 0x22:
            within = True
        elif byte in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif byte in b"]}":
            level -= 1
    return deepest


def mutate(seeds: Sequence[bytes], dice: random.Random) -> bytes:
    """A seed with one to six changes."""
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 4, 6))):
        at = dice.randrange(len(data) + 1)
        to = min(len(data), at + dice.choice((1, 1, 2, 4, 16, 64)))
        change = dice.randrange(7)
        if change == 0:
            data[at:at] = dice.choice(TOKENS)
        elif change == 1:
            data[at:to] = dice.choice(TOKENS)
        elif change == 2:
            del data[at:to]
        elif change == 3 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif change == 4:
            data[at:at] = data[at:to] * dice.choice((1, 2, 70))
        elif change == 5:
            other = dice.choice(seeds)
            begin = dice.randrange(len(other) + 1)
            data[at:] = other[begin:]
        else:
            data += b"\n" + dice.choice(seeds)
        del data[4096:]
    return bytes(data)


def run(seed: int, *, seconds: float = float("inf"), count: int = sys.maxsize) -> tuple[int, int]:
    """Fuzz for a time or a number of payloads. Returns their number, and the messages that got through.

    Raises `Broken`, or whatever the codec raised, with the payload in a note.
    """
    dice = random.Random(seed)
    seeds = corpus()
    until = time.monotonic() + seconds
    done = through = 0
    while done < count and (done % 256 or time.monotonic() < until):
        payload = mutate(seeds, dice)
        for end, decoder in DECODERS.items():
            try:
                found = check(payload, decoder)
            except Exception as error:
                error.add_note(f"seed {seed}, payload {done}, from {end}: {payload!r}")
                raise
            through += found
            if found and end == "client" and len(seeds) < 4000 and dice.random() < 0.02:
                seeds.append(payload)  # what gets through leads further
        done += 1
    return done, through


def main() -> None:
    """Run from the command line; a traceback with the payload is the report of a failure."""
    parser = argparse.ArgumentParser(description="Feed mutated payloads to the codec.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    done, through = run(options.seed, seconds=options.seconds)
    print(f"{done} payloads, {through} messages got through, nothing broke")


if __name__ == "__main__":
    main()
