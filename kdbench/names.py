"""The rule for names: whatever may stand in a record, a page's address, a folder's name and on a command line.

A name begins with a letter or digit and goes on with letters, digits and ``_.-+@()``. One that is part of others (a
method's in an expression, a suite's before the ``@`` of its version) holds no ``+@()``; what is written with such names
(an expression, and the label of a row) may be longer. The schemas of records have the same patterns.
"""

from __future__ import annotations

import re

from kdbench.errors import UserError, shown

#: What joins names: a sum, a preset or a version, a wrapper.
OPERATORS = frozenset("+@()")
#: The most characters of a name, of what is written with several, and of a text that a record keeps.
LONGEST_NAME, LONGEST_WRITTEN, LONGEST_TEXT = 64, 200, 4000

PART = f"[A-Za-z0-9](?:[A-Za-z0-9_.-]{{0,{LONGEST_NAME - 2}}}[A-Za-z0-9])?"
NAME = f"[A-Za-z0-9](?:[A-Za-z0-9_.+@()-]{{0,{LONGEST_NAME - 2}}}[A-Za-z0-9+)])?"
WRITTEN = f"[A-Za-z0-9](?:[A-Za-z0-9_.+@()-]{{0,{LONGEST_WRITTEN - 2}}}[A-Za-z0-9+)])?"
IDENTIFIER = f"[A-Za-z_][A-Za-z0-9_]{{0,{LONGEST_NAME - 1}}}"

#: Noun -> its pattern, where that is not NAME. A hyper-parameter is an attribute of its method.
_PATTERNS = {"method": PART, "preset": PART, "suite": PART, "label": WRITTEN, "hyper-parameter": IDENTIFIER}
_RULES = {
    PART: f"1 to {LONGEST_NAME} letters, digits and _.-, with a letter or digit first and last",
    NAME: f"1 to {LONGEST_NAME} letters, digits and _.-+@(), with a letter or digit first, and one, + or ) last",
    WRITTEN: f"1 to {LONGEST_WRITTEN} letters, digits and _.-+@(), with a letter or digit first, and one, + or ) last",
    IDENTIFIER: f"1 to {LONGEST_NAME} letters, digits and _, with no digit first",
}
#: Names that records have a use of their own for, by their noun.
_KEPT = {("label", "teacher"): "the teachers' own trainings", ("pair", "none"): "students without a teacher"}


def check_name(noun: str, name: object, origin: str) -> str:
    """``name`` if it can name a ``noun``; else UserError, which begins with ``origin``."""
    pattern = _PATTERNS.get(noun, NAME)
    if not isinstance(name, str) or not re.fullmatch(pattern, name):
        raise UserError(f"{origin}: {shown(name)} cannot name a {noun}; use {_RULES[pattern]}.")
    if (noun, name) in _KEPT:
        raise UserError(f"{origin}: the {noun} {name!r} is kept for {_KEPT[noun, name]}; choose another.")
    return name
