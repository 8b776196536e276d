"""The run's own file, results/runs/<run>.json: what was asked for, by which code, and what came of it."""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdbench.cli.following import Following
from kdbench.cli.live import here, live_runs, standing
from kdbench.cli.machine import machine_flags
from kdbench.errors import UserError
from kdbench.folders import write_atomically
from kdbench.paths import cache_dir
from kdbench.plan.plan import Plan, Request
from kdbench.records import Store
from kdbench.records.provenance import provenance
from kdbench.records.results import DONE
from kdbench.records.runs import live_path, read_manifest
from kdbench.records.validate import SCHEMA_VERSION

#: What a live file repeats of its run's manifest.
HEAD = ("schema_version", "run", "suites", "began", "host", "pid", "process", "logs")


def request_json(request: Request, options: argparse.Namespace, out: Path | None, retries: str = "") -> dict[str, Any]:
    """``request`` and the flags of the machine among ``options``, with full paths: enough to ask for it again."""
    selection = request.selection
    machine = {name: getattr(options, name) for name in machine_flags()}
    machine["data_root"], machine["download"] = str(request.data_root.absolute()), request.download
    machine["plugin"] = [str(Path(file).absolute()) for file in options.plugin]
    return {
        "suites": [suite.file or suite.id for suite in request.suites],
        "pairs": list(selection.pairs),
        "methods": list(selection.methods),
        "seeds": selection.seeds,
        "train_teachers": selection.train_teachers,
        "baselines": [str(store.root.absolute()) for store in request.baselines],
        "within": request.within,
        "again": list(request.again),
        "looks": list(request.looks),
        "settings": list(selection.settings),
        "weights": request.weights,
        "machine": machine,
        "out": "" if out is None else str(out.absolute()),
        "retries": retries,
    }


class Manifest:
    """The manifest of a run under way."""

    def __init__(self, store: Store, plan: Plan, asked: Mapping[str, Any]) -> None:
        """Write it; its name sorts by time and does not clash with another run's.

        OSError where the results folder cannot be written, before anything is trained for it.
        """
        began = datetime.now(UTC)
        self.store, self._began = store, time.monotonic()
        moment = f"{began:%Y%m%dT%H%M%S.%f}"[:-3]  # runs are sorted by it
        run = f"{moment}Z-{plan.suites[0].id}-{secrets.token_hex(2)}"
        self.path = store.root / "runs" / f"{run}.json"
        self.logs = cache_dir().absolute() / "runs" / run
        made_by = provenance(plugin_sha256=None, precision="", threads=1, attempts=1, resumed=0)
        self.document: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "run": run,
            "suites": [suite.id for suite in plan.suites],
            "began": began.isoformat(timespec="seconds"),
            **here(),
            "backend": asked["machine"]["backend"],
            "device": plan.fleet.kind,
            "gpus": [device.name for device in plan.fleet.devices if device.name],
            "slots": plan.fleet.slots,
            "logs": str(self.logs),
            "request": dict(asked),
            "planned": [
                {
                    **{name: getattr(trial, name) for name in ("key", "suite", "label", "pair", "seed", "title")},
                    "again": plan.again.get(trial.key),
                }
                for trial in plan.missing
            ],
            "tasks": [],
            "provenance": {
                name: made_by[name] for name in ("kdbench", "git_sha", "git_dirty", "packages", "python", "platform")
            },
        }
        _write(self.path, self.document)

    @property
    def head(self) -> dict[str, Any]:
        """What the live file repeats."""
        return {name: self.document[name] for name in HEAD}

    def tell(self, following: Following) -> None:
        """Write it anew where tasks were begun that it does not have; where it cannot be written, later."""
        with following.lock:
            begun = list(following.begun.values())
        if len(begun) == len(self.document["tasks"]):
            return
        tasks = [
            {
                "id": task.id,
                "title": task.title,
                "trials": [trial.key for trial in task.trials],
                "log": log or str(self.logs / f"{task.id}.log"),
            }
            for task, log in begun
        ]
        with contextlib.suppress(OSError):
            _write(self.path, {**self.document, "tasks": tasks})
            self.document["tasks"] = tasks

    def end(self, following: Following, outcome: str, detail: str = "") -> None:
        """Write it anew with what came of the run."""
        self.tell(following)
        document = {
            **self.document,
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._began, 1),
            "outcome": outcome,
            "detail": detail,
            **became(self.document, self.store, following.reasons),
        }
        _write(self.path, document)
        self.document = document


def became(manifest: Mapping[str, Any], store: Store, reasons: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the records say now of what ``manifest`` planned; ``reasons``: why some trials have none, by key."""
    keys = [entry["key"] for entry in manifest["planned"]]
    again = {entry["key"]: entry["again"] for entry in manifest["planned"] if entry["again"] is not None}
    statuses = store.statuses(keys)
    done = {key for key, status in statuses.items() if status in DONE and key not in again} | store.done(again, again)
    records = _records(store, [key for key in keys if key not in done or statuses[key] == "diverged"])
    failed = []
    for key, found in records.items():
        ends = {str(record["status"]): str(record["detail"]) for record in found}
        if key in done and "finished" in ends:  # what diverged once has finished since
            continue
        status = next((each for each in ("diverged", "timed_out", "crashed") if each in ends), "left")
        failed.append({"key": key, "status": status, "detail": ends.get(status) or (reasons or {}).get(key, "")})
    return {
        "recorded": [key for key in keys if key in done],
        "failed": failed,
        "left": [key for key in keys if key not in done],
    }


def _records(store: Store, keys: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The measured records of each of ``keys``; damaged ones are left out."""
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in keys}
    for key, paths in store.paths(keys).items() if keys else ():
        for path in paths:
            with contextlib.suppress(UserError):
                record = store.load(path)
                found[key] += [record] * (record["evidence"] == "measured")
    return found


def end_killed(store: Store) -> None:
    """Finish the manifests of runs that were killed, by what is recorded, and take their live files away."""
    for live in live_runs(store.root):
        if standing(store.root, live) == "stopped":
            path = store.root / "runs" / f"{live['run']}.json"
            with contextlib.suppress(OSError, UserError):
                _end_killed(path, live, store)
                live_path(path).unlink(missing_ok=True)


def _end_killed(path: Path, live: Mapping[str, Any], store: Store) -> None:
    if not path.exists() or "ended" in (manifest := read_manifest(path)):
        return
    began, ended = (datetime.fromisoformat(live[name]) for name in ("began", "heartbeat"))
    document = {
        **manifest,
        "ended": ended.astimezone(UTC).isoformat(timespec="seconds"),
        "seconds": max((ended - began).total_seconds(), 0.0),
        "outcome": "killed",
        "detail": "",
        **became(manifest, store),
    }
    _write(path, document)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(document, indent=1).encode() + b"\n")
