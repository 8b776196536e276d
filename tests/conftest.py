"""Every test runs in folders of its own, on one thread, and leaves registries and torch as it found them."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["OMP_NUM_THREADS"] = "1"

from bench import METHOD_ROWS, PATIENCE, ROOT, Bench, registries_kept, suite_text

from kdbench.data import digits
from kdbench.records import Record
from kdbench.schedule.devices import cores
from kdbench.suites import SUITES, Suite, get_suite, parse_suite

settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

#: The files that take longest are begun first, so that processes side by side end together. The first two wait for a
#: cluster more than they compute.
LONGEST = (
    "test_slurm",
    "test_ray",
    "test_wheel",
    "test_conformance",
    "test_gate",
    "test_kill_resume",
    "test_norms",
    "test_gpu",
    "test_same_bits",
    "test_global_state",
    "test_remembered",
)


_numbers = count()

gc.disable()  # what is imported and collected stays


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure() -> None:
    """pytest collects garbage five times as it ends, and there is nobody left whom that would help."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def _own_folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a test asks for no folder, these are made as they are needed: most of the thousands need none."""
    if "tmp_path" in request.fixturenames:
        folder: Path = request.getfixturevalue("tmp_path")
    else:
        folder = tmp_path_factory.getbasetemp() / "folders" / str(next(_numbers))
    monkeypatch.setenv("KDBENCH_CACHE", str(folder / "cache"))
    monkeypatch.setenv("KDBENCH_DATA", str(folder / "data"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    for name in ("KDBENCH_DOWNLOAD", "KDBENCH_CHECKPOINT_SECONDS", "KDBENCH_DECODERS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """A test run in the background of a shell inherits an ignored SIGINT, and so would the runs it interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """A worker's set-up, done in this process, must not reach the next test."""
    yield
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
        if torch.are_deterministic_algorithms_enabled():
            torch.set_deterministic_debug_mode("default")
    if "kdbench.train.global_state" in sys.modules:
        from kdbench.train.global_state import forget

        forget()


@pytest.fixture(autouse=True, scope="session")
def _measured_in_a_moment() -> Iterator[None]:
    """What a record says of speed is measured as ever, only shorter, and on a machine however slow.

    No test looks at how large it is.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.plan.speeds.probed", lambda *_: None)
        if "torch" in sys.modules:
            from kdbench.measure import throughput
            from kdbench.train import pace

            patch.setattr(throughput, "BATCHES", (1, 4))
            patch.setattr(throughput, "ROUNDS", 1)
            patch.setattr(throughput, "REFERENCE_BATCH", 1)
            patch.setattr(throughput, "SHORTEST", 0.0)
            patch.setattr(pace, "SECONDS", PATIENCE)
        yield


@pytest.fixture(autouse=True, scope="session")
def _digits_are_parsed_once() -> Iterator[None]:
    """Each training reads their table several times, which is of text."""
    parsed = cache(lambda path, stamp, parse=digits.parsed: parse(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "parsed", lambda path: parsed(path, os.stat(path).st_mtime_ns))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_the_disk() -> Iterator[None]:
    """No test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True, scope="module")
def _little_to_collect() -> None:
    """Each training ends with a garbage collection, which need not look at what was imported and collected by then."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _registries_as_they_were() -> Iterator[None]:
    with registries_kept():
        yield


@pytest.fixture
def make_suite() -> Callable[[str], Suite]:
    """Register a suite from TOML text until the test ends."""

    def make(text: str) -> Suite:
        name = text.partition('name = "')[2].partition('"')[0]
        SUITES.add(name, (text, f"{name}.toml"), "test")
        return get_suite(name)

    return make


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A place to plan and train in, inside this process."""
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)


@pytest.fixture
def plugins_in_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans put plugins into processes of their own; here they sit among the others, whom the engine has to shield."""
    monkeypatch.setattr("kdbench.plan.cohorts.foreign", lambda trial: frozenset())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Record]]:
    """The methods of a suite in good company: their cache, for its teacher, and their records."""
    bench = Bench(tmp_path_factory.mktemp("good"))
    records = bench.train(bench.trials(parse_suite(suite_text(METHOD_ROWS), "tiny.toml")))
    return bench.folder / "cache", records


@pytest.fixture
def taught(bench: Bench, good: tuple[Path, dict[str, Record]]) -> Bench:
    """A bench on which that teacher is ready."""
    shutil.copytree(good[0] / "teachers", bench.folder / "cache" / "teachers")
    return bench


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What ``-n auto`` is: the cores, and one more, as tests of clusters wait more than they compute."""
    return cores() + 1
