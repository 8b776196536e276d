"""The gate of continuous integration: it passes the code as it is, and fails code that is broken on purpose."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT, Bench
from torch.nn import functional as F

from kdbench.jobs.worker import run
from kdbench.methods.base import full
from kdbench.methods.zoo import kd
from kdbench.regress.baseline import read
from kdbench.regress.judge import Judged, Verdict, judge
from kdbench.regress.side import sides
from kdbench.suites import get_suite
from kdbench.train import taught

BASELINE = ROOT / "results" / "baselines" / "gate@1.json"
PLACE = ("tiny_cnn_l:mlp_800_800", "kd")
Patch = Callable[[pytest.MonkeyPatch], None]


def margin() -> float:
    """The drop that .ci/run asks for."""
    found = re.search(r"kdbench regress .*--margin (\S+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert found
    return float(found[1])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which the gate's teacher is ready."""
    bench = Bench(tmp_path_factory.mktemp("teacher"))
    first, *_ = bench.tasks(bench.trials(get_suite("gate"), "kd", seeds=1))
    run(first, bench.events.append)
    return bench.folder / "cache" / "teachers"


def verdict(bench: Bench, teacher: Path, seeds: int) -> Judged:
    """What the gate finds of ``kd`` as it is now."""
    shutil.copytree(teacher, bench.folder / "cache" / "teachers")
    trials = bench.trials(get_suite("gate"), "kd", seeds=seeds)
    for task in bench.tasks(trials)[1:]:
        run(task, bench.events.append)
    baseline = read(BASELINE)
    new = sides(bench.store.read()[0], baseline.suite)
    (found,) = judge(baseline.suite, "", {PLACE: baseline.sides[PLACE]}, new, margin()).cells
    return found


def softens_the_teacher_alone(patch: pytest.MonkeyPatch) -> None:
    def loss(z: Any, v: Any, temperature: float) -> Any:
        target = F.softmax(full(v) / temperature, dim=1).detach()
        return temperature**2 * F.kl_div(F.log_softmax(full(z), dim=1), target, reduction="batchmean")

    patch.setattr(kd, "kd_loss", loss)


def swaps_the_sign(patch: pytest.MonkeyPatch) -> None:
    right = kd.kd_loss
    patch.setattr(kd, "kd_loss", lambda *arguments: -right(*arguments))


def leaves_the_teacher_in_train_mode(patch: pytest.MonkeyPatch) -> None:
    right = taught._shown

    def shown(network: Any, *arguments: Any) -> Any:
        network.train()
        return right(network, *arguments)

    patch.setattr(taught, "_shown", shown)


def test_the_code_as_it_is_does_not_fail(bench: Bench, teacher: Path) -> None:
    found = verdict(bench, teacher, seeds=1)  # .ci/run trains three
    assert found.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE), found


@pytest.mark.parametrize(
    ("broken", "seeds"), [(softens_the_teacher_alone, 2), (swaps_the_sign, 1), (leaves_the_teacher_in_train_mode, 2)]
)
def test_broken_code_fails(
    broken: Patch, seeds: int, bench: Bench, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By as few seeds as show it under each instruction set."""
    broken(monkeypatch)
    assert verdict(bench, teacher, seeds).verdict is Verdict.FAIL


def test_ci_runs_the_gate_on_the_committed_baseline() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^kdbench run --suite gate ", text, re.MULTILINE)
    assert f"--against {BASELINE.relative_to(ROOT).as_posix()}" in text
    assert read(BASELINE).suite == get_suite("gate").id
