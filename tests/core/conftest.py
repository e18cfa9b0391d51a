from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hfx.policy import Policy, read_policy


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of `sys.path` for toy packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes `c.yaml` into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        Path("c.yaml").write_text(text, encoding="utf-8")
        return Path("c.yaml")

    return write


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Policy]:
    """Writes and reads `p.yaml` in the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Policy:
        Path("p.yaml").write_text(text, encoding="utf-8")
        return read_policy(Path("p.yaml"))

    return write
