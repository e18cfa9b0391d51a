"""How many bytes of UTF-8 each token stands for, so that the parts of a text add up to it wherever they are cut.

Decoding a part says something else: a character that is cut becomes a replacement on each side, and the space with
which the part begins is taken for the one that the tokenizer puts before a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx.endings import control_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfx.protocols import Values

_Size = Callable[[str], int]
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class TextBytes:
    """The bytes of a tokenizer's tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        control = control_tokens(tokenizer)
        self._control = {id_ for token, id_ in tokenizer.get_vocab().items() if token in control}
        self._sizes: np.ndarray[Any, np.dtype[np.int64]] | None = None
        self._opening: set[int] = set()
        """The tokens that begin with what the tokenizer puts before a text, a byte that is none of it."""
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        made: Values = json.loads(backend.to_str()) if hasattr(backend, "to_str") else {}
        size = _size_of(made)
        if size is not None:
            self._measure(made, size)

    def _measure(self, made: Values, size: _Size) -> None:
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        own = size if _levels(made) is None else _utf8
        added = {id_: str(token) for id_, token in self._tokenizer.added_tokens_decoder.items()}
        self._sizes = np.zeros(1 + max(vocabulary.values(), default=0), dtype=np.int64)
        for token, id_ in vocabulary.items():
            # One that was added stands for itself, also where the others are written in the alphabet of bytes.
            self._sizes[id_] = 0 if id_ in self._control else own(token) if id_ in added else size(token)
        before = _before_a_text(made)
        if before is not None:
            self._opening = {id_ for token, id_ in vocabulary.items() if token.startswith(before) and id_ not in added}

    def predicted(self, read: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], first: bool) -> int:
        """Return the bytes of the tokens that carry loss.

        Args:
            read: The ids among which the labels stand, `(seq,)`; the labels themselves where they stand alone.
            labels: The labels, `(seq,)`; those below zero carry no loss.
            first: Whether this is the first part of its row.
        """
        at = np.flatnonzero(labels >= 0)
        ids = labels[at]
        if self._sizes is None:
            return len(str(self._tokenizer.decode(ids.tolist(), skip_special_tokens=True)).encode())
        size = int(self._sizes[ids[ids < len(self._sizes)]].sum())
        told = next((int(id_) for id_ in ids if int(id_) not in self._control), None)
        if not first or told not in self._opening:
            return size
        # The first position carries no loss. What stands there alone is a control token, or the text's own beginning;
        # more than it is a prompt, which ends where the text begins.
        begins = at[0] != 1 or int(read[0]) in self._control
        return size - int(begins)


def _size_of(made: Values) -> _Size | None:
    """Return what tells the bytes of a token that is not an added one; None where only decoding tells."""
    model: Values = made.get("model") or {}
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return None
    return _levels(made) or _spaces(made, bool(model.get("byte_fallback")))


def _levels(made: Values) -> _Size | None:
    """Return it for tokens that are written in an alphabet of bytes."""
    if {step["type"] for step in _steps(made.get("decoder"))} - {"Fuse"} != {"ByteLevel"}:
        return None
    letters = _alphabet()

    def size(token: str) -> int:
        return len(token) if letters.issuperset(token) else _utf8(token)

    return size


def _spaces(made: Values, falls_back: bool) -> _Size | None:
    """Return it for tokens that are text in which something stands for a space, or that are one byte each."""
    replaced: list[tuple[str, str]] = []
    fused = False
    for step in _steps(made.get("decoder")):
        kind = step["type"]
        if kind == "Metaspace":
            replaced.append((step["replacement"], " "))
        elif kind == "Replace" and step["pattern"].get("String"):
            replaced.append((step["pattern"]["String"], step["content"]))
        elif kind == "ByteFallback":
            falls_back = True
        elif kind == "Fuse":
            fused = True
        # Behind `Fuse` it takes away what stands before the text; elsewhere it would do so before each token.
        elif not (kind == "Strip" and fused and (step["content"], step["start"], step["stop"]) == (" ", 1, 0)):
            return None
    if not replaced:
        return None

    def size(token: str) -> int:
        if falls_back and _BYTE.fullmatch(token):
            return 1
        for old, new in replaced:
            token = token.replace(old, new)
        return _utf8(token)

    return size


def _before_a_text(made: Values) -> str | None:
    """Return the character that the tokenizer puts before a text, as it stands in tokens."""
    for step in (*_steps(made.get("normalizer")), *_steps(made.get("pre_tokenizer"))):
        found = None
        if step["type"] == "Prepend":
            found = step["prepend"]
        elif step["type"] == "Metaspace" and step["prepend_scheme"] != "never":
            found = step["replacement"]
        elif step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            found = "Ġ"
        if found:
            return str(found)
    return None


def _steps(part: Values | None) -> Iterator[Values]:
    """Yield what a part of a tokenizer does, one after the other."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for name in ("normalizers", "pretokenizers", "decoders"):
        for step in part.get(name, ()):
            yield from _steps(step)


@cache
def _alphabet() -> frozenset[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return frozenset(ByteLevel.alphabet())


def _utf8(text: str) -> int:
    return len(text.encode())
