"""``kdbench doctor``: what this machine has, as a table."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shlex
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

from kdbench import __version__
from kdbench.cli.say import say
from kdbench.data import DATASETS, data_root, identify
from kdbench.data.checks import how_to_get
from kdbench.errors import (
    EXIT_INCOMPLETE,
    EXIT_OK,
    CheckpointError,
    DataError,
    MissingData,
    UserError,
    described,
    plain,
    reason,
)
from kdbench.methods import METHODS
from kdbench.models import MODELS
from kdbench.paths import cache_dir
from kdbench.records.provenance import PACKAGES
from kdbench.registry import Registry
from kdbench.schedule.devices import cores, gpus
from kdbench.suites import SUITES, TEACHERS, get_suite
from kdbench.teachers.find import checkpoint_in
from kdbench.trials.teacher import Teacher

#: docs/cli.md says what each means.
State = Literal["ok", "none", "found", "partial", "differs", "missing", "damaged", "broken"]
#: What is looked at, in what state it is, and what there is to say of it.
Row = tuple[str, State, str]

#: Characters of a line in a terminal that has room for more.
WIDEST = 100

#: Extra -> a module of it, and what it is for.
EXTRAS = {
    "dev": ("pytest", "for kdbench's tests"),
    "onnx": ("onnx", "for export to .onnx"),
    "parquet": ("pyarrow", "for results export parquet"),
    "ray": ("ray", "for --backend ray"),
    "slurm": ("submitit", "for --backend slurm"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-root", metavar="DIR", help="the folder of data sets and weights (default: $KDBENCH_DATA)"
    )


def main(options: argparse.Namespace) -> int:
    root = data_root(options.data_root)
    packages = list(_packages())
    usable = all(state == "ok" for _, state, _ in packages)
    say(f"kdbench {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    _table(
        {
            "Packages": packages,
            "Devices": _devices() if usable else [],
            "Plugins": list(_plugins()),  # loaded before what they may add to is looked at
            f"Data sets in {root}": _datasets(root),
            f"Teachers' weights in {root / 'weights'}": _weights(root, usable),
            "Extras": _extras(),
            "Folders": _folders(root),
        }
    )
    return EXIT_OK if usable else EXIT_INCOMPLETE


def _table(sections: dict[str, Iterable[Row]]) -> None:
    """Print each section that has rows, all in the same columns, and no wider than the terminal, or 80 characters.

    What does not fit beside its row stands below it.
    """
    width = min(max(shutil.get_terminal_size().columns, 60), WIDEST)
    filled = {title: [tuple(map(plain, row)) for row in rows] for title, rows in sections.items()}
    rows = [row for section in filled.values() for row in section]
    names, states = (max(len(row[column]) for row in rows) for column in (0, 1))
    for title, section in filled.items():
        if section:
            say()
            say(title)
        for name, state, text in section:
            row = f"  {name:<{names}}  {state:<{states}}  {text}"
            if len(row) <= width:
                say(row)
                continue
            say(f"  {name:<{names}}  {state}")
            for line in textwrap.wrap(text, width - 6, break_long_words=False, break_on_hyphens=False):
                say(f"      {line}")


def _packages() -> Iterator[Row]:
    """The packages that results depend on; torch is tried, as it is the one that may be there and not work."""
    for name in PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "missing", "install kdbench again with pip"
            continue
        try:
            if name == "torch":
                importlib.import_module(name)
        except Exception as error:  # a library that does not fit raises whatever the system says of it
            yield name, "broken", f"{version} cannot be imported: {described(error)}; install it again."
            continue
        yield name, "ok", version


def _devices() -> Iterator[Row]:
    import torch

    from kdbench.models.kernels import find_compiler
    from kdbench.models.precision import native
    from kdbench.train.device import numerics

    cpu = numerics(torch.device("cpu"))
    yield "cpu", "ok", f"{cpu['device_name']}, {cores()} cores, {cpu['isa']}"
    own = native(torch.device("cpu"))
    yield "bfloat16", "ok" if own else "none", f"by {'its own' if own else 'float32'} instructions on this CPU"
    yield from _gpus()
    try:
        yield "C compiler", "ok", f'{shlex.join(find_compiler())}, for protocols with compile = "norms"'
    except UserError as error:
        yield "C compiler", "missing", str(error)


def _gpus() -> Iterator[Row]:
    import torch

    count, listed = torch.cuda.device_count(), len(gpus())
    try:
        for index in range(count):
            facts = torch.cuda.get_device_properties(index)
            memory = f"{facts.total_memory / 2**30:.0f} GiB"
            yield f"cuda:{index}", "ok", f"{facts.name}, {memory}, CUDA {torch.version.cuda}"
    except RuntimeError as error:  # a driver that does not fit
        yield "cuda", "broken", f"torch cannot use the GPU: {reason(error)}; look at its driver."
    if listed and not count:
        yield "cuda", "broken", f"nvidia-smi lists {listed}, but torch sees none; install a torch for their driver."
    elif not count:
        yield "cuda", "none", "no GPU; everything runs on the CPU"


def _plugins() -> Iterator[Row]:
    """What installed packages add, a line for each of them."""
    from kdbench.plugins import load_plugins

    try:
        load_plugins()
    except UserError as error:
        yield "plugins", "broken", str(error)
    added: dict[str, list[str]] = {}
    registries: tuple[Registry[object], ...] = (METHODS, MODELS, DATASETS, TEACHERS, SUITES)  # type: ignore[assignment]
    for registry in registries:
        for name in registry:
            if registry.origin(name) != "kdbench":
                added.setdefault(registry.origin(name), []).append(f"{registry.noun} {name}")
    for origin, names in added.items():
        yield origin.removeprefix("plugin "), "ok", ", ".join(names)


def _datasets(root: Path) -> Iterator[Row]:
    for name in DATASETS:
        spec = DATASETS.get(name)
        try:
            _, warnings = identify(name, root)
        except MissingData as error:
            yield name, "missing", str(error) if error.path else f"{how_to_get(spec)}."
        except DataError as error:
            yield name, "damaged", str(error)
        except UserError as error:
            yield name, "broken", str(error)
        except Exception as error:  # a plugin's loader is other people's code
            yield name, "broken", f"Its loader raised {described(error)}."
        else:
            unofficial: State = "differs" if spec.digest or spec.sha1 else "found"
            sound = "the official one" if spec.needs_files else f"needs {spec.files}"
            yield name, unofficial if warnings else "ok", " ".join(warnings) or sound


def _weights(root: Path, usable: bool) -> Iterator[Row]:
    """A line for each suite that imports teachers; ``usable``: torch can read what it finds."""
    for name in SUITES:
        try:
            teachers = [teacher for teacher in get_suite(name).teachers.values() if teacher.kind == "checkpoint"]
            if teachers:
                yield name, *_state_of(teachers, root, usable)
        except UserError as error:
            yield name, "broken", str(error)
        except OSError as error:
            yield name, "broken", f"The system refused: {reason(error)}."


def _state_of(teachers: list[Teacher], root: Path, usable: bool) -> tuple[State, str]:
    found = {teacher.name: path for teacher in teachers if (path := checkpoint_in(root, teacher))}
    pinned = [teacher for teacher in teachers if teacher.weights_sha256 and teacher.name in found]
    if usable:
        for teacher in pinned:
            if wrong := _wrong(teacher, found[teacher.name]):
                return wrong
    parts = [f"{len(found)} of {len(teachers)} found"]
    if found:
        parts[0] += f", {(usable and len(pinned)) or 'none'} of them verified by a pinned digest"
    wanted = [teacher for teacher in teachers if teacher.name not in found]
    if wanted:
        files = ", ".join(" or ".join(teacher.files) for teacher in wanted)
        places = " and ".join(dict.fromkeys(teacher.url for teacher in wanted if teacher.url))
        parts.append(f"wanted: {files}{f', from {places}' if places else ''}")
    return ("ok" if not wanted else "partial" if found else "missing"), f"{'; '.join(parts)}."


def _wrong(teacher: Teacher, path: Path) -> tuple[State, str] | None:
    """What is wrong with the file of a teacher whose weights are pinned."""
    from kdbench.teachers.weights import read_weights, weights_digest

    try:
        if weights_digest(read_weights(path, teacher.key)) == teacher.weights_sha256:
            return None
    except CheckpointError as error:
        return "damaged", str(error)
    return "differs", f"{path} does not hold the pinned weights of {teacher.name}; fetch it again from {teacher.url}."


def _extras() -> Iterator[Row]:
    for extra, (module, purpose) in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        wanted = not there and not purpose.startswith("for a planned")
        hint = f"; pip install 'kdbench[{extra}]'" if wanted else ""
        yield extra, "ok" if there else "none", f"{purpose}{hint}"


def _folders(root: Path) -> Iterator[Row]:
    yield "data root", "ok" if root.is_dir() else "missing", f"{root} (--data-root or KDBENCH_DATA)"
    path = cache_dir()
    existing = next(place for place in (path, *path.parents) if place.exists())
    if existing.is_dir() and os.access(existing, os.W_OK):
        yield "cache", "ok", f"{path} (KDBENCH_CACHE)"
    else:
        yield "cache", "broken", f"{path} cannot be written; set KDBENCH_CACHE to a folder that can."
