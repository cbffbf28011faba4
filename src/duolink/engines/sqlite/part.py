"""What the writer of a database writes for: registry, log and mailbox are parts of one."""

from typing import Any, Protocol

import apsw


class Part(Protocol):
    """One of the things a database holds. Every call comes from the writer, one at a time.

    A batch of requests is one transaction: `apply` for each, in the order they were made, then `flush` of
    every part that was asked for something, then the commit. So that a batch costs few statements however
    many requests it has (between two statements the interpreter lock is given away and must be waited
    for), a part keeps a picture of what it works on, notes in `apply` what is to be written, and writes it
    in `flush`.
    """

    def apply(self, db: apsw.Connection, request: Any) -> Any:
        """Do a request to the picture, reading from the database what the picture lacks; return its answer,
        which is told after the commit. Raises `apsw.Error` when the database cannot be read."""
        ...

    def flush(self, db: apsw.Connection) -> None:
        """Write everything noted since the last flush. Raises `apsw.Error`."""
        ...

    def committed(self) -> None:
        """The batch is durable."""
        ...

    def rolled_back(self) -> None:
        """The batch was not written: forget the picture, since it is ahead of the database."""
        ...
