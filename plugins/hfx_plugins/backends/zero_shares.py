"""What a rank holds under DeepSpeed's ZeRO, as version 0.19 does it, for `hfx plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfx import Shares, Stretch
from hfx_plugins.backends.sharing import layers_of, several_micro_steps, size_of, trained_size

if TYPE_CHECKING:
    from torch import nn

    from hfx import Run
    from hfx_plugins.backends.zero import Zero

_FP32 = 4
PERSISTENT = 100_000
"""Elements up to which a parameter is never cut at stage 3 (DeepSpeed's `stage3_param_persistence_threshold`)."""
LIVE = 1_000_000_000
"""Elements that stay gathered at stage 3 (`stage3_max_live_parameters`): all of a model below it."""
AHEAD = 50_000_000
"""Elements that are gathered ahead at stage 3 (`stage3_prefetch_bucket_size`)."""


def shares(options: Zero, run: Run, module: nn.Module, ranks: int) -> Shares:
    """Return what a rank holds: pieces, each of them once more for the optimizer to update, and buckets."""
    held = (_Gathered if options.stage == 3 else _Whole)(options, run, module, ranks)
    return Shares(
        parameters=1 / ranks if options.stage == 3 else 1.0, gradients=1 / ranks, state=1 / ranks, beside=held.beside
    )


class _Whole:
    """Stages 1 and 2: parameters are whole."""

    def __init__(self, options: Zero, run: Run, module: nn.Module, ranks: int) -> None:
        self._stage, self._several = options.stage, several_micro_steps(run, ranks)
        self._copies = 1
        self._bucket = int(options.bucket_mb * 2**20)
        self._trained = trained_size(module)
        self._piece = self._trained // ranks
        self._layers = layers_of(module)
        self._kept = self._piece if self._several else 0
        self._with_first_bucket = self._piece
        self._largest_parameter = max(size_of([p]) for p in module.parameters())

    def beside(self, stretch: Stretch) -> dict[str, int]:
        """Return the bytes of copies and buckets."""
        if stretch.phase == "build":
            return {"flat copy": self._trained}
        held = {"weights that are updated": self._piece}
        if stretch.phase == "optimizer":
            return held | {"copy of gradients": self._piece}
        if "backward" not in stretch.phase:
            return held | (self._between(stretch) if self._several else {})
        if self._stage == 1:
            return held | {"gradients": stretch.gradients, "buckets": self._bucket}
        return held | self._reduced_as_made(stretch)

    def _between(self, stretch: Stretch) -> dict[str, int]:
        if self._stage == 1:  # it reduces once a step, and keeps its bucket until then
            return {"gradients": stretch.gradients, "buckets": self._bucket}
        return {"gradients": min(stretch.gradients, self._piece)}

    def _reduced_as_made(self, stretch: Stretch) -> dict[str, int]:
        """Return gradients and the bucket into which each is moved; a full one is copied when it is reduced."""
        full, rest = divmod(self._made(stretch), self._bucket)
        at_the_end = rest if stretch.done >= stretch.layers - 1 else 0
        copied = self._bucket if full else at_the_end
        if full == 1:  # the piece comes with the first bucket, after its copy has gone
            copied = max(copied - self._with_first_bucket, at_the_end)
        kept = self._kept + (self._with_first_bucket if full else 0)
        # A parameter's gradient stands by itself before it is moved: that of the head beside all logits.
        alone = min(stretch.gradients, self._largest_parameter) if stretch.phase == "backward of the loss" else 0
        return {"gradients": kept + alone, "buckets": self._bucket + self._copies * copied}

    def _made(self, stretch: Stretch) -> int:
        """Return the bytes of gradients that this backward pass has made."""
        if not self._several:
            return stretch.gradients
        if stretch.done >= stretch.layers - 1:
            return self._trained
        return sum(trained_size(layer) for layer in self._layers[len(self._layers) - stretch.done :])


class _Gathered(_Whole):
    """Stage 3: parameters are gathered, and stay so until the backward pass is done with them.

    Bucket and pieces of gradients are there all the time.
    """

    def __init__(self, options: Zero, run: Run, module: nn.Module, ranks: int) -> None:
        super().__init__(options, run, module, ranks)
        self._copies = 2 if run.device.type == "cpu" else 1  # gloo copies what it scatters
        parameters = list(module.parameters())
        self._persistent = size_of(parameters) - _cut(module)
        self._gathered = _cut(module)
        self._kept, self._with_first_bucket = self._piece, 0

    def beside(self, stretch: Stretch) -> dict[str, int]:
        """Return the bytes of copies, buckets and what is gathered."""
        if stretch.phase == "build":
            return {}
        held = {"weights that are updated": self._piece, "gathered parameters": self._persistent}
        if stretch.phase == "optimizer":
            return held | {"copy of gradients": self._piece, "buckets": self._bucket}
        done = self._layers[len(self._layers) - stretch.done :] if "backward" in stretch.phase else []
        held["gathered parameters"] += min(self._gathered - sum(map(_cut, done)), LIVE * _FP32)
        if stretch.phase == "forward":
            held["gathered parameters"] += min(self._gathered, AHEAD * _FP32)
        if "backward" in stretch.phase:
            return held | self._reduced_as_made(stretch)
        return held | {"gradients": self._piece, "buckets": self._bucket}


def _cut(module: nn.Module) -> int:
    """Return the bytes of the parameters that are cut."""
    return size_of(p for p in module.parameters() if p.numel() >= PERSISTENT)
