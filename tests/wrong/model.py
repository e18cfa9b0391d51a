"""Models that are wrong."""

from __future__ import annotations

from typing import Any

from hfx import hookimpl
from hfx_plugins.models.pretrained import Pretrained


class Unseeded(Pretrained):
    """Draws its weights from a random state of its own, which nobody seeds."""

    @hookimpl
    def hfx_model(self, run: Any) -> Any:
        import torch

        model = super().hfx_model(run)
        chance = torch.Generator(run.device)
        chance.seed()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=0.01)
        return model


class OwnDtype(Pretrained):
    """Is built in float32, whatever the precision says."""

    @hookimpl
    def hfx_model(self, run: Any) -> Any:
        return super().hfx_model(run).float()


class TooSmall(Pretrained):
    """Has an embedding fewer than there are tokens."""

    @hookimpl
    def hfx_model(self, run: Any) -> Any:
        model = super().hfx_model(run)
        model.resize_token_embeddings(len(run.tokenizer) - 1)
        return model


class Unsaved(Pretrained):
    """Does something that `save_pretrained` does not save."""

    @hookimpl
    def hfx_model(self, run: Any) -> Any:
        model = super().hfx_model(run)

        def scale(module: Any, inputs: Any, output: Any) -> Any:
            output.logits = output.logits * 2
            return output

        model.register_forward_hook(scale)
        return model


class Frozen(Pretrained):
    """Trains nothing."""

    @hookimpl
    def hfx_model(self, run: Any) -> Any:
        return super().hfx_model(run).requires_grad_(False)


class Infinite(Pretrained):
    """Is no number on a sequence that is full."""

    @hookimpl
    def hfx_model(self, run: Any) -> Any:
        model = super().hfx_model(run)

        def spoil(module: Any, inputs: Any, output: Any) -> Any:
            if output.logits.shape[1] >= run.config.seq_length and not module.training:
                output.logits = output.logits * float("nan")
            return output

        model.register_forward_hook(spoil)
        return model


class Fickle(Pretrained):
    """Says something else each time, also in evaluations."""

    @hookimpl
    def hfx_model(self, run: Any) -> Any:
        import torch

        model = super().hfx_model(run)

        def shake(module: Any, inputs: Any, output: Any) -> Any:
            output.logits = output.logits + 0.1 * torch.randn_like(output.logits)
            return output

        model.register_forward_hook(shake)
        return model


class Bare(Pretrained):
    """Is no model of transformers, though it looks like one."""

    @hookimpl
    def hfx_model(self, run: Any) -> Any:
        import torch

        inner = super().hfx_model(run)

        class Around(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner
                for name in ("config", "loss_function", "save_pretrained", "get_input_embeddings"):
                    setattr(self, name, getattr(inner, name))

            def forward(self, **inputs: Any) -> Any:
                return self.inner(**inputs)

        return Around()


_SAVED = "it can be saved and loaded"
_BIT = "a run of it continues to the bit"
WRONG = {
    Fickle: {"the same row has the same loss", _SAVED},
    Bare: {"is a model of transformers"},
    Unseeded: {"built twice it is the same", _BIT},
    OwnDtype: {"its parameters have the dtype of the precision"},
    TooSmall: {"it has an embedding for every token", "frozen parameters stay and others learn", _BIT},
    Unsaved: {_SAVED},
    Frozen: {
        "some parameter can be trained",
        "frozen parameters stay and others learn",
        _BIT,
    },
    Infinite: {"its loss is finite on the longest row", _SAVED},
}
