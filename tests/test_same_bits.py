"""Equal key, equal bits: in any company, on any number of cores, with or without what is kept on disk, with memory for
all students at a time or for one, or killed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from bench import C_COMPILER, PHASED, Bench, registries_kept, same_bits, suite_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_kill_resume import Killed, at

from kdbench.jobs import cohort
from kdbench.plugins import load_plugins
from kdbench.records import Record
from kdbench.suites import parse_suite
from kdbench.train import remembered
from kdbench.train.lockstep import Lockstep
from kdbench.trials.trial import Trial

FIXED = {"augmentation": "none", "batch": 200}
#: What a CPU is fastest with.
FAST = {"precision": "bf16", "fold": True, "compile": "norms" if C_COMPILER else "none"}
#: Some under one protocol whose images never change, so that the teacher's outputs can be kept, some under another.
ROWS: list[dict[str, Any]] = [
    *({"name": name, "protocol": FIXED} for name in ("ce", "kd", "pkt", "fitnet", "crld")),
    {"name": "kd", "label": "kd bf16", "protocol": {**FIXED, "precision": "bf16"}},
    *({"name": name, "label": f"{name} moved"} for name in ("kd", "nd", "phased", "dot(dkd)")),
    {"name": "fitnet", "label": "fitnet folded", "protocol": {"fold": True}},
    *({"name": name, "label": f"{name} fast", "protocol": FAST} for name in ("kd", "fitnet")),
]


Undisturbed = tuple[Bench, list[Trial], dict[str, Record]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """The trials, and the records of each trained alone on one core, with a teacher that runs each time."""
    with registries_kept():
        bench = Bench(tmp_path_factory.mktemp("undisturbed"))
        load_plugins([bench.plugin("phased", **PHASED)])
        rows = [{**row, "label": row.get("label", row["name"]).replace(" ", "-")} for row in ROWS]
        trials = bench.trials(parse_suite(suite_text(rows), "tiny.toml"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(remembered, "SHARE", 0.0)
            for trial in trials:
                bench.train([trial])
        yield bench, trials, bench.records()


@pytest.mark.parametrize(
    ("order", "cores", "share", "memory", "kills"),
    [
        ([*range(0, len(ROWS), 2), *range(1, len(ROWS), 2)], 2, 0.5, 2**40, [4, 25]),
        (range(len(ROWS))[::-2], 3, 0.0, 1, [11]),
        (range(0, len(ROWS), 3), 1, 0.5, 1, [30, 2]),
    ],
    ids=["kept, and killed in both trainings", "little memory and three cores", "kept for one student at a time"],
)
def test_nothing_that_the_key_leaves_out_changes_a_bit(
    undisturbed: Undisturbed, order: Sequence[int], cores: int, share: float, memory: int, kills: list[int]
) -> None:
    assert _train_again(undisturbed, order, cores, share, memory, kills) == len(kills)


@pytest.mark.slow
@given(
    order=st.permutations(range(len(ROWS))),
    count=st.integers(1, len(ROWS)),
    cores=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.5]),
    memory=st.sampled_from([1, 2**40]),
    kills=st.lists(st.integers(0, 40), max_size=2),
)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_whatever_comes_together_changes_no_bit(
    undisturbed: Undisturbed, order: list[int], count: int, cores: int, share: float, memory: int, kills: list[int]
) -> None:
    _train_again(undisturbed, order[:count], cores, share, memory, kills)


def _train_again(
    undisturbed: Undisturbed, order: Sequence[int], cores: int, share: float, memory: int, kills: list[int]
) -> int:
    """Train the rows ``order``, killed at these steps and started again: they end with the bits of ``undisturbed``.

    How often they were killed, as a training may end before.
    """
    killed = 0
    whole, trials, expected = undisturbed
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        bench = Bench(Path(folder), cores=cores)
        shutil.copytree(whole.folder / "cache" / "teachers", bench.folder / "cache" / "teachers")
        patch.setattr(cohort, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(remembered, "SHARE", share)
        patch.setattr(cohort, "free_memory", lambda *_: memory)
        chosen = [trials[place] for place in order]
        for kill in kills:
            with pytest.MonkeyPatch.context() as deadly:
                deadly.setattr(Lockstep, "_share", at(kill, Lockstep._share))
                try:
                    bench.train(chosen)
                except Killed:
                    killed += 1
        records = bench.train(chosen)
        assert {record["status"] for record in records.values()} == {"finished"}
        assert all(same_bits(records[trial.label], expected[trial.label]) for trial in chosen)
    return killed
