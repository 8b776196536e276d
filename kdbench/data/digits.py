"""scikit-learn's 1,797 handwritten digits of 8x8 pixels: always there, small enough for tests and tutorials."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdbench.data.checks import check_labels
from kdbench.data.spec import DatasetSpec, Part, Source
from kdbench.data.splits import split
from kdbench.errors import DataError, reason


def digits(spec: DatasetSpec, root: Path) -> Source:
    """The data set has no official split: ours is stratified, drawn from the stream ("digits-test", 0)."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("The digits come with scikit-learn, which is not installed; install kdbench's dependencies.")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"

    def read() -> tuple[Part, Part]:
        table = parsed(path)
        images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, *spec.image_shape)
        labels = table[:, -1].astype(np.int64)
        if len(images) != spec.train_size + spec.test_size:
            raise DataError(f"{path} holds {len(images)} images, not {spec.train_size + spec.test_size}.")
        check_labels(labels, spec, path)
        train, test = split(labels, spec.test_size, 0, purpose="digits-test")
        return Part(images[train], labels[train]), Part(images[test], labels[test])

    return Source((path,), read)


def parsed(path: Path) -> NDArray[np.float64]:
    """The table in scikit-learn's file, and not by its loader: importing scikit-learn takes a worker two seconds."""
    try:
        return np.loadtxt(path, delimiter=",")
    except ValueError as error:
        raise DataError(f"{path} is not the table of digits: {reason(error)}; install scikit-learn again.") from None
