"""The folder that a site is built in: what a site may take the place of, and how it does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath

from kdbench.errors import UserError
from kdbench.folders import check_writable, leftovers, locked, resolved, temporaries, temporary
from kdbench.paths import CACHE_FOLDERS, cache_dir
from kdbench.records.store import FOLDERS

#: The list of a site's files, itself among them: what is on it was written by kdbench and may be replaced by it.
MARKER = ".kdbench-site"


def check_replaceable(out: Path, results: Path, data: Path | None = None) -> None:
    """UserError unless ``out`` can be made, is empty or is an earlier site, and nothing that is needed lies in it.

    Needed are the ``results`` folder, the ``data`` root, the cache, the current folder and kdbench itself. Links are
    followed before anything is compared.
    """
    place, noun = resolved(out), f"The site's folder {out}"
    _check_needed(out, place, results, data)
    check_writable(temporary(place, "new"), noun)
    with _alone(place) if place.parent.is_dir() else nullcontext():
        if place.exists():
            _check_own(place)
        else:
            check_writable(out, noun)


def first_page(out: Path) -> Path | None:
    """The page to open of the site that ``out`` holds; None where it holds none."""
    index = resolved(out) / "index.html"
    return index if (index.parent / MARKER).is_file() and index.is_file() else None


def _check_needed(out: Path, place: Path, results: Path, data: Path | None) -> None:
    needed = {"results folder": results, "cache folder": cache_dir(), "current folder": Path.cwd()}
    needed |= {"folder of kdbench itself": Path(__file__).parents[1]} | ({"data root": data} if data else {})
    for noun, folder in needed.items():
        if resolved(folder).is_relative_to(place):
            where = "is" if resolved(folder) == place else "holds"
            raise UserError(
                f"{out} {where} the {noun}, which a site there would take the place of; name another folder."
            )
    for parent, names in ((results, FOLDERS), (cache_dir(), CACHE_FOLDERS)):
        for folder in (parent / name for name in names):
            if place.is_relative_to(resolved(folder)):
                raise UserError(f"{out} lies where kdbench keeps other files, in {folder}; name another folder.")


def _check_own(place: Path) -> None:
    """UserError where ``place`` holds anything that kdbench did not write as part of a site, or cannot be moved."""
    try:
        entries = any(place.iterdir()) if place.is_dir() else None
        marked = (place / MARKER).is_file()
        listed = frozenset((place / MARKER).read_text("utf-8", "replace").split("\n")) if marked else frozenset[str]()
        foreign = _foreign(place, listed) if marked else ""
    except OSError as error:
        raise UserError(f"{place} cannot be read ({error.strerror}); name another folder.") from None
    if os.path.ismount(place):
        raise UserError(f"{place} is a mount point, which nothing can take the place of; name a folder in it.")
    if entries is None or (entries and not marked):
        raise UserError(
            f"{place} is not an earlier kdbench site; name a new or empty folder, so that nothing of yours is lost."
        )
    if marked and MARKER not in listed:
        raise UserError(
            f"{place} was built by a kdbench that kept no list of its files; delete it or name another folder."
        )
    if foreign:
        raise UserError(
            f"{place} holds {foreign!r}, which kdbench did not write there; move it away or name another folder."
        )


def _foreign(place: Path, listed: frozenset[str]) -> str:
    """The first thing below ``place`` that is neither a listed file nor a folder of one; empty if there is none.

    A link is neither, wherever it leads.
    """
    parents = {str(parent) for name in listed for parent in PurePosixPath(name).parents}
    for folder, folders, files in os.walk(place, onerror=_raise):
        for path in (Path(folder, name) for name in sorted([*folders, *files])):
            name = path.relative_to(place).as_posix()
            if path.is_symlink() or not (path.is_dir() if name in parents else path.is_file() and name in listed):
                return name
    return ""


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def replacing(out: Path, results: Path, data: Path | None = None) -> Iterator[Path]:
    """A folder to write a site into, its list last, which then takes the place of ``out``; after an error nothing has.

    Of two builds into one folder the later waits for the earlier. What a killed one has left is put right first.
    """
    check_replaceable(out, results, data)
    place = resolved(out)
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        _recover(place)
        new = temporary(place, "new")
        new.mkdir()
        try:
            yield new
            if place.exists():
                _check_own(place)
            _swap(new, place)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _alone(place: Path) -> AbstractContextManager[None]:
    return locked(place.with_name(f".{place.name}.kdbench-lock"), f"the site in {place}")


def _swap(new: Path, place: Path) -> None:
    old = temporary(place, "old")
    try:
        if place.exists():
            place.rename(old)
        new.rename(place)
    except BaseException:
        if old.exists() and not place.exists():
            old.rename(place)
        raise
    if old.exists():
        with suppress(OSError):  # it stays beside the new one, whose place is taken; see ``left_behind``
            _remove(old)


def left_behind(out: Path) -> list[Path]:
    """Earlier sites beside ``out`` that could not be removed."""
    place = resolved(out)
    return [old for old, _ in temporaries(place.parent, "old", place.name) if (old / MARKER).is_file()]


def _recover(place: Path) -> None:
    """Put back the site that a process was killed while replacing, and remove what else was left beside ``place``."""
    for old in leftovers(place.parent, "old", place.name):
        if not old.is_dir() or old.is_symlink():
            continue
        if not place.exists():
            old.rename(place)
        else:
            with suppress(UserError, OSError):  # somebody's files came into it since, or it cannot be removed: it stays
                _check_own(old)
                _remove(old)
    for new in leftovers(place.parent, "new", place.name):
        shutil.rmtree(new, ignore_errors=True)


def _remove(site: Path) -> None:
    """Remove a site, its list last: whatever is left of it after a kill can be told from somebody's files."""
    for path in site.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()
    shutil.rmtree(site)
