"""The teacher's outputs, kept on disk: for protocols under which an image looks the same in every epoch.

Kept are logits and pooled features of whole batches of the protocol's size, as the bits of a forward pass depend on
that size alone and not on which images stand where (measured, and tried again before each use). A short last batch
goes through the teacher as ever, so a training has the same bits with and without.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdbench.canonical import digest
from kdbench.data.whole import whole_folder
from kdbench.errors import reason
from kdbench.methods.card import MethodSpec
from kdbench.models.composed import Composed
from kdbench.models.outputs import PARTS, Outputs
from kdbench.train.batches import Batch, Batches
from kdbench.train.taught import Taught, teach

#: The parts that are kept beside the logits.
KEPT = frozenset({"pooled"})
#: Of the disk's free space, what one teacher's outputs may take.
SHARE = 0.5


@dataclass(frozen=True)
class Remembered:
    """Memory-mapped logits [N,K] and pooled features [N,D] of the training split, in sample-index order."""

    arrays: Mapping[str, NDArray[np.float32]]
    batch: int
    device: torch.device

    def recall(self, batch: Batch, parts: frozenset[str]) -> Taught | None:
        """What the teacher says of ``batch``; None where that is not kept: a short batch, a view, another part."""
        if len(batch.y) != self.batch or batch.views or not parts <= KEPT:
            return None
        rows = batch.index.cpu().numpy()
        found = {name: torch.from_numpy(self.arrays[name][rows]).to(self.device) for name in ("logits", *parts)}
        return Taught(Outputs(**found), {})


def recalled_by(methods: Iterable[MethodSpec]) -> bool:
    """Whether a cohort of ``methods`` needs no more than what is kept: for one that does, the teacher runs anyway."""
    taught = [method for method in methods if method.needs_teacher]
    return bool(taught) and all(method.needs & PARTS <= KEPT and not method.views for method in taught)


def remember(
    folder: Path,
    teacher: nn.Module,
    batches: Batches,
    identity: Sequence[Any],
    say: Callable[[str], None],
    beat: Callable[[], object] = lambda: None,
) -> Remembered | None:
    """Open or make the memory of ``teacher``; None where the views change, or where it would not pay or not fit.

    ``identity`` says what the outputs depend on beside what the split and the batch size say. ``say`` is told in a
    sentence what is about to be written, and how large it is; ``beat`` is called before each batch of it.
    """
    protocol = batches.protocol
    if protocol.augmentation != "none" or protocol.epochs < 2 or len(batches.train) < protocol.batch:
        return None
    named = ("batch", "holdout", "split_seed", "precision", "threads", "fold", "compile")
    place = folder / digest([identity, {name: getattr(protocol, name) for name in named}])[:20]
    try:
        arrays = _open(place) or (_open(place) if _write(place, teacher, batches, say, beat) else {})
    except OSError as error:  # a full or read-only disk costs time, not the training
        say(f"the teacher's outputs cannot be kept: {reason(error)}")
        return None
    kept = Remembered(arrays, protocol.batch, batches.device)
    if arrays and _same(kept, teacher, batches):
        return kept
    if arrays:
        say(f"the teacher's outputs in {place} are not what it says here, so it runs at every step")
    return None


def _open(place: Path) -> dict[str, NDArray[np.float32]]:
    """What is kept in ``place``; nothing where that is not whole."""
    try:
        digests = json.loads((place / "complete.json").read_text(encoding="utf-8"))
        if "logits" not in digests or any(_sha256(place / f"{name}.npy") != found for name, found in digests.items()):
            raise ValueError(f"{place} is damaged")
        return {name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in digests}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        shutil.rmtree(place, ignore_errors=True)
        return {}


def _write(
    place: Path, teacher: nn.Module, batches: Batches, say: Callable[[str], None], beat: Callable[[], object]
) -> bool:
    """Whether all was written; False where it would take more than SHARE of the disk."""
    images, size = len(batches.train), batches.protocol.batch
    first = _kept(_show(teacher, batches, range(size)))
    total = sum(4 * images * part.shape[1] for part in first.values())
    place.parent.mkdir(parents=True, exist_ok=True)
    if total > SHARE * shutil.disk_usage(place.parent).free:
        say(f"the teacher's outputs would take {total / 1e6:,.1f} MB of a disk that is too full; it runs at every step")
        return False
    say(f"keeping the teacher's outputs of {images:,} images: {total / 1e6:,.1f} MB in {place}")
    with whole_folder(place) as unfinished:
        arrays = {name: _room_for(unfinished / f"{name}.npy", images, part.shape[1]) for name, part in first.items()}
        # The last ones again, rather than a short batch with bits of its own.
        for start in [*range(0, images - size, size), images - size]:
            beat()
            for name, part in _kept(_show(teacher, batches, range(start, start + size))).items():
                arrays[name][start : start + size] = part.cpu().numpy()
        for array in arrays.values():
            array.flush()
        digests = {name: _sha256(unfinished / f"{name}.npy") for name in sorted(arrays)}
        (unfinished / "complete.json").write_text(json.dumps(digests), encoding="utf-8")
    return True


def _room_for(path: Path, images: int, width: int) -> NDArray[np.float32]:
    """A new file of zeros, mapped. OSError where the disk has no room, which writing to a mapped hole would die of."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(images, width))
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _show(teacher: nn.Module, batches: Batches, places: range) -> Taught:
    return teach(teacher, batches.of(torch.tensor(places)), _had(teacher), ())


def _had(teacher: nn.Module) -> frozenset[str]:
    """Of the parts that are kept, those that ``teacher`` has."""
    return frozenset() if isinstance(teacher, Composed) else KEPT


def _kept(taught: Taught) -> dict[str, Tensor]:
    outputs = taught.outputs
    return {"logits": outputs.logits} | ({} if outputs.pooled is None else {"pooled": outputs.pooled})


def _same(kept: Remembered, teacher: nn.Module, batches: Batches) -> bool:
    """Whether a batch in training order has the bits that are kept of its images, on this machine."""
    batch = batches.batch(0)
    recalled = kept.recall(batch, _had(teacher))
    now = teach(teacher, batch, _had(teacher), ())
    return recalled is not None and all(
        torch.equal(one, other) for one, other in zip(recalled.tensors(), now.tensors(), strict=True)
    )
