"""The vocabulary: which types there are, where each may go, and how they look on the wire."""

import msgspec
import pytest

from duolink.protocol import codec, messages
from duolink.protocol.messages import ALLOWED, LinkMessage, Message

TYPES = sorted(
    (kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, Message)),
    key=lambda kind: kind.__name__,
)
WIRE = {kind.__struct_config__.tag: kind for kind in TYPES if kind is not Message}


def tags(end: str) -> set[str]:
    return {str(kind.__struct_config__.tag) for kind in ALLOWED[end].__args__}


def test_every_message_may_come_from_somewhere() -> None:
    assert tags("client") | tags("server") | tags("peer") == set(WIRE)


def test_a_data_channel_carries_link_messages_and_pings_only() -> None:
    """History 14: welcome, channels, signals and verdicts are the server's alone."""
    assert tags("peer") == {"message", "ack", "skip", "probe", "ping", "pong"}


def test_a_client_cannot_say_what_only_a_server_may() -> None:
    assert tags("client").isdisjoint(
        {"welcome", "error", "wait", "stored", "peer", "watching", "subscribed", "publication", "join"}
    )


@pytest.mark.parametrize("tag", WIRE)
def test_names_on_the_wire_are_lower_case_words(tag: str) -> None:
    assert tag.replace("_", "").isalpha() and tag.islower()


@pytest.mark.parametrize("kind", [kind for kind in TYPES if "sender" in kind.__struct_fields__])
def test_whose_it_is_is_called_from(kind: type[Message]) -> None:
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    assert names["sender"] == "from"


def test_defaults_are_left_out() -> None:
    assert codec.encode(LinkMessage(run=1, seq=2, base=1)) == b'{"type":"message","run":1,"seq":2,"base":1}'


def test_user_data_travels_as_it_came() -> None:
    """Not parsed, not re-encoded: white space, key order and number format stay."""
    data = b'{ "b" : 1.50e1, "a":[ ],"a":"\\u00e9" }'
    line = b'{"type":"message","to":"b","run":1,"seq":1,"base":1,"data":' + data + b"}"
    (message,) = codec.CLIENT.text(line)
    assert bytes(message.data) == data
    assert data in codec.encode(message)


def test_integers_are_those_of_javascript() -> None:
    """0 … 2⁵³−1: what both languages hold exactly."""
    for struct in WIRE.values():
        info = msgspec.inspect.type_info(struct)
        assert isinstance(info, msgspec.inspect.StructType)
        for field in info.fields:
            if isinstance(field.type, msgspec.inspect.IntType):
                assert field.type.ge in (0, 1), (struct, field.name)
                assert field.type.le is not None and field.type.le <= 2**53 - 1, (struct, field.name)
