"""The workflow that authors of plugins copy: its shell steps run, and its build goes red and green again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT, Bench, copy_first_digits, suite_text
from test_cli import RUN, Cli, MakeSuite, cli  # noqa: F401
from test_regress import edit, near_perfect

from kdbench.errors import EXIT_INTERRUPTED
from kdbench.regress import baseline as baselines

yaml = pytest.importorskip("yaml", reason="pyyaml, which timm needs, is not installed")

WORKFLOW = ROOT / "docs" / "ci" / "accuracy.yml"


def steps() -> tuple[dict[str, str], list[dict[str, Any]]]:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    return workflow["env"], job["steps"]


def test_its_steps_go_red_and_green(bench: Bench) -> None:
    """On records of digits in the place of trainings; packages are there, and artifacts are GitHub's."""
    environment, all_steps = steps()
    commands = [step["run"] for step in all_steps if "run" in step and step["name"] != "Install"]
    assert len(commands) == 1
    here = bench.folder / "repository"
    copy_first_digits(here / "results")
    baseline = here / environment["BASELINE"]
    kdbench = bench.folder / "bin" / "kdbench"
    kdbench.parent.mkdir()
    kdbench.write_text(f'#!/bin/sh\nexec {sys.executable} -m kdbench "$@"\n')
    kdbench.chmod(0o755)
    summary = here / "summary.md"
    path = f"{kdbench.parent}{os.pathsep}{os.environ['PATH']}"
    variables = bench.environment(
        **environment, PATH=path, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary), CUDA_VISIBLE_DEVICES=""
    )

    def run(command: str) -> subprocess.CompletedProcess[str]:
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command]  # as GitHub runs a step
        return subprocess.run(shell, cwd=here, env=variables, capture_output=True, text=True)

    frozen = run('kdbench baseline freeze digits --out "$BASELINE"')
    assert frozen.returncode == 0, frozen.stderr
    green = run(commands[0])
    assert green.returncode == 0, green.stdout + green.stderr
    assert "::error" not in green.stdout
    edit(baseline, near_perfect)
    red = run(commands[0])
    assert red.returncode == 1, red.stdout + red.stderr
    assert "::error title=FAIL at on tiny_cnn_l%3Atiny_cnn_m::it dropped by " in red.stdout
    assert "| FAIL | at |" in summary.read_text()
    kept = next(
        step["with"]["path"] for step in all_steps if step.get("uses", "").startswith("actions/upload-artifact")
    )
    assert {path.suffix for path in here.glob(kept)} == {".md", ".json", ".xml"}


@pytest.fixture
def frozen_digits(tmp_path: Path) -> Path:
    """A baseline of the committed records of digits."""
    path = tmp_path / "digits.json"
    copy_first_digits(tmp_path / "committed")
    baselines.write(baselines.from_records(tmp_path / "committed", "digits")[0], path)
    return path


def test_regress_trains_what_is_missing_and_what_decides(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
) -> None:
    make_suite(suite_text(["ce", "kd"], epochs=1, seeds=[0, 1, 2]))
    assert cli(*RUN, "--summary", "none").code == 0
    assert cli("baseline", "freeze", "tiny", "--out", "b.json").code == 0
    baseline = bench.folder / "b.json"

    def spread(cell: dict[str, Any]) -> None:
        """A baseline of ten seeds about the mean of the first two, which are too few to say that nothing dropped."""
        middle = sum(training["top1"] for training in cell["trainings"][:2]) / 2
        first = {**cell["trainings"][0], "weights": "", "predictions": ""}
        steps = (-9, -6, -3, 0, 3, 6, 9, -9, 9, 0)
        cell["trainings"] = [{**first, "seed": n, "top1": middle + step} for n, step in enumerate(steps)]

    edit(baseline, spread)
    shared = ("--device", "cpu", "--slots", "1", "--against", "b.json", "--margin", "8.5")
    ended = cli("regress", "new", *shared, "--run", "--seeds", "2", "--most", "30", "--format", "json")
    assert ended.code == 0, ended.err
    planned = [line for line in ended.out.splitlines() if " to train." in line]
    assert planned[0] == "tiny@1: 4 trials, 0 recorded in new, 4 to train."
    assert len(planned) > 1
    document = json.loads(ended.out[ended.out.index("\n{") :])
    seeds = {cell["label"]: cell["new"][1] for cell in document["cells"]}
    assert max(seeds.values()) > 2
    again = cli("regress", "new", *shared, "--run", "--seeds", "2", "--most", "30")
    assert "to train" not in again.out


def test_an_interrupted_training_is_told_by_the_exit_code(
    cli: Cli,  # noqa: F811
    frozen_digits: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kdbench.cli.run.train", lambda plan, store: EXIT_INTERRUPTED)
    ended = cli("regress", "new", "--against", str(frozen_digits), "--run", "--device", "cpu")
    assert ended.code == 130
    assert ended.out.count("MISSING") == 11  # ten rows, and their number


def test_the_page_links_the_workflow() -> None:
    assert "(ci/accuracy.yml)" in (ROOT / "docs" / "regression.md").read_text(encoding="utf-8")
    assert Path(WORKFLOW).is_file()
