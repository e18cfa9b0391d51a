"""The source that reads files one after the other."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hfx import BadRow, Place, Row
from hfx_plugins.sources import files_csv_impl as separated
from hfx_plugins.sources import files_tables_impl as tables
from hfx_plugins.sources import files_text_impl as plain
from hfx_plugins.sources.files_json_impl import json_list
from hfx_plugins.sources.files_list_impl import FileList, content_hash
from hfx_plugins.sources.files_open_impl import MOST, Opened, Outcome

READERS: dict[str, Callable[[Opened], Iterator[Outcome]]] = {
    "text": plain.text, "jsonl": plain.jsonl, "json": json_list, "csv": separated.comma, "tsv": separated.tab,
    "parquet": tables.parquet, "arrow": tables.arrow, "dataset": tables.arrow,
}  # fmt: skip
VERSION = 2
"""Raised when a reader yields something else than before."""


@dataclass
class FileSource:
    """The rows of files, in the files' order."""

    lists: tuple[FileList, ...]
    row: str
    columns: tuple[str, ...] | None
    encoding: str
    most: int = MOST
    """Bytes of a line, paragraph or record."""
    indexed: bool = True

    def fingerprint(self) -> str:
        """Return a hash of names, sizes, contents and of how they are read; not of times or of where they lie."""
        return content_hash(self.lists, [VERSION, self.row, self.columns, self.encoding, self.most])

    def read(self, start: int = 0) -> Iterator[Row | BadRow]:
        """Yield the rows of all files, from the row with this number on."""
        if self._a_row_each():
            return self._rows(start)
        return itertools.islice(self._rows(), start, None)

    def formats(self) -> dict[str, int]:
        """Return how many files there are of each format."""
        return dict(sorted(sum((files.counts() for files in self.lists), Counter[str]()).items()))

    def summary(self) -> str:
        """Return one line: files by format and their size."""
        count, size = sum(map(len, self.lists)), sum(files.size for files in self.lists)
        kinds = ", ".join(f"{number} {self._kind(kind)}" for kind, number in self.formats().items())
        return f"{count} {'file' if count == 1 else 'files'} ({kinds}), {size / 1e6:.1f} MB"

    def _kind(self, kind: str) -> str:
        return f"text by {self.row}" if kind == "text" else kind

    def _a_row_each(self) -> bool:
        return self.row == "file" and set(self.formats()) == {"text"}

    def _rows(self, skip: int = 0) -> Iterator[Row | BadRow]:
        for file in itertools.islice(itertools.chain.from_iterable(self.lists), skip, None):
            for part in file.parts():
                reading = Opened(part, self.row, self.columns, self.encoding, self.most)
                for number, outcome in READERS[file.format](reading):
                    place = Place(file.source, part, number)
                    yield BadRow(place, outcome) if isinstance(outcome, str) else Row(outcome, place)
