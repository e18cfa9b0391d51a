"""Low-rank adapters (https://arxiv.org/abs/2106.09685), as peft has them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from hfx import Plugin, Problem, Run, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import PlainScript


class Lora(Plugin):
    """Train small matrices beside frozen layers: gradients and optimizer state of a few percent of the parameters.

    The adapters are new, drawn from the run's seed, in float32. A classification's head is trained as a whole beside
    them. A checkpoint of the run holds all parameters, frozen ones too.
    """

    rank: PositiveInt = 16
    """Rank of the adapters: their size."""
    alpha: PositiveInt = 32
    """What an adapter adds is scaled by this over the rank; over its root with `rslora`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs left out in training."""
    targets: list[str] = Field(default_factory=lambda: ["all-linear"])
    """Names of the layers that get adapters, as `q_proj`; `all-linear`: every linear layer but the head."""
    variant: Literal["lora", "dora", "rslora"] = "lora"
    """`dora` learns the length of each weight's rows apart, in more time; `rslora` suits high ranks."""
    modules_to_save: list[str] = Field(default_factory=list)
    """Names of modules that are trained as a whole, beside the adapters."""
    save: Literal["merged", "adapters"] = "merged"
    """What is exported: `merged`, a plain model; `adapters`, a small folder which peft loads over the base."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report a missing package, and adapters whose base nobody could load."""
        if find_spec("peft") is None:
            yield Problem(f"'{self.name}' needs the package 'peft'; run: pip install 'hfx[lora]'")
        if "all-linear" in self.targets and len(self.targets) > 1:
            yield Problem(f"'{self.name}.targets' has names beside 'all-linear'; leave out one or the other")
        if not self.targets:
            yield Problem(f"'{self.name}.targets' is empty; name layers, or 'all-linear'")
        base = run.config.model
        if self.save == "adapters" and (base is None or base.endswith(".gguf")):
            what = "is new" if base is None else "is a .gguf file"
            yield Problem(
                f"adapters are loaded over their base, and this run's model {what}; set '{self.name}.save' to 'merged'"
            )

    @hookimpl(wrapper=True)
    def hfx_model(self, run: Run) -> Generator[None, PreTrainedModel, PreTrainedModel]:
        """Return the model with adapters in its layers, and nothing else to train."""
        from hfx_plugins.models.lora_impl import install

        model = yield
        install(model, self, run)
        return model

    @hookimpl(wrapper=True)
    def hfx_export(self, run: Run) -> Generator[None, Path, Path]:
        """Let the export write the merged weights, or the adapters."""
        from hfx_plugins.models.lora_export_impl import as_adapters, merged

        save = run.local.get(self.name, {}).get("save", self.save)
        with merged(run.model) if save == "merged" else as_adapters(run.model, run):
            written = yield
        return written

    @hookimpl
    def hfx_eject(self, script: PlainScript, run: Run) -> None:
        """Save the adapters as they begin, and say that they are put over the model."""
        from hfx_plugins.models.lora_export_impl import write

        write(run, script.folder / "adapters", None)
        run.local[self.name] = {"save": "merged"}  # they add nothing yet, so this is the base
        script.after_loading(
            'model = PeftModel.from_pretrained(model, HERE / "adapters", is_trainable=True)',
            'model.peft_config["default"].base_model_name_or_path = str(HERE / "start")',
            imports="from peft import PeftModel",
        )
