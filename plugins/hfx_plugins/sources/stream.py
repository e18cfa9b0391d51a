"""Rows from files anywhere, read as they come and never stored whole: http, s3, gcs, hf, local."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from hfx import Plugin, Rows, hookimpl
from hfx.errors import ConfigError

if TYPE_CHECKING:
    from hfx import Run

Argument = str | int | float | bool
_SECRET = re.compile(
    r"pass|pwd|secret|token|key|auth|credential|signature|cookie|connection_?str|\bsas\b", re.IGNORECASE
)
_WITH_SECRET = re.compile(r"(key|signature|passw(or)?d|pwd|secret|token)\s*=|://[^/@:]*:[^/@]+@", re.IGNORECASE)


class Stream(Plugin):
    """Rows from files over http(s), s3, gcs, hf:// or on disk, read in blocks ahead of need and never stored whole.

    `data` is an address, a glob (`s3://bucket/*.jsonl`), a range (`https://host/part-{000..099}.jsonl.gz`), or a
    mapping of names to those. Text, `.jsonl`, `.csv` and `.tsv`, each also as `.gz` or `.zst`, and `.parquet`.
    """

    block: int = Field(default=10_000, ge=1)
    """Rows that are prepared at a time, and within which samplers mix."""
    row: Literal["paragraph", "line", "file"] = "paragraph"
    """How plain text becomes rows: blocks separated by blank lines, single lines, or whole files."""
    format: Literal["text", "jsonl", "csv", "tsv", "parquet"] | None = None
    """The format of every file; none: told by its suffix."""
    columns: list[str] | None = None
    """The columns to read; none: all of them."""
    encoding: str = "utf-8"
    """The encoding of text, JSON and CSV, one that writes a line's end as one byte."""
    retry_minutes: float = Field(default=10.0, ge=0)
    """Minutes for which what fails (timeouts, cut connections, 429, 5xx) is tried again before the run gives up."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds without data (or with less than 100 bytes a second) after which a connection is opened anew."""
    max_line_mb: float = Field(default=64.0, gt=0)
    """Megabytes of a line or record above which it is a bad row."""
    read_ahead_mb: float = Field(default=64.0, gt=0)
    """Megabytes of rows that are read ahead in the background."""
    headers: dict[str, str] = Field(default={})
    """Headers of http requests; secrets as `env:NAME`."""
    storage: dict[str, Argument] = Field(default={})
    """Options of the fsspec file system (`anon`, `endpoint_url`, `token`, ...); secrets as `env:NAME`."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            codecs.lookup(value)
        except LookupError:
            raise ValueError(f"'{value}' is no encoding; try 'utf-8' or 'latin-1'") from None
        if "\n".encode(value) != b"\n":
            raise ValueError(f"lines of '{value}' cannot be found in a stream; write the files as utf-8")
        return value

    @field_validator("headers", "storage")
    @classmethod
    def _no_secrets(cls, value: dict[str, Argument]) -> dict[str, Argument]:
        for name, given in value.items():
            secret = _SECRET.search(name) or _WITH_SECRET.search(str(given))
            if secret and isinstance(given, str) and not given.startswith("env:"):
                raise ValueError(f"'{name}' is a secret; put it into an environment variable, give 'env:NAME'")
        return value

    @hookimpl
    def hfx_source(self, split: str, run: Run) -> Rows:
        from hfx_plugins.sources.stream_find_impl import find
        from hfx_plugins.sources.stream_formats_impl import Reading
        from hfx_plugins.sources.stream_impl import StreamSource
        from hfx_plugins.sources.stream_transport_impl import Access

        name = "data" if split == "train" else "eval_data"
        data = run.config.data if split == "train" else run.config.eval_data
        if not data:
            flag = name.replace("_", "-")
            raise ConfigError(f"no '{name}' is given; name an address, a file or a glob with --{flag} ADDRESS")
        access = Access(self.timeout, self.retry_minutes * 60, tuple(self.headers.items()), tuple(self.storage.items()))
        files = find(data if isinstance(data, dict) else {name: data}, self.format, access)
        reading = Reading(
            self.row, tuple(self.columns) if self.columns else None, self.encoding, int(self.max_line_mb * 2**20)
        )
        places = (run.cache / "stream", run.output / "stream")
        source = StreamSource(files, reading, access, self.block, int(self.read_ahead_mb * 2**20), places)
        return Rows(run.enter(source), block=self.block)
