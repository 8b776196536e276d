"""Variables of the environment: a worker does without those that libraries compute by; kdbench's own are checked."""

from __future__ import annotations

import ast
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT, Bench, same_bits, suite_text

from kdbench import cli, environment
from kdbench.environment import FIXED, pinned
from kdbench.errors import EXIT_OK, EXIT_USAGE, UserError
from kdbench.plan.task import Task
from kdbench.records import Record
from kdbench.schedule.local import LocalExecutor
from kdbench.suites import parse_suite

#: Each was found to move bits on a processor with AVX-512 (docs/adr/0015): the last two those of Python and numpy.
MOVING = {
    "DNNL_MAX_CPU_ISA": "SSE41",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "DNNL_DEFAULT_FPMATH_MODE": "ANY",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
}
#: And these by what they are for, on other processors, on GPUs or in what a plugin computes.
SUSPECT = {
    "NVIDIA_TF32_OVERRIDE": "1",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":0:0",
    "CUDNN_LOGLEVEL_DBG": "0",
    "PYTORCH_TUNABLEOP_ENABLED": "1",
    "OMP_DYNAMIC": "true",
    "OMP_MAX_ACTIVE_LEVELS": "0",
    "OMP_THREAD_LIMIT": "1",
    "KMP_DETERMINISTIC_REDUCTION": "1",
    "GOMP_STACKSIZE": "9999",
    "TORCHINDUCTOR_MAX_AUTOTUNE": "1",
    "TRITON_F32_DEFAULT": "tf32",
    "LD_PRELOAD": "libm.so.6",
    "PYTHONHASHSEED": "7",
}
#: And these are nobody's business but the user's.
LEFT = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "CUDA_VISIBLE_DEVICES": "1",
    "LD_LIBRARY_PATH": "/opt/lib",
    "MALLOC_ARENA_MAX": "2",
    "USE_TF": "0",
    "KMP_DUPLICATE_LIB_OK": "True",
    "OMP_NUM_THREADS": "3",
    "OMP_PROC_BIND": "close",
    "OPENBLAS_CORETYPE": "Haswell",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TORCH_HOME": "/somewhere",
    "HOME": "/root",
    "KDBENCH_DATA": "/data",
    "SLURM_JOB_ID": "7",
}


@pytest.mark.parametrize("name", [*MOVING, *SUSPECT])
def test_what_changes_numbers_does_not_reach_a_worker(name: str) -> None:
    value = {**MOVING, **SUSPECT}[name]
    assert pinned({name: value, "HOME": "/root"}) == {"HOME": "/root", **FIXED}


@pytest.mark.parametrize("name", LEFT)
def test_what_changes_none_is_left_alone(name: str) -> None:
    assert pinned({name: LEFT[name]}) == {name: LEFT[name], **FIXED}


def test_the_local_backend_hands_on_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**MOVING, **SUSPECT, **LEFT}.items():
        monkeypatch.setenv(name, value)
    suite = parse_suite(suite_text(["ce"]), "tiny.toml")
    task = bench.template(bench.trials(suite)[0])
    given = LocalExecutor(1, bench.folder)._environment(task, 0)
    assert pinned(given) == given
    assert given["OMP_NUM_THREADS"] == given["MKL_NUM_THREADS"] == "1"
    assert given["OMP_PROC_BIND"] == "close"


# In a process.


