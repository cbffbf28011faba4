"""Keep modules readable in one sitting: name those over 500 lines, fail over 600."""

import sys
from pathlib import Path

NOTED = 500
REFUSED = 600


def main() -> int:
    """Print every module of `src` that is too long; return 1 when one is far too long."""
    source = Path(__file__).resolve().parent.parent / "src"
    refused = False
    for path in sorted(source.rglob("*.py")):
        lines = len(path.read_bytes().splitlines())
        if lines > REFUSED:
            refused = True
            print(f"{path.relative_to(source.parent)}: {lines} lines, more than {REFUSED}: split it")
        elif lines >= NOTED:
            print(f"{path.relative_to(source.parent)}: {lines} lines, should be under {NOTED}")
    return int(refused)


if __name__ == "__main__":
    sys.exit(main())
