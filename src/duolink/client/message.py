"""What travels on a link, from both sides: a `Message` that came, the fate of one that was `Sent`."""

import asyncio
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Raw

from duolink.client.errors import InvalidData, Lost
from duolink.protocol import codec
from duolink.protocol.messages import LinkMessage
from duolink.protocol.outbound import Outgoing

if TYPE_CHECKING:
    from duolink.client.link import Link

_UNREAD: Final = object()

Fate = Literal["pending", "stored", "delivered", "lost"]


class Message:
    """A message from a peer. It is delivered, for its sender, when this side has finished with it: the
    handler returned, the loop asked for the next one, or `ack` was called."""

    __slots__ = ("_answered", "_data", "_finished", "_link", "_raw", "arrived")

    def __init__(self, raw: LinkMessage, link: "Link", arrived: float) -> None:
        self._raw, self._link = raw, link
        self._data: Any = _UNREAD
        self._finished = self._answered = False
        self.arrived = arrived
        """When it came, on the loop's clock."""

    @property
    def data(self) -> Any:
        """The value: what the JSON says, or bytes. Raises `InvalidData` for numbers Python cannot hold."""
        if self._data is _UNREAD:
            self._data = decode(self._raw.data, self._raw.binary)
        return self._data

    @property
    def raw(self) -> bytes:
        """The data as it travelled: a JSON text, or the bytes."""
        return bytes(self._raw.data)

    @property
    def binary(self) -> bool:
        """Whether it is bytes."""
        return self._raw.binary

    @property
    def sender(self) -> str:
        """Who sent it; the server's word."""
        return self._link.peer

    @property
    def seq(self) -> int:
        """Its number within the sender's run and lane."""
        return self._raw.seq

    @property
    def run(self) -> int:
        """The life of the sending process."""
        return self._raw.run

    @property
    def lane(self) -> str:
        """`messages` or `bulk`."""
        return self._raw.lane

    @property
    def user(self) -> str:
        """The user it was sent to (`@bob`), if not to this client alone; else empty."""
        return self._raw.user

    @property
    def link(self) -> "Link":
        """The link it came by."""
        return self._link

    @property
    def wants_answer(self) -> bool:
        """Whether it is a request that has no answer yet."""
        return bool(self._raw.request) and not self._answered

    @property
    def overdue(self) -> bool:
        """Whether it is a request whose deadline has certainly passed (it began before the arrival)."""
        loop = asyncio.get_running_loop()
        return bool(self._raw.deadline) and loop.time() > self.arrived + self._raw.deadline / 1000

    def ack(self) -> None:
        """Finish with it: its sender hears `delivered`. Repeating is harmless. A request that has no
        answer by then is answered with a failure; not one to a user, which another of his clients may
        answer."""
        if self._finished:
            return
        self._finished = True
        if self.wants_answer and not self.user:
            self.fail("no_handler")
        self._link._finish(self._raw)

    def reply(self, value: Any) -> None:
        """Answer a request; it leaves when the window has room. Raises `ValueError` for what is no open
        request, `InvalidData` for a value that cannot travel."""
        self._answer(value, failed=False)

    def fail(self, text: str) -> None:
        """Answer a request with a failure: it raises `RequestFailed(text)` there."""
        self._answer(text, failed=True)

    def _answer(self, value: Any, failed: bool) -> None:
        if not self.wants_answer:
            raise ValueError("the message asks for no answer, or has one")
        data, binary = self._link._encode(value)
        self._answered = True
        self._link._reply(self._raw.request, self._raw.lane, data, binary, failed)

    def __repr__(self) -> str:
        return f"<Message {self.seq} from {self.sender!r}, {len(self.raw)} bytes>"


class Sent:
    """A numbered message, and what becomes of it. It goes its way whether or not anybody waits."""

    __slots__ = (
        "_answer", "_certain", "_entry", "_fate", "_kept", "_left", "_reason", "_safe", "_waiters", "peer",
    )  # fmt: skip

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self._entry: Outgoing | None = None
        self._fate: Fate = "pending"
        self._reason, self._certain = "", True
        self._safe = False
        self._kept = False  # the journal has it
        self._left: Exception | None = None  # the client is closed, and its journal goes on with it
        self._answer: asyncio.Future[Any] | None = None  # of a request: fails with it
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def seq(self) -> int:
        """Its number."""
        assert self._entry is not None
        return self._entry.seq

    @property
    def tag(self) -> str:
        """The name it was given by `send`; empty: none."""
        assert self._entry is not None
        return self._entry.tag

    @property
    def fate(self) -> Fate:
        """`pending`, `stored`, `delivered` or `lost`."""
        return self._fate

    async def resolved(self) -> Fate:
        """Return its fate when it is not pending any more."""
        while self._fate == "pending":
            await self._change()
        return self._fate

    async def stored(self) -> None:
        """Return when a mailbox has it, or it is delivered. Raises `Lost`."""
        await self.resolved()
        self._raise()

    async def delivered(self) -> None:
        """Return when the other application has finished with it. Raises `Lost`."""
        if self._entry is not None and not self._entry.copies:
            self._entry.ask = True  # has not left yet: it can ask to be acknowledged at once
        while self._fate in ("pending", "stored"):
            await self._change()
        self._raise()

    async def _durable(self) -> None:
        while not self._kept and self._fate == "pending":
            await self._change()

    async def _change(self) -> None:
        if self._left is not None:
            raise self._left
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:  # not when it was woken in the turn in which it is cancelled
                self._waiters.remove(waiter)

    def _raise(self) -> None:
        if self._fate == "lost":
            raise Lost(self._reason, self._certain)

    def _become(self, fate: Fate, reason: str = "", certain: bool = True) -> None:
        self._fate, self._reason, self._certain = fate, reason, certain
        if fate == "lost" and self._answer is not None and not self._answer.done():
            self._answer.set_exception(Lost(reason, certain))
        self._wake()

    def _keep(self) -> None:
        """The journal has it."""
        self._kept = True
        self._wake()

    def _leave(self, ending: Exception) -> None:
        """The client is closed, and the journal has it: its end is not known here."""
        self._left = ending
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<Sent {self.seq} to {self.peer!r}: {self._fate}>"


def encode(value: Any) -> tuple[Raw, bool]:
    """Return a value as it travels, and whether it is binary. Raises `InvalidData`."""
    if isinstance(value, bytes | bytearray | memoryview):
        return Raw(bytes(value)), True
    try:
        return codec.encode_json(value), False
    except codec.DataError as error:
        raise InvalidData(str(error)) from None


def decode(data: Raw, binary: bool) -> Any:
    """Return a received value. Raises `InvalidData`."""
    if binary:
        return bytes(data)
    try:
        return codec.decode_json(data)
    except codec.DataError as error:
        raise InvalidData(str(error)) from None