def printed(names: list[str], folder: Path | None = None, **variables: str) -> tuple[int, list[Any]]:
    """The process id that was started, and what it says of ``names`` in its environment after ``pin``."""
    paths = [str(folder)] if folder else []
    own = {"PYTHONPATH": os.pathsep.join([*paths, os.environ["PYTHONPATH"]])}
    code = "from kdbench.environment import pin; pin(); import os, json; "
    code += f"print(json.dumps([os.getpid(), *map(os.environ.get, {names!r})]))"
    kept = {name: value for name, value in os.environ.items() if name not in variables}
    process = subprocess.Popen([sys.executable, "-c", code], env=kept | own | variables, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return process.pid, json.loads(out)


def test_a_process_pins_its_own_environment_and_stays_the_same_process() -> None:
    names = ["OMP_DYNAMIC", "LD_PRELOAD", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED", "OWN", environment._REPLACED]
    pid, said = printed(names, OMP_DYNAMIC="true", LD_PRELOAD="libm.so.6", OWN="kept")
    assert said == [pid, None, None, ":4096:8", "0", "kept", None]


def test_the_worker_pins_first() -> None:
    """Before it has loaded anything of kdbench that could load a library which computes."""
    source = (ROOT / "kdbench" / "worker.py").read_text(encoding="utf-8")
    body = [node for node in ast.parse(source).body if not isinstance(node, ast.Expr)]
    assert [ast.unparse(node) for node in body[:-1]] == [
        "from __future__ import annotations",
        "import sys",
        "from kdbench.environment import pin",
    ]
    assert isinstance(body[-1], ast.If)
    assert ast.unparse(body[-1].body[0]) == "pin()"
    code = "import kdbench.worker, sys; print({'torch', 'numpy', 'scipy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_what_python_itself_sets_as_it_starts_is_taken_back_and_ends_in_no_circle(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ['OMP_DYNAMIC'] = 'true'\n")
    pid, said = printed(["OMP_DYNAMIC", environment._REPLACED], tmp_path, MKL_CBWR="COMPATIBLE")
    assert said == [pid, None, None]


Records = dict[str, Record]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Records]:
    """Trains a trial in float32 and one in bf16 in a worker, whose environment has these variables beside."""
    bench = Bench(tmp_path_factory.mktemp("environment"))
    rows = [{"name": "ce", "label": "plain"}, {"name": "ce", "label": "bf16", "protocol": {"precision": "bf16"}}]
    trials = bench.trials(parse_suite(suite_text(rows, epochs=1), "tiny.toml"))
    task = replace(bench.template(trials[0]), trials=tuple(trials))

    def train(pinned: bool = True, **variables: str) -> Records:
        shutil.rmtree(bench.folder / "results", ignore_errors=True)
        code, text = worker(bench, task, pinned=pinned, **variables)
        assert code == 0, text
        return bench.records()

    return train


def worker(bench: Bench, task: Task, *, pinned: bool = True, **variables: str) -> tuple[int, str]:
    """The exit code of a worker for ``task``, and what it said. It keeps its environment where it is not ``pinned``."""
    file = bench.folder / "task.json"
    file.write_text(task.to_json())
    kept = {name: value for name, value in bench.environment().items() if not environment.concerns_numbers(name)}
    pin = "from kdbench.environment import pin; pin()\n" if pinned else ""
    with (bench.folder / "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", pin + QUICKLY, str(file)],
            env=kept | variables,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        code = process.wait(timeout=300)
        log.seek(0)
        return code, log.read().decode()


#: What kdbench.worker does, with speeds measured in a moment.
QUICKLY = """
import sys
from kdbench.jobs.worker import main
from kdbench.measure import throughput
throughput.BATCHES, throughput.ROUNDS, throughput.REFERENCE_BATCH, throughput.SHORTEST = (1, 4), 1, 1, 0.0
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def clean(trained: Callable[..., Records]) -> Records:
    return trained()


def test_what_moved_bits_moves_none_now(trained: Callable[..., Records], clean: Records) -> None:
    found = trained(**MOVING, **SUSPECT)
    assert all(same_bits(found[label], clean[label]) for label in clean)


@pytest.mark.slow
@pytest.mark.parametrize("name", MOVING)
def test_nor_does_one_by_itself(name: str, trained: Callable[..., Records], clean: Records) -> None:
    found = trained(**{name: MOVING[name]})
    assert all(same_bits(found[label], clean[label]) for label in clean)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="they are for x86")
def test_they_do_move_bits_of_a_worker_that_is_given_them(trained: Callable[..., Records], clean: Records) -> None:
    found = trained(pinned=False, **MOVING)
    assert not any(same_bits(found[label], clean[label]) for label in clean)


COMPUTED = """
import hashlib, math, numpy as np
x = np.arange(50_000) / 7_000
print(hashlib.sha256(repr([math.cos(value) for value in x]).encode() + np.exp(-x).tobytes()).hexdigest())
"""


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "NPY_DISABLE_CPU_FEATURES"])
def test_nor_one_by_which_rates_and_scores_are_computed(name: str) -> None:
    """The rate of a step is a cosine of the C library's, a prediction's probability an exponential of numpy's."""
    kept = {key: value for key, value in os.environ.items() if not environment.concerns_numbers(key)}

    def said(code: str, **variables: str) -> str:
        return subprocess.check_output([sys.executable, "-c", code], env=kept | variables, text=True)

    pin = "from kdbench.environment import pin; pin()\n"
    assert said(pin + COMPUTED, **{name: MOVING[name]}) == said(COMPUTED)
    if platform.libc_ver()[0] == "glibc" and "fma" in Path("/proc/cpuinfo").read_text():
        assert said(COMPUTED, **{name: MOVING[name]}) != said(COMPUTED)


