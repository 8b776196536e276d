"""Suites as commands are given them: by name, or by file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def suite_ids(names: Iterable[str], plugins: Sequence[str] = ()) -> list[str]:
    """``names`` as they are, and for that of a file the ``name@version`` of the suite in it, registered from then on.

    Its rows may be of ``plugins``, or of installed ones.
    """
    from kdbench.suites import get_suite, is_file

    names = list(names)
    if any(map(is_file, names)):
        from kdbench.plugins import load_plugins

        load_plugins(plugins)
    return [get_suite(name).id if is_file(name) else name for name in names]
