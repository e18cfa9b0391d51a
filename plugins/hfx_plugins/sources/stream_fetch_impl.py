"""Fetching the rows of remote files from one row on: what the thread does that reads ahead."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence

from hfx import BadRow, Place, Row
from hfx_plugins.sources.stream_ahead_impl import Sized
from hfx_plugins.sources.stream_find_impl import Remote
from hfx_plugins.sources.stream_formats_impl import LineReader, Reading
from hfx_plugins.sources.stream_lines_impl import Lines, Packed, Plain
from hfx_plugins.sources.stream_marks_impl import BEGIN, Mark, Marks
from hfx_plugins.sources.stream_retry_impl import Bytes
from hfx_plugins.sources.stream_tables_impl import RandomBytes, TableReader
from hfx_plugins.sources.stream_transport_impl import Access, Identity


class Fetcher:
    """Reads files one after the other; `closed` ends it."""

    def __init__(
        self, files: Sequence[Remote], identities: Sequence[Identity], reading: Reading, access: Access, marks: Marks,
        block: int, counts: Counter[str],
    ) -> None:  # fmt: skip
        self.closed = threading.Event()
        self._files, self._identities, self._reading, self._access = files, identities, reading, access
        self._marks, self._block, self._counts = marks, block, counts
        self._open: Bytes | RandomBytes | None = None

    def abort(self) -> None:
        """Make a `read` that waits for the network return."""
        if (opened := self._open) is not None:
            opened.abort()

    def rows(self, start: int) -> Iterator[Sized]:
        """Yield the rows from a number on, each with its size, and mark where blocks begin."""
        mark = self._marks.before(start)
        number = mark.row
        for index in range(mark.file, len(self._files)):
            file = self._files[index]
            reader = self._reader(index, mark if index == mark.file else BEGIN)
            for found in reader.rows():
                if number % self._block == 0:
                    at = reader.point(found.start)
                    self._marks.add(Mark(number, index, at.at, at.skip, found.before, reader.header))
                self._counts["rows"] += 1
                if number >= start:
                    place, outcome = Place(file.source, file.url, found.row), found.outcome
                    row = BadRow(place, outcome) if isinstance(outcome, str) else Row(outcome, place)
                    yield row, reader.size(found)
                else:
                    self._counts["passed"] += 1
                number += 1

    def _reader(self, index: int, mark: Mark) -> LineReader | TableReader:
        file, identity = self._files[index], self._identities[index]
        if self._open is not None:
            self._open.close()
        if file.format == "parquet":
            self._open = table = RandomBytes(file.url, identity, self._access, self.closed)
            return TableReader(table, file.url, self._reading, mark.point)
        self._open = raw = Bytes(file.url, identity, self._access, self.closed, mark.at)
        unpacked = Packed(raw, file.packing) if file.packing else Plain(raw)
        lines = Lines(unpacked, self._reading.most, mark.skip, mark.before)
        return LineReader(file.url, file.format, lines, self._reading, mark.header)
