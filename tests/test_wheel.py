"""The wheel works alone: far from the checkout it trains rows of a suite and a plugin's method, and builds the site."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Installed:
    """A folder that holds kdbench as its wheel installs it, and an empty folder to run it in."""

    target: Path
    place: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KDBENCH_", "PYTHON"))}
        environment = {**kept, "PYTHONPATH": str(self.target), "KDBENCH_CACHE": str(self.place.parent / "cache")}
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.place, env=environment, capture_output=True, text=True, timeout=600
        )

    def kdbench(self, *arguments: str) -> str:
        """Run the command; its standard output, after checking that it succeeded."""
        done = self.run("-m", "kdbench", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def python(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True, timeout=300)


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
def trained(installed: Installed) -> Installed:
    """The same after a run of two rows of the suite and of the README's plugin."""
    plugin = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert plugin
    (installed.place / "logit_mse.py").write_text(plugin[1], encoding="utf-8")
    said = installed.kdbench(
        "run", "--suite", "digits", "--seeds", "1", "--plugin", "logit_mse.py",
        "--method", "ce", "--method", "kd", "--method", "logit-mse",
    )  # fmt: skip
    assert said.rstrip().endswith(str(installed.place / "site/public/index.html"))
    return installed


def test_it_carries_all_that_the_package_reads(installed: Installed) -> None:
    wanted = files(ROOT / "kdbench") | {"_shipped/site/site.toml"}
    for name, folder in (
        ("reported", "results/reported"),
        ("results/v1", "results/v1"),
        ("site/content", "site/content"),
    ):
        wanted |= {f"_shipped/{name}/{file}" for file in files(ROOT / folder)}
    assert files(installed.target / "kdbench") == wanted


def test_a_run_leaves_a_record_of_each_trial_made_by_the_installed_code(trained: Installed) -> None:
    folder = trained.place / "results/v1/digits@1"
    records = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    assert sorted(record["label"] for record in records) == ["ce", "kd", "logit-mse"]
    for record in records:
        assert record["status"] == "finished"
        assert (folder / record["predictions"]["file"]).is_file()
        assert record["provenance"]["git_sha"] is None, "its worker ran from a checkout"


def test_nothing_is_imported_from_the_checkout(installed: Installed) -> None:
    code = """
import sys, kdbench.cli.run, kdbench.render, kdbench.worker, kdbench.jobs.cohort
for module in list(sys.modules.values()):
    print(getattr(module, "__file__", None))
"""
    done = installed.run("-c", code)
    assert done.returncode == 0, done.stderr
    assert str(installed.target / "kdbench/jobs/cohort.py") in done.stdout.splitlines()
    assert not [line for line in done.stdout.splitlines() if line.startswith(str(ROOT / "kdbench"))]


def test_the_site_shows_the_literature_and_what_was_measured(trained: Installed) -> None:
    trained.kdbench("site", "--out", "pages")
    pages = trained.place / "pages"
    assert "72.19" in (pages / "pairs/imagenet/resnet34--resnet18.html").read_text(encoding="utf-8")
    assert "logit-mse" in (pages / "suites/digits@1.html").read_text(encoding="utf-8")


def test_the_site_without_results_shows_the_records_that_came_along(installed: Installed, tmp_path: Path) -> None:
    if not (ROOT / "results/v1").is_dir():
        pytest.skip("this checkout has no records of its own")
    elsewhere = Installed(installed.target, tmp_path)
    elsewhere.kdbench("site")
    suites = {path.name for path in (ROOT / "results/v1").iterdir() if path.name != "teachers"}
    assert {f"{name}.html" for name in suites} == {path.name for path in (tmp_path / "site/public/suites").iterdir()}
