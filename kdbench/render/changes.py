"""What changed: which rows and trials came on which day by the records' own dates, and which suites are superseded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kdbench.render.catalogue import Catalogue
from kdbench.render.suiteview import SuiteView

#: Where the page lies.
PAGE = "changes.html"


@dataclass(frozen=True)
class Change:
    """What a suite has since ``day``: its ``rows`` that had no trial before, and how many trials are of that day.

    ``versions`` are those of kdbench that made the trials.
    """

    day: str
    suite: str
    rows: tuple[str, ...]
    trials: int
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Changes:
    """``days``: the newest first; the suites of a day by name."""

    days: tuple[tuple[str, tuple[Change, ...]], ...]
    superseded: tuple[SuiteView, ...]

    @property
    def since(self) -> str:
        """The last day but one on which anything was measured; empty where there is one day or none."""
        return self.days[1][0] if len(self.days) > 1 else ""

    @property
    def newest(self) -> tuple[Change, ...]:
        return self.days[0][1] if self.days else ()


def changes(catalogue: Catalogue, views: Iterable[SuiteView]) -> Changes:
    """All changes of the measured rows of ``catalogue``; a trial that was run again is of its first day."""
    days: dict[str, list[Change]] = defaultdict(list)
    for change in _changes(catalogue):
        days[change.day].append(change)
    ordered = sorted(days.items(), reverse=True)
    return Changes(
        tuple((day, tuple(found)) for day, found in ordered), tuple(view for view in views if view.newer is not None)
    )


def _changes(catalogue: Catalogue) -> Iterator[Change]:
    for suite in catalogue.suites:
        first: dict[str, str] = {}  # trial -> its day
        rows: dict[str, str] = {}  # row -> that of its first trial
        made_by: dict[str, set[str]] = defaultdict(set)
        for table in catalogue.tables_of(suite):
            for line in table.lines:
                for record in line.cell.records:
                    day = catalogue.day(record)
                    first[record["key"]] = min(day, first.get(record["key"], day))
                    rows[line.cell.label] = min(day, rows.get(line.cell.label, day))
                    made_by[day].add(str(record["provenance"]["kdbench"]))
        for day in sorted(set(first.values())):
            yield Change(
                day=day,
                suite=suite,
                rows=tuple(sorted(label for label, began in rows.items() if began == day)),
                trials=sum(began == day for began in first.values()),
                versions=tuple(sorted(made_by[day])),
            )
