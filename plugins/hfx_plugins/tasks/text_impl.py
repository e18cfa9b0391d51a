"""Which column of a row holds its text, and what a tokenizer makes of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Joined:
    """How a tokenizer puts several texts into one sequence: `[CLS] A [SEP] B [SEP]`; more than two go on like B."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    behind: tuple[int, ...]
    types: tuple[tuple[int, ...], int, tuple[int, ...], int, tuple[int, ...]] | None
    """Token types before A, of A, between, of B and behind; None for a tokenizer that tells no types."""

    def room(self, seq_length: int, texts: int) -> int:
        """Return how many tokens of texts there is room for."""
        return seq_length - len(self.before) - (texts - 1) * len(self.between) - len(self.behind)

    def ids(self, texts: Sequence[list[int]]) -> list[int]:
        """Return the ids of a sequence."""
        whole = list(self.before)
        for index, text in enumerate(texts):
            whole += [*(self.between if index else ()), *text]
        return [*whole, *self.behind]

    def token_types(self, texts: Sequence[list[int]]) -> list[int]:
        """Return the token type of each position; none for a tokenizer that tells no types."""
        if self.types is None:
            return []
        before, first, between, second, behind = self.types
        whole = [*before, *[first] * len(texts[0])]
        for text in texts[1:]:
            whole += [*between, *[second] * len(text)]
        return [*whole, *behind]


def alone(tokenizer: PreTrainedTokenizerBase) -> Joined:
    """Return how the tokenizer makes a sequence of one text."""
    before, behind = frame(tokenizer)
    return Joined(before, (), behind, None)


def joined(tokenizer: PreTrainedTokenizerBase) -> Joined:
    """Return how the tokenizer puts two texts together; one that puts nothing between them has a line end there."""
    first, second = encode(tokenizer, "a"), encode(tokenizer, "b")
    both = tokenizer("a", "b")
    ids: list[int] = both["input_ids"]
    at = _find(ids, first, 0)
    middle, end = at + len(first), _find(ids, second, at + len(first))
    behind = end + len(second)
    between = tuple(ids[middle:end])
    types: list[int] = both["token_type_ids"] if "token_type_ids" in tokenizer.model_input_names else []
    if not types or not between:
        return Joined(tuple(ids[:at]), between or tuple(encode(tokenizer, "\n")), tuple(ids[behind:]), None)
    told = (tuple(types[:at]), types[at], tuple(types[middle:end]), types[end], tuple(types[behind:]))
    return Joined(tuple(ids[:at]), between, tuple(ids[behind:]), told)


def _find(ids: list[int], part: list[int], start: int) -> int:
    return next((at for at in range(start, len(ids)) if ids[at : at + len(part)] == part), start)


def shares(lengths: Sequence[int], room: int) -> list[int]:
    """Return how many tokens of each text are kept where there is room for so many: the longest lose first.

    For two texts it is what tokenizers do (`longest_first`): of an odd room the longer one has the more, or the second.
    """
    kept = [0] * len(lengths)
    for left, index in zip(
        range(len(lengths), 0, -1), sorted(range(len(lengths)), key=lengths.__getitem__), strict=True
    ):
        kept[index] = min(lengths[index], room // left)
        room -= kept[index]
    return kept
