"""The tiny real things of the kit: rows, a file of them, and a folder with a llama and its tokenizer."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

SENTENCE = "the quick brown fox jumps over a lazy dog and sleeps in its warm den until every star has gone"
WORDS = SENTENCE.split()
PAD, END = "<|pad|>", "<|end|>"


def tiny_rows(count: int = 40, first: int = 0) -> list[dict[str, Any]]:
    """Return rows with the columns `text` and `label`: all different, from two words to three times 32 tokens."""
    return [_row(number) for number in range(first, first + count)]


def _row(number: int) -> dict[str, Any]:
    length = 2 + number * 7 % 40
    words = [WORDS[(number + index * (1 + number % 5)) % len(WORDS)] for index in range(length)]
    return {"text": " ".join([*words, str(number)]), "label": "even" if number % 2 == 0 else "odd"}


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write rows as JSON Lines and return the file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@lru_cache(maxsize=1)
def pretrained_folder() -> Path:
    """Return a folder with a tiny llama and its tokenizer, made once for this process."""
    folder = Path(tempfile.mkdtemp(prefix="hfx-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    with without_bars():
        _llama(len(tokenizer)).save_pretrained(folder)
    return folder


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' progress bars and remarks off the terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    body = Tokenizer(models.BPE())
    body.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    body.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False
    )
    body.train_from_iterator([row["text"] for row in tiny_rows()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=body, eos_token=END, pad_token=PAD)


def _llama(vocab_size: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)
