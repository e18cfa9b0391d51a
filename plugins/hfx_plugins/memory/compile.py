"""Layers compiled into fused kernels."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Literal

from hfx import Plugin, Problem, Run, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import PlainScript


class Compile(Plugin):
    """Compile the model's layers (torch.compile): fewer passes over memory, faster steps after a slow first one.

    Weights, their names and checkpoints stay what they are. `hfx plan` counts what the layers hold without it.
    """

    regional: bool = True
    """Compile one layer, and use it for all that are alike; else the whole body at once, which takes far longer."""
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """How hard it tries; `reduce-overhead` records CUDA graphs."""
    dynamic: bool | None = None
    """One kernel for batches of any shape; false: one for each; none: torch's choice, by what it sees."""

    backend: str = "inductor"
    """The compiler, by torch's name for it; `eager` compiles nothing and shows whether the model could be."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a machine without a compiler, and a choice that another compiler does not have."""
        compiler = os.environ.get("CXX", "g++")
        if self.backend != "inductor":
            if self.mode != "default":
                yield Problem(f"'compile.mode' belongs to 'inductor', not to '{self.backend}'; drop one of the two")
        elif shutil.which(compiler) is None:
            yield Problem(
                f"'compile' needs a C++ compiler, and there is no '{compiler}'; install one (Debian: apt install g++), "
                "or drop '--plugin compile'"
            )

    @hookimpl(wrapper=True)
    def hfx_model(self, run: Run) -> Generator[None, PreTrainedModel, PreTrainedModel]:
        """Return the model, whose layers compile when they are first called."""
        from hfx_plugins.memory.compile_impl import install

        model = yield
        if run.planning:
            run.left_out.add(self.name)
        else:
            install(model, self, run)
        return model

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say that it is left out."""
        script.say(f"'{self.name}': it computes the same faster")
