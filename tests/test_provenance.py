"""What a record says about where it comes from."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import pytest
from bench import PATIENCE, ROOT

import kdbench
from kdbench.records import provenance as module
from kdbench.records.provenance import code, packages, provenance


def test_names_code_packages_and_machine() -> None:
    found = provenance(plugin_sha256="a" * 64, precision="float32", threads=2, attempts=3, resumed=1)
    assert found["kdbench"] == kdbench.__version__
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["python"] == platform.python_version()
    assert (found["plugin_sha256"], found["threads"], found["attempts"], found["resumed"]) == ("a" * 64, 2, 3, 1)
    assert abs(datetime.fromisoformat(found["created"]) - datetime.now(UTC)) < timedelta(seconds=PATIENCE)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_commit_is_the_checkouts() -> None:
    sha = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    found = code.__wrapped__()  # not what this process asked earlier
    assert found[0] == sha
    assert type(found[1]) is bool


@pytest.mark.parametrize("broken", ["no git", "no repository"])
def test_without_git_it_says_that_it_does_not_know(
    broken: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if broken == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setattr(module, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    assert code.__wrapped__() == (None, None)


def test_a_package_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("numpy", "no-such-package-anywhere"))
    assert list(packages.__wrapped__()) == ["numpy"]
