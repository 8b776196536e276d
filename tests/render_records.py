"""Made-up records and predictions for the tests of the site. No training stands behind any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kdbench.canonical import digest
from kdbench.methods import METHODS
from kdbench.records.literature import Literature, load
from kdbench.records.store import Store
from kdbench.stats.scores import score_predictions

#: A few reported rows, for tests that build a site but do not look at the literature.
FEW = Literature(load().rows[:3], load().sources)

IMAGES, CLASSES = 500, 20
PROTOCOL: dict[str, Any] = {
    "epochs": 4, "batch": 64, "lr": 0.1, "optimiser": "sgd", "momentum": 0.9, "schedule": "onecycle", "milestones": [],
    "augmentation": "crop_flip", "precision": "float32", "threads": 1, "holdout": 0, "selection": "last",
}  # fmt: skip
LABELS = np.random.default_rng(0).integers(0, CLASSES, IMAGES).astype(np.int16)


#: What every teacher here is right on, in percent.
TEACHER_TOP1 = 72.63
#: The selections, and how many epochs before the end each of them is made to lie here.
EPOCHS = {"last": 0, "best_val": 2, "best_test": 1}
COST: dict[str, Any] = {
    "parameters": 278324, "flops": 82000000, "train_images_per_s": 900.0, "train_images_per_s_shared": 700.0,
    "inference_images_per_s": 4000.0, "seconds": 220.0, "peak_memory_bytes": 900000000, "cohort_size": 5,
}  # fmt: skip


#: What a record's cost also has where the deployed network was timed.
SPEEDS: dict[str, Any] = {
    "inference_images_per_s_single": 100.0, "inference_images_per_s_best": 4200.0, "inference_best_batch": 64,
    "inference_fraction": 0.31, "train_fraction": 0.24, "reference_images_per_s": 2000.0, "ceiling_gflops_per_s": 90.0,
}  # fmt: skip


def predictions(
    accuracy: float, seed: int, images: int = IMAGES, selections: tuple[str, ...] = ("last", "best_test")
) -> dict[str, Any]:
    """Arrays of a prediction file; top-1 is near ``accuracy`` (0 to 1), a little higher for each further selection."""
    rng = np.random.default_rng(seed)
    labels = np.resize(LABELS, images)
    arrays: dict[str, Any] = {"labels": labels}
    easy = rng.random(images)
    for bonus, selection in enumerate(selections):
        right = easy < accuracy + 0.01 * bonus
        top = np.argsort(rng.random((images, CLASSES)), axis=1)[:, :5]
        top[:, 0] = np.where(right, labels, (labels + 1) % CLASSES)
        probability = np.clip(rng.normal(np.where(right, 0.8, 0.5), 0.1), 0.3, 0.99)
        arrays[f"{selection}_top5"] = top.astype(np.int16)
        arrays[f"{selection}_top_p"] = probability.astype(np.float16)
        arrays[f"{selection}_log_p_true"] = np.log(np.where(right, probability, 0.05)).astype(np.float16)
    return arrays


def record(
    method: str = "kd",
    pair: str = "resnet56:resnet20",
    seed: int = 0,
    *,
    label: str | None = None,
    stream: int = 0,
    suite: str = "cifar100-short@1",
    arrays: dict[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """A valid record; ``changes`` replace top-level fields, an ``identity`` among them before the key is made."""
    teacher, _, student = pair.partition(":")
    card = METHODS.get(method).describe() if method in METHODS else {"name": method, "version": 1}
    identity = changes.pop("identity", None) or {
        "engine": 1,
        "data": {"name": "cifar100", "sha256": "d" * 64},
        "protocol": PROTOCOL,
        "student": {"model": student},
        "teacher": None if teacher == "none" else {"kind": "checkpoint", "model": teacher, "weights_sha256": "a" * 64},
        "supervision": "full",
        "method": {"name": method, "version": card["version"], "config": {}, "source": None},
        "seed": seed,
        "stream": stream,
    }
    alone, finished = teacher == "none", changes.get("status", "finished") == "finished"
    epochs, scores = identity["protocol"]["epochs"], changes.pop("scores", None) or dict.fromkeys(EPOCHS)
    for selection, from_end in EPOCHS.items():
        if arrays and f"{selection}_top5" in arrays:
            rest = {"entropy": 1.2, "val_top1": None}
            scored = score_predictions(arrays, selection)
            beside = 100 - abs(scored["top1"] - TEACHER_TOP1)  # the most that it can be
            rest |= {"agreement": None, "kl_to_teacher": None} if alone else {"agreement": beside, "kl_to_teacher": 0.2}
            scores[selection] = {"epoch": epochs - from_end, **scored, **rest}
    made = {
        "schema_version": 1,
        "key": digest(identity),
        "identity": identity,
        "suite": suite,
        "dataset": "cifar100",
        "pair": pair,
        "teacher_model": None if teacher == "none" else teacher,
        "student_model": student,
        "label": label or method,
        "method": method,
        "config": {},
        "seed": seed,
        "stream": stream,
        "status": "finished",
        "detail": "",
        "evidence": "measured",
        "numerics": {"torch": "2.14.0", "device": "cpu", "device_name": "x", "driver": None, "isa": "AVX2"},
        "scores": scores,
        "curve": _curve(epochs, scores) if finished else [],
        "teacher": None if alone else _teacher(teacher),
        "cost": {**COST, "ratio_to_ce": 1.0 if method == "ce" else 1.07} if finished else None,
        "method_card": card,
        "weights_sha256": digest([method, pair, seed, stream]) if finished else None,
        "predictions": None,
        "provenance": {
            "kdbench": "0.1.0", "git_sha": None, "git_dirty": None, "plugin_sha256": None, "packages": {},
            "python": "3.11.2", "platform": "Linux x86_64", "created": "2026-01-01T00:00:00+00:00",
            "precision": "float32",
            "threads": 1, "attempts": 1, "resumed": 0,
        },
        "warnings": [],
    }  # fmt: skip
    return {**made, **changes}


def _curve(epochs: int, scores: dict[str, Any]) -> list[dict[str, Any]]:
    """A curve that has the accuracies of ``scores`` at their epochs, and bad ones elsewhere."""
    known = {score["epoch"]: score["top1"] for score in scores.values() if score}
    point = {"lr": 0.1, "losses": {"ce": 1.0}, "train_top1": 10.0, "val_top1": None, "seconds": 50.0}
    return [{**point, "epoch": epoch, "test_top1": known.get(epoch, 0.0)} for epoch in range(1, epochs + 1)]


def _teacher(name: str) -> dict[str, Any]:
    return {
        "name": f"{name}-imported", "kind": "checkpoint", "model": name, "weights_sha256": "a" * 64,
        "top1": TEACHER_TOP1, "top5": 91.94, "claimed_top1": 72.63, "unreliability": 0.0806, "ambiguity": 0.52,
        "top_k": 5, "source": "a release file",
    }  # fmt: skip


def put(
    store: Store, accuracy: float, method: str = "kd", pair: str = "resnet56:resnet20", seed: int = 0, **changes: Any
) -> Path:
    """Store a finished trial of about ``accuracy`` with its predictions."""
    shape = {k: changes.pop(k) for k in ("images", "selections") if k in changes}
    arrays = predictions(accuracy, digest_seed(method, pair, seed, changes.get("label")), **shape)
    return store.put(record(method, pair, seed, arrays=arrays, **changes), arrays)


def digest_seed(*parts: Any) -> int:
    return int(digest(list(parts))[:8], 16)


def fill(
    store: Store,
    pairs: tuple[str, ...] = ("resnet56:resnet20", "resnet110:resnet20", "vgg13:vgg8"),
    seeds: int = 3,
    **shape: Any,
) -> None:
    """A small suite: the student alone, three methods and an A/A row on each pair, one trial of which diverged."""
    for seed in range(seeds):
        for student in sorted({pair.partition(":")[2] for pair in pairs}):
            put(store, 0.52, "ce", f"none:{student}", seed, **shape)
        for pair in pairs:
            for method, accuracy in (("kd", 0.55), ("wttm", 0.58), ("dkd", 0.56)):
                if (method, pair, seed) == ("dkd", "vgg13:vgg8", 2):
                    store.put(
                        record(
                            method,
                            pair,
                            seed,
                            status="diverged",
                            detail="the loss was NaN at epoch 2",
                        )
                    )
                else:
                    put(store, accuracy, method, pair, seed, **shape)
            put(store, 0.55, "kd", pair, seed, label="kd-again", stream=1, **shape)
