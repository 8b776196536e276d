"""``kdbench check-method`` passes every built-in method, and finds what is wrong with one that breaks the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdbench.cli import main
from kdbench.methods import METHODS, load_class
from kdbench.methods.base import Method
from kdbench.plugins import load_plugins
from kdbench.train import conformance
from kdbench.train.conformance import check_method, cost

#: Methods that are a loss and nothing else. What that must hold is tried on each in test_method_contract.py, so that
#: here some stand for all of them: no teacher, its logits, and views of their own.
BARE = {name for name in METHODS if not METHODS.get(name).wraps and load_class(METHODS.get(name)).setup is Method.setup}
BUILT_IN = [
    pytest.param(
        f"{name}(kd)" if METHODS.get(name).wraps else name,
        marks=[pytest.mark.slow] if name in BARE - {"ce", "kd", "crld"} else [],
        id=name,
    )
    for name in METHODS
]

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


@pytest.fixture(autouse=True)
def _small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter as high and wide as the command's."""
    monkeypatch.setattr(conformance, "SIDE", 8)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_method_keeps_the_contract(name: str) -> None:
    assert not [f"{check.what}: {check.detail}" for check in check_method(name) if not check.passed]


def test_a_sum_and_a_preset_keep_it_too() -> None:
    for name in ("wttm+rkd", "kd@t1-half", "lskd(dkd)"):
        assert all(check.passed for check in check_method(name)), name


def test_a_method_that_wants_large_batches_is_given_them(tmp_path: Path) -> None:
    path = Path(plugin(tmp_path, "large", "assert len(z) >= 40\n        " + GOOD))
    path.write_text(path.read_text().replace("[paper]", "[applies]\nmin_batch = 40\n[paper]"))
    load_plugins([str(path)])
    assert not [f"{check.what}: {check.detail}" for check in check_method("large") if not check.passed]


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


#: A trainable part of its own, and what the lines after it say of it.
PART = "self.part = torch.nn.Parameter(torch.ones(10))\n        {}"
USED = 'return {"ce": F.cross_entropy(z + self.part, step.y), "d": F.mse_loss(z, v)}'


HEADLESS = """
import dataclasses

class Headless(torch.nn.Module):
    def __init__(self, student):
        super().__init__()
        self.student = student

    def forward(self, x):
        outputs = self.student(x)
        return dataclasses.replace(outputs, logits=outputs.logits[:, :5])
"""


def hook(signature: str, body: str) -> str:
    """Another method of the class, after ``setup``."""
    return f"pass\n    def {signature}:\n        {body}"


