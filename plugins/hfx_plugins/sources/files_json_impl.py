"""The reader of one JSON list, an element at a time."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from hfx.errors import DataError
from hfx_plugins.sources.files_open_impl import (
    NUL,
    Damaged,
    Opened,
    Outcome,
    binary,
    lost,
    opened,
    too_long,
    undecodable,
)
from hfx_plugins.sources.files_text_impl import checked, json_kind, not_json

_DECODER = json.JSONDecoder()
_LENIENT = json.JSONDecoder(strict=False)
_BLANK = re.compile(r"[ \t\r\n]*")
_PIECE = 1 << 16
_ESCAPED_BYTES = re.compile("[\udc80-\udcff]")


def json_list(file: Opened) -> Iterator[Outcome]:
    """Yield the objects of one JSON list; what follows a place that is not JSON is lost.

    Raises:
        DataError: it is no list.
    """
    number = 0
    try:
        with opened(file.path) as stream:
            if reason := binary(file, stream):
                yield 1, reason
                return
            for number, outcome in _elements(file, _Window(file, stream)):
                yield number, outcome
    except Damaged as error:
        yield number + 1, lost(error)


class _Window:
    """The text that is being looked at, which grows as far as an element needs."""

    def __init__(self, file: Opened, stream: io.BufferedReader) -> None:
        self._stream, self._file = stream, file
        # A byte that is none of the encoding becomes a lone surrogate: it spoils its element, not the list.
        self._decode = codecs.getincrementaldecoder(file.encoding)("surrogateescape").decode
        self.text, self.at, self.ended = "", 0, False
        while not self.text and not self.ended:
            self.grow()
        self.text = self.text.removeprefix("\ufeff")

    def grow(self) -> None:
        """Read on; as much again as there is, so that a long element is not parsed again and again."""
        pieces, held = [self.text[self.at :]], 0
        self.text, self.at = "", 0
        while not self.ended and held < max(_PIECE, len(pieces[0])):
            raw = self._stream.read1(_PIECE)
            self.ended = not raw
            try:
                pieces.append(self._decode(raw, self.ended))
            except UnicodeDecodeError as error:
                raise Damaged(f"it is not {self._file.encoding} ({error.reason})") from error
            held += len(pieces[-1])
        self.text = "".join(pieces)

    def next(self) -> str:
        """Step to the next character that is not blank, and return it; nothing at the end."""
        while True:
            self.at = _blank(self.text, self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self.grow()

    def value(self) -> tuple[Any, str, Exception | None]:
        """Return (the next value, its text, what is wrong with it), and step over it.

        Raises:
            Damaged: there is none.
        """
        while True:
            try:
                found, end = _DECODER.raw_decode(self.text, self.at)
                wrong = None
            except (ValueError, RecursionError) as error:
                found, end, wrong = *self._leniently(), error
            # A number at the edge may go on.
            if end and (end < len(self.text) or self.ended):
                text, self.at = self.text[self.at : end], end
                return found, text, wrong
            if self.ended:
                raise Damaged(not_json(wrong) if wrong else "")
            if len(self.text) - self.at > self._file.most:
                raise Damaged(f"it {too_long(self._file)}")
            self.grow()

    def _leniently(self) -> tuple[Any, int]:
        """Control characters in a string spoil an element, whose end is found all the same."""
        try:
            return _LENIENT.raw_decode(self.text, self.at)
        except (ValueError, RecursionError):
            return None, 0


def _blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _elements(file: Opened, window: _Window) -> Iterator[Outcome]:
    if window.next() != "[":
        raise _no_list(file, window)
    window.at += 1
    number = 0
    if window.next() == "]":
        window.at += 1
    else:
        while True:
            number += 1
            window.next()
            yield number, _row(file, *window.value())
            sign = window.next()
            if sign not in (",", "]"):
                raise Damaged("it is not JSON: a comma is missing" if sign else "it ends in the middle of the list")
            window.at += 1
            if sign == "]":
                break
    if window.next():
        raise Damaged("there is more after the end of the list")


def _row(file: Opened, value: Any, text: str, wrong: Exception | None) -> dict[str, Any] | str:
    if len(text) > file.most:
        return too_long(file)
    if "\0" in text:
        return NUL
    if not text.isascii() and _ESCAPED_BYTES.search(text):
        return undecodable(file)
    if wrong is not None:
        return not_json(wrong)
    return checked(file, value, escapes="\\u" in text)


def _no_list(file: Opened, window: _Window) -> DataError:
    while not window.ended and len(window.text) <= file.most:
        window.grow()
    try:
        value = json.loads(window.text)
    except (ValueError, RecursionError) as error:
        return DataError(f"'{file.path}' is not JSON: {error}; one object a line needs --files.format jsonl")
    return DataError(f"'{file.path}' holds {json_kind(value)}, not a list of objects; write it as .jsonl or a list")
