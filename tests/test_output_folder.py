"""A site takes the place of an earlier site alone, and what cannot be written is said before the training."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import render_records as rr
from bench import ROOT, Bench, suite_text
from test_cli import BUILD_AND_SAY, RUN, Cli, Ended, cli  # noqa: F401

from kdbench.cli import site
from kdbench.paths import CACHE_FOLDERS
from kdbench.records import Store
from kdbench.render import build, output
from kdbench.render.output import MARKER
from kdbench.suites import Suite

COMMANDS = {"run": RUN, "site": ("site",)}


@pytest.fixture(autouse=True)
def _ready(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: Callable[[str], Suite],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A suite to run, the literature cut to three rows, and an earlier site at ``earlier`` in the current folder."""
    make_suite(suite_text(["ce"], epochs=1))
    monkeypatch.setattr(site, "build_and_say", BUILD_AND_SAY)
    monkeypatch.setattr("kdbench.render.site.load", lambda **_: rr.FEW)
    (bench.folder / "nothing").mkdir()
    build(bench.folder / "nothing", bench.folder / "earlier")


def test_an_earlier_site_that_cannot_be_removed_stays_and_is_named(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(site: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(output, "_remove", refuse)
    ended = cli("site", "--results", str(bench.folder / "nothing"), "--out", str(bench.folder / "earlier"))
    assert ended.code == 0
    (old,) = bench.folder.glob(".earlier.*.old")
    assert f"The site before this one could not be removed and lies in {old}; delete it." in ended.err
    assert (bench.folder / "earlier" / "index.html").is_file()


def everything(folder: Path) -> dict[str, object]:
    """Each path below ``folder`` with what it is: the bytes of a file, the aim of a link."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def refused(bench: Bench, call: Callable[[], Ended], *words: str) -> None:
    """One sentence with ``words``, exit code 2, and the disk as it was."""
    before = everything(bench.folder)
    ended = call()
    assert ended.code == 2
    assert "epoch" not in ended.out
    assert ended.err.startswith("kdbench: ")
    assert ended.err.count("\n") == 1
    assert all(word in ended.err for word in words), ended.err
    assert everything(bench.folder) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("inner", ["", "deep/er"])
@pytest.mark.parametrize("noun", ["results folder", "cache folder", "data root", "current folder"])
def test_nothing_that_is_needed_is_replaced(
    cli: Cli,  # noqa: F811
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    noun: str,
    inner: str,
    command: str,
) -> None:
    """Neither under its own name nor through a link, whether it is the site's folder or lies in it."""
    site, link = bench.folder / "earlier", bench.folder / "link"
    needed = site / inner
    needed.mkdir(parents=True, exist_ok=True)
    link.symlink_to(needed)
    words = [*COMMANDS[command]]
    if noun == "results folder":
        words += ["--results", str(link)]
    elif noun == "current folder":
        monkeypatch.chdir(link)
        words += ["--results", str(bench.folder / "nothing")]
    else:
        monkeypatch.setenv("KDBENCH_CACHE" if noun == "cache folder" else "KDBENCH_DATA", str(link))
        words += ["--results", str(bench.folder / "nothing")]
    said = f"{'holds' if inner else 'is'} the {noun}, "
    refused(bench, lambda: cli(*words, "--out", str(site)), f"{site} {said}")
    (bench.folder / "other").symlink_to(site)
    refused(bench, lambda: cli(*words, "--out", str(bench.folder / "other")), f"other {said}")


def test_a_results_folder_that_is_yet_to_be_made_is_no_place_for_its_site(cli: Cli, bench: Bench) -> None:  # noqa: F811
    refused(bench, lambda: cli(*RUN, "--results", "new", "--out", "new"), "new is the results folder")
    refused(bench, lambda: cli(*RUN, "--results", "new/er", "--out", "new"), "new holds the results folder")


@pytest.mark.parametrize("out", ["results/v1", "results/v1/tiny@1/site", "results/runs/site", "results/pins", "link/x"])
def test_where_records_lie_is_no_place_for_a_site(cli: Cli, bench: Bench, out: str) -> None:  # noqa: F811
    (bench.folder / "results" / "v1").mkdir(parents=True)
    (bench.folder / "link").symlink_to(bench.folder / "results" / "v1")
    for words in COMMANDS.values():
        refused(bench, lambda words=words: cli(*words, "--out", out), f"{out} lies where kdbench keeps other files")


def test_where_the_cache_lies_is_no_place_for_a_site_either(cli: Cli, bench: Bench) -> None:  # noqa: F811
    refused(bench, lambda: cli(*RUN, "--out", "cache/checkpoints/site"), "lies where kdbench keeps other files")


@pytest.mark.parametrize("out", ["results/site", "site/public", "data/site", "cache/data/site", "fresh"])
def test_any_other_folder_will_do(cli: Cli, bench: Bench, out: str) -> None:  # noqa: F811
    for _ in range(2):
        assert cli(*RUN, "--out", out).code == 0
        assert cli("site", "--out", out).code == 0
    assert (bench.folder / out / "index.html").is_file()


def foreign_file(site: Path) -> None:
    (site / "methods" / "notes.txt").write_text("mine")


def foreign_link(site: Path) -> None:
    (site / "notes.txt").symlink_to("/etc/hostname")


def foreign_folder(site: Path) -> None:
    (site / "methods" / "notes.txt").mkdir()


def page_made_a_link(site: Path) -> None:
    (site / "index.html").rename(site.parent / "index.html")
    (site / "index.html").symlink_to(site.parent / "index.html")


def folder_made_a_link(site: Path) -> None:
    (site / "static").rename(site.parent / "static")
    (site / "static").symlink_to(site.parent / "static")


def page_made_a_folder(site: Path) -> None:
    (site / "index.html").unlink()
    (site / "index.html").mkdir()


def pipe(site: Path) -> None:
    os.mkfifo(site / "static" / "pipe")


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (foreign_file, "methods/notes.txt"),
        (foreign_link, "notes.txt"),
        (foreign_folder, "methods/notes.txt"),
        (page_made_a_link, "index.html"),
        (folder_made_a_link, "static"),
        (page_made_a_folder, "index.html"),
        (pipe, "static/pipe"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_kdbench_did_not_write_is_named_and_stays(
    cli: Cli,  # noqa: F811
    bench: Bench,
    spoil: Callable[[Path], None],
    name: str,
    command: str,
) -> None:
    spoil(bench.folder / "earlier")
    words = (*COMMANDS[command], "--results", "nothing", "--out", "earlier")
    refused(bench, lambda: cli(*words), f"holds {name!r}, which kdbench did not write there")


def test_the_first_foreign_file_is_the_one_that_is_named(cli: Cli, bench: Bench) -> None:  # noqa: F811
    for name in ("static/a", "zoo", "b"):
        (bench.folder / "earlier" / name).write_text("mine")
    refused(bench, lambda: cli("site", "--out", "earlier"), "holds 'b', which")


@pytest.mark.parametrize("text", ["Made by kdbench site, which may replace this folder.\n", "", "index.html\n"])
def test_a_site_without_a_list_cannot_be_told_from_other_files(cli: Cli, bench: Bench, text: str) -> None:  # noqa: F811
    (bench.folder / "earlier" / MARKER).write_text(text)
    refused(bench, lambda: cli(*RUN, "--out", "earlier"), "kept no list of its files; delete it or name another folder")


def test_what_comes_in_while_pages_are_rendered_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.errors import UserError
    from kdbench.render import site as renderer

    def verify(*arguments: object) -> object:
        (bench.folder / "earlier" / "thesis.txt").write_text("mine")
        return gather(*arguments)

    gather = renderer.gather
    monkeypatch.setattr(renderer, "gather", verify)
    with pytest.raises(UserError, match=r"holds 'thesis.txt'"):
        build(bench.folder / "nothing", bench.folder / "earlier")
    assert (bench.folder / "earlier" / "thesis.txt").read_text() == "mine"
    assert (bench.folder / "earlier" / "index.html").is_file()
    assert {path.name for path in bench.folder.iterdir()} - {"cache"} == {"earlier", "nothing"}


def test_the_list_names_every_file_and_the_same_input_gives_the_same_bytes(bench: Bench) -> None:
    results = bench.folder / "results"
    rr.fill(Store(results), ("resnet56:resnet20",), seeds=1)
    build(results, bench.folder / "one")
    build(results, bench.folder / "other")
    one, other = everything(bench.folder / "one"), everything(bench.folder / "other")
    assert one == other
    listed = (bench.folder / "one" / MARKER).read_text().splitlines()
    assert listed == sorted(name for name, content in one.items() if content is not None)


UNMAKEABLE = {
    "below a file": ("file/a/b", "file is a file"),
    "a dangling link": ("dangling", "dangling is a link that leads nowhere"),
    "below a dangling link": ("dangling/a", "dangling is a link that leads nowhere"),
    "a link to itself": ("circle", "circle is a link that leads nowhere"),
    "where the system makes the files": ("/proc/kdbench/a", "(No such file or directory)"),
    "a name without end": (f"a/{'x' * 300}", "(File name too long)"),
}


@pytest.fixture
def obstacles(bench: Bench) -> None:
    (bench.folder / "file").write_text("not a folder")
    (bench.folder / "dangling").symlink_to(bench.folder / "gone")
    (bench.folder / "circle").symlink_to(bench.folder / "circle")


@pytest.mark.usefixtures("obstacles")
@pytest.mark.parametrize("kind", UNMAKEABLE)
def test_a_site_that_cannot_be_made_is_said_before_the_training(cli: Cli, bench: Bench, kind: str) -> None:  # noqa: F811
    out, words = UNMAKEABLE[kind]
    for command in COMMANDS.values():
        refused(
            bench,
            lambda command=command: cli(*command, "--results", "nothing", "--out", out),
            f"The site's folder {out} cannot be ",
            words,
        )


@pytest.mark.usefixtures("obstacles")
def test_a_file_is_no_site(cli: Cli, bench: Bench) -> None:  # noqa: F811
    refused(bench, lambda: cli(*RUN, "--out", "file"), "file is not an earlier kdbench site")


def test_a_mount_point_is_no_site(cli: Cli, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    (bench.folder / "volume").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "volume")
    refused(bench, lambda: cli(*RUN, "--out", "volume"), "volume is a mount point")
    assert cli("site", "--results", "nothing", "--out", "volume/site").code == 0


@pytest.mark.usefixtures("obstacles")
@pytest.mark.parametrize("kind", [*UNMAKEABLE, "a file"])
def test_a_results_folder_that_cannot_be_made_is_said_before_the_training(
    cli: Cli,  # noqa: F811
    bench: Bench,
    kind: str,
) -> None:
    if kind == "a file":
        refused(bench, lambda: cli(*RUN, "--results", "file"), "--results file is no folder")
        return
    results, words = UNMAKEABLE[kind]
    refused(bench, lambda: cli(*RUN, "--results", results), f"The results folder {results} cannot be ", words)


@pytest.mark.parametrize("name", ["v1", "v1/tiny@1", "v1/teachers", "runs", "pins"])
def test_so_is_a_results_folder_with_a_file_in_the_way(cli: Cli, bench: Bench, name: str) -> None:  # noqa: F811
    path = bench.folder / "results" / name
    path.parent.mkdir(parents=True)
    path.write_text("not a folder")
    refused(bench, lambda: cli(*RUN), "The results folder results cannot be made", f"{name} is a file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("flag", ["--results", "--out"])
def test_a_folder_without_permission_is_said_before_the_training(cli: Cli, bench: Bench, flag: str) -> None:  # noqa: F811
    (bench.folder / "locked").mkdir(mode=0o500)
    refused(bench, lambda: cli(*RUN, flag, "locked/folder"), "locked/folder cannot be written (Permission denied)")


def test_a_dry_run_asks_for_no_folder(cli: Cli) -> None:  # noqa: F811
    assert cli(*RUN, "--dry-run", "--out", "/proc/kdbench").code == 0


def test_the_folders_of_the_cache_are_those_that_are_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").split("| in the cache folder |")[1]
    assert set(re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE)) == {"data", *CACHE_FOLDERS}
