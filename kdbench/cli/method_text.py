"""What ``show`` says of a method: its card."""

from __future__ import annotations

from collections.abc import Iterator

from kdbench.cli.fields import field, values
from kdbench.methods import METHODS, MethodSpec
from kdbench.methods.expression import is_expression


def lines(name: str) -> Iterator[str]:
    """The card of the method ``name``; the values that a preset fixes stand in the defaults' place."""
    spec = METHODS.get(name)
    fixed = {} if spec.wraps else METHODS.resolve(name)[1]
    paper = spec.paper
    origin = spec.origin if is_expression(name) else METHODS.origin(name)
    yield f"method {spec.name}: {spec.title}, version {spec.version}, {spec.family}, from {origin}"
    yield spec.summary
    if spec.reconstruction:
        yield "A reconstruction: the paper's exact form could not be verified."
    yield ""
    if paper is None:
        yield field("paper", "unpublished")
    else:
        printed = f"{paper.title}. {paper.authors}. {paper.venue} {paper.year}. {paper.identifier} {paper.url}"
        yield field("paper", printed)
    yield field("needs", ", ".join(sorted(spec.needs)) or "nothing but the labels")
    terms = ", ".join(f"{term} ({role})" for term, role in spec.terms.items())
    yield field("loss terms", terms or "those of the method inside")
    cost = spec.budget
    spent = f"{cost.epochs:g} x the protocol's epochs, {cost.views} view(s), deploys the {cost.deployed}"
    yield field("budget", spent)
    if spec.views:
        norms = ", ".join(f"{view} (batch norm {norm})" for view, norm in spec.views.items())
        yield field("views", f"the batch, and {norms}")
    conditions = [name if value is True else f"{name} {value}" for name, value in _conditions(spec)]
    yield field("applies", ", ".join(conditions) or "to every pair")
    if spec.hyperparameters:
        yield ""
        yield "hyper-parameters"
        for knob in spec.hyperparameters.values():
            value, source = fixed.get(knob.name, knob.default), "the preset" if knob.name in fixed else knob.source
            yield f"  {knob.name} = {value}  in {knob.range}  {knob.help} [{source}]"
            if knob.search is not None:
                evenly = ", in its logarithm" if knob.search.log else ""
                yield f"    tuned from {knob.search.low:g} to {knob.search.high:g}{evenly} [{knob.search.source}]"
    if spec.presets:
        yield ""
        yield "presets"
        for name, preset in spec.presets.items():
            yield f"  {spec.name}@{name}: {values(preset.values)} [{preset.source}]"
    if spec.pairs:
        yield ""
        yield f"values for pairs [{spec.pairs_source}]"
        for pair, chosen in spec.pairs.items():
            yield f"  {pair}: {values(chosen)}"
    if paper is not None:
        yield ""
        yield from paper.bibtex.strip().splitlines()


def _conditions(spec: MethodSpec) -> list[tuple[str, object]]:
    plain = vars(type(spec.applies)())
    return [(name, value) for name, value in vars(spec.applies).items() if value != plain[name]]
