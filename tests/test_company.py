"""A cohort is company, not influence: what others do, and how they end, changes no trial's bits."""

from __future__ import annotations

import re
import shutil
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import METHOD_ROWS, PHASED, STEPS, Bench, add_drop_net, same_bits, suite_text

from kdbench.jobs import cohort
from kdbench.plan.cohorts import cohorts
from kdbench.plugins import load_plugins
from kdbench.records import Record
from kdbench.suites import Suite
from kdbench.train import lockstep
from kdbench.train.account import Account
from kdbench.train.lockstep import Lockstep, Shared
from kdbench.train.member import Member
from kdbench.train.taught import Taught, teach

pytestmark = pytest.mark.usefixtures("plugins_in_company")

MakeSuite = Callable[[str], Suite]
CPU = torch.device("cpu")


def together(bench: Bench, suite: Suite, *methods: str, plugins: tuple[str, ...] = ()) -> dict[str, Record]:
    return bench.train(bench.trials(suite, *methods), plugins)


def test_alone_in_company_and_in_any_order(bench: Bench, make_suite: MakeSuite) -> None:
    """With a student that draws random numbers while it trains, and a method that has weights of its own."""
    add_drop_net()
    load_plugins([bench.plugin("phased", **PHASED)])
    rows = ("ce", "fitnet", "phased")
    suite = make_suite(suite_text(rows, student="drop_net", epochs=1))
    company = together(bench, suite)
    assert {r["status"] for r in company.values()} == {"finished"}
    assert len({r["weights_sha256"] for r in company.values()}) == 3
    for label in rows:
        alone = bench.again(f"alone-{label}")
        shutil.copytree(bench.folder / "cache", alone.folder / "cache")
        assert same_bits(together(alone, suite, label)[label], company[label]), label
    turned = bench.again("turned")
    records = turned.train(list(reversed(turned.trials(suite))))
    assert all(same_bits(records[label], company[label]) for label in rows)


BAD: dict[str, dict[str, Any]] = {
    "nan": {"loss": "if step.epoch == 2: terms['ce'] = terms['ce'] * float('nan')"},
    "infinite": {"loss": "if step.epoch == 2: terms['ce'] = terms['ce'] + float('inf')"},
    "explodes": {"loss": "terms['ce'] = terms['ce'] * 1e38"},
    "raises": {"loss": "if step.progress > 0.2: raise ValueError('no luck')"},
    "setup": {"setup": "raise ValueError('no luck')"},
    "undeclared": {"loss": "terms['extra'] = terms['ce']"},
    "nothing": {"loss": "terms = {}"},
    "vector": {"loss": "terms['ce'] = terms['ce'].repeat(3)"},
    "number": {"loss": "terms['ce'] = 0.5"},
    "detached": {"loss": "terms['ce'] = terms['ce'].detach()"},
    "none": {"loss": "return None"},
    "exits": {"loss": "if step.progress > 0.2: sys.exit(0)"},
    "setupexits": {"setup": "sys.exit('bye')"},
    "backward": {
        "loss": "terms['ce'] = Bad.apply(terms['ce'])",
        "top": """
class Bad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, g): raise ValueError('no luck')
""",
    },
}
ENDS = {
    "nan": ("diverged", "epoch 2"),
    "infinite": ("diverged", "epoch 2"),
    "explodes": ("diverged", "epoch 1"),
    "raises": ("crashed", "ValueError: no luck"),
    "setup": ("crashed", "ValueError: no luck"),
    "undeclared": ("crashed", "['ce', 'extra'], its card declares ['ce']"),
    "nothing": ("crashed", "its card declares ['ce']"),
    "vector": ("crashed", "must be a scalar"),
    "number": ("crashed", "must be a scalar"),
    "detached": ("crashed", "does not require grad"),
    "none": ("crashed", "must return"),
    "exits": ("crashed", "SystemExit"),
    "setupexits": ("crashed", "SystemExit: bye"),
    "backward": ("crashed", "ValueError: no luck"),
}


