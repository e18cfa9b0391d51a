"""A real run of named plugins, as resolved for a user, with its cache in the test's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hfx import Plugin, Run, World
from hfx.resolve import resolve


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    monkeypatch.setenv("HFX_CACHE", str(tmp_path / "cache"))

    def make(*plugins: Plugin, **fields: Any) -> Run:
        return Run(resolve(mapping=fields, plugin_objects=plugins), tmp_path / "run", World())

    return make
