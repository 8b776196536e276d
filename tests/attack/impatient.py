"""``kdbench`` by a scheduler that gives workers seconds where the real one gives them minutes, to be attacked."""

import sys

from kdbench.cli import main
from kdbench.schedule import coordinator, local

if __name__ == "__main__":
    coordinator.Coordinator.__init__.__kwdefaults__["silence"] = 45.0
    coordinator.PAUSE = 0.5
    local.GRACE = 3.0
    sys.exit(main())
