"""``kdbench`` by a scheduler that gives workers seconds where the real one gives them minutes, to be attacked.

The first word of its command line is how many: without a word from a worker.
"""

import sys

from kdbench.cli import main
from kdbench.schedule import coordinator, local, remote, slurm
from kdbench.schedule.ray import RayLauncher

if __name__ == "__main__":
    coordinator.Coordinator.__init__.__kwdefaults__["silence"] = float(sys.argv.pop(1))
    coordinator.PAUSE = 0.5
    local.GRACE = remote.GRACE = 3.0
    slurm.AGAIN = 2.0
    RayLauncher.__init__.__kwdefaults__["lag"] = 5.0
    slurm.SlurmLauncher.__init__.__kwdefaults__ |= {"lag": 5.0, "gather": 1.0, "ask": 1.0}
    sys.exit(main())
