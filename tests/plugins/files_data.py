"""Files of the tests of `files`: the same three rows in every format, and a source made of a path."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

from hfx_plugins.sources.files import Files

TABLE = {"text": ["one", "two\nlines", "drei äöü"], "label": [0, 1, 0]}
RECORDS = [{"text": text, "label": label} for text, label in zip(*TABLE.values(), strict=True)]


def files_source(make_run, data, split="train", **options):
    """Return the source that a run with this data has."""
    files = Files(**options)
    fields = {"data": data} if split == "train" else {"data": "unused", "eval_data": data}
    run = make_run(files, **fields)
    return run.hooks.source(split=split, run=run).source


def write_lines(path: Path, records=RECORDS) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_json(path: Path) -> None:
    path.write_text(json.dumps(RECORDS, indent=2))


def write_csv(path: Path, delimiter=",") -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["text", "label"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(RECORDS)


def write_stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, pa.table(TABLE).schema) as writer:
        writer.write_table(pa.table(TABLE), max_chunksize=2)


def write_ipc(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.table(TABLE).schema) as writer:
        writer.write_table(pa.table(TABLE), max_chunksize=2)


TYPED = {
    "a.jsonl": write_lines,
    "a.ndjson": write_lines,
    "a.json": write_json,
    "lines.json": write_lines,
    "a.parquet": lambda path: pa.parquet.write_table(pa.table(TABLE), path, row_group_size=2),
    "a.feather": lambda path: pa.feather.write_feather(pa.table(TABLE), str(path)),
    "file.arrow": write_ipc,
    "stream.arrow": write_stream,
    "dataset": lambda path: datasets.Dataset.from_dict(TABLE).save_to_disk(path, num_shards=2),
}
