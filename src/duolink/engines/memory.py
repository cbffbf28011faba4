"""The engine of one process without a disk: everything is gone when it ends, and it says so.

Logs get a new random epoch at each start, the registry moves on by the wall clock, and what mailboxes
hold is never called stored. It completes at once; given a `Late` schedule it completes late and in
seeded order, so that code that assumes an instant answer fails under test rather than in a cluster.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol

from duolink.engines.base import (
    Answer,
    Appended,
    Conflict,
    Done,
    Draft,
    Engines,
    Entry,
    Failure,
    Full,
    Logged,
    MailboxLimits,
    Page,
    Retention,
    RunVerdict,
    Snapshot,
    Top,
    Unknown,
)
from duolink.engines.box import DEVICES
from duolink.engines.memory_mailbox import MemoryMailbox
from duolink.protocol import limits

MAX_KEYS: Final = 100_000
"""Idempotency keys kept at once: 300 publishes with keys per second for their whole life, ≈ 30 MB."""

MAX_RUNS: Final = 200_000
"""Clients whose last run is remembered, ≈ 40 MB; the floor keeps runs increasing for the forgotten."""

KEY_MARGIN: Final = 10.0
"""Seconds a retry may have been under way: its `age` was true when it was sent, not when it is read."""

LOG_LIFE: Final = 300.0
"""Seconds an empty log that nobody holds keeps its epoch: a client away for less recovers without a gap."""

MAX_LOGS: Final = 200_000
"""Channels with a log at once; more are refused. Names are the clients' to choose, and a log costs ≈ 500
bytes even when nobody has published."""

MAX_STATE: Final = 256 << 20
"""Bytes of all shared state together; beyond them there is no room. Time takes no state away, and channels
are the clients' to name."""

NAME_COST: Final = 512
"""Bytes of memory that a name takes beside itself and its value."""

SWEEP_EVERY: Final = 10.0
"""Seconds between two looks for logs to forget."""

SWEEP_LOGS: Final = 200
"""Logs looked at with each use of one, until all were: half a millisecond."""


class Clock(Protocol):
    """Where time comes from: the system, or a simulation."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970 (UTC)."""
        ...


class Random(Protocol):
    """The part of `random.Random` that a late schedule draws from."""

    def randrange(self, stop: int, /) -> int:
        """An integer in 0 … stop − 1."""
        ...


class Schedule(Protocol):
    """When the engine does what it was asked, and when it says so."""

    def submit(self, queue: str, work: Callable[[], Callable[[], None]]) -> None:
        """Do the work some time, and some time later call what it returned. Jobs of one queue are done and
        answered in their order; an empty name is a queue of its own."""
        ...


class AtOnce:
    """Does and answers everything inside the request."""

    def submit(self, queue: str, work: Callable[[], Callable[[], None]]) -> None:
        """See `Schedule.submit`."""
        work()()


class Late:
    """Does and answers one thing per `step`, in an order drawn from `random`. Deterministic for a seed."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._queues: dict[str, deque[Callable[[], Any]]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many steps are to be taken at least."""
        return sum(map(len, self._queues.values()))

    def submit(self, queue: str, work: Callable[[], Callable[[], None]]) -> None:
        """See `Schedule.submit`."""
        self._count += 1
        queue = queue or f"#{self._count}"
        jobs = self._queues.setdefault(queue, deque())
        jobs.append(work)

    def step(self) -> bool:
        """Do or answer one thing; return False if there was nothing to do."""
        if not self._queues:
            return False
        names = list(self._queues)
        name = names[self._random.randrange(len(names))]
        jobs = self._queues[name]
        answer = jobs[0]()
        if answer is not None:
            jobs[0] = answer  # done; its answer is a step of its own, before the queue goes on
            return True
        jobs.popleft()
        if not jobs:
            self._queues.pop(name, None)
        return True

    def run(self) -> None:
        """Step until nothing is left."""
        while self.step():
            pass


class _TooManyLogs(Exception):
    """There are `MAX_LOGS` already."""


