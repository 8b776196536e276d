"""The wheel works alone: far from the checkout the tutorial is followed with it, and the README's method is tried."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT

# The tutorial's commands as a newcomer's shell has them, but installing where the wheel is, from this machine alone.
SHELL = r"""
set -eu
pip() { shift; "$PY" -m pip install -q --no-deps --no-build-isolation --no-index --target "$TARGET" "$@"; }
pytest() { "$PY" -m pytest -q -p no:cacheprovider "$@"; }
"""


@dataclass(frozen=True)
class Installed:
    """A folder that holds kdbench as its wheel installs it, and an empty folder to run it in."""

    target: Path
    place: Path

    def run(self, *command: str | Path) -> str:
        """Run ``command``, for which kdbench is what is installed here; its standard output, if it succeeded."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KDBENCH_", "PYTHON"))}
        environment = {
            **kept,
            "PYTHONPATH": str(self.target),
            "PATH": os.pathsep.join([str(self.target / "bin"), os.environ["PATH"]]),
            "KDBENCH_CACHE": str(self.target.parent / "cache"),
            "PY": sys.executable,
            "TARGET": str(self.target),
        }
        done = subprocess.run(command, cwd=self.place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def python(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)


def files(folder: Path) -> set[str]:
    """The files below ``folder``, without what Python compiled."""
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    base = tmp_path_factory.mktemp("wheel")
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", base / "dist", ROOT)
    (wheel,) = (base / "dist").glob("kdbench-*.whl")
    python("-m", "pip", "install", "--no-deps", "--no-index", "--target", base / "target", wheel)
    (base / "empty").mkdir()
    return Installed(base / "target", base / "empty")


@pytest.fixture(scope="module")
def said(installed: Installed) -> str:
    """What the tutorial's commands said, run in their order in the empty folder."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 5
    return installed.run("bash", "-c", SHELL + "\n".join(blocks))


def records(installed: Installed, results: str) -> dict[str, dict[str, Any]]:
    """The records of the trials of the suite, by label; each has its predictions."""
    folder = installed.place / results / "v1"
    found = [json.loads(path.read_text("utf-8")) for path in folder.glob("digits@1/*.json")]
    assert all((folder / "predictions" / f"{record['predictions']['sha256']}.npz").is_file() for record in found)
    return {record["label"]: record for record in found}


def test_it_carries_all_that_the_package_reads(installed: Installed) -> None:
    wanted = files(ROOT / "kdbench") | {"_shipped/site/site.toml"}
    for name, folder in (
        ("reported", "results/reported"),
        ("results/v1", "results/v1"),
        ("site/content", "site/content"),
    ):
        wanted |= {f"_shipped/{name}/{file}" for file in files(ROOT / folder)}
    assert files(installed.target / "kdbench") == wanted


def test_the_tutorial_can_be_followed(installed: Installed, said: str) -> None:
    assert "soft-l1: passed: deterministic" in said
    assert said.rstrip().endswith(str(installed.place / "my-site" / "index.html"))
    page = (installed.place / "my-site" / "methods" / "soft-l1.html").read_text("utf-8")
    assert "kdbench-soft-l1" in page
    assert "softens both networks" in page, "from the card that new-method wrote"


def test_its_records_are_of_the_installed_code(installed: Installed, said: str) -> None:
    found = records(installed, "my-results")
    assert sorted(found) == ["ce", "kd", "soft-l1"]
    for record in found.values():
        assert record["status"] == "finished"
        assert record["provenance"]["git_sha"] is None, "its worker ran from a checkout"


def test_the_method_of_the_readme_joins_what_is_recorded(installed: Installed, said: str) -> None:
    plugin = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert plugin
    (installed.place / "prob_mse.py").write_text(plugin[1], encoding="utf-8")
    command = "kdbench run --suite digits --seeds 1 --plugin prob_mse.py --method ce --method prob-mse"
    assert "2 trials, 1 recorded in my-results, 1 to train" in installed.run(
        *command.split(), "--results", "my-results", "--out", "my-site"
    )
    assert records(installed, "my-results")["prob-mse"]["status"] == "finished"
    page = (installed.place / "my-site" / "suites" / "digits@1.html").read_text("utf-8")
    assert "prob-mse" in page
    assert "soft-l1" in page


def test_nothing_is_imported_from_the_checkout(installed: Installed) -> None:
    code = """
import sys, kdbench.cli.run, kdbench.render, kdbench.worker, kdbench.jobs.cohort
for module in list(sys.modules.values()):
    print(getattr(module, "__file__", None))
"""
    imported = installed.run(sys.executable, "-c", code).splitlines()
    assert str(installed.target / "kdbench/jobs/cohort.py") in imported
    assert not [path for path in imported if path.startswith(str(ROOT / "kdbench"))]


def test_without_results_the_site_shows_the_literature_and_the_records_that_came_along(
    installed: Installed, tmp_path: Path
) -> None:
    Installed(installed.target, tmp_path).run("kdbench", "site")
    pages = tmp_path / "site/public"
    assert "72.19" in (pages / "pairs/imagenet/resnet34--resnet18.html").read_text("utf-8")
    suites = {path.name for path in (ROOT / "results/v1").iterdir() if path.name != "teachers"}
    assert {f"{name}.html" for name in suites} == {path.name for path in (pages / "suites").iterdir()}
