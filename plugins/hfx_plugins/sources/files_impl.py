"""The source that reads files one after the other."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hfx import BadRow, Place, Row
from hfx_plugins.sources import files_tables_impl as tables
from hfx_plugins.sources import files_text_impl as plain
from hfx_plugins.sources.files_find_impl import File
from hfx_plugins.sources.files_open_impl import Opened, Outcome

READERS: dict[str, Callable[[Opened], Iterator[Outcome]]] = {
    "text": plain.text, "jsonl": plain.jsonl, "json": plain.json_list, "csv": tables.comma, "tsv": tables.tab,
    "parquet": tables.parquet, "arrow": tables.arrow, "dataset": tables.arrow,
}  # fmt: skip
VERSION = 1
"""Raised when a reader yields something else than before."""


@dataclass
class FileSource:
    """The rows of files, in the files' order."""

    files: tuple[File, ...]
    row: str
    columns: tuple[str, ...] | None
    encoding: str
    indexed: bool = True

    def fingerprint(self) -> str:
        """Return a hash of names, sizes, contents and of how they are read; not of times or of where they lie."""
        digest = hashlib.sha256(json.dumps([VERSION, self.row, self.columns, self.encoding]).encode())
        for file in self.files:
            digest.update(json.dumps([file.source, file.relative, file.format, file.size(), file.hash()]).encode())
        return digest.hexdigest()

    def read(self, start: int = 0) -> Iterator[Row | BadRow]:
        """Yield the rows of all files, from the row with this number on."""
        return itertools.islice(self._rows(), start, None)

    def formats(self) -> dict[str, int]:
        """Return how many files there are of each format."""
        return dict(sorted(Counter(file.format for file in self.files).items()))

    def summary(self) -> str:
        """Return one line: files by format and their size."""
        size = sum(file.size() for file in self.files)
        kinds = ", ".join(f"{count} {self._kind(kind)}" for kind, count in self.formats().items())
        return f"{len(self.files)} {'file' if len(self.files) == 1 else 'files'} ({kinds}), {size / 1e6:.1f} MB"

    def _kind(self, kind: str) -> str:
        return f"text by {self.row}" if kind == "text" else kind

    def _rows(self) -> Iterator[Row | BadRow]:
        for file in self.files:
            for part in file.parts():
                reading = Opened(part, self.row, self.columns, self.encoding)
                for number, outcome in READERS[file.format](reading):
                    place = Place(file.source, part, number)
                    yield BadRow(place, outcome) if isinstance(outcome, str) else Row(outcome, place)
