"""Precisions that are wrong."""

from __future__ import annotations

from typing import Any

from hfx import Plugin, hookimpl


def _plain(run: Any, **given: Any) -> Any:
    from hfx_plugins.precision.precision_impl import PlainPrecision

    return PlainPrecision(run.device, **{"why": "asked for", **given})


class NamedDtype(Plugin):
    """Gives the name of a dtype."""

    @hookimpl
    def hfx_precision(self, run: Any) -> Any:
        return _plain(run, dtype="float32")


class Unexplained(Plugin):
    """Does not say why."""

    @hookimpl
    def hfx_precision(self, run: Any) -> Any:
        return _plain(run, why="")


class Loud(Plugin):
    """Computes in numbers that are thirty times too large."""

    @hookimpl
    def hfx_precision(self, run: Any) -> Any:
        import torch

        def convert(model: Any) -> Any:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(30)
            return model

        precision = _plain(run)
        precision.convert = convert
        return precision


class Renaming(Plugin):
    """Puts the model into another module."""

    @hookimpl
    def hfx_precision(self, run: Any) -> Any:
        import torch

        class Around(torch.nn.Module):
            def __init__(self, inner: Any) -> None:
                super().__init__()
                self.inner = inner
                self.loss_function = inner.loss_function

            def forward(self, **inputs: Any) -> Any:
                return self.inner(**inputs)

        precision = _plain(run)
        precision.convert = Around
        return precision


class OwnScaler(Plugin):
    """Has a scaler that only looks like torch's."""

    @hookimpl
    def hfx_precision(self, run: Any) -> Any:
        class Scaler:
            def scale(self, loss: Any) -> Any:
                return loss

            def unscale_(self, optimizer: Any) -> None:
                pass

            def step(self, optimizer: Any) -> None:
                optimizer.step()

            def update(self) -> None:
                pass

            def state_dict(self) -> dict[str, Any]:
                return {}

            def load_state_dict(self, state: Any) -> None:
                pass

        return _plain(run, scaler=Scaler())


class Detached(Plugin):
    """Computes where no gradient is kept."""

    @hookimpl
    def hfx_precision(self, run: Any) -> Any:
        import torch

        precision = _plain(run)
        precision.autocast = torch.no_grad
        return precision


WRONG = {
    NamedDtype: {"it names a floating dtype"},
    Unexplained: {"it says why"},
    Loud: {"its loss is near that of fp32"},
    Renaming: {"converting keeps every parameter"},
    # What listens to steps asks a scaler for its scale, which this one has not.
    OwnScaler: {"its scaler is torchs or none", "steps change the weights", "a run in it continues to the bit"},
    Detached: {"steps change the weights", "a run in it continues to the bit"},
}
