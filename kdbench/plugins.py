"""Plugins: entry points of installed packages, and single files given by ``--plugin``. Imports no torch by itself."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from kdbench import distributions
from kdbench.canonical import canonical
from kdbench.composition import COMPOSITIONS, NETWORKS, Composition
from kdbench.data import DATASETS, DatasetSpec
from kdbench.errors import UserError, described, reason, shown
from kdbench.kinds import Kind, check_kind
from kdbench.methods import METHODS, MethodSpec
from kdbench.models import MODELS, ModelSpec
from kdbench.registry import OURS, Registry
from kdbench.studies import STUDIES
from kdbench.suites import PAIRS, SUITES, TEACHERS
from kdbench.supervision import SUPERVISIONS, Supervision
from kdbench.trials.origins import Plugin

#: The groups of entry points that a package may offer something in; and what is offered in each.
GROUPS = (
    "kdbench.methods",
    "kdbench.models",
    "kdbench.datasets",
    "kdbench.compositions",
    "kdbench.supervisions",
    "kdbench.teachers",
    "kdbench.pairs",
    "kdbench.suites",
    "kdbench.studies",
)
Offered = Mapping[str, Sequence[metadata.EntryPoint]]

#: The most bytes of a plugin file.
LONGEST = 4 * 2**20


_loaded: set[str] = set()
#: By name, as this process saw them first.
_files: dict[str, Plugin] = {}
_packages: dict[str, Plugin] = {}


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)
K = TypeVar("K", bound=Kind)


def load_plugins(files: Iterable[str] = ()) -> None:
    """Register what installed packages offer, and what the plugin ``files`` define. Safe to call again."""
    if "entry points" not in _loaded:
        _loaded.add("entry points")
        offered = _offered()
        _load_specs(offered)
        _load_texts(offered, "kdbench.teachers", TEACHERS)
        _load_texts(offered, "kdbench.pairs", PAIRS)
        _load_texts(offered, "kdbench.suites", SUITES)
        _load_texts(offered, "kdbench.studies", STUDIES)
    for file in files:
        try:
            path = Path(file).resolve()
        except (OSError, RuntimeError) as error:  # links that lead to one another
            raise UserError(f"--plugin {file}: {reason(error)}.") from None
        _load_file(path)


def load_planned(plugins: Iterable[Plugin]) -> None:
    """Register these ``plugins`` and no others; UserError where one is not what the plan saw.

    What else is installed here can neither fail nor change what a worker trains.
    """
    wanted = {plugin.name: plugin for plugin in plugins if not plugin.path}
    for plugin in plugins:
        if plugin.path:
            _load_file(Path(plugin.path), plugin.sha256)
        elif (now := _version(plugin.name)) != plugin.version:
            raise UserError(
                f"The package {plugin.name} was at version {plugin.version} when the run was planned and is at {now} "
                "now; start the run again."
            )
    if wanted and not {"entry points", *wanted} & _loaded:
        _loaded.update(wanted)
        _load_specs(_offered(wanted))
    for name, plugin in wanted.items():  # now that it is known which modules implement what
        _packages[name] = _package(name)
        if _packages[name] != plugin:
            raise UserError(
                f"The files of the package {plugin.name} are not those that the run was planned with; start the run "
                "again, from a folder that holds no other copy of it."
            )


def source_of(origin: str) -> Plugin:
    """The plugin that registries call ``origin``, as this process saw it first."""
    name = origin.removeprefix("plugin ")
    if name not in _files and name not in _packages:
        _packages[name] = _package(name)
    return _files.get(name) or _packages[name]


def files_of(plugin: Plugin) -> dict[str, Path]:
    """The files of ``plugin`` by name: its one file, or what its package installed."""
    if plugin.path:
        return {plugin.name: Path(plugin.path)}
    package = distributions.find(plugin.name)
    return {} if package is None else distributions.own_files(package, _implementations(f"plugin {plugin.name}"))


def planned(origins: Iterable[str]) -> tuple[Plugin, ...]:
    """The plugins that registries call ``origins``, as this process saw them first."""
    return tuple(map(source_of, sorted(origins)))


def _package(name: str) -> Plugin:
    """The installed package ``name``, as it is now."""
    package = distributions.find(name)
    if package is None:
        return Plugin(name, "", _version(name))
    return Plugin(name, distributions.distribution_digest(package, _implementations(f"plugin {name}")), package.version)


def _implementations(origin: str) -> Iterator[str]:
    """The modules that implement what ``origin`` registered."""
    methods = (METHODS.get(name).implementation for name in METHODS if METHODS.origin(name) == origin)
    models = (MODELS.get(name).implementation for name in MODELS if MODELS.origin(name) == origin)
    loaders = (DATASETS.get(name).loader for name in DATASETS if DATASETS.origin(name) == origin)
    makers = (COMPOSITIONS.get(name).MAKER for name in COMPOSITIONS if COMPOSITIONS.origin(name) == origin)
    kinds = [COMPOSITIONS.get(name).__module__ for name in COMPOSITIONS if COMPOSITIONS.origin(name) == origin]
    kinds += [SUPERVISIONS.get(name).__module__ for name in SUPERVISIONS if SUPERVISIONS.origin(name) == origin]
    return (reference.partition(":")[0] for reference in (*methods, *models, *loaders, *filter(None, makers), *kinds))


def _version(package: str) -> str:
    found = distributions.find(package)
    return "none" if found is None else found.version


def _offered(packages: Collection[str] | None = None) -> Offered:
    """What installed packages offer, or only these ``packages``; asked once, as that reads a file of each installed."""
    points = metadata.entry_points()
    return {
        group: [p for p in points.select(group=group) if packages is None or (p.dist and p.dist.name in packages)]
        for group in GROUPS
    }


def _load_specs(offered: Offered) -> None:
    """Register the methods, models, data sets and kinds that installed packages name."""
    _load_entry_points(offered, "kdbench.methods", METHODS, MethodSpec)
    _load_entry_points(offered, "kdbench.models", MODELS, ModelSpec)
    _load_entry_points(offered, "kdbench.datasets", DATASETS, DatasetSpec)
    _load_kinds(offered, "kdbench.compositions", COMPOSITIONS, Composition)
    _load_kinds(offered, "kdbench.supervisions", SUPERVISIONS, Supervision)


def methods_of(file: str) -> list[str]:
    """The methods that the plugin ``file`` defines, which is loaded."""
    return [name for name in METHODS if METHODS.origin(name) == f"plugin {Path(file).name}"]


def _load_entry_points(offered: Offered, group: str, registry: Registry[T], kind: type[T]) -> None:
    for point in offered[group]:
        origin, spec = _load(point, group)
        if not isinstance(spec, kind):
            raise UserError(f"{origin}: the entry point {point.name!r} in {group} must name a {kind.__name__}.")
        if isinstance(spec, ModelSpec):
            _check_options(spec, origin)
        registry.add(spec.name, _signed(spec, origin), origin)


def _load_kinds(offered: Offered, group: str, registry: Registry[type[K]], base: type[K]) -> None:
    """An entry point of a kind names its class."""
    for point in offered[group]:
        origin, found = _load(point, group)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise UserError(
                f"{origin}: the entry point {point.name!r} in {group} must name a class that derives from "
                f"kdbench.plugin.{base.__name__}."
            )
        if found.kind in NETWORKS:
            raise UserError(
                f"{origin}: the {registry.noun} {found.kind!r} is one of kdbench's own; choose another name."
            )
        registry.add(found.kind, check_kind(found, origin), origin)


def _check_options(spec: ModelSpec, origin: str) -> None:
    """UserError unless the options of ``spec``, which are in every key, have one written form."""
    try:
        if not isinstance(spec.options, Mapping):
            raise TypeError("they are no mapping of names to values")
        canonical(dict(spec.options))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{origin}: the options of the model {shown(spec.name)} must be plain values, lists and tables, as "
            f"they are part of every key: {reason(error)}."
        ) from None


def _signed(spec: T, origin: str) -> T:
    """``spec``; a method's whose card does not say who provides it says so now, on records and pages, too."""
    if isinstance(spec, MethodSpec) and spec.origin == OURS:
        return replace(spec, origin=origin)
    return spec


