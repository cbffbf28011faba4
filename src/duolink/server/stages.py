"""What each message means in each stage of a connection, as a table."""

from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from duolink.protocol.codec import Malformed
from duolink.protocol.codes import CloseCode, ErrorCode
from duolink.protocol.messages import (
    Ack,
    Ephemeral,
    Error,
    Goodbye,
    Hello,
    History,
    LinkMessage,
    Message,
    Ping,
    Pong,
    PresenceQuery,
    Probe,
    Publish,
    Refresh,
    Set,
    Signal,
    Skip,
    Subscribe,
    Watch,
)

if TYPE_CHECKING:
    from duolink.server.connection import Connection


class Stage(Enum):
    """How far a connection has come."""

    NEW = auto()
    """Waits for `hello`."""
    GREETING = auto()
    """Its hello is being decided."""
    OPEN = auto()
    """Carries a session."""
    CLOSING = auto()
    """Nothing counts any more."""


def _hello(connection: "Connection", hello: Hello) -> None:
    connection.node.greeter.hello(connection, hello)


def _wrong_state(connection: "Connection", message: Message) -> None:
    text = "a second hello" if type(message) is Hello else "hello comes first, and welcome before the rest"
    _send_away(connection, ErrorCode.WRONG_STATE, text, text)


def _malformed_early(connection: "Connection", problem: Malformed) -> None:
    _send_away(connection, problem.code, problem.reason[:1024], "not a hello")


def _send_away(connection: "Connection", code: ErrorCode, text: str, reason: str) -> None:
    node = connection.node
    node.log.warning(
        code, "a client broke the protocol", node.now, address=connection.peer_address, problem=text
    )
    connection.end(CloseCode.POLICY_VIOLATION, reason, error=Error(code=code, message=text, fatal=True))


def _malformed(connection: "Connection", problem: Malformed) -> None:
    message: Any = problem.message
    fields: dict[str, Any] = {}
    for name in ("id", "to", "lane", "run", "seq", "channel"):
        value = getattr(message, name, None)
        if value:
            fields[name] = value
    if problem.code is ErrorCode.TOO_LARGE:
        connection.error(problem.code, problem.reason, **fields)
    else:
        connection.offend(problem.code, problem.reason[:1024], **fields)


def _goodbye(connection: "Connection", goodbye: Goodbye) -> None:
    connection.end(CloseCode.NORMAL, "goodbye", leaving=True)


def _pong_back(connection: "Connection", ping: Ping) -> None:
    connection.tell(Pong(id=ping.id))


def _pong(connection: "Connection", pong: Pong) -> None:
    connection.alive()


def _link_message(connection: "Connection", message: LinkMessage) -> None:
    connection.node.links.message(connection, message, b"")


def _ephemeral(connection: "Connection", message: Ephemeral) -> None:
    if message.sender:
        connection.forged(message)
    elif message.channel:
        connection.node.channels.ephemeral(connection, message)
    else:
        connection.node.links.ephemeral(connection, message)


def _drop(connection: "Connection", message: Message) -> None:
    """After the end nothing counts."""


Handler = Callable[[Any, Any], None]

_OPEN: Final[dict[type, Handler]] = {
    Hello: _wrong_state,
    Goodbye: _goodbye,
    Refresh: lambda connection, message: connection.node.greeter.refresh(connection, message),
    Ping: _pong_back,
    Pong: _pong,
    LinkMessage: _link_message,
    Ack: lambda connection, message: connection.node.links.ack(connection, message),
    Skip: lambda connection, message: connection.node.links.skip(connection, message),
    Probe: lambda connection, message: connection.node.links.probe(connection, message),
    Watch: lambda connection, message: connection.node.watchers.watch(connection, message),
    Signal: lambda connection, message: connection.node.links.signal(connection, message),
    Ephemeral: _ephemeral,
    Subscribe: lambda connection, message: connection.node.channels.subscribe(connection, message),
    Publish: lambda connection, message: connection.node.channels.publish(connection, message),
    Set: lambda connection, message: connection.node.channels.publish(connection, message),
    History: lambda connection, message: connection.node.histories.ask(connection, message),
    PresenceQuery: lambda connection, message: connection.node.channels.presence(connection, message),
    Malformed: _malformed,
}

HANDLERS: Final[dict[Stage, dict[type, Handler]]] = {
    Stage.NEW: {**dict.fromkeys(_OPEN, _wrong_state), Hello: _hello, Malformed: _malformed_early},
    Stage.GREETING: {**dict.fromkeys(_OPEN, _wrong_state), Malformed: _malformed_early},
    Stage.OPEN: _OPEN,
    Stage.CLOSING: dict.fromkeys(_OPEN, _drop),
}
"""Stage → type of message → what it means there."""
