"""The protocol: parsing, its errors, and its plain form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kdbench.errors import UserError
from kdbench.protocol import Protocol, parse_protocol

LEAST: dict[str, Any] = {"epochs": 3, "batch": 64, "lr": 0.1}


def test_fills_in_defaults_and_turns_whole_numbers_into_floats() -> None:
    protocol = parse_protocol({**LEAST, "lr": 1, "milestones": [1, 2]}, "s.toml")
    assert protocol == Protocol(epochs=3, batch=64, lr=1.0, milestones=(1, 2))
    assert type(protocol.lr) is float


def test_changes_only_what_a_pair_overrides() -> None:
    base = parse_protocol({**LEAST, "momentum": 0.8}, "s.toml")
    assert parse_protocol({"lr": 0.05}, "s.toml", base) == Protocol(epochs=3, batch=64, lr=0.05, momentum=0.8)


def test_identity_holds_every_field_as_plain_data() -> None:
    protocol = parse_protocol({**LEAST, "milestones": [1, 2]}, "s.toml")
    identity = json.loads(json.dumps(protocol.identity()))
    assert Protocol(**{**identity, "milestones": tuple(identity["milestones"])}) == protocol


@pytest.mark.parametrize("name", ["epochs", "batch", "lr"])
def test_names_what_is_missing(name: str) -> None:
    with pytest.raises(UserError, match=f"^s.toml: the protocol lacks '{name}'"):
        parse_protocol({k: v for k, v in LEAST.items() if k != name}, "s.toml")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epoch", 3, "no protocol field 'epoch'; known are epochs"),
        ("epochs", 3.0, "epochs must be int"),
        ("epochs", True, "epochs must be int"),
        ("epochs", 0, "epochs must be at least 1"),
        ("batch", 1, "batch must be at least 2"),
        ("threads", 0, "threads must be at least 1"),
        ("holdout", -1, "holdout must be at least 0"),
        ("split_seed", -1, "split_seed must be at least 0"),
        ("pad", -1, "pad must be at least 0"),
        ("lr", "fast", "lr must be float"),
        ("lr", True, "lr must be float"),
        ("lr", 0, "lr must be greater than 0"),
        ("lr", float("nan"), "lr must be"),
        ("lr", float("inf"), "lr must be"),
        ("factor", 0.0, "factor must be greater than 0"),
        ("momentum", 1.0, "momentum and warm_up must lie in"),
        ("momentum", float("nan"), "momentum"),
        ("warm_up", 1.0, "momentum and warm_up must lie in"),
        ("weight_decay", -1e-4, "weight_decay must not be negative"),
        ("weight_decay", float("nan"), "weight_decay"),
        ("nesterov", 1, "nesterov must be bool"),
        ("optimiser", "adam", "optimiser must be one of sgd"),
        ("schedule", "step", "schedule must be one of constant, multistep"),
        ("augmentation", "flip", "augmentation must be one of none"),
        ("precision", "float16", "precision must be one of float32"),
        ("selection", "best_test", "selection must be one of last, best_val"),
        ("selection", "best_val", "selection best_val needs a holdout"),
        ("milestones", 2, "milestones must be a list of int"),
        ("milestones", [1.5], "milestones must be a list of int"),
        ("milestones", [2, 1], "milestones must rise"),
        ("milestones", [1, 1], "milestones must rise"),
    ],
)
def test_each_mistake_names_its_place_and_field(name: str, value: object, words: str) -> None:
    with pytest.raises(UserError, match=f"^s.toml: .*{words}"):
        parse_protocol({**LEAST, name: value}, "s.toml")


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(UserError, match="nesterov needs a momentum"):
        parse_protocol({**LEAST, "nesterov": True, "momentum": 0}, "s.toml")
