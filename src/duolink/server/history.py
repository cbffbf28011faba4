"""The `history` command: pages of a channel's log."""

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from duolink.engines.base import Failure, Log, Page, Top
from duolink.protocol import limits
from duolink.protocol.codec import is_id
from duolink.protocol.codes import ErrorCode
from duolink.protocol.messages import Gap, History, HistoryPage
from duolink.server.channel import Line
from duolink.server.channels import MAX_IN_FLIGHT

if TYPE_CHECKING:
    from duolink.server.connection import Connection
    from duolink.server.node import Node

PAGE_BYTES: Final = 256 * 1024
"""Bytes of one answer; one publication always fits. The rest is another question."""


MAX_READS: Final = 2
"""Pages read at once for one connection; its others wait for them. A page may be 16 MB in the log, and what
everybody else reads stands behind it."""


class Histories:
    """Answers `history`. The answer is dropped when its connection no longer carries the session."""

    def __init__(self, node: "Node", log: Log) -> None:
        self._node = node
        self._log = log
        self._reads: Counter[Connection] = Counter()
        self._waiting: dict[Connection, deque[Callable[[], None]]] = {}

    def ask(self, connection: "Connection", query: History) -> None:
        """Read a page, and answer when it comes."""
        session = connection.session
        assert session is not None
        name = query.channel
        if not is_id(name, limits.MAX_CHANNEL):
            connection.error(ErrorCode.UNKNOWN_CHANNEL, "not a name a channel can have", id=query.id)
            return
        allowed = session.identity.may_subscribe(name)
        if not self._node.authorize(session.identity, "subscribe", name, allowed):
            connection.error(ErrorCode.FORBIDDEN, "no right to read", id=query.id)
            return
        if connection.in_flight >= MAX_IN_FLIGHT or connection.full:
            connection.error(ErrorCode.OVERLOADED, "too much at once", id=query.id, retry_after=1000)
            return
        connection.in_flight += 1

        def answer(page: Page | Failure) -> None:
            connection.in_flight -= 1
            if connection.session is session:
                self._answer(connection, query, page)
            self._read_on(connection)

        def from_top(top: Top | Failure) -> None:
            if isinstance(top, Failure):
                answer(top)
                return
            after = max(top.offset - query.limit, 0)
            self._log.read(name, top.epoch, after, query.limit, answer)

        if query.last and not query.offset:
            read = partial(self._log.top, name, from_top)
        else:
            read = partial(self._log.read, name, query.epoch, query.offset, query.limit, answer)
        if self._reads[connection] >= MAX_READS:
            self._waiting.setdefault(connection, deque()).append(read)
        else:
            self._reads[connection] += 1
            read()

    def _read_on(self, connection: "Connection") -> None:
        """A read has ended: begin the next, if somebody is there to hear of it."""
        waiting = self._waiting.get(connection)
        if waiting and connection.session is not None:
            read = waiting.popleft()
            if not waiting:
                del self._waiting[connection]
            read()
            return
        self._waiting.pop(connection, None)
        self._reads[connection] -= 1
        if not self._reads[connection]:
            del self._reads[connection]

    def _answer(self, connection: "Connection", query: History, page: Page | Failure) -> None:
        if isinstance(page, Failure):
            connection.error(ErrorCode.UNAVAILABLE, "try again", id=query.id, retry_after=1000)
            return
        lines: list[Line] = []
        room = PAGE_BYTES
        for entry in page.entries:
            line = Line(query.channel, entry, page=query.id)
            room -= len(line.data)
            if room < 0 and lines:
                break
            lines.append(line)
        connection.tell(
            HistoryPage(
                id=query.id,
                channel=query.channel,
                epoch=page.top.epoch,
                offset=page.top.offset,
                count=len(lines),
                gap=self._gap(query, page),
            )
        )
        connection.extend(lines)

    def _gap(self, query: History, page: Page) -> Gap | None:
        if query.epoch and (page.top.epoch != query.epoch or query.offset > page.top.offset):
            return Gap("epoch")
        if page.gap is not None and not (query.last and not query.offset):
            return Gap("evicted", *page.gap)
        return None
