"""The text of a pull request that contributes results: what they are, who made them how, and what was checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdbench import __version__
from kdbench.cli.say import many
from kdbench.errors import listed, plain
from kdbench.records import Store
from kdbench.records.inspection import inspect
from kdbench.render.grid import markdown, suite_grid
from kdbench.render.site import gather

#: What is said of the numerics.
MACHINE = ("device_name", "device", "isa", "torch")

Record = Mapping[str, Any]


def pull_request(bundle: Store, checks: Mapping[str, Sequence[str]]) -> str:
    """What to write above the records of ``bundle``; ``checks`` are what the check of each method printed."""
    return "\n".join([*_lines(bundle, checks), ""])


def _lines(bundle: Store, checks: Mapping[str, Sequence[str]]) -> Iterator[str]:
    catalogue, found = gather(bundle), inspect(bundle)
    suites = sorted({record["suite"] for record in catalogue.records})
    labels = sorted({record["label"] for record in catalogue.records})
    yield f"# Results of {listed(labels)} in {listed(suites)}"
    yield ""
    yield f"{many(found.records, 'record')}, called contributed. kdbench {__version__} checked every file:"
    yield ""
    recomputed = sum(record["predictions"] is not None for record in catalogue.records)
    finished = sum(record["status"] == "finished" for record in catalogue.records)
    yield "* schema, key, and all that a record says twice;"
    yield f"* top-1, top-5, NLL and ECE, recomputed from the predictions of {recomputed} of {finished} finished rows;"
    yield "* the test labels, against the digest of the data set where one is known."
    yield ""
    yield from _section("Warnings", (f"* {plain(warning.text)}" for warning in found.warnings))
    for suite in suites:
        yield f"## {suite}"
        yield ""
        yield markdown(suite_grid(catalogue, suite))
    yield from _section("Made with", _made_with(catalogue.records))
    for method, lines in checks.items():
        yield from _section(f"kdbench check-method {method}", (f"    {line}" for line in lines))
    yield "## To review"
    yield ""
    yield "    kdbench results validate --strict results"
    yield ""
    yield "The scores are recomputed from predictions; that these are of the networks that they claim to be of is the"
    yield "contributor's word."


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    """The ``lines`` under their title; nothing where there are none."""
    if found := list(lines):
        yield from (f"## {title}", "", *found, "")


def _made_with(records: Iterable[Record]) -> Iterator[str]:
    """Each different machine and state of the code, and how many records are from there."""
    found: dict[str, int] = {}
    for record in records:
        said, numerics = record["provenance"], record["numerics"] or {}
        commit = f", commit {said['git_sha']}{' with changes' if said['git_dirty'] else ''}" if said["git_sha"] else ""
        machine = ", ".join(str(numerics[name]) for name in MACHINE if name in numerics)
        text = f"* kdbench {said['kdbench']}{commit}; {machine}; Python {said['python']}, {said['platform']}"
        found[text] = found.get(text, 0) + 1
    for text, count in sorted(found.items()):
        yield f"{text}: {many(count, 'row')}"
