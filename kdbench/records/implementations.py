"""What kdbench trains under the names that the literature prints."""

from __future__ import annotations

import re
from functools import cache

from kdbench.methods import METHODS

#: Printed names that are other words for a method here, though they may be written like a sum of two.
_ALIASES = {
    "baseline": "ce",
    "baseline_ce": "ce",
    "teacher_ce": "ce",
    "kd+ctkd": "ctkd",
    "kd++": "nd",
    "tf_kd": "tf_kd_self",
    "wkd_l+f": "wkd_l+wkd_f",
}
#: Printed names of a method here in other settings.
_VARIANTS = {"wttm_no_ce": "wttm"}
#: Printed settings, as in ``kd(T=2,w_kd=9.0)`` and ``ce(reproduced)``.
_SETTINGS = re.compile(r"\([^()]*=[^()]*\)|\(reproduced\)")


@cache
def implementation(name: str) -> str | None:
    """The method that is trained here for the printed ``name``, printed settings aside; None where there is none.

    A combination may be printed as a sum though one part is a wrapper of the others: ``kd+lskd`` is ``lskd(kd)``.
    """
    plain = _SETTINGS.sub("", name)
    if known := _ALIASES.get(plain) or _VARIANTS.get(plain):
        return known
    if plain in METHODS:
        return plain
    parts = plain.split("+")
    wrappers = [part for part in parts if part in METHODS and METHODS.get(part).wraps]
    rest = "+".join(part for part in parts if part not in wrappers)
    found = _ALIASES.get(rest, rest)
    for wrapper in wrappers:
        found = f"{wrapper}({found})"
    return found if wrappers and found in METHODS else None


def one_name(name: str) -> str:
    """The method that the printed ``name`` is another word for; ``name`` itself where it has settings of its own."""
    plain = name in _VARIANTS or _SETTINGS.search(name)
    return name if plain else implementation(name) or name
