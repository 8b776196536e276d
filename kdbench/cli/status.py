"""``kdbench status``: what runs where, what is done, what failed and why, from wherever the folder is seen."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from kdbench.cli.durations import duration
from kdbench.cli.live import BEAT, live_runs, standing
from kdbench.cli.retry import without_result
from kdbench.cli.say import complain, in_folder, many, say
from kdbench.errors import EXIT_INCOMPLETE, EXIT_OK, UserError, listed, plain, reason
from kdbench.records import Store
from kdbench.records.runs import manifests

#: What is said of a run by its outcome.
HOW = {"done": "ended", "interrupted": "was interrupted", "killed": "was killed", "failed": "failed"}
#: Failures of a run that are said in full.
SHOWN = 20
#: Seconds after which it is worth saying when a task was last heard of.
SILENT = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", default="results", metavar="DIR", help="the results folder (default: results)")
    parser.add_argument("--watch", action="store_true", help="show it anew every two seconds, until no run is at work")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead, with --watch at the end")


def main(options: argparse.Namespace) -> int:
    try:
        return _main(options)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"A manifest or live file in {options.results}/runs says what no run writes ({reason(error)}); move it "
            "away, as no result depends on it."
        ) from None


def _main(options: argparse.Namespace) -> int:
    results = Path(options.results)
    found = look(results)
    if options.watch:
        found = _watched(results, found, quiet=options.json)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for line in lines(found, results):
            say(line)
    return EXIT_OK if _well(found, results) else EXIT_INCOMPLETE


def look(results: Path) -> dict[str, Any]:
    """The runs that are under way or were killed, with how each stands, and the last one that ended."""
    live = [{**each, "state": standing(results, each)} for each in live_runs(results)]
    known = {each["run"] for each in live}
    damaged: list[str] = []
    last = next((each for path, each in manifests(results, damaged.append) if path.stem not in known), None)
    if not live and last is None:
        raise UserError(
            damaged[0] if damaged else f"There is no run in {results}; name a results folder with --results."
        )
    for text in damaged:
        complain(text)
    return {"live": live, "last": last}


def _well(found: Mapping[str, Any], results: Path) -> bool:
    """Whether a run is at work, or the last one has brought all that it set out for."""
    if found["live"]:
        return all(each["state"] != "stopped" for each in found["live"])
    last = found["last"]
    return bool(last.get("outcome") == "done" and not _without(last) and not _left_before(last, results))


def _without(last: Mapping[str, Any]) -> list[Any]:
    """What has no result: a training that diverged is one."""
    return [each for each in last["failed"] if each["status"] != "diverged"]


def _left_before(last: Mapping[str, Any], results: Path) -> int:
    """How many trials of the run that ``last`` tries again in part have no result by now."""
    if not last.get("request", {}).get("retries"):
        return 0
    try:
        return len(without_result(Store(results), "*"))
    except UserError:  # the manifest of that run is gone
        return 0


def _watched(results: Path, found: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """Show ``found`` and what there is after it, until no run is at work; what there is then."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if quiet or not terminal:
        while _working(found):
            for line in [] if quiet else [*lines(found, results), ""]:
                say(line)
            time.sleep(BEAT)
            found = look(results)
        return found
    from rich.live import Live
    from rich.text import Text

    with Live(Text(), auto_refresh=False, transient=True) as view:
        while _working(found):
            view.update(Text("\n".join(map(plain, lines(found, results)))), refresh=True)
            time.sleep(BEAT)
            found = look(results)
    return found


def _working(found: Mapping[str, Any]) -> bool:
    return any(each["state"] != "stopped" for each in found["live"])


def lines(found: Mapping[str, Any], results: Path) -> Iterator[str]:
    """What ``look`` found in the folder ``results``, for people."""
    for number, live in enumerate(found["live"]):
        yield from [""] * (number > 0)
        yield from _live_lines(live)
    if not _working(found) and found["last"] is not None:
        yield from [""] * bool(found["live"])
        yield from _last_lines(found["last"], results)


