"""How fast a suite's networks were trained and answered, on each device that timed them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

Record = Mapping[str, Any]

#: What a record's ``cost`` has where its network was timed.
TIMED = frozenset(
    {
        "inference_images_per_s_single",
        "inference_images_per_s_best",
        "inference_best_batch",
        "inference_fraction",
        "train_fraction",
        "reference_images_per_s",
        "ceiling_gflops_per_s",
    }
)


@dataclass(frozen=True)
class Speed:
    """One network on one device: medians over ``n`` records. Images a second, and shares of the device's ceiling.

    ``rows`` are those that deploy it, empty where it is the student itself. ``train`` and ``train_share`` are of the
    student alone, None where no ``ce`` record has them. ``to_reference`` is ``best`` relative to the reference network.
    """

    dataset: str
    model: str
    rows: tuple[str, ...]
    device: str
    threads: int
    n: int
    parameters: float
    flops: float
    train: float | None
    train_share: float | None
    single: float
    best: float
    batch: float
    share: float
    to_reference: float
    ceiling: float
    #: All rows whose records it is over.
    of: tuple[str, ...] = ()


def speeds(records: Iterable[Record]) -> list[Speed]:
    """The Speed of every network that ``records`` timed; records from before that was done are passed over."""
    networks: dict[tuple[Any, ...], dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["cost"] and record["cost"].keys() >= TIMED and record["numerics"]:
            threads = record["provenance"]["threads"]
            place = (record["dataset"], record["student_model"], record["numerics"]["device_name"], threads)
            networks[place][record["cost"]["flops"]].append(record)
    found = []
    for place, by_flops in sorted(networks.items()):
        student = max(by_flops, key=lambda flops: len(_rows(by_flops[flops])))
        found += [_speed(place, by_flops[flops], flops == student) for flops in sorted(by_flops)]
    return found


def _rows(records: Iterable[Record]) -> tuple[str, ...]:
    return tuple(sorted({record["label"] for record in records}))


def _speed(place: tuple[Any, ...], records: list[Record], is_student: bool) -> Speed:
    costs = [record["cost"] for record in records]
    plain = [record["cost"] for record in records if record["method"] == "ce"]
    alone = [cost for cost in plain if cost["train_images_per_s"] is not None]
    dataset, model, device, threads = place

    def middle(name: str) -> float:
        return float(median(cost[name] for cost in costs))

    return Speed(
        dataset=dataset,
        model=model,
        rows=() if is_student else _rows(records),
        device=device,
        threads=threads,
        n=len(records),
        parameters=middle("parameters"),
        flops=middle("flops"),
        train=median(cost["train_images_per_s"] for cost in alone) if alone else None,
        train_share=median(cost["train_fraction"] for cost in alone) if alone else None,
        single=middle("inference_images_per_s_single"),
        best=middle("inference_images_per_s_best"),
        batch=middle("inference_best_batch"),
        share=middle("inference_fraction"),
        to_reference=median(cost["inference_images_per_s_best"] / cost["reference_images_per_s"] for cost in costs),
        ceiling=middle("ceiling_gflops_per_s"),
        of=_rows(records),
    )
