"""From a data set's name to its images: find, fetch if asked, read, check, compare with the official digest."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kdbench import environment
from kdbench.data import mapped
from kdbench.data.builtin import BUILTIN
from kdbench.data.checks import check_labels
from kdbench.data.identity import Known, look, recall, stamp
from kdbench.data.spec import ClassViews, Dataset, DatasetSpec, Part, Source
from kdbench.errors import DataError, UserError, described, reason
from kdbench.paths import cache_dir, expanded
from kdbench.registry import OURS, Registry

DATASETS: Registry[DatasetSpec] = Registry("data set")
for _spec in BUILTIN:
    DATASETS.add(_spec.name, _spec, "kdbench")


def register(spec: DatasetSpec) -> DatasetSpec:
    """``spec``, of a folder that a suite names, registered from now on; UserError where another one has its name."""
    if spec.name in DATASETS:
        known = DATASETS.get(spec.name)
        if known.source != spec.source and replace(known, source=spec.source) != spec:
            raise UserError(
                f"{spec.source}: the name {spec.name!r} is another data set's, {known.title} from {known.source}; give "
                "this one another name."
            )
        DATASETS.forget(spec.name)
    DATASETS.add(spec.name, spec, OURS)
    return spec


#: Bytes of images that are hashed in every process: a second's work.
HASHED = 2**30


def data_root(option: str | None) -> Path:
    """The folder that holds the data sets: the option, else ``$KDBENCH_DATA``, else ``data`` in the cache folder."""
    chosen = expanded(option) if option else environment.folder("KDBENCH_DATA")
    return chosen or cache_dir() / "data"


def download_allowed(option: bool) -> bool:
    """Whether the user asked for downloads: by the option or by ``KDBENCH_DOWNLOAD=1``."""
    return environment.download() or option


def load(name: str, root: Path | None = None, download: bool = False) -> Dataset:
    """Load data set ``name`` from below ``root`` (default ``data_root(None)``).

    Counts, shapes and labels are always checked: DataError for a file that is missing, truncated or impossible. A copy
    whose content is not the official one is used, with warnings. Content is hashed, up to HASHED bytes of it; of more,
    and of images in files, what is remembered holds as long as the files look the same.
    """
    spec = DATASETS.get(name)
    source = _find(spec, root or data_root(None), download)
    known, now = recall(spec, source), stamp(source)
    holds = known is not None and known.stamp == now != ""
    parts = mapped.opened(spec, known.digest) if known and holds else None
    if known is None or parts is None:
        parts = _read(spec, source)
        if known is None or not holds or (spec.nbytes <= HASHED and not known.modified):
            known = _look(spec, source, parts, known, now)
        parts = mapped.keep(spec, known.digest, parts)
    train, test = parts
    return Dataset(spec, *train, *test, known.digest, known.warnings)


def identify(name: str, root: Path | None = None, download: bool = False) -> tuple[str, tuple[str, ...]]:
    """(content digest, warnings) of the copy below ``root``.

    Content is hashed, up to HASHED bytes of it; of more, what is remembered holds as long as the files look the same.
    Of images in files, each one is looked at.
    """
    spec = DATASETS.get(name)
    source = _find(spec, root or data_root(None), download)
    known, now = recall(spec, source), stamp(source)
    holds = known is not None and known.stamp == now != ""
    if known is None or not holds or spec.nbytes <= HASHED or known.modified:
        known = _look(spec, source, _read(spec, source), known, now)
    return known.digest, known.warnings


@contextmanager
def _unreadable(spec: DatasetSpec) -> Iterator[None]:
    """Turn what the operating system says of a file into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{spec.title} cannot be read: {reason(error)}; check the data root and its permissions."
        ) from error


def _find(spec: DatasetSpec, root: Path, download: bool) -> Source:
    locate = _loader(spec)
    with _unreadable(spec):
        try:
            return locate(spec, root)
        except DataError:
            if not (download and spec.downloadable):
                raise
        from kdbench.data.fetch import fetch

        fetch(spec, root)
        return locate(spec, root)


@cache
def views_of(spec: DatasetSpec) -> ClassViews | None:
    """Which views of their classes the test images of ``spec`` show; None where classes have none that are known."""
    return None if spec.views is None else _function(spec, spec.views)(spec)


def _loader(spec: DatasetSpec) -> Callable[[DatasetSpec, Path], Source]:
    return _function(spec, spec.loader)


def _function(spec: DatasetSpec, place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    try:
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except Exception as error:  # a plugin's module is other people's code: it may raise anything
        raise UserError(f"data set {spec.name!r}: cannot import its loader {place!r}: {described(error)}.") from error


def _read(spec: DatasetSpec, source: Source) -> tuple[Part, Part]:
    with _unreadable(spec):
        parts = source.read()
    _check(spec, parts)
    return parts


def _check(spec: DatasetSpec, parts: mapped.Parts) -> mapped.Parts:
    """``parts``, (train, test); DataError for counts, shapes or labels that the data set does not have."""
    train, test = parts
    for name, (images, labels), size in (("training", train, spec.train_size), ("test", test, spec.test_size)):
        for what, array, dtype, shape in (
            ("images", images, np.uint8, (size, *spec.image_shape)),
            ("labels", labels, np.int64, (size,)),
        ):
            if array.dtype != dtype or array.shape != shape:
                raise DataError(
                    f"{spec.title}: the {name} {what} are {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}."
                )
        check_labels(labels, spec, f"The {name} set")
    return parts


def _look(spec: DatasetSpec, source: Source, parts: mapped.Parts, known: Known | None, now: str) -> Known:
    with _unreadable(spec):
        return look(spec, source, parts, known, now)