def _live_lines(live: Mapping[str, Any]) -> Iterator[str]:
    trials, state = live["trials"], live["state"]
    whose = f"{', '.join(live['suites'])} on {live['host']}, process {live['pid']}"
    if state == "stopped":
        yield f"{live['run']}: {whose}, stopped without a word {_ago(live['heartbeat'])} ago; the same command goes on."
    else:
        yield f"{live['run']}: {whose}, at work for {_ago(live['began'])}."
    if state == "silent":
        yield (
            f"  Its last sign of life was {_ago(live['heartbeat'])} ago, though its process is there: it may be "
            "suspended, or the results folder cannot be written."
        )
    left = f", about {duration(live['time_left'])} left" if live["time_left"] is not None and state != "stopped" else ""
    shown = ("failed",) if state == "stopped" else ("running", "waiting", "failed")
    counts = ", ".join(f"{trials[name]} {name}" for name in shown)
    yield f"  {trials['finished']} of {many(trials['planned'], 'trial')} finished, {counts}{left}."
    for task in live["running"] if state != "stopped" else ():
        yield f"  {_task_line(task)}"
    yield from _failures(live["failures"])


def _task_line(task: Mapping[str, Any]) -> str:
    """A running task: where, since when, how far."""
    place = f"GPU {task['device']}" if task["device"] else "" if task["slot"] is None else f"slot {task['slot']}"
    where = [part for part in (task["host"], place, task["pid"] and f"process {task['pid']}") if part]
    said = [f"{task['title']}: {' '.join(map(str, where))}", _ago(task["since"])]
    if task["attempt"] > 1:
        said.append(f"attempt {task['attempt']}")
    if task["waiting"]:
        said.append(task["waiting"])
    elif task["steps"]:
        said.append(f"epoch {task['epoch']}, step {task['step']}/{task['steps']}")
    else:
        said.append("starting")
    for name, text in (("loss", "loss {:.4g}"), ("top1", "top-1 {:.2f}"), ("images_per_s", "{:.0f} images/s")):
        if task[name] is not None:
            said.append(text.format(task[name]))
    if task["memory"] is not None:
        said.append(f"{task['memory'] / 2**30:.1f} GiB")
    if len(task["students"]) > 1:
        said.append(many(len(task["students"]), "student"))
    if _seconds(task["heard"]) > SILENT:
        said.append(f"last heard of {_ago(task['heard'])} ago")
    return ", ".join(said)


def _last_lines(last: Mapping[str, Any], results: Path) -> Iterator[str]:
    """The last run that ended."""
    suites = ", ".join(last.get("suites") or [last.get("suite", "")])
    if "outcome" not in last:
        how = "ended" if "ended" in last else "did not say how it ended"
        yield f"{last['run']}: {suites}, {how}, and no more is known of it."
        return
    how = HOW[last["outcome"]]
    error = f": {last['detail']}" if last["detail"] else ""
    yield f"{last['run']}: {suites} on {last['host']}, {how} {_ago(last['ended'])} ago{error}."
    counts = f"{len(last['recorded'])} of {many(len(last['planned']), 'trial')} recorded, {len(last['left'])} left"
    yield f"  {counts}; it took {duration(last['seconds'])}."
    titles = {entry["key"]: entry["title"] for entry in last["planned"]}
    yield from _failures(
        [{**each, "title": titles.get(each["key"], each["key"])} for each in last["failed"] if each["detail"]]
    )
    if without := _without(last):
        how = "tries them again" if last["outcome"] == "done" else "goes on, and so does the same command"
        yield f"  {many(len(without), 'trial')} without a result: kdbench retry '*'{in_folder(results)} {how}."
    if (left := _left_before(last, results)) > len(last["failed"]):
        run, again = last["request"]["retries"], f"kdbench retry '*'{in_folder(results)}"
        yield f"  It tried again a part of {run}, of which {many(left, 'trial')} have no result yet: {again} goes on."


def _failures(failures: list[dict[str, Any]]) -> Iterator[str]:
    """Each reason once, with what failed of it."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        by_reason.setdefault((failure["status"], failure["detail"]), []).append(failure["title"])
    for (status, detail), titles in list(by_reason.items())[:SHOWN]:
        named = len(titles) == 1 and titles[0] in detail
        yield f"  {status}: {'' if named else listed(titles, 4) + ': '}{detail}"
    if len(by_reason) > SHOWN:
        yield f"  and {len(by_reason) - SHOWN} more reasons"


def _seconds(when: str) -> float:
    return max(time.time() - datetime.fromisoformat(when).timestamp(), 0.0)


def _ago(when: str) -> str:
    return duration(_seconds(when))
