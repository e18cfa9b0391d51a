"""Which parameters patterns mean, and how deep in the model each lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from hfx.errors import IncompatibleError
from hfx.patterns import check_patterns, fits

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import ParamGroups
    from hfx_plugins.optimizers.parameter_groups import ParameterGroups


def refine(optimizer: Optimizer, params: ParamGroups, model: nn.Module, options: ParameterGroups) -> None:
    """Split the optimizer's groups as the options say.

    Raises:
        ConfigError: a pattern fits no parameter that is trained.
        IncompatibleError: the optimizer has no such option, or the model has no layers.
    """
    names = [name for name, _ in params]
    known: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known.setdefault(parameter, []).append(name)  # tied ones are one, under any of their names
    for option in ("lr", "weight_decay"):
        trained = [name for _, parameter in params for name in known[parameter]]
        check_patterns(f"parameter_groups.{option}", getattr(options, option), trained)
    factors = _by_depth(model, names, options.layer_decay)

    def own(name: str, parameter: nn.Parameter, group: Mapping[str, Any]) -> dict[str, Any]:
        factor = factors.get(name, 1.0) * _last(options.lr, known[parameter], 1.0)
        decay = _last(options.weight_decay, known[parameter], None)
        changed = {"lr": group["lr"] * factor} if factor != 1 else {}
        return changed | ({} if decay is None else {"weight_decay": decay})

    params.refine(optimizer, own)


def _last(values: Mapping[str, float], names: list[str], otherwise: Any) -> Any:
    fitting = [value for pattern, value in values.items() if any(fits(name, pattern) for name in names)]
    return fitting[-1] if fitting else otherwise


def _by_depth(model: nn.Module, names: list[str], decay: float) -> dict[str, float]:
    """Return the factor of each parameter: one for what is above the last layer, least for embeddings.

    Raises:
        IncompatibleError: the model has no layers, or several stacks of them.
    """
    if decay == 1:
        return {}
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        what = "has no list of layers" if not outer else f"has several lists of layers ('{outer[0]}', '{outer[1]}')"
        raise IncompatibleError(
            f"the model {what}, so 'parameter_groups.layer_decay' has no depth to go by; give 'parameter_groups.lr'"
        )
    size = len(lists[outer[0]])
    embeddings = {
        f"{name}.{own}"
        for name, m in model.named_modules()
        if isinstance(m, nn.Embedding)
        for own, _ in m.named_parameters(recurse=False)
    }

    def depth(name: str) -> int:
        """Count from 0, the embeddings, to one more than the layers."""
        if name.startswith(f"{outer[0]}."):
            return int(name.removeprefix(f"{outer[0]}.").split(".", 1)[0]) + 1
        return 0 if name in embeddings or ".embeddings." in f".{name}" else size + 1

    return {name: decay ** (size + 1 - depth(name)) for name in names}
