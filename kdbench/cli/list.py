"""``kdbench list``: what the registries hold."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from kdbench.cli.say import many, say
from kdbench.composition import COMPOSITIONS, NETWORKS
from kdbench.data import DATASETS
from kdbench.errors import EXIT_OK, UserError, plain
from kdbench.kinds import Kind
from kdbench.methods import METHODS
from kdbench.models import MODELS
from kdbench.registry import OURS
from kdbench.studies import STUDIES, get_study
from kdbench.suites import PAIRS, SUITES, Suite, get_suite
from kdbench.supervision import SUPERVISIONS

Rows = Iterator[tuple[str, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=tuple(_LISTS), help="what to list")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load a plugin file; may be given again"
    )


def main(options: argparse.Namespace) -> int:
    from kdbench.plugins import load_plugins

    load_plugins(options.plugin)
    rows = [tuple(map(plain, row)) for row in _LISTS[options.what]()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return EXIT_OK


def _parsed() -> Iterator[tuple[str, Suite | str]]:
    """Each suite by name, or what is wrong with it: one broken suite does not hide the others."""
    for name in SUITES:
        try:
            yield name, get_suite(name)
        except UserError as error:
            yield name, str(error)


def _suites() -> Rows:
    for name, suite in _parsed():
        if isinstance(suite, str):
            yield name, "", suite
            continue
        parts = ((suite.pairs, "pair"), (suite.rows, "row"), (suite.seeds, "seed"))
        yield suite.id, ", ".join(many(len(items), noun) for items, noun in parts), suite.summary


def _methods() -> Rows:
    for name in METHODS:
        spec = METHODS.get(name)
        printed = "unpublished" if spec.paper is None else f"{spec.paper.venue} {spec.paper.year}"
        yield spec.name, spec.family, f"{spec.title} ({printed})", METHODS.origin(name)


def _models() -> Rows:
    for name in MODELS:
        spec = MODELS.get(name)
        yield spec.name, spec.family, spec.summary
    yield "timm/NAME, torchvision/NAME", "", "any model of these libraries, by its name there"


def _datasets() -> Rows:
    for name in DATASETS:
        spec = DATASETS.get(name)
        shape = "x".join(str(side) for side in spec.image_shape)
        yield (
            spec.name,
            f"{spec.train_size} + {spec.test_size}",
            shape,
            f"{spec.classes} classes",
            f"needs {spec.files}",
        )


def _pairs() -> Rows:
    for name, suite in _parsed():
        if isinstance(suite, str):
            yield name, "", "", suite
            continue
        for pair in suite.pairs:
            teacher = suite.teacher_of(pair)
            yield suite.id, pair.name, f"teacher {teacher.name} ({teacher.kind})", f"student {pair.student}"
    for name in PAIRS:
        yield "any, by run --pair", name, "", f"from {PAIRS.origin(name)}"


def _studies() -> Rows:
    for name in STUDIES:
        try:
            study = get_study(name)
        except UserError as error:
            yield name, "", str(error)
            continue
        yield study.name, many(len(study.claims), "claim"), f"{study.summary} ({study.paper.venue} {study.paper.year})"


def _teachers() -> Rows:
    for name, summary in NETWORKS.items():
        yield name, "a network", summary, OURS
    for name in COMPOSITIONS:
        yield name, "made of others", _summary(COMPOSITIONS.get(name)), COMPOSITIONS.origin(name)


def _supervisions() -> Rows:
    for name in SUPERVISIONS:
        yield name, _summary(SUPERVISIONS.get(name)), SUPERVISIONS.origin(name)


def _summary(kind: type[Kind]) -> str:
    said = [kind.SUMMARY, f"({kind.SOURCE})" if kind.SOURCE else "", "reconstruction" if kind.RECONSTRUCTION else ""]
    return " ".join(filter(None, said))


_LISTS = {
    "suites": _suites,
    "studies": _studies,
    "methods": _methods,
    "models": _models,
    "datasets": _datasets,
    "pairs": _pairs,
    "teachers": _teachers,
    "supervisions": _supervisions,
}
