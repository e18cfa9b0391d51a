"""Rows from files on disk: text, JSON Lines, JSON, CSV, Parquet and Arrow, found by path, folder or glob."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from hfx import Plugin, Rows, hookimpl
from hfx.errors import ConfigError

if TYPE_CHECKING:
    from hfx import Run


class Files(Plugin):
    """Rows from local files, each format told by its suffix.

    `data` is a path, a folder, a glob, or a mapping of names to those. Text (`.txt`, `.md`, `.py`, ...), `.jsonl`,
    `.json`, `.csv`, `.tsv`, `.parquet`, `.arrow`, `.feather` and the folders of `save_to_disk`; `.gz` and `.zst` are
    read through.

    A row with a NUL byte in text, JSON or CSV is bad, and a binary file under such a name is one bad row; `\\u0000` in
    JSON and NUL in a string of Parquet or Arrow are data. A file that breaks off or is damaged ends in a bad row.
    """

    row: Literal["paragraph", "line", "file"] = "paragraph"
    """How plain text becomes rows: blocks separated by blank lines, single lines, or whole files."""
    format: Literal["text", "jsonl", "json", "csv", "tsv", "parquet", "arrow"] | None = None
    """The format of every file; none: told by its suffix."""
    columns: list[str] | None = None
    """The columns to read; none: all of them."""
    encoding: str = "utf-8"
    """The encoding of text, JSON and CSV."""
    max_line_mb: float = Field(default=64.0, gt=0)
    """Megabytes of a line, paragraph, record or whole text above which it is a bad row."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            codecs.lookup(value)
        except LookupError:
            raise ValueError(f"'{value}' is no encoding; try 'utf-8' or 'latin-1'") from None
        return value

    @hookimpl
    def hfx_source(self, split: str, run: Run) -> Rows:
        from hfx_plugins.sources.files_find_impl import find
        from hfx_plugins.sources.files_impl import FileSource

        name = "data" if split == "train" else "eval_data"
        data = run.config.data if split == "train" else run.config.eval_data
        if not data:
            flag = name.replace("_", "-")
            raise ConfigError(f"no '{name}' is given; name a file, a folder or a glob with --{flag} PATH")
        named = data if isinstance(data, dict) else {name: data}
        lists = tuple(find(key, named[key], self.format) for key in sorted(named))
        columns = tuple(self.columns) if self.columns else None
        return Rows(FileSource(lists, self.row, columns, self.encoding, max(1, int(self.max_line_mb * 2**20))))
