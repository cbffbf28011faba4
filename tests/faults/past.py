"""What was said and heard until some moment, and whether a database is one that may follow it."""

from collections import defaultdict
from typing import Any, NamedTuple

import apsw

from duolink.engines.sqlite.invariants import check
from duolink.protocol.codec import SERVER
from duolink.protocol.messages import (
    Error,
    Hello,
    LinkMessage,
    Publication,
    Publish,
    Published,
    Set,
    Skip,
    Subscribed,
    Welcome,
)

from .people import Inbox, Outbox, Process, body

CHANNEL = "room"


class Violation(AssertionError):
    """A promise was broken."""


class Note(NamedTuple):
    """A client has said or heard a message, after so many changes of the disk."""

    changes: int
    client_id: str
    said: bool
    message: Any


class Past:
    """Everything until some moment."""

    def __init__(self) -> None:
        self.processes: defaultdict[str, list[Process]] = defaultdict(list)
        self.issued: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        """Runs and generations, by client, as they were told."""
        self.asked: dict[int, Publish | Set] = {}
        self.answered: dict[int, Published] = {}
        self.refused: dict[int, str] = {}
        """The code of the error that answered a publish or set last."""
        self.answers: defaultdict[int, int] = defaultdict(int)
        self.heard: dict[int, bytes] = {}
        """Publications that reached a subscriber, by offset."""
        self.epochs: set[str] = set()
        self._notes: list[Note] = []

    def copy(self) -> "Past":
        """The same, to go on in another way."""
        copy = Past()
        for note in self._notes:
            copy.note(note)
        return copy

    def note(self, note: Note) -> None:
        """One more message was said or heard."""
        self._notes.append(note)
        message, client_id = note.message, note.client_id
        match message:
            case Hello(run=0):
                self.processes[client_id].append(Process(client_id))
            case Welcome():
                self._issued(client_id, message)
            case Publish() | Set():
                self.asked.setdefault(message.id, message)
            case Published():
                self.answers[message.id] += 1
                first = self.answered.setdefault(message.id, message)
                if first != message:
                    raise Violation(f"{first} was told, and then {message}")
                self.epochs.add(message.epoch)
            case Error(id=command) if command in self.asked:
                self.answers[command] += 1
                self.refused[command] = message.code
            case Publication():
                if self.heard.setdefault(message.offset, bytes(message.data)) != bytes(message.data):
                    raise Violation(f"offset {message.offset} was heard twice, with different data")
            case Subscribed():
                self.epochs.add(message.epoch)
        if note.said:
            self.process(client_id).says(message)
        else:
            self.process(client_id).hears(message)

    def _issued(self, client_id: str, welcome: Welcome) -> None:
        earlier = self.issued[client_id]
        if any(welcome.generation <= generation for _, generation in earlier) and not welcome.resumed:
            raise Violation(f"{client_id}: generation {welcome.generation} was issued again")
        if not self.process(client_id).run and any(welcome.run <= run for run, _ in earlier):
            raise Violation(f"{client_id}: run {welcome.run} was issued again")
        earlier.append((welcome.run, welcome.generation))

    def process(self, client_id: str) -> Process:
        """The newest process of a client."""
        return self.processes[client_id][-1]

    def outboxes(self) -> list[tuple[str, Outbox]]:
        """All outboxes, with whose they are."""
        return [
            (client_id, outbox)
            for client_id, processes in self.processes.items()
            for process in processes
            for outbox in process.outboxes.values()
        ]

    def finished(self, client_id: str, stream: tuple[str, str, str, int]) -> int:
        """How far any process of a client has acknowledged a stream."""
        return max((inbox.finished for inbox in self.inboxes(client_id, stream)), default=0)

    def inboxes(self, client_id: str, stream: tuple[str, str, str, int]) -> list[Inbox]:
        """What the processes of a client have of a stream."""
        processes = self.processes[client_id]
        return [process.inboxes[stream] for process in processes if stream in process.inboxes]


def data_of(command: int) -> bytes:
    """What a publication says."""
    return f'"publication {command}"'.encode()


def audit(db: apsw.Connection, past: Past, issued: bool = True) -> None:
    """Look whether a database may be what is left after such a past. `issued`: whether it must know what
    runs and generations were issued; while a disk fails they come from memory. Raises `Violation`."""
    for _, faults in check(db):
        if faults:
            raise Violation(f"damaged: {faults}")
    if issued:
        _audit_clients(db, past)
    _audit_mail(db, past)
    _audit_log(db, past)


def _audit_clients(db: apsw.Connection, past: Past) -> None:
    for client_id, issued in past.issued.items():
        run, generation = max(each[0] for each in issued), max(each[1] for each in issued)
        row = _rows(db, "SELECT run, generation FROM clients WHERE client_id = ?", client_id)
        if not row or row[0][0] < run or row[0][1] < generation:
            raise Violation(f"forgotten: {client_id} was told {run} and {generation}; here: {row}")


# --- mailboxes -------------------------------------------------------------------------------


