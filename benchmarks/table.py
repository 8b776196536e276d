"""``python benchmarks/table.py``: measure, and write what was found into docs/performance.md, with the machine.

What stands between two marks there is replaced and the rest of the page is left alone. Needs no torch itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"

#: What pytest-benchmark writes into its JSON file of a benchmark: name, stats, extra_info and more.
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """A part of the page: what pytest is asked for, and the lines that its benchmarks become."""

    selection: tuple[str, ...]
    render: Callable[[Sequence[Figures]], Iterator[str]]


def main() -> int:
    asked = _arguments()
    return max(_write(name, asked) for name in asked.blocks)


def _write(name: str, asked: argparse.Namespace) -> int:
    """Put the block ``name`` into the page; pytest's exit status."""
    block = BLOCKS[name]
    with TemporaryDirectory() as folder:
        found = asked.json or Path(folder) / "figures.json"
        status = 0 if asked.json else _measure(block, found, asked.rounds)
        if not found.exists():
            return status
        report = json.loads(found.read_text(encoding="utf-8"))
    command = f"python benchmarks/table.py {name}" + (f" --rounds {asked.rounds}" if asked.rounds else "")
    lines = [machine(report["machine_info"], command), "", *block.render(report["benchmarks"])]
    print("\n".join(lines))
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replaced(page, name, "\n".join(lines)), encoding="utf-8")
    return status


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure, print what was found, and write it into the page.")
    parser.add_argument("blocks", nargs="+", choices=BLOCKS, metavar="BLOCK", help=f"of {', '.join(BLOCKS)}")
    parser.add_argument("--rounds", type=int, help="rounds of each comparison, for a first look")
    parser.add_argument("--json", type=Path, help="measure nothing: write what pytest-benchmark left in this file")
    asked = parser.parse_args()
    if asked.json and len(asked.blocks) > 1:
        parser.error("--json is for one block at a time")
    return asked


def _measure(block: Block, found: Path, rounds: int | None) -> int:
    """pytest's exit status; not 0 where a limit was missed, which the figures show."""
    files = [f"benchmarks/{word}" if ".py" in word else word for word in block.selection]
    options = [f"--benchmark-json={found}", *([] if rounds is None else [f"--rounds={rounds}"])]
    return subprocess.run([sys.executable, "-m", "pytest", *files, *options], cwd=ROOT).returncode


