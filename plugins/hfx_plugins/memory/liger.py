"""Kernels of liger-kernel in place of a model's own layers."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from hfx import Plugin, Problem, Run, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import PlainScript


class Liger(Plugin):
    """Compute norms, feed-forward parts and rotary positions with liger-kernel's Triton kernels, on a GPU.

    They keep fewer activations and pass over memory less often. Its losses are left out: the run's own loss, or that of
    `chunked_loss`, computes no more logits than it has to. `hfx plan` counts what the model holds without the kernels.
    """

    unverified: ClassVar[str] = "no GPU was at hand, on which alone its kernels run"

    rope: bool = True
    """Replace rotary positions, until the run ends, in every model of this architecture in the process."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report missing packages, and a device without Triton, once it is known."""
        for package in ("liger_kernel", "triton"):
            if find_spec(package) is None:
                yield Problem(
                    f"'liger' needs the package '{package.replace('_', '-')}'; run: pip install 'hfx[liger]', "
                    "on a machine with a GPU"
                )
                return
        # The first of the two checks comes before torch, and only the second knows the device.
        if "torch" in sys.modules and run.device.type == "cpu":
            yield Problem("'liger' has kernels for GPUs alone, and the run is on 'cpu'; add '--plugin no:liger'")

    @hookimpl(wrapper=True)
    def hfx_model(self, run: Run) -> Generator[None, PreTrainedModel, PreTrainedModel]:
        """Return the model with layers that call the kernels."""
        from hfx_plugins.memory.liger_impl import patch

        model = yield
        if run.planning:
            run.left_out.add(self.name)
        else:
            patch(model, self, run)
        return model

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say that it is left out."""
        script.say(f"'{self.name}': its kernels compute the same in less memory")