def test_a_bad_method_costs_its_own_trial_only(
    taught: Bench, good: tuple[Path, dict[str, Record]], make_suite: MakeSuite, capfd: pytest.CaptureFixture[str]
) -> None:
    files = tuple(taught.plugin(name, **parts) for name, parts in BAD.items())
    load_plugins(files)
    names = list(BAD)
    suite = make_suite(suite_text([*names[:7], "ce", *names[7:], "kd"], name="mixed"))
    trials = taught.trials(suite)
    assert len(cohorts(trials)) == 1
    records = taught.train(trials, files)
    for label in ("ce", "kd"):
        assert same_bits(records[label], good[1][label]), label
    for name, (status, words) in ENDS.items():
        assert records[name]["status"] == status, (name, records[name]["detail"])
        assert words in records[name]["detail"], (name, records[name]["detail"])
        assert records[name]["scores"] == {"last": None, "best_val": None, "best_test": None}
        assert records[name]["predictions"] is records[name]["weights_sha256"] is None
    assert len(records["nan"]["curve"]) == 1
    assert "Traceback" not in capfd.readouterr().out
    assert not list((taught.folder / "cache" / "checkpoints").glob("*"))


RUDE: dict[str, dict[str, Any]] = {
    "draws": {
        "loss": "torch.manual_seed(1); torch.rand(9); import random, numpy; random.seed(1); numpy.random.seed(1)"
    },
    "batch": {"loss": "step.x.zero_(); step.y.zero_()"},
    "index": {"loss": "step.index.zero_()"},
    "unseen": {
        "loss": "step.x.data.zero_(); step.y.numpy()[:] = 0; step.teacher.logits.data.zero_()",
        "needs": ["teacher"],
    },
    "logits": {"loss": "step.teacher.logits.zero_()", "needs": ["teacher"]},
    "maps": {"loss": "step.teacher.stages[1].zero_()", "needs": ["teacher", "stages"]},
    "keeps": {"setup": "self.teacher = teacher.module", "needs": ["teacher"]},
    "trains": {
        "loss": "self.t.train()",
        "setup": "object.__setattr__(self, 't', teacher.module)",
        "needs": ["teacher"],
    },
    "nograd": {"loss": "torch.set_grad_enabled(False)"},
    "labels": {"setup": "data.labels.zero_()"},
}


@pytest.mark.parametrize("cores", [1, 3])
def test_a_method_that_touches_what_it_shares_changes_no_other(
    taught: Bench, good: tuple[Path, dict[str, Record]], make_suite: MakeSuite, cores: int
) -> None:
    """The rude ones stand first in the cohort; those behind must train as if they were not there."""
    taught.cores = cores
    files = tuple(taught.plugin(name, **parts) for name, parts in RUDE.items())
    load_plugins(files)
    suite = make_suite(suite_text([*RUDE, *METHOD_ROWS], name="mixed"))
    records = together(taught, suite, plugins=files)
    assert torch.is_grad_enabled()
    for label in METHOD_ROWS:
        assert records[label]["status"] == "finished", records[label]["detail"]
        assert same_bits(records[label], good[1][label]), label
    for name in ("batch", "index", "logits", "maps"):
        assert records[name]["status"] == "crashed"
        assert re.search("in ?place", records[name]["detail"])


