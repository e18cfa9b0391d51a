"""The parameters an optimizer gets: named, trainable, each once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


class ParamGroups:
    """The trainable parameters of a module by name; tied ones once.

    Names are those of the model's own `named_parameters()`, whatever wraps it.
    """

    def __init__(self, module: nn.Module) -> None:
        self._named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]

    def __iter__(self) -> Iterator[tuple[str, nn.Parameter]]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)

    def groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Return torch's parameter groups: matrices decay, vectors (norms, biases) and scalars do not."""
        # An engine that partitions parameters (ZeRO-3) leaves them flat and keeps the shape in `ds_shape`.
        decayed = [(n, p) for n, p in self._named if len(getattr(p, "ds_shape", p.shape)) > 1]
        others = [(n, p) for n, p in self._named if len(getattr(p, "ds_shape", p.shape)) <= 1]
        named = [(decayed, weight_decay), (others, 0.0)]
        return [{"params": [p for _, p in members], "weight_decay": decay} for members, decay in named if members]
