"""What a record says twice must be said alike: a plan reads the one, a page the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from kdbench.canonical import canonical, digest
from kdbench.data import DATASETS
from kdbench.names import OPERATORS

#: The label of the trainings that made teachers, and the folder of their records, beside those of suites.
TEACHER, TEACHERS = "teacher", "teachers"
#: A field, and the part of the identity that it repeats.
COPIES = {
    "dataset": "data/name",
    "student_model": "student/model",
    "method": "method/name",
    "method_card/name": "method/name",
    "method_card/version": "method/version",
    "config": "method/config",
    "seed": "seed",
    "stream": "stream",
    "provenance/plugin_sha256": "method/source",
    "provenance/precision": "protocol/precision",
    "provenance/threads": "protocol/threads",
}
#: What a record has if it finished, and not otherwise.
RESULTS = ("scores/last", "scores/best_test", "cost", "weights_sha256", "predictions")

_SIMPLE = (str, int, float)
#: Points, and test images, by which accuracies of one network may differ that were measured in two places.
_POINTS, _IMAGES = 0.1, 2

Record = Mapping[str, Any]


def disagreement(record: Record, folder: str) -> str:
    """The first two things that do not agree, with what they say; empty where all do.

    ``record`` is valid by its schema and lies in ``folder``.
    """
    parts = (
        _place(record, folder),
        _plan(record),
        _code(record),
        _teacher(record),
        _ending(record),
        _curve(record),
        _scores(record),
    )
    return next((text for part in parts for text in part), "")


def home(record: Record) -> str:
    """The name of the folder that ``record`` belongs in."""
    return TEACHERS if record["label"] == TEACHER else str(record["suite"])


def _place(record: Record, folder: str) -> Iterator[str]:
    yield from _same("key", record["key"], "the digest of identity", digest(record["identity"]))
    if folder != home(record):
        field = "label" if record["label"] == TEACHER else "suite"
        yield _text("its folder", folder, field, record[field])


def _plan(record: Record) -> Iterator[str]:
    for field, part in COPIES.items():
        if field == "method_card/version" and "version" not in record["method_card"]:
            continue  # the card of a method that is not registered where the record was made
        yield from _same(field, _at(record, field), f"identity/{part}", _at(record["identity"], part))


def _code(record: Record) -> Iterator[str]:
    """A composition's digest is of several plugins, and older records do not name them."""
    plugins = record["provenance"].get("plugins")
    named = [None, *(plugin["sha256"] for plugin in plugins or ())]
    parts = ["student", "teacher", "supervision", *([] if OPERATORS & set(record["method"]) else ["method"])]
    for part in parts if plugins is not None else ():
        if (source := _at(record, f"identity/{part}/source")) not in named:
            yield _text("provenance/plugins", plugins, f"identity/{part}/source", source)


def _teacher(record: Record) -> Iterator[str]:
    planned, measured = _at(record, "identity/teacher"), record["teacher"]
    for field, there in (("teacher_model", record["teacher_model"]), ("pair", record["pair"].partition(":")[0])):
        if (there in (None, "none")) != (planned is None):
            yield _text(field, record[field], "identity/teacher", planned)
    kind, weights = _at(planned, "kind"), _at(planned, "weights_sha256")
    if kind == "checkpoint":
        yield from _same("teacher_model", record["teacher_model"], "identity/teacher/model", _at(planned, "model"))
    if measured is not None:
        if planned is None:
            yield _text("teacher", measured, "identity/teacher", planned)
        for degree in measured.get("degrees", ()):
            if degree["top_k"] == measured["top_k"]:
                for field in ("unreliability", "ambiguity"):
                    yield from _same(f"teacher/{field}", measured[field], "that in teacher/degrees", degree[field])
        yield from _same("teacher/model", measured["model"], "teacher_model", record["teacher_model"])
        alike = {"self": "trained", "student": "checkpoint"}  # an earlier generation was trained, too
        if alike.get(measured["kind"], measured["kind"]) != kind:
            yield _text("teacher/kind", measured["kind"], "identity/teacher/kind", kind)
        if kind == "checkpoint" and weights:  # a plan pins them; what was planned by hand may not
            yield from _same("teacher/weights_sha256", measured["weights_sha256"], "that of identity/teacher", weights)


