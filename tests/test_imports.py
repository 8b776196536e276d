"""What starts at once: commands that train nothing import no torch, and the help imports hardly anything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from bench import Bench, suite_text

from kdbench.suites import Suite

LOOK = """
import contextlib, io, json, sys
from kdbench.cli import main

seen = {}
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            code = main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
    watched = ("torch", "torchvision", "timm", "sklearn", "numpy", "jinja2", "rich")
    heavy = [name for name in watched if name in sys.modules]
    seen[" ".join(words)] = [code, heavy, out.getvalue()]
print(json.dumps(seen))
"""


def look(bench: Bench, *commands: list[str]) -> dict[str, list[object]]:
    """For each command, run in one process in this order: exit code, heavy modules imported so far, output."""
    run = subprocess.run(
        [sys.executable, "-c", LOOK, json.dumps(commands)],
        env=bench.environment(bench.folder / "site-packages"),
        cwd=bench.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)  # type: ignore[no-any-return]


def test_help_imports_next_to_nothing(bench: Bench) -> None:
    for words, (code, heavy, out) in look(bench, ["--help"], ["--version"], ["site", "--help"]).items():
        assert (code, heavy) == (0, []), words
        assert "kdbench" in str(out)


def test_what_trains_nothing_needs_no_torch(bench: Bench, make_suite: Callable[[str], Suite]) -> None:
    text = suite_text(["ce"], epochs=1)
    bench.train(bench.trials(make_suite(text)))
    bench.install_suite(text)
    run = ["run", "--suite", "tiny", "--device", "cpu"]
    nothing = (["run", "--suite", "no-such-suite"], ["status"], ["logs", "ce"], ["retry", "*"])
    seen = look(
        bench,
        *(["list", what] for what in ("suites", "methods", "models", "datasets", "pairs")),
        *(["show", name] for name in ("kd", "digits", "resnet20", "timm/resnet18", "resnet56:resnet20")),
        [*run, "--dry-run"],
        ["run", "--suite", "cifar100-short", "--dry-run"],
        run,
        ["site"],
        *nothing,
    )
    for words, (code, heavy, out) in seen.items():
        assert code == (2 if words.split() in nothing else 0), out
        assert not {"torch", "torchvision", "timm", "sklearn"} & set(heavy), words  # type: ignore[arg-type]
    assert "Nothing to do" in str(seen[" ".join(run)][2])
    assert "digits@1" in str(seen["list suites"][2])


@pytest.mark.parametrize(
    "module",
    [
        "kdbench.data",
        "kdbench.methods",
        "kdbench.models",
        "kdbench.plan.tasks",
        "kdbench.records",
        "kdbench.render",
        "kdbench.schedule",
        "kdbench.stats.aggregate",
        "kdbench.suites",
        "kdbench.teachers.find",
        "kdbench.worker",
    ],
)
def test_the_pure_packages_import_no_torch(module: str) -> None:
    """Read from the import graph of the sources, which is quicker than a process for each of them."""
    import ast

    from bench import ROOT

    def imports(name: str) -> set[str]:
        base = ROOT.joinpath(*name.split("."))
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if not path.exists():
            return set()
        found = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        return found

    todo, seen = [module], set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            parts = name.split(".")
            todo += [".".join(parts[: i + 1]) for i in range(len(parts))]
            todo += imports(name) if parts[0] == "kdbench" else []
    assert not {
        name for name in seen if name.split(".")[0] in ("torch", "torchvision", "timm", "sklearn", "safetensors")
    }


WORK = """
import sys, torch
from kdbench.measure.cost import flops
from kdbench.train.optimiser import SGD

net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 2))
optimiser = SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, fused=True)
net(torch.ones(3, 1, 4, 4)).square().sum().backward()
optimiser.step()
optimiser.load_state_dict(optimiser.state_dict())
optimiser.zero_grad()
print(flops(net, (1, 4, 4)), "torch._dynamo" in sys.modules)
"""


def test_a_training_does_not_load_the_compiler_unless_it_compiles() -> None:
    found = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(2 * (4 * 2 * 9 + 8 * 2)), "False"]
