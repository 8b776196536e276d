"""What a data set is (DatasetSpec), where its bytes are (Source), and what loading it gives (Dataset)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdbench.data.files import ImageFiles, View

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Folder:
    """A folder of classes on this machine that a suite names: ``train`` and ``val`` or ``test``, or one to be split.

    Of one that is split, the share ``test`` of each class is drawn by ``seed`` and tested on. ``broken``: what becomes
    of a file that nobody should learn from, ``refuse`` or ``skip``.
    """

    path: str
    test: float = 0.2
    seed: int = 0
    view: View = field(default_factory=View)
    broken: str = "refuse"


@dataclass(frozen=True)
class DatasetSpec:
    """A data set as plan, records and pages know it.

    ``image_shape`` is (C, H, W); ``mean`` and ``std`` are per channel of the training images scaled to [0,1].
    ``loader`` is ``module:function``, a function ``(spec, root) -> Source``, DataError when files are missing.
    ``digest`` is the official content digest (``identity.content_digest``) or None when unknown; ``sha1`` holds the
    published checksums of files, by name; ``files`` says to a person which files are wanted where, below the data root,
    or that it is nothing, and why; ``torchvision`` names the class of ``torchvision.datasets`` that can download it;
    ``test_labels`` is the ``labels_digest`` of the official test labels, by which anybody's predictions are checked;
    ``hub`` is what Hugging Face's hub calls the data set; ``views`` is ``module:function``, a function ``(spec) ->
    ClassViews``, where a class has two views and it is known which a test image shows;
    ``val_size`` is how many training images, the last ones, are its own validation split; ``folder`` is where a suite's
    own images are.
    """

    name: str
    title: str
    classes: int
    image_shape: tuple[int, int, int]
    train_size: int
    test_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    loader: str
    digest: str | None
    files: str
    source: str
    url: str
    licence: str
    torchvision: str | None = None
    test_labels: str | None = None
    hub: str | None = None
    views: str | None = None
    sha1: Mapping[str, str] = field(default_factory=dict, hash=False)
    val_size: int = 0
    folder: Folder | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all its images, as arrays."""
        return (self.train_size + self.test_size) * math.prod(self.image_shape)

    @property
    def needs_files(self) -> bool:
        """Whether files are wanted below the data root."""
        return not self.files.startswith("nothing")

    @property
    def downloadable(self) -> bool:
        return self.torchvision is not None


def spec_from_json(raw: Mapping[str, Any]) -> DatasetSpec:
    """The spec that ``kdbench.canonical.plain`` made plain, after a way through JSON."""
    values = dict(raw)
    for name in ("image_shape", "mean", "std"):
        values[name] = tuple(values[name])
    if (folder := values["folder"]) is not None:
        values["folder"] = Folder(**{**folder, "view": View(*folder["view"])})
    return DatasetSpec(**values)


def labels_digest(labels: npt.NDArray[Any]) -> str:
    """The sha256 of labels [N] as eight-byte integers, the lowest byte first."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()


#: Of an image that shows both views of its class.
BOTH = 0


class ClassViews(NamedTuple):
    """Of test images: their ``labels`` [N], and which view of its class each has ``shown`` [N]: BOTH, 1 or 2."""

    labels: Labels
    shown: Labels


class Part(NamedTuple):
    """Images [N,C,H,W] uint8, or the files they are in, and labels [N] int64, in the official order."""

    images: Images | ImageFiles
    labels: Labels


@dataclass(frozen=True)
class Source:
    """The files of one copy of a data set, found but not read yet.

    ``read`` gives (train, test) and raises DataError for a file that is truncated or impossible. ``verified`` says that
    it also refuses any file but the official one. ``notes`` are sentences for every record.
    """

    files: tuple[Path, ...]
    read: Callable[[], tuple[Part, Part]] = field(repr=False)
    verified: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, mapped from its files, or left in them; ``warnings`` say what is not official about it."""

    spec: DatasetSpec
    train_images: Images | ImageFiles = field(repr=False)
    train_labels: Labels = field(repr=False)
    test_images: Images | ImageFiles = field(repr=False)
    test_labels: Labels = field(repr=False)
    digest: str
    warnings: tuple[str, ...] = ()
