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
from enum import Enum, auto
from typing import NamedTuple, Protocol, TypeVar

from duolink.protocol.messages import LostRange

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
    """What a channel's log keeps: at most so many entries, seconds, bytes; all three bind. `keys` and
    `state_size` (bytes of names and values) bound its shared state, which retention does not touch."""

    entries: int
    age: float
    size: int
    keys: int = 1000
    state_size: int = 1 << 20


class Draft(NamedTuple):
    """A publication on its way into a log. `key` (scope: channel and sender) makes the append
    idempotent; `age` is how many seconds ago it was first tried, 0.0 for a first try.

    With a `name` it is a write to the channel's shared state: sets the name to `data`, or `deleted` it.
    `expect` makes it compare-and-set: it counts only if the name has that version now (0: is not there);
    -1 expects nothing."""

    sender: str
    data: bytes
    binary: bool = False
    key: str = ""
    age: float = 0.0
    name: str = ""
    expect: int = -1
    deleted: bool = False


class Entry(NamedTuple):
    """One publication of a log. `time` is wall milliseconds. With a `name` it changed the shared state, and
    its offset is the version that name has had since."""

    offset: int
    sender: str
    time: int
    data: bytes
    binary: bool = False
    name: str = ""
    deleted: bool = False


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


class Conflict(NamedTuple):
    """The answer to a compare-and-set that found another version: which one (0: the name is not there).
    Nothing was appended."""

    version: int


class Full(NamedTuple):
    """The answer to a state write for which there is no room (`Retention.keys`, `state_size`). Nothing was
    appended."""


Answer = Appended | Unknown | Conflict | Full
"""What an append ends with, when the engine is well."""


class Snapshot(NamedTuple):
    """A channel's shared state as of `top`: for each name that is there, the entry that set it."""

    top: Top
    entries: tuple[Entry, ...] = ()


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


class Logged(NamedTuple):
    """A channel that was published to."""

    channel: str
    top: Top


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

    Shared state is part of the log: a write is an entry like any other (it has an offset, and is read back by
    `read`), and what it does to the state happens in the same atomic step. State outlives the entries
    that made it.
    """

    def append(self, channel: str, draft: Draft, retention: Retention, done: "Done[Answer]") -> None:
        """Append, or answer a known key again. The retention replaces the channel's earlier one."""
        ...

    def read(self, channel: str, epoch: str, after: int, limit: int, done: "Done[Page]") -> None:
        """Read up to `limit` entries with offsets above `after`. An empty epoch means the current one.
        An offset beyond the top counts as another epoch would: nothing is known of it."""
        ...

    def state(self, channel: str, done: "Done[Snapshot]") -> None:
        """Read the whole shared state and the top it belongs to, as of one moment."""
        ...

    def top(self, channel: str, done: "Done[Top]") -> None:
        """Where the log stands; a channel that never had one gets an epoch now."""
        ...

    def listing(self, after: str, prefix: str, limit: int, done: "Done[tuple[Logged, ...]]") -> None:
        """Up to `limit` channels that were published to, retention may have taken everything: those behind a
        name that begin with a prefix, in the order of their characters."""
        ...

    def hold(self, channel: str) -> None:
        """The node has subscribers: until `release`, epoch and top are not forgotten, even when
        retention has taken every entry. An engine without a bound on channels ignores it."""
        ...

    def release(self, channel: str) -> None:
        """The node has no subscriber any more; the engine may forget the log once it is empty."""
        ...


# --- mailbox ---------------------------------------------------------------------------------


class Stream(NamedTuple):
    """One sender's numbers to one receiver: what a mailbox keeps in one sequence. The receiver is a client
    id, or `@user`: then every client of that user has a cursor of its own."""

    receiver: str
    sender: str
    lane: str
    run: int


