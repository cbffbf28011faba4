"""A disk in memory for SQLite that remembers everything it was told, so that its power can be cut anywhere.

`Disk` is the VFS: what programs see. It keeps a history of what changes files; a `Platter` that plays the
history up to some point knows what is durable there and what was only written, and says what a cut leaves.
So one run of a program gives every cut of it.

What is not synced is forgotten, or, torn, a random part of it survives: sectors of 512 bytes, whatever their
order, of a sector any version since the last sync; and file sizes and directory entries, each by itself.
SQLite is told what it is told of Linux's file systems (`os_unix.c`): sectors of 4096 bytes whose neighbours
survive (`SQLITE_IOCAP_POWERSAFE_OVERWRITE`), and that the first sync of a log or journal by whoever opened
it also syncs its directory, whether it was there before or not; the database file's own entry does not profit
from its syncs.

A `Fault` makes one call of the VFS fail, or every one of its kind from there on.
"""

from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any, NamedTuple

import apsw

SECTOR = 512

Image = dict[str, bytes]
"""The files of a disk."""

_names = count()


class Change(NamedTuple):
    """Something that happened to a file; `number` tells apart files that have had the same name."""

    what: str  # create, write, truncate, sync, lost sync, directory, delete
    number: int
    path: str
    data: bytes = b""
    at: int = 0


class Fault:
    """What goes wrong at the call with number `at` (as in `Disk.calls`): EIO, ENOSPC, or a write that is cut
    `short`. With `lasting` every call of that name fails from then on, until `Disk.fault` is None again."""

    def __init__(
        self, at: int, error: Callable[[str], Exception], *, short: bool = False, lasting: bool = False
    ):
        self.at, self.error, self.short, self.lasting = at, error, short, lasting
        self.hit = ""
        """Which call has failed; empty as long as none has."""

    def strikes(self, number: int, name: str) -> bool:
        if number == self.at:
            self.hit = name
            return True
        return self.lasting and number > self.at and name == self.hit


