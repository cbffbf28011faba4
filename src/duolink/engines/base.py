"""The ports: what a node asks of the engine that holds its logs, mailboxes and registry.

All four answer by completion only. A request takes a `done`, which the engine calls exactly once with
the result or a `Failure`: from the event loop's thread, at once (inside the request) or any time later.
Requests never raise for what an engine, a network or a disk may do. Completions of different requests
come in any order, except where a port promises one. Whoever asks remembers for which
(id, generation or attachment) it asked and drops a completion that has become stale; an engine
neither knows nor cares. A request whose `done` never comes would be a leak, so adapters to remote
engines give up after a deadline with `Failure`.

Four ports and not one, so that truth and transport can differ: logs in SQLite with a bus over NATS
is a legal engine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

Result = TypeVar("Result", contravariant=True)


@dataclass(frozen=True, slots=True)
class Failure:
    """The engine could not do it, or does not know whether it did. Trying again makes sense."""

    reason: str
    uncertain: bool = False
    """True when the effect may have happened all the same: repeat only what is idempotent."""


Done = Callable[[Result | Failure], None]
"""Takes the one answer to a request."""


# --- bus -------------------------------------------------------------------------------------


class Bus(Protocol):
    """Carries bytes between nodes, at most once.

    What one publisher sends on one subject arrives in its order or not at all; nothing is promised
    between publishers or subjects. A node hears its own publications on subjects it subscribes to.
    Losses are silent, so whoever needs a message compares numbers of its own (channel offsets, seq).
    """

    def subscribe(self, subject: str, deliver: Callable[[bytes], None]) -> None:
        """Deliver what is published on exactly this subject from now on; one subscriber per node and
        subject, a second call replaces the first."""
        ...

    def unsubscribe(self, subject: str) -> None:
        """Stop; nothing is delivered after this returns. Repeating is safe."""
        ...

    def publish(self, subject: str, payload: bytes) -> None:
        """Send to all who are subscribed."""
        ...


# --- log -------------------------------------------------------------------------------------


class Retention(NamedTuple):
    """What a channel's log keeps: at most so many entries, seconds, bytes. All three bind."""

    entries: int
    age: float
    size: int


class Draft(NamedTuple):
    """A publication on its way into a log. `key` (scope: channel and sender) makes the append
    idempotent; `age` is how many seconds ago it was first tried, 0.0 for a first try."""

    sender: str
    data: bytes
    binary: bool = False
    key: str = ""
    age: float = 0.0


class Entry(NamedTuple):
    """One publication of a log. `time` is wall milliseconds."""

    offset: int
    sender: str
    time: int
    data: bytes
    binary: bool = False


class Top(NamedTuple):
    """Where a log stands: the offset of its newest publication ever, 0 before the first."""

    epoch: str
    offset: int


class Appended(NamedTuple):
    """The answer to an append. `repeated`: the key was known, and this is its first answer again."""

    epoch: str
    entry: Entry
    repeated: bool = False


class Unknown(NamedTuple):
    """The answer to a retried append whose key is not known any more: whether the first try ran
    cannot be said, and nothing was appended."""


class Page(NamedTuple):
    """The answer to a read.

    `entries` are contiguous and begin at `after + 1`, unless retention has taken entries the reader
    named: then `gap` is their (first, last), and `entries` begin behind it. `top` is the log's top
    at the moment of reading; if `top.epoch` is not the epoch asked for, the log was lost since,
    and `entries` is empty.
    """

    top: Top
    entries: tuple[Entry, ...] = ()
    gap: tuple[int, int] | None = None


