"""What a killed process has left is put right by the next one; two at once do not meet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import render_records as rr
from bench import Bench, suite_text, wait_until
from test_cli import RUN, Cli, cli  # noqa: F401

from kdbench import folders
from kdbench.folders import OLD, leftovers, locked, write_atomically
from kdbench.records import Store
from kdbench.render import build
from kdbench.suites import Suite


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def alive() -> Iterator[int]:
    """The number of a process that lives."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


@pytest.fixture
def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two results folders whose sites differ."""
    monkeypatch.setattr("kdbench.render.site.load", lambda **_: rr.FEW)
    for name, accuracy in (("one", 0.5), ("other", 0.6)):
        rr.put(Store(tmp_path / name / "results"), accuracy)
    return tmp_path / "one" / "results", tmp_path / "other" / "results"


def content(site: Path) -> dict[str, bytes]:
    return {path.relative_to(site).as_posix(): path.read_bytes() for path in site.rglob("*") if path.is_file()}


@pytest.fixture
def sites(worlds: tuple[Path, Path], tmp_path: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What the sites of the two worlds hold."""
    for number, results in enumerate(worlds):
        build(results, tmp_path / f"site {number}")
    one, other = content(tmp_path / "site 0"), content(tmp_path / "site 1")
    assert one != other
    return one, other


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed(results: Path, out: Path, place: Any, name: str, count: int) -> int:
    """Build a site in a process that ends at the ``count``-th call of a function, as if it were killed there."""
    calls, call = iter(range(1000)), getattr(place, name)

    def deadly(*arguments: Any, **keywords: Any) -> Any:
        if str(arguments[0]).startswith(str(out.parent)) and next(calls) == count:
            os._exit(9)
        return call(*arguments, **keywords)

    child = os.fork()
    if not child:
        try:
            setattr(place, name, deadly)
            build(results, out)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("place", "name", "count"),
    [
        (Path, "rename", 0),  # the pages are written, the earlier site is where it was
        (Path, "rename", 1),  # it is away, the new one is not there yet
        (shutil, "rmtree", 0),  # the new one is there, the earlier one is being removed
        (Path, "unlink", 0),
        (shutil, "rmtree", 5),
    ],
)
def test_a_kill_at_any_instant_leaves_a_whole_site_to_the_next_build(
    worlds: tuple[Path, Path],
    sites: tuple[dict[str, bytes], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Any,
    name: str,
    count: int,
) -> None:
    out = tmp_path / "pages" / "public"
    build(worlds[0], out)
    assert killed(worlds[1], out, place, name, count) == 9
    assert len(names(out.parent)) > 1, "the kill has left something"
    with monkeypatch.context() as patch:  # a build that fails leaves the reader what there was
        patch.setattr("kdbench.render.pages._method", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(worlds[1], out)
    assert content(out) in sites
    assert names(out.parent) == ["public"]
    build(worlds[1], out)
    assert content(out) == sites[1]
    assert names(out.parent) == ["public"]


def test_of_several_sites_that_were_put_aside_the_newest_comes_back(
    worlds: tuple[Path, Path],
    sites: tuple[dict[str, bytes], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dead: int,
) -> None:
    out = tmp_path / "pages" / "public"
    for age, (process, results) in enumerate(((dead, worlds[1]), (4_000_000_000, worlds[0]))):
        put_aside = out.with_name(f".public.{process}.old")
        build(results, put_aside)
        os.utime(put_aside, (1e9 - age, 1e9 - age))
    monkeypatch.setattr("kdbench.render.pages._method", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(worlds[0], out)
    assert content(out) == sites[1]
    assert names(out.parent) == ["public"]


def test_what_is_left_beside_a_site_goes_and_what_is_not_stays(
    worlds: tuple[Path, Path], tmp_path: Path, dead: int, alive: int
) -> None:
    out = tmp_path / "pages" / "public"
    build(worlds[0], out)
    gone = [f".public.{dead}.new", f".public.{dead}-7.new", f".public.{alive}-8.new"]
    others = [f".other.{dead}.new", ".public.new", f"public.{dead}.new", f".public.{dead}.txt", f".x.public.{dead}.new"]
    kept = [f".public.{alive}.new", f".public.{os.getpid()}.new", *others]
    for name in (*gone, *kept):
        (out.parent / name).mkdir()
        (out.parent / name / "index.html").write_text("half a page")
    os.utime(out.parent / gone[2], (time.time() - OLD - 60,) * 2)
    (out.parent / f".public.{dead}-1.old").mkdir()
    spoiled = out.parent / f".public.{dead}-2.old"
    spoiled.mkdir()
    (spoiled / "thesis.txt").write_text("mine")
    (out.parent / f".public.{dead}-3.old").symlink_to(out)
    build(worlds[1], out)
    assert names(out.parent) == sorted(["public", *kept, spoiled.name, f".public.{dead}-3.old"])
    assert (spoiled / "thesis.txt").read_text() == "mine"


def test_builds_into_one_folder_at_a_time_do_not_mix(
    worlds: tuple[Path, Path],
    sites: tuple[dict[str, bytes], dict[str, bytes]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "pages" / "public"
    with ThreadPoolExecutor(4) as pool:
        built = [pool.submit(build, worlds[number % 2], out) for number in range(8)]
        assert all(each.result().index == out / "index.html" for each in built)
    assert content(out) in sites
    assert names(out.parent) == ["public"]
    assert f"waiting for another process, which is at the site in {out}." in capfd.readouterr().err
    build(worlds[0], out)
    assert content(out) == sites[0], "the last one wins"


def test_a_lock_is_held_by_one_at_a_time_and_leaves_no_file(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            with locked(tmp_path / "lock", "work"):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.001)
                inside.remove(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert len(most) == 120
    assert max(most) == 1
    assert names(tmp_path) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from kdbench.folders import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), 'work'): os._exit(9)"
    )
    lock = tmp_path / "lock"
    assert subprocess.run([sys.executable, "-c", code, str(lock)], check=False).returncode == 9
    assert lock.exists()
    with locked(lock, "work"):
        pass
    assert not lock.exists()


def test_a_file_system_without_locks_serves_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with locked(tmp_path / "lock", "work"):
        assert (tmp_path / "lock").exists()


PLACES = ("", "runs", "v1/tiny@1", "v1/teachers", "pins/tiny")


@pytest.mark.parametrize("command", ["run", "site"])
def test_temporary_files_of_a_killed_run_go_with_the_next_command(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: Callable[[str], Suite],
    monkeypatch: pytest.MonkeyPatch,
    dead: int,
    alive: int,
    command: str,
) -> None:
    make_suite(suite_text(["ce"], epochs=1))
    results = bench.folder / "results"
    gone = [f".a.json.{dead}.tmp", f".a.json.{dead}-3.tmp", f".b.{alive}.tmp"]
    kept = [f".a.json.{alive}.tmp", f".a.json.{os.getpid()}.tmp", ".notes.tmp", f"a.{dead}.tmp", f".c.{dead}.tmp"]
    for place in PLACES:
        (results / place).mkdir(parents=True, exist_ok=True)
        for name in (*gone, *kept[:-1]):
            (results / place / name).write_text("{")
        os.utime(results / place / gone[2], (time.time() - OLD - 60,) * 2)
        (results / place / kept[-1]).mkdir()
    (results / "site").mkdir()
    (results / "site" / gone[0]).write_text("not where kdbench writes")
    if command == "run":
        assert cli(*RUN).code == 0
    else:
        monkeypatch.setattr("kdbench.render.site.load", lambda **_: rr.FEW)
        build(results, bench.folder / "out")
    for place in PLACES:
        assert [name for name in names(results / place) if name.endswith(".tmp")] == sorted(kept), place
    assert names(results / "site") == [gone[0]]


def test_a_run_at_work_elsewhere_writes_what_was_taken_for_a_leftover_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine that shares the folder does not see the process that writes."""
    fsync, seen = os.fsync, []

    def tidied(descriptor: int) -> None:
        if not seen:
            monkeypatch.setattr(folders, "_alive", lambda _: False)
            seen.extend(leftovers(tmp_path, "tmp"))
            for path in seen:
                path.unlink()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", tidied)
    write_atomically(tmp_path / "a.json", b"{}")
    assert len(seen) == 1
    assert (tmp_path / "a.json").read_bytes() == b"{}"
    assert names(tmp_path) == ["a.json"]


def test_a_live_build_is_left_alone_by_another_that_waits(
    worlds: tuple[Path, Path], sites: tuple[dict[str, bytes], dict[str, bytes]], tmp_path: Path
) -> None:
    """Even by one that cannot see the first one's process: it is the lock that counts."""
    out = tmp_path / "pages" / "public"
    build(worlds[0], out)
    with ThreadPoolExecutor(1) as pool:
        with locked(out.with_name(".public.kdbench-lock"), "a build"):
            (out.parent / ".public.4000000000.new").mkdir()
            waiting = pool.submit(build, worlds[1], out)
            time.sleep(0.3)
            assert not waiting.done()
            assert (out.parent / ".public.4000000000.new").exists()
        waiting.result()
    assert wait_until(lambda: content(out) == sites[1])
    assert names(out.parent) == ["public"]
