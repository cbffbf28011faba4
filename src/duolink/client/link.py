"""A link, as an application sees it: what this client sends to one peer and takes from it."""

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf, isnan
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakSet

from msgspec import Raw

from duolink.client.errors import InvalidData, Lost, RequestTimeout, WindowFull
from duolink.client.events import MessagesLost, PeerChanged
from duolink.client.message import Message, Sent
from duolink.client.stream import EventStream, MessageStream, Pump
from duolink.protocol import codec, limits
from duolink.protocol.codes import LossReason, PeerState
from duolink.protocol.inbound import Lost as LostNumbers
from duolink.protocol.inbound import Received
from duolink.protocol.link import Event as LinkEvent
from duolink.protocol.link import Link as Machine
from duolink.protocol.link import PathFailed, StorageTrouble, key_of
from duolink.protocol.link import PeerChanged as PeerEvent
from duolink.protocol.messages import Ephemeral, LinkMessage, Signal
from duolink.protocol.outbound import Settled, Stored

if TYPE_CHECKING:
    from duolink.client.client import Client

MessageHandler = Callable[[Message], Any]
"""Takes a message; a coroutine function is awaited."""

DataHandler = Callable[[Any], Any]
"""Takes data that was sent at most once."""

ENVELOPE: Final = 640
"""Bytes a message needs beside its data, at most: names, numbers and keys at their limits."""

MAX_EXPIRES: Final = 1e9
"""Seconds from which on a time means never: thirty years."""

MAX_TAG: Final = 255
"""Bytes of a tag: a name, not data; each message under way keeps one."""

REQUEST_TIMEOUT: Final = 30.0
"""Seconds a request waits for its answer when its caller does not say."""

MAX_ANSWERS: Final = 1024
"""Answers per lane that may wait for room: four windows. A peer that asks and asks and never takes an answer
would cost the memory; beyond it answers are dropped, and its requests time out."""


class _Waiting(NamedTuple):
    """A message that waits for room in the window."""

    future: "asyncio.Future[Sent]"
    data: Raw
    binary: bool
    options: dict[str, Any]


