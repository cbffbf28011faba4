"""What an application iterates over: messages, each to one reader, and events, each to everybody."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar
from weakref import WeakSet

from duolink.client.errors import Busy
from duolink.client.events import MessagesLost
from duolink.client.message import Message

if TYPE_CHECKING:
    from duolink.client.client import Client

T = TypeVar("T")

KEPT_EVENTS: Final = 1024
"""Events kept for a reader that does not come; then the oldest go."""

HELD: Final = 4096
"""Items held for one peer that nobody reads. A run cannot send more than its window without being
acknowledged; only a sender that restarts again and again reaches this."""

Item = Message | MessagesLost


class Taker(Protocol):
    """Who takes messages: a stream or a handler."""

    def wake(self) -> None:
        """There is something to take."""


class Inbox:
    """What came from one peer, in order, until somebody takes it."""

    __slots__ = ("items", "taker")

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.taker: Taker | None = None

    def put(self, item: Item) -> MessagesLost | None:
        """Hold an item. Returns the loss, if something older had to go for it."""
        items = self.items
        if isinstance(item, MessagesLost) and items and isinstance(items[-1], MessagesLost):
            last = items[-1]
            if last._replace(first=0, last=last.last + 1) == item._replace(first=0, last=item.first):
                items[-1] = last._replace(last=item.last)
                return None
        items.append(item)
        if len(items) <= HELD:
            return None
        oldest = items.popleft()
        if isinstance(oldest, MessagesLost):
            return None
        seq = oldest.seq
        return MessagesLost(oldest.sender, oldest.lane, seq, seq, "overflow", oldest.user)


class Post:
    """A client's inboxes, and who takes from all of them at once."""

    def __init__(self) -> None:
        self.inboxes: dict[str, Inbox] = {}
        self.taker: Taker | None = None
        self._ready: deque[Inbox] = deque()  # one entry per item for the taker, in the order of arrival

    def inbox(self, peer: str) -> Inbox:
        """The inbox of a peer."""
        inbox = self.inboxes.get(peer)
        if inbox is None:
            inbox = self.inboxes[peer] = Inbox()
        return inbox

    def put(self, peer: str, item: Item) -> MessagesLost | None:
        """Hold an item and wake who takes it."""
        inbox = self.inbox(peer)
        overflow = inbox.put(item)
        if inbox.taker is not None:
            inbox.taker.wake()
        elif self.taker is not None:
            self._ready.append(inbox)
            self.taker.wake()
        return overflow

    def take(self, inbox: Inbox | None) -> Item | None:
        """The next item of an inbox; of any that has no taker of its own, for None."""
        if inbox is not None:
            return inbox.items.popleft() if inbox.items else None
        while self._ready:
            ready = self._ready.popleft()
            if ready.taker is None and ready.items:
                return ready.items.popleft()
        return None

    def claim(self, inbox: Inbox | None, taker: Taker) -> None:
        """Let somebody take. Raises `Busy` when somebody does."""
        if (self if inbox is None else inbox).taker is not None:
            raise Busy("these messages have a reader already")
        if inbox is not None:
            inbox.taker = taker
        else:
            self.taker = taker
            self._ready = deque(each for each in self.inboxes.values() if not each.taker for _ in each.items)
        taker.wake()

    def wake(self) -> None:
        """Wake everybody: the client is closed."""
        for taker in [self.taker, *(inbox.taker for inbox in self.inboxes.values())]:
            if taker is not None:
                taker.wake()

    def release(self, inbox: Inbox | None, taker: Taker) -> None:
        """Stop taking; what is there waits for the next one."""
        if inbox is None:
            if self.taker is taker:
                self.taker = None
                self._ready.clear()
        elif inbox.taker is taker:
            inbox.taker = None
            if self.taker is not None and inbox.items:
                self._ready.extend([inbox] * len(inbox.items))
                self.taker.wake()


class Bell:
    """Wakes a stream. An inbox holds the bell only: a stream that its loop has dropped is gone at once."""

    __slots__ = ("waiter",)

    def __init__(self) -> None:
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """See `Taker`."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for `wake`."""
        self.waiter = asyncio.get_running_loop().create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None