class _ChannelLog:
    """One channel's log."""

    __slots__ = ("entries", "epoch", "offset", "retention", "size", "state", "state_size", "used")

    def __init__(self, epoch: str, now: float) -> None:
        self.epoch = epoch
        self.offset = 0
        self.entries: deque[Entry] = deque()
        self.retention = Retention(0, 0.0, 0)
        self.size = 0
        self.state: dict[str, Entry] = {}
        self.state_size = 0
        self.used = now

    def trim(self, wall_ms: int) -> None:
        """Drop what retention no longer covers."""
        entries, keep = self.entries, self.retention
        oldest = wall_ms - keep.age * 1000
        while entries and (len(entries) > keep.entries or self.size > keep.size or entries[0].time <= oldest):
            self.size -= len(entries.popleft().data)

    def refusal(self, draft: Draft, retention: Retention) -> Conflict | Full | None:
        """Say why a write to the state cannot be; None if it can."""
        old = self.state.get(draft.name)
        version = 0 if old is None else old.offset
        if draft.expect not in (-1, version):
            return Conflict(version)
        if draft.deleted:
            return None
        keys = len(self.state) + (old is None)
        size = self.state_size + _size(draft) - _size(old)
        return Full() if keys > retention.keys or size > retention.state_size else None

    def write(self, entry: Entry) -> int:
        """Let an entry change the state. Returns how many bytes of memory that takes."""
        names = len(self.state)
        growth = -_size(self.state.pop(entry.name, None))
        if not entry.deleted:
            self.state[entry.name] = entry
            growth += _size(entry)
        self.state_size += growth
        return growth + NAME_COST * (len(self.state) - names)


def _size(written: Draft | Entry | None) -> int:
    return 0 if written is None else len(written.name.encode()) + len(written.data)


