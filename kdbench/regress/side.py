"""One row on one pair as it was trained once: the half of a comparison, from records or from a frozen baseline."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
Place = tuple[str, str]

#: What must be the same on both sides, or their accuracies say nothing of one another; the identity's names.
SAME = ("data", "protocol", "student", "teacher", "supervision")
#: What of these is the digest of a plugin's code, whose change is what is judged.
CODE = frozenset({"student source", "teacher source"})


@dataclass(frozen=True)
class Training:
    """What one seed came to. ``speed``: its images a second relative to the reference network's in the same process.

    ``process`` tells worker processes apart.
    """

    seed: int
    top1: float
    predictions: str
    weights: str
    speed: float | None = None
    process: float | None = None


@dataclass(frozen=True)
class Taught:
    """The teacher of a row: its weights, and how good it is itself."""

    weights_sha256: str
    top1: float


@dataclass(frozen=True)
class Side:
    """The trainings of one row on one pair, which differ in nothing planned but the seed."""

    pair: str
    label: str
    stream: int
    identity: Mapping[str, Any]
    numerics: tuple[str, ...]
    teacher: Taught | None
    trainings: tuple[Training, ...]
    diverged: tuple[int, ...]

    @property
    def place(self) -> Place:
        return (self.pair, self.label)

    @property
    def scores(self) -> list[float]:
        """The top-1 of each seed, by seed."""
        return [training.top1 for training in self.trainings]


#: What stands between a pair and its data set, where a suite has the pair on several.
ON = " on "


def sides(records: Iterable[Record], suite: str, beside: Iterable[Place] = ()) -> dict[Place, Side]:
    """The side of every row and pair of ``suite`` that has a finished or diverged record.

    Records of one row that differ in what was planned are several trainings; the newest counts. A pair that is there on
    several data sets, or among the places ``beside`` which these are set, is one on each: ``teacher:student on data``.
    """
    ours = [
        record
        for record in records
        if record["suite"] == suite and record["label"] != "teacher" and record["evidence"] == "measured"
    ]
    datasets: dict[str, set[str]] = defaultdict(set)
    for record in ours:
        datasets[record["pair"]].add(record["dataset"])
    several = {pair for pair, names in datasets.items() if len(names) > 1}
    several |= {pair.partition(ON)[0] for pair, _ in beside if ON in pair}
    found: dict[Place, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in ours:
        pair = f"{record['pair']}{ON}{record['dataset']}" if record["pair"] in several else record["pair"]
        found[pair, record["label"]][json.dumps(_planned(record), sort_keys=True)].append(record)
    made = {}
    for place, variants in sorted(found.items()):
        newest = max(variants.values(), key=lambda group: max(record["provenance"]["created"] for record in group))
        if any(record["status"] in ("finished", "diverged") for record in newest):
            made[place] = _side(place[0], newest)
    return made


def _planned(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record["identity"].items() if name != "seed"}


def _side(pair: str, records: list[Record]) -> Side:
    by_seed: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        if record["status"] == "finished":
            by_seed[record["seed"]].append(record)
    finished = [record for group in by_seed.values() for record in group]
    first = records[0]
    teachers = Counter(Taught(r["teacher"]["weights_sha256"], r["teacher"]["top1"]) for r in finished if r["teacher"])
    return Side(
        pair=pair,
        label=first["label"],
        stream=first["stream"],
        identity=_planned(first),
        numerics=tuple(
            sorted({"torch {torch}, {device_name}, {isa}".format_map(record["numerics"]) for record in finished})
        ),
        teacher=teachers.most_common(1)[0][0] if teachers else None,
        trainings=tuple(_training(by_seed[seed]) for seed in sorted(by_seed)),
        diverged=tuple(sorted({r["seed"] for r in records if r["status"] == "diverged"} - by_seed.keys())),
    )


def _training(replicates: list[Record]) -> Training:
    """What a seed came to; replicates of it count once, by their mean, and have no bits that another could equal."""
    selection = replicates[0]["identity"]["protocol"].get("selection", "last")
    top1 = [record["scores"][selection]["top1"] for record in replicates]
    first, alone = replicates[0], len(replicates) == 1
    cost = first["cost"]
    reference, own = cost.get("reference_images_per_s"), cost["train_images_per_s"]
    return Training(
        seed=first["seed"],
        top1=sum(top1) / len(top1),
        predictions=(first["predictions"] or {}).get("sha256", "") if alone else "",
        weights=first["weights_sha256"] if alone else "",
        speed=own / reference if own and reference else None,
        # A worker measures its device's ceiling once, so that two processes hardly ever have the same.
        process=cost.get("ceiling_gflops_per_s"),
    )


def what_differs(old: Side, new: Side, names: Iterable[str]) -> list[str]:
    """The values among ``names`` of the identity in which the sides differ, as ``name: old, now new``.

    A plugin's code is none of them.
    """
    found = []
    for name in names:
        before, after = (_flat(side.identity.get(name), name) for side in (old, new))
        for field in sorted((before.keys() | after.keys()) - CODE):
            if before.get(field) != after.get(field):
                found.append(f"{field}: {before.get(field, 'absent')}, now {after.get(field, 'absent')}")
    return found


def _flat(value: Any, name: str) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {field: text for key, inner in value.items() for field, text in _flat(inner, f"{name} {key}").items()}
    text = value if isinstance(value, str) else json.dumps(value)
    return {name: text if len(text) <= 20 else f"{text[:12]}…"}
