"""Listings of mailboxes, read from what the writer keeps in step."""

from typing import Any, Final

import apsw
from msgspec import json

from duolink.engines.base import Holding

# Of each row of `chosen`: what the table says, and the time of the first message of each of its streams. (A
# message stands behind at most `box.MAX_LOSSES` losses.)
_HOLDINGS: Final = """
    SELECT json_group_array(json_array(
        chosen.receiver, chosen.messages, chosen.size, chosen.senders, coalesce((
        SELECT min((SELECT time FROM mail WHERE mail.stream = number AND reason = '' ORDER BY seq LIMIT 1))
        FROM streams CROSS JOIN standings ON standings.stream = number
        WHERE streams.receiver = chosen.receiver AND standings.messages > 0), 0)))
    FROM ({chosen}) AS chosen
"""
_OF: Final = _HOLDINGS.format(
    chosen="SELECT mailboxes.* FROM json_each(?) AS wanted CROSS JOIN mailboxes ON receiver = wanted.value"
)
_LISTING: Final = _HOLDINGS.format(
    chosen="SELECT * FROM mailboxes WHERE receiver > ? ORDER BY receiver LIMIT ?"
)
_DEEPEST: Final = _HOLDINGS.format(chosen="SELECT * FROM mailboxes ORDER BY messages DESC, receiver LIMIT ?")


def read_holdings(receivers: tuple[str, ...], db: apsw.Connection) -> tuple[Holding, ...]:
    """Read for `Mailbox.holdings`. Raises `apsw.Error`."""
    return _read(db, _OF, json.encode(receivers).decode())


def read_listing(after: str, limit: int, db: apsw.Connection) -> tuple[Holding, ...]:
    """Read for `Mailbox.listing`. Raises `apsw.Error`."""
    return tuple(sorted(_read(db, _LISTING, after, limit)))


def read_deepest(limit: int, db: apsw.Connection) -> tuple[Holding, ...]:
    """Read for `Mailbox.deepest`. Raises `apsw.Error`."""
    return tuple(sorted(_read(db, _DEEPEST, limit), key=lambda each: (-each.messages, each.receiver)))


def _read(db: apsw.Connection, query: str, *values: Any) -> tuple[Holding, ...]:
    found = json.decode(db.execute(query, values).get)
    return tuple(Holding(*each) for each in found)
