"""The engines of several processes: DeepSpeed's config and FSDP's arguments as plugins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfx.errors import ConfigError

if TYPE_CHECKING:
    from hfx.cli.from_trainer_map import Draft

_HERE = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
         "bf16", "fp16", "optimizer", "scheduler")  # fmt: skip
"""Sections that say once more what the arguments say; with "auto" they are theirs."""


def _section(draft: Draft, value: Any, name: str) -> dict[str, Any]:
    """Return a mapping that is given as such, or as the path of a JSON file."""
    if isinstance(value, dict):
        return value
    path = draft.given.folder / Path(str(value)).expanduser()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"'--{name}' names '{value}', which cannot be read: {error.strerror}; run it where the file is"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"'--{name}' names '{value}', which is no JSON ({error}); mend it") from error
    if not isinstance(found, dict):
        raise ConfigError(f"'--{name}' names '{value}', which holds no mapping; mend it")
    return found


def deepspeed(draft: Draft) -> None:
    """Translate `deepspeed` into the plugin `zero`, and say what of its config is not translated."""
    given = draft.given
    value = given.take("deepspeed")
    if not value:
        return
    config = _section(draft, value, "deepspeed")
    zero = dict(config.get("zero_optimization") or {})
    stage = int(zero.pop("stage", 0))
    if stage == 0:
        draft.plugin("ddp", "--deepspeed, whose stage 0 shares nothing")
    else:
        options: dict[str, Any] = {"stage": (stage, "zero_optimization.stage")}
        for key, option in (("offload_optimizer", "offload_optimizer"), ("offload_param", "offload_parameters")):
            place = dict(zero.pop(key, None) or {}).get("device", "none")
            if place != "none":
                options[option] = (
                    True,
                    f"{key} to {place}" + ("; hfx's goes to the host's memory" if place == "nvme" else ""),
                )
        draft.plugin("zero", "--deepspeed", **options)
    for key, inner in zero.items():
        draft.note(f"deepspeed zero_optimization.{key} {json.dumps(inner)}: hfx sets up the engine itself")
    for key, inner in config.items():
        if key == "zero_optimization" or (key in _HERE and _auto(inner)):
            continue
        draft.note(
            f"deepspeed {key} {json.dumps(inner)}: "
            + ("compare it with the lines above" if key in _HERE else "hfx sets up the engine itself")
        )


def _auto(value: Any) -> bool:
    """Return whether the section leaves everything to the arguments."""
    if isinstance(value, dict):
        return all(_auto(inner) for inner in value.values())
    return value in ("auto", None, False)


def fsdp(draft: Draft) -> None:
    """Translate `fsdp` and `fsdp_config` into the plugin `fsdp`, which is torch's FSDP2."""
    given = draft.given
    value, more = given.take("fsdp"), given.take("fsdp_config")
    if not value or value == "no":
        if isinstance(more, dict) and given.said("fsdp_config"):
            draft.note("--fsdp_config without --fsdp: the Trainer ignores it, too")
        return
    words = " ".join(value) if isinstance(value, list) else "full_shard" if value is True else str(value)
    options: dict[str, Any] = {}
    if "shard_grad_op" in words or "hybrid_shard_zero2" in words:
        options["reshard"] = (False, "shard_grad_op")
    if "offload" in words:
        options["offload"] = (True, "offload")
    draft.plugin("fsdp", f"--fsdp {words}; FSDP2", **options)
    if "hybrid" in words:
        draft.note(f"--fsdp {words}: hfx shards over all processes")
    config = _section(draft, more, "fsdp_config") if more else {}
    for key, inner in config.items():
        if inner in (None, False, "", []) or key in ("xla", "xla_fsdp_v2", "min_num_params", "version"):
            continue
        draft.note(f"--fsdp_config {key} {json.dumps(inner)}: hfx shards layer by layer, and sets the rest itself")
