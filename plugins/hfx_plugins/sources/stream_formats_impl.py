"""Readers of formats in a stream: rows, each with where it is and from where it can be read again."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from hfx.errors import DataError
from hfx_plugins.sources.files_open_impl import Opened
from hfx_plugins.sources.files_text_impl import json_object
from hfx_plugins.sources.stream_lines_impl import Damaged, Lines, Point


class Found(NamedTuple):
    """A row as it was found in a file."""

    row: int
    """Its line, or its number in a table, from 1."""
    start: int
    """The byte where it begins, since the start of reading; of a table the row's index."""
    before: int
    """Lines or rows before it."""
    outcome: dict[str, Any] | str
    """Its values, or why it is bad."""


@dataclass(frozen=True)
class Reading:
    """How rows are read, whatever file they are in."""

    row: str
    columns: tuple[str, ...] | None
    encoding: str
    most: int
    """Bytes of a row."""

    def of(self, path: str) -> Opened:
        """Return the same for one file."""
        return Opened(path, self.row, self.columns, self.encoding)


class LineReader:
    """The rows of one file that is made of lines."""

    def __init__(self, path: str, kind: str, lines: Lines, reading: Reading, header: list[str] | None = None) -> None:
        self.header = header
        self._file, self._lines, self._most, self._kind = reading.of(path), lines, reading.most, kind
        self._encoding = reading.encoding

    def point(self, start: int) -> Point:
        """Return from where to read the row that begins at a byte."""
        return self._lines.point(start)

    def size(self, found: Found) -> int:
        """Return how many bytes the row has that was just found."""
        return self._lines.end - found.start

    def rows(self) -> Iterator[Found]:
        """Yield the rows; a file that breaks off ends in a bad one."""
        try:
            yield from self._readers()[self._kind]()
        except Damaged as error:
            lost = f"and what follows is lost: the file {error}"
            yield Found(self._lines.number + 1, self._lines.end, self._lines.number, lost)

    def _readers(self) -> dict[str, Callable[[], Iterator[Found]]]:
        text = {"paragraph": self._paragraphs, "line": self._text_lines, "file": self._whole}[self._file.row]
        return {"jsonl": self._jsonl, "text": text, "csv": self._records, "tsv": self._records}

    def _decoded(self) -> Iterator[tuple[str, str | None]]:
        """Yield (text, why it is bad) of each line."""
        for line in self._lines:
            if line is None:
                yield "", self._too_long()
                continue
            if b"\0" in line:
                yield "", "holds NUL bytes, which are no text"
                continue
            raw = line.removeprefix(b"\xef\xbb\xbf") if self._lines.number == 1 else line
            try:
                yield raw.decode(self._encoding), None
            except UnicodeDecodeError:
                yield "", f"is not {self._encoding}; give --stream.encoding if the file is in another one"

    def _too_long(self) -> str:
        return f"is longer than {self._most / 2**20:g} MB; raise stream.max_line_mb if that is right"

    def _jsonl(self) -> Iterator[Found]:
        lines = self._lines
        for text, bad in self._decoded():
            if bad is not None:
                yield Found(lines.number, lines.start, lines.number - 1, bad)
            elif text.strip():
                yield Found(lines.number, lines.start, lines.number - 1, json_object(self._file, text))

    def _text_lines(self) -> Iterator[Found]:
        lines = self._lines
        for text, bad in self._decoded():
            if bad is not None:
                yield Found(lines.number, lines.start, lines.number - 1, bad)
            elif text.strip():
                yield Found(lines.number, lines.start, lines.number - 1, {"text": text.rstrip("\r\n")})

    def _paragraphs(self) -> Iterator[Found]:
        for found in self._blocks(lambda text: not text.strip()):
            if isinstance(found.outcome, dict):
                found.outcome["text"] = found.outcome["text"].removesuffix("\n")
            yield found

    def _whole(self) -> Iterator[Found]:
        yield from self._blocks(lambda _: False)

    def _blocks(self, ends: Callable[[str], bool]) -> Iterator[Found]:
        lines = self._lines
        block: list[str] = []
        size, first, start, reason, at = 0, 0, 0, "", 0
        for text, bad in self._decoded():
            blank = bad is None and ends(text)
            if not blank and not block and not reason:
                first, start = lines.number, lines.start
            size += 0 if blank else lines.end - lines.start
            if bad is None and size > self._most:
                bad = self._too_long()
            if bad is not None and not reason:
                reason, at, block = bad, lines.number, []
            elif not blank and not reason:
                block.append(text.replace("\r\n", "\n"))
            if blank and (block or reason):
                yield Found(at if reason else first, start, first - 1, reason or {"text": "".join(block)})
                block, size, reason = [], 0, ""
        if block or reason:
            yield Found(at if reason else first, start, first - 1, reason or {"text": "".join(block)})

    # ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _records(self) -> Iterator[Found]:
        csv.field_size_limit(sys.maxsize)
        feed = _Feed(self)
        reader = csv.reader(feed, delimiter="," if self._kind == "csv" else "\t", strict=True)
        if self.header is None:
            try:
                self.header = _header(self._file, next(reader, None))
            except (_Bad, csv.Error) as error:
                yield Found(1, 0, 0, f"is no header, so that no row of the file can be read: {error}")
                return
        if self.header == []:
            yield Found(1, 0, 0, "is empty and has to name the columns, so that no row of the file can be read")
            return
        while self.header is not None:
            feed.begin()
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if feed.ended:
                    yield Found(*feed.place(), "opens a quote that never ends")
                    return
                yield Found(*feed.place(), f"is not CSV: {error}")
            except _Bad as error:
                # What the reader holds of the record is spoilt with it.
                reader = csv.reader(feed, delimiter="," if self._kind == "csv" else "\t", strict=True)
                yield Found(*feed.place(), str(error))
            else:
                if record:
                    yield Found(*feed.place(), _record(self._file, self.header, record))


class _Bad(Exception):  # noqa: N818  reads as what happened
    """The record that is being read cannot be."""


class _Feed:
    """Lines as `csv` wants them, with where the present record began."""

    def __init__(self, reader: LineReader) -> None:
        self._lines, self._decoded, self._most = reader._lines, reader._decoded(), reader._most
        self._too_long = reader._too_long()
        self._first, self._start = 0, 0
        self.ended = False

    def begin(self) -> None:
        """A record begins with the next line."""
        self._first, self._start = self._lines.number + 1, self._lines.end

    def place(self) -> tuple[int, int, int]:
        """Return the record's line, its first byte, and the lines before it."""
        return self._first, self._start, self._first - 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            text, bad = next(self._decoded)
        except StopIteration:
            self.ended = True
            raise
        if bad is None and self._lines.end - self._start > self._most:
            bad = f"opens a quote that does not end, or {self._too_long}"
        if bad is not None:
            raise _Bad(bad)
        return text


def _header(file: Opened, header: list[str] | None) -> list[str] | None:
    if not header:
        return header
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or "" in header:
        what = f"names the column '{twice[0]}' twice" if twice and twice[0] else "has a column without a name"
        raise DataError(f"the first line of '{file.path}' {what}; it has to name every column, once")
    file.require(header)
    return header


def _record(file: Opened, header: list[str], record: list[str]) -> dict[str, Any] | str:
    if len(record) != len(header):
        return f"has {len(record)} fields, the first line names {len(header)}"
    return file.select(dict(zip(header, record, strict=True)))
