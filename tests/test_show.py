"""``kdbench show`` says everything that a card, a suite, or a spec holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import Bench, suite_text

from kdbench.cli import main
from kdbench.data import DATASETS
from kdbench.methods import METHODS
from kdbench.models import MODELS, ModelSpec
from kdbench.models.facts import FACTS
from kdbench.records.literature import load
from kdbench.studies import STUDIES, get_study
from kdbench.suites import SUITES, Suite, get_suite


@pytest.mark.parametrize("name", [*METHODS, "kd@t1-half", "wttm+dist", "lskd(dkd)"])
def test_every_card_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 0
    shown = capsys.readouterr().out
    spec = METHODS.get(name)
    paper = spec.paper
    printed = ("unpublished",) if paper is None else (paper.title, paper.url, paper.bibtex.strip())
    for text in (spec.name, spec.title, *printed, *spec.pairs):
        assert text in shown
    for knob in spec.hyperparameters.values():
        assert f"  {knob.name} = " in shown


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    study = get_study(name)
    out = shown(capsys, "study", name)
    assert out in shown(capsys, name)  # there may be a method of the name
    for text in (f"study {name}: {study.title}", study.summary, study.paper.url, *study.suites, *study.differs):
        assert text in out
    for claim in study.claims:
        assert f"claim {claim.name}: {claim.text}\n" in out
        for text in (f"[{claim.source}]", claim.printed, claim.full, *claim.rows):
            assert text in out


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


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["show", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    suite = get_suite(name)
    out = shown(capsys, "suite", name)
    assert out == shown(capsys, suite.id)
    for text in (f"suite {suite.id}: {suite.title}", suite.summary, suite.dataset, *suite.notes):
        assert text in out
    for row in suite.rows:
        assert re.search(rf"^  {re.escape(row.label)}(:|$)", out, re.MULTILINE)
    for pair in suite.pairs:
        assert f"  {pair.name}: {pair.student} under {pair.teacher}" in out
    for teacher in suite.teachers.values():
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {teacher.name}: {teacher.model}, ")]
        said = (
            (*teacher.files, teacher.url, teacher.source)
            if not teacher.parts
            else [part.name for part in teacher.parts]
        )
        assert all(text in line for text in said)
    assert ("A short suite" in out) == suite.short


def test_a_suite_says_what_is_unusual_of_it(
    capsys: pytest.CaptureFixture[str], make_suite: Callable[[str], Suite]
) -> None:
    out = shown(capsys, "suite", "digits")
    assert field(out, "trials") == "30 of students, 1 of teachers"
    assert field(out, "protocol").startswith("epochs = 15, batch = 64, lr = 0.1, schedule = onecycle, ")
    assert "momentum" not in out
    assert "  at: weight = 60.0\n" in out
    assert "  kd-again: kd, stream 1\n" in out
    rows = ["ce", {"name": "kd", "label": "long", "protocol": {"epochs": 9}}, "ofd"]
    teacher = 'kind = "self"\nmodel = "mlp_800_800"\nseed = 7\ngenerations = 2\nprotocol = {epochs = 3}'
    make_suite(suite_text(rows, teacher=teacher, student="mlp_800_800", seeds=(0, 1)))
    out = shown(capsys, "tiny")
    assert field(out, "trials") == "4 of students, 2 of teachers"
    assert "  long: kd, epochs = 9\n" in out
    assert "\nnot applicable\n  ofd to mlp_800_800:mlp_800_800: " in out
    (tutor,) = (line for line in out.splitlines() if line.startswith("  tutor: "))
    assert tutor.startswith("  tutor: mlp_800_800, an earlier generation, trained here; seed 8; epochs = 3"), tutor
    assert "weights" not in out


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_can_be_shown(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec, out = DATASETS.get(name), shown(capsys, "dataset", name)
    assert out.startswith(f"data set {name}: {spec.title}, from kdbench\n")
    for text in (spec.licence, spec.url, spec.source, spec.files, spec.digest or "none is known", *spec.sha1.values()):
        assert text in out
    assert field(out, "images") == f"{spec.train_size} to train on, {spec.test_size} to test on"
    assert field(out, "classes") == str(spec.classes)
    assert field(out, "data root") == str(tmp_path / "data")
    assert ("--download fetches it" in out) == spec.downloadable
    assert [get_suite(suite).id for suite in SUITES if get_suite(suite).dataset == name] == section(out, "suites")


@pytest.mark.parametrize("name", [*MODELS, "timm/resnet18"])
def test_every_model_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "model", name)
    assert out.startswith(f"model {name}: ")
    if name not in FACTS:
        assert (field(out, "family"), field(out, "size")) == ("timm", "not known before it is built")
        return
    facts, spec = FACTS[name], MODELS.get(name)
    assert (field(out, "family"), field(out, "printed as")) == (spec.family, spec.literature)
    assert field(out, "parameters").startswith(f"{facts.parameters:,}, with ")
    assert field(out, "arithmetic").startswith(f"{facts.mflops:g} MFLOP")
    assert all(str(channels) in field(out, "stages") for channels in facts.channels)


def test_a_model_says_which_pairs_it_is_in(capsys: pytest.CaptureFixture[str]) -> None:
    suites = list(map(get_suite, SUITES))
    for model in ("tiny_cnn_m", "tiny_cnn_l"):
        places = ((suite, pair) for suite in suites for pair in suite.pairs)
        expected = {f"{s.id}: {p.name}" for s, p in places if model in (p.student, s.teacher_of(p).model)}
        assert {f"{name}: tiny_cnn_l:tiny_cnn_m" for name in ("digits@1", "fashion_mnist@1")} <= expected
        assert set(section(shown(capsys, model), "pairs")) == expected


def test_a_pair_says_who_has_it_and_what_is_printed_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "resnet56:resnet20")
    assert "cifar100@1: resnet20 under resnet56, a resnet56 (checkpoint)" in section(out, "suites")
    printed = section(out, "values printed for it")
    card = METHODS.get("wttm")
    assert f"wttm: gamma = 0.3, beta = 1.5 [{card.pairs_source}]" in printed
    assert any(line.startswith("wttm+crd: ") for line in printed)
    assert {line.partition(":")[0] for line in printed if not set("+(") & set(line.partition(":")[0])} == {
        name for name in METHODS if "resnet56:resnet20" in METHODS.get(name).pairs
    }
    rows = [row for row in load().rows if (row.teacher, row.student) == ("resnet56", "resnet20")]
    (line,) = section(out, "numbers of the literature")
    assert line.startswith(f"cifar100: {len(rows)}, of {len({row.method for row in rows})} methods, in ")


def test_a_name_of_several_kinds_shows_each_unless_one_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    both = shown(capsys, "cifar100")
    assert both == shown(capsys, "suite", "cifar100") + "\n" + shown(capsys, "dataset", "cifar100")


def test_what_a_plugin_adds_can_be_shown(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    MODELS.add("mine", ModelSpec("mine", "small", "For tests.", "bench:drop_net", 8), "plugin other")
    both = shown(capsys, "mine", "--plugin", bench.plugin("mine"))
    assert both.startswith("method mine: mine, version 1, baseline, from plugin mine_plugin.py\n")
    assert "\n\nmodel mine: For tests., from plugin other\n" in both


def test_a_broken_suite_hides_nothing_but_itself(capsys: pytest.CaptureFixture[str]) -> None:
    SUITES.add("broken", ("name = x", "broken.toml"), "test")
    assert "digits@1" in shown(capsys, "tiny_cnn_m")
    assert main(["show", "broken"]) == 2
    assert "broken.toml: not valid TOML" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digts"], "There is no method, suite, study, data set, model or pair named 'digts'; the nearest are digits"),
        (["ResNet20"], "the nearest are resnet20,"),
        (["resnet56:resnet21"], "the nearest are resnet56:resnet20,"),
        (["dataset", "cifar"], "There is no data set named 'cifar'; the nearest are cifar10"),
        (["foobar"], "pair named 'foobar'; known are"),
        (["pair", "kd"], "There is no pair named 'kd'"),
        (["digits@7"], "Suite 'digits' is at version 1 here, not 7; ask for digits@1."),
        (["kd@nope"], "method 'kd' has no preset 'nope'"),
        (["lskd(kdd)"], "There is no method named 'kdd'; the nearest are kd"),
        (["ce+kd"], "'ce' has no distillation loss"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def field(out: str, name: str) -> str:
    """What the line ``name`` says."""
    found = re.search(rf"^{re.escape(name)} +(.*)$", out, re.MULTILINE)
    assert found, out
    return found[1]


def section(out: str, title: str) -> list[str]:
    """The lines under ``title``."""
    found = re.search(rf"^{re.escape(title)}\n((?:  .*\n)+)", out, re.MULTILINE)
    return [line.strip() for line in found[1].splitlines()] if found else []
