"""Parameters that are not trained, by name."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from hfx import Plugin, Problem, Run, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import PlainScript


class Freeze(Plugin):
    """Leave some parameters as they are: no gradient, no optimizer state.

    A pattern (`*` any text, `?` one character, `[01]` one of some) is compared with whole names of parameters, as
    `model.layers.0.mlp.up_proj.weight`; one that fits a module means all of it. Parameters that are tied are one, under
    any of their names.
    """

    names: list[str] = Field(default_factory=list)
    """Patterns of what is frozen: `model.embed_tokens`, `model.layers.[01]`."""
    only: list[str] = Field(default_factory=list)
    """Patterns of what is trained, in place of `names`: everything else is frozen."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report patterns that are missing, or given for both."""
        if bool(self.names) == bool(self.only):
            what = "says both what is frozen and what is not" if self.names else "does not say what is frozen"
            yield Problem(f"'freeze' {what}; give either 'freeze.names' or 'freeze.only'")

    @hookimpl(wrapper=True)
    def hfx_model(self, run: Run) -> Generator[None, PreTrainedModel, PreTrainedModel]:
        """Return the model with some of its parameters frozen."""
        from hfx_plugins.models.freeze_impl import freeze

        model = yield
        freeze(model, self)
        return model

    @hookimpl
    def hfx_eject(self, script: PlainScript, run: Run) -> None:
        """Say which parameters are trained, by the names that they have in the run."""
        trained = [name for name, parameter in run.model.named_parameters() if parameter.requires_grad]
        (script.folder / "trained.json").write_text(json.dumps(trained, indent=0))
        script.after_loading(
            f"# {'Trained' if self.only else 'Left as it is'}: what fits {self.only or self.names!r}.",
            'trained = set(json.loads((HERE / "trained.json").read_text()))',
            "for name, parameter in model.named_parameters():",
            '    parameter.requires_grad = name.removeprefix("base_model.model.") in trained',
        )
