"""What a channel's log is made of, as an application sees it."""

from typing import Any, Final, NamedTuple

from duolink.client.message import decode
from duolink.protocol.messages import Publication as Wire

_UNREAD: Final = object()


class Position(NamedTuple):
    """A place in a channel's log: everything up to and including `offset` of `epoch`."""

    epoch: str
    offset: int


class Publication:
    """One entry of a channel's log: something published, or (`StateSet`, `StateDeleted`) a write to the
    channel's shared state."""

    __slots__ = ("_data", "_wire", "epoch")

    def __init__(self, wire: Wire, epoch: str) -> None:
        self._wire = wire
        self._data: Any = _UNREAD
        self.epoch = epoch

    @property
    def data(self) -> Any:
        """The value: what the JSON says, or bytes. Raises `InvalidData`."""
        if self._data is _UNREAD:
            self._data = decode(self._wire.data, self._wire.binary)
        return self._data

    @property
    def raw(self) -> bytes:
        """The data as it travelled."""
        return bytes(self._wire.data)

    @property
    def binary(self) -> bool:
        """Whether it is bytes."""
        return self._wire.binary

    @property
    def channel(self) -> str:
        """The channel's name."""
        return self._wire.channel

    @property
    def name(self) -> str:
        """The name in the shared state that it writes to; empty for what is just published."""
        return self._wire.name

    @property
    def sender(self) -> str:
        """Who published it; the server's word."""
        return self._wire.sender

    @property
    def time(self) -> int:
        """When, in milliseconds since 1970, by the server's clock."""
        return self._wire.time

    @property
    def offset(self) -> int:
        """Its place in the log."""
        return self._wire.offset

    @property
    def position(self) -> Position:
        """Where a subscription goes on that has seen this."""
        return Position(self.epoch, self.offset)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.offset} of {self.channel!r} by {self.sender!r}>"
