"""Trials that are recorded, but with other code of a plugin than there is now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.canonical import digest
from kdbench.plugins import planned
from kdbench.records import DONE
from kdbench.trials.origins import Plugin, foreign
from kdbench.trials.trial import Trial, teacher_trial

Identity = Mapping[str, Any]
#: The parts of an identity that may name the digest of a plugin.
CODED = ("student", "teacher", "supervision", "method")


@dataclass(frozen=True)
class Outdated:
    """Trials of the row ``label`` whose records differ from what is planned in nothing but whose code it was.

    ``versions``: of the ``plugin`` in those records, as far as they say; a file has none.
    """

    label: str
    plugin: Plugin
    versions: tuple[str, ...]
    trials: int


def outdated(missing: Sequence[Trial], records: Iterable[Mapping[str, Any]]) -> list[Outdated]:
    """What of the ``missing`` the ``records`` have with other code of plugins, by row and plugin."""
    theirs = [(trial, planned(foreign(trial))) for trial in missing if foreign(trial)]
    if not theirs:
        return []
    done = [record for record in records if record["status"] in DONE]
    trainings = {record["key"]: record["identity"] for record in done}
    for trial, _ in theirs:
        for teacher in trial.teacher.lineage if trial.teacher else ():
            if teacher.trained:
                training = teacher_trial(teacher, trial.dataset, trial.data_digest)
                trainings[training.key] = training.identity()
    earlier: dict[str, list[dict[str, Any]]] = {}
    for record in done:
        then = {plugin["name"]: plugin for plugin in record["provenance"].get("plugins", ())}
        earlier.setdefault(_without_code(record["identity"], trainings), []).append(then)
    found: dict[tuple[str, Plugin], list[set[str]]] = {}
    for trial, plugins in theirs:
        recorded = earlier.get(_without_code(trial.identity(), trainings), ())
        for plugin in plugins:
            others = [then.get(plugin.name, {}) for then in recorded]
            if others and all(other.get("sha256") != plugin.sha256 for other in others):
                versions = {other["version"] for other in others if other.get("version")}
                found.setdefault((trial.label, plugin), []).append(versions)
    return [
        Outdated(label, plugin, tuple(sorted(set().union(*versions))), len(versions))
        for (label, plugin), versions in found.items()
    ]


def _without_code(identity: Identity, trainings: Mapping[str, Identity]) -> str:
    """A digest of all of ``identity`` but whose code it is.

    The key of a teacher's training stands for code, too. In its place is this digest of that training, as far as it is
    among ``trainings``, by their keys.
    """
    line = [identity]
    while (before := trainings.get(_recipe(line[-1]))) is not None:
        line.append(before)
    found = ""
    for each in reversed(line):
        parts = {name: _bare(part) if name in CODED else part for name, part in each.items()}
        found = digest({**parts, "teacher": found} if found else parts)
    return found


def _recipe(identity: Identity) -> str:
    teacher = identity.get("teacher")
    return str(teacher.get("recipe", "")) if isinstance(teacher, Mapping) else ""


def _bare(part: object) -> object:
    """A part of an identity without the digest of a plugin and what that plugin gives an architecture."""
    if not isinstance(part, Mapping):
        return part
    return {name: value for name, value in part.items() if name not in ("source", "options")}
