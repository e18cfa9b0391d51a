"""Which column of a row holds its text, and what a tokenizer makes of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import parent_process
from typing import TYPE_CHECKING

from hfx import Row
from hfx.errors import DataError, nearest

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

USUAL = ("text", "content")
_PIECE = 2**18
"""Characters that are tokenized at once: what a tokenizer notes of each token takes ten times the room of the text."""


def text_column(row: Row, option: str, taken: str | None) -> str:
    """Return the column of the text: `text`, `content`, or the only one with a string; never the one taken.

    Raises:
        DataError: there is none, or more than one; `option` is what names it (`causal_lm.text`).
    """
    for name in USUAL:
        if name in row.values and name != taken:
            return name
    strings = [name for name, value in row.values.items() if isinstance(value, str) and name != taken]
    if len(strings) == 1:
        return strings[0]
    what = "several columns hold a string" if strings else "no column holds a string"
    raise DataError(f"{row.place}: {what}; name the text's with --{option}; there are {columns(row)}")


def string(row: Row, column: str, option: str) -> str:
    """Return the text in a column; an empty one for null.

    Raises:
        DataError: there is no such column, or it holds something else.
    """
    require(row, column, option)
    value = row.values[column]
    if value is not None and not isinstance(value, str):
        kind = type(value).__name__
        raise DataError(f"{row.place}: the column '{column}' holds {kind}, not text; name another with --{option}")
    return value or ""


def require(row: Row, column: str, option: str) -> None:
    """Refuse a row that lacks a column."""
    if column not in row.values:
        hint = nearest(column, row.values)
        raise DataError(f"{row.place} has no column '{column}' (--{option});{hint} it has {columns(row)}")


def columns(row: Row) -> str:
    """Return the row's columns as one phrase."""
    return ", ".join(f"'{name}'" for name in row.values) or "none"


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text alone, however long it is."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def encode_all(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return what `encode` returns for each text; faster, on every core, where the tokenizer is one of `tokenizers`."""
    backend = _backend(tokenizer)
    if backend is None:
        return [encode(tokenizer, text) for text in texts]
    encode(tokenizer, "")  # leaves the backend as it has to be: no truncation, no padding

    def ids(piece: list[str]) -> list[list[int]]:
        return [found.ids for found in backend.encode_batch_fast(piece, add_special_tokens=False)]

    # A process that prepares data beside others has one core.
    threads = 1 if parent_process() else os.cpu_count() or 1
    pieces = list(_pieces(texts, min(_PIECE, sum(map(len, texts)) // (4 * threads) + 1)))
    if threads == 1 or len(pieces) < 2:
        return [found for piece in pieces for found in ids(piece)]
    with ThreadPoolExecutor(threads) as pool:
        return [found for piece in pool.map(ids, pieces) for found in piece]


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    """Return what a tokenizer hands its texts to, where it does nothing to them itself."""
    from transformers import PreTrainedTokenizerFast as Plain

    own = type(tokenizer)
    if not issubclass(own, Plain) or own.__call__ is not Plain.__call__ or own._encode_plus is not Plain._encode_plus:
        return None
    backend: Tokenizer = tokenizer.backend_tokenizer
    return backend


def _pieces(texts: list[str], characters: int) -> Iterator[list[str]]:
    piece: list[str] = []
    size = 0
    for text in texts:
        piece.append(text)
        size += len(text)
        if size >= characters:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that the tokenizer puts before and behind a text: `[CLS]` and `[SEP]`."""
    plain = encode(tokenizer, "a")
    full: list[int] = tokenizer("a")["input_ids"]
    start = next((at for at in range(len(full)) if full[at : at + len(plain)] == plain), 0)
    return tuple(full[:start]), tuple(full[start + len(plain) :])