def test_a_training_on_two_threads_waits_for_no_thread_that_may_not_be_there() -> None:
    """oneDNN counts on as many as torch has asked for: without the pin, its first convolution never ends."""
    code = """
from kdbench.environment import pin; pin()
from kdbench.train.device import set_up; set_up("cpu", 2)
import torch
x = torch.rand(64, 16, 16, 16).to(memory_format=torch.channels_last)
print(torch.nn.Conv2d(16, 32, 3)(x).shape)
"""
    kept = {key: value for key, value in os.environ.items() if not environment.concerns_numbers(key)}
    hanging = {name: SUSPECT[name] for name in ("OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS", "OMP_THREAD_LIMIT")}
    variables = {**hanging, "OMP_NUM_THREADS": "2"}
    said = subprocess.check_output([sys.executable, "-c", code], env=kept | variables, text=True, timeout=300)
    assert said.strip() == "torch.Size([64, 32, 14, 14])"


# kdbench's own.

BROKEN = [
    ("KDBENCH_CHECKPOINT_SECONDS", "abc", "must be a number of seconds from 0, not 'abc'"),
    ("KDBENCH_CHECKPOINT_SECONDS", "-1", "must be a number of seconds from 0, not '-1'"),
    ("KDBENCH_CHECKPOINT_SECONDS", "nan", "must be a number of seconds from 0, not 'nan'"),
    ("KDBENCH_DECODERS", "many", "must be a whole number from 0, not 'many'"),
    ("KDBENCH_DECODERS", "-2", "must be a whole number from 0, not '-2'"),
    ("KDBENCH_DOWNLOAD", "please", "must be one of 1, true, yes, 0, false, no, not 'please'"),
    ("KDBENCH_CACHE", "~nobody-here/cache", "nobody here has that home folder"),
    ("KDBENCH_CACHE", __file__, "is a file and not a folder"),
    ("KDBENCH_DATA", "~nobody-here/data", "nobody here has that home folder"),
    ("KDBENCH_DATA", __file__, "is a file and not a folder"),
]


@pytest.mark.parametrize(("name", "value", "says"), BROKEN)
def test_a_broken_variable_is_one_sentence_before_anything_begins(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert cli.main(["run", "--suite", "digits", "--dry-run"]) == EXIT_USAGE
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"kdbench: {name} ")
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [("KDBENCH_CHECKPOINT_SECONDS", "abc"), ("KDBENCH_CACHE", __file__)])
def test_a_worker_refuses_it_in_a_sentence(
    name: str, value: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is its last event: tests/test_worker.py has it so of any."""
    trials = bench.trials(parse_suite(suite_text(["ce"], epochs=1), "tiny.toml"))
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{name} "):
        bench.train(trials)


@pytest.mark.parametrize("command", ["list", "doctor"])
def test_a_command_that_does_not_read_it_does_not_mind(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CHECKPOINT_SECONDS", "abc")
    assert cli.main([command, *(["suites"] if command == "list" else [])]) == EXIT_OK


def test_what_is_well_formed_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CHECKPOINT_SECONDS": "0.5", "DECODERS": "3", "DOWNLOAD": "Yes", "CACHE": "~/there"}.items():
        monkeypatch.setenv(f"KDBENCH_{name}", value)
    environment.check()
    assert (environment.checkpoint_seconds(60.0), environment.decoders(), environment.download()) == (0.5, 3, True)
    assert environment.folder("KDBENCH_CACHE") == Path.home() / "there"
    monkeypatch.setenv("KDBENCH_DOWNLOAD", "no")
    assert not environment.download()


def test_what_is_not_set_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHECKPOINT_SECONDS", "DECODERS", "DOWNLOAD", "CACHE"):
        monkeypatch.setenv(f"KDBENCH_{name}", "")
    assert (environment.checkpoint_seconds(60.0), environment.decoders(), environment.download()) == (60.0, 0, False)
    assert environment.folder("KDBENCH_CACHE") is None
