"""The run's own file, results/runs/<run>.json: what was asked for, by which code, and what came of it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdbench.folders import write_atomically
from kdbench.records.provenance import provenance
from kdbench.trials.trial import Trial


def start_run(
    results: Path, suites: Sequence[str], missing: Sequence[Trial], device: str, slots: int
) -> dict[str, Any]:
    """Write the manifest of a run that begins now; its name sorts by time and does not clash with another run's.

    OSError where the results folder cannot be written, before anything is trained for it.
    """
    began = datetime.now(UTC)
    manifest = {
        "run": f"{began:%Y%m%dT%H%M%SZ}-{suites[0]}-{secrets.token_hex(2)}",
        "suites": list(suites),
        "began": began.isoformat(timespec="seconds"),
        "device": device,
        "slots": slots,
        "planned": [
            {"key": t.key, "suite": t.suite, "label": t.label, "pair": t.pair, "seed": t.seed} for t in missing
        ],
        "provenance": {
            name: value
            for name, value in provenance(plugin_sha256=None, precision="", threads=1, attempts=1, resumed=0).items()
            if name in ("kdbench", "git_sha", "git_dirty", "packages", "python", "platform")
        },
    }
    _write(results, manifest)
    return manifest


def finish_run(
    results: Path, manifest: dict[str, Any], missing: Sequence[Trial], still: Sequence[Trial], interrupted: bool
) -> None:
    """Write the manifest anew with what the run left behind."""
    left = {trial.key for trial in still}
    document = {
        **manifest,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "interrupted": interrupted,
        "recorded": [trial.key for trial in missing if trial.key not in left],
        "left": sorted(left),
    }
    _write(results, document)


def _write(results: Path, document: dict[str, Any]) -> None:
    write_atomically(results / "runs" / f"{document['run']}.json", json.dumps(document, indent=1).encode() + b"\n")
