"""``kdbench regress`` on a thousand records: those of digits again and again, under other seeds."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from kdbench.canonical import digest
from kdbench.records.store import file_name, written
from kdbench.shipped import shipped

RECORDS = 1000


def test_regress(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "v1" / "digits@1"
    folder.mkdir(parents=True)
    sources = sorted((shipped("results") / "v1" / "digits@1").glob("*.json"))
    for seed, source in enumerate(islice(cycle(sources), RECORDS)):
        record = json.loads(source.read_text(encoding="utf-8"))
        record["seed"] = record["identity"]["seed"] = seed
        record["key"] = digest(record["identity"])
        data = written(record)
        (folder / file_name(record["key"], data)).write_bytes(data)
    kdbench = [sys.executable, "-m", "kdbench"]
    results, baseline, found = tmp_path / "results", tmp_path / "b.json", tmp_path / "verdicts.json"
    subprocess.run([*kdbench, "baseline", "freeze", "digits", "--results", results, "--out", baseline], check=True)
    regress = [*kdbench, "regress", results, "--against", baseline, "--write", found]
    benchmark.pedantic(lambda: subprocess.run(regress, check=True, capture_output=True), rounds=3)
    verdicts = json.loads(found.read_text(encoding="utf-8"))
    assert sum(cell["new"][1] for cell in verdicts["cells"]) == RECORDS
