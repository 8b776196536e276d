"""``kdbench show NAME``: what is known of a method, a suite, a study, a data set, a model or a pair."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from kdbench.cli import dataset_text, method_text, model_text, pair_text, study_text, suite_text
from kdbench.cli.say import say
from kdbench.data import DATASETS
from kdbench.errors import EXIT_OK, UnknownName, UserError, shown
from kdbench.methods import METHODS
from kdbench.models import MODELS
from kdbench.models.catalogue import library_spec
from kdbench.studies import STUDIES
from kdbench.suites import SUITES, is_file


@dataclass(frozen=True)
class Kind:
    """A kind of thing that can be shown: which names it knows, and what it says of one; UserError where it cannot."""

    known: Callable[[str], bool]
    names: Callable[[], Iterable[str]]
    lines: Callable[[str], Iterator[str]]


KINDS = {
    "method": Kind(METHODS.__contains__, METHODS.names, method_text.lines),
    "suite": Kind(lambda name: is_file(name) or name.partition("@")[0] in SUITES, SUITES.names, suite_text.lines),
    "study": Kind(STUDIES.__contains__, STUDIES.names, study_text.card),
    "dataset": Kind(DATASETS.__contains__, DATASETS.names, dataset_text.lines),
    "model": Kind(lambda name: name in MODELS or library_spec(name) is not None, MODELS.names, model_text.lines),
    "pair": Kind(lambda name: ":" in name and name in pair_text.names(), pair_text.names, pair_text.lines),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=tuple(KINDS), help="what NAME is; default: whatever has that name")
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a method, a preset (kd@t1-half), a sum (wttm+dist), a wrapper (lskd(dkd)), a suite, a study, a data set, "
        "a model, a pair (resnet56:resnet20)",
    )
    parser.add_argument("--toml", action="store_true", help="print a suite's file, as a template for one of your own")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load a plugin file; may be given again"
    )


def main(options: argparse.Namespace) -> int:
    from kdbench.plugins import load_plugins

    load_plugins(options.plugin)
    kinds = [KINDS[options.kind]] if options.kind else _of(options.name)
    if options.toml:
        if KINDS["suite"] not in kinds:
            raise UserError(f"--toml prints the file of a suite, and {shown(options.name)} is none.")
        for line in suite_text.template(options.name).splitlines():
            say(line)
        return EXIT_OK
    printed = [list(kind.lines(options.name)) for kind in kinds]  # all of them, before anything is printed
    for number, lines in enumerate(printed):
        if number:
            say()
        for line in lines:
            say(line)
    return EXIT_OK


def _of(name: str) -> list[Kind]:
    """The kinds that know ``name``; UserError where none does."""
    found = [kind for kind in KINDS.values() if kind.known(name)]
    if not found:
        if set("+()") & set(name) or name.partition("@")[0] in METHODS:
            METHODS.get(name)  # which says what is wrong with a sum, a wrapper or a preset
        names = {known for kind in KINDS.values() for known in kind.names()}
        raise UnknownName("method, suite, study, data set, model or pair", name, names)
    return found
