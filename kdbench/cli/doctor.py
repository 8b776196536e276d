"""``kdbench doctor``: what this machine has."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shlex
from importlib import metadata
from pathlib import Path

from kdbench import __version__
from kdbench.data import DATASETS, data_root, identify
from kdbench.errors import EXIT_INCOMPLETE, EXIT_OK, UserError
from kdbench.paths import cache_dir
from kdbench.records.provenance import PACKAGES

EXTRAS = {"ray": "ray", "slurm": "submitit", "dev": "pytest"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-root", metavar="DIR", help="the folder of data sets and weights (default: $KDBENCH_DATA)"
    )


def main(options: argparse.Namespace) -> int:
    print(f"kdbench {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    usable = _packages()
    if usable:
        _devices()
    _datasets(data_root(options.data_root))
    for extra, module in EXTRAS.items():
        print(f"extra {extra}: {'installed' if importlib.util.find_spec(module) else 'not installed'}")
    _folder("cache", cache_dir())
    return EXIT_OK if usable else EXIT_INCOMPLETE


def _packages() -> bool:
    """Print the packages results depend on; False when one is missing."""
    complete = True
    for name in PACKAGES:
        try:
            print(f"package {name}: {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"package {name}: missing; install kdbench again with pip")
            complete = False
    return complete


def _devices() -> None:
    import torch

    from kdbench.models.kernels import find_compiler
    from kdbench.models.precision import native
    from kdbench.train.device import numerics

    cpu = numerics(torch.device("cpu"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bfloat16 = "bfloat16 by its own instructions" if native(torch.device("cpu")) else "bfloat16 by float32 instructions"
    print(f"device cpu: {cpu['device_name']}, {cores} cores, {cpu['isa']}, {bfloat16}")
    try:
        print(f'C compiler, for compile = "norms": {shlex.join(find_compiler())}')
    except UserError as error:
        print(f"C compiler: {error}")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        print(f"device cuda:{index}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    if not torch.cuda.device_count():
        print("device cuda: none that torch can see")


def _datasets(root: Path) -> None:
    print(f"data root: {root}")
    for name in DATASETS:
        try:
            _, warnings = identify(name, root)
        except UserError as error:
            print(f"data set {name}: {error}")
            continue
        print(f"data set {name}: {'found, official' if not warnings else 'found; ' + ' '.join(warnings)}")


def _folder(noun: str, path: Path) -> None:
    existing = next(p for p in (path, *path.parents) if p.exists())
    state = "writable" if os.access(existing, os.W_OK) else "NOT writable: set KDBENCH_CACHE to a folder that is"
    print(f"{noun} folder: {path}, {state}")
