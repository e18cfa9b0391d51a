"""The part of `hfx generate` that imports torch and transformers."""

from __future__ import annotations

from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from hfx.errors import HfxError, ModelError
from hfx.remote_code import RemoteCode, safetensors_only


def continued(source: str, prompt: str, max_new_tokens: int, temperature: float, seed: int) -> str:
    """Return the prompt and its continuation.

    Raises:
        ModelError: the model or its tokenizer cannot be loaded, or the prompt is empty.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    getLogger("huggingface_hub").setLevel(ERROR)
    tokenizer, model = _loaded(source)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = tokenizer(prompt, return_tensors="pt").to(device)
    if inputs["input_ids"].shape[1] == 0:
        raise ModelError("the prompt has no tokens; give some text with '--prompt'")
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    wanted = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    output = model.to(device).generate(**wanted, max_new_tokens=max_new_tokens, pad_token_id=pad, **sampling)
    return str(tokenizer.decode(output[0], skip_special_tokens=True))


def _loaded(source: str) -> tuple[Any, Any]:
    code = RemoteCode("generate", source)
    closed = code.arguments()
    try:
        adapters = (Path(source) / "adapter_config.json").is_file()  # transformers loads their base, too
        given = {} if adapters else {"config": code.checked(AutoConfig.from_pretrained(source, **closed))}
        architectures = [] if adapters else given["config"].architectures or []
        if architectures and not set(architectures) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
            raise ModelError(f"'{source}' is a {architectures[0]}, which writes no text; name a causal language model")
        tokenizer = AutoTokenizer.from_pretrained(source, **closed)
        with safetensors_only(source):
            model = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, **given, **closed)
    except (HfxError, MemoryError):
        raise
    except Exception as error:  # transformers raises whatever its parsers raise
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"cannot load a causal language model and its tokenizer from '{source}': {cause}; "
            "name a run, a folder that holds a model, or a hub id"
        ) from error
    return tokenizer, model.eval()