class Row(NamedTuple):
    """One number of a stream as a mailbox keeps it, or several that were lost.

    `body` is what goes to the receiver: a line, or with `binary` the payload of a binary frame. With a
    `reason` the numbers `seq` … `last` ended as lost, and there is no body. `expires` is wall
    milliseconds (0: only the mailbox's own retention counts). A `collapse` key replaces an earlier row of the
    stream's receiver, sender and lane that has the same one. `time` is when the mailbox took it (wall ms),
    which only the mailbox says; 0: not known.
    """

    seq: int
    last: int
    body: bytes = b""
    binary: bool = False
    reason: str = ""
    expires: int = 0
    collapse: str = ""
    time: int = 0


class Standing(NamedTuple):
    """How far a stream is. Everything up to `stored` is kept, settled or known to be lost; the receiver
    (of a user: the first client) has finished with everything up to `settled`, except what `lost` lists,
    which is the word of the receiver's run `by`."""

    stored: int = 0
    settled: int = 0
    lost: tuple[LostRange, ...] = ()
    by: int = 0


class Verdict(Enum):
    """What became of a row."""

    KEPT = auto()
    """It is durable, or was before, or is settled."""
    HOLE = auto()
    """Not taken: `stored + 1` … `seq − 1` are missing. Send again from there."""
    FULL = auto()
    """It has ended as lost (`mailbox_full`), which the mailbox remembers in its place."""
    NOBODY = auto()
    """The receiver has no mailbox. Nothing was taken."""


class StoreResult(NamedTuple):
    """The answer to a store."""

    verdict: Verdict
    standing: Standing = Standing()


class Box(NamedTuple):
    """A stream that has rows for a client: those from `first` on, up to `top` as of now. `lost` is what its
    earlier processes have told of it, which the sender may not have heard."""

    stream: Stream
    first: int
    top: int
    lost: tuple[LostRange, ...] = ()


class Holding(NamedTuple):
    """What a receiver's mailbox holds: messages, the bytes of their bodies, how many senders have some there,
    and when the oldest of them was stored (wall ms; 0: not known)."""

    receiver: str
    messages: int
    size: int
    senders: int
    oldest: int


class MailboxLimits(NamedTuple):
    """How much a mailbox engine keeps. Counts are of messages (not of losses), sizes in bytes of bodies."""

    messages: int = 100_000
    size: int = 256 << 20
    pair_messages: int = 20_000
    pair_size: int = 64 << 20
    sender_messages: int = 200_000
    sender_size: int = 512 << 20
    mailboxes: int = 10_000
    """Receivers with rows at once, where anybody may have a mailbox."""
    known_only: bool = False
    """Only clients (and users) that have registered once have a mailbox."""
    retention: float = 7 * 86_400.0
    """Seconds after which a row has expired, whatever its sender said."""
    poison_after: int = 10
    """Processes of a client in a row that may take the same first row and end without finishing with it,
    before that row ends as lost (`poison`). They count if they began a minute apart: a program that
    crashes for another reason, and is started again and again, must not cost its messages. 0: never."""
    forget_after: float = 90 * 86_400.0
    """Seconds after which streams and clients nobody has used are forgotten, with what they hold."""


