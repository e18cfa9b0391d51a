"""Readers of tables: CSV, Parquet and Arrow."""

from __future__ import annotations

import csv
import io
import itertools
import sys
from collections.abc import Iterator
from typing import IO, Any

from hfx.errors import DataError
from hfx_plugins.sources.files_open_impl import Opened, Outcome, opened, undecodable

BATCH = 1024


def comma(file: Opened) -> Iterator[Outcome]:
    """Yield the records of a CSV file whose first record names the columns; values are strings."""
    return _records(file, ",")


def tab(file: Opened) -> Iterator[Outcome]:
    """Yield the records of a tab-separated file."""
    return _records(file, "\t")


def _records(file: Opened, delimiter: str) -> Iterator[Outcome]:
    csv.field_size_limit(sys.maxsize)  # 128 KiB by default, which long documents exceed
    with opened(file.path) as stream:
        # Undecodable bytes become lone surrogates, so that they spoil their record and not the reader.
        decoded = _decoded(file, stream)
        reader = csv.reader(decoded, delimiter=delimiter, strict=True)
        header = next(reader, None)
        if header is None:
            return
        _check_header(file, header)
        yield from _body(file, reader, header)


def _decoded(file: Opened, stream: IO[bytes]) -> Iterator[str]:
    with io.TextIOWrapper(stream, file.encoding, errors="surrogateescape", newline="") as lines:
        yield from itertools.chain([next(lines, "").removeprefix("\ufeff")], lines)


def _check_header(file: Opened, header: list[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or "" in header:
        what = f"names the column '{twice[0]}' twice" if twice and twice[0] else "has a column without a name"
        raise DataError(f"the first line of '{file.path}' {what}; it has to name every column, once")
    file.require(header)


def _body(file: Opened, reader: Any, header: list[str]) -> Iterator[Outcome]:
    while True:
        number = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise DataError(f"'{file.path}:{number}' opens a quote that never ends; close it") from error
            yield number, f"is not CSV: {error}"
            continue
        if record:
            yield number, _record(file, header, record)


def _record(file: Opened, header: list[str], record: list[str]) -> dict[str, Any] | str:
    if len(record) != len(header):
        return f"has {len(record)} fields, the first line names {len(header)}"
    if any("\udc80" <= character <= "\udcff" for field in record if not field.isascii() for character in field):
        return undecodable(file)
    return file.select(dict(zip(header, record, strict=True)))


def parquet(file: Opened) -> Iterator[Outcome]:
    """Yield the rows of a Parquet file, a batch at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file.path, memory_map=True) as table:
            file.require(table.schema_arrow.names)
            batches = table.iter_batches(BATCH, columns=list(file.columns) if file.columns else None)
            yield from _numbered(file, batches)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise DataError(f"'{file.path}' cannot be read as Parquet: {error}; repair or leave out that file") from error


def arrow(file: Opened) -> Iterator[Outcome]:
    """Yield the rows of an Arrow file, of the file format (Feather) or the stream format (`datasets`)."""
    import pyarrow

    try:
        with pyarrow.memory_map(file.path) as stream:
            start = stream.read(6)
            stream.seek(0)
            if start == b"ARROW1":
                table = pyarrow.ipc.open_file(stream)
                batches = (table.get_batch(index) for index in range(table.num_record_batches))
            else:
                table = pyarrow.ipc.open_stream(stream)
                batches = iter(table)
            file.require(table.schema.names)
            yield from _numbered(file, batches)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise DataError(f"'{file.path}' cannot be read as Arrow: {error}; repair or leave out that file") from error


def _numbered(file: Opened, batches: Iterator[Any]) -> Iterator[Outcome]:
    number = 0
    for batch in batches:
        chosen = batch.select(list(file.columns)) if file.columns else batch
        for start in range(0, len(chosen), BATCH):
            for values in chosen.slice(start, BATCH).to_pylist():
                number += 1
                yield number, values
