"""The wheel works alone: far from the checkout the tutorial is followed with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench import ROOT, Bench, suite_text

from kdbench.records import Store

# The tutorial's commands as a newcomer's shell has them, but installing where the wheel is, from this machine alone.
# The package's own test is found and not run: it does what check-method has just done. pytest is here already.
SHELL = r"""
set -eu
pip() {
  shift
  [ "$*" = pytest ] || "$PY" -m pip install -q --no-deps --no-build-isolation --no-index --target "$TARGET" "$@"
}
pytest() { "$PY" -m pytest -q -p no:cacheprovider --collect-only "$@"; }
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
    target = Bench(base).install_suite(suite_text(["ce"], epochs=1))
    python("-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel)
    (base / "empty").mkdir()
    return Installed(target, base / "empty")


@pytest.fixture(scope="module", params=["tiny", pytest.param("digits", marks=pytest.mark.slow)])
def said(request: pytest.FixtureRequest, installed: Installed) -> str:
    """What the tutorial's commands said, run in their order in an empty folder; its suite, or one that is shorter."""
    shutil.rmtree(installed.place)
    installed.place.mkdir()
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 5
    commands = "\n".join(blocks)
    assert "--suite digits --seeds 1 --method ce --method kd --method soft-l1" in commands
    if request.param == "tiny":
        commands = commands.replace("digits", "tiny").replace("--method ce --method kd ", "")
    return installed.run("bash", "-c", SHELL + commands)


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
    found, problems = Store(installed.place / "my-results").read()
    assert not problems
    assert {"soft-l1", "teacher"} <= {record["label"] for record in found}
    for record in found:
        assert record["status"] == "finished"
        assert record["provenance"]["git_sha"] is None, "its worker ran from a checkout"


def test_nothing_is_imported_from_the_checkout(installed: Installed) -> None:
    code = """
import sys, kdbench.cli.run, kdbench.render, kdbench.worker
for module in list(sys.modules.values()):
    print(getattr(module, "__file__", None))
"""
    imported = installed.run(sys.executable, "-c", code).splitlines()
    assert str(installed.target / "kdbench/worker.py") in imported
    assert not [path for path in imported if path.startswith(str(ROOT / "kdbench"))]


def test_without_results_the_site_shows_the_literature_and_the_records_that_came_along(
    installed: Installed, tmp_path: Path
) -> None:
    Installed(installed.target, tmp_path).run("kdbench", "site")
    pages = tmp_path / "site/public"
    assert "72.19" in (pages / "pairs/imagenet/resnet34--resnet18.html").read_text("utf-8")
    suites = {path.name for path in (ROOT / "results/v1").iterdir() if "@" in path.name}
    assert {f"{name}.html" for name in suites} == {path.name for path in (pages / "suites").glob("*.html")}
