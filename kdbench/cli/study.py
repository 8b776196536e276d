"""``kdbench study NAME``: train what a study needs and is not recorded yet, and say what came out of its claims."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench import environment
from kdbench.cli import study_text
from kdbench.cli.durations import seconds
from kdbench.cli.machine import add_machine_arguments, backend_of
from kdbench.cli.manifest import request_json
from kdbench.cli.plan_text import say_plan
from kdbench.cli.run import check_folders, train
from kdbench.cli.say import in_folder, outlive_readers, say
from kdbench.data import data_root, download_allowed
from kdbench.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_OK
from kdbench.plan.expand import Selection
from kdbench.plan.plan import Plan, Request, make_plan
from kdbench.records import Store
from kdbench.records.inventory import Inventory, take_inventory
from kdbench.shipped import shipped
from kdbench.stats.claims import Verdict
from kdbench.studies import get_study, judge
from kdbench.studies.check import suites_of
from kdbench.studies.judge import Right
from kdbench.trials.trial import Trial

FORMS = ("text", "markdown", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the study, see kdbench list studies")
    parser.add_argument("--results", default="results", metavar="DIR", help="the results folder (default: results)")
    parser.add_argument(
        "--land-within",
        metavar="TIME",
        help="cut cohorts so that each leaves its records within this time, such as 45m or 2h",
    )
    add_machine_arguments(parser)
    parser.add_argument("--format", choices=FORMS, default="text", help="how the verdicts are printed (default: text)")
    parser.add_argument("--dry-run", action="store_true", help="train nothing: verdicts by what is recorded")


def main(options: argparse.Namespace) -> int:
    from kdbench.plugins import load_plugins

    environment.check()
    load_plugins(options.plugin)
    outlive_readers()
    study = get_study(options.name)
    suites = suites_of(study)
    store = Store(Path(options.results))
    code = EXIT_OK
    if not options.dry_run:
        check_folders(store, suites.values())
    backend = backend_of(options)
    fleet = backend.fleet(max(suite.protocol.threads for suite in suites.values()))
    known = shipped("results")
    request = Request(
        tuple(suites.values()),
        Selection(),
        data_root(options.data_root),
        download=download_allowed(options.download),
        dry=options.dry_run,
        baselines=(Store(known),) if (known / "v1").is_dir() and known.resolve() != store.root.resolve() else (),
        within=None if options.land_within is None else seconds(options.land_within, "--land-within"),
    )
    plan = make_plan(request, store, fleet)
    if options.format == "text":
        say_plan(plan, store, verbose=False)
    if plan.missing and not options.dry_run:
        code = train(plan, store, backend, request_json(request, options, None))
        if code == EXIT_INTERRUPTED:
            return code
    stores = [store, *(request.baselines if options.dry_run else ())]
    inventories = [take_inventory(each) for each in stores]
    found = judge(study, suites, _rows(plan, inventories), _right(inventories))
    if options.format == "json":
        say(json.dumps(study_text.document(study, found), indent=1))
    else:
        for line in study_text.lines(study, found, options.format, in_folder(store.root)):
            say(line)
    return max(code, EXIT_INCOMPLETE if any(each.verdict is Verdict.INCOMPLETE for each in found) else EXIT_OK)


def _right(inventories: Sequence[Inventory]) -> Right:
    """What any of ``inventories`` knows of on which test images a record's network is right."""

    def right(selection: str) -> Callable[[Mapping[str, Any]], NDArray[np.bool_] | None]:
        known = [inventory.seen.right(selection) for inventory in inventories]
        return lambda record: next((found for of in known if (found := of(record)) is not None), None)

    return right


def _rows(plan: Plan, inventories: Sequence[Inventory]) -> Iterator[Mapping[str, Any]]:
    """The results of the trials of ``plan`` wherever it has them, whatever suites they were made for."""
    places: dict[str, list[Trial]] = {}
    for trial in plan.trials:
        places.setdefault(trial.key, []).append(trial)
    for inventory in inventories:
        for record in inventory.results:
            for trial in places.get(record["key"], ()):
                yield {**record, "suite": trial.suite, "label": trial.label, "pair": trial.pair}
