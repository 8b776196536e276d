"""Images that stay in their files: what a data set too large for memory has in place of an array."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdbench.errors import DataError


class View(NamedTuple):
    """What of a picture is looked at: the crop in the middle, which has the share ``crop`` of each side.

    ``resize``: ``short`` resizes the shorter side first, ``squash`` both to the same length.
    """

    crop: float = 0.875
    resize: str = "short"
    interpolation: str = "bilinear"


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Files of images, with the length, shape and indexing of an array [N,C,H,W] that nobody has read.

    Image i is the file ``names[i]`` in the folder ``folder / classes[labels[i]]``; decoded it has the shape ``picture``
    (C, H, W), and shows what ``view`` says, or ImageNet's crop where there is none. The names are one array of bytes,
    as a million strings would take four times the memory.
    """

    folder: Path
    classes: tuple[str, ...]
    names: npt.NDArray[np.bytes_]
    labels: npt.NDArray[np.int64]
    picture: tuple[int, int, int]
    view: View | None = None
    #: A digest of each file's bytes, where somebody has looked into all of them.
    marks: npt.NDArray[np.bytes_] | None = None

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.picture)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, places: npt.NDArray[np.int64] | slice) -> ImageFiles:
        marks = None if self.marks is None else self.marks[places]
        return replace(self, names=self.names[places], labels=self.labels[places], marks=marks)

    def paths(self) -> Iterator[str]:
        """The path of each file, in order."""
        for relative in self._relative():
            yield f"{self.folder}{os.sep}{os.fsdecode(relative)}"

    def listing(self) -> Iterator[tuple[bytes, int, int]]:
        """Of each file its path below ``folder``, size in bytes and modification time. DataError for an empty file."""
        for relative, path in zip(self._relative(), self.paths(), strict=True):
            stat = os.stat(path)
            if not stat.st_size:
                raise DataError(f"{path} is empty; fetch it again.")
            yield relative, stat.st_size, stat.st_mtime_ns

    def _relative(self) -> Iterator[bytes]:
        folders = [os.fsencode(name) for name in self.classes]
        rows: Iterator[tuple[Any, Any]] = zip(self.labels, self.names, strict=True)
        return (b"%s/%s" % (folders[label], bytes(name)) for label, name in rows)
