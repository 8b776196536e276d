"""The data set that a suite in a file has of its own: a folder of pictures."""

from __future__ import annotations

import re
from math import isfinite
from pathlib import Path
from typing import Any

from kdbench.data import DATASETS, DatasetSpec, register
from kdbench.data.checks import check_spec
from kdbench.data.files import View
from kdbench.data.folder import described
from kdbench.data.spec import Folder
from kdbench.errors import UserError, shown
from kdbench.names import LONGEST_NAME, check_name
from kdbench.suites.table import Table

RESIZES = ("short", "squash")
INTERPOLATIONS = ("bilinear", "bicubic")
#: What becomes of a file that holds no picture to learn from.
BROKEN = ("refuse", "skip")
#: The sides of pictures, in pixels.
SMALLEST, LARGEST = 8, 2048


def parse_dataset(raw: dict[str, Any], where: str, home: Path | None) -> DatasetSpec:
    """The data set that the table ``raw`` describes, which is registered by now; its folder may be below ``home``.

    DataError where the folder is no data set.
    """
    table = Table(raw, f"{where} [dataset]")
    if home is None:
        raise UserError(f"{where}: only a suite in a file names a folder of pictures; give a registered data set.")
    path = home / Path(table.take("folder", str)).expanduser()
    name = check_name("data set", table.take("name", str, name_of(path)), table.where)
    size, channels = table.count("size", SMALLEST, 224, LARGEST), table.count("channels", 1, 3, 3)
    if channels == 2:
        raise UserError(f"{table.where}: channels must be 1, for grey pictures, or 3.")
    view = View(
        float(_share(table, "crop", 0.875, most=1.0)),
        _choice(table, "resize", RESIZES),
        _choice(table, "interpolation", INTERPOLATIONS),
    )
    broken = _choice(table, "broken", BROKEN)
    folder = Folder(str(path.absolute()), _share(table, "test", 0.2), table.count("seed", 0, 0), view, broken)
    title = table.take("title", str, name)
    mean, std = _figures(table, "mean", channels), _figures(table, "std", channels)
    table.finish()
    if bool(mean) != bool(std):
        raise UserError(f"{table.where}: mean and std go together; give both, or leave both out to have them measured.")
    known = DATASETS.get(name) if name in DATASETS else None
    shape = (channels, size, size)
    if known is not None and (known.source, known.folder, known.image_shape) == (where, folder, shape):
        return known  # looked at by this process
    return register(check_spec(described(name, title, where, folder, shape, mean, std)))


def name_of(path: Path) -> str:
    """What a data set in the folder ``path`` is called, if nobody says."""
    words = re.findall(r"[A-Za-z0-9]+", path.resolve().name)
    return "-".join(words).lower()[:LONGEST_NAME] or "pictures"


def _share(table: Table, name: str, default: float, most: float = 0.9) -> float:
    value = table.take(name, (float, int), default)
    if not (isfinite(value) and 0 < value <= most):
        raise UserError(f"{table.where}: {name} must be greater than 0 and at most {most:g}, not {shown(value)}.")
    return float(value)


def _choice(table: Table, name: str, choices: tuple[str, ...]) -> str:
    value: str = table.take(name, str, choices[0])
    if value not in choices:
        raise UserError(f"{table.where}: {name} must be {' or '.join(choices)}, not {shown(value)}.")
    return value


def _figures(table: Table, name: str, count: int) -> list[float]:
    values = table.take(name, list, [])
    if values and (len(values) != count or any(type(each) not in (int, float) for each in values)):
        raise UserError(f"{table.where}: {name} needs {count} number{'s' * (count > 1)}, one a channel.")
    return [float(each) for each in values]
