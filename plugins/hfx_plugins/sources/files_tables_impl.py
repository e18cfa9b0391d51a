"""Readers of tables: Parquet and Arrow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from hfx.errors import DataError
from hfx_plugins.sources.files_open_impl import Opened, Outcome, lost, unreadable

BATCH = 1024
_END = b"\xff\xff\xff\xff\0\0\0\0"
"""What a writer puts behind the last batch of an Arrow stream when it closes the file."""


def _damage() -> tuple[type[Exception], ...]:
    import pyarrow

    # Values that Python does not hold (a year of 300,000) are errors of value or overflow.
    return (pyarrow.ArrowException, OSError, ValueError, OverflowError)


def _refused(file: Opened, error: Exception) -> DataError | None:
    return unreadable(file.path, error) if isinstance(error, OSError) and error.errno else None


def parquet(file: Opened) -> Iterator[Outcome]:
    """Yield the rows of a Parquet file, a batch at a time; of a broken row group, those before the broken place.

    Raises:
        DataError: a column asked for is missing.
    """
    import pyarrow.parquet

    damage = _damage()
    try:
        # Checksums of pages are optional in the format, and no default of any writer.
        table = pyarrow.parquet.ParquetFile(file.path, memory_map=True, page_checksum_verification=True)
    except damage as error:
        if refused := _refused(file, error):
            raise refused from error
        yield 1, lost(ValueError(f"it cannot be read as Parquet ({error})"))
        return
    with table:
        file.require(table.schema_arrow.names)
        sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
        starts = [0, *itertools.accumulate(sizes)]
        for group, size in enumerate(sizes):
            yield from _row_group(file, table, group, starts[group], size)
        if starts[-1] != table.metadata.num_rows:
            yield (
                starts[-1] + 1,
                lost(ValueError(f"its row groups hold {starts[-1]} of {table.metadata.num_rows} rows")),
            )


def _row_group(file: Opened, table: Any, group: int, before: int, size: int) -> Iterator[Outcome]:
    number = before
    try:
        columns = list(file.columns) if file.columns else None
        for batch in table.iter_batches(BATCH, row_groups=[group], columns=columns):
            for values in _rows(batch, validated=False):
                number += 1
                yield number, values
    except _damage() as error:
        why = " ".join(str(error).split())
    else:
        why = "it ends too early"
    if missing := before + size - number:
        span = f"{number + 1} to {before + size}" if missing > 0 else f"from {before + size + 1} on"
        yield number + 1, f"cannot be read, rows {span} of row group {group}: {why}"


def arrow(file: Opened) -> Iterator[Outcome]:
    """Yield the rows of an Arrow file, of the file format (Feather) or the stream format (`datasets`).

    Raises:
        DataError: a column asked for is missing.
    """
    import pyarrow

    number, damage = 0, _damage()
    try:
        with pyarrow.memory_map(file.path) as stream:
            start = stream.read(6)
            stream.seek(0)
            for number, outcome in _numbered(file, stream, packed=start == b"ARROW1"):
                yield number, outcome
    except damage as error:
        if refused := _refused(file, error):
            raise refused from error
        yield number + 1, lost(ValueError(f"it cannot be read as Arrow ({error})"))


def _numbered(file: Opened, stream: Any, packed: bool) -> Iterator[Outcome]:
    number = 0
    for batch in (_indexed if packed else _streamed)(file, stream):
        reason = batch if isinstance(batch, str) else _invalid(batch)
        if reason:
            number += 1
            yield number, f"cannot be read, with the rest of its record batch: {reason}"
            continue
        for values in _rows(batch):
            number += 1
            yield number, values


def _indexed(file: Opened, stream: Any) -> Iterator[Any]:
    """Yield the batches that the end of the file lists, or why one cannot be read."""
    import pyarrow

    table = pyarrow.ipc.open_file(stream)
    file.require(table.schema.names)
    for index in range(table.num_record_batches):
        try:
            batch = table.get_batch(index)
        except _damage() as error:
            yield " ".join(str(error).split())
        else:
            yield _chosen(file, batch)
    inside = _count_inside(stream)
    if inside > table.num_record_batches:
        raise ValueError(f"its end lists {table.num_record_batches} of {inside} record batches")


def _count_inside(stream: Any) -> int:
    import pyarrow

    stream.seek(8)  # behind the magic word, the file is laid out like a stream
    count = 0
    try:
        for message in pyarrow.ipc.MessageReader.open_stream(stream):
            count += message.type == "record batch"
    except _damage():  # whoever loads that batch says so
        pass
    return count


def _streamed(file: Opened, stream: Any) -> Iterator[Any]:
    import pyarrow

    marked = stream.read(4) == _END[:4]  # not so before Arrow 0.15
    stream.seek(0)
    table = pyarrow.ipc.open_stream(stream)
    file.require(table.schema.names)
    for batch in table:
        yield _chosen(file, batch)
    at, size = stream.tell(), stream.size()
    if at < size:
        raise ValueError(f"there is more behind the mark of its end, from byte {at} on")
    stream.seek(max(0, at - len(_END)))
    if marked and stream.read(len(_END)) != _END:
        raise ValueError("it ends without the mark of its end")


def _chosen(file: Opened, batch: Any) -> Any:
    return batch.select(list(file.columns)) if file.columns else batch


def _invalid(batch: Any) -> str:
    """Say what is wrong with a batch whose buffers are too short for it: reading those would end the process."""
    try:
        batch.validate()
    except _damage() as error:
        return " ".join(str(error).split())
    return ""


def _rows(batch: Any, validated: bool = True) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of a batch; one that holds what cannot be read is a reason."""
    for start in range(0, len(batch), BATCH):
        part = batch.slice(start, BATCH)
        try:
            if validated:
                part.validate(full=True)
            values = part.to_pylist()
        except _damage():
            values = [_row(part.slice(index, 1), validated) for index in range(len(part))]
        yield from values


def _row(part: Any, validated: bool) -> dict[str, Any] | str:
    try:
        if validated:
            part.validate(full=True)
        values: dict[str, Any] = part.to_pylist()[0]
    except _damage() as error:
        return f"holds what cannot be read: {' '.join(str(error).split())}"
    return values
