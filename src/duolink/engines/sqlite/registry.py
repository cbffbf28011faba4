"""`Registry` in a database: what was issued is on disk before it is told, as long as there is one."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import apsw

from duolink.engines.base import Done, Failure, RunVerdict
from duolink.engines.memory import Clock
from duolink.engines.sqlite.rows import Rows, one
from duolink.engines.sqlite.writer import Reader, Writer

MAX_PICTURE: Final = 50_000
"""Clients remembered, once by the writer and once by the loop; ≈ 15 MB each."""

MAX_UNSAVED: Final = 100_000
"""Clients with numbers that were issued while the disk failed, ≈ 30 MB; of more, the oldest are forgotten,
and the wall clock alone keeps their numbers increasing."""

SEEN_EVERY: Final = 86_400_000
"""Milliseconds within which coming back is not worth writing down; less where clients are forgotten soon."""

SWEEP_CLIENTS: Final = 200
"""Clients that one sweep looks at."""

_FIND: Final = "SELECT user, run, generation, seen FROM clients WHERE client_id = ?"
_WRITE: Final = Rows(
    """
    INSERT INTO clients VALUES {rows}
    ON CONFLICT (client_id) DO UPDATE SET user = excluded.user, run = excluded.run,
        generation = excluded.generation, seen = excluded.seen
    """,
    5,
)
_SWEEP_TO: Final = """
    SELECT count(*), max(client_id)
    FROM (SELECT client_id FROM clients WHERE client_id > ? ORDER BY client_id LIMIT ?)
"""
_SWEEP: Final = "DELETE FROM clients WHERE client_id > ? AND client_id <= ? AND seen < ?"


class Client(NamedTuple):
    """What is known of a client. `seen`: wall ms."""

    user: str = ""
    run: int = 0
    generation: int = 0
    seen: int = 0


class Change(NamedTuple):
    """What the writer is asked: raise a client's numbers; answered with the `Client` as it is then.

    `run` and `generation` are the least they shall be, and with `next_…` they also grow by one.
    """

    client_id: str
    user: str
    run: int = 0
    next_run: bool = False
    generation: int = 0
    next_generation: bool = False


class Sweep(NamedTuple):
    """Forget some of the clients that were not seen since (wall ms)."""

    before: int


class Clients:
    """The part of the database that holds the clients."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._picture: OrderedDict[str, Client] = OrderedDict()
        self._dirty: dict[str, Client] = {}
        self._swept = ""

    def apply(self, db: apsw.Connection, request: Any) -> Client | None:
        """See `Part.apply`."""
        if isinstance(request, Sweep):
            self._sweep(db, request.before)
            return None
        change: Change = request
        name = change.client_id
        old = self._picture.get(name) or look_up(db, name)
        new = self._dirty[name] = self._picture[name] = Client(
            change.user or old.user,
            max(old.run + change.next_run, change.run),
            max(old.generation + change.next_generation, change.generation),
            self._clock.wall_ms(),
        )
        self._picture.move_to_end(name)
        return new

    def _sweep(self, db: apsw.Connection, before: int) -> None:
        count, last = one(db, _SWEEP_TO, (self._swept, SWEEP_CLIENTS))
        if count:
            db.execute(_SWEEP, (self._swept, last, before))
        self._swept = last if count == SWEEP_CLIENTS else ""

    def flush(self, db: apsw.Connection) -> None:
        """See `Part.flush`."""
        _WRITE.write(db, [(name, *client) for name, client in self._dirty.items()])
        self._dirty.clear()

    def committed(self) -> None:
        """See `Part.committed`."""
        while len(self._picture) > MAX_PICTURE:
            self._picture.popitem(last=False)

    def rolled_back(self) -> None:
        """See `Part.rolled_back`."""
        self._picture.clear()
        self._dirty.clear()


def look_up(db: apsw.Connection, client_id: str) -> Client:
    """Return what the database knows of a client."""
    return Client(*(one(db, _FIND, (client_id,)) or ()))


