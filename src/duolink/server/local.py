"""The embedding application as a client of its own node: `$server`, without a wire.

It is an ordinary connection with an ordinary session, except that what the node sends it comes out as
messages, and what it says is taken without being decoded. Until an application `attach`es, `$server` is away
like any other client that is not here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from duolink.protocol.messages import LinkMessage, Message
from duolink.server.auth import EVERYTHING, Identity
from duolink.server.connection import Connection
from duolink.server.nowire import GONE
from duolink.server.policy import SERVER as NAME
from duolink.server.registry import Session
from duolink.server.stages import HANDLERS, Stage

if TYPE_CHECKING:
    from duolink.server.node import Node


class LocalConnection(Connection):
    """The connection of `$server`. Never full, never closed, without heartbeat."""

    __slots__ = "_deliver"

    def __init__(self, node: "Node", run: int) -> None:
        super().__init__(node, GONE, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._deliver: Callable[[Any], None] | None = None
        identity = Identity(
            user=NAME, client=NAME, subscribe=EVERYTHING, publish=EVERYTHING, links=EVERYTHING
        )
        session = Session(NAME, NAME, run, run, identity)
        session.connection = self
        session.attachment = 1
        self.session = session
        self.stage = Stage.OPEN

    def attach(self, deliver: Callable[[Any], None]) -> None:
        """An application is here from now on: `deliver` takes every message for `$server`."""
        self._deliver = deliver
        assert self.session is not None
        self.full = False
        self.node.links.arrived(self.session)

    def speak(self, deliver: Callable[[Any], None]) -> None:
        """A program is here that sends, and takes nothing: `deliver` gets what is said of its own messages.
        What clients send to `$server` waits with them, as if nobody was here."""
        self._deliver = deliver
        self.full = True
        assert self.session is not None
        self.node.links.arrived(self.session)

    @property
    def run(self) -> int:
        """The run its link messages must name."""
        assert self.session is not None
        return self.session.run

    def say(self, message: Message) -> None:
        """Say something as a client would: a link message, an ack, a publish, … Answers come to `deliver`."""
        node = self.node
        if type(message) is LinkMessage:
            node.links.message(self, message, b"")
        else:
            HANDLERS[Stage.OPEN][type(message)](self, message)

    def afford(self, effort: float) -> bool:
        """It may cause what it likes."""
        return True

    def send_binary(self, payload: bytes) -> None:
        """Keep a binary message, in its place."""
        self.send(payload)

    def flush(self) -> None:
        """Deliver what was kept; never from inside the work that caused it."""
        self.dirty = False
        lines, self.lines = self.lines, []
        self._size = 0
        for line in lines:
            # Only a binary payload has a newline.
            decoder = self.node.own_decoder
            for message in decoder.binary(line) if b"\n" in line else decoder.text(line):
                if self._deliver is not None:
                    self.node.call_hook("deliver", self._deliver, message)
