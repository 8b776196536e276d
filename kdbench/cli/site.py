"""``kdbench site``: the leaderboard from results files."""

from __future__ import annotations

import argparse
import webbrowser
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.cli.say import complain, many, say
from kdbench.cli.suite_names import suite_ids
from kdbench.errors import EXIT_INCOMPLETE, EXIT_OK, UserError, reason

if TYPE_CHECKING:
    from kdbench.render import BuildReport

#: Where a site is built unless another folder is named.
SITE = "site/public"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=["publish"], help="publish: also write what GitHub Pages wants of a site"
    )
    parser.add_argument(
        "--results",
        metavar="DIR",
        help="the results folder (default: results here if there is one, else the shipped numbers)",
    )
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="FILE",
        help="the file of a suite in it, which says more of it than records do; may be given again",
    )
    parser.add_argument("--out", default=SITE, metavar="DIR", help=f"where to build it (default: {SITE})")
    parser.add_argument("--check", action="store_true", help="fail on broken links and anchors and on invalid HTML")
    parser.add_argument("--strict", action="store_true", help="fail where a record or file is not shown")
    parser.add_argument("--open", action="store_true", help="show the first page in a browser")
    parser.add_argument(
        "--url",
        metavar="URL",
        help="publish: where the site will be read (default: the GitHub pages of its repository)",
    )


def main(options: argparse.Namespace) -> int:
    from kdbench.data import data_root
    from kdbench.suites import is_file

    if other := next((name for name in options.suite if not is_file(name)), None):
        raise UserError(
            f"--suite takes the file of a suite, which ends in .toml, and {reason(other)} does not; a suite that is "
            "installed needs none."
        )
    suite_ids(options.suite)
    publish = options.action == "publish"
    if options.url is not None and not publish:
        raise UserError("--url is for kdbench site publish; leave it out, or write publish.")
    results = Path(options.results) if options.results else Path("results") if Path("results").is_dir() else None
    report = build_and_say(results, Path(options.out), data_root(None), publish, options.url)
    faults = _checked(report.index.parent) if options.check else []
    if publish and not faults:
        say(f"To publish: commit {options.out} to the branch that GitHub Pages serves, or upload it in a workflow.")
    if options.open and not webbrowser.open(report.index.as_uri()):
        complain(f"no browser could be started; open {report.index} in one")
    return EXIT_INCOMPLETE if faults or (options.strict and report.problems) else EXIT_OK


def build_and_say(
    results: Path | None, out: Path, data: Path, publish: bool = False, url: str | None = None
) -> BuildReport:
    """Build the site, name what could not be used, and end by naming the page to open."""
    from kdbench.render import build
    from kdbench.render.output import left_behind

    report = build(results, out, data, publish, url, datetime.now(UTC).date().isoformat())
    for problem in report.problems:
        complain(problem)
    for old in left_behind(out):
        complain(f"The site before this one could not be removed and lies in {old}; delete it.")
    say(f"{many(report.records, 'record')}, {many(report.pages, 'page')}. Open {report.index}")
    return report


def _checked(site: Path) -> list[str]:
    """The faults of ``site``, each said."""
    from kdbench.render import check

    faults = check(site)
    for fault in faults:
        complain(fault)
    say(f"Checked: {many(len(faults), 'fault')}.")
    return faults
