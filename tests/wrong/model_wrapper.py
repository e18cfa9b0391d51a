"""Wrappers of the model that are wrong."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from hfx import Plugin, hookimpl


class Headless(Plugin):
    """Returns what lies inside the model."""

    @hookimpl(wrapper=True)
    def hfx_model(self) -> Generator[None, Any, Any]:
        import torch

        model = yield

        class Around(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = model
                self.config = model.config
                self.loss_function = model.loss_function
                self.save_pretrained = model.save_pretrained

            def forward(self, **inputs: Any) -> Any:
                return self.inner(**inputs)

        return Around()


class Freezing(Plugin):
    """Freezes everything."""

    @hookimpl(wrapper=True)
    def hfx_model(self) -> Generator[None, Any, Any]:
        model = yield
        return model.requires_grad_(False)


class Noisy(Plugin):
    """Adds noise, in evaluations too."""

    @hookimpl(wrapper=True)
    def hfx_model(self) -> Generator[None, Any, Any]:
        import torch

        model = yield

        def shake(module: Any, inputs: Any, output: Any) -> Any:
            output.logits = output.logits + 0.1 * torch.randn_like(output.logits)
            return output

        model.register_forward_hook(shake)
        return model


class NewLayer(Plugin):
    """Draws new weights from the random state of the process."""

    @hookimpl(wrapper=True)
    def hfx_model(self) -> Generator[None, Any, Any]:
        import torch

        model = yield
        torch.seed()
        torch.nn.init.normal_(model.model.layers[0].mlp.up_proj.weight, std=0.02)
        return model


class Sneaking(Plugin):
    """Freezes a layer and changes it all the same."""

    @hookimpl(wrapper=True)
    def hfx_model(self) -> Generator[None, Any, Any]:
        model = yield
        frozen = model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)

        def change(module: Any, inputs: Any) -> None:
            if module.training:
                frozen.data.mul_(0.99)

        model.register_forward_pre_hook(change)
        return model


_BIT = "a run of it continues to the bit"
WRONG = {
    Headless: {"is a model of transformers"},
    Freezing: {"some parameter can be trained", "frozen parameters stay and others learn", _BIT},
    Noisy: {"the same row has the same loss"},
    NewLayer: {"built twice it is the same", _BIT},
    Sneaking: {"frozen parameters stay and others learn"},
}
