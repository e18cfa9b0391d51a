"""Loading a checkpoint quietly, and saying in one line what it did not contain."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub import errors as hub
from safetensors import SafetensorError

from hfx import safetensors_only
from hfx.errors import HfxError, ModelError, RemoteError
from hfx_plugins.models.capacity_impl import (
    causal_options,
    check_positions,
    check_vocabulary,
    first_line,
    quiet,
    seeded,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from hfx import RemoteCode, Run
    from hfx_plugins.models.pretrained import Pretrained

logger = logging.getLogger("hfx")


def load(pretrained: Pretrained, run: Run) -> PreTrainedModel:
    """Return the run's model, checked against the run's tokenizer and sequence length."""
    name = str(run.config.model)
    factory = getattr(transformers, run.task.model_class)
    with _explained(name), quiet(), seeded(run), safetensors_only(name):
        code = pretrained.code(name)
        where = _where(name, code)
        config = code.checked(transformers.AutoConfig.from_pretrained(**where))
        trained_labels = _labels(config)
        for key, value in (causal_options(config, run.task.model_class) | dict(run.task.model_options)).items():
            setattr(config, key, value)
        if run.planning:
            return _without_weights(factory, config, pretrained, run)
        model, found = factory.from_pretrained(
            **where, **_placement(pretrained, run), **_offloading(pretrained, run), config=config,
            output_loading_info=True, use_safetensors=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    _check_keys(name, model, found)
    if run.judged is not None and run.judged["checkpoint"] is None:
        _refuse_new(name, found)
    _report(name, found)
    _report_labels(name, model, found, trained_labels)
    check_vocabulary(model, run.tokenizer)
    check_positions(model, run.config.seq_length)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = run.tokenizer.pad_token_id
    return _plain(model) if "gguf_file" in where else model


def _without_weights(factory: Any, config: PreTrainedConfig, pretrained: Pretrained, run: Run) -> PreTrainedModel:
    placed = _placement(pretrained, run)
    dtype = placed["dtype"] if placed["dtype"] != "auto" else config.dtype
    given = {"attn_implementation": pretrained.attn_implementation} if pretrained.attn_implementation else {}
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model: PreTrainedModel = factory.from_config(config, dtype=dtype, **given)
    return model


def _where(name: str, code: RemoteCode) -> dict[str, Any]:
    path = Path(name).expanduser()
    # A hub id is one or two plain words; anything else can only be a path.
    hub_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith((".", "~"))
    if name.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"no such file '{name}'; 'model' names a .gguf file, a folder or a hub id")
        if importlib.util.find_spec("gguf") is None:
            raise ModelError(f"reading '{name}' needs the package 'gguf'; run: pip install 'hfx[gguf]'")
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, **code.arguments()}
    if path.is_file():
        raise ModelError(f"'{name}' is a file; 'model' names the folder with its config.json, or a .gguf file")
    if not path.is_dir() and not hub_id:
        raise ModelError(f"no such folder '{name}'; 'model' names a folder, a .gguf file or a hub id")
    return {"pretrained_model_name_or_path": str(path) if path.is_dir() else name, **code.arguments()}


def _placement(pretrained: Pretrained, run: Run) -> dict[str, Any]:
    named = pretrained.dtype
    dtype = run.precision.dtype if named is None else named if named == "auto" else getattr(torch, named)
    device_map = {"": run.device} if pretrained.low_memory else pretrained.device_map
    given = {"device_map": device_map, "attn_implementation": pretrained.attn_implementation}
    return {"dtype": dtype} | {key: value for key, value in given.items() if value is not None}


def _offloading(pretrained: Pretrained, run: Run) -> dict[str, Any]:
    """Return where weights go that are on no device; those of a checkpoint in safetensors stay where they are."""
    if pretrained.device_map is None:
        return {}
    run.cache.mkdir(parents=True, exist_ok=True)
    folder = run.enter(TemporaryDirectory(prefix="offload-", dir=run.cache, ignore_cleanup_errors=True))
    limits = {int(name) if name.isdigit() else name: size for name, size in pretrained.max_memory.items()}
    return {"offload_folder": folder, "max_memory": limits or None}


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except HfxError:
        raise
    except (
        OSError,
        ValueError,
        ImportError,
        LookupError,
        TypeError,
        AttributeError,
        SafetensorError,
        RecursionError,
    ) as error:
        raise _explanation(name, error) from error


def _explanation(name: str, error: BaseException) -> HfxError:
    local = Path(name).expanduser().exists()
    causes = list(_chain(error))
    # A missing entry of a repository is a kind of "not found" too, so the cut network is looked for first.
    if any(isinstance(cause, hub.LocalEntryNotFoundError | hub.OfflineModeIsEnabled) for cause in causes) and not local:
        return RemoteError(
            f"the hub cannot be reached and '{name}' is not in its local cache; check the network, or give a folder"
        )
    if any(isinstance(cause, hub.GatedRepoError) for cause in causes):
        return ModelError(f"'{name}' is gated on the hub; ask for access on its page and run: hf auth login")
    if any(isinstance(cause, hub.RevisionNotFoundError) for cause in causes):
        return ModelError(f"the hub has no such revision of '{name}'; correct 'pretrained.revision'")
    if any(isinstance(cause, hub.RepositoryNotFoundError) for cause in causes):
        return ModelError(f"there is no folder '{name}', and no such model on the hub; correct 'model'")
    return ModelError(
        f"'{name}' cannot be loaded as a model: {first_line(error)}; give a folder that save_pretrained wrote"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _labels(config: PreTrainedConfig) -> list[str]:
    return [str(label) for label in (config.id2label or {}).values()]


def _check_keys(name: str, model: PreTrainedModel, found: dict[str, Any]) -> None:
    body = f"{model.base_model_prefix}."
    for key, saved, built in found["mismatched_keys"]:
        if key.startswith(body):
            raise ModelError(
                f"weight '{key}' of '{name}' is {tuple(saved)} and its config says {tuple(built)}; "
                "its config.json belongs to another checkpoint"
            )
    if set(found["missing_keys"]) >= {key for key, _ in model.named_parameters()}:
        raise ModelError(
            f"'{name}' holds no weight of {type(model).__name__}; its config.json belongs to another checkpoint"
        )


def _new(found: dict[str, Any]) -> list[str]:
    return sorted({*found["missing_keys"], *(key for key, _, _ in found["mismatched_keys"])})


def _refuse_new(name: str, found: dict[str, Any]) -> None:
    """Refuse to evaluate weights that nobody trained."""
    if found["mismatched_keys"]:
        key, saved, built = min(found["mismatched_keys"])
        raise ModelError(
            f"'{name}' has {saved[0]} labels, and the rows {built[0]}, so that the head '{key}' would be one that "
            "nobody trained; name all labels of the model with the task's option 'names'"
        )
    if new := _new(found):
        raise ModelError(
            f"'{name}' has no weights for {_listed(new)}, which nobody trained; evaluate a run, or a model that was "
            "trained for the task"
        )


def _report(name: str, found: dict[str, Any]) -> None:
    if new := _new(found):
        logger.warning("%d weights are new, drawn from the seed: '%s' has none for %s", len(new), name, _listed(new))
    if found["unexpected_keys"]:
        unused = sorted(found["unexpected_keys"])
        logger.warning("%d weights of '%s' are not used: %s", len(unused), name, _listed(unused))


def _report_labels(name: str, model: PreTrainedModel, found: dict[str, Any], trained: list[str]) -> None:
    labels = _labels(model.config)
    generic = [f"LABEL_{index}" for index in range(len(trained))]
    head_kept = not found["missing_keys"] and not found["mismatched_keys"]
    if head_kept and len(labels) == len(trained) and labels != trained != generic:
        logger.warning(
            "the head of '%s' was trained on %s and goes on with %s", name, _listed(trained), _listed(labels)
        )
    if found["mismatched_keys"]:
        logger.warning(
            "the head of '%s' has %d labels (%s) and the data %d (%s): its head is new",
            name, len(trained), _listed(trained), len(labels), _listed(labels),
        )  # fmt: skip


def _listed(names: Iterable[str], most: int = 4) -> str:
    shown = list(names)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(f"'{name}'" for name in shown[:most]) + more


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    # The weights are dequantised, but the marks of quantisation make save_pretrained refuse.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    return model
