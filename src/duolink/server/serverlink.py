"""The links of the embedding application, `$server`: the machine of `protocol.link` without a network."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any, Final, Literal

from msgspec import Raw

from duolink.protocol import codec, limits
from duolink.protocol.codes import LossReason
from duolink.protocol.link import SERVER, Link, Lost, Received, Settled, Stored
from duolink.protocol.messages import LinkMessage, Message
from duolink.protocol.paths import PathKind

RUN_OUT: Final = 24 * 3600.0
"""Seconds after which a message to a client that does not come ends as lost, unless told otherwise: it is
held in this process's memory."""


class NotDelivered(Exception):
    """A message ended as lost. `reason` is a word of `LossReason`; `certain`: it surely did not arrive."""

    def __init__(self, reason: str, certain: bool) -> None:
        super().__init__(reason if certain else f"{reason} (it may have arrived)")
        self.reason = reason
        self.certain = certain


class Sent:
    """A numbered message, and what becomes of it. It goes its way whether or not anybody waits."""

    __slots__ = ("_end", "_stored", "_waiters", "seq")

    def __init__(self) -> None:
        self.seq = 0
        """Its number."""
        self._end: NotDelivered | Literal["delivered"] | None = None
        self._stored = False
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def state(self) -> Literal["sent", "stored", "delivered", "lost"]:
        """What has become of it so far."""
        if self._end is None:
            return "stored" if self._stored else "sent"
        return "lost" if isinstance(self._end, NotDelivered) else self._end

    @property
    def failure(self) -> NotDelivered | None:
        """Why it is lost, if it is."""
        return self._end if isinstance(self._end, NotDelivered) else None

    @property
    def settled(self) -> bool:
        """Whether its end is known."""
        return self._end is not None

    async def stored(self) -> None:
        """Return when it is safe: in the client's mailbox, or delivered. Raises `NotDelivered`. A server
        without a database stores nothing."""
        while self._end is None and not self._stored:
            await self._change()
        if isinstance(self._end, NotDelivered):
            raise self._end

    async def delivered(self) -> None:
        """Return when the client's application has finished with it. Raises `NotDelivered`. Cancelling
        withdraws nothing."""
        while self._end is None:
            await self._change()
        if isinstance(self._end, NotDelivered):
            raise self._end

    async def _change(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def keep(self) -> None:
        """It is in a mailbox."""
        self._stored = True
        self._wake()

    def settle(self, reason: str, certain: bool) -> None:
        """Its end: an empty reason means delivered."""
        self._end = NotDelivered(reason, certain) if reason else "delivered"
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


class Incoming:
    """A message, or a request, that a client sent to `$server`."""

    __slots__ = ("_message", "client_id")

    def __init__(self, client_id: str, message: LinkMessage) -> None:
        self.client_id = client_id
        """Who sent it."""
        self._message = message

    @property
    def data(self) -> Any:
        """The value: what the JSON says, or bytes."""
        raw = self._message.data
        return bytes(raw) if self._message.binary else codec.decode_json(raw)

    @property
    def lane(self) -> str:
        """`messages` or `bulk`."""
        return self._message.lane

    @property
    def seq(self) -> int:
        """Its number within the client's run and lane."""
        return self._message.seq

    @property
    def request(self) -> str:
        """The id of a request; empty for a message that wants no answer."""
        return self._message.request


class ServerLink:
    """The link between the embedding application and one client."""

    def __init__(
        self,
        client_id: str,
        run: int,
        window: tuple[int, int],
        now: Callable[[], float],
        durable: bool,
        touched: "Callable[[ServerLink], None]",
    ) -> None:
        """`window`: numbers and bytes in flight per lane; `durable`: the node has a disk; `touched` is called
        when the machine has something to say."""
        self.client_id = client_id
        self.machine = Link(client_id, run, window=window[0], window_bytes=window[1], durable=durable)
        self._now = now
        self._touched = touched
        self._waiters: list[asyncio.Future[None]] = []
        self._closed = False
        self.machine.path_up(SERVER, PathKind.SERVER, now())

    @property
    def unsettled(self) -> int:
        """How many messages are neither delivered nor lost."""
        return self.machine.unsettled

    async def send(
        self, data: Any, *, lane: str = "messages", expires: float = RUN_OUT, collapse: str = ""
    ) -> Sent:
        """Number a value (JSON, or bytes) for the client, waiting for room; return what tells its fate.

        The client need not be here: the message waits for it, at most `expires` seconds; in its mailbox if
        the server has a database, else in this process. One that waits there is replaced by a newer one with
        the same `collapse` key.
        Raises `DataError` for a value that cannot travel, `ValueError` for an unknown lane, `RuntimeError`
        when the server has stopped.
        """
        body, binary = encode(data)
        while not self._closed and not self.machine.has_room(len(bytes(body)), lane):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return self._submit(body, binary, lane=lane, expires=self._now() + expires, collapse=collapse)

    def reply(self, request: Incoming, body: Raw, binary: bool, failed: bool) -> bool:
        """Answer a request; return False when the window has no room (its client does not take answers)."""
        if self._closed or not self.machine.has_room(len(bytes(body)), request.lane):
            return False
        self._submit(
            body,
            binary,
            lane=request.lane,
            reply=request.request,
            failed=failed,
            expires=self._now() + RUN_OUT,
        )
        return True

    def _submit(self, body: Raw, binary: bool, **options: Any) -> Sent:
        if self._closed:
            raise RuntimeError("the server has stopped")
        sent = Sent()
        entry = self.machine.submit(body, binary=binary, context=sent, **options)
        entry.ask = True  # there is no network between: an acknowledgement at once costs nothing
        sent.seq = entry.seq
        self._touched(self)
        return sent

    # --- for the server --------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """Take what the node has for this link."""
        self.machine.receive(message, SERVER, self._now())
        self._touched(self)

    def finish(self, message: LinkMessage) -> None:
        """The application has finished with a message: its sender hears `delivered`."""
        self.machine.finish(message, self._now())
        self._touched(self)

    def take(self) -> tuple[list[Message], list[Received | Lost]]:
        """Return what is to be said to the node now, and what came."""
        said = [message for _, message in self.machine.take(self._now())]
        came: list[Received | Lost] = []
        for event in self.machine.events():
            if isinstance(event, Received | Lost):
                came.append(event)
            elif isinstance(event, Settled):
                self._settle(event)
            elif isinstance(event, Stored):
                event.entry.context.keep()
                self._make_room()
        return said, came

    def _settle(self, event: Settled) -> None:
        event.entry.context.settle(event.reason, event.certain)
        self._make_room()

    def _make_room(self) -> None:
        for waiter in self._waiters:  # each looks for itself whether there is room for it
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def close(self) -> None:
        """The server stops: what is not settled ends as lost."""
        self._closed = True
        for event in self.machine.abandon(LossReason.CLOSED):
            self._settle(event)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def next_timer(self) -> float:
        """When `take` has something to do, on the clock of `now`; infinity when never."""
        return self.machine.next_timer(self._now()) if not self._closed else inf


def encode(value: Any) -> tuple[Raw, bool]:
    """Return a value as it travels, and whether it is bytes. Raises `DataError`."""
    if isinstance(value, bytes | bytearray | memoryview):
        body, binary = Raw(bytes(value)), True
    else:
        body, binary = codec.encode_json(value), False
    if len(bytes(body)) > limits.MAX_MESSAGE - HEADROOM:
        raise codec.DataError(f"at most {limits.MAX_MESSAGE - HEADROOM} bytes of data fit a message")
    return body, binary


HEADROOM: Final = 2048
"""Bytes kept free for a message's envelope: names, numbers, an answered request's id."""
