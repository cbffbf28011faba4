"""What SQLite alone takes for durable rows: no protocol, no clients, nothing but inserts in batches.

Usage: inserts.py FOLDER SHARE LAYOUT. Prints rows per second as JSON. The layouts are

- `mixed`: the table has the key that mailboxes need, and every transaction has rows for many of them;
- `sorted`: the same table, but every transaction has rows for one mailbox, which touches few pages;
- `bare`: no key at all, rows are appended. Nothing could be found again.
"""

import json
import sys
import time
from pathlib import Path
from typing import Final

import apsw

BATCH: Final = 100
"""Rows of one transaction, which one statement inserts and one sync makes safe."""
BOXES: Final = 100
"""Mailboxes: as many as the load has receivers."""
BODY: Final = b"0000000000000000........ sixty-four bytes of user data ........ "
WARMUP: Final = 20_000
MEASURED: Final = 200_000


def main(folder: str, share: str, layout: str) -> None:
    """Insert, and print how many rows were committed in a second."""
    db = apsw.Connection(str(Path(folder) / "inserts.db"))
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    columns = "box INTEGER, seq INTEGER, body BLOB, expires INTEGER"
    if layout == "bare":
        db.execute(f"CREATE TABLE message ({columns})")
    else:
        db.execute(f"CREATE TABLE message ({columns}, PRIMARY KEY (box, seq)) WITHOUT ROWID")
    insert = f"INSERT INTO message VALUES {', '.join(['(?, ?, ?, ?)'] * BATCH)}"
    warmup, measured = (int(rows * float(share)) // BATCH for rows in (WARMUP, MEASURED))
    began = 0.0
    for batch in range(warmup + measured):
        if batch == warmup:
            began = time.perf_counter()
        values: list[int | bytes] = []
        for row in range(BATCH):
            if layout == "mixed":
                values += (row % BOXES, batch * BATCH + row, BODY, 0)
            else:
                values += (batch % BOXES, batch * BATCH + row, BODY, 0)
        with db:
            db.execute(insert, values)
    rate = measured * BATCH / (time.perf_counter() - began)
    db.close()
    print(json.dumps({"messages": measured * BATCH, "messages_per_second": rate}))


if __name__ == "__main__":
    main(*sys.argv[1:])
