"""A step of every method: whether it is finite, has the same bits twice and as a CUDA graph, and what has no
deterministic form.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdbench.errors import described
from kdbench.methods import METHODS
from kdbench.teachers.weights import weights_digest
from kdbench.train.conformance import around_kd, make_bench
from kdbench.train.graphs import ReplayedMember, ReplayedNetwork
from kdbench.train.member import Member
from kdbench.train.taught import teach
from stages import Say, Setting

#: Of the main training: the first is taken as ever, the second captured, and an epoch ends within them.
STEPS = 5
TINY = ("kd", "dkd", "crd")


def run(setting: Setting, say: Say, until: float) -> None:
    names = TINY if setting.tiny else METHODS.names()
    lacking: dict[str, list[str]] = {}
    tried = 0
    for name in map(around_kd, names):
        if time.monotonic() > until - 5:
            break
        tried += 1
        try:
            with _undeterministic() as operations:
                figures = _tried(setting, name)
        except Exception as error:  # this one's; the next is tried all the same
            figures = {"error": described(error)}
        for operation in operations:
            lacking.setdefault(operation, []).append(name)
        say(name, **figures, no_deterministic_form=", ".join(operations) or None)
    say("all", methods=len(names), tried=tried, without_deterministic_form=lacking or None)


def _tried(setting: Setting, name: str) -> dict[str, object]:
    (first, finite, _), (second, _, _) = (_trained(setting, name, Member) for _ in range(2))
    figures: dict[str, object] = {"finite": finite, "same_twice": first == second}
    if setting.graphs:
        replayed, _, why = _trained(setting, name, ReplayedMember)
        figures |= {"same_as_graph": replayed == first, "no_graph_as": why or None}
    return figures


def _trained(setting: Setting, name: str, kind: type[Member]) -> tuple[str, bool, str]:
    """Digest of the weights after a step of each phase and STEPS of the training; whether the loss was finite; why
    there was no graph.
    """
    bench = make_bench(name, setting.device, kind)
    member = bench.member()
    replays = isinstance(member, ReplayedMember)
    teacher = ReplayedNetwork(bench.network) if replays else bench.network
    finite = True
    for position in (*(start for start, _, _ in member.timetable), *range(STEPS)):
        member.position = position
        batch = bench.batch(position, member)
        taught = teach(teacher, batch, member.parts, member.spec.views) if member.spec.needs_teacher else None
        member.step(batch, taught)
        finite = finite and member.scoring.sums.finite()
    weights = {**member.network.state_dict(), **{f"method.{k}": v for k, v in member.method.state_dict().items()}}
    return (
        weights_digest({k: v.cpu() for k, v in weights.items()}),
        finite,
        member.unrepeatable or "" if replays else "",
    )


@contextmanager
def _undeterministic() -> Iterator[list[str]]:
    """The operations that torch warns of in the block."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.set_warn_always(True)
        try:
            yield found
        finally:
            torch.set_warn_always(False)
    for warning in caught:
        said = re.match(r"(\S+) does not have a deterministic implementation", str(warning.message))
        if said and said[1] not in found:
            found.append(said[1])
