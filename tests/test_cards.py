"""Every registered method's card is complete, true to its class, and refuses what lies outside its ranges."""

from __future__ import annotations

import csv
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.errors import UserError
from kdbench.methods import METHODS, load_class, parse_card
from kdbench.methods.base import Method
from kdbench.methods.card import Value

ALL = list(METHODS)
# A wrapper has no terms and no equation of its own loss.
LOSSES = [name for name in ALL if not METHODS.get(name).wraps]
CIFAR = {
    "wrn_40_2:wrn_16_2",
    "wrn_40_2:wrn_40_1",
    "resnet56:resnet20",
    "resnet110:resnet20",
    "resnet110:resnet32",
    "resnet32x4:resnet8x4",
    "vgg13:vgg8",
    "vgg13:mobilenetv2",
    "resnet50:mobilenetv2",
    "resnet50:vgg8",
    "resnet32x4:shufflenetv1",
    "resnet32x4:shufflenetv2",
    "wrn_40_2:shufflenetv1",
}
#: Further pairs of architectures that are not alike, of LSKD and SDD.
FURTHER = {
    "resnet32x4:mobilenetv2",
    "resnet32x4:wrn_16_2",
    "resnet32x4:wrn_40_2",
    "resnet50:shufflenetv1",
    "vgg13:shufflenetv1",
    "wrn_40_2:mobilenetv2",
    "wrn_40_2:resnet8x4",
    "wrn_40_2:vgg8",
}
IMAGENET = {
    "resnet34:resnet18",
    "resnet50:resnet18",
    "resnet101:resnet18",
    "resnet152:resnet18",
    "resnet50:mobilenetv1",
}
#: What was printed for a pair, or for a composition of methods, and where: one value a row.
PRINTED = Path(__file__).parent / "published_hyperparameters.csv"


def test_reading_the_cards_imports_no_torch():
    code = "import sys, kdbench.methods; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", LOSSES)
def test_card_is_complete(name):
    card = METHODS.get(name)
    assert card.version >= 1
    assert card.summary.endswith(".")
    assert "task" in card.terms.values()
    # The converse does not hold: mutual and self-distillation need no teacher.
    assert "distill" in card.terms.values() or not card.needs_teacher
    for knob in card.hyperparameters.values():
        assert knob.help, knob.name
        assert len(knob.source) > 10, knob.name
        assert knob.choices or knob.type == "bool" or knob.min is not None, f"{knob.name} has no range"


def test_only_training_on_labels_alone_is_in_no_paper():
    assert [name for name in ALL if METHODS.get(name).paper is None] == ["ce"]


@pytest.mark.parametrize("name", [name for name in ALL if name != "ce"])
def test_paper_and_bibtex_agree(name):
    paper = METHODS.get(name).paper
    bibtex = paper.bibtex.replace("{", "").replace("}", "")
    assert re.match(r"@\w+\{[\w-]+,\n", paper.bibtex.strip())
    assert paper.bibtex.count("{") == paper.bibtex.count("}")
    assert paper.title in bibtex
    assert str(paper.year) in bibtex
    written = bibtex[bibtex.index("author") :].splitlines()[0].count(" and ") + 1
    assert written == len(paper.authors.split(","))
    for author in paper.authors.split(", "):
        assert author.split()[-1] in bibtex


@pytest.mark.parametrize("name", ALL)
def test_class_declares_the_hyper_parameters_of_the_card(name):
    cls, knobs = load_class(METHODS.get(name)), METHODS.get(name).hyperparameters
    own = cls.__mro__[: cls.__mro__.index(Method)]
    assert set(knobs) <= set().union(*map(inspect.get_annotations, own))
    assert not [knob for knob in knobs if hasattr(Method, knob)], "would hide a part of nn.Module"


@pytest.mark.parametrize("name", ALL)
def test_docstring_carries_the_equation_and_the_paper(name):
    card = METHODS.get(name)
    doc = sys.modules[load_class(card).__module__].__doc__
    assert "L = " in doc
    if card.paper is not None:
        assert card.paper.url in doc
        assert card.paper.title in " ".join(doc.split())


@pytest.mark.parametrize("name", ALL)
def test_pair_names_are_published_ones(name):
    assert set(METHODS.get(name).pairs) <= CIFAR | FURTHER | IMAGENET


def _in_cards() -> dict[tuple[str, str, str], Value]:
    """Method or composition, pair and knob -> value, of all cards."""
    found: dict[tuple[str, str, str], Value] = {}
    for name in ALL:
        card = METHODS.get(name)
        for text, pairs in {name: card.pairs, **card.compositions}.items():
            found.update({(text, pair, knob): value for pair, knobs in pairs.items() for knob, value in knobs.items()})
    return found


