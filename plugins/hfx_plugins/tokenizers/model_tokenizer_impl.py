"""Loading a tokenizer, and choosing a token to pad with without changing the vocabulary."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from huggingface_hub import errors as hub

from hfx.errors import ConfigError, HfxError, ModelError, RemoteError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfx import Run
    from hfx_plugins.tokenizers.model_tokenizer import ModelTokenizer

logger = logging.getLogger("hfx")


def load(options: ModelTokenizer, run: Run) -> PreTrainedTokenizerBase:
    """Return the tokenizer as its publisher made it.

    Raises:
        ModelError: there is none, or it cannot be read.
        RemoteError: the hub cannot be reached, or refuses.
    """
    path = options.path or run.config.model
    if path is None:
        raise ConfigError("'model_tokenizer' has no model; add '--model', or '--plugin bpe' to train a tokenizer")
    try:
        loaded: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            **_place(path), **options.code(path).arguments()
        )
    except (hub.HfHubHTTPError, hub.OfflineModeIsEnabled, ConnectionError) as error:
        raise RemoteError(f"the tokenizer '{path}' cannot be fetched: {_line(error)}; check its name") from error
    except HfxError:
        raise
    except Exception as error:  # transformers raises whatever its parsers raise
        raise ModelError(
            f"the tokenizer of '{path}' cannot be loaded: {_line(error)}; check that name, or name another tokenizer "
            "with --model-tokenizer.path"
        ) from error
    return loaded


def _place(path: str) -> dict[str, Any]:
    """Return the arguments that say where the tokenizer is; what is on disk is never looked up on the hub."""
    place = Path(path).expanduser()
    if place.suffix == ".gguf" and place.is_file():
        if importlib.util.find_spec("gguf") is None:
            raise ModelError(f"'{path}' needs the package gguf; pip install 'hfx[gguf]'")
        return {"pretrained_model_name_or_path": str(place.parent), "gguf_file": place.name, "local_files_only": True}
    if place.is_dir():
        return {"pretrained_model_name_or_path": str(place), "local_files_only": True}
    if place.is_file():
        raise ModelError(f"'{path}' is a file but no '.gguf' file; name the folder that holds the tokenizer")
    if path.startswith((".", "~", os.sep)) or path.count("/") > 1 or path.endswith(".gguf"):
        folder = place.parent
        hint = nearest(place.name, os.listdir(folder)) if folder.is_dir() else f" there is no folder '{folder}'"
        raise ModelError(f"'{path}' does not exist;{hint or ' name a folder, a .gguf file or a hub id'}")
    return {"pretrained_model_name_or_path": path}


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def with_pad_token(tokenizer: PreTrainedTokenizerBase, wanted: str | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer with a token to pad with, which is one that it already has.

    Raises:
        ConfigError: the token asked for is not in the vocabulary.
        ModelError: nothing can serve.
    """
    if wanted is not None:
        vocabulary = tokenizer.get_vocab()
        if wanted not in vocabulary:
            hint = nearest(wanted, tokenizer.all_special_tokens) or " name one that is"
            raise ConfigError(f"'model_tokenizer.pad_token' '{wanted}' is not in the vocabulary;{hint}")
        tokenizer.pad_token = wanted
    elif tokenizer.pad_token_id is None:
        tokenizer.pad_token = _choose(tokenizer)
        logger.warning("the tokenizer has no pad token; padding with '%s'", tokenizer.pad_token)
    return tokenizer


def _choose(tokenizer: PreTrainedTokenizerBase) -> str:
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    unused = [
        str(token) for token in tokenizer.added_tokens_decoder.values() if token.special and str(token) not in used
    ]
    for word in ("pad", "reserved", "unused"):
        if named := [token for token in unused if word in token.lower()]:
            return named[0]
    if tokenizer.eos_token is not None:
        return str(tokenizer.eos_token)
    raise ModelError("the tokenizer has no token to pad with; name one of its vocabulary: --model_tokenizer.pad_token")
