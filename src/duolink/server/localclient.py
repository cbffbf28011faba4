"""The program itself as a client of its node, `$server`: its links, its commands, and their timers."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

from msgspec import UNSET

from duolink.protocol import codec
from duolink.protocol.inbound import Received
from duolink.protocol.messages import (
    Ack,
    Error,
    LinkMessage,
    Message,
    Peer,
    Probe,
    Publish,
    Published,
    Set,
    Skip,
    Stored,
    Wait,
)
from duolink.server.node import Node
from duolink.server.serverlink import ServerLink, encode

MAX_LINKS: Final = 10_000
"""Clients whose links with the program are remembered; the longest idle is forgotten first, and a message of
its that comes again is then taken as new. While none is idle, strangers are not heard."""

Take = Callable[[ServerLink, LinkMessage], None]


class CommandFailed(Exception):
    """The node refused a command; `error` is its answer."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


class LocalClient:
    """`$server` on a running loop. Until somebody `listen`s, clients find it away, and what it sends itself
    is acknowledged all the same."""

    def __init__(self, node: Node, loop: asyncio.AbstractEventLoop) -> None:
        self._node = node
        self._loop = loop
        self._window = (node.config.links.window, node.config.links.window_bytes)
        self.links: dict[str, ServerLink] = {}
        """By client; the longest unused first."""
        self._touched: dict[ServerLink, None] = {}
        self._due: dict[ServerLink, float] = {}  # when those that wait for something want to be looked at
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._commands: dict[int, asyncio.Future[Message]] = {}
        self._last_command = 0
        self._take: Take | None = None
        self._speaking = False
        self._running = True

    def listen(self, take: Take) -> None:
        """Be here for clients from now on: `take` gets every message they send, once."""
        self._take = take
        self._speaking = True
        self._node.local.attach(self.deliver)

    def link(self, client_id: str) -> ServerLink:
        """Return the link to a client, or to a user (`@bob`: all his clients). Raises `ValueError` for what
        is neither."""
        self._speak()
        if not (codec.is_client_id(client_id) or codec.is_user(client_id)):
            raise ValueError(f"{client_id!r} cannot be a client id")
        link = self.links.pop(client_id, None)
        if link is None:
            self._forget_idle()
            node = self._node
            link = ServerLink(
                client_id, node.local.run, self._window, node.clock.monotonic, node.durable, self._touch
            )
        self.links[client_id] = link
        return link

    def has_room(self, client_id: str) -> bool:
        """Whether a link to this client is there, or one more may be without going beyond `MAX_LINKS`."""
        return client_id in self.links or self._forget_idle()

    async def command(self, message: Publish | Set) -> Published:
        """Have a command done. Raises `CommandFailed`."""
        self._speak()
        self._last_command += 1
        message.id = self._last_command
        answer: asyncio.Future[Message] = self._loop.create_future()
        self._commands[message.id] = answer
        try:
            self._say(message)
            answered = await answer
        finally:
            del self._commands[message.id]
        if isinstance(answered, Published):
            return answered
        assert isinstance(answered, Error)
        raise CommandFailed(answered)

    def close(self) -> None:
        """The node has stopped: what is not settled ends as lost, and nothing stays scheduled."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        for link in self.links.values():
            link.close()
        for future in self._commands.values():
            future.cancel()

    # --- the node's side -------------------------------------------------------------------------

    def _speak(self) -> None:
        if not self._speaking:
            self._speaking = True
            self._node.local.speak(self.deliver)

    def _say(self, message: Message) -> None:
        """Say something to the node as `$server`; what it causes is written at the end of the turn."""
        self._node.local.say(message)
        self._node.wake()

    def deliver(self, message: Message) -> None:
        """Take what the node says to `$server`."""
        if not self._running:
            return
        peer = ""
        if isinstance(message, LinkMessage | Ack | Skip | Probe):
            peer = message.sender
        elif isinstance(message, Wait | Stored):
            peer = message.to
        elif isinstance(message, Peer):
            peer = message.client_id
        elif isinstance(message, Error):
            peer = message.to
        if peer:
            begins = isinstance(message, LinkMessage | Skip | Probe)
            if peer in self.links or (begins and self._forget_idle()):
                self.link(peer).receive(message)
            # Else there is no room for a stranger now; its message stays unacknowledged, and comes again.
        elif isinstance(message, Published | Error):
            answer = self._commands.get(message.id)
            if answer is not None and not answer.done():
                answer.set_result(message)

    def _touch(self, link: ServerLink) -> None:
        """A link has something to say: once, at the end of the turn."""
        self._touched[link] = None
        if not self._pumping and self._running:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Say what links have to say, and hand over what came."""
        self._pumping = False
        if not self._running:
            return
        touched, self._touched = self._touched, {}
        for link in touched:
            said, came = link.take()
            for message in said:
                self._say(message)
            for event in came:
                if isinstance(event, Received) and self._take is not None:
                    self._take(link, event.message)
            self._due[link] = link.next_timer()
            if self._due[link] == inf:
                del self._due[link]
        self._arm()

    def _arm(self) -> None:
        """Set one timer for all links that wait for something."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due and self._running:
            wait = max(0.0, min(self._due.values()) - self._node.clock.monotonic())
            self._timer = self._loop.call_later(wait, self._timed)

    def _timed(self) -> None:
        now = self._node.clock.monotonic()
        self._timer = None
        self._touched.update((link, None) for link, due in self._due.items() if due <= now)
        self._pump()

    def _forget_idle(self) -> bool:
        """Make room for a link; return whether there is some. The program's own may go beyond it."""
        if len(self.links) < MAX_LINKS:
            return True
        idle = next((name for name, link in self.links.items() if link.machine.idle), None)
        if idle is None:
            return False
        self._due.pop(self.links.pop(idle), None)
        return True


def publication(channel: str, data: object, key: str = "") -> Publish:
    """Return the command that appends a value (JSON, or bytes) to a channel. Raises `DataError`."""
    body, binary = encode(data)
    return Publish(id=0, channel=channel, key=key, binary=binary, data=body)


def write(channel: str, name: str, value: object, expect: int | None, key: str = "") -> Set:
    """Return the command that gives a name of the shared state a value (JSON, or bytes); `expect`: only if it
    has that version. Raises `DataError`."""
    body, binary = encode(value)
    made = Set(id=0, channel=channel, name=name, key=key, binary=binary, data=body)
    made.expect = UNSET if expect is None else expect
    return made


def deletion(channel: str, name: str, expect: int | None, key: str = "") -> Set:
    """Return the command that takes a name out of the shared state."""
    made = Set(id=0, channel=channel, name=name, key=key, deleted=True)
    made.expect = UNSET if expect is None else expect
    return made