def _printed() -> dict[tuple[str, str, str], Value]:
    found: dict[tuple[str, str, str], Value] = {}
    with PRINTED.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            assert len(row["source"]) > 10, row
            key = row["method"], row["pair"], row["knob"]
            assert key not in found, f"{key} is printed twice"
            kind = METHODS.get(row["method"]).hyperparameters[row["knob"]].type
            found[key] = {"float": float, "int": int, "str": str, "bool": "true".__eq__}[kind](row["value"])
    return found


def test_the_values_of_the_cards_for_pairs_are_those_that_were_printed():
    cards, printed = _in_cards(), _printed()
    assert {key: value for key, value in cards.items() if key not in printed} == {}, "printed nowhere"
    assert {key: value for key, value in printed.items() if key not in cards} == {}, "in no card"
    assert {key: (cards[key], printed[key]) for key in cards if cards[key] != printed[key]} == {}


@pytest.mark.parametrize("name", ["ttm", "wttm"])
def test_ttm_and_wttm_cover_the_13_published_pairs(name):
    assert set(METHODS.get(name).pairs) - IMAGENET == CIFAR


@pytest.mark.parametrize(
    ("name", "pair", "want"),
    [
        ("kd", "resnet56:resnet20", {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4.0}),
        ("kd", "resnet34:resnet18", {"ce_weight": 0.5, "kd_weight": 0.5, "temperature": 1.0}),
        ("ttm", "wrn_40_2:wrn_16_2", {"ce_weight": 1.0, "beta": 101.0, "gamma": 0.1}),
        ("wttm", "resnet56:resnet20", {"ce_weight": 1.0, "beta": 1.5, "gamma": 0.3}),
        ("wttm", "resnet34:resnet18", {"ce_weight": 1.0, "beta": 1.6, "gamma": 0.8}),
        ("wttm", "resnet152:resnet18", {"ce_weight": 1.0, "beta": 1.6, "gamma": 0.8}),
        ("dist", "resnet34:resnet18", {"ce_weight": 1.0, "kd_weight": 2.0, "beta": 1.0, "gamma": 1.0, "tau": 1.0}),
    ],
)
def test_published_settings_of_a_pair(name, pair, want):
    assert METHODS.get(name).config(pair, {}, "test") == want


OUTSIDE = [
    (name, knob.name, value)
    for name in ALL
    for knob in METHODS.get(name).hyperparameters.values()
    for value in ("much", -1, float("nan"))
    if knob.type in ("float", "int")
    if not (value == -1 and (knob.min is None or knob.min <= -1))
]


@pytest.mark.parametrize(("name", "knob", "value"), OUTSIDE)
def test_value_out_of_range_is_one_line(name, knob, value):
    with pytest.raises(UserError) as caught:
        METHODS.get(name).config("", {knob: value}, "suite.toml")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"suite.toml: {knob} must ")


def test_unknown_hyper_parameter_and_choice_are_one_line():
    with pytest.raises(UserError, match="method 'kd' has no hyper-parameter 'temprature'; it has ce_weight, kd_weight"):
        METHODS.get("kd").config("", {"temprature": 4}, "suite.toml")
    with pytest.raises(UserError, match="variant must be one of official, paper, not 'both'"):
        METHODS.get("at").config("", {"variant": "both"}, "suite.toml")


CARD = """
name = "mine"
title = "Mine"
version = 1
family = "logit"
summary = "S."
implementation = "mine:Mine"
{}
[terms]
ce = "task"
{}
"""
PAPER = """
[paper]
title = "P"
authors = "A"
venue = "V"
year = 2024
url = "https://example.org"
bibtex = "@misc{p}"
"""


def test_an_unpublished_method_has_no_paper():
    card = parse_card(CARD.format("unpublished = true", ""), "mine.toml")
    assert card.paper is None
    assert card.describe()["paper"] is None


def test_a_published_one_has_its_paper():
    for said in ("", "unpublished = false"):
        card = parse_card(CARD.format(said, PAPER), "mine.toml")
        assert card.describe()["paper"]["venue"] == "V"


@pytest.mark.parametrize(
    ("said", "paper", "found"),
    [("", "", "neither"), ("unpublished = false", "", "neither"), ("unpublished = true", PAPER, "both")],
)
def test_a_card_has_a_paper_or_says_that_there_is_none(said, paper, found):
    with pytest.raises(UserError) as caught:
        parse_card(CARD.format(said, paper), "mine.toml")
    expected = f"mine.toml: a card has either a [paper] or 'unpublished = true', and this one has {found}."
    assert str(caught.value) == expected
