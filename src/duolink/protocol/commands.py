"""A client's commands that wait for an answer, over as many connections as it takes."""

from typing import Any, Final

from duolink.protocol import limits
from duolink.protocol.events import Answered
from duolink.protocol.messages import (
    Error,
    History,
    HistoryPage,
    Message,
    PresenceQuery,
    Publication,
    Publish,
    Refresh,
    Set,
)

Command = Publish | Set | History | PresenceQuery | Refresh

_KEYED: Final = frozenset({Publish, Set})


class TooManyCommands(Exception):
    """`limits.MAX_PENDING` commands have no answer yet."""


class _Pending:
    __slots__ = ("context", "message", "page", "publications", "since")

    def __init__(self, message: Command, context: Any) -> None:
        self.message, self.context = message, context
        self.since: float | None = None  # when it was first sent
        self.page: HistoryPage | None = None
        self.publications: list[Publication] = []


class Commands:
    """The commands without an answer. All of them may be sent again: a publish and a set by
    their key, the others because they change nothing."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending: dict[int, _Pending] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._pending

    def add(self, message: Command, context: Any) -> None:
        """Remember a command by its id. Raises `TooManyCommands`."""
        if len(self._pending) >= limits.MAX_PENDING:
            raise TooManyCommands(f"{limits.MAX_PENDING} commands have no answer yet")
        self._pending[message.id] = _Pending(message, context)

    def send(self, now: float, number: int | None = None) -> list[Message]:
        """The commands to send: one, or on a new connection all. A retry says how old it is."""
        messages: list[Message] = []
        for pending in [self._pending[number]] if number is not None else self._pending.values():
            if pending.since is None:
                pending.since = now
            elif type(pending.message) in _KEYED:
                age = max(int((now - pending.since) * 1000), 1)
                pending.message.age = age  # type: ignore[union-attr]
            pending.page, pending.publications = None, []
            messages.append(pending.message)
        return messages

    def forget(self, context: Any) -> None:
        """Nobody waits for this command's answer any more."""
        for number in [number for number, command in self._pending.items() if command.context is context]:
            del self._pending[number]

    def answer(self, number: int, answer: Message) -> Answered | None:
        """Take an answer; None if nobody waits for it."""
        pending = self._pending.pop(number, None)
        if pending is None:
            return None
        return Answered(pending.context, answer, tuple(pending.publications))

    def page(self, page: HistoryPage) -> Answered | None:
        """Take the head of a history answer."""
        pending = self._pending.get(page.id)
        if pending is None:
            return None
        pending.page = page
        return None if page.count else self.answer(page.id, page)

    def entry(self, publication: Publication) -> Answered | None:
        """Take one publication of it."""
        pending = self._pending.get(publication.page)
        if pending is None or pending.page is None:
            return None
        pending.publications.append(publication)
        if len(pending.publications) < pending.page.count:
            return None
        return self.answer(publication.page, pending.page)

    def abandon(self, reason: str) -> list[Answered]:
        """The client is closed: whoever still waits hears that."""
        answer = Error(code="closed", message=reason or "the client was closed")
        ended = [Answered(pending.context, answer) for pending in self._pending.values()]
        self._pending.clear()
        return ended
