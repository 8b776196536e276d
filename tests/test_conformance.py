"""``kdbench check-method`` passes every built-in method, and finds what is wrong with one that breaks the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.cli import main
from kdbench.methods import METHODS
from kdbench.train.conformance import check_method, cost

BUILT_IN = [f"{name}(kd)" if METHODS.get(name).wraps else name for name in METHODS]

PLUGIN = '''
import torch
from torch.nn import functional as F
from kdbench.methods import parse_card
from kdbench.methods.base import Method, full

CARD = parse_card("""
name = "{name}"
title = "T"
version = 1
family = "logit"
summary = "S"
implementation = "{name}_plugin:M"
needs = ["teacher"{needs}]
[terms]
ce = "task"
d = "distill"
[hyperparameters.weight]
type = "float"
default = {default}
min = 0
source = "test"
[paper]
title = "P"
authors = "A"
venue = "V"
year = 2024
url = "https://example.org"
bibtex = "@misc{{p}}"
""", "{name}_plugin.py")

class M(Method):
    weight: float
    def setup(self, student, teacher, data):
        self.other = (teacher,)
        {setup}
    def {loss_name}(self, step):
        z, v = full(step.student.logits), full(step.taught.logits)
        {body}
'''

GOOD = 'return {"ce": F.cross_entropy(z, step.y), "d": F.mse_loss(z.softmax(1), v.softmax(1))}'


def plugin(folder: Path, name: str, body: str = GOOD, **parts: str) -> str:
    values = {"setup": "pass", "loss_name": "loss", "needs": "", "default": "1.0", **parts}
    path = folder / f"{name}_plugin.py"
    path.write_text(PLUGIN.format(name=name, body=body, **values), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_method_keeps_the_contract(name: str) -> None:
    assert not [f"{check.what}: {check.detail}" for check in check_method(name) if not check.passed]


def test_a_sum_and_a_preset_keep_it_too() -> None:
    for name in ("wttm+rkd", "kd@t1-half", "lskd(dkd)"):
        assert all(check.passed for check in check_method(name)), name


def test_cost_is_a_ratio_to_plain_kd() -> None:
    found = cost("fitnet")
    assert found.memory_ratio > 1
    assert cost("kd").memory_ratio == 1


def test_a_good_plugin_file_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-method", plugin(tmp_path, "good")]) == 0
    out = capsys.readouterr().out
    assert "good: passed: deterministic" in out
    assert "x the time" in out


@pytest.mark.parametrize(
    ("name", "body", "parts", "said"),
    [
        (
            "nan",
            'return {"ce": F.cross_entropy(z, step.y), "d": (z.softmax(1).log() * v).mean()}',
            {},
            "not finite on satur",
        ),
        (
            "graph",
            "v = self.other[0].module(step.x).logits\n        "
            'return {"ce": F.cross_entropy(z, step.y), "d": F.mse_loss(z, v)}',
            {"setup": "[p.requires_grad_() for p in teacher.module.parameters()]"},
            "gradient in the teacher",
        ),
        ("writes", "step.taught.logits.mul_(0.5)\n        " + GOOD, {}, "in place"),
        (
            "random",
            "import secrets\n        "
            'return {"ce": F.cross_entropy(z, step.y), "d": z.mean() * secrets.randbelow(10**6) / 10**6}',
            {},
            "two trainings from the same seed differ",
        ),
        (
            "forgets",
            'self.count = getattr(self, "count", 0) + 1\n        '
            'return {"ce": F.cross_entropy(z, step.y), "d": F.mse_loss(z, v) * self.count}',
            {},
            "a resumed training differs",
        ),
        (
            "idle",
            'return {"ce": F.cross_entropy(z, step.y), "d": v.mean() + 0 * z.sum()}',
            {},
            "no gradient in the student",
        ),
        (
            "shape",
            'return {"ce": F.cross_entropy(z, step.y), "d": (z - v).square().mean(1)}',
            {},
            "must be a scalar tensor",
        ),
        ("undeclared", 'return {"ce": F.cross_entropy(z, step.y), "extra": z.mean()}', {}, "its card declares"),
        (
            "lonely",
            'return {"ce": F.cross_entropy(z, step.y), "d": (z / z.var(0, False)).mean()}',
            {},
            "on a batch of 1",
        ),
    ],
)
def test_what_breaks_the_contract_is_found(
    name: str, body: str, parts: dict[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-method", plugin(tmp_path, name, body, **parts)]) == 2
    failed = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert any(said in line for line in failed), failed


@pytest.mark.parametrize(
    ("name", "parts", "said"),
    [
        ("kd", {}, "the method name 'kd' is already taken by kdbench"),
        ("lossless", {"loss_name": "losss"}, "M lacks loss(step) -> dict[str, Tensor]"),
        ("range", {"default": "-1.0"}, "weight must lie in [0, inf], not be -1.0"),
        ("needy", {"needs": ', "soul"'}, "needs may list"),
    ],
)
def test_a_bad_plugin_is_one_line(
    name: str, parts: dict[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-method", plugin(tmp_path, name, **parts)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
