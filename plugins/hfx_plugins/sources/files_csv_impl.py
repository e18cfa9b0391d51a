"""Readers of CSV and tab-separated files."""

from __future__ import annotations

import csv
import io
import re
import sys
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

_SKIPPED = 1 << 20
_NUL_MARK = "\udc00"
"""Stands for a NUL byte, which spoils its record and not the reader."""
_UNDECODED = re.compile("[\udc80-\udcff]")
_ENDS = ("\n", "\r")
_NO_HEADER = "is no header, so that no row of the file can be read: it "


def comma(file: Opened) -> Iterator[Outcome]:
    """Yield the records of a CSV file whose first record names the columns; values are strings."""
    return _file(file, ",")


def tab(file: Opened) -> Iterator[Outcome]:
    """Yield the records of a tab-separated file."""
    return _file(file, "\t")


def _file(file: Opened, delimiter: str) -> Iterator[Outcome]:
    csv.field_size_limit(sys.maxsize)  # 128 KiB by default, which long documents exceed
    first = 1
    try:
        with opened(file.path) as stream:
            if reason := binary(file, stream):
                yield 1, reason
                return
            lines = _Lines(file, stream)
            try:
                yield from _records(file, lines, csv.reader(lines, delimiter=delimiter, strict=True))
            finally:
                first = lines.first
    except UnicodeDecodeError as error:
        yield first, lost(Damaged(f"it is not {file.encoding} ({error.reason})"))
    except Damaged as error:
        yield first, lost(error)


class _TooLong(Exception):  # noqa: N818  reads as what happened
    """The record that is being read is longer than allowed."""


class _Lines:
    """Lines as `csv` wants them, with where the present record began."""

    def __init__(self, file: Opened, stream: io.BufferedReader) -> None:
        self._file = file
        # Undecodable bytes become lone surrogates, so that they spoil their record and not the reader.
        self._text = io.TextIOWrapper(stream, file.encoding, errors="surrogateescape", newline="")
        self.number, self.first, self._held, self._quotes, self.ended = 0, 1, 0, 0, False

    def begin(self) -> None:
        """A record begins with the next line."""
        self.first, self._held, self._quotes = self.number + 1, 0, 0

    @property
    def opens_a_quote(self) -> bool:
        """Whether the record's lines so far hold an odd number of quotes."""
        return self._quotes % 2 == 1

    def span(self) -> str:
        """Return the record's lines where it has more than one."""
        return f" (lines {self.first} to {self.number})" if self.number > self.first else ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._file.most + 1)
        if not line:
            self.ended = True
            raise StopIteration
        self._count(line)
        if self._held > self._file.most:
            self._skip(line[-1:])
            raise _TooLong
        if self.number == 1:
            line = line.removeprefix("\ufeff")
        return line.replace("\0", _NUL_MARK) if "\0" in line else line

    def _count(self, line: str) -> None:
        self.number += 1
        self._held += len(line)
        self._quotes += line.count('"')

    def _skip(self, end: str) -> None:
        """Pass the rest of a record: up to a line's end outside of quotes."""
        while end not in _ENDS or self.opens_a_quote:
            piece = self._text.readline(_SKIPPED)
            if not piece:
                return
            self.number += end in _ENDS
            self._quotes += piece.count('"')
            end = piece[-1:]


def _records(file: Opened, lines: _Lines, reader: Any) -> Iterator[Outcome]:
    try:
        header = next(reader, None)
    except (csv.Error, _TooLong) as error:
        yield 1, _NO_HEADER + _why(file, lines, error)
        return
    if header is None:
        return
    if bad := _spoilt(file, header):
        yield 1, _NO_HEADER + bad
        return
    _check_header(file, header)
    yield from _body(file, lines, reader, header)


def _check_header(file: Opened, header: list[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or "" in header:
        what = f"names the column '{twice[0]}' twice" if twice and twice[0] else "has a column without a name"
        raise DataError(f"the first line of '{file.path}' {what}; it has to name every column, once")
    file.require(header)


def _body(file: Opened, lines: _Lines, reader: Any, header: list[str]) -> Iterator[Outcome]:
    doubtful = False
    while True:
        lines.begin()
        try:
            record = next(reader)
        except StopIteration:
            return
        except (csv.Error, _TooLong) as error:
            doubtful = True
            yield lines.first, _why(file, lines, error)
            continue
        if not record:
            continue
        # What is left of a record that broke off in the middle may have as many fields as a whole one.
        doubtful = doubtful and lines.opens_a_quote
        outcome = "follows a broken record, and opens or ends a quote" if doubtful else _record(file, header, record)
        yield lines.first, f"{outcome}{lines.span()}" if isinstance(outcome, str) else outcome


def _record(file: Opened, header: list[str], record: list[str]) -> dict[str, Any] | str:
    if len(record) != len(header):
        return f"has {len(record)} fields, the first line names {len(header)}"
    return _spoilt(file, record) or file.select(dict(zip(header, record, strict=True)))


def _spoilt(file: Opened, record: list[str]) -> str:
    for field in record:
        if not field.isascii():
            if _NUL_MARK in field:
                return NUL
            if _UNDECODED.search(field):
                return undecodable(file)
    return ""


def _why(file: Opened, lines: _Lines, error: Exception) -> str:
    if isinstance(error, _TooLong):
        return too_long(file) + lines.span()
    if lines.ended:
        return f"opens a quote that never ends{lines.span()}"
    return f"is not CSV: {error}{lines.span()}"
