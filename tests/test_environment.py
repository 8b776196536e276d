"""Variables of the environment: a worker does without those that libraries compute by; kdbench's own are checked."""

from __future__ import annotations

import ast
import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT, Bench, same_bits, suite_text

from kdbench import cli, environment
from kdbench.environment import FIXED, pinned
from kdbench.errors import EXIT_OK, EXIT_USAGE, UserError
from kdbench.plan.fleet import cpu
from kdbench.records import Record
from kdbench.schedule.base import Grant
from kdbench.schedule.local import environment as handed_on
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
    given = handed_on(Grant(1, task, 0, (0,)), cpu(), 1)
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


KEPT = {name: value for name, value in os.environ.items() if not environment.concerns_numbers(name)}
PIN = "from kdbench.environment import pin; pin()\n"


def printed_by(code: str, **variables: str) -> list[str]:
    """The lines that a process which runs ``code`` prints; it has these variables beside those that move nothing."""
    command = [sys.executable, "-c", code]
    return subprocess.check_output(command, env=KEPT | variables, text=True, timeout=300).splitlines()


#: The gradients of a network in float32 and in bf16, and then a convolution on two threads.
STEP = """
import hashlib, torch
from kdbench.models.factory import create
from kdbench.models.precision import in_precision
from kdbench.train.device import set_up
set_up("cpu", 1)
for precision in ("float32", "bf16"):
    torch.default_generator.manual_seed(0)
    network = create("resnet8", classes=10, image_shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
    network.to(memory_format=torch.channels_last)
    in_precision(network, precision)(torch.rand(32, 3, 16, 16), frozenset()).logits.logsumexp(1).sum().backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    print(hashlib.sha256(gradients.numpy().tobytes()).hexdigest())
set_up("cpu", 2)
torch.nn.Conv2d(16, 32, 3)(torch.rand(64, 16, 16, 16).to(memory_format=torch.channels_last))
"""


@pytest.fixture(scope="module")
def clean() -> list[str]:
    return printed_by(STEP)


def test_what_moved_bits_moves_none_now(clean: list[str]) -> None:
    """Nor does a convolution wait for threads that may not be there: oneDNN counts on as many as torch asks for."""
    assert printed_by(PIN + STEP, **MOVING, **SUSPECT, OMP_NUM_THREADS="2") == clean


@pytest.mark.skipif(platform.machine() != "x86_64", reason="they are for x86")
def test_they_do_move_bits_of_a_process_that_is_given_them(clean: list[str]) -> None:
    found = printed_by(STEP, **MOVING)
    assert len(found) == len(clean) == 2
    assert not set(found) & set(clean)


@pytest.mark.slow
@pytest.mark.parametrize("names", [[*MOVING, *SUSPECT], *([name] for name in MOVING)], ids=lambda names: names[0])
def test_no_training_is_moved(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    """Trials in float32 and in bf16, each time in a worker."""
    rows = [{"name": "ce", "label": "plain"}, {"name": "ce", "label": "bf16", "protocol": {"precision": "bf16"}}]

    def trained(**variables: str) -> dict[str, Record]:
        bench = Bench(tmp_path_factory.mktemp("environment"))
        trials = bench.trials(parse_suite(suite_text(rows, epochs=1), "tiny.toml"))
        file = bench.folder / "task.json"
        file.write_text(replace(bench.template(trials[0]), trials=tuple(trials)).to_json())
        command = [sys.executable, "-m", "kdbench.worker", str(file)]
        process = subprocess.Popen(command, env=bench.environment() | variables, stdin=subprocess.PIPE)
        assert process.wait(timeout=300) == 0
        return bench.records()

    expected, found = trained(), trained(**{name: {**MOVING, **SUSPECT}[name] for name in names})
    assert all(same_bits(found[label], expected[label]) for label in expected)


COMPUTED = """
import hashlib, math, numpy as np
x = np.arange(50_000) / 7_000
print(hashlib.sha256(repr([math.cos(value) for value in x]).encode() + np.exp(-x).tobytes()).hexdigest())
"""


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "NPY_DISABLE_CPU_FEATURES"])
def test_nor_one_by_which_rates_and_scores_are_computed(name: str) -> None:
    """The rate of a step is a cosine of the C library's, a prediction's probability an exponential of numpy's."""
    moving = {name: MOVING[name]}
    assert printed_by(PIN + COMPUTED, **moving) == printed_by(COMPUTED)
    able = {"GLIBC_TUNABLES": "fma", "NPY_DISABLE_CPU_FEATURES": "avx512f"}[name]  # of which it takes something away
    if platform.libc_ver()[0] == "glibc" and f" {able} " in Path("/proc/cpuinfo").read_text():
        assert printed_by(COMPUTED, **moving) != printed_by(COMPUTED)


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
