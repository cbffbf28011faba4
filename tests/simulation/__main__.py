"""Run worlds by hand: `python -m tests.simulation FIRST [COUNT]`; failures are printed, the tally last."""

import sys
import time
import traceback
from collections import Counter

from .world import World


def main() -> int:
    first = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    tally: Counter[str] = Counter()
    failed = 0
    begin = time.perf_counter()
    for seed in range(first, first + count):
        try:
            tally += World(seed).run().sometimes
        except Exception as error:
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {error}")
            if count == 1:
                traceback.print_exc()
            if failed >= 20:
                break
    for what, times in sorted(tally.items()):
        print(f"{times:8} {what}")
    print(f"{count} worlds, {failed} failed, {time.perf_counter() - begin:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
