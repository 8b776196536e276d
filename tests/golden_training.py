"""A training of a few hundred steps, and the digests of its weights on every platform that was asked.

``python tests/golden_training.py`` trains it and keeps this platform's digests: after a change that is meant to move
numbers, for which ENGINE_VERSION or the method's version has been raised, and on a platform that has none yet.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from bench import Bench, suite_text

from kdbench.methods import METHODS
from kdbench.suites import parse_suite
from kdbench.train.device import numerics
from kdbench.trials.trial import ENGINE_VERSION

PLACE = Path(__file__).parent / "goldens" / "training.json"
#: 24 steps each.
EPOCHS = 13
OTHER = {
    "precision": "bf16",
    "fold": True,
    "augmentation": "crop_flip",
    "schedule": "multistep",
    "milestones": [6, 10],
    "nesterov": True,
}
ROWS = [
    *("ce", "kd", "fitnet"),
    {"name": "kd", "label": "kd-other", "protocol": OTHER},
    {"name": "kd", "label": "kd-norms", "protocol": {"compile": "norms"}},
]


def platform() -> str:
    machine = numerics(torch.device("cpu"))
    return f"torch {machine['torch']}, {machine['device_name']}, {machine['isa']}"


def kept() -> dict[str, dict[str, str]]:
    """Digests by platform."""
    found: dict[str, dict[str, str]] = json.loads(PLACE.read_text(encoding="utf-8"))
    return found


def trained(bench: Bench) -> dict[str, str]:
    """The digest of each row's weights, by its label, and the versions that it belongs to."""
    suite = parse_suite(suite_text(ROWS, epochs=EPOCHS, batch=50), "golden.toml")
    records = bench.train(bench.trials(suite))
    versions = {f"version of {name}": str(METHODS.get(name).version) for name in ("ce", "kd", "fitnet")}
    digests = {label: str(record["weights_sha256"])[:16] for label, record in records.items()}
    return {"version of the engine": str(ENGINE_VERSION), **versions, **digests}


def main() -> None:
    with TemporaryDirectory() as folder:
        every = {**kept(), platform(): trained(Bench(Path(folder)))}
    PLACE.write_text(json.dumps(every, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{PLACE} has the digests of {platform()}")


if __name__ == "__main__":
    main()
