"""The only parser of outside bytes: payloads to messages and back.

User data stays `msgspec.Raw`, that is, the bytes as they came. Nothing behind this module looks into them,
so this is where they are made safe to forward: no newline (a text payload is split at newlines
before anything is decoded, so that no data can pose as a second message), valid UTF-8, and nesting no
deeper than `limits.MAX_DEPTH`. A parser never raises to its driver: what cannot be decoded comes out as
`Malformed`, in its place among the messages.
"""

import re
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from duolink.protocol import limits
from duolink.protocol.codes import ErrorCode
from duolink.protocol.messages import (
    BOUNDED_TYPES,
    CARRIER_TYPES,
    NO_DATA,
    Ephemeral,
    FromClient,
    FromPeer,
    FromServer,
    LinkMessage,
    Message,
    Publication,
    Publish,
    Set,
)

Carrier = LinkMessage | Ephemeral | Publish | Set | Publication
"""The messages whose user data may be bytes."""


class Malformed(NamedTuple):
    """A line that is no message: which error it deserves, and a sentence for people. A message that is
    merely too large comes along, so that the answer can name it."""

    code: ErrorCode
    reason: str
    message: Message | None = None


class DataError(ValueError):
    """User data that may not travel: not JSON, a newline, invalid UTF-8, too deep."""


_STRAY_BINARY: Final = Malformed(ErrorCode.MALFORMED, "binary data travels in a binary frame")


class _Head(msgspec.Struct):
    type: str


# An unterminated string is one, too; possessive, so that no input makes it slow.
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_OTHERS: Final = bytes(set(range(256)) - set(b"[]{}"))
_TO_SQUARES: Final = bytes.maketrans(b"{}", b"[]")
_RUN: Final = re.compile(rb"\[+|\]+|x+")
_LINE_DEPTH: Final = limits.MAX_DEPTH + 1
"""Nesting of a line: its data, within the message."""

_BRACE: Final = ord("{")
_SQUARE: Final = ord("[")
_NEWLINE: Final = ord("\n")
_NEWLINES: Final = re.compile(rb"[\r\n]")
_head_decoder: Final = msgspec.json.Decoder(_Head)
_any_decoder: Final = msgspec.json.Decoder()
_encoder: Final = msgspec.json.Encoder()

encode = _encoder.encode
"""Message → one line of a text payload. Binary data goes through `encode_binary`."""


class Decoder:
    """Decodes payloads of one kind of far end: `client`, `server` or `peer` (see `messages.ALLOWED`)."""

    __slots__ = ("_decode", "_decode_lines", "_known", "_maximum")

    def __init__(self, allowed: Any, max_message: int = limits.MAX_MESSAGE) -> None:
        decoder = msgspec.json.Decoder(allowed)
        self._decode = decoder.decode
        self._decode_lines = decoder.decode_lines
        self._known = {struct.__struct_config__.tag for struct in allowed.__args__}
        self._maximum = max_message

    def text(self, payload: bytes) -> list[Any]:
        """Decode the payload of a text frame.

        Returns one item for each line of the payload, in order: the message, or a `Malformed`. One
        `Malformed` for the whole payload, if it is not UTF-8 or has too many lines.
        """
        if not payload.isascii() and not is_utf8(payload):
            return [Malformed(ErrorCode.MALFORMED, "not UTF-8")]
        # A message alone, without brackets of its own: most of them. (`find` of a byte is the cheapest look.)
        if payload.find(_BRACE, 1) < 0 > payload.find(_SQUARE) and payload.find(_NEWLINE) < 0:
            try:
                message = self._decode(payload)
            except msgspec.DecodeError:
                return [self._line(payload)]
            if type(message) is LinkMessage and not message.binary and len(payload) <= self._maximum:
                return [message]
        if payload.find(_NEWLINE) < 0:
            return [self._line(payload)]
        newlines = payload.count(b"\n")
        if newlines >= limits.MAX_BATCH:
            return [Malformed(ErrorCode.LIMIT, f"more than {limits.MAX_BATCH} messages in one frame")]
        # All lines in one call, where every newline is certain to stand between two messages: in JSON
        # a `{` follows a `}` nowhere but at the top level.
        if (
            payload.count(b"}\n{") == newlines
            and len(payload) <= self._maximum
            and payload.count(b"{") + payload.count(b"[") - newlines <= _LINE_DEPTH
        ):
            try:
                messages = self._decode_lines(payload)
            except msgspec.DecodeError:
                messages = []
            if len(messages) == newlines + 1:
                for index, message in enumerate(messages):
                    if type(message) in CARRIER_TYPES and message.binary:
                        messages[index] = _STRAY_BINARY
                return messages
        line = self._line
        return [line(part) for part in payload.split(b"\n")]

    def _line(self, line: bytes) -> Any:
        if len(line) > max(self._maximum, limits.MAX_MESSAGE):
            return self._too_large(self._named(line))
        if _deeper(line, _LINE_DEPTH):
            return Malformed(ErrorCode.MALFORMED, f"nested deeper than {limits.MAX_DEPTH}")
        try:
            message = self._decode(line)
        except msgspec.ValidationError as error:
            return self._explain(line, error)
        except msgspec.DecodeError as error:
            return Malformed(ErrorCode.MALFORMED, f"not JSON: {error}")
        if len(line) > self._maximum and (
            type(message) not in BOUNDED_TYPES or len(line) > limits.MAX_MESSAGE
        ):
            return self._too_large(message)
        if type(message) in CARRIER_TYPES and message.binary:
            return _STRAY_BINARY
        return message

    def _named(self, line: bytes) -> Message | None:
        """What is too large to be taken, if it can be read at all."""
        try:
            return self._decode(line)  # type: ignore[no-any-return]
        except (msgspec.DecodeError, RecursionError):
            return None

    def _too_large(self, message: Message | None) -> Malformed:
        return Malformed(ErrorCode.TOO_LARGE, f"a message has at most {self._maximum} bytes", message)

    def binary(self, payload: bytes) -> list[Any]:
        """Decode the payload of a binary frame: a header line, a newline, raw bytes."""
        end = payload.find(b"\n")
        if end < 0:
            return [Malformed(ErrorCode.MALFORMED, "a binary frame is a header line, a newline, bytes")]
        header = payload[:end]
        if not is_utf8(header):
            return [Malformed(ErrorCode.MALFORMED, "the header is not UTF-8")]
        if _deeper(header, limits.MAX_DEPTH):
            return [Malformed(ErrorCode.MALFORMED, f"nested deeper than {limits.MAX_DEPTH}")]
        try:
            message = self._decode(header)
        except msgspec.ValidationError as error:
            return [self._explain(header, error)]
        except msgspec.DecodeError as error:
            return [Malformed(ErrorCode.MALFORMED, f"not JSON: {error}")]
        if type(message) not in CARRIER_TYPES or not message.binary or bytes(message.data):
            return [Malformed(ErrorCode.MALFORMED, 'a binary frame carries one message with "binary":true')]
        if len(payload) > self._maximum:
            return [self._too_large(message)]
        message.data = Raw(payload[end + 1 :])
        return [message]

    def _explain(self, line: bytes, error: msgspec.ValidationError) -> Malformed:
        try:
            kind = _head_decoder.decode(line).type
        except msgspec.DecodeError:
            return Malformed(ErrorCode.MALFORMED, "not an object with a type")
        if kind not in self._known:
            return Malformed(ErrorCode.UNKNOWN_TYPE, f"no type {kind[:32]!r} here")
        return Malformed(ErrorCode.MALFORMED, f"{kind}: {error}")