class MemoryLog:
    """`Log` in memory. A log is forgotten when it is empty, without state, and nobody has used or held it for
    `LOG_LIFE`."""

    def __init__(self, clock: Clock, new_epoch: Callable[[], str], schedule: Schedule) -> None:
        self._clock = clock
        self._new_epoch = new_epoch
        self._schedule = schedule
        self._logs: dict[str, _ChannelLog] = {}
        self._names: list[str] = []  # of those that were published to, in order
        self._held: Counter[str] = Counter()
        self._state_memory = 0
        self._keys: OrderedDict[tuple[str, str, str], tuple[float, Appended]] = OrderedDict()
        self._keys_since = clock.monotonic()  # every key used after this is still known
        self._swept = clock.monotonic()
        self._to_sweep: list[str] = []

    def __len__(self) -> int:
        """How many channels have a log."""
        return len(self._logs)

    def append(self, channel: str, draft: Draft, retention: Retention, done: Done[Answer]) -> None:
        """See `Log.append`."""
        self._submit(f"append {channel}", partial(self._append, channel, draft, retention), done)

    def read(self, channel: str, epoch: str, after: int, limit: int, done: Done[Page]) -> None:
        """See `Log.read`."""
        self._submit("", partial(self._read, channel, epoch, after, limit), done)

    def state(self, channel: str, done: Done[Snapshot]) -> None:
        """See `Log.state`."""
        self._submit("", partial(self._state, channel), done)

    def top(self, channel: str, done: Done[Top]) -> None:
        """See `Log.top`."""
        self._submit("", partial(self._top, channel), done)

    def listing(self, after: str, prefix: str, limit: int, done: Done[tuple[Logged, ...]]) -> None:
        """See `Log.listing`."""
        self._submit("", partial(self._listing, after, prefix, limit), done)

    def hold(self, channel: str) -> None:
        """See `Log.hold`."""
        self._held[channel] += 1

    def release(self, channel: str) -> None:
        """See `Log.release`."""
        self._held[channel] -= 1
        if self._held[channel] <= 0:
            del self._held[channel]

    def _submit(self, queue: str, action: Callable[[], Any], done: Done[Any]) -> None:
        def work() -> Callable[[], None]:
            try:
                result = action()
            except _TooManyLogs:
                result = Failure("too many channels")
            return partial(done, result)

        self._schedule.submit(queue, work)

    def _log(self, channel: str) -> _ChannelLog:
        now = self._clock.monotonic()
        if not self._to_sweep and now >= self._swept + SWEEP_EVERY:
            self._swept = now
            self._to_sweep = list(self._logs)
        if self._to_sweep:
            self._sweep(now)
        log = self._logs.get(channel)
        if log is None:
            if len(self._logs) >= MAX_LOGS:
                raise _TooManyLogs
            log = self._logs[channel] = _ChannelLog(self._new_epoch(), now)
        log.used = now
        log.trim(self._clock.wall_ms())
        return log

    def _sweep(self, now: float) -> None:
        wall_ms = self._clock.wall_ms()
        looked_at = self._to_sweep[-SWEEP_LOGS:]
        del self._to_sweep[-SWEEP_LOGS:]
        for channel in looked_at:
            log = self._logs[channel]
            log.trim(wall_ms)
            if channel in self._held or log.entries or log.state:
                continue
            if now >= log.used + LOG_LIFE:
                del self._logs[channel]
                if log.offset:
                    del self._names[bisect_left(self._names, channel)]

    def _top(self, channel: str) -> Top:
        log = self._log(channel)
        return Top(log.epoch, log.offset)

    def _state(self, channel: str) -> Snapshot:
        log = self._log(channel)
        return Snapshot(Top(log.epoch, log.offset), tuple(log.state.values()))

    def _listing(self, after: str, prefix: str, limit: int) -> tuple[Logged, ...]:
        start = max(bisect_right(self._names, after), bisect_left(self._names, prefix))
        names = self._names[start : start + limit]
        return tuple(
            Logged(name, Top(self._logs[name].epoch, self._logs[name].offset))
            for name in names
            if name.startswith(prefix)
        )

    def _append(self, channel: str, draft: Draft, retention: Retention) -> Answer:
        now = self._clock.monotonic()
        key = (channel, draft.sender, draft.key)
        if draft.key:
            self._forget_keys(now)
            known = self._keys.get(key)
            if known is not None:
                return known[1]._replace(repeated=True)
            if draft.age > 0 and now - draft.age < self._keys_since + KEY_MARGIN:
                return Unknown()
        log = self._log(channel)
        if draft.name:
            refusal = self._refusal(log, draft, retention)
            if refusal is not None:
                return refusal
        log.offset += 1
        if log.offset == 1:
            insort(self._names, channel)
        entry = Entry(log.offset, draft.sender, self._clock.wall_ms(), draft.data, draft.binary)
        if draft.name:
            entry = entry._replace(name=draft.name, deleted=draft.deleted)
            self._state_memory += log.write(entry)
        log.entries.append(entry)
        log.size += len(entry.data)
        log.retention = retention
        log.trim(entry.time)
        appended = Appended(log.epoch, entry)
        if draft.key:  # the answer needs no data
            self._keys[key] = now, Appended(log.epoch, entry._replace(data=b""))
        return appended

    def _refusal(self, log: _ChannelLog, draft: Draft, retention: Retention) -> Conflict | Full | None:
        refusal = log.refusal(draft, retention)
        if refusal is None and not draft.deleted and self._state_memory > MAX_STATE:
            return Full()
        return refusal

    def _forget_keys(self, now: float) -> None:
        while self._keys:
            used, _ = next(iter(self._keys.values()))
            if used >= now - limits.PUBLISH_KEY_LIFE and len(self._keys) < MAX_KEYS:
                return
            self._keys.popitem(last=False)
            self._keys_since = used

    def _read(self, channel: str, epoch: str, after: int, limit: int) -> Page:
        log = self._log(channel)
        top = Top(log.epoch, log.offset)
        if (epoch and epoch != log.epoch) or after > log.offset:
            return Page(top)
        first = log.offset - len(log.entries) + 1
        gap = (after + 1, first - 1) if after + 1 < first else None
        start = max(after + 1 - first, 0)
        entries = tuple(log.entries[i] for i in range(start, min(start + limit, len(log.entries))))
        return Page(top, entries, gap)