class MessageStream:
    """Messages of one peer, or of all without a reader of their own: an asynchronous iterator.

    Asking for the next message, or leaving the loop, finishes the one before (`acks="manual"`: only
    `message.ack()` does). Ends when the client is closed, by raising if the server closed it.
    """

    def __init__(self, client: "Client", inbox: Inbox | None, acks: str, losses: bool) -> None:
        self._claimed = False
        if acks not in ("auto", "manual"):
            raise ValueError(f'acks is "auto" or "manual", not {acks!r}')
        self._client, self._inbox = client, inbox
        self._manual, self._losses = acks == "manual", losses
        self._current: Message | None = None
        self._bell = Bell()

    def __aiter__(self) -> "MessageStream":
        return self

    async def __anext__(self) -> Any:
        if self._bell.waiter is not None:
            raise Busy("these messages have a reader already")
        if not self._claimed:
            self._client._check_open()
            self._client._post.claim(self._inbox, self._bell)
            self._claimed = True
        self._finish()
        while True:
            if not self._claimed:  # closed while it waited
                raise StopAsyncIteration
            self._client._check_stream()
            item = self._client._post.take(self._inbox)
            if item is None:
                await self._bell.wait()
            elif isinstance(item, Message):
                if not self._manual:
                    self._current = item
                return item
            elif self._losses:
                return item

    def _finish(self) -> None:
        message, self._current = self._current, None
        if message is not None:
            message.ack()

    def close(self) -> None:
        """Leave: finish the current message; what comes now waits for the next reader."""
        self._finish()
        if self._claimed:
            self._claimed = False
            self._client._post.release(self._inbox, self._bell)
        self._bell.wake()

    async def aclose(self) -> None:
        """As `close`: for `contextlib.aclosing`."""
        self.close()

    def __del__(self) -> None:
        if self._claimed:
            self.close()  # a loop that was left drops its iterator: that is how leaving is noticed


def interrupted() -> bool:
    """Whether a `CancelledError` is meant for the task that is running, and does not just come out of what an
    application's function has waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Pump:
    """Hands messages to a handler, one after the other; each is finished when the handler has."""

    def __init__(self, client: "Client", inbox: Inbox | None, handler: Callable[[Message], Any]) -> None:
        self._client, self._inbox, self._handler = client, inbox, handler
        self._busy = False
        self._stopped = False
        self._next: Pump | None = None  # waits until this one is free

    def wake(self) -> None:
        """See `Taker`."""
        if self._busy:
            return
        self._busy = True
        while (
            not self._stopped
            and not self._client._ended
            and (item := self._client._post.take(self._inbox)) is not None
        ):
            if isinstance(item, Message) and not self._handle(item):
                return  # a task goes on from here
        self._busy = False
        if self._next is not None:
            self._next._free()

    def _free(self) -> None:
        self._busy = False
        self.wake()

    def _handle(self, message: Message) -> bool:
        result: Awaitable[Any] | None = None
        try:
            answer = self._handler(message)
            if isinstance(answer, Awaitable):
                result = answer
        except (Exception, asyncio.CancelledError) as error:
            self._client._report("message handler", error)
        if result is None:
            message.ack()
            return True
        self._client._spawn(self._await(result, message))
        return False

    async def _await(self, result: Awaitable[Any], message: Message) -> None:
        try:
            await result
        except (Exception, asyncio.CancelledError) as error:
            if interrupted():
                raise
            self._client._report("message handler", error)
        message.ack()
        self._free()

    def stop(self, successor: "Pump | None") -> None:
        """Take no more. The successor begins when this one is done with its message."""
        self._stopped = True
        self._client._post.release(self._inbox, self)
        if self._busy and successor is not None:
            successor._busy, self._next = True, successor


class EventStream(Generic[T]):
    """Events from now on: an asynchronous iterator. Ends, after the last one, when the client is closed."""

    def __init__(self, streams: "WeakSet[EventStream[T]]", ended: bool, first: tuple[T, ...] = ()) -> None:
        self._events: deque[T] = deque(first, KEPT_EVENTS)
        self._bell = Bell()
        self._ended = ended
        self._streams = streams  # weak: a loop that was left drops its stream
        streams.add(self)

    def put(self, event: T) -> None:
        """Add an event."""
        self._events.append(event)
        self._bell.wake()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._bell.wake()

    def __aiter__(self) -> "EventStream[T]":
        return self

    async def __anext__(self) -> T:
        if self._bell.waiter is not None:
            raise Busy("this stream has a reader already")
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            await self._bell.wait()
        return self._events.popleft()

    def close(self) -> None:
        """Hear no more."""
        self._streams.discard(self)
        self.end()