class Disk:
    """Files in memory, and the VFS that SQLite sees them through (its name: `vfs`)."""

    def __init__(self, image: Image | None = None) -> None:
        self.vfs = f"powercut-{next(_names)}"
        self.image = image or {}
        self.history: list[Change] = []
        self.calls: list[str] = []
        """Every call that can fail: its name and, of a file, which one (`xWrite wal`)."""
        self.fault: Fault | None = None
        self.syncs = True
        """False: syncs do nothing, and say that they have."""
        self._numbers = count()
        self._files = {path: (next(self._numbers), bytearray(data)) for path, data in self.image.items()}
        self._vfs = _Vfs(self)

    def platter(self) -> "Platter":
        """What was on it at first."""
        return Platter(self.image)

    def forget(self) -> None:
        """Take the VFS away. What is open must not be used any more."""
        self._vfs.unregister()

    # --- calls -------------------------------------------------------------------------------

    def call(self, name: str, path: str = "") -> bool:
        """Count a call and let it fail, if it is to; return whether a write is to be cut short."""
        kind = "wal" if path.endswith("-wal") else "journal" if path.endswith("-journal") else "db"
        name = f"{name} {kind}"
        self.calls.append(name)
        fault = self.fault
        if fault is not None and fault.strikes(len(self.calls) - 1, name):
            if fault.short:
                return True
            raise fault.error(name)
        return False

    def open(self, path: str, create: bool) -> int:
        self.call("xOpen", path)
        if path not in self._files:
            if not create:
                raise apsw.CantOpenError(f"no file {path}")
            self._files[path] = next(self._numbers), bytearray()
            self._changed("create", path)
        return self._files[path][0]

    def content(self, path: str, number: int) -> bytearray:
        known, data = self._files[path]
        if known != number:
            raise apsw.IOError(f"{path} was deleted")
        return data

    def write(self, path: str, number: int, data: bytes, at: int) -> None:
        file = self.content(path, number)
        short = self.call("xWrite", path)
        if short:
            data = data[: len(data) // 2]
        if at > len(file):
            file.extend(bytes(at - len(file)))
        file[at : at + len(data)] = data
        self._changed("write", path, data, at)
        if short:
            assert self.fault is not None
            raise self.fault.error("xWrite")

    def truncate(self, path: str, number: int, size: int) -> None:
        file = self.content(path, number)
        self.call("xTruncate", path)
        del file[size:]
        file.extend(bytes(size - len(file)))
        self._changed("truncate", path, at=size)

    def sync(self, path: str, number: int, directory: bool) -> None:
        """Sync a file, and its directory. A sync that fails has lost what it should have written, though
        programs go on seeing it (https://wiki.postgresql.org/wiki/Fsync_Errors)."""
        self.content(path, number)
        try:
            self.call("xSync", path)
        except Exception:
            self._changed("lost sync", path)
            raise
        if self.syncs:
            self._changed("sync", path)
            if directory:
                self._changed("directory", path)

    def delete(self, path: str, directory: bool) -> None:
        self.call("xDelete", path)
        if path not in self._files:
            raise apsw.IOError(f"no file {path}")
        self._changed("delete", path)
        del self._files[path]
        if directory and self.syncs:
            self.history.append(Change("directory", -1, path))

    def exists(self, path: str) -> bool:
        self.call("xAccess", path)
        return path in self._files

    def _changed(self, what: str, path: str, data: bytes = b"", at: int = 0) -> None:
        self.history.append(Change(what, self._files[path][0], path, data, at))


class Platter:
    """What is on a disk: durable, and only written."""

    def __init__(self, image: Image) -> None:
        self._names = dict(zip(image, range(len(image)), strict=True))
        self._entries: list[tuple[str, int]] = []  # names not synced yet; −1: deleted
        self._durable = {number: bytearray(data) for number, data in enumerate(image.values())}
        self._written: dict[int, list[Change]] = {number: [] for number in self._durable}

    def play(self, change: Change) -> None:
        """Let one more thing happen."""
        match change.what:
            case "create":
                self._entries.append((change.path, change.number))
                self._durable[change.number], self._written[change.number] = bytearray(), []
            case "delete":
                self._entries.append((change.path, -1))
            case "directory":
                self._enter(self._names, self._entries)
                self._entries = []
            case "sync":
                written, self._written[change.number] = self._written[change.number], []
                for each in written:
                    _apply(self._durable[change.number], each)
            case "lost sync":
                self._written[change.number] = []
            case _:
                self._written[change.number].append(change)

    def cut(self, torn: Random | None = None) -> Image:
        """What a cut at this moment leaves."""
        share = torn.choice((0.1, 0.5, 0.9)) if torn is not None else 0.0
        names = dict(self._names)
        if torn is not None:
            self._enter(names, [entry for entry in self._entries if torn.random() < share])
        return {path: self._left(number, torn, share) for path, number in names.items()}

    def _left(self, number: int, torn: Random | None, share: float) -> bytes:
        left = bytearray(self._durable[number])
        for change in self._written[number] if torn is not None else ():
            for part in _parts(change):
                if torn is not None and torn.random() < share:
                    _apply(left, part)
        return bytes(left)

    @staticmethod
    def _enter(names: dict[str, int], entries: list[tuple[str, int]]) -> None:
        for path, number in entries:
            if number < 0:
                names.pop(path, None)
            else:
                names[path] = number


def _apply(file: bytearray, change: Change) -> None:
    at, data = change.at, change.data
    if change.what == "truncate":
        del file[at:]
    if at > len(file):
        file.extend(bytes(at - len(file)))
    file[at : at + len(data)] = data


def _parts(change: Change) -> list[Change]:
    """What survives by itself."""
    if change.what != "write":
        return [change]
    parts, at, end = [], change.at, change.at + len(change.data)
    while at < end:
        upto = min(at - at % SECTOR + SECTOR, end)
        parts.append(change._replace(data=change.data[at - change.at : upto - change.at], at=at))
        at = upto
    return parts


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, path: str, number: int, fresh: bool) -> None:
        self.disk, self.path, self.number, self.fresh = disk, path, number, fresh

    def xRead(self, amount: int, offset: int) -> bytes:
        file = self.disk.content(self.path, self.number)
        if self.disk.call("xRead", self.path):
            return b""
        return bytes(file[offset : offset + amount])

    def xWrite(self, data: Any, offset: int) -> None:
        self.disk.write(self.path, self.number, bytes(data), offset)

    def xTruncate(self, size: int) -> None:
        self.disk.truncate(self.path, self.number, size)

    def xSync(self, flags: int) -> None:
        directory, self.fresh = self.fresh, False
        self.disk.sync(self.path, self.number, directory)

    def xFileSize(self) -> int:
        self.disk.call("xFileSize", self.path)
        return len(self.disk.content(self.path, self.number))

    def xLock(self, level: int) -> None:
        pass

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return 4096

    def xDeviceCharacteristics(self) -> int:
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE

    def xClose(self) -> None:
        pass


_SYNCS_DIRECTORY = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        super().__init__(disk.vfs, "")
        self.disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or f"temporary-{next(_names)}"
        create = bool(flags[0] & apsw.SQLITE_OPEN_CREATE)
        number = self.disk.open(path, create)
        return _File(self.disk, path, number, create and bool(flags[0] & _SYNCS_DIRECTORY))

    def xDelete(self, path: str, sync_directory: bool) -> None:
        self.disk.delete(path, sync_directory)

    def xAccess(self, path: str, flags: int) -> bool:
        return self.disk.exists(path)

    def xFullPathname(self, path: str) -> str:
        return path
