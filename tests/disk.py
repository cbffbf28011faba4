"""A disk in memory for SQLite: writes are lost in a power cut until they are synced, and it can fail."""

from itertools import count
from random import Random
from typing import Any

import apsw

SECTOR = 512

_names = count()


class Disk:
    """`live` is what programs see, `durable` what a power cut leaves. With `torn`, some of the sectors that
    were not synced survive a cut, at random."""

    def __init__(self, torn: Random | None = None) -> None:
        self.vfs = f"disk-{next(_names)}"
        self.live: dict[str, bytearray] = {}
        self.durable: dict[str, bytearray] = {}
        self.dirty: dict[str, set[int]] = {}
        self.full = False
        """No file can grow."""
        self.sizes: dict[str, int] = {}
        """Files that cannot grow beyond so many bytes."""
        self.sync_fails = False
        """Syncs report an error, and what they should have written is lost in a cut, though programs go on
        seeing it: what Linux does (https://wiki.postgresql.org/wiki/Fsync_Errors)."""
        self.unreadable = False
        self._torn = torn
        self._boots = 0
        self._vfs = _Vfs(self)

    def cut(self) -> None:
        """Cut the power. What was open before is dead."""
        for path, sectors in self.dirty.items() if self._torn else ():
            for sector in sorted(sectors):
                if self._torn is not None and self._torn.random() < 0.5:
                    self._store(path, sector)
        self.live = {path: bytearray(file) for path, file in self.durable.items()}
        self.dirty.clear()
        self._boots += 1

    def write(self, path: str, data: bytes, offset: int) -> None:
        """Write what programs see from now on."""
        file = self.live[path]
        missing = offset + len(data) - len(file)
        if missing > 0:
            if self.full or offset + len(data) > self.sizes.get(path, offset + len(data)):
                raise apsw.FullError("the disk is full")
            file.extend(bytes(missing))
        file[offset : offset + len(data)] = data
        sectors = range(offset // SECTOR, (offset + len(data) - 1) // SECTOR + 1)
        self.dirty.setdefault(path, set()).update(sectors)

    def sync(self, path: str) -> None:
        """Make what was written to a file durable."""
        dirty = self.dirty.pop(path, set())
        if self.sync_fails:
            raise apsw.IOError("a sync that failed")
        for sector in sorted(dirty):
            self._store(path, sector)
        durable = self.durable.setdefault(path, bytearray())
        del durable[len(self.live[path]) :]

    def _store(self, path: str, sector: int) -> None:
        data = self.live[path][sector * SECTOR : (sector + 1) * SECTOR]
        file = self.durable.setdefault(path, bytearray())
        file.extend(bytes(max(sector * SECTOR + len(data) - len(file), 0)))
        file[sector * SECTOR : sector * SECTOR + len(data)] = data


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, path: str) -> None:
        self.disk, self.path, self.boot = disk, path, disk._boots
        disk.live.setdefault(path, bytearray())

    def _file(self) -> bytearray:
        if self.boot != self.disk._boots:
            raise apsw.IOError("opened before the power cut")
        return self.disk.live[self.path]

    def xRead(self, amount: int, offset: int) -> bytes:
        if self.disk.unreadable:
            raise apsw.IOError("a sector that cannot be read")
        return bytes(self._file()[offset : offset + amount])

    def xWrite(self, data: Any, offset: int) -> None:
        self._file()
        self.disk.write(self.path, bytes(data), offset)

    def xTruncate(self, size: int) -> None:
        del self._file()[size:]

    def xSync(self, flags: int) -> None:
        self._file()
        self.disk.sync(self.path)

    def xFileSize(self) -> int:
        return len(self._file())

    def xLock(self, level: int) -> None:
        self._file()

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return SECTOR

    def xDeviceCharacteristics(self) -> int:
        return 0

    def xClose(self) -> None:
        pass


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        super().__init__(disk.vfs, "")
        self.disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        return _File(self.disk, path or f"temporary-{id(flags)}")

    def xDelete(self, path: str, sync_directory: bool) -> None:
        for files in (self.disk.live, self.disk.durable, self.disk.dirty):
            files.pop(path, None)

    def xAccess(self, path: str, flags: int) -> bool:
        return path in self.disk.live

    def xFullPathname(self, path: str) -> str:
        return path
