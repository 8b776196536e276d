"""``kdbench show`` says everything that a card holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bench import Bench

from kdbench.cli import main
from kdbench.methods import METHODS


@pytest.mark.parametrize("name", [*METHODS, "kd@t1-half", "wttm+dist", "lskd(dkd)"])
def test_every_card_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 0
    shown = capsys.readouterr().out
    spec = METHODS.get(name)
    for text in (spec.name, spec.title, spec.paper.title, spec.paper.url, spec.paper.bibtex.strip(), *spec.pairs):
        assert text in shown
    for knob in spec.hyperparameters.values():
        assert f"  {knob.name} = " in shown


def test_a_preset_shows_its_own_values(capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", "kd@t1-half"])
    assert "  temperature = 1.0  in (0, inf)" in capsys.readouterr().out


def test_an_unpublished_method_says_so(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(bench.plugin("mine"))
    path.write_text(re.sub(r'"paper": \{.*\},\n', '"unpublished": True,\n', path.read_text()))
    assert main(["show", "mine", "--plugin", str(path)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^paper +unpublished$", shown, re.MULTILINE)
    assert not shown.endswith("\n\n")
    assert main(["list", "methods", "--plugin", str(path)]) == 0
    assert re.search(r"^mine +baseline +mine \(unpublished\) ", capsys.readouterr().out, re.MULTILINE)


def test_an_unknown_method_is_one_line_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "wtm"]) == 2
    assert "the nearest are wttm" in capsys.readouterr().err
