"""Requests and their answers: those this client waits for, and those it serves."""

import asyncio
from typing import TYPE_CHECKING, Any

from duolink.client.errors import InvalidData, RequestFailed
from duolink.client.message import Message, decode
from duolink.client.stream import interrupted
from duolink.protocol import limits
from duolink.protocol.messages import LinkMessage

if TYPE_CHECKING:
    from duolink.client.client import Client
    from duolink.client.link import Link, MessageHandler


class Requests:
    """A client's requests. An answer is an ordinary message of the reverse link."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._waiting: dict[str, asyncio.Future[Any]] = {}

    def __len__(self) -> int:
        """How many have no answer yet."""
        return len(self._waiting)

    # --- asking --------------------------------------------------------------------------------

    def new(self) -> tuple[str, "asyncio.Future[Any]"]:
        """Return a name for a request, and where its answer will be."""
        name = self._client._new_name()
        answer = self._waiting[name] = asyncio.get_running_loop().create_future()
        return name, answer

    def forget(self, name: str) -> None:
        """Nobody waits for this answer any more."""
        answer = self._waiting.pop(name, None)
        if answer is not None and answer.done() and not answer.cancelled():
            answer.exception()  # it came too late to be looked at

    def answered(self, raw: LinkMessage) -> None:
        """Take an answer; one that nobody waits for is dropped."""
        answer = self._waiting.get(raw.reply)
        if answer is None or answer.done():
            return
        try:
            data = decode(raw.data, raw.binary)
        except InvalidData as error:
            answer.set_exception(error)
            return
        if raw.failed:
            answer.set_exception(RequestFailed(str(data)))
        else:
            answer.set_result(data)

    def end(self, ending: Exception) -> None:
        """The client is closed."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ending)

    # --- serving -------------------------------------------------------------------------------

    def serve_held(self, link: "Link", handler: "MessageHandler") -> None:
        """Take the requests of a peer that came before their handler."""
        inbox = self._client._post.inbox(link.peer)
        held = [item for item in inbox.items if isinstance(item, Message) and item.wants_answer]
        for message in held:
            inbox.items.remove(message)
            self.serve(message, handler)

    def serve(self, message: Message, handler: "MessageHandler") -> None:
        """Have a request answered by a handler, now or in a task of its own."""
        if message.overdue:
            message.ack()
            return
        try:
            result = handler(message)
        except (Exception, asyncio.CancelledError) as error:
            self._failed(message, error)
            return
        if hasattr(result, "__await__"):
            self._client._spawn(self._later(message, result))
        else:
            self._done(message, result)

    async def _later(self, message: Message, result: Any) -> None:
        try:
            answer = await result
        except (Exception, asyncio.CancelledError) as error:
            if interrupted():
                raise
            self._failed(message, error)
        else:
            self._done(message, answer)

    def _done(self, message: Message, answer: Any) -> None:
        try:
            if message.wants_answer:
                message.reply(answer)
        except InvalidData as error:
            self._failed(message, error)
        message.ack()

    def _failed(self, message: Message, error: BaseException) -> None:
        # What a handler means for the peer it says by raising `RequestFailed`; other texts may hold secrets.
        text = "the handler failed"
        if isinstance(error, RequestFailed):
            text = str(error)
        else:
            self._client._report("request handler", error)
        if message.wants_answer:
            message.fail(text[: limits.MAX_REASON].encode(errors="replace").decode())
        message.ack()
