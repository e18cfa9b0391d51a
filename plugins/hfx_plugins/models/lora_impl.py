"""Adapters injected into the model itself, which stays the class that it is."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, TaskType, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from hfx.errors import ConfigError, IncompatibleError, nearest
from hfx_plugins.models.capacity_impl import first_line, seeded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import Run
    from hfx_plugins.models.lora import Lora

ADAPTER = "default"
TASK_TYPES = {
    "AutoModelForCausalLM": TaskType.CAUSAL_LM,
    "AutoModelForSequenceClassification": TaskType.SEQ_CLS,
    "AutoModelForTokenClassification": TaskType.TOKEN_CLS,
    "AutoModelForSeq2SeqLM": TaskType.SEQ_2_SEQ_LM,
}


def install(model: PreTrainedModel, options: Lora, run: Run) -> None:
    """Put adapters into the model's layers and freeze the rest.

    Raises:
        ConfigError: a name fits no layer, or one that can have no adapter.
        IncompatibleError: a layer is used in two places, or its forward pass is another plugin's.
    """
    _check_elsewhere(model, options)
    tied = _is_tied(model)
    heads = new_heads(model)
    if options.targets != ["all-linear"]:
        found_modules(model, options, "targets", options.targets)
    # By whole names: peft would take `norm` for every name that ends so, `input_layernorm` among them.
    whole = [*found_modules(model, options, "modules_to_save", options.modules_to_save), *heads]
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules="all-linear" if options.targets == ["all-linear"] else list(options.targets),
        exclude_modules=heads or None,
        modules_to_save=whole or None,
        use_dora=options.variant == "dora",
        use_rslora=options.variant == "rslora",
        task_type=TASK_TYPES.get(run.task.model_class),
    )
    try:
        # What peft warns of (layers stored transposed, tied ones) is either handled or refused here.
        with seeded(run), warnings.catch_warnings(action="ignore"):
            inject_adapter_in_model(config, model, ADAPTER)
        with seeded(run):
            _draw(model, run.device)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"'{options.name}.targets': {first_line(error)}; name other layers") from error
    cast_adapter_dtype(model, ADAPTER)
    _check_ends(model, tied, options.name)


def _check_elsewhere(model: PreTrainedModel, options: Lora) -> None:
    """Refuse what needs weights that lie on disk and are read only when they are used."""
    if not any(parameter.device.type == "meta" for parameter in model.parameters()):
        return
    if options.variant == "dora":
        raise IncompatibleError(
            f"DoRA looks at weights that lie on disk; set '{options.name}.variant' to 'lora', or "
            "let the device take more"
        )
    if options.save == "merged":
        raise IncompatibleError(
            f"adapters cannot be merged into weights that lie on disk; set '{options.name}.save' to 'adapters'"
        )


def _draw(model: PreTrainedModel, device: torch.device) -> None:
    """Draw the adapters, on the device where their layers lie elsewhere: peft puts them where there is nothing."""
    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        for kind in layer.adapter_layer_names:
            adapters = getattr(layer, kind)
            if ADAPTER not in adapters:
                continue
            own = adapters[ADAPTER]
            if isinstance(own, nn.Parameter) and own.device.type == "meta":
                adapters[ADAPTER] = nn.Parameter(torch.empty_like(own, device=device))
            elif isinstance(own, nn.Module) and any(p.device.type == "meta" for p in own.parameters()):
                own.to_empty(device=device)
        layer.reset_lora_parameters(ADAPTER, init_lora_weights=True)


def _is_tied(model: PreTrainedModel) -> bool:
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and getattr(head, "weight", None) is getattr(embeddings, "weight", head)


def new_heads(model: PreTrainedModel) -> list[str]:
    """Return the names of what stands on the model's body where the task made it: random, it has to be trained.

    A head over the vocabulary is no such thing: it comes with the model.
    """
    if model.get_output_embeddings() is not None:
        return []
    children = model.named_children()
    return [
        name for name, child in children if name != model.base_model_prefix and any(True for _ in child.parameters())
    ]


def found_modules(model: nn.Module, options: Lora, option: str, names: list[str]) -> list[str]:
    """Return the whole names of the modules that are called so.

    Raises:
        ConfigError: one of the names fits none.
    """
    known = [name for name, _ in model.named_modules() if name]
    found: list[str] = []
    for wanted in names:
        fitting = [name for name in known if name == wanted or name.endswith(f".{wanted}")]
        if not fitting:
            ends = sorted({end for name in known if not (end := name.rsplit(".", 1)[-1]).isdigit()})
            hint = nearest(wanted, ends) or f" it has {', '.join(ends)}"
            raise ConfigError(f"'{options.name}.{option}': no module of the model is called '{wanted}';{hint}")
        found += fitting
    return found


def _check_ends(model: PreTrainedModel, tied: bool, name: str) -> None:
    """Refuse adapters that one of two places would have, and a head whose forward pass is not its own."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if tied and (_is_adapted(head) or _is_adapted(embeddings)):
        raise IncompatibleError(
            f"the model's embeddings and head are one matrix, of which '{name}' would change one half only; "
            f"leave them out of '{name}.targets' and '{name}.modules_to_save'"
        )
    if _is_adapted(head) and hasattr(model.loss_function, "expecting"):
        raise IncompatibleError(
            f"the loss is computed inside the head, which '{name}' would replace; leave the head out of "
            f"'{name}.targets' and '{name}.modules_to_save', or add '--plugin no:chunked_loss'"
        )


def _is_adapted(module: Any) -> bool:
    return isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