def _load(point: metadata.EntryPoint, group: str) -> tuple[str, Any]:
    """Where ``point`` comes from, and what it names."""
    origin = f"plugin {point.dist.name if point.dist else point.value}"
    try:
        return origin, point.load()
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    except (Exception, SystemExit) as error:  # other people's code: whatever it raises is said in one line
        raise UserError(
            f"{origin}: the entry point {point.name!r} in {group} cannot be loaded: {described(error)}; "
            "mend the package or uninstall it."
        ) from None


def _load_texts(offered: Offered, group: str, registry: Registry[tuple[str, str]]) -> None:
    """An entry point of a suite or a teacher names a module-level string: the TOML text."""
    for point in offered[group]:
        origin, text = _load(point, group)
        if not isinstance(text, str):
            raise UserError(f"{origin}: the entry point {point.name!r} in {group} must name a string of TOML.")
        registry.add(point.name, (text, f"{origin}: {point.value}"), origin)


def _load_file(path: Path, planned: str = "") -> None:
    """Register what the file at ``path`` defines, once; UserError where its sha256 is not the ``planned`` one."""
    known = _files.get(path.name)
    if known is None or known.path != str(path):
        known = _files[path.name] = _register_file(path, planned)
    if planned and known.sha256 != planned:
        raise UserError(f"The plugin file {path} changed since the run was planned; start the run again.")


def _register_file(path: Path, planned: str) -> Plugin:
    if not path.is_file():  # nor is a pipe, which would block
        what = "it is no file" if path.exists() else "there is no such file"
        raise UserError(f"--plugin {path}: {what}; a plugin is a Python file.")
    if path.stat().st_size > LONGEST:
        raise UserError(f"--plugin {path}: it has more than {LONGEST // 2**20} MiB; keep data in files of their own.")
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"--plugin {path}: it cannot be read: {reason(error)}.") from None
    source = hashlib.sha256(text).hexdigest()
    if planned and source != planned:
        raise UserError(f"The plugin file {path} changed since the run was planned; start the run again.")
    values = vars(_run(path, text)).values()
    found = {id(value): value for value in values if isinstance(value, MethodSpec)}  # one spec under two names is one
    if not found:
        raise UserError(f"--plugin {path}: the file defines no MethodSpec at module level; see docs/plugins.md.")
    for spec in found.values():
        METHODS.add(spec.name, _signed(spec, f"plugin {path.name}"), f"plugin {path.name}")
    return Plugin(path.name, source, path=str(path))


def _run(path: Path, text: bytes) -> ModuleType:
    """Import the file under its own name, which ``implementation = "name:Class"`` in its card refers to.

    What runs is ``text``, of which the sha256 was taken, and not what the file holds a moment later or what Python
    compiled of it before.
    """
    if path.stem in sys.modules:
        raise UserError(f"--plugin {path}: a module named {path.stem!r} is loaded already; rename the file.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {path}: a plugin is a Python file, whose name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[path.stem]
        if isinstance(error, UserError):
            raise
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise UserError(f"--plugin {where}: {described(error)}.") from None
    return module
