"""``kdbench run``: from a suite to records and the site."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench import environment
from kdbench.cli.durations import seconds
from kdbench.cli.fleet import read_fleet, say_forecast
from kdbench.cli.machine import add_machine_arguments, backend_of
from kdbench.cli.plan_text import say_plan
from kdbench.cli.say import many, outlive_readers, say
from kdbench.cli.site import SITE
from kdbench.data import data_root, download_allowed
from kdbench.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_OK, UserError, described
from kdbench.folders import check_writable, clear_leftovers
from kdbench.paths import cache_dir
from kdbench.plan.expand import Selection, with_settings
from kdbench.plan.plan import Plan, Request, diverged_trials, list_trials, make_plan
from kdbench.records import Store
from kdbench.records.runs import live_path
from kdbench.schedule import Backend
from kdbench.shipped import shipped
from kdbench.suites import Suite, get_suite

#: The forms of the table that a run ends with.
FORMS = ("text", "markdown", "none")

if TYPE_CHECKING:
    from kdbench.cli.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--suite",
        required=True,
        action="append",
        help="the suite to run, see kdbench list suites; may be given again: one plan, one run, one site",
    )
    parser.add_argument(
        "--pair",
        action="append",
        default=[],
        metavar="GLOB",
        help="only pairs that match; the exact name of a registered pair outside it adds that; may be given again",
    )
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="GLOB",
        help="only rows that match; the exact name of a registered method outside it adds that; may be given again",
    )
    parser.add_argument(
        "--again",
        action="append",
        default=[],
        metavar="GLOB",
        help="train the rows of the selection that match though they are recorded; may be given again",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="ROW.FIELD=VALUE",
        help="add a row: ROW with another value of a hyper-parameter, such as kd.temperature=2; may be given again",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="the first N seeds instead of the suite's")
    parser.add_argument(
        "--until-decided",
        type=int,
        metavar="N",
        help="then add seeds, up to N, to the rows that are not told apart, and to no others",
    )
    parser.add_argument(
        "--versus", metavar="ROW", help="with --until-decided: decide only how each row compares with this one"
    )
    parser.add_argument(
        "--train-teachers",
        action="store_true",
        help="train the teachers that the suite would import from published weights",
    )
    parser.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="DIR",
        help="a results folder whose records count as done and are copied, or shipped for those that come with "
        "kdbench; may be given again",
    )
    parser.add_argument(
        "--land-within",
        metavar="TIME",
        help="cut cohorts so that each leaves its records within this time, such as 45m or 2h",
    )
    parser.add_argument("--no-weights", action="store_false", dest="weights", help="keep no weights of students")
    parser.add_argument("--results", default="results", metavar="DIR", help="the results folder (default: results)")
    parser.add_argument("--out", metavar="DIR", help=f"where the site is built (default: {SITE})")
    add_machine_arguments(parser)
    parser.add_argument(
        "--summary",
        choices=FORMS,
        default="text",
        help="how the table is printed that a run ends with (default: text; markdown: for a pull request)",
    )
    parser.add_argument(
        "--fleet", metavar="FILE", help="with --dry-run: what the plan would take on the devices that a TOML file lists"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan and its estimated cost, and train nothing"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print a line for each epoch, too, where there is no terminal"
    )


def main(options: argparse.Namespace) -> int:
    from kdbench.plugins import load_plugins

    environment.check()
    load_plugins(options.plugin)
    return carry_out(_request(options, tuple(get_suite(name) for name in dict.fromkeys(options.suite))), options)


def carry_out(request: Request, options: argparse.Namespace, retries: str = "") -> int:
    """Train what ``request`` asks for and is missing, then build the site; ``retries``: see the manifest."""
    from kdbench.cli.manifest import request_json
    from kdbench.render import check_replaceable, first_page

    outlive_readers()
    store, suites = Store(Path(options.results)), request.suites
    threads = max(suite.protocol.threads for suite in suites)
    if options.fleet and not options.dry_run:
        raise UserError("--fleet describes devices to plan for, not to run on; give it with --dry-run.")
    out = Path(options.out or SITE)
    if store.root.exists() and not store.root.is_dir():
        raise UserError(f"--results {store.root} is no folder; name a new one, or one that kdbench run has written.")
    if not options.dry_run:
        check_replaceable(out, store.root, request.data_root)
        check_folders(store, suites)
    backend = backend_of(options)
    fleet = read_fleet(Path(options.fleet)) if options.fleet else backend.fleet(threads)

    def run(request: Request) -> tuple[Plan, int]:
        plan = make_plan(request, store, fleet)
        say_plan(plan, store, verbose=options.dry_run)
        if options.fleet:
            say_forecast(plan, options.fleet)
        if not plan.missing or options.dry_run:
            return plan, EXIT_OK
        return plan, train(plan, store, backend, request_json(request, options, out, retries), options.verbose)

    if request.looks and not request.only:
        from kdbench.cli.adaptive import until_decided

        plan, code = until_decided(request, store, run, options.versus)
    else:
        plan, code = run(request)
    if options.dry_run:
        return EXIT_OK
    if code == EXIT_INTERRUPTED:
        return code
    _say_standings(plan, store, options.summary)
    diverged = diverged_trials(plan.trials, store)
    if diverged:
        say(f"{len(diverged)} of these trials diverged; they stay on the record and are not tried again.")
        code = EXIT_INCOMPLETE
    before = None if options.out or plan.missing or plan.listed or plan.adopted else first_page(out)
    if before:
        say(f"Open {before}, which was built before; kdbench site --results {store.root} builds it anew.")
        return code
    from kdbench.cli.site import build_and_say

    build_and_say(store.root, out, request.data_root)
    return code


def _say_standings(plan: Plan, store: Store, form: str) -> None:
    """Say how the rows of each suite of ``plan`` stand, and what cannot be told of them yet."""
    if form == "none":
        return
    from kdbench.cli.standings_text import lines, of_plan

    for suite, found in of_plan(plan, store):
        for line in lines(found, suite.id, suite.protocol.selection, form, store.root, suite.asked):
            say(line)
        say()


def check_folders(store: Store, suites: Iterable[Suite]) -> None:
    """UserError where a training could not be recorded: now, and not after hours. Killed runs are written off."""
    from kdbench.cli.manifest import end_killed

    store.check_writable(suite.id for suite in suites)
    check_writable(cache_dir() / "runs", f"The cache folder {cache_dir()}")
    store.tidy()
    clear_leftovers(cache_dir() / "checkpoints")
    end_killed(store)


def _request(options: argparse.Namespace, suites: tuple[Suite, ...]) -> Request:
    asked = Selection(
        tuple(options.pair), tuple(options.method), options.seeds, options.train_teachers, tuple(options.settings)
    )
    suites, selection = with_settings(suites, asked)
    request = Request(
        suites,
        selection,
        data_root(options.data_root),
        download=download_allowed(options.download),
        dry=options.dry_run,
        baselines=tuple(Store(_baseline(name)) for name in options.baseline),
        within=None if options.land_within is None else seconds(options.land_within, "--land-within"),
        again=tuple(options.again),
        weights=options.weights,
    )
    if options.until_decided is None:
        if options.versus is not None:
            raise UserError("--versus says which comparisons are to be decided; give it with --until-decided N.")
        return request
    from kdbench.cli.adaptive import planned_looks

    return replace(request, looks=planned_looks(request, options.until_decided, options.versus))


def _baseline(name: str) -> Path:
    folder = shipped("results") if name == "shipped" else Path(name)
    if not (folder / "v1").is_dir():
        raise UserError(f"--baseline {name} is no results folder; name one that kdbench run has written, or shipped.")
    return folder


def train(plan: Plan, store: Store, backend: Backend, asked: Mapping[str, Any], verbose: bool = False) -> int:
    """Run the plan's tasks and record what became of every trial; ``asked``: the request, for the manifest."""
    from kdbench.cli.live import LiveFile, beating
    from kdbench.cli.manifest import Manifest
    from kdbench.cli.progress import make_progress

    manifest = Manifest(store, plan, asked)
    progress = make_progress(plan.tasks, sys.stdout, verbose)
    live = LiveFile(live_path(manifest.path), manifest.head, progress)
    try:
        with progress, beating(live.write, lambda: manifest.tell(progress), progress.beat):
            report = backend.executor(plan.fleet, manifest.logs).run(plan.tasks, progress.watch)
        if not report.interrupted:
            _record_failures(plan, store, progress)
        # What several suites of the plan share, and what another run has recorded meanwhile, for a suite of its own.
        list_trials(plan.trials, store)
        manifest.end(progress, "interrupted" if report.interrupted else "done")
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        with contextlib.suppress(OSError):
            manifest.end(progress, *(["interrupted"] if interrupted else ["failed", described(error)]))
        raise
    finally:
        if "ended" in manifest.document:  # else the live file stays, and the next run finishes the manifest by it
            live.remove()
    left = manifest.document["left"]
    done = f"{plan.title}: {many(len(plan.missing) - len(left), 'trial')} recorded"
    if report.interrupted:
        say(f"{done}. Interrupted; the same command goes on from the last checkpoints.")
        return EXIT_INTERRUPTED
    rest = f", {len(left)} left for the next run" if left else ""
    logs = f"; what the workers printed is in {manifest.logs}" if left and manifest.logs.is_dir() else ""
    say(f"{done}{rest}{logs}.")
    return EXIT_INCOMPLETE if left or report.failed else EXIT_OK


def _record_failures(plan: Plan, store: Store, progress: Progress) -> None:
    """Leave a record of each trial whose worker died without leaving one.

    A trial that was refused, or whose teacher failed, was not tried: there is nothing of it to record.
    """
    from kdbench.records.build import build_record

    recorded = store.statuses(trial.key for trial in plan.missing)
    for task, event in progress.lost:
        status = "timed_out" if event.get("timed_out") else "crashed"
        for trial in (trial for trial in task.trials if trial.key not in recorded):
            record = build_record(
                trial,
                status,
                detail=event["text"],
                plugins=task.plugins,
                warnings=task.warnings,
                attempts=task.attempt,
                looks=task.looks,
            )
            store.put(record)
