"""What ``show`` says of a data set."""

from __future__ import annotations

from collections.abc import Iterator

from kdbench.cli.fields import field, section
from kdbench.data import DATASETS, data_root
from kdbench.suites import parsed_suites


def lines(name: str) -> Iterator[str]:
    """What the data set ``name`` is, and what is wanted of it where."""
    spec = DATASETS.get(name)
    channels, height, width = spec.image_shape
    yield f"data set {spec.name}: {spec.title}, from {DATASETS.origin(name)}"
    yield ""
    yield field("classes", spec.classes)
    yield field("images", f"{spec.train_size} to train on, {spec.test_size} to test on")
    yield field("shape", f"{channels} channel{'s' * (channels > 1)} of {height} x {width} pixels")
    yield field("mean", ", ".join(map(str, spec.mean)))
    yield field("deviation", ", ".join(map(str, spec.std)))
    yield field("source", f"{spec.source}. {spec.url}")
    yield field("licence", spec.licence)
    yield field("files", spec.files)
    yield field("data root", data_root(None))
    yield field("download", "kdbench run --download fetches it" if spec.downloadable else "kdbench does not fetch it")
    yield field("digest", spec.digest or "none is known")
    yield from section("sha1 of its files", (f"{sha1}  {file}" for file, sha1 in spec.sha1.items()))
    yield from section("suites", (suite.id for suite in parsed_suites() if suite.dataset == name))
