"""The files of an installed package, found without importing any of them, and a digest that tells them from others."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from importlib.machinery import all_suffixes
from pathlib import Path

from kdbench.canonical import digest
from kdbench.errors import UserError, reason

#: What Python compiles of the files that count.
COMPILED = (".pyc", ".pyo")


def find(name: str) -> metadata.Distribution | None:
    """The installed package ``name``; None where there is none."""
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def distribution_digest(package: metadata.Distribution, implementations: Iterable[str] = ()) -> str:
    """The sha256 of the files of ``package`` by name and content, equal in a wheel and in an editable install.

    ``implementations``: modules that its entry points' objects name in their turn; those of others are theirs.
    """
    files = own_files(package, implementations)
    if not files:
        raise UserError(
            f"None of the files of the package {package.name} can be found, so nothing tells one state of its code "
            "from another; install it with pip."
        )
    try:
        return digest({name: _sha256(path) for name, path in files.items()})
    except OSError as error:
        raise UserError(f"The package {package.name} cannot be read: {reason(error)}; install it again.") from None


def own_files(package: metadata.Distribution, implementations: Iterable[str] = ()) -> dict[str, Path]:
    """What ``package`` installed, by its name below the folder that Python finds it in.

    That is what its RECORD lists, where this is what would be imported. Where it is not, as in an editable install or
    behind another copy on Python's path, it is whatever lies in its packages.
    """
    places = dict(filter(None, map(_place, _modules(package))))
    roots = {_root(name, place) for name, place in places.items()}
    found = {name: place for name, place in filter(None, map(_place, implementations)) if _root(name, place) in roots}
    lying = {name: path for module, place in {**places, **found}.items() for name, path in _below(module, place)}
    recorded = _recorded(package)
    imported = any(name in recorded and recorded[name].samefile(path) for name, path in lying.items())
    return recorded if imported else lying


def _recorded(package: metadata.Distribution) -> dict[str, Path]:
    """What the RECORD of ``package`` lists and is there; without one, what else may list files is out of date."""
    listed = (package.files or ()) if package.read_text("RECORD") else ()
    files = {file.as_posix(): Path(str(file.locate())) for file in listed if _counts(file.parts)}
    return {name: path for name, path in files.items() if path.is_file()}


def _modules(package: metadata.Distribution) -> set[str]:
    """The modules that kdbench's entry points name, and the packages that setuptools lists beside them."""
    points = (point.module for point in package.entry_points if point.group.startswith("kdbench."))
    return {*points, *(package.read_text("top_level.txt") or "").split()}


def _place(module: str) -> tuple[str, Path] | None:
    """The outermost package that ``module`` lies in, or itself, and the folder or file it would be imported from.

    A namespace is none, as several packages may share it.
    """
    first, *rest = module.split(".")
    spec = next((spec for finder in sys.meta_path if (spec := finder.find_spec(first, None)) is not None), None)
    if spec is None:
        return None
    if spec.origin is not None and spec.has_location:
        return first, Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
    return _inside(first, spec.submodule_search_locations or (), rest)


def _inside(namespace: str, folders: Iterable[str], names: Sequence[str]) -> tuple[str, Path] | None:
    """The first package or module on the way along ``names`` from a ``namespace``, which lies in ``folders``."""
    if not names:
        return None
    name = f"{namespace}.{names[0]}"
    places = [Path(folder, names[0]) for folder in folders]
    modules = (place.with_name(place.name + suffix) for place in places for suffix in all_suffixes())
    found = next((place for place in places if (place / "__init__.py").is_file()), None)
    found = found or next(filter(Path.is_file, modules), None)
    return (name, found) if found else _inside(name, map(str, filter(Path.is_dir, places)), names[1:])


def _root(name: str, place: Path) -> Path:
    """The folder on Python's path in which the module ``name`` lies at ``place``."""
    return place.parents[name.count(".")]


def _below(module: str, place: Path) -> Iterator[tuple[str, Path]]:
    """Every file of ``module``, by its name as a wheel would list it."""
    folder = module.replace(".", "/")
    if place.is_file():
        yield Path(folder).with_name(place.name).as_posix(), place
    for parent, folders, files in os.walk(place):
        folders[:] = [name for name in folders if _counts((name,))]
        for path in (Path(parent, name) for name in files if _counts((name,))):
            if path.is_file():  # a pipe is none
                yield f"{folder}/{path.relative_to(place).as_posix()}", path


def _counts(parts: Iterable[str]) -> bool:
    """Whether a file can decide a number: what is hidden, compiled, a script or about the installation cannot."""
    return not any(
        part.startswith(".") or part == "__pycache__" or part.endswith((".dist-info", ".egg-info", *COMPILED))
        for part in parts
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
