"""`safetensors` names the disk where it fails, whichever library was writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from hfx import World
from hfx.errors import StorageError
from hfx.resolve import resolve
from hfx.run import Run
from hfx_plugins.export.safetensors import Safetensors
from overfitting import config, rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("safetensors")
    made = Run(resolve(mapping=config(rows(folder))), folder / "run", World())
    made.build()
    return made


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_cannot_be_written_is_a_matter_of_storage(name: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "model" / name).mkdir(parents=True)  # what is in the way is told as a full disk is
    with pytest.raises(StorageError, match=r"cannot write the model to '.*model': .*; free space, or choose another"):
        Safetensors().hfx_export(run, tmp_path / "model")


def test_an_error_of_another_kind_stays_what_it_is(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.tokenizer, "init_kwargs", {"made_of": object()})  # which is no JSON
    with pytest.raises(TypeError):
        Safetensors().hfx_export(run, tmp_path / "model")
