"""Linear layers in four bits: the weight and its scales are tensors of the layer, so a checkpoint holds them all.

bitsandbytes' own layer keeps the scales beside the weight, where neither a checkpoint nor `hfx plan` would see them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from hfx.errors import IncompatibleError
from hfx_plugins.models.lora_impl import found_modules, new_heads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import Run
    from hfx_plugins.models.qlora import Qlora

BLOCK, SCALES_BLOCK = 64, 256
"""Weights that share a scale, and scales that share one of their own."""


def quantize(model: PreTrainedModel, options: Qlora, run: Run) -> None:
    """Replace the model's linear layers, one after the other, but for its heads and the modules that are trained whole.

    Raises:
        ConfigError: a name of `modules_to_save` fits no module.
        IncompatibleError: the model has no linear layers beside its head.
    """
    head = model.get_output_embeddings()
    whole = [*found_modules(model, options, "modules_to_save", options.modules_to_save), *new_heads(model)]
    kept = {id(inner) for name in whole for inner in model.get_submodule(name).modules()} | {id(head)}
    # T5's feed-forward turns its states into the dtype of this layer's weight, whatever that is.
    floating = {str(name) for name in getattr(model, "_keep_in_fp32_modules", None) or ()}
    made = PlannedFourBit if run.planning else FourBit
    layers = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and id(child) not in kept and name not in floating
    ]
    if not layers:
        raise IncompatibleError(
            f"'{options.name}' keeps linear layers in 4 bits, and '{type(model).__name__}' has none beside its head; "
            "take '--plugin lora'"
        )
    while layers:
        parent, name, child = layers.pop()
        setattr(parent, name, made(child, run.device))


class FourBit(nn.Linear):
    """A frozen linear layer of nf4 weights, which are made whole wherever they are multiplied."""

    def __init__(self, layer: nn.Linear, device: torch.device) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.full_dtype = layer.weight.dtype
        """That of the weight before, in which it is exported."""
        self.bias = layer.bias
        for name, tensor in self._cut_down(layer.weight.detach().to(device)).items():
            if name == "weight":
                self.weight = nn.Parameter(tensor, requires_grad=False)
            else:
                self.register_buffer(name, tensor)

    def _cut_down(self, weight: Tensor) -> dict[str, Tensor]:
        from bitsandbytes.functional import quantize_4bit

        packed, state = quantize_4bit(weight.contiguous(), blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
        return {
            "weight": packed,
            "scales": state.absmax,
            "scales_scales": state.state2.absmax,
            "scales_code": state.state2.code.clone(),
            "scales_mean": state.offset,
        }

    def full(self, dtype: torch.dtype) -> Tensor:
        """Return the weight, `(out, in)`."""
        from bitsandbytes.functional import dequantize_blockwise

        scales = dequantize_blockwise(
            self.scales, absmax=self.scales_scales, code=self.scales_code, blocksize=SCALES_BLOCK
        )
        shape = (self.out_features, self.in_features)
        whole: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
            self.weight, scales + self.scales_mean, BLOCK, "nf4", shape, dtype
        )
        return whole

    def forward(self, states: Tensor) -> Tensor:
        """Return the products, `(..., out)`, of states `(..., in)`.

        Raises:
            IncompatibleError: the model turned its states into the dtype of the packed weights.
        """
        if not states.is_floating_point():
            raise IncompatibleError(
                "'qlora' packs weights into bytes, and this model turns what it multiplies into the dtype of its "
                "weights; take '--plugin lora'"
            )
        if torch.is_autocast_enabled(states.device.type):
            states = states.to(torch.get_autocast_dtype(states.device.type))
        products: Tensor = _Product.apply(states, self)  # type: ignore[no-untyped-call]
        return products if self.bias is None else products + self.bias.to(products.dtype)

    def dequantized(self) -> nn.Linear:
        """Return a plain layer with the weight that this one computes with."""
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(self.full(self.full_dtype), requires_grad=False)
        plain.bias = self.bias
        return plain


class PlannedFourBit(FourBit):
    """One of the same size without content: floating-point tensors are those that `hfx plan` makes none of."""

    def _cut_down(self, weight: Tensor) -> dict[str, Tensor]:
        def of_bytes(count: int) -> Tensor:
            return torch.empty(math.ceil(count / 2), dtype=torch.float16, device=weight.device)

        scales = math.ceil(weight.numel() / BLOCK)
        sizes = {"weight": weight.numel() / 2, "scales": scales, "scales_scales": 4 * scales / SCALES_BLOCK}
        return {name: of_bytes(math.ceil(size)) for name, size in {**sizes, "scales_code": 1024}.items()}

    def full(self, dtype: torch.dtype) -> Tensor:
        """Return a weight of this size."""
        return torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.weight.device)


class _Product(torch.autograd.Function):
    """Nothing but the layer is kept for the backward pass: its weight is made whole there again."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: FourBit) -> Tensor:
        ctx.layer = layer
        return linear(states, layer.full(states.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.full(grad.dtype), None
