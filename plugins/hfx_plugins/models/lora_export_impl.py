"""What the export writes of a model with adapters: plain weights, or the adapters alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import ModulesToSaveWrapper
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from hfx_plugins.models.lora_impl import ADAPTER

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from hfx import Run


@contextmanager
def merged(model: PreTrainedModel) -> Iterator[None]:
    """Let the model's state dict be that of a plain model, with what the adapters learned in its weights."""
    handle = model.register_state_dict_post_hook(_merge)
    try:
        yield
    finally:
        handle.remove()


def _merge(model: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    for name, module in model.named_modules():
        at = f"{prefix}{name}."
        quantized = hasattr(module, "dequantized") and f"{at}weight" in state  # else it is in an adapted layer
        if not quantized and not isinstance(module, LoraLayer | ModulesToSaveWrapper):
            continue
        own = {key.removeprefix(at): state.pop(key) for key in list(state) if key.startswith(at)}
        plain = _trained_copy(own) if isinstance(module, ModulesToSaveWrapper) else _in_parts(module, own)
        state.update({f"{at}{key}": tensor for key, tensor in plain.items()})


def _in_parts(layer: Any, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a layer's merged weights; where an engine holds them in parts, they are whole for one layer at a time."""
    parts = [tensor for tensor in own.values() if isinstance(tensor, DTensor)]
    whole = {key: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for key, tensor in own.items()}
    plain = _merged_layer(layer, whole)
    if not parts:
        return plain
    mesh, rows = parts[0].device_mesh, parts[0].placements
    # All ranks merged the same, so none has to send its part.
    return {key: distribute_tensor(tensor, mesh, rows, src_data_rank=None) for key, tensor in plain.items()}


def _merged_layer(layer: Any, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a layer with its adapter in them, which peft adds up; the layer itself stays as it is."""
    scratch = copy.deepcopy(layer)
    scratch.load_state_dict({key: tensor.detach().clone() for key, tensor in own.items()}, assign=True)
    if not isinstance(layer, LoraLayer):
        plain: dict[str, Tensor] = scratch.dequantized().state_dict()
        return plain
    if hasattr(scratch.base_layer, "dequantized"):
        scratch.base_layer = scratch.base_layer.dequantized()
    scratch.merge()
    merged: dict[str, Tensor] = scratch.get_base_layer().state_dict()
    return merged


def _trained_copy(own: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"modules_to_save.{ADAPTER}."
    return {key.removeprefix(start): tensor for key, tensor in own.items() if key.startswith(start)}


@contextmanager
def as_adapters(model: PreTrainedModel, run: Run) -> Iterator[None]:
    """Let the model's `save_pretrained` write the adapters alone, as that of peft's own models does."""

    def save(path: Path, state_dict: dict[str, Tensor] | None = None, **_: Any) -> None:
        write(run, Path(path), state_dict)

    model.save_pretrained = save
    try:
        yield
    finally:
        del model.save_pretrained


def write(run: Run, path: Path, state: dict[str, Tensor] | None) -> None:
    """Write `adapter_config.json` and the adapters, by the names under which peft finds them over the base."""
    path.mkdir(parents=True, exist_ok=True)
    # Asked to find out itself whether embeddings belong to it, peft would look at the hub.
    own = get_peft_model_state_dict(run.model, state, ADAPTER, save_embedding_layers=False)
    tensors = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in own.items()}
    save_file(tensors, path / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    config = copy.copy(run.model.peft_config[ADAPTER])
    name = str(run.config.model)
    folder = Path(name).expanduser()
    config.base_model_name_or_path = str(folder.resolve()) if folder.exists() else name
    config.revision = getattr(run.model.config, "_commit_hash", None)
    config.target_modules = sorted(config.target_modules)
    config.inference_mode = True
    config.save_pretrained(path)
