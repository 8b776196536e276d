"""``kdbench retry GLOB``: what failed in the last run, once more, as that run was asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench import environment
from kdbench.cli.live import live_runs, standing
from kdbench.cli.machine import add_machine_arguments, check_machine
from kdbench.cli.manifest import became
from kdbench.cli.run import carry_out
from kdbench.cli.say import complain, say
from kdbench.errors import EXIT_OK, UserError, listed, shown
from kdbench.plan.expand import Selection, with_settings
from kdbench.plan.plan import Request, Seat
from kdbench.records import Store
from kdbench.records.runs import manifests

if TYPE_CHECKING:
    from kdbench.suites import Suite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("glob", metavar="GLOB", help="which: a label, a pair or a title that matches; '*' for all")
    parser.add_argument("--results", default="results", metavar="DIR", help="the results folder (default: results)")
    parser.add_argument("--out", metavar="DIR", help="where the site is built (default: where the run built it)")
    add_machine_arguments(parser)
    parser.epilog = "What is not given is as that run had it."
    for action in parser._actions:  # what is not given is as the run had it
        if action.dest not in ("glob", "results", "out"):
            action.default = argparse.SUPPRESS
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained, and train nothing")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print a line for each epoch, too, where there is no terminal"
    )


def main(options: argparse.Namespace) -> int:
    from kdbench.plugins import load_plugins

    store = Store(Path(options.results))
    manifest, *retries = _runs(store)
    wanted = _wanted([manifest, *retries], store, options.glob)
    if not wanted:
        say(f"Nothing to do: all that {shown(options.glob)} matches in the run {manifest['run']} has a result.")
        return EXIT_OK
    asked = manifest["request"]
    check_request(asked, manifest["run"])
    if "plugin" not in options:
        _check_plugins(store, asked["machine"].get("plugin") or (), manifest["run"])
    not_of_a_retry = {"summary": "none", "versus": None, "fleet": None}
    options = argparse.Namespace(**{**asked["machine"], **vars(options), **not_of_a_retry})
    options.out = options.out or asked["out"] or None
    environment.check()
    load_plugins(options.plugin)
    return carry_out(_request(asked, options, store, wanted), options, retries=manifest["run"])


def _check_plugins(store: Store, plugins: Sequence[str], run: str) -> None:
    """UserError where a plugin that ``run`` names lies among the results: it may have come with that run by a merge."""
    root = store.root.resolve()
    for plugin in plugins:
        if Path(plugin).resolve().is_relative_to(root):
            raise UserError(
                f"The run {run} names the plugin file {plugin}, which lies in the results folder and may be another's; "
                "look at it, and name it with --plugin if you trust it."
            )


def check_request(asked: Mapping[str, Any], run: str) -> None:
    """UserError unless ``asked`` is a request that a run could have written."""
    texts = all(
        isinstance(asked.get(name), list) and all(isinstance(each, str) for each in asked[name])
        for name in ("suites", "pairs", "methods")
    )
    if not texts or not asked["suites"] or not check_machine(asked.get("machine")):
        raise UserError(f"The manifest of the run {run} holds no request that a run writes; use kdbench run.")


def without_result(store: Store, glob: str) -> dict[Seat, str]:
    """The seats, with keys, of what has no result of the last run that is no retry itself, as far as ``glob`` matches.

    UserError while a run is at work.
    """
    return _wanted(_runs(store, lambda _: None), store, glob)


def _runs(store: Store, complain: Callable[[str], None] = complain) -> list[dict[str, Any]]:
    """The manifests of the last run that is no retry itself, and of those that tried it again, in that order.

    ``complain`` is told of those that cannot be read.
    """
    if at_work := [live["run"] for live in live_runs(store.root) if standing(store.root, live) != "stopped"]:
        raise UserError(f"The run {at_work[0]} is at work in {store.root}; try again what failed when it has ended.")
    found: list[dict[str, Any]] = []
    for path, manifest in manifests(store.root, complain):
        if "request" not in manifest:
            raise UserError(f"The run {path.stem} is an earlier version's, which kept no request; use kdbench run.")
        found.insert(0, manifest)
        if not manifest["request"]["retries"]:
            return found
    raise UserError(f"There is no run in {store.root}; name a results folder with --results.")


def _wanted(manifests: Sequence[dict[str, Any]], store: Store, glob: str) -> dict[Seat, str]:
    """The seats, with keys, of what has no result by the last run that tried it, as far as ``glob`` matches it."""
    matched: dict[Seat, str] = {}
    for manifest in manifests:
        failed = {entry["key"] for entry in became(manifest, store)["failed"]}
        for entry in manifest["planned"]:
            if any(fnmatchcase(entry[name], glob) or entry[name] == glob for name in ("label", "pair", "title")):
                seat = Seat(*(entry[name] for name in Seat._fields))
                matched[seat] = entry["key"] if entry["key"] in failed else ""
    if not matched:
        labels = listed(list(dict.fromkeys(entry["label"] for entry in manifests[0]["planned"])))
        raise UserError(f"{shown(glob)} matches no trial of the run {manifests[0]['run']}, whose rows are {labels}.")
    return {seat: key for seat, key in matched.items() if key}


def _request(asked: dict[str, Any], options: argparse.Namespace, store: Store, wanted: dict[Seat, str]) -> Request:
    """What ``asked`` says, of those trials alone. Some of them have ended on the record, by diverging say."""
    from kdbench.data import data_root, download_allowed

    pairs, methods, settings = (tuple(asked.get(name, ())) for name in ("pairs", "methods", "settings"))
    selection = Selection(pairs, methods, asked["seeds"], asked["train_teachers"], settings)
    suites, selection = with_settings(tuple(map(_suite, asked["suites"])), selection)
    return Request(
        suites,
        selection,
        data_root(options.data_root),
        download=download_allowed(options.download),
        dry=options.dry_run,
        baselines=tuple(Store(Path(folder)) for folder in asked["baselines"]),
        within=asked["within"],
        again=("*",) if store.done(wanted.values()) else (),
        looks=tuple(asked["looks"]),
        only=frozenset(wanted),
        weights=asked.get("weights", True),
    )


def _suite(name: str) -> Suite:
    from kdbench.suites import SUITES, get_suite, is_file

    if "-rung-" in name and not is_file(name) and name.partition("@")[0] not in SUITES:
        raise UserError(
            f"{shown(name)} is a rung of kdbench tune; give that command again, which goes on where it was."
        )
    return get_suite(name)
