"""``python -m kdbench.worker TASK.json``: the process that every backend starts (kdbench.jobs.worker)."""

from __future__ import annotations

import sys

from kdbench.environment import pin

if __name__ == "__main__":
    pin()

    from kdbench.jobs.worker import main

    sys.exit(main(sys.argv[1:]))
