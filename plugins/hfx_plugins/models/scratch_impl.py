"""From general sizes to the config of one architecture, and to a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hfx.errors import ConfigError, nearest
from hfx_plugins.models.capacity_impl import check_positions, seeded

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from hfx import Run
    from hfx_plugins.models.scratch import Scratch

# What configs call each size, the usual name first; `attribute_map` already translates most of the others.
KEYS = {
    "hidden_size": ("hidden_size", "d_model", "n_embd"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "kv_heads": ("num_key_value_heads",),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "d_ff"),
    "max_positions": ("max_position_embeddings", "n_positions"),
    "tie_embeddings": ("tie_word_embeddings",),
}
# Without these two nothing can be built; the others mean nothing to some architectures (a state-space model's heads).
REQUIRED = ("hidden_size", "layers")


def build(scratch: Scratch, run: Run) -> PreTrainedModel:
    """Return the model that the options describe, with weights drawn from the run's seed."""
    config = make_config(scratch, run)
    factory = getattr(transformers, run.task.model_class)
    with seeded(run):
        try:
            model: PreTrainedModel = factory.from_config(config, dtype=run.precision.dtype)
        except ValueError as error:
            raise ConfigError(
                f"architecture '{scratch.architecture}' cannot be built as {run.task.model_class}: "
                f"{first_line(error)}; choose another 'scratch.architecture' or other sizes"
            ) from error
    check_positions(model, run.config.seq_length)
    return model


def make_config(scratch: Scratch, run: Run) -> PreTrainedConfig:
    """Return the architecture's config with the options, the tokenizer's ids and the task's labels in it.

    Raises:
        ConfigError: the architecture is unknown, lacks a size that was asked for, or refuses the values.
    """
    if scratch.architecture not in CONFIG_MAPPING:
        raise ConfigError(
            f"unknown architecture '{scratch.architecture}' (option 'scratch.architecture'); give a model_type of "
            f"transformers.{nearest(scratch.architecture, CONFIG_MAPPING.keys())}"
        )
    config_class = CONFIG_MAPPING[scratch.architecture]
    known = known_keys(config_class)
    values = sizes(scratch, run, known) | _tokens(run) | dict(run.task.model_options) | _extra(scratch, known)
    try:
        return config_class(**{config_class.attribute_map.get(key, key): value for key, value in values.items()})
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"architecture '{scratch.architecture}' refuses these sizes: {first_line(error)}; "
            "change the options of 'scratch'"
        ) from error


def known_keys(config_class: type[PreTrainedConfig]) -> set[str]:
    """Return every name that a config of this class goes by."""
    return set(vars(config_class())) | set(config_class.attribute_map) | {"rope_theta", "rope_scaling"}


def sizes(scratch: Scratch, run: Run, known: set[str]) -> dict[str, Any]:
    """Return the options of size under the architecture's own names."""
    wanted = {
        "hidden_size": scratch.hidden_size,
        "layers": scratch.layers,
        "heads": scratch.heads,
        "kv_heads": scratch.kv_heads or scratch.heads,
        "intermediate_size": scratch.intermediate_size or rounded_up(scratch.hidden_size * 8 // 3, 64),
        "max_positions": scratch.max_positions or run.config.seq_length,
        "tie_embeddings": scratch.tie_embeddings,
    }
    if scratch.hidden_size % scratch.heads:
        raise ConfigError(
            f"'scratch.heads' {scratch.heads} does not divide 'scratch.hidden_size' {scratch.hidden_size}; "
            "choose sizes that divide"
        )
    found: dict[str, Any] = {}
    for option, value in wanted.items():
        key = next((key for key in KEYS[option] if key in known), None)
        if key is not None:
            found[key] = value
        elif option in REQUIRED or option in scratch.model_fields_set:
            raise ConfigError(
                f"architecture '{scratch.architecture}' has no key for 'scratch.{option}'; "
                "drop the option, or give the architecture's own key in 'scratch.extra'"
            )
    if "head_dim" in known:
        found["head_dim"] = scratch.hidden_size // scratch.heads
    return found


def rounded_up(size: int, multiple: int) -> int:
    """Return the smallest multiple that is at least the size."""
    return -(-size // multiple) * multiple


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return str(error).strip().split("\n")[0].rstrip(".")


def _tokens(run: Run) -> dict[str, int | None]:
    ids = {f"{kind}_token_id": getattr(run.tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    return {"vocab_size": len(run.tokenizer), **ids}


def _extra(scratch: Scratch, known: Iterable[str]) -> dict[str, Any]:
    for key in scratch.extra:
        if key not in known:
            raise ConfigError(
                f"unknown key 'scratch.extra.{key}' for architecture '{scratch.architecture}';"
                f"{nearest(key, known) or ' see the config class of transformers for its keys'}"
            )
    return scratch.extra