class SqliteRegistry:
    """`Registry`. While nothing can be written it issues from memory, and writes that down afterwards:
    clients come in though the disk is full, and the wall clock keeps their numbers increasing even if the
    process ends before the disk is well."""

    def __init__(self, writer: Writer, reader: Reader, *, clock: Clock) -> None:
        self._writer, self._reader = writer, reader
        self._clock = clock
        self._clients = Clients(clock)
        self._fresh_for = SEEN_EVERY
        self._known: OrderedDict[str, Client] = OrderedDict()  # as of some commit, or newer
        self._unsaved: OrderedDict[str, Client] = OrderedDict()

    def issue_run(self, client_id: str, user: str, at_least: int, done: Done[int]) -> None:
        """See `Registry.issue_run`."""
        self._change(
            Change(client_id, user, run=at_least, next_run=True),
            lambda old, new: new.run > old.run,
            lambda client: done(client.run),
        )

    def issue_generation(self, client_id: str, at_least: int, done: Done[int]) -> None:
        """See `Registry.issue_generation`."""
        self._change(
            Change(client_id, "", generation=at_least, next_generation=True),
            lambda old, new: new.generation > old.generation,
            lambda client: done(client.generation),
        )

    def present_run(self, client_id: str, user: str, run: int, done: Done[RunVerdict]) -> None:
        """See `Registry.present_run`. A client that comes back, as most do, writes nothing."""
        unsaved = self._unsaved.get(client_id)
        known = unsaved or self._known.get(client_id)

        def accept(client: Client) -> None:
            done(RunVerdict(client.run <= run, client.run))

        def decide(found: Client | Failure) -> None:
            if not isinstance(found, Failure):
                if known is None and found.run:
                    self._remember(client_id, found)
                    found = self._newest(client_id, found)  # more may have happened since it was read
                if run < found.run or (found[:2] == (user, run) and self._fresh(found)):
                    accept(found)
                    return
            self._change(Change(client_id, user, run=run), lambda old, new: new.run >= old.run, accept)

        if known is None:
            self._reader.read(partial(look_up, client_id=client_id), decide)
        else:
            decide(known)

    def sweep(self, forget_after: float) -> None:
        """Forget some of the clients not seen for so many seconds. To be called now and then."""
        before = self._clock.wall_ms() - int(forget_after * 1000)
        self._fresh_for = min(SEEN_EVERY, int(forget_after * 250))
        self._writer.submit(self._clients, Sweep(before), _ignore)

    def recovered(self) -> None:
        """The database can be written again: write down what was issued meanwhile."""
        for client_id, client in list(self._unsaved.items()):
            self._write_down(client_id, client)

    def _write_down(self, client_id: str, client: Client) -> None:
        change = Change(client_id, client.user, client.run, False, client.generation)
        self._writer.submit(self._clients, change, partial(self._saved, client_id))

    def _saved(self, client_id: str, client: Client | Failure) -> None:
        if not isinstance(client, Failure):
            self._remember(client_id, client)

    # --- changes -------------------------------------------------------------------------------

    def _change(
        self, change: Change, fits: Callable[[Client, Client], bool], done: Callable[[Client], None]
    ) -> None:
        """Have a change written; without a disk, make it here. `fits` tells whether what was issued here
        and what was written are in order."""
        client_id = change.client_id

        def answer(client: Client | Failure) -> None:
            if isinstance(client, Failure):
                self._improvise(change, done)
                return
            unsaved = self._unsaved.get(client_id)
            if unsaved is not None and not fits(unsaved, client):
                # This was asked before a number was issued from memory, and written after it.
                self._change(_above(change, unsaved), fits, done)
                return
            self._remember(client_id, client)
            done(client)

        unsaved = self._unsaved.get(client_id)
        if unsaved is not None:
            change = _above(change, unsaved)
        self._writer.submit(self._clients, change, answer)

    def _improvise(self, change: Change, done: Callable[[Client], None]) -> None:
        client_id = change.client_id

        def issue(found: Client | Failure) -> None:
            old = self._newest(client_id, Client() if isinstance(found, Failure) else found)
            client = Client(
                change.user or old.user,
                max(old.run + change.next_run, change.run),
                max(old.generation + change.next_generation, change.generation),
                self._clock.wall_ms(),
            )
            self._unsaved[client_id] = client
            self._unsaved.move_to_end(client_id)
            if len(self._unsaved) > MAX_UNSAVED:
                self._unsaved.popitem(last=False)
            if not self._writer.problem:  # it has recovered while this was looked up
                self._write_down(client_id, client)
            done(client)

        if client_id in self._known or client_id in self._unsaved:
            issue(Client())
        else:
            self._reader.read(partial(look_up, client_id=client_id), issue)

    def _newest(self, client_id: str, client: Client) -> Client:
        for other in (self._known.get(client_id), self._unsaved.get(client_id)):
            client = client if other is None else _newest(client, other)
        return client

    def _remember(self, client_id: str, client: Client) -> None:
        known = self._known.get(client_id)
        if known is not None:
            client = _newest(known, client)
        self._known[client_id] = client
        self._known.move_to_end(client_id)
        if len(self._known) > MAX_PICTURE:
            self._known.popitem(last=False)
        unsaved = self._unsaved.get(client_id)
        if unsaved is not None and client.run >= unsaved.run and client.generation >= unsaved.generation:
            del self._unsaved[client_id]

    def _fresh(self, client: Client) -> bool:
        return client.seen > self._clock.wall_ms() - self._fresh_for


def _newest(one: Client, other: Client) -> Client:
    newest = max(one, other, key=lambda client: client.seen)
    return newest._replace(run=max(one.run, other.run), generation=max(one.generation, other.generation))


def _above(change: Change, client: Client) -> Change:
    """Let a change begin from numbers that the database does not have."""
    return change._replace(
        run=max(change.run, client.run + change.next_run),
        generation=max(change.generation, client.generation + change.next_generation),
    )


def _ignore(answer: object) -> None:
    pass