class Mailbox(Protocol):
    """Keeps link messages for clients that are not there to take them.

    Stores and acknowledgements of one receiver go through one ordered queue: a store at or below the cursor
    does nothing, however late it is (else a message that was delivered would come again). A row is taken
    only if base … seq − 1 are stored, settled or lost; a stream that is new begins at `base`. A full mailbox
    refuses the newest row and never evicts an older one. `done` of a store is called after the row is
    durable; completions for one stream come in the order of the requests. After an input/output error
    nothing is answered as kept until it is over.

    A row that expires, is replaced by a newer one of its collapse key, or is poison, becomes a loss in its
    place and is read as one, until the receiver's cursor has passed it.
    """

    def store(self, stream: Stream, row: Row, base: int, done: "Done[StoreResult]") -> None:
        """Keep a row. `base`: everything below is settled, as its sender says."""
        ...

    def standing(self, stream: Stream, done: "Done[Standing]") -> None:
        """Tell how far a stream is; of one that is not known: nothing is stored, nothing settled."""
        ...

    def acknowledge(
        self, stream: Stream, client_id: str, seq: int, lost: tuple[LostRange, ...], by: int
    ) -> None:
        """A client has finished with everything up to `seq`, except what it lists as lost: its cursor moves,
        and rows that every cursor has passed are deleted. Stale cursors change nothing; an unknown stream is
        remembered from now on. There is no answer; it is durable within a second, and at `close`."""
        ...

    def open(self, client_id: str, user: str, run: int, done: "Done[tuple[Box, ...]]") -> None:
        """A process (its run) of a client of that user is here to take its rows: list the streams that have
        some, each with the first row the client has not finished with; per sender in the order of runs.

        Where nothing can be written, the answer may be what is there to be read; then the process is not
        counted. It is a `Failure` for a client of a user that would not have its place in all of that
        user's streams, those to come too."""
        ...

    def read(
        self, stream: Stream, client_id: str, after: int, limit: int, size: int, done: "Done[tuple[Row, ...]]"
    ) -> None:
        """Read up to `limit` rows, and about `size` bytes of bodies (but one always), behind number `after`,
        in order. What has expired comes as lost. Reading changes nothing."""
        ...

    def totals(self) -> tuple[int, int]:
        """How many messages are kept now, and the bytes of their bodies; as of the last commit."""
        ...

    def receivers(self) -> int:
        """How many receivers have something in their mailbox now; as of the last commit."""
        ...

    def holdings(self, receivers: tuple[str, ...], done: "Done[tuple[Holding, ...]]") -> None:
        """Tell what the mailboxes of these receivers hold, of those that have messages; in any order. It may
        count what has expired, or was finished with, in the last seconds."""
        ...

    def listing(self, after: str, limit: int, done: "Done[tuple[Holding, ...]]") -> None:
        """The same of all receivers with messages, in the order of their names (as UTF-8 bytes): up to
        `limit` behind `after`."""
        ...

    def deepest(self, limit: int, done: "Done[tuple[Holding, ...]]") -> None:
        """The same of the receivers with the most messages, those first; among equals by name."""
        ...


# --- registry --------------------------------------------------------------------------------


class RunVerdict(NamedTuple):
    """The answer to a presented run: accepted, or superseded by the `newest`."""

    accepted: bool
    newest: int


class Registry(Protocol):
    """Issues the numbers that order the lives of clients, across nodes and restarts, and remembers who has
    ever been here.

    Runs and generations of a client only increase: issued is `max(last + 1, at_least)`, where
    `at_least` is wall milliseconds, so that an engine without memory still moves forward, and one whose disk
    fails goes on issuing. Who is where, under a lease, comes with the second node.
    """

    def issue_run(self, client_id: str, user: str, at_least: int, done: "Done[int]") -> None:
        """A process registers for the first time: give it a run above every earlier one, and remember
        the client as one of this user's."""
        ...

    def present_run(self, client_id: str, user: str, run: int, done: "Done[RunVerdict]") -> None:
        """A process comes back with its run: accept it (and remember it as issued) unless a higher
        one was issued or accepted for this client."""
        ...

    def issue_generation(self, client_id: str, at_least: int, done: "Done[int]") -> None:
        """A new session begins: give it a generation above every earlier one of this client."""
        ...


# --- the whole -------------------------------------------------------------------------------


def _well() -> str:
    return ""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Engines:
    """What a node is built on. Unless `durable`, nothing is ever called `stored`, and `welcome` says
    `durable: false`."""

    bus: Bus
    log: Log
    registry: Registry
    mailbox: Mailbox
    durable: bool = False
    """Whether what a mailbox keeps survives the process."""
    problem: Callable[[], str] = _well
    """Why nothing can be kept now, for people; empty while all is well."""
    close: Callable[[], None] = _nothing
    """Finish what is under way and let go of files; nothing may be asked afterwards."""
