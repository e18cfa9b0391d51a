"""For optimizers that need each parameter as it is: its shape, its blocks, its state by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from hfx import ParamGroups


def refuse_parts(name: str, params: ParamGroups) -> None:
    """Refuse a backend that has sharded the parameters: with `fully_shard`, or with ZeRO-3.

    ZeRO 1 and 2 put flat partitions into the groups later; the optimizer has to look for them as it steps.

    Raises:
        IncompatibleError: a parameter is held in parts.
    """
    if any(hasattr(parameter, "full_tensor") or hasattr(parameter, "ds_shape") for _, parameter in params):
        raise in_parts(name)


def in_parts(name: str) -> IncompatibleError:
    """Return what is said of a backend that holds parameters in parts."""
    return IncompatibleError(
        f"'{name}' updates whole parameters, and the backend holds them in parts; "
        "use a backend that holds them whole, or '--plugin adamw'"
    )
