"""Training a byte-level BPE tokenizer, and its cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hfx import Row
from hfx.errors import DataError, StorageError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, END = "<|pad|>", "<|end|>"
USUAL = ("text", "content")


class TrainingRows(Protocol):
    """The cleaned rows of a split."""

    @property
    def fingerprint(self) -> str:
        """A hash of their content."""

    def __iter__(self) -> Iterator[Row]: ...


def cached(
    rows: TrainingRows, folder: Path, vocab_size: int, min_frequency: int, text: str | None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer trained on these rows with these options, from the folder if it is there."""
    key = json.dumps([rows.fingerprint, vocab_size, min_frequency, text, tokenizers.__version__])
    home = folder / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not home.is_dir():
        _store(_train(_texts(rows, text), vocab_size, min_frequency), home)
    try:
        return cast("PreTrainedTokenizerBase", PreTrainedTokenizerFast.from_pretrained(home))
    except Exception as error:  # tokenizers raises nothing narrower
        raise StorageError(f"the tokenizer kept in '{home}' is damaged; remove that folder, it is made anew") from error


def _train(texts: Iterator[str], vocab_size: int, min_frequency: int) -> PreTrainedTokenizerFast:
    first = next(texts, None)
    if first is None:
        raise DataError("there is no text to train a tokenizer on; check the data, or name its column with --bpe.text")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_chain(first, texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _texts(rows: Iterable[Row], text: str | None) -> Iterator[str]:
    for row in rows:
        for leaf in row.texts(_columns(row, text)):
            if leaf.value:
                yield leaf.value


def _columns(row: Row, text: str | None) -> list[str] | None:
    if text is None:
        return [name for name in USUAL if isinstance(row.values.get(name), str)][:1] or None
    if text not in row.values:
        hint = nearest(text, row.values)
        raise DataError(f"{row.place} has no column '{text}' (bpe.text);{hint} it has {', '.join(row.values)}")
    return [text]


def _store(tokenizer: PreTrainedTokenizerFast, home: Path) -> None:
    """Write under another name first: a folder of that name is whole, whoever else writes it at the same time."""
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=home.parent))
        try:
            tokenizer.save_pretrained(draft)
            draft.replace(home)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        if not home.is_dir():
            raise StorageError(f"the tokenizer cannot be written to '{home}': {error}; make room or move it") from error
