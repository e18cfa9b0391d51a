"""The parameters an optimizer gets, named and each once, and how some of them get options of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    Options = Mapping[str, Any]


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

    def refine(self, optimizer: Optimizer, options: Callable[[str, nn.Parameter, Options], Options]) -> None:
        """Split an optimizer's groups, so that parameters have options of their own; for wrappers of `hfx_optimizer`.

        Args:
            optimizer: Any optimizer over these parameters, which has not made a step.
            options: Called with a parameter's name, itself and its group; returns what is other than in the group.

        Raises:
            IncompatibleError: an option is none of the optimizer's, which would ignore it without a word.
        """
        names = {parameter: name for name, parameter in self._named}
        refined: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            split: dict[str, dict[str, Any]] = {}
            for parameter in group["params"]:
                own = options(names[parameter], parameter, group)
                if unknown := [key for key in own if key not in group]:
                    raise IncompatibleError(
                        f"'{type(optimizer).__name__}' has no option '{unknown[0]}' for '{names[parameter]}'; "
                        "leave it out, or choose another optimizer"
                    )
                split.setdefault(repr(sorted(own.items())), {**group, **own, "params": []})["params"].append(parameter)
            refined += split.values()
        optimizer.param_groups[:] = refined
