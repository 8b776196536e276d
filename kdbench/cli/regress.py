"""``kdbench regress NEW --against BASELINE``: whether a change cost accuracy."""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.cli.machine import add_machine_arguments, backend_of
from kdbench.cli.say import complain
from kdbench.cli.suite_names import suite_ids
from kdbench.errors import (
    EXIT_INCOMPARABLE,
    EXIT_INCOMPLETE,
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REGRESSION,
    NoBaseline,
    UserError,
)
from kdbench.folders import write_atomically
from kdbench.records.inventory import measured_rows
from kdbench.records.store import Store
from kdbench.regress.baseline import Baseline, from_records, read
from kdbench.regress.judge import Judgement, Verdict, judge
from kdbench.regress.report import ENDINGS, FORMATS
from kdbench.regress.side import ON, Place, sides
from kdbench.regress.speed import SLOWER, judge_speed
from kdbench.stats.aggregate import NO_TEACHER
from kdbench.stats.drops import FIRST, MARGIN

if TYPE_CHECKING:
    from kdbench.plan.expand import Selection
    from kdbench.suites import Suite

#: Seeds of a row that are trained at most.
MOST = 20
#: The exit code of the worst verdict, the worst first.
CODES = (
    (Verdict.FAIL, EXIT_REGRESSION),
    (Verdict.INCOMPARABLE, EXIT_INCOMPARABLE),
    (Verdict.MISSING, EXIT_INCOMPLETE),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("new", metavar="NEW", help="the results folder of the change")
    parser.add_argument(
        "--against",
        required=True,
        metavar="BASELINE",
        help="a frozen baseline, or the results folder before the change",
    )
    parser.add_argument("--suite", help="which suite, where BASELINE is a results folder with several")
    parser.add_argument(
        "--margin", type=float, default=MARGIN, metavar="POINTS", help=f"the drop that matters (default: {MARGIN})"
    )
    parser.add_argument(
        "--speed", action="store_true", help=f"also judge the speed of training: {SLOWER:g} %% slower is what matters"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 4 where a verdict is open")
    parser.add_argument(
        "--seeds",
        type=int,
        default=FIRST,
        metavar="N",
        help=f"seeds of a row that --run trains first (default: {FIRST})",
    )
    parser.add_argument(
        "--most",
        type=int,
        default=MOST,
        metavar="N",
        help=f"seeds of a row that --run trains at most (default: {MOST})",
    )
    parser.add_argument(
        "--run", action="store_true", help="train what is missing, then the seeds that should decide what is open"
    )
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        help="how the verdicts are printed (default: text; github where GITHUB_ACTIONS is set)",
    )
    parser.add_argument(
        "--write",
        action="append",
        default=[],
        metavar="FILE",
        help="also write them to a file; its ending says how: .txt, .md, .json or .xml (JUnit); may be given again",
    )
    add_machine_arguments(parser)


def main(options: argparse.Namespace) -> int:
    if not 0 < options.margin <= 100:
        raise UserError(f"--margin is a drop in points of accuracy, above 0 and at most 100, not {options.margin:g}.")
    for flag, value in (("--seeds", options.seeds), ("--most", options.most)):
        if value < 1:
            raise UserError(f"{flag} must be at least 1, not {value}.")
    files = [(path, _format_of(path)) for path in map(Path, options.write)]
    suite = suite_ids([options.suite], options.plugin)[0] if options.suite else None
    baseline = _baseline(Path(options.against), suite)
    judgement, interrupted = _judged(options, baseline)
    for path, form in files:
        write_atomically(path, f"{FORMATS[form](judgement)}\n".encode())
    form = options.format or ("github" if os.environ.get("GITHUB_ACTIONS") == "true" else "text")
    _show(judgement, form)
    if interrupted:
        return EXIT_INTERRUPTED
    return next((code for verdict, code in CODES if judgement.of(verdict)), _open_code(judgement, options.strict))


def _open_code(judgement: Judgement, strict: bool) -> int:
    return EXIT_INCONCLUSIVE if strict and judgement.of(Verdict.INCONCLUSIVE) else EXIT_OK


def _format_of(path: Path) -> str:
    if path.suffix not in ENDINGS:
        raise UserError(f"--write {path}: its ending says what is written; use one of {', '.join(ENDINGS)}.")
    return ENDINGS[path.suffix]


def _baseline(path: Path, suite: str | None) -> Baseline:
    if path.is_dir():
        baseline, problems = from_records(path, suite or "")
        for problem in problems:
            complain(problem)
    elif path.exists():
        baseline = read(path)
        if suite and suite not in (baseline.suite, baseline.suite.partition("@")[0]):
            raise UserError(f"{path} is a baseline of {baseline.suite}, not of {suite}; leave out --suite.")
    else:
        raise NoBaseline(f"There is no baseline at {path}; kdbench baseline freeze SUITE --out {path} writes one.")
    if not baseline.sides:
        raise NoBaseline(f"{path} has no finished trial to compare with; run the suite before the change.")
    return baseline


def _judged(options: argparse.Namespace, baseline: Baseline) -> tuple[Judgement, bool]:
    """The judgement, after what ``--run`` trains for it, and whether that was interrupted."""
    root = Path(options.new)
    if not options.run and not root.is_dir():
        raise UserError(f"There is no results folder at {root}; name one that kdbench run has written, or add --run.")
    interrupted = False
    if options.run:
        first = {place: options.seeds for place in baseline.sides}
        interrupted = _train(options, baseline.suite, root, first) == EXIT_INTERRUPTED
        if not interrupted and (more := _deciding(_look(options, baseline, last=False), options.most)):
            interrupted = _train(options, baseline.suite, root, more) == EXIT_INTERRUPTED
    return _look(options, baseline), interrupted


def _look(options: argparse.Namespace, baseline: Baseline, last: bool = True) -> Judgement:
    """The judgement of what is recorded by now; at the ``last`` look, what cannot be read is named."""
    records, problems = measured_rows(Store(Path(options.new)))
    new = sides(records, baseline.suite, baseline.sides)
    judgement = judge(baseline.suite, str(baseline.where), baseline.sides, new, options.margin)
    if last:
        for problem in problems:
            complain(problem)
        if options.speed:
            judgement = judgement.beside(judge_speed(baseline.sides, new))
    return judgement


def _deciding(judgement: Judgement, most: int) -> dict[Place, int]:
    """How many seeds, at ``most``, should decide each open cell: where new ones alone can, and after one look only."""
    first = min((cell.new[1] for cell in judgement.cells if cell.new and cell.needed is not None), default=0)
    return {
        cell.place: cell.needed[1]
        for cell in judgement.of(Verdict.INCONCLUSIVE)
        if cell.needed and cell.old and cell.needed[0] == cell.old[1] and cell.new and cell.new[1] == first
        if cell.needed[1] <= most
    }


def _train(options: argparse.Namespace, suite_id: str, root: Path, wanted: dict[Place, int]) -> int:
    """Train the first so many seeds of each cell that is ``wanted``, those that are recorded left out."""
    from kdbench import environment
    from kdbench.cli.manifest import request_json
    from kdbench.cli.plan_text import say_plan
    from kdbench.cli.run import check_folders, train
    from kdbench.cli.say import outlive_readers
    from kdbench.data import data_root, download_allowed
    from kdbench.plan.plan import Request, make_plan
    from kdbench.plugins import load_plugins
    from kdbench.suites import get_suite

    environment.check()
    load_plugins(options.plugin)
    outlive_readers()
    suite = get_suite(suite_id)
    store = Store(root)
    check_folders(store, [suite])
    backend = backend_of(options)
    fleet = backend.fleet(suite.protocol.threads)
    code = EXIT_OK
    for selection in _selections(suite, wanted):
        folder, download = data_root(options.data_root), download_allowed(options.download)
        request = Request((suite,), selection, folder, download)
        plan = make_plan(request, store, fleet)
        if plan.missing:
            say_plan(plan, store, verbose=False)
            code = max(code, train(plan, store, backend, request_json(request, options, None)))
        if code == EXIT_INTERRUPTED:
            break
    return code


def _selections(suite: Suite, wanted: dict[Place, int]) -> Iterator[Selection]:
    """Selections that ask for what is ``wanted`` and for nothing else, as few as that takes."""
    from kdbench.plan.expand import Selection

    rows: dict[tuple[str, int], list[str]] = defaultdict(list)
    for (pair, label), seeds in wanted.items():
        rows[_pair_of(suite, pair), seeds].append(label)
    pairs: dict[tuple[tuple[str, ...], int], list[str]] = defaultdict(list)
    for (pair, seeds), labels in rows.items():
        pairs[tuple(sorted(labels)), seeds].append(pair)
    for (methods, seeds), names in pairs.items():
        yield Selection(tuple(names), methods, seeds)


def _pair_of(suite: Suite, pair: str) -> str:
    """The pair of ``suite`` that trains what a record has under ``pair``: of a student alone, any with that student.

    One that the suite has on several data sets is trained on all of them.
    """
    pair = pair.partition(ON)[0]
    teacher, _, student = pair.partition(":")
    if teacher != NO_TEACHER:
        return pair
    return next((each.name for each in suite.pairs if each.name.partition(":")[2] == student), pair)


def _show(judgement: Judgement, form: str) -> None:
    """Print the verdicts; under GitHub Actions both annotations and text, and Markdown for the summary of the step."""
    if form != "github":
        print(FORMATS[form](judgement))
        return
    for name in ("github", "text"):
        if shown := FORMATS[name](judgement):
            print(shown)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as stream:
            stream.write(f"{FORMATS['markdown'](judgement)}\n\n")