@pytest.mark.parametrize(
    ("name", "body", "setup", "failed"),
    [
        (
            "raises",
            GOOD,
            "{}['no luck']",
            "it can be set up: KeyError: 'no luck' (in setup, line 36 of raises_plugin.py)",
        ),
        ("exits", GOOD, "raise SystemExit('bye')", "it can be set up: SystemExit: bye (in setup, line 36"),
        ("pages", GOOD, "raise ValueError('one\\ntwo')", "it can be set up: ValueError: one two (in setup"),
        ("colours", GOOD, "raise ValueError('\\x1b[31mred')", "it can be set up: ValueError: red (in setup"),
        ("sweeps", GOOD, hook("prepare(self, sweep)", "self.centres"), "it can be set up: AttributeError: 'M' object"),
        (
            "phased",
            GOOD,
            hook("phases(self)", "return [3]"),
            "it can be set up: ValueError: method 'phased': phases must",
        ),
        ("grouped", GOOD, hook("parameter_groups(self)", "return [{}]"), "must return ParameterGroups, not dict"),
        (
            "optimises",
            GOOD,
            hook("optimiser(self, groups, protocol)", "return torch.optim.NoSuch(groups)"),
            "it can be set up: AttributeError: module 'torch.optim' has no attribute 'NoSuch' (in optimiser, line",
        ),
        ("nowhere", GOOD, "from kdbench.plugin import UserError; raise UserError('Not here.')", "reason: Not here."),
        (
            "left",
            USED,
            PART.format(hook("parameter_groups(self)", "return ()")),
            "part is trainable and in no parameter",
        ),
        ("late", GOOD, hook("prepare(self, sweep)", PART.format("")), "part is trainable and in no parameter group"),
        ("twice", USED, PART.format("self.head = student.head"), "in two parameter"),
        (
            "hidden",
            USED.replace("self.part", "self.part[0](z)"),
            "self.part = [torch.nn.Linear(10, 10)]",
            "every trainable part is trained: the loss reads a trainable parameter that is no part of the method",
        ),
        (
            "later",
            "assert step.epoch < 2, 'no luck'\n        " + GOOD,
            "pass",
            "a training runs to its end: AssertionError: no luck (in loss, line",
        ),
        (
            "stored",
            GOOD,
            hook("get_extra_state(self)", "return __import__('fractions').Fraction(1, 2)")
            + "\n    def set_extra_state(self, state):\n        pass",
            "a resumed training is the same training: its state cannot be read back",
        ),
        (
            "ships",
            GOOD,
            hook("deployed(self, student)", "return torch.nn.Linear(4, 4)"),
            "returns another network than",
        ),
        (
            "fails",
            GOOD,
            hook("deployed(self, student)", "return self.head(student)"),
            "has no attribute 'head' (in depl",
        ),
        ("counts", GOOD, hook("deployed(self, student)", "return 3"), "must return a torch.nn.Module, not int"),
    ],
)
def test_a_fault_in_any_hook_is_a_failed_check(
    name: str, body: str, setup: str, failed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-method", plugin(tmp_path, name, body, setup=setup)]) == 2
    said = capsys.readouterr()
    assert any(failed in line for line in said.out.splitlines() if "FAILED" in line), said.out
    assert not said.err


@pytest.mark.parametrize(
    ("name", "setup", "said"),
    [
        ("promised", "pass", "returns the student, and the card's [budget] says that the net is deployed"),
        ("bare", hook("deployed(self, student)", "return torch.nn.Flatten()"), "images to Outputs, not to Tensor"),
        (
            "headless",
            hook("deployed(self, student)", "return Headless(student)"),
            "logits of shape (16, 5), not [N, cl",
        ),
    ],
)
def test_a_network_that_is_deployed_must_be_one(
    name: str, setup: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(plugin(tmp_path, name, setup=setup))
    text = path.read_text().replace("[paper]", '[budget]\ndeployed = "net"\n[paper]')
    path.write_text(text + HEADLESS)
    assert main(["check-method", str(path)]) == 2
    (failed,) = [line for line in capsys.readouterr().out.splitlines() if "FAILED: what it deploys can be" in line]
    assert said in failed


def test_one_that_cannot_take_a_step_is_tried_no_further(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-method", plugin(tmp_path, "vector", 'return {"ce": z, "d": v}')]) == 2
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == [
        "vector: passed: it can be set up",
        "vector: FAILED: a step trains the student: ValueError: method 'vector': the term 'ce' must be a scalar tensor",
    ]
    assert last == "vector: 1 check failed; docs/plugins.md says what each asks."


WRAPPER = """
from kdbench.plugin import Wrapper

OUTER = parse_card('''
name = "outer"
title = "T"
version = 1
family = "logit"
summary = "S"
implementation = "several_plugin:Outer"
wraps = true
unpublished = true
''', "several_plugin.py")

class Outer(Wrapper):
    def loss(self, step):
        return self.inner.loss(step)
"""


def test_all_methods_of_a_file_or_those_that_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of them fails, which keeps none of the others from being checked; the wrapper is checked around kd."""
    path = Path(plugin(tmp_path, "several", setup="raise ValueError('no luck')"))
    path.write_text(path.read_text() + WRAPPER)
    expected = {"several": False, "outer(kd)": True}

    def checked(*words: str) -> dict[str, bool]:
        code = main(["check-method", *words])
        said = capsys.readouterr()
        assert not said.err
        lines = [line.split(": ") for line in said.out.splitlines() if ": passed: " in line or "FAILED" in line]
        found = {name: all(said == "passed" for other, said, *_ in lines if other == name) for name, *_ in lines}
        assert code == (0 if all(found.values()) else 2)
        return found

    assert checked("--plugin", str(path)) == expected
    assert checked(str(path)) == expected
    assert checked("outer", "--plugin", str(path)) == {"outer(kd)": True}
    assert checked("--plugin", str(path), "outer", "outer(several)", "several") == {**expected, "outer(several)": False}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a method, or give a file of methods with --plugin"),
        (["kd", "kdd"], "There is no method named 'kdd'"),
        (["lskd+kd"], "'lskd' changes another method"),
    ],
)
def test_a_mistake_in_the_command_is_said_before_anything_is_tried(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-method", *words]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_a_class_without_a_loss_is_a_failed_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-method", plugin(tmp_path, "lossless", loss_name="losss")]) == 2
    assert "it can be set up: method 'lossless': M lacks loss(step) -> dict[str, Tensor]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "parts", "said"),
    [
        ("kd", {}, "the method name 'kd' is already taken by kdbench"),
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


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("unseen", "step.x.data.zero_(); " + GOOD),
        ("unseen_labels", "step.y.numpy()[:] = 0; " + GOOD),
        ("unseen_teacher", "step.taught.logits.data.zero_(); " + GOOD),
    ],
)
def test_what_is_written_past_torchs_notice_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, body: str
) -> None:
    assert main(["check-method", plugin(tmp_path, name, body)]) == 2
    assert "FAILED: what the cohort shares is left alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "parts", "words"),
    [
        ("precise", {"setup": 'torch.set_float32_matmul_precision("medium")'}, "precision"),
        ("patched", {"body": "F.relu_ = None; " + GOOD}, "relu_"),
        ("wide", {"body": "torch.set_default_dtype(torch.float64); " + GOOD}, "dtype"),
    ],
)
def test_a_method_that_changes_global_state_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, parts: dict[str, str], words: str
) -> None:
    assert main(["check-method", plugin(tmp_path, name, **parts)]) == 2
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert words in out


def test_a_plugin_that_changes_global_state_as_it_is_loaded_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(plugin(tmp_path, "early"))
    path.write_text(path.read_text() + "\ntorch.set_default_dtype(torch.float64)\n")
    assert main(["check-method", str(path)]) == 2
    assert "default dtype, which all trials of a worker share" in capsys.readouterr().out
    assert torch.get_default_dtype() == torch.float32
