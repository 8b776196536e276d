"""Seeded, stratified splits that are the same on every platform, numpy release and run; and shares of processes."""

from __future__ import annotations

import hashlib

import numpy as np

from kdbench.data.spec import Labels
from kdbench.errors import UserError


def philox(purpose: str, seed: int) -> np.random.Philox:
    """The counter-based stream that belongs to (purpose, seed) alone."""
    key = hashlib.sha256(f"kdbench:{purpose}:{seed}".encode()).digest()[:16]
    return np.random.Philox(key=int.from_bytes(key, "little"))


def split(labels: Labels, holdout: int, seed: int, purpose: str = "validation") -> tuple[Labels, Labels]:
    """Sorted indices (train, held out): exactly ``holdout`` samples, each class in proportion (largest remainder).

    Sample i's place in its class's lottery is the i-th raw 64-bit word of the stream, so nothing depends on numpy's
    shuffling algorithm, which may change between releases (NEP 19). ``holdout=0`` holds nothing out.
    """
    n = len(labels)
    if not 0 <= holdout < max(n, 1):
        raise UserError(f"A validation split must hold out 0 to {n - 1} of the {n} training images, not {holdout}.")
    classes, counts = np.unique(labels, return_counts=True)
    quota = quotas(counts, holdout)
    words = philox(purpose, seed).random_raw(n)
    held = np.zeros(n, dtype=bool)
    for label, take in zip(classes, quota, strict=True):
        members = np.flatnonzero(labels == label)
        held[members[np.argsort(words[members], kind="stable")[:take]]] = True
    return np.flatnonzero(~held).astype(np.int64), np.flatnonzero(held).astype(np.int64)


def held_out(labels: Labels, own: int, holdout: int, seed: int) -> tuple[Labels, Labels]:
    """Indices (train, held out) of a training set of which the last ``own`` images are its own validation split.

    These are held out where ``holdout`` says so, and never trained on; without any, ``split`` draws.
    """
    if not own:
        return split(labels, holdout, seed)
    places = np.arange(len(labels), dtype=np.int64)
    return places[:-own], places[-own:] if holdout else places[:0]


def quotas(counts: Labels, wanted: int) -> Labels:
    """How many of each class to take for ``wanted`` in all, in proportion to ``counts``, by largest remainder."""
    quota, remainder = np.divmod(counts * wanted, max(int(counts.sum()), 1))
    quota[np.argsort(-remainder, kind="stable")[: wanted - int(quota.sum())]] += 1
    return quota


def split_digest(train: Labels, held_out: Labels) -> str:
    """sha256 of a split's two index lists, as it goes into a trial's key."""
    digest = hashlib.sha256(f"kdbench split 1 {len(train)} {len(held_out)}\n".encode())
    for indices in (train, held_out):
        digest.update(indices.astype("<i8").tobytes())
    return digest.hexdigest()


def shards(n: int, rank: int, world: int) -> range:
    """Which of ``n`` things the process ``rank`` of ``world`` takes: each one is taken once, and none is repeated.

    Samplers that repeat a few to give every process as many count those twice in an evaluation.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank must be one of 0 to {world - 1}, not {rank}")
    return range(rank, n, world)