CLIENT: Final = Decoder(FromClient)
SERVER: Final = Decoder(FromServer)
PEER: Final = Decoder(FromPeer)


def encode_binary(message: Carrier) -> bytes:
    """Return the payload of a binary frame for a message with bytes as its data."""
    data = message.data
    message.data = NO_DATA
    header = _encoder.encode(message)
    message.data = data
    return b"%b\n%b" % (header, bytes(data))


def depth(text: bytes) -> int:
    """Return how deep the brackets of a JSON text nest, without recursion; strings do not count."""
    deepest = level = 0
    brackets = _STRING.sub(b"", text).translate(_TO_SQUARES, _OTHERS)
    for run in _RUN.findall(brackets.replace(b"[]", b"x")):  # in runs: a loop over all of them takes long
        if run[0] == _SQUARE:
            level += len(run)
            deepest = max(deepest, level)
        elif run[:1] == b"x":
            deepest = max(deepest, level + 1)
        else:
            level -= len(run)
    return deepest


def _deeper(text: bytes, bound: int) -> bool:
    return text.count(b"{") + text.count(b"[") > bound and depth(text) > bound


def is_utf8(data: bytes) -> bool:
    """Whether the bytes are valid UTF-8."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_user(name: str) -> bool:
    """Whether a name may be a user's, as messages are addressed to it: `@` and what the user is called."""
    return is_id(name, limits.MAX_CLIENT_ID) and name[0] == "@" and len(name) > 1


def check_json(data: bytes) -> Raw:
    """Make JSON of outside origin (HTTP, a bus, an application's own encoder) fit to travel as `data`.

    Newlines are legal white space in JSON and would split a payload: they become spaces, which
    changes nothing, since a JSON string cannot contain one unescaped.

    Raises `DataError` for what is not JSON, not UTF-8 or too deep.
    """
    if not is_utf8(data):
        raise DataError("not UTF-8")
    if _deeper(data, limits.MAX_DEPTH):
        raise DataError(f"nested deeper than {limits.MAX_DEPTH}")
    try:
        _any_decoder.decode(data)
    except msgspec.DecodeError as error:
        raise DataError(f"not JSON: {error}") from None
    return Raw(_NEWLINES.sub(b" ", data))


def encode_json(value: Any) -> Raw:
    """Encode an application's value as `data`.

    Raises `DataError` for a value that is not JSON or nests too deep.
    """
    try:
        data = _encoder.encode(value)
    except RecursionError:
        raise DataError(f"nested deeper than {limits.MAX_DEPTH}") from None
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        raise DataError(str(error)) from None
    if _deeper(data, limits.MAX_DEPTH):
        raise DataError(f"nested deeper than {limits.MAX_DEPTH}")
    if b"\n" in data:  # a Raw within the value
        return check_json(data)
    return Raw(data)


def decode_json(data: Raw) -> Any:
    """Decode received `data` into plain Python values. Absent data is None.

    Raises `DataError` for JSON that Python has no value for, such as 1e999, and for bytes that are no JSON.
    """
    body = bytes(data)
    try:
        return _any_decoder.decode(body) if body else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(str(error)) from None


def is_id(name: str, maximum: int) -> bool:
    """Whether a name may be a client id or a channel: 1 … `maximum` UTF-8 bytes, no control
    characters, no lone surrogates. Ids are compared as UTF-8 bytes."""
    if not name or any(ord(char) < 0x20 or ord(char) == 0x7F for char in name):
        return False
    try:
        return len(name.encode()) <= maximum
    except UnicodeEncodeError:
        return False


def is_client_id(name: str) -> bool:
    """Whether a name may be a client's: `@` begins a user's name and `$` the server's own."""
    return is_id(name, limits.MAX_CLIENT_ID) and name[0] not in "@$"
