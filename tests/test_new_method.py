"""A package that ``kdbench new-method`` writes is installed, passes its test, is trained, and stands on the site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.cli import main
from kdbench.cli.new_method import write_package
from kdbench.plugin import parse_card


def _python(*words: str, site: Path, cwd: Path) -> str:
    path = os.pathsep.join([str(site), os.environ["PYTHONPATH"]])
    run = subprocess.run(
        [sys.executable, *words], cwd=cwd, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_a_package_from_new_method_goes_all_the_way(tmp_path: Path) -> None:
    assert main(["new-method", "my-loss", "--out", str(tmp_path)]) == 0
    package, site = tmp_path / "kdbench-my-loss", tmp_path / "site-packages"
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    _python(*pip, str(package), site=site, cwd=tmp_path)
    assert "passed" in _python("-m", "pytest", "-q", "tests", "-p", "no:cacheprovider", site=site, cwd=package)
    words = ["run", "--suite", "digits", "--seeds", "1", "--method", "ce", "--method", "my-loss"]
    said = _python("-m", "kdbench", *words, "--results", "r", "--out", "s", site=site, cwd=tmp_path)
    assert "my-loss is not in digits@1; it was added" in said
    page = (tmp_path / "s" / "methods" / "my-loss.html").read_text("utf-8")
    assert "kdbench-my-loss" in page
    assert "softens both networks" in page
    assert "<td>unpublished</td>" in page


def test_the_hint_how_to_add_a_paper_is_a_card_with_one(tmp_path: Path) -> None:
    folder = write_package("my-loss", tmp_path)
    text = (folder / "kdbench_my_loss" / "card.toml").read_text("utf-8")
    assert parse_card(text, "card.toml").paper is None
    published = re.sub(
        "^# ", "", re.sub("^# The card.*|^unpublished.*", "", text, flags=re.MULTILINE), flags=re.MULTILINE
    )
    paper = parse_card(published.replace("https://...", "https://example.org"), "card.toml").paper
    assert paper
    assert paper.year == 2026


@pytest.mark.parametrize("name", ["kd", "my loss", "a+b", "../up"])
def test_a_name_that_cannot_be_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-method", name, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("kdbench-*"))


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kdbench-mine").mkdir()
    assert main(["new-method", "mine", "--out", str(tmp_path)]) == 2
    assert not list((tmp_path / "kdbench-mine").iterdir())
