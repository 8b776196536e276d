"""Where a trial may be shown: a listing, which anybody may have written, moves no record to a row that is not its own.

A suite that is at hand says what its rows are. In another one, somebody's own, rows and pairs have any names but those
of other methods and networks, and of what was recorded there of others.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from kdbench.canonical import canonical
from kdbench.errors import UserError
from kdbench.methods import METHODS
from kdbench.models import MODELS, get_spec
from kdbench.records.agreement import TEACHER
from kdbench.records.listings import Place, Said
from kdbench.stats.aggregate import NO_TEACHER
from kdbench.suites import Pair, Row, Suite, installed_suite
from kdbench.suites.tuning import tuned_label
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import teacher_identity

Record = Mapping[str, Any]

#: What a label leaves out of the name of a method that it begins with (kdbench.suites.added_row).
_LEFT_OUT = re.compile(r"[()@]")
#: What joins the words of a name.
_SIGNS = re.compile(r"[()@+.-]")
#: What a label adds to such a name begins with one of these: a setting's, a number's, a preset's.
_ADDED = ("-", "@")
#: What of a record is compared beside its identity.
_SAID = ("label", "pair", "teacher_model", "student_model")


class Standing:
    """Tells whether a trial can stand at a place that a listing names; ``refused`` keeps those where it cannot."""

    def __init__(self, results: Iterable[Record] = ()) -> None:
        """``results``: what is recorded where, as far as it was measured."""
        self._rows: dict[tuple[str, str], list[Record]] = defaultdict(list)
        self._networks: dict[tuple[str, str], set[tuple[str | None, str]]] = defaultdict(set)
        for record in results:
            if record["evidence"] == "measured" and record["label"] != TEACHER:
                self._rows[record["suite"], record["label"]].append(record)
                networks = record["teacher_model"], record["student_model"]
                self._networks[record["suite"], record["pair"]].add(networks)
        self.refused: dict[tuple[str, Place], str] = {}
        self._suite = cache(installed_suite)  # a file of its own is read each time that it is asked for
        self._known: dict[str, str] = {}

    def __call__(self, record: Record, place: Place) -> bool:
        said = repr((place, *(record[field] for field in _SAID), _called(record), {**record["identity"], "seed": 0}))
        if said not in self._known:  # what differs in its seed alone stands alike
            try:
                self._known[said] = next(self._misfits(record, place), "")
            except (KeyError, TypeError, AttributeError):  # anybody may have written the identity
                self._known[said] = "what its record was planned as is no plan of this kdbench"
        if why := self._known[said]:
            self.refused.setdefault((record["key"], place), why)
        return not why

    def problems(self, listed: Mapping[str, Mapping[Place, Said]]) -> list[str]:
        """A sentence for each file of those ``listed`` that shows a trial where it cannot stand."""
        by_file: dict[str, list[str]] = defaultdict(list)
        for (key, place), why in self.refused.items():
            by_file[listed[key][place].file].append(
                f"trial {key[:12]} as {place.label} on {place.pair} in {place.suite}, but {why}"
            )
        return [
            f"The listing {file} shows {_counted(found)}{found[0]}; it is not shown there; delete the listing if it "
            "is not yours."
            for file, found in sorted(by_file.items())
        ]

    def _misfits(self, record: Record, place: Place) -> Iterator[str]:
        """What of ``record`` is not that of the row and the pair of ``place``, in words."""
        suite = self._suite(place.suite)
        if suite is None or all(row.label != place.label for row in suite.rows):
            yield from self._unlike(record, place)
        pairs = [] if suite is None else _pairs(suite, place.pair, record["dataset"])
        if suite is not None and record["dataset"] not in suite.datasets:
            yield f"{place.suite} has no images of {record['dataset']}"
        yield from _networks(record, place.pair, suite, pairs)
        row = None if suite is None else next((row for row in suite.rows if row.label == place.label), None)
        if row is None:
            yield from _label(record, place.label, suite)
            row = Row(place.label, record["method"], {})
            if suite is not None and place.label == record["method"] and not self._configured(record, row, place):
                yield f"its hyper-parameters are not those of {place.label}"
        elif (row.method, row.stream) != (record["method"], record["stream"]):
            yield f"its method is {record['method']}, with the random stream {record['stream']}"
        elif not self._configured(record, row, place):
            yield f"its hyper-parameters are not those of that row in {place.suite}"
        if suite is not None:
            supervision = (row.supervision or suite.supervision).identity()
            if _plain(record["identity"]["supervision"]) != _plain(supervision):
                yield f"its supervision is not that of {place.suite}"
        protocols = [canonical(row.protocol_for(pair).identity()) for pair in pairs]
        if pairs and canonical(record["identity"]["protocol"]) not in protocols:
            yield f"its protocol is not the one that {place.suite} has for that row"

    def _unlike(self, record: Record, place: Place) -> Iterator[str]:
        """What of ``record`` is not that of the records that the row or the pair of ``place`` has."""
        recorded = self._rows.get((place.suite, place.label), [])
        there = [other for other in recorded if other["pair"] == place.pair] or recorded
        if there and _planned(record) not in map(_planned, there):
            yield f"its method is {record['method']}, planned otherwise than what is recorded of that row"
        networks = record["teacher_model"], record["student_model"]
        if networks not in self._networks.get((place.suite, place.pair), {networks}):
            yield f"its networks are {networks[0]} and {networks[1]}, and not those of that pair"

    def _configured(self, record: Record, row: Row, place: Place) -> bool:
        """Whether its hyper-parameters are the row's; of another version of the method nobody knows."""
        method = METHODS.get(row.method)
        if record["identity"]["method"]["version"] != method.version:
            return True
        return canonical(method.config(place.pair, row.config, place.label)) == canonical(record["config"])


