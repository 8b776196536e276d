"""An optimiser that a method brings keeps its own rate: the protocol's schedule moves it, a group's multiple on top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import STEPS, Bench, same_bits, suite_text
from test_kill_resume import Killed, at

from kdbench.errors import UserError
from kdbench.jobs import cohort
from kdbench.plugins import load_plugins
from kdbench.suites import Suite
from kdbench.train.conformance import Bench as Benchlet
from kdbench.train.conformance import make_bench
from kdbench.train.lockstep import Lockstep
from kdbench.train.member import Member
from kdbench.train.optimiser import SGD
from kdbench.train.rate import learning_rate

ADAMW = "return torch.optim.AdamW(groups, lr=0.002)"
#: Parts of its own at a tenth of the student's rate, a training before the main one at half of it.
PARTS = """
        self.scale = torch.nn.Parameter(torch.ones(data.classes))
        self.shift = torch.nn.Parameter(torch.zeros(data.classes))

    def phases(self):
        return (Phase("first", 120, self.loss, rate=0.5),)

    def parameter_groups(self):
        return (ParameterGroup((self.scale,), rate=0.1, weight_decay=0.0), ParameterGroup((self.shift,)))
"""
LOSS = "terms['ce'] = terms['ce'] + (self.scale * step.student.logits + self.shift).square().mean()"
TOP = "from kdbench.methods.base import ParameterGroup, Phase"


def bring(bench: Bench, name: str, optimiser: str, **parts: Any) -> str:
    """A plugin file whose method has parts of its own, a phase, and this optimiser."""
    setup = f"{PARTS}\n    def optimiser(self, groups, protocol):\n        {optimiser}"
    file = bench.plugin(name, **{"setup": setup, "loss": LOSS, "top": TOP, **parts})
    load_plugins([file])
    return file


def under(name: str, **protocol: Any) -> Benchlet:
    """A bench of two steps an epoch, two epochs."""
    made = make_bench(name)
    made.protocol = replace(made.protocol, **protocol)
    return made


def rates(bench: Benchlet, member: Member, position: int = 0) -> list[list[float]]:
    """The rate of each group at each step from ``position`` on."""
    found = []
    member.position = position
    while member.position < member.batches.total_steps:
        batch = bench.batch(member.position % 2, member)
        member.step(batch, bench.taught(batch, member))
        found.append([group["lr"] for group in member.optimiser.param_groups])
    return found


@pytest.mark.parametrize("schedule", ["constant", "multistep", "onecycle", "cosine"])
def test_the_schedule_starts_from_the_rate_of_the_optimiser(bench: Bench, schedule: str) -> None:
    bring(bench, "adamw", ADAMW)
    made = under("adamw", lr=0.1, schedule=schedule, milestones=(1,))
    alone = replace(made.protocol, lr=0.002)
    expected = [[rate, rate * 0.1, rate] for rate in (learning_rate(alone, step, 2) for step in range(4))]
    assert rates(made, made.member()) == expected


def test_a_phase_is_at_its_multiple_of_that_rate(bench: Bench) -> None:
    bring(bench, "adamw", ADAMW)
    made = under("adamw", lr=0.1, schedule="onecycle")
    found = rates(made, made.member(), position=-2)
    assert found[0] == [0.002 * 0.5, 0.002 * 0.5 * 0.1, 0.002 * 0.5]
    assert found[1] == [0.002] * 3, "its last step ends with the optimiser of the main training, just made"
    assert found[2:] == rates(made, made.member())


def test_a_decay_that_is_not_the_groups_own_is_the_optimisers(bench: Bench) -> None:
    bring(bench, "adamw", "return torch.optim.AdamW(groups, lr=0.002, weight_decay=0.05)")
    optimiser = under("adamw").member().optimiser
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.05, 0.0, 0.05]
    plain = under("kd").member("fitnet").optimiser
    assert {group["weight_decay"] for group in plain.param_groups} == {5e-4}


def test_a_training_has_the_bits_of_one_whose_protocol_has_that_rate(
    bench: Bench, make_suite: Callable[[str], Suite]
) -> None:
    file = bring(bench, "adamw", ADAMW)
    rows = ["adamw", {"name": "adamw", "label": "slow", "protocol": {"lr": 0.002}}]
    suite = make_suite(suite_text(rows))
    records = bench.train(bench.trials(suite), [file])
    fast, slow = records["adamw"], records["slow"]
    assert fast["status"] == "finished"
    assert fast["weights_sha256"] == slow["weights_sha256"]
    lrs = [point["lr"] for point in fast["curve"]]
    assert lrs == [learning_rate(replace(suite.protocol, lr=0.002), STEPS * e - 1, STEPS) for e in (1, 2)]
    assert lrs == [point["lr"] for point in slow["curve"]]


def test_killed_and_resumed_gives_the_same_bits(
    bench: Bench, make_suite: Callable[[str], Suite], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bring(bench, "adamw", ADAMW)
    suite = make_suite(suite_text(["adamw"]))
    whole = bench.train(bench.trials(suite), [file])["adamw"]
    again = bench.again("again")
    monkeypatch.setattr(cohort, "CHECKPOINT_SECONDS", 0.0)
    for count in (3, 2 * STEPS - 1):  # in the phase, and in the main training
        with monkeypatch.context() as patch:
            patch.setattr(Lockstep, "_share", at(count, Lockstep._share))
            with pytest.raises(Killed):
                again.train(again.trials(suite), [file])
    resumed = again.train(again.trials(suite), [file])["adamw"]
    assert resumed["provenance"]["resumed"] == 2
    assert same_bits(resumed, whole)


def test_groups_may_differ_in_rate_be_split_and_stand_in_any_order(bench: Bench) -> None:
    split = """
        decayed = [p for p in groups[0]["params"] if p.ndim > 1]
        plain = [p for p in groups[0]["params"] if p.ndim < 2]
        made = torch.optim.AdamW([*groups[:0:-1], {"params": plain, "lr": 0.004, "weight_decay": 0.0}], lr=0.002)
        made.add_param_group({"params": decayed, "lr": 0.001})
        return made"""
    bring(bench, "split", split)
    made = under("split", schedule="cosine")
    member = made.member()

    def cosine(lr: float) -> float:
        return learning_rate(replace(made.protocol, lr=lr), 3, 2)

    assert rates(made, member)[3] == [cosine(0.002), cosine(0.002) * 0.1, cosine(0.004), cosine(0.001)]
    assert member.rate == member.optimiser.param_groups[3]["lr"]  # of the student's, not of the first group


REFUSED = {
    "tensor": ("return torch.optim.AdamW(groups, lr=torch.tensor(0.002))", "not tensor(0.0020)"),
    "none": (
        "made = torch.optim.AdamW(groups)\n        made.param_groups[1]['lr'] = None\n        return made",
        "None",
    ),
    "infinite": ("return torch.optim.AdamW(groups, lr=float('inf'))", "must be a finite number from 0 on, not inf"),
    "fewer": ("return torch.optim.AdamW(groups[:1])", "must hold each parameter of the groups it is given once"),
    "foreign": (
        "return torch.optim.AdamW([*groups, {'params': [torch.nn.Parameter(torch.ones(1))]}])",
        "and no other",
    ),
    "joined": (
        "return torch.optim.AdamW([{'params': [p for group in groups for p in group['params']]}])",
        "joins parameters in one group whose ParameterGroups differ in rate",
    ),
    "scheduler": (
        "return torch.optim.lr_scheduler.ConstantLR(torch.optim.AdamW(groups))",
        "must return a torch.optim.Optimizer, not ConstantLR",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_a_sentence_on_the_record(
    bench: Bench, make_suite: Callable[[str], Suite], name: str
) -> None:
    optimiser, words = REFUSED[name]
    file = bring(bench, name, optimiser)
    record = bench.train(bench.trials(make_suite(suite_text([name]))), [file])[name]
    assert record["status"] == "crashed"
    assert record["detail"].startswith(f"ValueError: method '{name}': ")
    assert words in record["detail"]


def test_a_sum_has_one_optimiser(bench: Bench) -> None:
    for name in ("one", "two"):
        path = Path(bench.plugin(name, setup=f"pass\n\n    def optimiser(self, groups, protocol):\n        {ADAMW}"))
        path.write_text(path.read_text().replace('"terms": {"ce": "task"}', '"terms": {"ce": "task", "d": "distill"}'))
        load_plugins([str(path)])
    assert isinstance(under("one+fitnet").member().optimiser, torch.optim.AdamW)
    with pytest.raises(UserError, match=r"'one\+two' sums methods that each bring an optimiser"):
        under("one+two").member()


@pytest.mark.parametrize("fused", [False, True])
def test_a_students_steps_have_the_bits_of_torchs_own(fused: bool) -> None:
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    keywords = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "fused": fused}
    optimisers = [SGD([ours], **keywords), torch.optim.SGD([theirs], **keywords)]
    for number in range(3):
        for parameter, optimiser in zip((ours, theirs), optimisers, strict=True):
            optimiser.zero_grad()
            (parameter.square() * (number + 1)).sum().backward()
            optimiser.step()
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, start)
    assert not ours.grad_fn
