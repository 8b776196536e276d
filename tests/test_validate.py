"""The shipped schemas: what a valid record is, and how a broken one is described."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from test_store import record

from kdbench.errors import UserError
from kdbench.records import check
from kdbench.records.validate import schema

#: What records lack that are older than it.
LATER = {"selected_weights_sha256"}
VALID = record() | {"predictions": {"sha256": "0" * 64}}


def test_the_three_schemas_are_schemas() -> None:
    import jsonschema

    for kind in ("record", "reported", "source"):
        jsonschema.Draft7Validator.check_schema(schema(kind))


def test_a_built_record_is_valid_in_every_status() -> None:
    check("record", VALID, "here")
    for status in ("diverged", "crashed", "timed_out"):
        check("record", record(status), "here")


@pytest.mark.parametrize("name", sorted(VALID.keys() - LATER))
def test_every_field_is_required(name: str) -> None:
    with pytest.raises(UserError, match=rf"^here: .*{name}"):
        check("record", {k: v for k, v in VALID.items() if k != name}, "here")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status", "done"),
        ("evidence", "reported"),
        ("key", "0" * 63),
        ("pair", "a"),
        ("seed", -1),
        ("seed", 0.5),
        ("detail", "x" * 4001),
        ("weights_sha256", "xyz"),
        ("config/x", [1]),
        ("scores/last/top5", -1),
        ("scores/last/epoch", 0),
        ("scores/last/ece", 2),
        ("scores/last/entropy", None),
        ("scores/oracle", None),
        ("numerics/device", None),
        ("scores/last/val_top1", True),
        (
            "curve",
            [{"epoch": 1, "lr": 0.1, "losses": {}, "seconds": 1, "test_top1": True, "train_top1": 1, "val_top1": 1}],
        ),
        ("provenance/attempts", 0),
        ("provenance/git_dirty", "yes"),
        ("warnings", "loud"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: object) -> None:
    document: Any = copy.deepcopy(VALID)
    *parents, last = path.split("/")
    place = document
    for parent in parents:
        place = place[parent]
    place[last] = value
    with pytest.raises(UserError) as caught:
        check("record", document, "here")
    text = str(caught.value)
    assert text.startswith("here: ")
    assert path.split("/")[0] in text
    assert "data." not in text
    assert len(text) < 700


@pytest.mark.parametrize("document", [None, [], 3, "x", {}])
def test_what_is_no_record_at_all(document: object) -> None:
    with pytest.raises(UserError, match=r"^here: "):
        check("record", document, "here")