class Log(Protocol):
    """Keeps the publications of each channel in order, for exact recovery.

    Offsets of a channel are 1, 2, 3 … within an epoch. An epoch is a random name of one life of the log:
    whenever offsets could begin again, the epoch is another one. An append is atomic: its offset, its
    entry and its key exist together or not at all, and on a durable engine they are durable
    before `done` is called. Completions of appends to one channel come in the order of their offsets;
    a read that began after an append completed sees it.

    Keys are kept `limits.PUBLISH_KEY_LIFE` seconds, fewer only when a bound on their number is
    reached; in both cases a retry older than the oldest key surely kept gets `Unknown`, never a
    second append.
    """

    def append(
        self, channel: str, draft: Draft, retention: Retention, done: "Done[Appended | Unknown]"
    ) -> None:
        """Append, or answer a known key again. The retention replaces the channel's earlier one."""
        ...

    def read(self, channel: str, epoch: str, after: int, limit: int, done: "Done[Page]") -> None:
        """Read up to `limit` entries with offsets above `after`. An empty epoch means the current one.
        An offset beyond the top counts as another epoch would: nothing is known of it."""
        ...

    def top(self, channel: str, done: "Done[Top]") -> None:
        """Where the log stands; a channel that never had one gets an epoch now."""
        ...

    def hold(self, channel: str) -> None:
        """The node has subscribers: until `release`, epoch and top are not forgotten, even when
        retention has taken every entry. An engine without a bound on channels ignores it."""
        ...

    def release(self, channel: str) -> None:
        """The node has no subscriber any more; the engine may forget the log once it is empty."""
        ...


# --- mailbox ---------------------------------------------------------------------------------


class Row(NamedTuple):
    """One link message as a mailbox keeps it. `base` is the sender's, `line` the encoded message,
    `expires` wall milliseconds (0: by the mailbox's own retention)."""

    sender: str
    receiver: str
    lane: str
    run: int
    seq: int
    base: int
    line: bytes
    expires: int = 0


class StoreResult(NamedTuple):
    """The answer to a store: everything up to `stored` of the row's lane and run is kept or settled.
    `resend_from` (0: nothing missing) is where the sender must begin again; `refused` says why the
    row will never be taken (`mailbox_full`), empty if it was or may yet be."""

    stored: int
    resend_from: int = 0
    refused: str = ""


class Mailbox(Protocol):
    """Keeps link messages for clients that are not there to take them.

    Inserts and acknowledgements of one mailbox go through one ordered queue: an insert at or below the
    receiver's cursor does nothing, however late it is (else a message that was delivered would
    come again). A row (run, seq) is taken only if base … seq − 1 are stored or settled. A full
    mailbox refuses the newest row and never evicts an older one. `done` of a store is called after the
    row is durable; after an input/output error nothing is answered as stored until it is over.
    Rows of one (sender, lane) drain in order of (run, seq).
    """

    def store(self, row: Row, done: "Done[StoreResult]") -> None:
        """Keep a row."""
        ...

    def acknowledge(self, receiver: str, sender: str, lane: str, run: int, seq: int) -> None:
        """The receiver has finished with everything up to `seq` of the run: delete, move the cursor. Stale
        cursors change nothing."""
        ...

    def drain(self, receiver: str, after: int, limit: int, done: "Done[tuple[tuple[int, Row], ...]]") -> None:
        """Read up to `limit` rows in order, each with its place, from behind the place `after` on (0:
        from the start). Reading deletes nothing."""
        ...


# --- registry --------------------------------------------------------------------------------


class RunVerdict(NamedTuple):
    """The answer to a presented run: accepted, or superseded by the `newest`."""

    accepted: bool
    newest: int


class Registry(Protocol):
    """Issues the numbers that order the lives of clients, across nodes and restarts.

    Runs and generations of a client only increase: issued is `max(last + 1, at_least)`, where
    `at_least` is wall milliseconds, so that an engine without memory still moves forward. Who is
    where, under a lease, comes with the second node.
    """

    def issue_run(self, client_id: str, at_least: int, done: "Done[int]") -> None:
        """A process registers for the first time: give it a run above every earlier one."""
        ...

    def present_run(self, client_id: str, run: int, done: "Done[RunVerdict]") -> None:
        """A process comes back with its run: accept it (and remember it as issued) unless a higher
        one was issued or accepted for this client."""
        ...

    def issue_generation(self, client_id: str, at_least: int, done: "Done[int]") -> None:
        """A new session begins: give it a generation above every earlier one of this client."""
        ...


# --- the whole -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Engines:
    """What a node is built on. Without a mailbox nothing is ever `stored`, and `welcome` says
    `durable: false`."""

    bus: Bus
    log: Log
    registry: Registry
    mailbox: Mailbox | None = None

    @property
    def durable(self) -> bool:
        """Whether messages for absent clients survive here."""
        return self.mailbox is not None
