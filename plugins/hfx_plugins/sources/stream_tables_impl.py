"""The rows of a Parquet file that lies elsewhere: its footer, then one row group after the other, by ranges."""

from __future__ import annotations

import bisect
import io
import itertools
import threading
from collections.abc import Iterator
from typing import Any

from hfx.errors import DataError
from hfx_plugins.sources.stream_formats_impl import Found, Reading
from hfx_plugins.sources.stream_lines_impl import Point
from hfx_plugins.sources.stream_retry_impl import Bytes
from hfx_plugins.sources.stream_transport_impl import Access, Identity

BATCH = 1_000


class RandomBytes(io.RawIOBase):
    """A remote file that can be read anywhere, a request a time; Arrow asks for large pieces."""

    def __init__(self, url: str, identity: Identity, access: Access, closed: threading.Event) -> None:
        if identity.size is None or not identity.ranges:
            raise DataError(
                f"'{url}' is Parquet, and its server serves no parts of a file; put it on one that does, or use .jsonl"
            )
        self._url, self._identity, self._access, self._closed = url, identity, access, closed
        self._size, self._at = identity.size, 0
        self._stretch: Bytes | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def abort(self) -> None:
        """Make a waiting `read` of another thread return."""
        if (stretch := self._stretch) is not None:
            stretch.abort()

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._size, self._at + size)
        parts: list[bytes] = []
        self._stretch = stretch = Bytes(self._url, self._identity, self._access, self._closed, self._at, stop)
        try:
            while data := stretch.read():
                parts.append(data)
        finally:
            stretch.close()
        found = b"".join(parts)
        self._at += len(found)
        return found


class TableReader:
    """The rows of one Parquet file, from a row of a row group on."""

    header: list[str] | None = None

    def __init__(self, file: RandomBytes, path: str, reading: Reading, at: Point) -> None:
        self._bytes, self._file, self._at = file, reading.of(path), at
        self._starts = [0]
        self._row_size = 0

    def point(self, start: int) -> Point:
        """Return the row group that holds the row with this index, and the row's place in it."""
        group = bisect.bisect_right(self._starts, start) - 1
        return Point(group, start - self._starts[group])

    def size(self, _: Found) -> int:
        """Return about how many bytes a row of the present row group has."""
        return self._row_size

    def rows(self) -> Iterator[Found]:
        """Yield the rows; what cannot be read of a row group is one bad row."""
        import pyarrow
        import pyarrow.parquet

        damage = (pyarrow.ArrowException, UnicodeDecodeError, OSError)
        try:
            table = pyarrow.parquet.ParquetFile(self._bytes)
        except damage as error:
            yield Found(1, 0, 0, f"and what follows is lost: the file is no readable Parquet ({_one_line(error)})")
            return
        with table:
            self._file.require(table.schema_arrow.names)
            groups = [table.metadata.row_group(group) for group in range(table.num_row_groups)]
            self._starts = [0, *itertools.accumulate(group.num_rows for group in groups)]
            for group in range(self._at.at, len(groups)):
                self._row_size = groups[group].total_byte_size // max(1, groups[group].num_rows)
                skip = self._at.skip if group == self._at.at else 0
                yield from self._group(table, group, skip, damage)

    def _group(self, table: Any, group: int, skip: int, damage: tuple[type[Exception], ...]) -> Iterator[Found]:
        begin, end = self._starts[group], self._starts[group + 1]
        columns = list(self._file.columns) if self._file.columns else None
        done = 0
        try:
            for batch in table.iter_batches(BATCH, row_groups=[group], columns=columns):
                wanted = batch.slice(min(len(batch), max(0, skip - done))).to_pylist()
                first = begin + done + len(batch) - len(wanted)
                done += len(batch)
                for index, values in enumerate(wanted, start=first):
                    yield Found(index + 1, index, index, values)
        except damage as error:
            at = begin + done
            what = f"and {end - at - 1} more rows of row group {group} cannot be read: {_one_line(error)}"
            yield Found(at + 1, at, at, what)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
