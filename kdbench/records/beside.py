"""What lies in a results folder beside records and predictions, where a stranger may have put anything at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kdbench.records.reading import unlisted
from kdbench.records.store import LISTINGS, METHODS_FOLDER, PLUGINS_FOLDER, WEIGHTS, Store

#: Folders inside one another that the files of a method or a plugin lie in.
_DEEP = 16
#: Folder -> folders inside one another, itself among them, that files lie in, and how their names end.
_PLACES = {
    f"v1/{LISTINGS}": (1, ".json"),
    "pins": (2, ".json"),
    "runs": (1, ".json"),
    WEIGHTS: (1, ""),
    METHODS_FOLDER: (_DEEP, ""),
    PLUGINS_FOLDER: (_DEEP, ""),
}
#: The one hidden file that belongs to what it lies beside; others are temporary.
_IGNORED = ".gitignore"


class Beside(NamedTuple):
    """Files that are some; a sentence for each link and whatever else is none, and for each folder that is unread."""

    files: list[Path]
    strange: dict[Path, str]
    unread: list[str]


def beside(store: Store, *names: str) -> Beside:
    """What lies in ``store`` beside records, in its folders ``names`` or in all of them. No link is followed."""
    found = Beside([], {}, [])
    for name in names or _PLACES:
        depth, end = _PLACES[name]
        paths = (path for path in _walked(store, store.root / name, depth, found) if path.name.endswith(end))
        found.files.extend(path for path in paths if path.parent != store.root / "pins")  # a pin lies in its suite's
    found.files.sort()
    return found


def _walked(store: Store, top: Path, depth: int, found: Beside) -> Iterator[Path]:
    """The files below ``top``; what is none goes to what was ``found``."""
    open_paths = [(top, depth)]
    while open_paths:
        path, left = open_paths.pop()
        where = store.place(path)
        try:
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                found.strange[path] = f"{where} is a link, which is not followed; put what it leads to in its place."
            elif stat.S_ISDIR(mode):
                names = os.listdir(path) if left else []
                open_paths += [(path / name, left - 1) for name in names if name == _IGNORED or name[0] != "."]
            elif path == top:
                found.unread.append(f"{unlisted(where, path, NotADirectoryError())}.")
            elif stat.S_ISREG(mode):
                yield path
            else:
                found.strange[path] = f"{where} is no regular file, so it is not read; delete it."
        except FileNotFoundError:
            continue  # there is none, or it has gone meanwhile
        except OSError as error:
            found.unread.append(f"{unlisted(where, path, error)}.")
