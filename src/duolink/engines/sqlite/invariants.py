"""What must be true of a database beyond what SQLite itself checks."""

from collections.abc import Iterator
from typing import Final

import apsw

INVARIANTS: Final[tuple[tuple[str, str], ...]] = (
    (
        "entries of a channel that is not there",
        "SELECT count(*) FROM entries WHERE channel NOT IN (SELECT number FROM channels)",
    ),
    (
        "entries outside of their channel's offsets",
        "SELECT count(*) FROM entries JOIN channels ON number = channel"
        " WHERE offset > top OR offset < lowest OR entries.total > channels.total",
    ),
    (
        "channels whose history has holes",
        "SELECT count(*) FROM channels WHERE top - first + 1 <>"
        " (SELECT count(*) FROM entries WHERE channel = number AND offset >= first)",
    ),
    (
        "channels whose offsets are out of order",
        "SELECT count(*) FROM channels WHERE NOT (1 <= lowest AND lowest <= first AND first <= top + 1)",
    ),
    (
        "channels that count their shared state wrong",
        "SELECT count(*) FROM channels LEFT JOIN (SELECT channel, count(*) AS keys,"
        " sum(octet_length(name) + length(data)) AS size FROM state GROUP BY channel) ON channel = number"
        " WHERE state_keys <> ifnull(keys, 0) OR state_size <> ifnull(size, 0)",
    ),
    (
        "shared state of a channel that is not there, or newer than it",
        "SELECT count(*) FROM state LEFT JOIN channels ON number = channel"
        " WHERE number IS NULL OR version > top",
    ),
    (
        "idempotency keys newer than their channel",
        "SELECT count(*) FROM keys JOIN channels ON number = channel WHERE offset > top",
    ),
    (
        "streams that are known by halves",
        "SELECT count(*) FROM streams FULL JOIN standings ON stream = number"
        " WHERE stream IS NULL OR number IS NULL",
    ),
    (
        "messages or cursors of a stream that is not there",
        "SELECT (SELECT count(*) FROM mail WHERE stream NOT IN (SELECT number FROM streams))"
        " + (SELECT count(*) FROM cursors WHERE stream NOT IN (SELECT number FROM streams))",
    ),
    (
        "streams whose messages or cursors are above what is stored",
        "SELECT count(*) FROM standings WHERE settled > stored OR cursor > stored"
        " OR (SELECT max(last) FROM mail WHERE mail.stream = standings.stream) > stored"
        " OR (SELECT max(cursor) FROM cursors WHERE cursors.stream = standings.stream) > stored",
    ),
    (
        "streams that count their messages wrong",
        "SELECT count(*) FROM standings LEFT JOIN (SELECT stream AS number, sum(reason = '') AS found,"
        " sum(iif(reason = '', length(body), 0)) AS bytes, sum(reason <> '') AS lost_rows"
        " FROM mail GROUP BY stream) ON number = stream"
        " WHERE messages <> ifnull(found, 0) OR size <> ifnull(bytes, 0) OR losses <> ifnull(lost_rows, 0)",
    ),
    (
        "mailboxes that are listed wrong",
        "SELECT count(*) FROM mailboxes FULL JOIN (SELECT receiver AS found, sum(messages) AS count,"
        " sum(size) AS bytes, count(DISTINCT sender) AS from_whom FROM streams JOIN standings"
        " ON stream = number WHERE messages > 0 GROUP BY receiver) ON found = receiver"
        " WHERE receiver IS NULL OR found IS NULL OR messages <> count OR size <> bytes"
        " OR senders <> from_whom",
    ),
    (
        "mailboxes that are counted wrong together",
        "SELECT (SELECT ifnull(max(iif(name = 'mail_messages', value, 0)), 0) FROM meta)"
        " <> (SELECT ifnull(sum(messages), 0) FROM standings)"
        " OR (SELECT ifnull(max(iif(name = 'mail_size', value, 0)), 0) FROM meta)"
        " <> (SELECT ifnull(sum(size), 0) FROM standings)",
    ),
)
"""What would be wrong, and a query that counts it."""


def check(db: apsw.Connection) -> Iterator[tuple[str, list[str]]]:
    """Look at everything, and yield what was looked for and which faults were found, step by step. It reads
    the whole file, as of one moment. Raises `apsw.Error`."""
    with db:
        try:
            rows = [str(row[0]) for row in db.execute("PRAGMA integrity_check(20)")]
        except apsw.CorruptError as error:
            rows = [str(error)]
        yield "the file", [] if rows == ["ok"] else rows
        if rows != ["ok"]:
            return  # counting in a damaged file tells nothing
        for problem, query in INVARIANTS:
            count = db.execute(query).get
            yield problem, [f"{count} {problem}"] if count else []
