"""The keys of kdbench's own trials are those that they were recorded with, whatever an identity came to hold since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from kdbench.data import DATASETS
from kdbench.models import MODELS
from kdbench.models.catalogue import BUILTIN
from kdbench.plan.expand import Selection, expand
from kdbench.records import Store
from kdbench.shipped import shipped
from kdbench.suites import Suite, get_suite, rung_of
from kdbench.suites.rungs import course
from kdbench.trials.trial import Trial, teacher_trial

#: Suite, row, pair, seed and the key, as it was recorded. Nothing but ENGINE_VERSION may ever change one.
RECORDED = """
cifar100-short ce none:resnet20 0 a67e80143aa29c3582f5284a8284a529ba8565946ddcbd826265c23497c5722f
cifar100-short kd resnet56:resnet20 0 fd5aea6638712451191285ebe241808aa962839a9ad41db29be7220facd13ec5
cifar100-short wttm resnet56:resnet20 0 a952999d6974d31768018019ce55e187fb82fc100f5294be875a5b3ea36ebc33
digits ce none:tiny_cnn_m 0 eb0c28693d0f23350cde41dacdabfbe1c955b2e5bd8a6fcf2bc545e6df82e1eb
digits fitnet tiny_cnn_l:tiny_cnn_m 0 72f02cccd8ee35a4c620069951e9f91f36d1b91c1dc5915cbd433a33f04a130d
digits kd-again tiny_cnn_l:tiny_cnn_m 0 ca077eee5433a94da654318d5551e46354b3e22cff8a3580dabc6ba316a7634a
digits teacher none:tiny-cnn-l 100 ed97ede5bcf9d39ed70ca327580d40d55050d0dd3487bc994d821b337d82e744
fashion_mnist dkd tiny_cnn_l:tiny_cnn_m 0 becdb99347486c1b998808f4c7b20c76acb7a694cf2581f15d775e506b880235
precision kd-bf16 resnet20:resnet8 0 ad27f1821eb645daf00a0085fd74ab049d4ab716f7e1fb31994f82059df1b12a
precision teacher none:resnet20 100 bd3f77ee751d69fc8090d33c6f67d8fb13da6c453287fb5ba42776868734f01d
"""


def planned(suite: Suite, *added: str) -> Iterator[Trial]:
    """The trials of ``suite`` and of methods ``added`` to it, and those of their teachers."""
    selection = Selection(methods=("*", *added)) if added else Selection()
    digests = {name: DATASETS.get(name).digest or "0" * 64 for name in suite.datasets}
    for trial in expand(suite, selection, digests):
        yield trial
        for teacher in trial.teacher.lineage if trial.teacher else ():
            if teacher.trained:
                yield teacher_trial(teacher, trial.dataset, trial.data_digest, trial.suite)


@pytest.mark.parametrize("name", sorted({line.split()[0] for line in RECORDED.split("\n") if line}))
def test_keys_are_what_they_were(name: str) -> None:
    found = {f"{name} {t.label} {t.pair} {t.seed} {t.key}" for t in planned(get_suite(name))}
    wanted = {line for line in RECORDED.splitlines() if line.startswith(f"{name} ")}
    assert wanted - found == set()


def suite_of(name: str, records: Sequence[Mapping[str, Any]]) -> Suite:
    """The suite called ``name``; a rung of a tuning follows from the ``records`` of those before it."""
    tuned = rung_of(name)
    if tuned is None:
        return get_suite(name)
    suite = get_suite(tuned)
    assert suite.tuning is not None
    return next(rung.suite for rung in course(suite, suite.tuning, records).rungs if rung.suite.name == name)


def test_every_record_that_comes_with_kdbench_is_found_under_its_key() -> None:
    records, problems = Store(shipped("results")).read()
    assert not problems
    labels: dict[str, set[str]] = {}
    for record in records:
        labels.setdefault(record["suite"].partition("@")[0], set()).add(record["label"])
    keys = set()
    at_hand = {name: suite_of(name, records) for name in labels}
    for suite, used in ((at_hand[name], used) for name, used in labels.items()):
        added = used - {row.label for row in suite.rows} - {"teacher"}
        keys |= {trial.key for trial in planned(suite, *sorted(added))}
    current = [record for record in records if record["suite"] == at_hand[record["suite"].partition("@")[0]].id]
    current = [
        record for record in current if DATASETS.get(record["dataset"]).digest
    ]  # else nobody can tell which copy
    assert len(current) > 50
    assert not [record["key"] for record in current if record["key"] not in keys]


def test_the_options_of_kdbenchs_own_architectures_are_in_no_key() -> None:
    """Their names stand for them; a plugin's name may stand for anything."""
    assert any(spec.options for spec in BUILTIN)
    for suite in (get_suite(name) for name in ("digits", "cifar100", "imagenet")):
        for trial in planned(suite):
            assert trial.identity()["student"].keys() == {"model", "mean", "std"}
            assert trial.student.startswith(("timm/", "torchvision/")) or MODELS.origin(trial.student) == "kdbench"
            if trial.teacher is not None and trial.teacher.kind == "checkpoint":
                assert trial.identity()["teacher"].keys() == {"kind", "model", "weights_sha256", "mean", "std"}