class Link:
    """This client's end of the link to `peer`. Made by `client.link(peer)`. A peer `@bob` is the user bob:
    what is sent there goes to every client of his, each once and in order, and is delivered when the first
    has finished with it; answers come from those clients, by their own names."""

    def __init__(self, client: "Client", peer: str) -> None:
        self._client = client
        self.peer = peer
        self._queues: dict[str, deque[_Waiting]] = {}  # lane → those who wait for room, in order
        self._states: WeakSet[EventStream[PeerState]] = WeakSet()
        self._pump: Pump | None = None
        self._on_request: MessageHandler | None = None
        self._on_ephemeral: DataHandler | None = None
        self._on_signal: DataHandler | None = None

    # --- the peer ------------------------------------------------------------------------------

    @property
    def state(self) -> PeerState:
        """`here`, `reconnecting` or `away`, as last heard; `away` for a peer that is not watched."""
        machine = self._client._session.links.get(self.peer)
        return machine.state if machine is not None else PeerState.AWAY

    def states(self) -> EventStream[PeerState]:
        """Iterate over the peer's states: the one now, then every change."""
        return EventStream(self._states, self._client._ended, (self.state,))

    @property
    def unsettled(self) -> int:
        """How many messages to the peer are neither delivered nor lost."""
        machine = self._client._session.links.get(self.peer)
        return machine.unsettled if machine is not None else 0

    # --- sending -------------------------------------------------------------------------------

    async def send(
        self,
        data: Any,
        *,
        lane: str = "messages",
        expires: float | None = None,
        collapse: str = "",
        tag: str = "",
    ) -> Sent:
        """Send JSON data or bytes; waits for room in the window, fairly.

        What JSON has no word for arrives as the nearest: NaN and infinities as `None`, keys as strings,
        tuples and sets as lists, bytes within other data as Base64. `InvalidData` where there is none.

        Returns once the message has its number: from then on it goes its way, whoever is cancelled; with a
        journal, once it is on disk, from where the next process takes it if this one dies.
        `expires`: seconds after which it is lost, if it is not delivered by then: here, or in the mailbox
        that has stored it. `collapse`: a key; in a mailbox this message replaces an older one with the same
        key, which is lost then (`replaced`): the newest position, the latest status. `tag`: a name for your
        own use, by which the next process knows it (`Sent.tag`); it does not travel.

        Raises `InvalidData` for what cannot travel, `ClientClosed`.
        """
        body, binary = self._encode(data)
        sent = await self._number(lane, body, binary, self._options(expires, collapse, tag))
        if self._client._session.ledger is not None:
            await sent._durable()
        return sent

    def try_send(
        self,
        data: Any,
        *,
        lane: str = "messages",
        expires: float | None = None,
        collapse: str = "",
        tag: str = "",
    ) -> Sent:
        """As `send`, but raises `WindowFull` where that would wait; does not wait for a journal either."""
        body, binary = self._encode(data)
        self._client._check_open()
        if self._queues.get(lane) or not self._has_room(lane, body):
            raise WindowFull(f"no room for another message to {self.peer}")
        return self._submit(lane, body, binary, self._options(expires, collapse, tag))

    async def request(
        self,
        data: Any,
        *,
        timeout: float = REQUEST_TIMEOUT,  # noqa: ASYNC109
        lane: str = "messages",
    ) -> Any:
        """Send a request and return its answer's data.

        Raises `RequestTimeout` after `timeout` seconds, `RequestFailed` with the other side's words,
        `Lost` when it was not delivered, `ClientClosed`.
        """
        body, binary = self._encode(data)
        client = self._client
        name, answer = client._requests.new()
        options = {
            "expires": self._expiry(timeout),
            "request": name,
            "deadline": int(min(max(timeout, 0.001), MAX_EXPIRES) * 1000),
        }
        try:
            async with asyncio.timeout(timeout):
                sent = await self._number(lane, body, binary, options)
                sent._answer = answer
                if sent.fate == "lost":
                    sent._raise()
                return await answer
        except Lost as error:
            if error.reason == LossReason.EXPIRED:
                raise RequestTimeout(f"no answer from {self.peer} within {timeout:g} s") from None
            raise
        except TimeoutError:
            raise RequestTimeout(f"no answer from {self.peer} within {timeout:g} s") from None
        finally:
            client._requests.forget(name)

    async def ephemeral(self, data: Any) -> bool:
        """Send at most once, unnumbered: typing, cursors. Returns whether it left: not while the client is
        offline or its connection is congested, nor more than 1,024 in one turn of the loop."""
        body, binary = self._encode(data)
        return self._client._send_once(Ephemeral(to=self.peer, data=body, binary=binary))

    async def signal(self, data: Any) -> bool:
        """Send an SDP or ICE message, at most once. Returns whether it left."""
        body, binary = self._encode(data)
        if binary:
            raise InvalidData("a signal is JSON")
        return self._client._send_once(Signal(to=self.peer, data=body))

    def _encode(self, value: Any) -> tuple[Raw, bool]:
        return self._client._encode(value)

    def newest_tag(self, lane: str = "messages") -> str:
        """The newest tag given to a message to this peer, by this process or, with a journal, those before
        it, whatever became of the message; empty: none."""
        return self._machine().newest_tag(lane)

    def _options(self, expires: float | None, collapse: str, tag: str) -> dict[str, Any]:
        if collapse and not codec.is_id(collapse, limits.MAX_KEY):
            raise ValueError(f"{collapse!r} cannot be a collapse key")
        if len(tag.encode()) > MAX_TAG:
            raise ValueError(f"a tag has at most {MAX_TAG} bytes")
        return {"expires": self._expiry(expires), "collapse": collapse, "tag": tag}

    def _expiry(self, seconds: float | None) -> float:
        if seconds is None or seconds > MAX_EXPIRES:
            return inf
        if isnan(seconds):
            raise ValueError("not a time")
        return self._client._now() + seconds

    def _has_room(self, lane: str, body: Raw) -> bool:
        room = self._machine().has_room(len(bytes(body)), lane)  # raises `ValueError` for no lane
        return room and not self._client._driver_congested()

    async def _number(self, lane: str, body: Raw, binary: bool, options: dict[str, Any]) -> Sent:
        self._client._check_open()
        queue = self._queues.get(lane)
        if not queue and self._has_room(lane, body):
            return self._submit(lane, body, binary, options)
        future: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
        self._wait(lane, _Waiting(future, body, binary, options))
        try:
            return await future
        finally:
            self._admit()  # who was cancelled at the head makes way
            self._client._may_leave()

    def _wait(self, lane: str, waiting: _Waiting) -> None:
        self._queues.setdefault(lane, deque()).append(waiting)

    def _submit(self, lane: str, body: Raw, binary: bool, options: dict[str, Any]) -> Sent:
        machine = self._machine()
        sent = Sent(self.peer)
        sent._entry = machine.submit(body, lane=lane, binary=binary, context=sent, **options)
        self._client._numbered(machine)
        return sent

    def _reply(self, request: str, lane: str, body: Raw, binary: bool, failed: bool) -> None:
        """Answer a request: now, or when there is room. Nobody waits for it here; too many are dropped."""
        options = {"reply": request, "failed": failed}
        if self._client._ended or self.peer == self._client.client_id:
            return  # what one has asked one's own user comes to oneself, too; there is no link back
        if not self._queues.get(lane) and self._has_room(lane, body):
            self._submit(lane, body, binary, options)
        elif len(self._queues.get(lane, ())) >= MAX_ANSWERS:
            self._client._trouble("overflow", f"an answer was dropped: {self.peer} takes none")
        else:
            future = asyncio.get_running_loop().create_future()
            self._wait(lane, _Waiting(future, body, binary, options))

    def _admit(self) -> None:
        """Number those who wait, as long as there is room."""
        if self._client._ended:
            return  # what the end has settled makes no room
        for lane, queue in self._queues.items():
            while queue and (queue[0].future.done() or self._has_room(lane, queue[0].data)):
                waiting = queue.popleft()
                if not waiting.future.done():
                    sent = self._submit(lane, waiting.data, waiting.binary, waiting.options)
                    waiting.future.set_result(sent)

    @property
    def _queued(self) -> bool:
        return any(self._queues.values())

    def _machine(self) -> Machine:
        return self._client._session.link(self.peer)

    # --- receiving -----------------------------------------------------------------------------

    def __aiter__(self) -> MessageStream:
        return self.messages()

    def messages(self, *, acks: str = "auto", losses: bool = False) -> MessageStream:
        """Iterate over what the peer sends; one reader at a time.

        `acks="manual"`: a message is finished by its `ack()` only. `losses`: numbers that will never
        come appear in their place, as `MessagesLost`.
        """
        return MessageStream(self._client, self._client._post.inbox(self.peer), acks, losses)

    def on_message(self, handler: MessageHandler | None) -> MessageHandler | None:
        """Hand every message to a function, one after the other; each is finished when the function
        (a coroutine function too) has returned or raised. None: stop. Usable as a decorator."""
        self._pump = self._client._replace_pump(self._pump, self._client._post.inbox(self.peer), handler)
        return handler

    def on_request(self, handler: MessageHandler | None) -> MessageHandler | None:
        """Answer requests with what a function returns; raising answers with a failure. Requests run
        side by side. None: stop. Usable as a decorator."""
        self._on_request = handler
        if handler is not None:
            self._client._requests.serve_held(self, handler)
        return handler

    def on_ephemeral(self, handler: DataHandler | None) -> DataHandler | None:
        """Hand the data of what was sent at most once to a function."""
        self._on_ephemeral = handler
        return handler

    def on_signal(self, handler: DataHandler | None) -> DataHandler | None:
        """Hand the data of the peer's signals to a function."""
        self._on_signal = handler
        return handler

    # --- what happened -------------------------------------------------------------------------

    def _event(self, event: LinkEvent, user: str = "") -> None:
        client = self._client
        if type(event) is Received:
            self._received(event.message)
        elif type(event) is Settled:
            client._outbox.settled(event)
            self._admit()
        elif type(event) is Stored:
            client._outbox.stored(event)
            self._admit()
        elif type(event) is LostNumbers:
            loss = MessagesLost(self.peer, event.lane, event.first, event.last, event.reason, user)
            client._put(self.peer, loss)
            client._tell(loss)
        elif type(event) is PeerEvent:
            for stream in list(self._states):
                stream.put(event.state)
            client._tell(PeerChanged(self.peer, event.state, event.restarted))
        elif type(event) is StorageTrouble:
            client._trouble(event.code, f"the server cannot store what is sent to {self.peer}; it waits here")
        elif type(event) is PathFailed:
            client._trouble("path", f"{event.path} to {self.peer}: {event.reason}")

    def _received(self, raw: LinkMessage) -> None:
        client = self._client
        if raw.reply:
            client._requests.answered(raw)
            self._finish(raw)
            return
        message = Message(raw, self, client._now())
        handler = (self._on_request or client._on_request) if raw.request else None
        if handler is not None:
            client._requests.serve(message, handler)
        else:
            client._put(self.peer, message)

    def _finish(self, raw: LinkMessage) -> None:
        client = self._client
        machine = client._session.links.get(key_of(self.peer, raw.user))
        if machine is not None and not client._ended:
            machine.finish(raw, client._now())
            client._touched(machine)

    def _end(self) -> None:
        """The client is closed."""
        for queue in self._queues.values():
            while queue:
                future = queue.popleft().future
                if not future.done():
                    future.set_exception(self._client._ending())
                    future.exception()  # an answer that waited has nobody to hear it
        for stream in list(self._states):
            stream.end()

    def __repr__(self) -> str:
        return f"<Link to {self.peer!r}, {self.state}>"
