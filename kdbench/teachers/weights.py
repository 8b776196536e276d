"""Weight files: read without running anything in them, and identified by what they hold, not by how they are packed."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from kdbench.errors import CheckpointError, reason, shown
from kdbench.folders import write_atomically

#: Under one of these a published checkpoint keeps its state_dict beside epoch and accuracy.
WRAPPERS = ("model", "state_dict", "net")
#: What weights may be made of.
DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8}) | {
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
}
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


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state_dict in ``path`` (.safetensors, or a torch file read with ``weights_only=True``).

    Of a student that was kept it is that of its body. CheckpointError names a bad file.
    """
    state = _read(path)
    if STUDENT in said_of(path) and all(name.startswith(BODY) for name in state):
        return {name.removeprefix(BODY): value for name, value in state.items()}
    return state


def said_of(path: Path) -> dict[str, str]:
    """What the file ``path``, which can be read, says of itself: nothing unless it is a .safetensors."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        raw = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged file makes either library raise whatever its bytes happen to say
        # torch explains at length how to run what may be in such a file, which is no advice.
        said = "it is damaged, or holds code" if isinstance(error, pickle.UnpicklingError) else reason(error)
        raise CheckpointError(f"The weights in {path} cannot be read ({said}); fetch the file again.") from None
    for wrapper in WRAPPERS:
        if isinstance(raw, dict) and isinstance(raw.get(wrapper), dict):
            raw = raw[wrapper]
    if not isinstance(raw, dict) or not raw or not all(isinstance(v, Tensor) for v in raw.values()):
        raise CheckpointError(f"{path} holds no state_dict of tensors; kdbench imports plain weights only.")
    for name, value in raw.items():
        if what := _odd(name, value):
            raise CheckpointError(f"{path}: {shown(name)} is {what}; kdbench imports plain weights only.")
    state = {name.removeprefix("module."): value for name, value in raw.items()}
    if len(state) < len(raw):
        raise CheckpointError(f"{path} has weights under one name with and without 'module.'; keep one of them.")
    return state


def _odd(name: object, value: Tensor) -> str:
    """What of a tensor is not plain, in words; empty where it is."""
    if not isinstance(name, str):
        return "no name"
    if value.is_meta:
        return "a tensor without values"
    if value.layout != torch.strided or value.is_nested:
        return "a sparse or nested tensor"
    if value.is_quantized or value.dtype not in DTYPES:
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    return ""


def write_weights(state: Mapping[str, Tensor], path: Path, said: Mapping[str, str] | None = None) -> None:
    """Keep ``state``, its digest and what else is ``said`` in the .safetensors file ``path``, which is always whole."""
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    write_atomically(path, save(kept, metadata={**(said or {}), DIGEST: weights_digest(kept)}))


def kept_weights(path: Path) -> dict[str, Tensor]:
    """What ``write_weights`` kept at ``path``; CheckpointError unless it is that, to the last bit."""
    state = _read(path)
    if said_of(path).get(DIGEST) != weights_digest(state):
        raise CheckpointError(f"The weights in {path} are not those that were kept there; delete that file.")
    return state
