"""Variables of the environment that reach the libraries which compute."""

from __future__ import annotations

#: What the libraries that torch computes with, and the loader of libraries, take their variables' names from.
FAMILIES = (
    "ATEN_",
    "CUBLAS",
    "CUDA_",
    "CUDNN_",
    "DNNL_",
    "GLIBC_TUNABLES",
    "GOMP_",
    "KMP_",
    "LD_",
    "LIBOMP_",
    "MALLOC_",
    "MKL_",
    "NVIDIA_",
    "OMP_",
    "ONEDNN_",
    "PYTORCH_",
    "TORCH_",
)
#: Of these, what says nothing of numbers: scikit-learn sets it as it is imported.
HARMLESS = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")


def concerns_numbers(name: str) -> bool:
    """Whether a library that computes might listen to the variable ``name``."""
    return name.startswith(FAMILIES) and name not in HARMLESS
