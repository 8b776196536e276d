"""``kdbench logs TRIAL``: what the worker printed that trains a trial, or trained it."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.cli.live import live_runs, standing
from kdbench.cli.say import complain, say
from kdbench.errors import EXIT_OK, UserError, listed, shown
from kdbench.records.runs import manifests, read_manifest

#: Hex digits from which on a word may be the beginning of a key.
SHORTEST_KEY = 6
#: Seconds between two looks at a log that is followed.
LOOK = 0.3


class Log(NamedTuple):
    """A task of a run, the titles of what of it was asked for, and where its log is."""

    run: str
    task: str
    titles: list[str]
    path: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "trial", metavar="TRIAL", help="the beginning of a key, a title, a label, 'LABEL seed N', or a task's name"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="print what comes, until the worker has ended")
    parser.add_argument("--results", default="results", metavar="DIR", help="the results folder (default: results)")


def main(options: argparse.Namespace) -> int:
    results = Path(options.results)
    log = _find(results, options.trial, options.follow)
    complain(f"this is {log.path}, the log of {listed(log.titles)}, in the run {log.run}")
    said = False
    try:
        for line in _lines(log.path, lambda: options.follow and _runs(results, log)):
            say(line.decode("utf-8", "replace"))
            said = True
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{log.path} cannot be read ({error.strerror}); look where the run was.") from None
    if not said:
        complain("the worker has printed nothing; kdbench status shows how far it is")
    return EXIT_OK


def _lines(path: Path, more: Callable[[], bool]) -> Iterator[bytes]:
    """The lines of the file ``path``, and those that come for as long as there may be ``more``."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file, and no log of a worker; delete it.")
    with path.open("rb") as stream:
        rest, on = b"", True
        while on:
            on = more()  # asked before it is read, as what is written last is read, too
            *whole, rest = (rest + stream.read()).split(b"\n")
            yield from whole
            time.sleep(LOOK if on else 0.0)
    if rest:
        yield rest


def _find(results: Path, wanted: str, wait: bool) -> Log:
    """The log of ``wanted`` in the latest run that has it; ``wait`` for it where that has not begun."""
    for path, manifest in manifests(results, complain):
        if "tasks" not in manifest:  # an earlier version wrote it
            continue
        names, keys = _matched(manifest, wanted)
        while names or keys:
            if logs := list(_logs(manifest, names, keys)):
                return _only(logs, wanted)
            if manifest["run"] not in _working(results):
                break  # it was left, and an earlier run may have begun it
            if not wait:
                raise UserError(f"{shown(wanted)} has not begun yet; kdbench logs -f waits for it.")
            time.sleep(LOOK)
            manifest = read_manifest(path)
    raise UserError(
        f"No run in {results} has begun a trial or a task {shown(wanted)}; give the beginning of a key, a title, a "
        "label, 'LABEL seed N', or a task as kdbench status names it."
    )


def _matched(manifest: Mapping[str, Any], wanted: str) -> tuple[set[str], dict[str, str]]:
    """The tasks of a run that ``wanted`` names, and the titles of the trials, by key."""
    tasks = {task["id"] for task in manifest["tasks"] if wanted in (task["id"], task["title"])}
    label, _, seed = wanted.rpartition(" seed ")
    seeded = (label.rstrip(","), int(seed)) if re.fullmatch("[0-9]{1,9}", seed) else None
    begins = len(wanted) >= SHORTEST_KEY
    keys = {
        entry["key"]: entry["title"]
        for entry in manifest["planned"]
        if wanted in (entry["label"], entry["title"])
        or (entry["label"], entry["seed"]) == seeded
        or (begins and entry["key"].startswith(wanted))
    }
    return tasks, keys


def _logs(manifest: Mapping[str, Any], names: set[str], keys: Mapping[str, str]) -> Iterator[Log]:
    """The logs of these tasks, and of each of these trials that of the last task that was begun with it."""
    last = {key: task for task in manifest["tasks"] for key in task["trials"] if key in keys}
    for task in manifest["tasks"]:
        trained = [keys[key] for key, its in last.items() if its is task]
        if task["id"] in names or trained:
            yield Log(manifest["run"], task["id"], trained or [task["title"]], Path(task["log"]))


def _only(logs: list[Log], wanted: str) -> Log:
    if len(logs) > 1:
        titles = listed([repr(title) for log in logs for title in log.titles])
        raise UserError(f"{shown(wanted)} stands for several logs; say which: {titles}.")
    return logs[0]


def _working(results: Path) -> dict[str, dict[str, Any]]:
    """The runs at work, by name."""
    return {live["run"]: live for live in live_runs(results) if standing(results, live) != "stopped"}


def _runs(results: Path, log: Log) -> bool:
    """Whether the task of ``log`` runs now."""
    live = _working(results).get(log.run)
    return live is not None and any(task["task"] == log.task for task in live["running"])
