"""What ``show`` says of an architecture."""

from __future__ import annotations

from collections.abc import Iterator

from kdbench.cli.fields import field, section
from kdbench.models import MODELS, get_spec
from kdbench.models.facts import CLASSES, FACTS
from kdbench.suites import parsed_suites


def lines(name: str) -> Iterator[str]:
    """What is known of the model ``name`` without building it."""
    spec = get_spec(name)
    facts = FACTS.get(name)
    origin = f", from {MODELS.origin(name)}" if name in MODELS else ""
    yield f"model {spec.name}: {spec.summary}{origin}"
    yield ""
    yield field("family", spec.family)
    yield field("input", f"{spec.input} x {spec.input} pixels")
    yield field("printed as", spec.literature)
    if facts is None:
        yield field("size", "not known before it is built")
    else:
        yield field("parameters", f"{facts.parameters:,}, with {CLASSES.get(spec.input, 10)} classes")
        yield field("arithmetic", f"{facts.mflops:g} MFLOP an image, a multiply-add counted as two")
        channels, side = ", ".join(map(str, facts.channels)), facts.side
        yield field("stages", f"{len(facts.channels)}, of {channels} channels; the last map is {side} x {side}")
    yield from section("pairs", _pairs(name))


def _pairs(name: str) -> Iterator[str]:
    """Where it teaches or is taught."""
    for suite in parsed_suites():
        for pair in suite.pairs:
            if name in (suite.teacher_of(pair).model, pair.student):
                yield f"{suite.id}: {pair.name}"