def _audit_mail(db: apsw.Connection, past: Past) -> None:
    outboxes = {
        (outbox.name[0], sender, outbox.name[1], outbox.run): outbox for sender, outbox in past.outboxes()
    }
    found = set()
    for number, *key, stored, settled, cursor in _rows(
        db,
        "SELECT number, receiver, sender, lane, run, stored, settled, cursor"
        " FROM streams JOIN standings ON stream = number",
    ):
        stream = key[0], key[1], key[2], key[3]
        outbox = outboxes.get(stream)
        if outbox is None or stored > outbox.top:
            raise Violation(f"invented: {stream} is stored up to {stored}")
        found.add(stream)
        if stored < outbox.stored:
            raise Violation(f"lost: {stream} was stored up to {outbox.stored}, and is up to {stored}")
        cursors = {stream[0]: cursor}
        if stream[0][0] == "@":
            select = "SELECT client_id, cursor FROM cursors WHERE stream = ?"
            cursors = dict(_rows(db, select, number))
        for client_id, place in cursors.items():
            if place > past.finished(client_id, stream):
                raise Violation(f"ahead: {client_id} has not finished {stream} up to {place}")
        if settled > max(past.finished(client_id, stream) for client_id in cursors):
            raise Violation(f"ahead: nobody has finished {stream} up to {settled}")
        _audit_rows(db, number, outbox, min(cursors.values()), stored)
    for stream, outbox in outboxes.items():
        if outbox.stored and stream not in found:
            raise Violation(f"lost: all of {stream}, stored up to {outbox.stored}")


def _audit_rows(db: apsw.Connection, number: int, outbox: Outbox, floor: int, stored: int) -> None:
    """Every number behind the last cursor is there, as it was sent."""
    place = floor
    select = "SELECT seq, last, reason, body FROM mail WHERE stream = ? AND last > ? ORDER BY seq"
    for seq, last, reason, sent in _rows(db, select, number, floor):
        if max(seq, floor + 1) != place + 1:
            raise Violation(f"a hole: {outbox.name} has {seq} after {place}")
        if reason:
            for each in range(max(seq, floor + 1), last + 1):
                check_loss(outbox, each, reason)
        else:
            message = SERVER.text(sent)[0]
            assert isinstance(message, LinkMessage)
            check_body(outbox, seq, bytes(message.data))
        place = last
    if place != stored:
        raise Violation(f"lost: {outbox.name} is stored up to {stored}, and ends with {place}")


def check_body(outbox: Outbox, seq: int, data: bytes) -> None:
    """A message that comes is the one that was sent."""
    if not isinstance(outbox.said.get(seq), LinkMessage) or data != body(outbox.run, *outbox.name, seq):
        raise Violation(f"invented: {outbox.name} {seq} says {data!r}")


def check_loss(outbox: Outbox, seq: int, reason: str) -> None:
    """A number that is lost was skipped, or another has taken its place."""
    message = outbox.said.get(seq)
    if message is None:
        skips = (each for each in outbox.said.values() if isinstance(each, Skip))
        if reason == "cancelled" and any(skip.seq <= seq <= skip.last for skip in skips):
            return
    elif isinstance(message, Skip):
        if reason == "cancelled":
            return
    elif reason == "replaced" and message.collapse:
        later = (each for each in outbox.said.values() if each.seq > seq)
        if any(isinstance(each, LinkMessage) and each.collapse == message.collapse for each in later):
            return
    raise Violation(f"lost: {outbox.name} {seq} ({reason})")


# --- logs ------------------------------------------------------------------------------------


def _audit_log(db: apsw.Connection, past: Past) -> None:
    channels = _rows(db, "SELECT number, epoch FROM channels WHERE name = ?", CHANNEL)
    channels += _rows(db, "SELECT 0, value FROM meta WHERE name = 'epoch'")
    number, epoch = channels[0] if channels else (0, "none yet")
    if past.epochs and past.epochs != {epoch}:
        raise Violation(f"another epoch: {epoch}, told were {past.epochs}")
    select = "SELECT offset, name, flags, data FROM entries WHERE channel = ? ORDER BY offset"
    entries = _rows(db, select, number)
    check_log(past, [(offset, data) for offset, _, _, data in entries])
    state = {}
    for offset, name, flags, data in entries:
        if name:
            state[name] = (offset, data)
            if flags & 2:
                del state[name]
    kept = _rows(db, "SELECT name, version, data FROM state WHERE channel = ?", number)
    if {name: (version, data) for name, version, data in kept} != state:
        raise Violation(f"the state is {kept}, the log says {state}")
    written = dict((offset, data) for offset, _, _, data in entries)
    for key, offset in _rows(db, "SELECT key, offset FROM keys"):
        if written.get(offset) not in (data_of(int(key)), b""):
            raise Violation(f"key {key} stands for offset {offset}, which is {written.get(offset)!r}")


def check_log(past: Past, entries: list[tuple[int, bytes]]) -> None:
    """Every entry was asked for, once; what was answered or heard is there."""
    if [offset for offset, _ in entries] != list(range(1, len(entries) + 1)):
        raise Violation(f"a hole: offsets {[offset for offset, _ in entries]}")
    written = dict(entries)
    for command, answer in past.answered.items():
        asked = past.asked[command]
        expected = b"" if isinstance(asked, Set) and asked.deleted else data_of(command)
        if written.get(answer.offset) != expected:
            raise Violation(f"lost: {command} was published as {answer.offset}")
    for offset, data in past.heard.items():
        if written.get(offset) != data:
            raise Violation(f"lost: {data!r} was heard as {offset}")
    said = [data for _, data in entries if data]
    known = {data_of(command) for command in past.asked}
    if len(said) != len(set(said)) or not known.issuperset(said):
        raise Violation(f"invented or repeated: {said}")


def _rows(db: apsw.Connection, select: str, *bindings: Any) -> list[Any]:
    return db.execute(select, bindings).fetchall()
