"""Data sets: what they are, where they lie, whether they are the official ones. Imports no torch (augment.py does)."""

from __future__ import annotations

from kdbench.data.loading import DATASETS, data_root, download_allowed, identify, load, register, views_of
from kdbench.data.spec import Dataset, DatasetSpec
from kdbench.data.splits import held_out, split, split_digest

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetSpec",
    "data_root",
    "download_allowed",
    "held_out",
    "identify",
    "load",
    "register",
    "split",
    "split_digest",
    "views_of",
]