def _planned(record: Record) -> bytes:
    """What all seeds of a row on a pair have in common, as far as it is not of the pair."""
    identity = record["identity"]
    method = {name: identity["method"].get(name) for name in ("name", "config")}
    return canonical([method, identity["protocol"], identity["stream"], _plain(identity["supervision"]).decode()])


def _counted(found: list[str]) -> str:
    return "the " if len(found) == 1 else f"{len(found)} trials where they cannot stand, the first of them the "


def _pairs(suite: Suite, name: str, dataset: str) -> list[Pair]:
    """The pairs of ``suite`` that ``name`` means: without a teacher all that have the student."""
    teacher, _, student = name.partition(":")
    alone = teacher == NO_TEACHER
    pairs = (pair for pair in suite.pairs if pair.dataset == dataset)
    return [pair for pair in pairs if pair.name == name or (alone and pair.name.partition(":")[2] == student)]


def _networks(record: Record, name: str, suite: Suite | None, pairs: list[Pair]) -> Iterator[str]:
    """What does not agree in the networks of ``record`` and the pair called ``name``."""
    teacher, _, student = name.partition(":")
    model, own = record["teacher_model"], record["pair"].partition(":")
    if (teacher == NO_TEACHER) != (model is None):
        yield "it has no teacher" if model is None else f"it has the teacher {own[0]}"
    elif pairs and suite is not None:
        if all(pair.student != record["student_model"] for pair in pairs):
            yield f"its student is {record['student_model']}"
        if model is not None and not any(_taught(record, suite.teacher_of(pair)) for pair in pairs):
            yield f"its teacher is another one, called {own[0]}"
    else:
        free = suite is None  # how it calls its networks is its own affair
        if student not in {own[2], *_names(record["student_model"])} and not (free and student not in _architectures()):
            yield f"its student is {own[2]}"
        known = model is None or teacher in {own[0], _called(record), *_names(model)}
        if not known and not (free and teacher not in _architectures()):
            yield f"its teacher is {own[0]}"


def _taught(record: Record, teacher: Teacher) -> bool:
    """Whether ``record`` can be of a student of ``teacher``, whose weights may be unknown here."""
    planned = record["identity"]["teacher"]
    if teacher.model != record["teacher_model"]:
        return False
    if (name := _called(record)) is None or name in (teacher.name, f"{teacher.name}-trained"):
        return True
    if teacher.kind in ("checkpoint", "student") and not teacher.weights_sha256:
        return bool(planned["kind"] == "checkpoint")
    data = record["identity"]["data"]
    return canonical(teacher_identity(teacher, data["name"], data["sha256"])) == canonical(planned)


def _label(record: Record, label: str, suite: Suite | None) -> Iterator[str]:
    """What is wrong with ``label``, where no row of ``suite`` is called so: it must say the method of ``record``.

    In a suite that is not at hand it must not say another one.
    """
    method = record["method"]
    if suite is None and (label == record["label"] or _own(label, method) >= _others(label, method)):
        return
    if (known := _resolved(label)) is not None:
        name, version, fixed = known
        same = record["identity"]["method"]["version"] != version or fixed.items() <= record["config"].items()
        if name != method or not same:
            yield f"its method is {method}{'' if name != method else ', with other hyper-parameters'}"
        return
    rows = () if suite is None else suite.rows
    names = {method, tuned_label(method), *(row.label for row in rows if row.method == method)}
    names |= {_LEFT_OUT.sub("", name) for name in names}
    if suite is None or not any(label.startswith(name) and label[len(name) :][:1] in ("", *_ADDED) for name in names):
        yield f"its method is {method}, which that label does not say"


def _resolved(label: str) -> tuple[str, int, Mapping[str, Any]] | None:
    """The method that ``label`` is the name of, its version and what that fixes; None where it is none's."""
    try:
        spec, fixed = METHODS.resolve(label)
    except UserError:  # nobody's name, or that of what changes another method
        return None
    return spec.name, spec.version, fixed


def _own(label: str, method: str) -> int:
    """How many letters of ``method`` the ``label`` begins with, however its words are joined: all of them, or none."""
    letters, own = _SIGNS.sub("", label), _SIGNS.sub("", method)
    return len(own) if letters.startswith(own) or own.startswith(letters) else 0


def _others(label: str, method: str) -> int:
    """How many letters the longest name of another method has that ``label`` begins with, as a word of its own."""
    begun = (name for name in METHODS if name != method and label.startswith(name))
    words = (name for name in begun if _SIGNS.match(label[len(name) :]) or label == name)
    return max((len(_SIGNS.sub("", name)) for name in words), default=0)


@cache
def _architectures() -> frozenset[str]:
    """Every name of an architecture that is registered."""
    return frozenset(name for model in MODELS for name in _names(model))


def _called(record: Record) -> str | None:
    """The name of the teacher of ``record``, where it was measured."""
    return None if record["teacher"] is None else record["teacher"]["name"]


def _names(model: str) -> set[str]:
    """What an architecture is called: by its name, and in the literature where it is known here."""
    try:
        return {model, get_spec(model).literature}
    except UserError:
        return {model}


def _plain(supervision: Any) -> bytes:
    """What a supervision is, whichever plugin it comes from."""
    if isinstance(supervision, Mapping):
        supervision = {name: value for name, value in supervision.items() if name != "source"}
        supervision = supervision["kind"] if supervision.keys() == {"kind"} else supervision
    return canonical(supervision)
