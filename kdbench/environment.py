"""Variables of the environment: kdbench's own, and those that libraries compute by, which a worker does without."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from kdbench.errors import UserError

#: What the names of variables begin with by which torch, the libraries that it computes with, numpy and the C library
#: choose how they compute, or by which other libraries take their place (docs/adr/0015). Those of numpy's BLAS are left
#: alone: it computes no result, and some machines need it told.
FAMILIES = (
    "ATEN_",
    "CUBLAS",
    "CUDA_FORCE_PTX_JIT",
    "CUDNN_",
    "DISABLE_ADDMM_CUDA_LT",
    "DNNL_",
    "DYLD_INSERT_LIBRARIES",
    "GLIBC_TUNABLES",
    "GOMP_",
    "KMP_",
    "LD_AUDIT",
    "LD_PRELOAD",
    "MIOPEN_",
    "MKL_",
    "NPY_",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_",
    "ONEDNN_",
    "PYTORCH_",
    "TORCHDYNAMO_",
    "TORCHINDUCTOR_",
    "TORCH_",
    "TRITON_",
)
#: Of these, what is the machine's or the user's business: where things lie, how threads wait and where they run, how
#: memory is had, what is logged. None of it moves a bit. Which instructions torch's own operations use does, and is
#: among the numerics of a record; the numbers of threads are set in any case.
KEPT = (
    "ATEN_CPU_CAPABILITY",
    "GOMP_CPU_AFFINITY",
    "GOMP_SPINCOUNT",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "OMP_STACKSIZE",
    "OMP_WAIT_POLICY",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_KERNEL_CACHE_PATH",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "TORCHINDUCTOR_CACHE_DIR",
    "TORCHINDUCTOR_COMPILE_THREADS",
    "TORCH_CPP_LOG_LEVEL",
    "TORCH_CUDA_ARCH_LIST",
    "TORCH_EXTENSIONS_DIR",
    "TORCH_HOME",
    "TORCH_LOGS",
    "TORCH_SHOW_CPP_STACKTRACES",
    "TRITON_CACHE_DIR",
    "TRITON_HOME",
    "TRITON_LIBCUDA_PATH",
)
#: What every worker has: cuBLAS is deterministic with such a workspace only, and sets of a plugin's are walked through
#: in one order.
FIXED = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONHASHSEED": "0"}
#: Set while a process replaces itself by one with another environment.
_REPLACED = "_KDBENCH_REPLACED"


def concerns_numbers(name: str) -> bool:
    """Whether a library might compute otherwise for the variable ``name``."""
    return name.startswith(FAMILIES) and not name.startswith(KEPT)


def pinned(variables: Mapping[str, str]) -> dict[str, str]:
    """``variables`` as a worker has them: without those that change numbers, and with FIXED."""
    return {name: value for name, value in variables.items() if not concerns_numbers(name)} | FIXED


def pin() -> None:
    """Give this process the environment of a worker, before it has loaded a library that computes.

    Where it has another one, a new process takes its place: the loader of libraries and the C library read theirs when
    a process starts, and nothing else needs to be known of who reads when.
    """
    replaced = os.environ.pop(_REPLACED, "")
    wanted = pinned(os.environ)
    if wanted == os.environ:
        return
    if not replaced:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**wanted, _REPLACED: "yes"})
    for name in os.environ.keys() - wanted.keys():  # set by Python itself as it starts, sitecustomize.py say
        del os.environ[name]
    os.environ.update(wanted)


def check() -> None:
    """Read all of kdbench's own variables, for the sentence about one that is wrong, before anything begins."""
    checkpoint_seconds(0.0)
    decoders()
    download()
    for name in ("KDBENCH_CACHE", "KDBENCH_DATA"):
        folder(name)


def checkpoint_seconds(default: float) -> float:
    """``$KDBENCH_CHECKPOINT_SECONDS``: seconds between two checkpoints."""
    text = os.environ.get("KDBENCH_CHECKPOINT_SECONDS", "")
    try:
        seconds = float(text or default)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"KDBENCH_CHECKPOINT_SECONDS must be a number of seconds from 0, not {text!r}.")
    return seconds


def decoders() -> int:
    """``$KDBENCH_DECODERS``: processes that decode images; 0 without it."""
    text = os.environ.get("KDBENCH_DECODERS", "") or "0"
    if not text.isdecimal():
        raise UserError(f"KDBENCH_DECODERS must be a whole number from 0, not {text!r}.")
    return int(text)


def download() -> bool:
    """``$KDBENCH_DOWNLOAD``: whether data sets may be fetched."""
    text = os.environ.get("KDBENCH_DOWNLOAD", "").lower()
    if text not in (*_YES, *_NO):
        raise UserError(f"KDBENCH_DOWNLOAD must be one of {', '.join((*_YES, *_NO[1:]))}, not {text!r}.")
    return text in _YES


_YES, _NO = ("1", "true", "yes"), ("", "0", "false", "no")


def folder(name: str) -> Path | None:
    """The folder that the variable ``name`` names; None where it is not set."""
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{name} is {text!r}, and nobody here has that home folder; give its full path.") from None
    if path.exists() and not path.is_dir():
        raise UserError(f"{name} is {text!r}, which is a file and not a folder; name a folder, or delete the file.")
    return path
