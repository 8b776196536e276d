"""Scores as model hubs read them: an ``.eval_results`` file for each network, in the form of Hugging Face's hub.

The form: https://huggingface.co/docs/hub/eval-results. It is YAML, of which JSON's scalars are a part.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kdbench.data import DATASETS
from kdbench.stats.aggregate import Record

#: The task of a data set that has but one, as the hub calls it.
TASK = "default"


def eval_results(records: Iterable[Record]) -> Iterator[tuple[str, str]]:
    """Path and text of a file for the network of each finished one of ``records``.

    A network goes with a record, so the path ends with the first digits of its weights' digest. Data sets that the hub
    has not are left out.
    """
    for record in records:
        spec = DATASETS.get(record["dataset"]) if record["dataset"] in DATASETS else None
        if record["status"] == "finished" and spec is not None and spec.hub is not None:
            yield _path(record), _yaml(_entry(record, spec.hub))


def _path(record: Record) -> str:
    network = f"{record['label']}.seed-{record['seed']}.{record['weights_sha256'][:12]}"
    pair = record["pair"].replace(":", "--")
    return f"{record['suite']}/{record['dataset']}/{pair}/{network}/.eval_results/kdbench.yaml"


def _entry(record: Record, dataset: str) -> dict[str, Any]:
    selection = record["identity"]["protocol"].get("selection")
    selection = selection if selection == "best_val" else "last"
    score = record["scores"][selection] or record["scores"]["last"]
    notes = (
        f"Test top-1 accuracy in percent, kdbench {record['provenance']['kdbench']}, suite {record['suite']}, "
        f"{record['label']} on {record['pair']}, seed {record['seed']}, epoch {score['epoch']} ({selection}); "
        f"weights sha256 {record['weights_sha256']}; evidence: {record['evidence']}"
    )
    return {
        "dataset": {"id": dataset, "task_id": TASK},
        "value": round(score["top1"], 4),
        "date": record["provenance"]["created"],
        "notes": notes,
    }


def _yaml(entry: Mapping[str, Any]) -> str:
    """A list of the one ``entry``."""
    lines = []
    for name, value in entry.items():
        if isinstance(value, Mapping):
            lines += [f"{name}:", *(f"  {inner}: {_scalar(text)}" for inner, text in value.items())]
        else:
            lines.append(f"{name}: {_scalar(value)}")
    return "".join(f"{'- ' if number == 0 else '  '}{line}\n" for number, line in enumerate(lines))


def _scalar(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