class MemoryRegistry:
    """`Registry` in memory; one counter serves all clients, and a bounded table knows each one's last run."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._runs: OrderedDict[str, int] = OrderedDict()
        self._users: dict[str, str] = {}  # of the clients in `_runs`
        self._clients: dict[str, dict[str, None]] = {}  # of each user, those seen last at the end
        self._floor = 0  # no forgotten client had a higher run
        self._last_run = 0
        self._last_generation = 0

    def issue_run(self, client_id: str, user: str, at_least: int, done: Done[int]) -> None:
        """See `Registry.issue_run`."""

        def work() -> Callable[[], None]:
            last = self._runs.get(client_id, self._floor)
            self._last_run = max(self._last_run + 1, at_least)
            run = max(self._last_run, last + 1)
            self._remember(client_id, user, run)
            return partial(done, run)

        self._schedule.submit(f"run {client_id}", work)

    def present_run(self, client_id: str, user: str, run: int, done: Done[RunVerdict]) -> None:
        """See `Registry.present_run`."""

        def work() -> Callable[[], None]:
            newest = self._runs.get(client_id, 0)
            if run < newest:
                return partial(done, RunVerdict(False, newest))
            self._remember(client_id, user, run)
            return partial(done, RunVerdict(True, run))

        self._schedule.submit(f"run {client_id}", work)

    def issue_generation(self, client_id: str, at_least: int, done: Done[int]) -> None:
        """See `Registry.issue_generation`."""

        def work() -> Callable[[], None]:
            self._last_generation = max(self._last_generation + 1, at_least)
            return partial(done, self._last_generation)

        self._schedule.submit(f"generation {client_id}", work)

    def knows(self, client_id: str) -> bool:
        """Whether a client has registered (as far as is remembered)."""
        return client_id in self._runs

    def clients(self, user: str) -> list[str]:
        """The clients of a user, those seen last first, at most `box.DEVICES`."""
        return list(islice(reversed(self._clients.get(user, {})), DEVICES))

    def _remember(self, client_id: str, user: str, run: int) -> None:
        self._runs[client_id] = run
        self._runs.move_to_end(client_id)
        self._leave(client_id)
        self._users[client_id] = user
        self._clients.setdefault(user, {})[client_id] = None
        if len(self._runs) > MAX_RUNS:
            client_id, forgotten = self._runs.popitem(last=False)
            self._floor = max(self._floor, forgotten)
            self._leave(client_id)

    def _leave(self, client_id: str) -> None:
        user = self._users.pop(client_id, None)
        if user is not None:
            clients = self._clients[user]
            del clients[client_id]
            if not clients:
                del self._clients[user]


class MemoryBus:
    """`Bus` within one process; late, it keeps the order of a subject."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._subjects: dict[str, Callable[[bytes], None]] = {}

    def subscribe(self, subject: str, deliver: Callable[[bytes], None]) -> None:
        """See `Bus.subscribe`."""
        self._subjects[subject] = deliver

    def unsubscribe(self, subject: str) -> None:
        """See `Bus.unsubscribe`."""
        self._subjects.pop(subject, None)

    def publish(self, subject: str, payload: bytes) -> None:
        """See `Bus.publish`."""
        self._schedule.submit(f"bus {subject}", lambda: partial(self._deliver, subject, payload))

    def _deliver(self, subject: str, payload: bytes) -> None:
        deliver = self._subjects.get(subject)
        if deliver is not None:
            deliver(payload)


def memory_engines(
    clock: Clock,
    new_epoch: Callable[[], str],
    schedule: Schedule | None = None,
    mailboxes: MailboxLimits = MailboxLimits(),  # noqa: B008 (a tuple)
) -> Engines:
    """Make the ports in memory. `new_epoch` draws a random name; without a schedule they answer at once."""
    schedule = AtOnce() if schedule is None else schedule
    registry = MemoryRegistry(schedule)
    return Engines(
        bus=MemoryBus(schedule),
        log=MemoryLog(clock, new_epoch, schedule),
        registry=registry,
        mailbox=MemoryMailbox(clock, registry, mailboxes, schedule),
        durable=False,
    )
