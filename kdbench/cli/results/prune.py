"""``kdbench results prune``: what kdbench wrote and nobody needs, removed."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path

from kdbench.cli.results import results_folder
from kdbench.cli.say import many, say
from kdbench.errors import EXIT_OK, UserError
from kdbench.jobs.claims import any_held
from kdbench.paths import cache_dir
from kdbench.records import Store, memory
from kdbench.records.store import WEIGHTS

#: What can be pruned -> where it lies in the cache folder; ``attempts`` and ``weights`` lie in the results folder.
PLACES: dict[str, tuple[str, ...]] = {
    "attempts": (),
    "weights": (),
    "runs": ("runs",),
    "checkpoints": ("checkpoints",),
    "cache": ("costs", "identity", "images", "outputs", "teachers"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", choices=PLACES, help="what to remove")
    parser.add_argument("--results", default="results", metavar="DIR", help="the results folder (default: results)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def main(options: argparse.Namespace) -> int:
    asked = dict.fromkeys(options.what)
    if set(asked) - {"attempts"} and any_held(cache_dir() / "claims"):
        raise UserError(f"A run is at work in the cache folder {cache_dir()}; prune it when that has ended.")
    for what in asked:
        paths = IN_RESULTS[what](options.results) if what in IN_RESULTS else _kept(what)
        files = [file for path in paths for file in _files(path)]
        size = sum(file.lstat().st_size for file in files)
        if not options.dry_run:
            for path in paths:
                _remove(path)
        done = "would be removed" if options.dry_run else "removed"
        say(f"{what}: {many(len(files), 'file')}, {size / 2**20:,.1f} MiB {done}.")
    return EXIT_OK


def _attempts(results: str) -> list[Path]:
    from kdbench.records.prune import superseded

    return superseded(Store(results_folder(results)))


def _weights(results: str) -> list[Path]:
    return sorted((results_folder(results) / WEIGHTS).glob("*.safetensors"))


#: What lies in the results folder -> its files.
IN_RESULTS = {"attempts": _attempts, "weights": _weights}


def _kept(what: str) -> list[Path]:
    """Everything in the folders of ``what``, which themselves stay."""
    folders = [cache_dir() / name for name in PLACES[what]]
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    return [*found, *cache_dir().glob(memory.FILE)] if what == "cache" else found


def _files(path: Path) -> Iterable[Path]:
    if path.is_symlink() or not path.is_dir():
        return [path]
    return [file for file in path.rglob("*") if file.is_symlink() or not file.is_dir()]


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
