"""A model that somebody trained before; the default where the run names one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Plugin, Problem, RemoteCode, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import Run


class Pretrained(Plugin):
    """The run's `model`: a hub id, a folder, or a `.gguf` file (dequantised)."""

    revision: str | None = None
    """Branch, tag or commit of a hub id; none: `main`."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    """Dtype of the weights; `auto`: the checkpoint's; none: what the precision builds models in."""
    attn_implementation: str | None = None
    """Attention's code: eager, sdpa, flash_attention_2; none: what transformers chooses."""
    device_map: str | dict[str, int | str] | None = None
    """Where which module is put: `auto`, or a mapping to devices, `cpu` and `disk`; none: the backend decides."""
    max_memory: dict[str, int | str] = Field(default_factory=dict)
    """How much of the weights each device takes under `device_map: auto`, as `{"0": "20GiB", "cpu": "8GiB"}`; what is
    left stays on disk, and is read whenever it is used: for adapters over a model that is larger than memory."""
    low_memory: bool = False
    """Read each weight straight onto the run's device, so that the host never holds the whole model."""
    trust_remote_code: bool = False
    """Run code that comes with the model; a hub id then needs a `revision` that is a full commit hash."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report a run without a model, and code that its publisher can change at any time."""
        model = run.config.model
        if model is None:
            yield Problem("'pretrained' has no model to load; add '--model', or '--plugin scratch' for a new one")
            return
        # A hub id is one or two plain words; anything else can only be a path.
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", model) and not Path(model).expanduser().exists():
            yield Problem(f"no such path '{model}'; 'model' names a folder, a .gguf file or a hub id")
        yield from self.code(model).problems()
        if "/" in (self.attn_implementation or ""):
            yield Problem(
                f"'pretrained.attn_implementation' '{self.attn_implementation}' is code on the hub that nobody pinned; "
                "name one that is installed: eager, sdpa, flash_attention_2"
            )
        if self.max_memory and self.device_map is None:
            yield Problem("'pretrained.max_memory' needs a 'pretrained.device_map'; set it to 'auto'")
        if self.device_map is not None and self.low_memory:
            yield Problem("'pretrained.device_map' and 'pretrained.low_memory' both place the weights; drop one")

    def code(self, model: str) -> RemoteCode:
        """Return whether code that comes with the model may run."""
        return RemoteCode("pretrained", model, self.revision, self.trust_remote_code)

    @hookimpl
    def hfx_model(self, run: Run) -> PreTrainedModel:
        """Return the model with its weights, and with weights drawn from the run's seed where it has none."""
        from hfx_plugins.models.pretrained_impl import load

        return load(self, run)
