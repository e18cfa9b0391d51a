"""Wrappers of the export that are wrong."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from hfx import Plugin, hookimpl


class Wordless(Plugin):
    """Throws the tokenizer away."""

    @hookimpl(wrapper=True)
    def hfx_export(self) -> Generator[None, Path, Path]:
        path = yield
        for file in path.glob("tokenizer*"):
            file.unlink()
        return path


class Elsewhere(Plugin):
    """Returns another folder."""

    @hookimpl(wrapper=True)
    def hfx_export(self) -> Generator[None, Path, Path]:
        path = yield
        return path / "adapter"


class Swapping(Plugin):
    """Puts other weights into the run's model, and leaves them there."""

    @hookimpl(wrapper=True)
    def hfx_export(self, run: Any) -> Generator[None, Path, Path]:
        for parameter in run.model.parameters():
            parameter.data.mul_(0.5)
        return (yield)


class Broken(Plugin):
    """Cuts the weights off."""

    @hookimpl(wrapper=True)
    def hfx_export(self) -> Generator[None, Path, Path]:
        path = yield
        for file in path.glob("*.safetensors"):
            file.write_bytes(file.read_bytes()[:100])
        return path


_WORDS, _LOADS, _LEAVES = "the tokenizer loads", "the model loads", "it leaves the model as it was"
WRONG = {
    Wordless: {_WORDS},
    Elsewhere: {"it returns the folder it filled", _LOADS, _WORDS, "it writes no pickle"},
    Swapping: {_LEAVES},
    Broken: {_LOADS},
}
