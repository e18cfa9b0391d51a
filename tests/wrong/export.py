"""Exports that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hfx import Plugin, hookimpl


def _write(run: Any, path: Path) -> Path:
    run.model.save_pretrained(path)
    run.tokenizer.save_pretrained(path)
    return path


class Untrained(Plugin):
    """Copies the model that the run began with."""

    @hookimpl
    def hfx_export(self, run: Any, path: Path) -> Path:
        import shutil

        shutil.copytree(run.config.model, path)
        return path


class Wordless(Plugin):
    """Forgets the tokenizer."""

    @hookimpl
    def hfx_export(self, run: Any, path: Path) -> Path:
        run.model.save_pretrained(path)
        return path


class Pickling(Plugin):
    """Adds a pickle for old readers."""

    @hookimpl
    def hfx_export(self, run: Any, path: Path) -> Path:
        import torch

        _write(run, path)
        torch.save(run.model.state_dict(), path / "pytorch_model.bin")
        return path


class Halving(Plugin):
    """Halves the run's own model to save room."""

    @hookimpl
    def hfx_export(self, run: Any, path: Path) -> Path:
        _write(run, path)
        run.model.bfloat16()
        return path


class Elsewhere(Plugin):
    """Writes into another folder."""

    @hookimpl
    def hfx_export(self, run: Any, path: Path) -> Path:
        return _write(run, path.with_name("other"))


_WEIGHTS, _WORDS = "the model loads with the trained weights", "the tokenizer loads"
WRONG = {
    Untrained: {_WEIGHTS},
    Wordless: {_WORDS},
    Pickling: {"it writes no pickle"},
    Halving: {_WEIGHTS, "it leaves the model as it was"},
    Elsewhere: {"it returns the folder it filled", _WEIGHTS, _WORDS, "it writes no pickle"},
}
