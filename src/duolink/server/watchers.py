"""Who is here: peers that clients watch, and senders that wait for a receiver."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from duolink.protocol import limits
from duolink.protocol.codec import is_id
from duolink.protocol.codes import ErrorCode, PeerState
from duolink.protocol.messages import Peer, Watch, Watching
from duolink.server.party import Parties, Party
from duolink.server.policy import SERVER, Consent, may_link
from duolink.server.registry import Session

if TYPE_CHECKING:
    from duolink.server.connection import Connection
    from duolink.server.node import Node

WAKE_SLICE: Final = 16
"""Senders told at once that a receiver can take messages again: each may answer with a window."""


WATCHED_PER_EFFORT: Final = 16
"""Peers whose state is told for the effort of one change (see `ratelimit.EFFORT_BURST`): a client that links
to as many as it may, one after the other, tells the set anew each time."""


class Watchers:
    """Tells clients of the peers they watch or wait for."""

    def __init__(self, node: "Node", parties: Parties, consent: Consent, maximum: int) -> None:
        self._node = node
        self._parties = parties
        self._consent = consent
        self._maximum = maximum

    def watch(self, connection: "Connection", watch: Watch) -> None:
        """Take the full set of watched peers, and tell the state of each."""
        if self._set(connection, watch.clients, watch.id, charged=True):
            connection.tell(Watching(id=watch.id))
            self.tell_states(connection)

    def watch_only(self, connection: "Connection", names: list[str]) -> None:
        """Take the set a hello brought."""
        if self._set(connection, names, 0, charged=False):
            self.tell_states(connection)

    def _set(self, connection: "Connection", names: list[str], command: int, *, charged: bool) -> bool:
        session = connection.session
        assert session is not None
        wanted = dict.fromkeys(names)
        if len(wanted) > self._maximum:
            connection.error(ErrorCode.LIMIT, f"at most {self._maximum} watched peers", id=command)
            return False
        if not all(is_id(name, limits.MAX_CLIENT_ID) for name in wanted):
            connection.error(ErrorCode.MALFORMED, "not the name of a client", id=command)
            return False
        ended = [name for name in session.watching if name not in wanted]
        begun = len(wanted) - len(session.watching) + len(ended)
        if charged and not connection.afford(len(ended) + begun + len(wanted) / WATCHED_PER_EFFORT):
            connection.exhaust("watched peers")
            return False
        for name in ended:
            self._unwatch(session, name)
        for name in wanted:
            party = session.watching[name] = self._parties.make(name)
            party.watchers[session] = None
        return True

    def _unwatch(self, session: Session, name: str) -> None:
        party = session.watching.pop(name)
        party.watchers.pop(session, None)
        self._parties.tidy(party)

    def ended(self, session: Session) -> None:
        """The session is over: it watches nobody."""
        for name in list(session.watching):
            self._unwatch(session, name)

    def tell_states(self, connection: "Connection") -> None:
        """Tell the state of every watched peer."""
        session = connection.session
        assert session is not None
        for party in session.watching.values():
            connection.tell(self.state(session, party))

    def state(self, observer: Session, party: Party) -> Peer:
        """What this observer may know of a party."""
        session = party.session
        absent = session is None or (
            party.name == SERVER and party.connection is not None and party.connection.full
        )
        if session is None or absent or not may_link(self._consent, observer, party):
            return Peer(client_id=party.name, state=PeerState.AWAY)
        if session.connection is None:
            return Peer(client_id=party.name, state=PeerState.RECONNECTING)
        return Peer(
            client_id=party.name,
            state=PeerState.HERE,
            run=session.run,
            generation=session.generation,
            attachment=session.attachment,
        )

    def announce(self, party: Party, *, waiters: bool = False) -> None:
        """The party's state has changed: tell those who watch it, and with `waiters` those who wait."""
        observers = party.watchers | dict.fromkeys(party.waiters) if waiters else party.watchers
        if observers:
            self._node.work.start(self._tell(party, list(observers)))

    def _tell(self, party: Party, observers: list[Session]) -> Iterator[None]:
        for observer in observers:
            if observer.connection is not None and (observer in party.watchers or observer in party.waiters):
                observer.connection.tell(self.state(observer, party))
            yield

    def wake(self, party: Party) -> None:
        """The party can take messages (again): wake those who wait, a few at a time."""
        if party.waiters:
            self._node.work.start(self._wake(party), WAKE_SLICE)

    def _wake(self, party: Party) -> Iterator[None]:
        while party.waiters:
            target = party.connection
            if target is None or target.full:
                return  # the rest hear of it when that changes
            sender = next(iter(party.waiters))
            party.waiters.pop(sender)
            if sender.connection is not None and may_link(self._consent, sender, party):
                sender.connection.tell(self.state(sender, party))
            yield
