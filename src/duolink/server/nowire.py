"""The wire of a connection that has none (any more)."""

from typing import Final


class NoWire:
    """Takes everything, does nothing. See `wire.Wire`."""

    kind = "gone"
    peer_address = ""
    secure = False

    @staticmethod
    def frame(payload: bytes, binary: bool = False) -> bytes:
        """Nothing is framed."""
        return b""

    def write(self, data: bytes) -> None:
        """Nobody hears it."""

    def buffered(self) -> int:
        """Nothing waits."""
        return 0

    def ping(self) -> bool:
        """Nobody to ask."""
        return True

    def pause_reading(self) -> None:
        """Nothing to read."""

    def resume_reading(self) -> None:
        """Nothing to read."""

    def close(self, code: int, reason: str = "") -> None:
        """It is."""

    def abort(self) -> None:
        """It is gone."""


GONE: Final = NoWire()
