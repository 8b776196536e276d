"""``kdbench baseline freeze SUITE``: a small file with what later trainings are compared with."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import median

from kdbench.cli.say import complain, many, say
from kdbench.cli.suite_names import suite_ids
from kdbench.errors import EXIT_OK, UserError, listed
from kdbench.regress.baseline import Baseline, from_records, narrowed, write
from kdbench.stats.drops import FIRST, detectable

ACTIONS = ("freeze",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS, help="freeze: write the file")
    parser.add_argument("suite", metavar="SUITE", help="the suite whose records are kept")
    parser.add_argument("--results", default="results", metavar="DIR", help="the results folder (default: results)")
    parser.add_argument(
        "--pair", action="append", default=[], metavar="GLOB", help="only pairs that match; may be given again"
    )
    parser.add_argument(
        "--method", action="append", default=[], metavar="GLOB", help="only rows that match; may be given again"
    )
    parser.add_argument("--out", metavar="FILE", help="the file (default: baselines/SUITE.json in the results folder)")


def main(options: argparse.Namespace) -> int:
    root = Path(options.results)
    whole, problems = from_records(root, suite_ids([options.suite])[0])
    for problem in problems:
        complain(problem)
    baseline = narrowed(whole, options.pair, options.method)
    without = [f"{label} on {pair}" for (pair, label), side in baseline.sides.items() if not side.trainings]
    if not baseline.sides or without:
        what = f"{listed(without)} finished on no seed" if without else "nothing of it finished"
        raise UserError(f"{baseline.suite} in {root} is no baseline yet: {what}; run it again, or choose by --method.")
    path = Path(options.out or root / "baselines" / f"{baseline.suite}.json")
    if path.is_dir():
        raise UserError(f"--out {path} is a folder; name a file.")
    write(baseline, path)
    say(f"{path}: {baseline.suite}, {many(len(baseline.sides), 'row')}, {_seeds(baseline)}.")
    say(_detectable(baseline))
    return EXIT_OK


def _seeds(baseline: Baseline) -> str:
    counts = sorted({len(side.trainings) for side in baseline.sides.values()})
    return f"{' or '.join(map(str, counts))} seeds each"


def _detectable(baseline: Baseline) -> str:
    """Which drop later trainings can show, in a sentence."""
    sides = list(baseline.sides.values())
    drops = detectable([side.scores for side in sides])
    if not all(map(math.isfinite, drops)):
        return "One seed of each row says nothing of how far chance moves it: freeze two or more, better ten."
    worst = max(range(len(sides)), key=drops.__getitem__)
    return (
        f"{FIRST} new seeds of each will show a drop of {median(drops):.1f} points nine times in ten; "
        f"of {sides[worst].label} one of {drops[worst]:.1f}. More seeds here show smaller ones."
    )
