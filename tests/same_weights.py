"""Whether a change of the code left every number where it was.

``python tests/same_weights.py OTHER_CHECKOUT`` trains the same trials of digits with that checkout's code and with this
one's, on this machine, each in an empty cache, and compares keys, weights and predictions. Exit code 0: all are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parents[1]
METHODS = ("ce", "kd", "wttm", "crd", "dot(kd)")


def trained(checkout: Path, folder: Path, methods: list[str]) -> dict[str, tuple[str, str, str]]:
    """Key, digest of the weights and digest of the predictions of each trial, by its label."""
    words = ["run", "--suite", "digits", "--seeds", "1", "--results", str(folder), "--out", str(folder / "site")]
    chosen = [word for method in methods for word in ("--method", method)]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "KDBENCH_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "kdbench", *words, *chosen]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{checkout}: exit code {run.returncode}\n{run.stdout}{run.stderr}")
    records = [json.loads(path.read_bytes()) for path in sorted(folder.glob("v1/*/*.json"))]
    return {r["label"]: (r["key"], r["weights_sha256"], r["predictions"]["sha256"]) for r in records}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--method", action="append", help=f"default: {', '.join(METHODS)}")
    options = parser.parse_args()
    found = []
    for checkout in (options.other.resolve(), HERE):
        with TemporaryDirectory() as folder:
            found.append(trained(checkout, Path(folder), options.method or list(METHODS)))
    before, after = found
    different = 0
    for label in sorted(before.keys() | after.keys()):
        equal = before.get(label) == after.get(label)
        different += not equal
        print(f"{label:<12} {'equal' if equal else f'DIFFERENT: {before.get(label)} {after.get(label)}'}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