def replaced(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between the marks of the block ``name``; ValueError where it does not have them once."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, found, rest = page.partition(begin)
    old, ended, after = rest.partition(end)
    if not (found and ended) or begin in old + after or end in before + after:
        raise ValueError(f"the page does not have the block {name!r} exactly once")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"


def machine(info: Mapping[str, Any], command: str) -> str:
    """What the figures were made on, and with."""
    own = info["kdbench"]
    cores = f"{own['cores']} core{'s' * (own['cores'] != 1)}"
    return f"Made on {own['device_name']}, {cores}, {own['isa']}, torch {own['torch']}, by `{command}`."


def loops(benchmarks: Sequence[Figures]) -> Iterator[str]:
    """The trainings of a pair, row by row."""
    columns = ("batch", "students", "`precision`", "`fold`", "`compile`", "first step", "rounds")
    columns += ("peers", "kdbench", "ratio", "convolutions alone", "share of these")
    yield row(*columns)
    yield row(*("---" for _ in columns))
    for benchmark in _named(benchmarks, "test_loops"):
        for found in benchmark["extra_info"].values():
            cells = [found["batch"], found["students"], f"`{found['precision']}`"]
            cells += [str(found["fold"]).lower(), f"`{found['compile']}`", f"{found['first']:.0f} s", found["rounds"]]
            cells += [f"{found['peer']:.3g}", f"{found['kdbench']:.3g}", _spread(found["ratio"])]
            yield row(*cells, f"{found['bound']:.3g}", _spread(found["share"]))


def cores(benchmarks: Sequence[Figures]) -> Iterator[str]:
    """What all cores do for a cohort, over one."""
    yield from ("| pair | students | cores | side by side | threads inside |", "| --- | --- | --- | --- | --- |")
    for benchmark in _named(benchmarks, "test_cores"):
        beside, inside = benchmark["extra_info"]["side by side"], benchmark["extra_info"]["threads inside"]
        cells = [f"`{benchmark['params']['name']}`", beside["students"], beside["cores"]]
        yield row(*cells, _spread(beside["ratio"]), _spread(inside["ratio"]))


def waits(benchmarks: Sequence[Figures]) -> Iterator[str]:
    """What else a user waits for."""
    yield from ("| what else | |", "| --- | --- |")
    for benchmark in _named(benchmarks, "test_augmentation"):
        found = benchmark["extra_info"]["crop_flip"]
        figures = f"{found['kdbench']:,.0f}, peers {found['peer']:,.0f}: {_spread(found['ratio'])}"
        yield row("crops and flips of 32 x 32 pixels, images a second", figures)
    for benchmark in _named(benchmarks, "test_random_crops"):
        low, median, high = benchmark["extra_info"]["kdbench"]
        figures = f"{_spread([1 / high, 1 / median, 1 / low])} times as many as the peers"
        yield row("crops of JPEGs, 224 x 224 pixels, images a second", figures)
    for benchmark in _named(benchmarks, "test_worker"):
        found = benchmark["extra_info"]
        yield row("a worker's start to its first steps", f"{found['start']:.1f} s")
        yield row("a cohort of eight resnet20, most memory", f"{found['peak'] / 2**20:,.0f} MiB")
        yield row("training images copied from their file", f"{found['copied']} bytes")
    for benchmark in _named(benchmarks, "test_command"):
        words = benchmark["name"].partition("[")[2].removesuffix("]")
        yield row(f"`kdbench {words}`", f"{benchmark['stats']['median']:.2f} s")
    for benchmark in _named(benchmarks, "test_import_torch"):
        yield row("`import torch`, of which none of these does any", f"{benchmark['stats']['median']:.2f} s")


def results(benchmarks: Sequence[Figures]) -> Iterator[str]:
    """What ten thousand records cost."""
    yield from ("| 10,000 records | CPU | by the clock | most memory |", "| --- | --- | --- | --- |")
    for benchmark in _named(benchmarks, "test_ten_thousand_records"):
        for name, found in benchmark["extra_info"].items():
            seconds = (f"{found[kind]:.1f} s" for kind in ("seconds", "wall"))
            yield row(name, *seconds, f"{found['peak'] / 2**20:,.0f} MiB")


def norms(benchmarks: Sequence[Figures]) -> Iterator[str]:
    """Compiled normalisation over torch's, by precision and map."""
    yield from ("| images, channels, side | in | time, over that of torch's operators |", "| --- | --- | --- |")
    for benchmark in _named(benchmarks, "test_norms"):
        asked = benchmark["params"]
        shape = " x ".join(map(str, asked["shape"]))
        yield row(shape, f"`{asked['kind']}`", _spread(benchmark["extra_info"]["compiled"]))


def methods(benchmarks: Sequence[Figures]) -> Iterator[str]:
    """What each method's step takes, the costliest last."""
    yield from ("| method | step, over that of `kd` |", "| --- | --- |")
    for benchmark in _named(benchmarks, "test_all_methods"):
        for name, ratio in sorted(benchmark["extra_info"].items(), key=lambda item: item[1][1]):
            yield row(f"`{name}`", _spread(ratio))


def _named(benchmarks: Sequence[Figures], name: str) -> list[Figures]:
    return [benchmark for benchmark in benchmarks if benchmark["name"].partition("[")[0] == name]


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _spread(quartiles: Sequence[float]) -> str:
    low, median, high = quartiles
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


PAIRS = ("resnet32x4:resnet8x4", "wrn_40_2:wrn_16_2", "resnet56:resnet20", "resnet34:resnet18")
BLOCKS = {
    **{name: Block((f"test_loops.py::test_loops[{name}]",), loops) for name in PAIRS},
    "norms": Block(("test_norms.py",), norms),
    "cores": Block(("test_cores.py",), cores),
    "waits": Block(("test_decoding.py", "test_augmentation.py", "test_worker.py", "test_start.py"), waits),
    "results": Block(("test_results.py",), results),
    "methods": Block(("test_steps.py", "-m", "slow"), methods),
}


if __name__ == "__main__":
    sys.exit(main())
