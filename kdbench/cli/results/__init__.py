"""``kdbench results VERB``: results folders checked, put together, brought over and taken away; one module a verb."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from kdbench.errors import UserError

#: Verb -> one line for ``kdbench results --help``.
VERBS = {
    "validate": "check every file, recompute every score, and name what does not hold",
    "export": "write tables of results, scores for model hubs, or what to cite",
    "merge": "copy the records of other results folders into one, losing none",
    "prune": "remove what kdbench wrote and nobody needs: caches, and failed attempts that count no more",
    "submit": "bundle results for others, with the methods that they are of, and write the pull request",
    "migrate": "bring over the records that an earlier version wrote, losing none",
}


def module_of(verb: str) -> ModuleType:
    """The module of a verb: it has ``add_arguments(parser)`` and ``main(options) -> exit code``."""
    return importlib.import_module(f"{__name__}.{verb}")


def results_folder(text: str) -> Path:
    """The results folder ``text``; UserError where it is none."""
    folder = Path(text)
    if not (folder / "v1").is_dir():
        raise UserError(f"{text} is no results folder, which has a folder v1; name one that kdbench run has written.")
    return folder
