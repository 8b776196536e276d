"""Plugins: entry points of installed packages, and single files given by ``--plugin``. Imports no torch by itself."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from kdbench.data import DATASETS, DatasetSpec
from kdbench.errors import UserError
from kdbench.methods import METHODS, MethodSpec
from kdbench.models import MODELS, ModelSpec
from kdbench.registry import Registry
from kdbench.suites import SUITES, TEACHERS

#: Method name -> sha256 of the plugin file it came from. A method of a released package is known by its version
#: instead.
SOURCES: dict[str, str] = {}

#: The most bytes of a plugin file.
LONGEST = 4 * 2**20

_loaded: set[str] = set()


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


def load_plugins(files: Iterable[str] = ()) -> None:
    """Register what installed packages offer, and what the plugin ``files`` define. Safe to call again."""
    if "entry points" not in _loaded:
        _loaded.add("entry points")
        _load_entry_points("kdbench.methods", METHODS, MethodSpec)
        _load_entry_points("kdbench.models", MODELS, ModelSpec)
        _load_entry_points("kdbench.datasets", DATASETS, DatasetSpec)
        _load_texts("kdbench.teachers", TEACHERS)
        _load_texts("kdbench.suites", SUITES)
    for file in files:
        try:
            path = Path(file).resolve()
        except (OSError, RuntimeError) as error:  # links that lead to one another
            raise UserError(f"--plugin {file}: {error}.") from None
        if str(path) not in _loaded:
            _loaded.add(str(path))
            _load_file(path)


def _load_entry_points(group: str, registry: Registry[T], kind: type[T]) -> None:
    for point in metadata.entry_points(group=group):
        origin, spec = _load(point, group)
        if not isinstance(spec, kind):
            raise UserError(f"{origin}: the entry point {point.name!r} in {group} must name a {kind.__name__}.")
        registry.add(spec.name, spec, origin)


def _load(point: metadata.EntryPoint, group: str) -> tuple[str, Any]:
    """Where ``point`` comes from, and what it names."""
    origin = f"plugin {point.dist.name if point.dist else point.value}"
    try:
        return origin, point.load()
    except (Exception, SystemExit) as error:  # other people's code: whatever it raises is said in one line
        raise UserError(f"{origin}: the entry point {point.name!r} in {group} cannot be loaded: {error}.") from None


def _load_texts(group: str, registry: Registry[tuple[str, str]]) -> None:
    """An entry point of a suite or a teacher names a module-level string: the TOML text."""
    for point in metadata.entry_points(group=group):
        origin, text = _load(point, group)
        if not isinstance(text, str):
            raise UserError(f"{origin}: the entry point {point.name!r} in {group} must name a string of TOML.")
        registry.add(point.name, (text, f"{origin}: {point.value}"), origin)


def _load_file(path: Path) -> None:
    if not path.is_file():  # nor is a pipe, which would block
        raise UserError(f"--plugin {path}: {'it is no file' if path.exists() else 'there is no such file'}.")
    if path.stat().st_size > LONGEST:
        raise UserError(f"--plugin {path}: it has more than {LONGEST // 2**20} MiB; keep data in files of their own.")
    source = hashlib.sha256(path.read_bytes()).hexdigest()
    values = vars(_run(path)).values()
    found = {id(value): value for value in values if isinstance(value, MethodSpec)}  # one spec under two names is one
    if not found:
        raise UserError(f"--plugin {path}: the file defines no MethodSpec at module level; see docs/plugins.md.")
    for spec in found.values():
        METHODS.add(spec.name, spec, f"plugin {path.name}")
        SOURCES[spec.name] = source


def _run(path: Path) -> ModuleType:
    """Import the file under its own name, which ``implementation = "name:Class"`` in its card refers to."""
    if path.stem in sys.modules:
        raise UserError(f"--plugin {path}: a module named {path.stem!r} is loaded already; rename the file.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {path}: not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[path.stem]
        raise UserError(f"--plugin {path}: {type(error).__name__}: {error}.") from None
    return module
