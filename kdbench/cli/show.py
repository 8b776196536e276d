"""``kdbench show METHOD``: a method's card."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from kdbench.errors import EXIT_OK
from kdbench.methods import METHODS, MethodSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", help="a method, a preset (kd@t1-half), a sum (wttm+dist) or a wrapper (lskd(dkd))")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load a plugin file; may be given again"
    )


def main(options: argparse.Namespace) -> int:
    from kdbench.plugins import load_plugins

    load_plugins(options.plugin)
    spec = METHODS.get(options.method)
    fixed = {} if spec.wraps else METHODS.resolve(options.method)[1]
    print("\n".join(card_lines(spec, fixed)))
    return EXIT_OK


def card_lines(spec: MethodSpec, fixed: Mapping[str, object]) -> Iterator[str]:
    """The card as text; ``fixed`` are the values of a preset, shown in the defaults' place."""
    paper = spec.paper
    yield f"{spec.name}: {spec.title}, version {spec.version}, {spec.family}, from {spec.origin}"
    yield spec.summary
    if spec.reconstruction:
        yield "A reconstruction: the paper's exact form could not be verified."
    yield ""
    if paper is None:
        yield "paper        unpublished"
    else:
        yield f"paper        {paper.title}. {paper.authors}. {paper.venue} {paper.year}. {paper.identifier} {paper.url}"
    yield f"needs        {', '.join(sorted(spec.needs)) or 'nothing but the labels'}"
    terms = ", ".join(f"{term} ({role})" for term, role in spec.terms.items())
    yield f"loss terms   {terms or 'those of the method inside'}"
    cost = spec.budget
    yield f"budget       {cost.epochs:g} x the protocol's epochs, {cost.views} view(s), deploys the {cost.deployed}"
    if spec.views:
        norms = ", ".join(f"{view} (batch norm {norm})" for view, norm in spec.views.items())
        yield f"views        the batch, and {norms}"
    conditions = [name if value is True else f"{name} {value}" for name, value in _conditions(spec)]
    yield f"applies      {', '.join(conditions) or 'to every pair'}"
    if spec.hyperparameters:
        yield ""
        yield "hyper-parameters"
        for knob in spec.hyperparameters.values():
            value, source = fixed.get(knob.name, knob.default), "the preset" if knob.name in fixed else knob.source
            yield f"  {knob.name} = {value}  in {knob.range}  {knob.help} [{source}]"
    if spec.presets:
        yield ""
        yield "presets"
        for name, preset in spec.presets.items():
            yield f"  {spec.name}@{name}: {_values(preset.values)} [{preset.source}]"
    if spec.pairs:
        yield ""
        yield f"values for pairs [{spec.pairs_source}]"
        for pair, values in spec.pairs.items():
            yield f"  {pair}: {_values(values)}"
    if paper is not None:
        yield ""
        yield paper.bibtex.strip()


def _conditions(spec: MethodSpec) -> list[tuple[str, object]]:
    plain = vars(type(spec.applies)())
    return [(name, value) for name, value in vars(spec.applies).items() if value != plain[name]]


def _values(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())
