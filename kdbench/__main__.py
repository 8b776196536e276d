"""``kdbench``, or ``python -m kdbench``: loads nothing by itself, so that Ctrl-C is understood from the start."""

from __future__ import annotations

import sys


def main() -> int:
    """The command line; 130 where it is interrupted, be it while it is still being loaded."""
    try:
        from kdbench.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("kdbench: interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
