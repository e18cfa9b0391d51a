from __future__ import annotations

from pathlib import Path

import pytest

from seen_runs import make_runs


@pytest.fixture(scope="session")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs`, in which runs ended in different ways; tests change copies of it only."""
    folder: Path = tmp_path_factory.mktemp("seen")
    make_runs(folder)
    return folder
