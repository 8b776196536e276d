"""Files from the web, from a server on loopback that answers as it should, or as it should not."""

from __future__ import annotations

import errno
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from bench import Bench, suite_text
from test_cli import RUN, Cli, cli  # noqa: F401
from test_teachers import weights

from kdbench import download as module
from kdbench.download import download, unpack
from kdbench.errors import CheckpointError, UserError
from kdbench.suites import Suite
from kdbench.teachers.fetch import fetch
from kdbench.teachers.weights import weights_digest
from kdbench.trials.teacher import Normalisation, Teacher

MakeSuite = Callable[[str], Suite]
CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """``files`` by path; ``cuts``: after how many bytes the next answers end; ``status``: what they are instead."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/w.bin": CONTENT}
        self.cuts: list[int] = []
        self.status: list[int] = []
        self.ranges = True
        self.shift = 0
        self.asked: list[str | None] = []

    def url(self, name: str = "w.bin") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        content = self.server.files.get(self.path)
        if self.server.status or content is None:
            self.send_error(self.server.status.pop(0) if self.server.status else 404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            first = start + self.server.shift
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cuts.pop(0) if self.server.cuts else None])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield made
        made.shutdown()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "w.bin"


def fetched(server: Server, path: Path, sha256: str = SHA256, name: str = "w.bin") -> None:
    download(server.url(name), path, sha256, wait=lambda _: None)


def beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


def test_a_file_is_fetched_and_said_and_not_fetched_twice(server: Server, path: Path, capsys) -> None:
    fetched(server, path)
    fetched(server, path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None]
    assert beside(path) == ["w.bin"]
    assert capsys.readouterr().err == "kdbench: w.bin: 0.0 MB of 0.0 MB fetched.\n"


def test_it_goes_on_where_it_was_cut(server: Server, path: Path) -> None:
    server.cuts = [3000, 2000]
    fetched(server, path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000-", "bytes=5000-"]


def test_a_later_call_goes_on_too(server: Server, path: Path) -> None:
    server.cuts = [3000] + [0] * module.TRIES
    with pytest.raises(
        UserError, match=r"was cut after 0\.0 MB \(the connection ended early\); the same command goes on"
    ):
        fetched(server, path)
    assert beside(path) == [".w.bin.part"]
    fetched(server, path)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=3000-"


@pytest.mark.parametrize("how", ["no ranges", "another part", "another file", "all there", "too much there"])
def test_what_was_there_is_no_trap(server: Server, path: Path, how: str) -> None:
    path.parent.mkdir()
    part = path.with_name(".w.bin.part")
    part.write_bytes(
        {"another file": b"x" * 500, "all there": CONTENT, "too much there": CONTENT * 2}.get(how, CONTENT[:500])
    )
    server.ranges, server.shift = how != "no ranges", 7 if how == "another part" else 0
    fetched(server, path)
    assert path.read_bytes() == CONTENT
    assert beside(path) == ["w.bin"]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ([404], "is not there: the server says 404 Not Found; get the file by other means"),
        ([403], "the server says 403 Forbidden"),
        ([503] * module.TRIES, r"was cut after 0\.0 MB \(the server says 503 Service Unavailable\)"),
    ],
)
def test_a_server_that_refuses(server: Server, path: Path, status: list[int], said: str) -> None:
    server.status = status
    with pytest.raises(UserError, match=said) as caught:
        fetched(server, path)
    assert str(caught.value).count(". ") == 0
    assert not path.exists()


def test_a_busy_server_is_asked_again(server: Server, path: Path) -> None:
    server.status = [503, 429]
    fetched(server, path)
    assert path.read_bytes() == CONTENT


def test_another_file_is_refused_and_leaves_nothing(server: Server, path: Path) -> None:
    with pytest.raises(UserError, match=rf"is not the file that was published: its sha256 begins with {SHA256[:16]}"):
        fetched(server, path, "0" * 64)
    assert beside(path) == []
    fetched(server, path, SHA256[:8])
    assert path.is_file(), "the beginning of a digest"


def test_nobody_there_is_one_sentence(server: Server, path: Path) -> None:
    server.server_close()
    with pytest.raises(UserError, match=r"cannot be reached .*; look at the network"):
        fetched(server, path)


def test_a_full_disk_is_one_sentence_and_keeps_what_there_is(server: Server, path: Path, monkeypatch) -> None:
    class Full(io.BytesIO):
        def write(self, piece):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_writable", lambda part: Full())
        with pytest.raises(UserError, match=r"cannot take w\.bin \(No space left on device\); make room, and the same"):
            fetched(server, path)
    fetched(server, path)
    assert path.read_bytes() == CONTENT


def tar(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tape:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tape.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as box:
        for name, content in members.items():
            box.writestr(name, content)
    return path


@pytest.mark.parametrize(("make", "name"), [(tar, "a.tar"), (tar, "a.tar.gz"), (zipped, "a.zip")])
def test_one_member_is_taken_out_of_an_archive_and_no_other(tmp_path: Path, make, name: str) -> None:
    archive = make(tmp_path / name, **{"../../evil": b"e", "/abs": b"a", "teachers/vgg/w.pth": CONTENT, "w.pth": b"no"})
    unpack(archive, "vgg/w.pth", tmp_path / "out" / "vgg" / "w.pth")
    assert (tmp_path / "out" / "vgg" / "w.pth").read_bytes() == CONTENT
    assert sorted(each.name for each in tmp_path.rglob("*")) == sorted(["out", "vgg", "w.pth", name])
    with pytest.raises(UserError, match=r"holds no file gone\.pth; there are \.\./\.\./evil"):
        unpack(archive, "gone.pth", tmp_path / "out" / "gone.pth")
    assert not (tmp_path / "out" / "gone.pth").exists()


def test_links_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tape:
        info = tarfile.TarInfo("w.pth")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tape.addfile(info)
    with pytest.raises(UserError, match=r"holds no file w\.pth; there are none"):
        unpack(tmp_path / "a.tar", "w.pth", tmp_path / "out")


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_damaged_archive_is_one_sentence(tmp_path: Path, name: str, share: float) -> None:
    make = zipped if name.endswith("zip") else tar
    noise = hashlib.shake_256(b"").digest(50_000)
    content = make(tmp_path / name, **{"w.pth": noise}).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)] or b"no archive")
    with pytest.raises(UserError, match=r"a\.\S+ (cannot be unpacked|is cut off).*fetch it again\.$"):
        unpack(tmp_path / name, "w.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_member_that_nobody_wants_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(UserError, match="which nobody wants"):
        unpack(tar(tmp_path / "a.tar", **{"w.pth": CONTENT}), "w.pth", tmp_path / "out")


def teacher(server: Server, name: str, sha256: str) -> str:
    said = f'sha256 = "{sha256}"\n' if sha256 else ""
    return f'kind = "checkpoint"\nmodel = "tiny_cnn_l"\nfiles = ["a/own.pt"]\nurl = "{server.url(name)}"\n{said}'


@pytest.mark.parametrize("form", ["file", "named", "tar"])
def test_a_run_fetches_the_weights_that_it_lacks(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    server: Server,
    form: str,
) -> None:
    torch.save(weights(), bench.folder / "own.pt")
    content = (bench.folder / "own.pt").read_bytes()
    if form == "tar":
        content = tar(bench.folder / "all.tar", **{"teachers/a/own.pt": content}).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    name = {"file": "own.pt", "named": f"own-{sha256[:8]}.pt", "tar": "all.tar"}[form]
    server.files[f"/{name}"] = content
    make_suite(suite_text(["kd"], epochs=1, teacher=teacher(server, name, "" if form == "named" else sha256)))
    ended = cli(*RUN, "--dry-run")
    assert "Teacher tutor wants its weights, a/own.pt, in" in ended.out
    assert "or let kdbench run --download fetch them" in ended.out
    assert cli(*RUN).code == 2
    assert cli(*RUN, "--dry-run", "--download").code == 0
    assert server.asked == [], "nothing is fetched before it is asked for, nor for a plan"
    ended = cli(*RUN, "--download")
    assert ended.code == 0
    assert (bench.folder / "data" / "weights" / "a" / "own.pt").is_file()
    assert bench.records()["kd"]["status"] == "finished"


def test_a_page_about_weights_is_not_fetched(cli: Cli, bench: Bench, make_suite: MakeSuite, server: Server) -> None:  # noqa: F811
    server.files["/releases"] = CONTENT
    make_suite(suite_text(["kd"], epochs=1, teacher=teacher(server, "releases", "")))
    ended = cli(*RUN, "--download")
    assert ended.code == 2
    assert "wants its weights" in ended.err
    assert "--download" not in ended.err
    assert server.asked == []


@pytest.mark.parametrize("name", ["own.pt", "all.tar"])
def test_a_digest_that_nobody_has_said_is_said(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    server: Server,
    name: str,
) -> None:
    torch.save(weights(), bench.folder / "own.pt")
    content = (bench.folder / "own.pt").read_bytes()
    if name == "all.tar":
        content = tar(bench.folder / name, **{"teachers/a/own.pt": content}).read_bytes()
    server.files[f"/{name}"] = content
    make_suite(suite_text(["kd"], epochs=1, teacher=teacher(server, name, "")))
    ended = cli(*RUN, "--download")
    assert ended.code == 0
    assert (
        f"the sha256 of {server.url(name)}, which nobody has said, is {hashlib.sha256(content).hexdigest()}."
        in ended.err
    )
    assert bench.records()["kd"]["identity"]["teacher"]["weights_sha256"] == weights_digest(weights())


@pytest.mark.parametrize(("sha256", "said"), [("0" * 64, "is not the file that was published"), ("1" * 64, "404")])
def test_a_failed_fetch_is_one_sentence_of_the_run(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    server: Server,
    sha256: str,
    said: str,
) -> None:
    server.files["/own.pt"] = CONTENT
    make_suite(suite_text(["kd"], epochs=1, teacher=teacher(server, "own.pt" if said != "404" else "no.pt", sha256)))
    ended = cli(*RUN, "--download")
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("kdbench: The weights of tutor could not be fetched: ")
    assert said in ended.err
    assert not list((bench.folder / "data").rglob("*.pt"))


@pytest.mark.parametrize("form", ["own.pt", "all.tar"])
@pytest.mark.parametrize("place", ["{}/escaped.pt", "../../escaped.pt"])
def test_nothing_is_fetched_to_elsewhere(tmp_path: Path, server: Server, form: str, place: str) -> None:
    server.files["/own.pt"] = CONTENT
    server.files["/all.tar"] = tar(tmp_path / "all.tar", **{"escaped.pt": CONTENT}).read_bytes()
    files = (place.format(tmp_path),)
    sha256 = hashlib.sha256(server.files[f"/{form}"]).hexdigest()
    norm = Normalisation((0.5,), (0.5,))
    wanted = Teacher("t", "checkpoint", "tiny_cnn_l", norm, files=files, url=server.url(form), sha256=sha256)
    with pytest.raises(CheckpointError, match="nothing is fetched to elsewhere; put it there"):
        fetch(wanted, tmp_path / "data")
    assert not list(tmp_path.rglob("escaped.pt"))
    assert server.asked == []