def _ending(record: Record) -> Iterator[str]:
    status, finished = record["status"], record["status"] == "finished"
    for field in RESULTS:
        optional = field == "predictions" and record["evidence"] == "contributed"
        if (_at(record, field) is not None) != finished and not (finished and optional):
            yield _text("status", status, field, _at(record, field))
    if finished:
        for field in ("numerics", *(["teacher"] if _at(record, "identity/teacher") is not None else [])):
            if record[field] is None:
                yield _text("status", status, field, None)
        if record["detail"]:
            yield _text("status", status, "detail", record["detail"])
    if record.get("selected_weights_sha256") is not None:
        if not finished:
            yield _text("status", status, "selected_weights_sha256", record["selected_weights_sha256"])
        elif _at(record, "identity/protocol/selection") == "last":
            yield from _same(
                "selected_weights_sha256",
                record["selected_weights_sha256"],
                "weights_sha256, as the last epoch ranks,",
                record["weights_sha256"],
            )
    held_out = _at(record, "identity/protocol/holdout")
    if (_at(record, "scores/best_val") is not None) != (finished and bool(held_out)):
        yield _text("scores/best_val", _at(record, "scores/best_val"), "identity/protocol/holdout", held_out)


def _curve(record: Record) -> Iterator[str]:
    curve, epochs = record["curve"], _at(record, "identity/protocol/epochs")
    held_out = _at(record, "identity/protocol/holdout")
    ended = type(epochs) is int and epochs > 0 and len(curve) <= epochs
    if not ended or (record["status"] == "finished" and len(curve) != epochs):
        yield _text("the length of curve", len(curve), "identity/protocol/epochs", epochs)
    for number, point in enumerate(curve, 1):
        if type(point["epoch"]) is not int or point["epoch"] != number:
            yield from _same(f"curve/{number}/epoch", point["epoch"], "its place", number)
        if (point["val_top1"] is None) != (not held_out):
            yield _text(f"curve/{number}/val_top1", point["val_top1"], "identity/protocol/holdout", held_out)


def _scores(record: Record) -> Iterator[str]:
    curve, teacher = record["curve"], _at(record, "identity/teacher")
    for selection, ranked_by in (("last", "epoch"), ("best_val", "val_top1"), ("best_test", "test_top1")):
        score, where = record["scores"][selection], f"scores/{selection}"
        if score is None:
            continue
        best = max(curve, key=lambda point: -1 if point[ranked_by] is None else point[ranked_by])
        yield from _same(f"{where}/epoch", score["epoch"], f"the epoch of the best {ranked_by} in curve", best["epoch"])
        for field, of_curve in (("top1", "test_top1"), ("val_top1", "val_top1")):
            yield from _same(f"{where}/{field}", score[field], f"curve/{best['epoch']}/{of_curve}", best[of_curve])
        if score["top5"] < score["top1"]:
            yield _text(f"{where}/top5", score["top5"], f"{where}/top1, which is a part of it,", score["top1"])
        for field in ("agreement", "kl_to_teacher"):
            if (score[field] is None) != (teacher is None):
                yield _text(f"{where}/{field}", score[field], "identity/teacher", teacher)
        if score["agreement"] is not None and record["teacher"] is not None:
            yield from _possible(where, score, record["teacher"]["top1"], rounding(record["dataset"]))


def rounding(dataset: str) -> float:
    """Points by which two measurements of one network may differ: other rounding turns an image or two."""
    images = DATASETS.get(dataset).test_size if dataset in DATASETS else 0
    return max(_POINTS, 100 * _IMAGES / images) if images else _POINTS


def _possible(where: str, score: Record, teacher: float, rounding: float) -> Iterator[str]:
    """Two networks agree where both are right, and disagree where one alone is."""
    least, most = score["top1"] + teacher - 100, 100 - abs(score["top1"] - teacher)
    if not least - rounding <= score["agreement"] <= most + rounding:
        possible = [round(max(least, 0.0), 2), round(most, 2)]
        yield _text(f"{where}/agreement", score["agreement"], "what it can be beside teacher/top1 and top1", possible)


def _same(field: str, value: Any, other: str, expected: Any) -> Iterator[str]:
    if type(value) is type(expected) and (value is None or isinstance(value, _SIMPLE)) and value == expected:
        return  # most are, and to write them down takes long
    if canonical(value) != canonical(expected):
        yield _text(field, value, other, expected)


def _text(field: str, value: Any, other: str, said: Any) -> str:
    return f"{field} is {_shown(value)}, but {other} is {_shown(said)}"


def _shown(value: Any) -> str:
    text = canonical(value).decode()
    return text if len(text) <= 60 else f"{text[:60]}..."


def _at(document: Any, path: str) -> Any:
    """The value at ``path``, names between slashes; None where there is none."""
    for name in _names(path):
        document = document.get(name) if isinstance(document, dict) else None
    return document


_names = cache(lambda path: path.split("/"))
