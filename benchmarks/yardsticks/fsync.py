"""What the disk takes for one safe write: 4 KiB appended to a file, then fsync, again and again.

Usage: fsync.py FOLDER SHARE. Prints microseconds as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Final

PAGE: Final = b"\x5a" * 4096
WARMUP: Final = 100
MEASURED: Final = 5_000


def main(folder: str, share: str) -> None:
    """Append and wait, one at a time, and print the percentiles of what that took."""
    file = os.open(Path(folder) / "appended", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
    taken = []
    for _ in range(WARMUP + int(MEASURED * float(share))):
        began = time.perf_counter_ns()
        os.write(file, PAGE)
        os.fsync(file)
        taken.append(time.perf_counter_ns() - began)
    os.close(file)
    taken = sorted(taken[WARMUP:])
    percentiles = {
        f"p{part}_us": taken[part * (len(taken) - 1) // 100] / 1e3  # as the load generator counts them
        for part in (50, 95, 99)
    }
    print(
        json.dumps(
            {"messages": len(taken), "messages_per_second": len(taken) / sum(taken) * 1e9, **percentiles}
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
