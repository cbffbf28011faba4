"""Many rows in few statements."""

from collections.abc import Sequence
from typing import Any, Final

import apsw

_SIZES: Final = (256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Rows of one statement. Fixed sizes, so that each is prepared once: a hundred rows are three statements."""


def one(db: apsw.Connection, statement: str, bindings: tuple[Any, ...] = ()) -> Any:
    """Return the first row, or None. Raises `apsw.Error`."""
    rows = db.execute(statement, bindings).fetchall()
    return rows[0] if rows else None


class Rows:
    """A statement that takes rows, as `INSERT INTO t VALUES {rows}`, with `columns` values each.

    Between two statements, and between two rows of `executemany`, apsw gives the interpreter lock away and
    must wait to get it back; within one statement it does not.
    """

    __slots__ = ("_columns", "_statements")

    def __init__(self, statement: str, columns: int) -> None:
        row = f"({','.join('?' * columns)})"
        self._columns = columns
        self._statements = [(size, statement.format(rows=",".join([row] * size))) for size in _SIZES]

    def write(self, db: apsw.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Run it for all rows, in their order. Raises `apsw.Error`."""
        start, left = 0, len(rows)
        for size, statement in self._statements:
            while left >= size:
                db.execute(statement, [value for row in rows[start : start + size] for value in row])
                start += size
                left -= size
