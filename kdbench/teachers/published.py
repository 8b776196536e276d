"""Weights as people publish them: under other keys, with prefixes, beside options. Nothing in them is run."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from kdbench.errors import CheckpointError, UnknownName, listed, reason, shown
from kdbench.records.reading import check_regular

#: Under one of these, or one inside another, a checkpoint keeps its state_dict beside epoch and accuracy.
WRAPPERS = ("model", "state_dict", "model_state_dict", "net")
#: What trainers put before the names of all weights, in any order.
PREFIXES = ("module.", "model.", "net.", "backbone.", "student.", "_orig_mod.")
#: What weights may be made of.
DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8}) | {
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
}
#: Dictionaries inside one another that are looked into.
DEEPEST = 8

_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FOREIGN = re.compile(r"(?:Unsupported global: GLOBAL|Unsupported class) ([\w.]+)")
#: Classes that hold data and nothing else, as options and counts beside the weights do.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *sorted({type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}, key=lambda kind: kind.__name__),
    *((function, f"numpy.{home}.{name}") for home in ("_core.multiarray", "core.multiarray")
      for name in ("scalar",) if (function := getattr(np._core.multiarray, name))),
]  # fmt: skip


def read_published(path: Path, key: str = "") -> dict[str, Tensor]:
    """The state_dict in ``path``: a .safetensors, or a torch file read with ``weights_only=True``.

    ``key`` names it where the file holds several (``model_ema``), or what the names of one network's weights begin with
    where it holds several networks (``student``); dots lead into what is nested. Wrappers are opened, and prefixes that
    all names share are taken off. CheckpointError says what is wrong and what to do.
    """
    raw: Any = _content(path)
    for part in key.split(".") if key else ():
        raw = _part(raw, part, path, key)
    for _ in range(DEEPEST):
        inner = next((raw[name] for name in WRAPPERS if isinstance(raw, Mapping) and _is_state(raw.get(name))), None)
        if inner is None:
            break
        raw = inner
    return _bare(_checked(raw, path), path)


def plain_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in ``path`` by the names that they have there; CheckpointError where it holds anything else."""
    return _checked(_content(path), path)


def _checked(raw: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(raw, Mapping) or not raw or not all(isinstance(value, Tensor) for value in raw.values()):
        raise CheckpointError(f"{path} holds no state_dict of tensors{_choices(raw)}.")
    for name, value in raw.items():
        if what := _odd(name, value):
            raise CheckpointError(f"{path}: {shown(name)} is {what}; kdbench imports plain weights only.")
    return dict(raw)


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _choices(raw: object) -> str:
    """What could be meant where it is not plain, as the end of a sentence."""
    inner = [str(name)[:60] for name, value in raw.items() if _is_state(value)] if isinstance(raw, Mapping) else []
    if inner:
        return f" under a name that is known; name the one that you want as the teacher's key: {listed(inner)}"
    return "; kdbench imports plain weights only: save model.state_dict()"


def _part(raw: Any, part: str, path: Path, key: str) -> Any:
    """What ``raw`` has under ``part``: as a key, or as what names begin with."""
    if isinstance(raw, Mapping):
        if part in raw and isinstance(raw[part], Mapping):
            return raw[part]
        begun = {name.removeprefix(f"{part}."): v for name, v in raw.items() if str(name).startswith(f"{part}.")}
        if begun:
            return begun
    names = {str(name).partition(".")[0] for name in raw} if isinstance(raw, Mapping) else set()
    raise CheckpointError(f"{path}: {UnknownName('key', key, names)}")


def _bare(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """``state`` without the prefixes that all of its names share, and without any "module."."""
    bare = {name.removeprefix("module."): value for name, value in state.items()}
    if len(bare) < len(state):
        raise CheckpointError(f"{path} has weights under one name with and without 'module.'; keep one of them.")
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) and len(n) > len(p) for n in bare)), None):
        bare = {name.removeprefix(prefix): value for name, value in bare.items()}
    return bare


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


def _content(path: Path) -> Any:
    try:
        check_regular(path)  # a pipe would wait for its writer
    except OSError as error:
        raise CheckpointError(
            f"The weights in {path} cannot be read ({reason(error)}); fetch the file again."
        ) from None
    with _in_words(path):
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle's protocols, which whoever reads weights need not know
            return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file makes either library raise whatever its bytes happen to say
        said, cure = _cause(path, error)
        raise CheckpointError(f"The weights in {path} cannot be read ({said}); {cure}.") from None


def _cause(path: Path, error: Exception) -> tuple[str, str]:
    """Why ``path`` cannot be read, and what to do. torch explains at length how to run what may be in it: no advice."""
    again = "fetch the file again"
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError:
        return reason(error), again
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS", f"{again}: git lfs pull, or the download link in a browser"
    if start[:1] == b"<":
        return "it is a web page", f"{again} by its download link"
    text = _ESCAPE.sub("", str(error)[:2000])
    if "TorchScript" in text:
        return "it is a TorchScript program", "load it where it was made and save its state_dict() by torch.save"
    if found := _FOREIGN.search(text):
        return (
            f"it holds a {found[1][:80]}, an object that would run code",
            "load it where it was made and save its state_dict() alone",
        )
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or holds code", again
    return _ESCAPE.sub("", reason(error)), again
