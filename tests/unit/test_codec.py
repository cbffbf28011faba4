"""Outside bytes: what gets through is safe to forward, what does not is named, nothing raises."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from duolink.protocol import codec, limits
from duolink.protocol.codec import DataError, Malformed
from duolink.protocol.codes import ErrorCode
from duolink.protocol.messages import (
    Ack,
    Ephemeral,
    FromClient,
    Hello,
    LinkMessage,
    LostRange,
    Ping,
    Position,
    Subscribe,
    Watch,
)

MESSAGE = b'{"type":"message","to":"b","run":1,"seq":1,"base":1,"data":%b}'
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def only(payload: bytes) -> Malformed:
    (item,) = codec.CLIENT.text(payload)
    assert isinstance(item, Malformed)
    return item


# --- text payloads -----------------------------------------------------------------------------------


def test_user_data_cannot_forge_a_line() -> None:
    """History 13: a newline inside user data would reach the other client as a line of its own, so that the
    payload is split before anything is decoded; then the host line is broken and nothing was gained."""
    forged = MESSAGE % b'[\n{"type":"ping","id":9}\n]'
    first, second, third = codec.CLIENT.text(forged)
    assert isinstance(first, Malformed) and isinstance(third, Malformed)
    assert second == Ping(id=9), "its sender's own ping, not the receiver's"


def test_lines_that_are_surely_whole_are_those_decoded_one_by_one() -> None:
    """The fast way for many lines: a brace, newline, brace inside a string must not fool it."""
    for payload in (
        b'{"type":"ping","id":1}\n{"type":"ping","id":2}',
        MESSAGE % b'"}\n{"',
        MESSAGE % b'[{}\n{"type":"ping"}\n{}]',
        b'{"type":"ping"}{"type":"ping"}\n{"type":"ping"}',
        b'{"type":"ping"}\n{"type":"nonsense"}',
        (MESSAGE % b"1") + b'\n{"type":"ephemeral","to":"b","binary":true}',
    ):
        together = [item[0] if isinstance(item, Malformed) else item for item in codec.CLIENT.text(payload)]
        alone = [codec.CLIENT.text(line)[0] for line in payload.split(b"\n")]
        assert together == [item[0] if isinstance(item, Malformed) else item for item in alone]


@given(st.lists(JSON, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_what_an_application_sends_arrives_as_it_was(values: list[object]) -> None:
    sent = [LinkMessage(run=1, seq=1, base=1, to="b", data=codec.encode_json(value)) for value in values]
    got = codec.CLIENT.text(b"\n".join(codec.encode(message) for message in sent))
    assert [codec.decode_json(message.data) for message in got] == values


def test_data_may_be_64_deep_and_no_deeper() -> None:
    deep = b"[" * 64 + b"]" * 64
    (message,) = codec.CLIENT.text(MESSAGE % deep)
    assert bytes(message.data) == deep
    assert only(MESSAGE % (b"[" + deep + b"]")).code is ErrorCode.MALFORMED
    assert codec.CLIENT.text((MESSAGE % deep) + b"\n" + (MESSAGE % deep))[1] == message


def test_brackets_in_strings_are_not_depth() -> None:
    (message,) = codec.CLIENT.text(MESSAGE % (b'"' + b"[" * 500 + b'"'))
    assert isinstance(message, LinkMessage)


@pytest.mark.parametrize(
    "evil",
    [
        b"[" * 66 + b'"' + b'\\"' * 32000,
        b"[" * 66 + b'"\\' * 20000,
        b"[" * 65000,
        b'{"a":' * 13000,
        b'"' * 65000,
        b"[" * 66 + b'"' * 64000,
    ],
)
def test_no_line_is_slow(evil: bytes) -> None:
    """A line from anybody, before hello, must not cost seconds (an unterminated string full of escaped
    quotes once cost twelve)."""
    begin = time.process_time()
    only(evil)
    assert time.process_time() - begin < 0.25


def test_a_message_that_is_too_large_can_be_named_in_the_answer() -> None:
    """`too_large` names `to`, `lane` and `seq`, so that its sender skips the number."""
    problem = only(MESSAGE % (b'"' + b"a" * limits.MAX_MESSAGE + b'"'))
    assert problem.code is ErrorCode.TOO_LARGE
    assert isinstance(problem.message, LinkMessage) and problem.message.seq == 1
    binary = LinkMessage(run=1, seq=2, base=1, to="b", binary=True, data=Raw(b"x" * limits.MAX_MESSAGE))
    (problem,) = codec.CLIENT.binary(codec.encode_binary(binary))
    assert problem.code is ErrorCode.TOO_LARGE and problem.message.seq == 2


def test_too_many_lines_are_one_refusal() -> None:
    assert only(b"\n" * limits.MAX_BATCH).code is ErrorCode.LIMIT


def test_a_decoder_may_have_another_maximum() -> None:
    small = codec.Decoder(Ping | LinkMessage, max_message=40)
    assert small.text(b'{"type":"ping"}') == [Ping()]
    assert small.text(b'{"type":"ping",' + b" " * 40 + b'"id":1}')[0].code is ErrorCode.TOO_LARGE
    assert (
        small.text(b'{"type":"ping"}\n{"type":"ping",' + b" " * 40 + b'"id":1}')[1].code
        is ErrorCode.TOO_LARGE
    )


def test_a_lower_maximum_does_not_hold_for_what_other_limits_bound() -> None:
    """Else a client with many channels could not come back to a server that takes small messages."""
    small = codec.Decoder(FromClient, max_message=1024)
    names = [f"peer {number}" for number in range(200)]
    for message in (
        Hello(protocol=1, client_id="a", watch=names),
        Watch(id=1, clients=names),
        Subscribe(id=1, channels=[Position(name) for name in names]),
        Ack(run=1, seq=999, to="b", lost=[LostRange(n, n, "expired") for n in range(1, 201)]),
    ):
        line = codec.encode(message)
        assert len(line) > 1024 and small.text(line) == [message]
        assert small.text(b'{"type":"ping"}\n' + line)[1] == message
    names = [f"{number:0100}" for number in range(700)]
    assert small.text(codec.encode(Watch(id=1, clients=names)))[0].code is ErrorCode.TOO_LARGE


def test_invalid_utf8_spoils_a_payload_as_a_whole() -> None:
    """Its lines cannot be trusted: Raw data would carry the bytes to somebody else."""
    assert only(b'{"type":"ping"}\n\xff').code is ErrorCode.MALFORMED


# --- binary payloads -----------------------------------------------------------------------------------


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_travel_in_a_binary_payload(data: bytes) -> None:
    message = Ephemeral(to="b", binary=True, data=Raw(data))
    payload = codec.encode_binary(message)
    assert bytes(message.data) == data, "encoding leaves the message as it was"
    assert codec.CLIENT.binary(payload) == [message]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"no newline",
        b"\n",
        b"\xff\n",
        b'{"x":%b}\n' % (b"[" * 66),
        b'{"type":"message","run":0,"binary":true}\n',
        b'{"type":"ping"}\nx',
        b'{"type":"message","to":"b","run":1,"seq":1,"base":1}\nx',
    ],
)
def test_a_binary_payload_without_its_header_is_refused(payload: bytes) -> None:
    (item,) = codec.CLIENT.binary(payload)
    assert isinstance(item, Malformed) and item.code is ErrorCode.MALFORMED


# --- data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{"a": object()}, float, "\ud800", [1, object()], {(1, 2): 3}])
def test_what_is_not_json_is_a_data_error(value: object) -> None:
    with pytest.raises(DataError):
        codec.encode_json(value)


def test_what_nests_too_deep_is_a_data_error() -> None:
    value: list[object] = []
    for _ in range(64):
        value = [value]
    with pytest.raises(DataError, match="deeper"):
        codec.encode_json(value)
    for _ in range(5000):
        value = [value]
    with pytest.raises(DataError, match="deeper"):
        codec.encode_json(value)


def test_raw_data_within_a_value_is_checked() -> None:
    """An application may put its own JSON into a value; its newlines become spaces."""
    assert bytes(codec.encode_json([Raw(b'{"a":\n1}')])) == b'[{"a": 1}]'
    with pytest.raises(DataError):
        codec.encode_json([Raw(b"\n,")])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff", "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b"[" * 65 + b"]" * 65, "deeper"),
        (b"{", "JSON"),
        (b"", "JSON"),
        (b'"a\nb"', "JSON"),
        (b"1 2", "JSON"),
    ],
)
def test_json_from_elsewhere_is_checked_at_the_door(data: bytes, problem: str) -> None:
    """History 13: HTTP bodies and what a bus brings pass the same gate."""
    with pytest.raises(DataError, match=problem):
        codec.check_json(data)


def test_newlines_of_json_from_elsewhere_become_spaces() -> None:
    assert bytes(codec.check_json(b'{\r\n"a": [1,\n2]}')) == b'{  "a": [1, 2]}'


def test_absent_data_is_none_and_impossible_data_an_error() -> None:
    assert codec.decode_json(Raw(b"")) is None
    assert codec.decode_json(Raw(b"[1]")) == [1]
    for body in (b"1e999", b"bytes", b'"\xff"', b"[" * 60_000):
        with pytest.raises(DataError):
            codec.decode_json(Raw(body))


# --- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "ä", "😀", "a b", "a" * 128, "ä" * 64, "\u2028", "bob@home", "bob$"])
def test_what_may_be_a_client(name: str) -> None:
    assert codec.is_client_id(name)


@pytest.mark.parametrize(
    "name", ["", "a" * 129, "ä" * 65, "a\n", "\x00", "\x7f", "\t", "\ud800", "@bob", "$server", "@"]
)
def test_what_may_not_be_a_client(name: str) -> None:
    assert not codec.is_client_id(name)


def test_ids_are_compared_as_bytes_not_as_utf_16() -> None:
    """History 15: Python and JavaScript order U+FFEE and U+1F600 oppositely; UTF-8 bytes order alike, and no
    two names that differ in bytes are one (no normalisation)."""
    assert "\uffee".encode() < "\U0001f600".encode()
    assert "\uffee".encode("utf-16-be") > "\U0001f600".encode("utf-16-be"), "what JavaScript would say"
    composed, combined = "\u00e9", "e\u0301"
    assert codec.is_client_id(composed) and codec.is_client_id(combined)
    (one,) = codec.CLIENT.text(f'{{"type":"watch","id":1,"clients":["{composed}","{combined}"]}}'.encode())
    assert len(set(one.clients)) == 2
