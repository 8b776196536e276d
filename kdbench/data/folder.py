"""A folder of pictures that a suite names: a folder for each class, below ``train``, ``val`` and ``test`` or as it is.

Labels follow the sorted names of the class folders. What is no image by its extension, or begins with a dot, is left
out. Counts and the channels' statistics are found by looking, and remembered in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kdbench.data.files import ImageFiles
from kdbench.data.imagefolder import EXTENSIONS, is_image
from kdbench.data.sound import looks
from kdbench.data.spec import DatasetSpec, Folder, Labels, Part, Source
from kdbench.data.splits import split
from kdbench.errors import DataError, listed, reason, shown
from kdbench.folders import write_atomically
from kdbench.paths import cache_dir

#: Training images that the channels' statistics are of: more change the fourth digit at most.
LOOKED_AT = 2000
MODES = {1: "L", 3: "RGB"}
#: Files that a sentence names.
MOST_NAMED = 20
#: What every record says where files were left out.
SKIPPED = "{}: {} left out, as they hold no picture to learn from."
LOADER = "kdbench.data.folder:folder_source"


@dataclass(frozen=True)
class _Listing:
    """The images of one part: image i is ``names[i]`` in the folder ``folders[places[i]]``, of the class ``labels[i]``.

    The ``folders`` lie below ``root``.
    """

    root: Path
    folders: tuple[str, ...]
    names: npt.NDArray[np.bytes_]
    places: Labels
    labels: Labels
    #: A digest of each file's bytes, once they were looked at.
    marks: npt.NDArray[np.bytes_] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, chosen: Labels) -> _Listing:
        marks = None if self.marks is None else self.marks[chosen]
        return _Listing(self.root, self.folders, self.names[chosen], self.places[chosen], self.labels[chosen], marks)

    def __add__(self, other: _Listing) -> _Listing:
        return _Listing(
            self.root,
            self.folders + other.folders,
            np.concatenate([self.names, other.names]),
            np.concatenate([self.places, other.places + len(self.folders)]),
            np.concatenate([self.labels, other.labels]),
            None if self.marks is None or other.marks is None else np.concatenate([self.marks, other.marks]),
        )

    def paths(self) -> Iterator[Path]:
        for place, name in zip(self.places, self.names, strict=True):
            yield self.root / self.folders[place] / os.fsdecode(bytes(name))

    def part(self, spec: DatasetSpec, view: Any) -> Part:
        files = ImageFiles(self.root, self.folders, self.names, self.places, spec.image_shape, view, self.marks)
        return Part(files, self.labels)


@dataclass(frozen=True)
class _Parts:
    classes: tuple[str, ...]
    train: _Listing
    val: _Listing | None
    test: _Listing
    skipped: int = 0


def described(
    name: str,
    title: str,
    source: str,
    folder: Folder,
    image_shape: tuple[int, int, int],
    mean: list[float],
    std: list[float],
) -> DatasetSpec:
    """The data set in ``folder``, which ``source`` names. DataError where it is none.

    ``mean`` and ``std`` are measured where they are empty.
    """
    parts = _found(folder)
    mean, std = (mean, std) if mean and std else _statistics(parts.train, image_shape[0])
    val = 0 if parts.val is None else len(parts.val)
    return DatasetSpec(
        name=name,
        title=title,
        classes=len(parts.classes),
        image_shape=image_shape,
        train_size=len(parts.train) + val,
        test_size=len(parts.test),
        mean=tuple(mean),
        std=tuple(std),
        loader=LOADER,
        digest=None,
        files=f"the pictures in {folder.path}",
        source=source,
        url="",
        licence="not stated",
        val_size=val,
        folder=folder,
    )


def class_names(folder: Folder) -> tuple[str, ...]:
    """The names of the classes, in the order of their labels."""
    return _found(folder).classes


def folder_source(spec: DatasetSpec, root: Path) -> Source:
    """The loader: the images are where the suite says, whatever the data ``root``, and there is no official copy."""
    folder = spec.folder
    if folder is None:
        raise ValueError(f"data set {spec.name} names no folder")
    parts = _found(folder)
    learnt = parts.train if parts.val is None else parts.train + parts.val

    def read() -> tuple[Part, Part]:
        return learnt.part(spec, folder.view), parts.test.part(spec, folder.view)

    folders = {each.root / name for each in (learnt, parts.test) for name in each.folders}
    notes = (SKIPPED.format(spec.title, _files(parts.skipped)),) if parts.skipped else ()
    return Source(tuple(sorted(folders)), read, verified=True, notes=notes)


def _found(folder: Folder) -> _Parts:
    """The parts of ``folder``; DataError says what of it cannot be learnt from or tested on."""
    root = Path(folder.path)
    inside = _folders(root)
    if "train" in inside:
        if not {"val", "test"} & set(inside):
            raise DataError(f"{root} has a folder train, but neither val nor test; add one, or take away the parts.")
        classes = _classes(root / "train")
        parts: dict[str, _Listing] = {
            part: _listing(root, part, classes) for part in ("train", "val", "test") if part in inside
        }
        rest, skipped = _sound(folder, classes, parts)
        train = rest.pop("train")
        return _Parts(
            classes, train, rest.get("val") if len(rest) > 1 else None, rest.get("test") or rest["val"], skipped
        )
    classes = _classes(root)
    sound, skipped = _sound(folder, classes, {"": _listing(root, "", classes)})
    whole = sound[""]
    wanted = round(folder.test * len(whole))
    learnt, tested = split(whole.labels, min(wanted, len(whole) - 1), folder.seed, purpose="test")
    lacking = [each for label, each in enumerate(classes) if label not in whole.labels[learnt]]
    if lacking or not len(tested):
        which = f"of class {lacking[0]} none is left to train on" if lacking else "none is left to test on"
        raise DataError(f"{root}: with a share of {folder.test} tested on, {which}; add images, or change the share.")
    return _Parts(classes, whole[learnt], None, whole[tested], skipped)


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def _sound(folder: Folder, classes: tuple[str, ...], parts: dict[str, _Listing]) -> tuple[dict[str, _Listing], int]:
    """``parts`` without the files that hold no picture to learn from, and how many these are.

    DataError that names them, unless they are to be skipped, or where a class has no other.
    """
    root = Path(folder.path)
    paths = [path for part in parts.values() for path in part.paths()]
    found = iter(looks(root, paths))
    seen = {name: list(islice(found, len(part))) for name, part in parts.items()}
    bad = [(path, look.problem) for path, look in zip(paths, chain(*seen.values()), strict=True) if look.problem]
    if bad and folder.broken == "refuse":
        which = "; ".join(f"{path.relative_to(root)}: {problem}" for path, problem in bad[:MOST_NAMED])
        more = f"; and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
        raise DataError(
            f"{root} has {_files(len(bad))} that nobody should learn from ({which}{more}); repair or remove them, "
            'or write broken = "skip" under [dataset].'
        )
    kept = {}
    for name, part in parts.items():
        marked = replace(part, marks=np.array([look.mark.encode() for look in seen[name]]))
        kept[name] = marked[np.array([number for number, look in enumerate(seen[name]) if not look.problem], np.int64)]
        lacking = [each for label, each in enumerate(classes) if label not in kept[name].labels]
        if lacking and (name in ("", "train") or not len(kept[name])):
            raise DataError(f"{root / name / lacking[0]} has no picture left that can be learnt from; fill it.")
    return kept, len(bad)


def _classes(folder: Path) -> tuple[str, ...]:
    names = _folders(folder)
    if len(names) < 2:
        loose = any(is_image(entry) for entry in os.listdir(folder))
        has = f"one class folder, {names[0]}" if names else "pictures and no class folders" if loose else "no folders"
        raise DataError(f"{folder} has {has}; a data set has a folder for each of two classes or more.")
    return names


def _folders(folder: Path) -> tuple[str, ...]:
    """The names of the folders in ``folder`` that are not hidden, sorted."""
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {reason(error)}; name a folder of pictures.") from None


def _listing(root: Path, part: str, classes: tuple[str, ...]) -> _Listing:
    """The images of ``part``, by class and name. DataError where it has a class that is not learnt, or no image."""
    folder = root / part
    if strange := sorted(set(_folders(folder)) - set(classes)):
        raise DataError(
            f"{folder} has the class {shown(strange[0])}, which {root / 'train'} lacks: there are {listed(classes)}; "
            "give both the same folders."
        )
    names: list[bytes] = []
    counts: list[int] = []
    for each in classes:
        home = folder / each
        found = sorted(filter(is_image, os.listdir(home))) if home.is_dir() else []
        if not found and part in ("", "train"):
            raise DataError(f"{home} holds no picture{_instead(home)}; fill it, or take the class away.")
        names += map(os.fsencode, found)
        counts.append(len(found))
    if not names:
        raise DataError(f"{folder} holds no picture in its class folders; fill them, or take it away.")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    return _Listing(
        root, tuple(f"{part}/{each}" if part else each for each in classes), np.array(names), labels, labels
    )


def _instead(home: Path) -> str:
    """What a class folder without a picture holds, as part of a sentence."""
    others = sorted(name for name in os.listdir(home) if not name.startswith(".")) if home.is_dir() else []
    return f", as none of {listed(others, 3)} ends in {', '.join(EXTENSIONS)}" if others else ""


def _statistics(train: _Listing, channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel of training images in [0, 1], each image counted alike; remembered."""
    step = -(-len(train) // LOOKED_AT)
    paths = list(train[np.arange(0, len(train), step)].paths())
    try:
        stats = [(str(path), stat.st_size, stat.st_mtime_ns) for path in paths for stat in [path.stat()]]
    except OSError as error:
        raise DataError(f"{train.root} cannot be read: {reason(error)}.") from None
    name = hashlib.sha256(repr((1, channels, stats)).encode()).hexdigest()[:24]
    place = cache_dir() / "identity" / f"channels-{name}.json"
    with suppress(OSError, ValueError, TypeError):
        mean, std = json.loads(place.read_text(encoding="utf-8"))
        return [float(each) for each in mean], [float(each) for each in std]
    sums = np.mean([_moments(path, MODES[channels]) for path in paths], axis=0)
    deviation = np.sqrt(np.maximum(sums[1] - sums[0] ** 2, 0))
    mean, std = ([round(float(each), 4) for each in values] for values in (sums[0], deviation))
    if not all(std):
        flat = f"channel {std.index(0) + 1} of" if any(std) else "every pixel of"
        raise DataError(
            f"{train.root}: {flat} all pictures is the same; write mean and std under [dataset], or channels = 1."
        )
    with suppress(OSError):  # they are measured again
        write_atomically(place, json.dumps([mean, std]).encode())
    return mean, std


def _moments(path: Path, mode: str) -> npt.NDArray[np.float64]:
    """[2,C]: the means of an image's pixels and of their squares."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(mode), np.float64) / 255
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise DataError(f"{path} cannot be decoded ({reason(error)}); replace it, or take it away.") from None
    pixels = pixels.reshape(-1, len(mode) if mode == "RGB" else 1)
    return np.stack([pixels.mean(0), (pixels**2).mean(0)])
