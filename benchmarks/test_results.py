"""Ten thousand records in a folder: what it costs to check them all, to read them as a table, and to build the site.

They are made of those that came with kdbench, each with other seeds and so another key; their prediction files have the
same content under another sha256. Each figure is of a process of its own: its CPU seconds, in all threads, those of the
clock on the wall, and its peak resident memory.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from report import Report

from kdbench.canonical import digest
from kdbench.records import Store
from kdbench.shipped import shipped

RECORDS = 10_000
MIB = 2**20
#: Seconds of CPU, and bytes.
LIMITS = {
    "validate, cold": 60.0,
    "validate, warm": 15.0,
    "load_results, warm": 5.0,
    "site, cold": 45.0,
    "site, warm": 15.0,
}
MOST = 500e6
#: What a zip file ends with: the length of a comment, and the comment.
NO_COMMENT = b"\0\0"

RUN = """
import json, resource, sys, time
begun = time.perf_counter()
exec(sys.argv[1])
wall = time.perf_counter() - begun
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"seconds": used.ru_utime + used.ru_stime, "wall": wall, "peak": used.ru_maxrss * 1024}))
"""
VALIDATE = "from kdbench.cli import main; assert main(['results', 'validate', '--json', {folder!r}]) == 0"
SITE = (
    "from kdbench.cli import main; assert main(['site', '--results', {folder!r}, '--out', {folder!r} + '-site']) == 0"
)
LOAD = "import kdbench; assert len(kdbench.load_results({folder!r})) >= {records}"
CODE = {"validate": VALIDATE, "load_results": LOAD, "site": SITE}


def fill(store: Store, count: int) -> None:
    """Write ``count`` finished records with predictions, no two of one key or with one prediction file."""
    source = Store(shipped("results"))
    records = [r for r in source.read()[0] if r["label"] != "teacher" and r["predictions"] is not None]
    packed = [source.packed(record) for record in records]
    sources = itertools.islice(itertools.cycle(zip(records, packed, strict=True)), count)
    for number, (record, data) in enumerate(sources):
        seed = 1000 + number
        identity = {**record["identity"], "seed": seed}
        made = {**record, "identity": identity, "key": digest(identity), "seed": seed}
        made["weights_sha256"] = digest(number)
        if record.get("selected_weights_sha256") == record["weights_sha256"]:
            made["selected_weights_sha256"] = made["weights_sha256"]
        store.put_packed(made, commented(data, f"{number}".encode()))


def commented(archive: bytes, comment: bytes) -> bytes:
    """The same archive under another sha256."""
    assert archive.endswith(NO_COMMENT)
    return archive.removesuffix(NO_COMMENT) + len(comment).to_bytes(2, "little") + comment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder; syncing ten thousand files would take longer than all that is measured."""
    root = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        fill(Store(root / "results"), RECORDS)
    return root


def measured(code: str, folder: Path) -> dict[str, float]:
    """CPU and wall seconds and peak memory of a process that runs ``code``, whose cache lies beside the results."""
    command = [sys.executable, "-c", RUN, code.format(folder=str(folder / "results"), records=RECORDS)]
    environment = {**os.environ, "KDBENCH_CACHE": str(folder / "cache")}
    # Behind a shell that forks: what a process replaces counts as its memory, and pytest with torch is large.
    shell = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(shell, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def test_ten_thousand_records(report: Report, folder: Path) -> None:
    """Cold: nothing is remembered. Warm: what was done before is."""
    figures: dict[str, dict[str, float]] = {}

    def each() -> None:
        for name in LIMITS:
            if name.endswith("cold"):
                shutil.rmtree(folder / "cache", ignore_errors=True)
            figures[name] = measured(CODE[name.partition(",")[0]], folder)

    report.benchmark.pedantic(each, rounds=1)
    for name, found in figures.items():
        report.add(
            name, found, f"{found['seconds']:.1f} s of CPU, {found['wall']:.1f} s, {found['peak'] / MIB:.0f} MiB"
        )
    missed = {name: found for name, found in figures.items() if found["seconds"] > LIMITS[name] or found["peak"] > MOST}
    assert not missed
