"""Weight files: read without running anything in them, and identified by what they hold, not by how they are packed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kdbench.errors import CheckpointError, reason
from kdbench.folders import write_atomically
from kdbench.records.reading import check_regular
from kdbench.teachers.published import plain_weights, read_published

#: Under these names a file that is kept says the digest of its weights, and of a student's which network it is.
DIGEST, STUDENT = "kdbench weights", "kdbench student"
#: What the names of a student's weights begin with, as those of its network's body.
BODY = "body."


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor, by name.

    Batch counters are left out, as no output depends on them.

    The same weights have the same digest as .safetensors, as .pt and in memory.
    """
    total = hashlib.sha256(b"kdbench weights 1\n")
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):
            continue
        tensor = state[name].detach().cpu()
        total.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        if tensor.dtype == torch.bfloat16:  # numpy has no such type; the bytes are what counts
            tensor = tensor.view(torch.int16)
        total.update(tensor.numpy().tobytes(order="C"))
    return total.hexdigest()


def read_weights(path: Path, key: str = "") -> dict[str, Tensor]:
    """The state_dict that somebody published in ``path``, under ``key`` where there are several.

    Of a student that was kept it is that of its body. CheckpointError names a bad file.
    """
    state = read_published(path, key)
    if STUDENT in said_of(path) and all(name.startswith(BODY) for name in state):
        return {name.removeprefix(BODY): value for name, value in state.items()}
    return state


def said_of(path: Path) -> dict[str, str]:
    """What the file ``path`` says of itself: nothing unless it is a .safetensors. CheckpointError if damaged."""
    if path.suffix != ".safetensors":
        return {}
    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The weights in {path} cannot be read ({reason(error)}); delete that file.") from None


def write_weights(state: Mapping[str, Tensor], path: Path, said: Mapping[str, str] | None = None) -> None:
    """Keep ``state``, its digest and what else is ``said`` in the .safetensors file ``path``, which is always whole."""
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    write_atomically(path, save(kept, metadata={**(said or {}), DIGEST: weights_digest(kept)}))


def kept_weights(path: Path) -> dict[str, Tensor]:
    """What ``write_weights`` kept at ``path``; CheckpointError unless it is that, to the last bit."""
    said, state = said_of(path), plain_weights(path)
    if said.get(DIGEST) != weights_digest(state):
        raise CheckpointError(f"The weights in {path} are not those that were kept there; delete that file.")
    return state
