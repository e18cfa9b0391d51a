"""From general sizes to the config of one architecture, and to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hfx.errors import ConfigError, nearest
from hfx_plugins.models.capacity_impl import causal_options, check_positions, first_line, positions, quiet, seeded

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
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim"),
    "max_positions": ("max_position_embeddings", "n_positions"),
    "tie_embeddings": ("tie_word_embeddings",),
}


def build(scratch: Scratch, run: Run) -> PreTrainedModel:
    """Return the model that the options describe, with weights drawn from the run's seed."""
    seq_length = run.config.seq_length
    with quiet():
        model = _model(scratch, run, scratch.max_positions or seq_length)
        found = positions(model)
        if found is not None and found < seq_length and scratch.max_positions is None:
            # roberta and its kin need a few more positions than the longest sequence has tokens.
            model = _model(scratch, run, 2 * seq_length - found)
    check_positions(model, seq_length)
    model.config.pad_token_id = run.tokenizer.pad_token_id
    return model


def _model(scratch: Scratch, run: Run, max_positions: int) -> PreTrainedModel:
    config = make_config(scratch, run, max_positions)
    model_class = run.task.model_class
    with seeded(run):
        try:
            model: PreTrainedModel = getattr(transformers, model_class).from_config(config, dtype=run.precision.dtype)
        except ValueError as error:
            unknown = str(error).startswith("Unrecognized configuration class")
            cause = f"transformers has no {model_class} of it" if unknown else first_line(error)
            raise ConfigError(
                f"architecture '{scratch.architecture}' cannot be built: {cause}; change the options of 'scratch'"
            ) from error
    return model


def make_config(scratch: Scratch, run: Run, max_positions: int) -> PreTrainedConfig:
    """Return the architecture's config with the options, the tokenizer's ids and the task's labels in it.

    Raises:
        ConfigError: the architecture is unknown, lacks a size that was asked for, or refuses the values.
    """
    if scratch.architecture not in CONFIG_MAPPING:
        raise ConfigError(
            f"unknown architecture '{scratch.architecture}' in 'scratch.architecture';"
            f"{nearest(scratch.architecture, CONFIG_MAPPING.keys()) or ' give a model_type of transformers'}"
        )
    config_class = CONFIG_MAPPING[scratch.architecture]
    usual = config_class()
    known = set(vars(usual)) | set(config_class.attribute_map) | {"rope_theta", "rope_scaling"}
    values = (
        _sizes(scratch, max_positions, known)
        | _tokens(run, known)
        | causal_options(usual, run.task.model_class)
        | dict(run.task.model_options)
        | _extra(scratch, known)
    )
    try:
        return config_class(**{config_class.attribute_map.get(key, key): value for key, value in values.items()})
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ConfigError(
            f"architecture '{scratch.architecture}' refuses these sizes: {first_line(error.__cause__ or error)}; "
            "change the options of 'scratch'"
        ) from error


def _sizes(scratch: Scratch, max_positions: int, known: set[str]) -> dict[str, Any]:
    kv_heads = scratch.kv_heads or scratch.heads
    _check_divides("heads", scratch.heads, "hidden_size", scratch.hidden_size)
    _check_divides("kv_heads", kv_heads, "heads", scratch.heads)
    wanted = {
        "hidden_size": scratch.hidden_size,
        "layers": scratch.layers,
        "heads": scratch.heads,
        "kv_heads": kv_heads,
        "intermediate_size": scratch.intermediate_size or _rounded_up(scratch.hidden_size * 8 // 3, 64),
        "max_positions": max_positions,
        "tie_embeddings": scratch.tie_embeddings,
    }
    found: dict[str, Any] = {}
    for option, value in wanted.items():
        key = next((key for key in KEYS[option] if key in known), None)
        if key is not None:
            found[key] = value
        else:
            _check_dispensable(option, scratch)
    # Deepseek's kin derive theirs from the parts of a head.
    if "head_dim" in known and "qk_rope_head_dim" not in known:
        found["head_dim"] = scratch.hidden_size // scratch.heads
    return found


def _check_divides(part: str, divisor: int, whole: str, number: int) -> None:
    if number % divisor:
        raise ConfigError(
            f"'scratch.{part}' {divisor} does not divide 'scratch.{whole}' {number}; choose sizes that divide"
        )


def _check_dispensable(option: str, scratch: Scratch) -> None:
    # Not whether it was given: the file of a run gives all options.
    if getattr(scratch, option) != type(scratch).model_fields[option].default:
        raise ConfigError(
            f"architecture '{scratch.architecture}' has no key for 'scratch.{option}'; "
            "drop the option, or give the architecture's own key in 'scratch.extra'"
        )
    # The others mean nothing to some architectures: a state-space model has no heads.
    if option in ("hidden_size", "layers"):
        raise ConfigError(
            f"architecture '{scratch.architecture}' is not one stack of layers; choose another 'scratch.architecture'"
        )


def _rounded_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _tokens(run: Run, known: set[str]) -> dict[str, int | None]:
    tokenizer = run.tokenizer
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    if ids["pad_token_id"] in (ids["bos_token_id"], ids["eos_token_id"]):
        # An embedding never learns its padding row: a token that also means something must not be that row.
        ids["pad_token_id"] = None
    # Most configs know nothing of these two, and those that do want numbers.
    marks = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id", None) for kind in ("cls", "sep")}
    ids |= {key: value for key, value in marks.items() if key in known and value is not None}
    return {"vocab_size": len(tokenizer), **ids}


def _extra(scratch: Scratch, known: set[str]) -> dict[str, Any]:
    for key in scratch.extra:
        if key not in known:
            raise ConfigError(
                f"unknown key 'scratch.extra.{key}' for architecture '{scratch.architecture}';"
                f"{nearest(key, known) or ' see its config class in transformers'}"
            )
    return scratch.extra
