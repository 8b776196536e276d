"""``python -m kdbench.worker TASK.json``: the process that every backend starts (kdbench.jobs.worker)."""

from __future__ import annotations

import sys

from kdbench.jobs.worker import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
