"""Where a record comes from: code, packages, machine. Nothing here is in the key."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from kdbench import __version__
from kdbench.trials.origins import Plugin

#: Endings of the files that hold kdbench's code, cards and suites.
SOURCES = (".py", ".toml", ".c")
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn", "safetensors")


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


@cache
def code() -> tuple[str | None, bool | None]:
    """The commit of the checkout this package runs from and whether its code differs from it.

    (None, None) for a wheel.
    """
    sha = _git("rev-parse", "HEAD")
    if sha is None or len(sha) != 40:
        return None, None
    return sha, bool(_git("status", "--porcelain", "--", "kdbench"))


@cache
def source_digest() -> str:
    """The sha256 of all files of the package that decide a number, by name and content, as they are on the disk now."""
    folder = Path(__file__).resolve().parents[1]
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SOURCES and path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


@cache
def packages() -> dict[str, str]:
    """Installed versions of the packages a number can depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def provenance(
    *,
    plugin_sha256: str | None,
    plugins: Sequence[Plugin] = (),
    precision: str,
    threads: int,
    attempts: int,
    resumed: int,
    looks: Sequence[int] = (),
) -> dict[str, Any]:
    """The provenance section of a record."""
    sha, dirty = code()
    return {
        "kdbench": __version__,
        "git_sha": sha,
        "git_dirty": dirty,
        "plugin_sha256": plugin_sha256,
        "plugins": [
            {"name": plugin.name, "version": plugin.version or None, "sha256": plugin.sha256 or None}
            for plugin in plugins
        ],
        "packages": packages(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "precision": precision,
        "threads": threads,
        "attempts": attempts,
        "resumed": resumed,
        **({"looks": list(looks)} if looks else {}),
    }