def test_a_plugin_cannot_reach_the_teacher_that_others_learn_from(
    taught: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On several cores that teacher may be looking at the next batch while the plugin's loss runs."""
    plugin = taught.plugin("trains", **RUDE["trains"])
    load_plugins((plugin,))
    modes: set[bool] = set()
    share = Lockstep._share

    def watched(self: Lockstep, step: int, due: Sequence[Member]) -> Shared:
        assert self.teacher is not None
        modes.add(self.teacher.training)
        return share(self, step, due)

    monkeypatch.setattr(Lockstep, "_share", watched)
    suite = make_suite(suite_text(["trains", "kd"], name="mixed"))
    together(taught, suite, plugins=(plugin,))
    assert modes == {False}


def test_a_batch_made_again_waits_for_the_one_that_is_made_ahead(
    taught: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher with hooks, as all library networks are, would hand one thread what another computes."""
    plugin = taught.plugin("late", loss="if step.epoch == 2: raise RuntimeError('no')")
    load_plugins([plugin])
    inside = 0
    met = threading.Event()

    def alone(*arguments: Any) -> Taught:
        """Waits for another thread to come in, which it does at once if nothing keeps it out."""
        nonlocal inside
        inside += 1
        if inside > 1:
            met.set()
        met.wait(timeout=0.1)
        made = teach(*arguments)
        inside -= 1
        return made

    monkeypatch.setattr(lockstep, "teach", alone)
    taught.cores = 3
    records = together(taught, make_suite(suite_text(["late", "kd"])), plugins=(plugin,))
    assert {label: record["status"] for label, record in records.items()} == {"late": "crashed", "kd": "finished"}
    assert not met.is_set()


def test_the_next_batch_is_made_while_this_one_is_trained_on(
    taught: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []
    share = Lockstep._share

    def watched(self: Lockstep, step: int, due: Sequence[Member]) -> Shared:
        threads.append(threading.current_thread() is threading.main_thread())
        return share(self, step, due)

    monkeypatch.setattr(Lockstep, "_share", watched)
    taught.cores = 2
    together(taught, make_suite(suite_text(["kd"])))
    assert threads == [True, *[False] * (2 * STEPS - 1)]


def test_a_gpu_that_fails_is_no_members_fault(
    taught: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error comes back from every later call: the worker ends, and everybody goes on elsewhere."""

    def failing(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    plugin = taught.plugin("fatal", loss="raise torch.AcceleratorError('CUDA error: device-side assert triggered')")
    load_plugins([plugin])
    suite = make_suite(suite_text(["kd", "fatal"], epochs=1))
    with pytest.raises(torch.AcceleratorError, match="device-side assert"):
        together(taught, suite, plugins=(plugin,))
    assert taught.records() == {}
    for place in ("kdbench.train.lockstep.teach", "kdbench.jobs.cohort.Member", "kdbench.train.account.throughput"):
        with monkeypatch.context() as patch:
            patch.setattr(place, failing)
            with pytest.raises(torch.AcceleratorError):
                together(taught, suite, "kd")
        assert taught.records() == {}, place
    assert together(taught, suite, "kd")["kd"]["status"] == "finished"


def test_a_network_that_cannot_be_counted_costs_its_own_trial(
    taught: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = Account.section

    def fails_once(self: Account, member: Member) -> dict[str, Any]:
        if member.trial.label == "ce":
            raise ValueError("two outputs")
        return section(self, member)

    monkeypatch.setattr(Account, "section", fails_once)
    records = together(taught, make_suite(suite_text(["ce", "kd"], epochs=1)))
    assert (records["ce"]["status"], records["ce"]["detail"]) == ("crashed", "ValueError: two outputs")
    assert records["kd"]["status"] == "finished"


def test_students_that_memory_parts_train_one_after_the_other_and_make_room(
    taught: Bench, good: tuple[Path, dict[str, Record]], make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before are gone, or there would be room for fewer and fewer, when the memory for the next is looked up."""
    known: list[weakref.ref[Member]] = []
    alive = []
    build = Member.__init__

    def counted(self: Member, *args: Any, **kwargs: Any) -> None:
        known.append(weakref.ref(self))
        build(self, *args, **kwargs)

    def free(*_: object) -> int:
        alive.append(sum(member() is not None for member in known))
        return 1

    monkeypatch.setattr(Member, "__init__", counted)
    monkeypatch.setattr(cohort, "free_memory", free)
    records = together(taught, make_suite(suite_text(METHOD_ROWS)))
    assert alive == [0, 0, 0]
    assert all(same_bits(records[label], good[1][label]) for label in METHOD_ROWS)
    assert {record["cost"]["cohort_size"] for record in records.values()} == {1}
