"""What ``kdbench new-method`` writes keeps the contract as it is, and nothing is written over.

tests/test_wheel.py installs such a package, checks and trains it.
"""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path

import pytest

from kdbench.cli import main
from kdbench.cli.new_method import write_package
from kdbench.methods import METHODS
from kdbench.plugin import parse_card


def test_a_package_works_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["new-method", "my-loss", "--out", str(tmp_path)]) == 0
    monkeypatch.syspath_prepend(tmp_path / "kdbench-my-loss")
    card = importlib.import_module("kdbench_my_loss").CARD
    METHODS.add(card.name, card, "test")
    runpy.run_path(str(tmp_path / "kdbench-my-loss" / "tests" / "test_kdbench_my_loss.py"))["test_contract"]()


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
