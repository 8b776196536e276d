"""``kdbench study NAME``: train what a study needs and is not recorded yet, and say what came out of its claims."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench import environment
from kdbench.cli import study_text
from kdbench.cli.machine import add_machine_arguments
from kdbench.cli.say import in_folder, outlive_readers, say
from kdbench.cli.tune import Tuner
from kdbench.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_OK
from kdbench.plan.plan import Plan
from kdbench.records.inventory import Inventory, take_inventory
from kdbench.stats.claims import Verdict
from kdbench.studies import get_study, judge
from kdbench.studies.check import suites_of
from kdbench.studies.judge import Right
from kdbench.suites.rungs import with_chosen
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
    tuner = Tuner(options, list(suites.values()))
    store, code = tuner.store, EXIT_OK
    for name, suite in suites.items():
        if suite.tuning is not None and code == EXIT_OK:
            code = EXIT_OK if options.dry_run else tuner.tune(suite)
            suites[name] = with_chosen(suite, tuner.course(suite).chosen)
    if code == EXIT_INTERRUPTED:
        return code
    plan, ended = tuner.train(*suites.values(), quiet=options.format != "text")
    code = max(code, ended)
    if ended == EXIT_INTERRUPTED:
        return ended
    inventories = [take_inventory(each) for each in tuner.stores]
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
