"""``kdbench tune SUITE``: choose each method's hyper-parameters from as many configurations, and judge the choice."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdbench import environment
from kdbench.cli import tune_text
from kdbench.cli.durations import duration, seconds
from kdbench.cli.machine import add_machine_arguments, backend_of
from kdbench.cli.manifest import request_json
from kdbench.cli.plan_text import expected, say_plan
from kdbench.cli.run import check_folders, train
from kdbench.cli.say import in_folder, outlive_readers, say
from kdbench.cli.standings_text import lines, of_plan
from kdbench.data import data_root, download_allowed
from kdbench.errors import EXIT_INCOMPLETE, EXIT_OK, UserError
from kdbench.folders import write_atomically
from kdbench.plan.expand import Selection, inapplicable
from kdbench.plan.plan import Plan, Request, make_plan
from kdbench.records import Store
from kdbench.records.inventory import measured_rows
from kdbench.schedule import Backend
from kdbench.shipped import shipped
from kdbench.suites import SUITES, Suite, get_suite
from kdbench.suites.rungs import Course, course, outlook, with_chosen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", metavar="SUITE", help="a suite that says under [tune] what is tuned")
    parser.add_argument("--results", default="results", metavar="DIR", help="the results folder (default: results)")
    parser.add_argument("--rows", metavar="FILE", help="write the chosen rows, and all that was tried, as TOML")
    parser.add_argument(
        "--land-within",
        metavar="TIME",
        help="cut cohorts so that each leaves its records within this time, such as 45m or 2h",
    )
    add_machine_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="train nothing: what it takes, and what is chosen so far"
    )


def main(options: argparse.Namespace) -> int:
    from kdbench.plugins import load_plugins

    environment.check()
    load_plugins(options.plugin)
    outlive_readers()
    suite = get_suite(options.suite)
    if suite.tuning is None:
        known = ", ".join(name for name in SUITES if _tunes(name)) or "none"
        raise UserError(f"Suite {suite.id} has no [tune], which says what is tuned; those that have one: {known}.")
    tuner = Tuner(options, [suite])
    code = EXIT_OK
    if options.dry_run:
        tuner.say_budget(suite)
    else:
        code = tuner.tune(suite)
    found = tuner.course(suite)
    if not options.dry_run and found.chosen:
        plan, code = tuner.train(with_chosen(suite, found.chosen))
        for made, standing in of_plan(plan, tuner.store):
            for line in lines(standing, made.id, made.protocol.selection, results=tuner.store.root):
                say(line)
        say()
    for line in tune_text.lines(suite, found, in_folder(tuner.store.root)):
        say(line)
    if options.rows and found.chosen:
        write_atomically(Path(options.rows), tune_text.toml(suite, found).encode())
        say(f"The chosen rows are in {options.rows}.")
    return max(code, EXIT_OK if found.chosen else EXIT_INCOMPLETE)


def _tunes(name: str) -> bool:
    try:
        return get_suite(name).tuning is not None
    except UserError:
        return False


class Tuner:
    """Trains what ``options`` ask for, suite by suite, and knows how far the tuning of each has come."""

    def __init__(self, options: argparse.Namespace, suites: Sequence[Suite]) -> None:
        self.options = options
        self.store = Store(Path(options.results))
        if not options.dry_run:
            check_folders(self.store, suites)
        self.backend: Backend = backend_of(options)
        self.fleet = self.backend.fleet(max(suite.protocol.threads for suite in suites))
        known = shipped("results")
        elsewhere = (known / "v1").is_dir() and known.resolve() != self.store.root.resolve()
        self.request = Request(
            (),
            Selection(),
            data_root(options.data_root),
            download=download_allowed(options.download),
            dry=options.dry_run,
            baselines=(Store(known),) if elsewhere else (),
            within=None if options.land_within is None else seconds(options.land_within, "--land-within"),
        )

    @property
    def stores(self) -> list[Store]:
        """Those that are read: what a baseline has is in the results folder once it was planned for, unless dry."""
        return [self.store, *(self.request.baselines if self.request.dry else ())]

    def train(self, *suites: Suite, quiet: bool = False, weights: bool = True) -> tuple[Plan, int]:
        """Train what is not recorded of ``suites``, unless dry; what was planned, and how it ended."""
        request = replace(self.request, suites=suites, weights=weights)
        plan = make_plan(request, self.store, self.fleet)
        if not quiet:
            say_plan(plan, self.store, verbose=False)
        if not plan.missing or self.request.dry:
            return plan, EXIT_OK
        return plan, train(plan, self.store, self.backend, request_json(request, self.options, None))

    def course(self, suite: Suite) -> Course:
        """How far the tuning of ``suite`` has come."""
        if suite.tuning is None:
            return Course(())
        return course(suite, suite.tuning, self._rows())

    def tune(self, suite: Suite) -> int:
        """Train rung after rung of ``suite`` until its rows are chosen, or a rung is left incomplete."""
        found, done = self.course(suite), 0
        _check_applicable(found)
        while not found.chosen and len(found.rungs) > done:
            done = len(found.rungs)
            _, code = self.train(found.rungs[-1].suite, weights=False)
            if code != EXIT_OK:
                return code
            found = self.course(suite)
        return EXIT_OK

    def say_budget(self, suite: Suite) -> None:
        """Say what is still to be trained, rung by rung, and about how long it takes."""
        if suite.tuning is None:
            return
        total, found = 0.0, self.course(suite)
        _check_applicable(found)
        for each in outlook(suite, suite.tuning, found):
            plan, _ = self.train(each, weights=each.tuning is not None)
            total += expected(plan)
        say(f"About {duration(total)} in all." if total else "Nothing is left to train.")

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        for store in self.stores:
            yield from (row for row in measured_rows(store)[0] if row["evidence"] == "measured")


def _check_applicable(found: Course) -> None:
    """UserError where a method that is tuned cannot be trained: the others would be chosen without it."""
    first = found.rungs[0].suite
    for label, pair, reason in inapplicable(first, Selection()):
        raise UserError(f"{first.id}: {label} cannot be tuned on {pair}: {reason}; take its method out of [tune].")
