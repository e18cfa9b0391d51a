"""Files damaged at random: every row comes, or a bad one says which do not; nothing hangs or is lost in silence."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
import signal
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard

from hfx import BadRow
from hfx.errors import DataError
from plugins.files_data import files_source

COUNT, GROUP = 300, 80
ROWS = [{"text": f'row-{n:04d}, "a"\nand more, ä{n} ' + "x" * (n % 50), "label": str(n % 3)} for n in range(COUNT)]
MOST_MB = 0.01
"""Megabytes of a line, so that a mutation can exceed them."""


class Whole(NamedTuple):
    """A file's bytes before the damage, and where in them each row lies; nothing of a table."""

    data: bytes
    spans: list[tuple[int, int]]


def joined(pieces: list[bytes], between: bytes, before: bytes = b"", after: bytes = b"") -> Whole:
    spans, at = [], len(before)
    for piece in pieces:
        spans.append((at, at + len(piece)))
        at += len(piece) + len(between)
    return Whole(before + between.join(pieces) + after, spans)


def separated(delimiter: str) -> Whole:
    def line(values: list[str]) -> bytes:
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter, lineterminator="").writerow(values)
        return text.getvalue().encode()

    return joined([line(list(row.values())) for row in ROWS], b"\n", line(["text", "label"]) + b"\n", b"\n")


def parquet(**options: object) -> Whole:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(ROWS)
    pa.parquet.write_table(table, sink, row_group_size=GROUP, data_page_size=2_000, **options)
    return Whole(sink.getvalue(), [])


def arrow(kind: str) -> Whole:
    sink, table = io.BytesIO(), pa.Table.from_pylist(ROWS)
    if kind == "feather":
        pa.feather.write_feather(table, sink, compression="lz4", chunksize=GROUP)
    else:
        with {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}[kind](sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=GROUP)
    return Whole(sink.getvalue(), [])


OBJECTS = [json.dumps(row).encode() for row in ROWS]
TEXT = joined([row["text"].encode() for row in ROWS], b"\n\n")
JSONL = joined(OBJECTS, b"\n", after=b"\n")
JSON = joined(OBJECTS, b", ", b"[", b"]")
CSV, TSV = separated(","), separated("\t")
FILES = {
    "a.txt": TEXT, "a.jsonl": JSONL, "a.json": JSON, "a.csv": CSV, "a.tsv": TSV,
    "snappy.parquet": parquet(), "none.parquet": parquet(compression="none", use_dictionary=False),
    "sums.parquet": parquet(write_page_checksum=True, compression="none"),
    "file.arrow": arrow("file"), "stream.arrow": arrow("stream"), "a.feather": arrow("feather"),
}  # fmt: skip
PLAIN = [name for name, whole in FILES.items() if whole.spans]
PACKERS = {
    ".gz": partial(gzip.compress, mtime=0),
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
PACKED = [(name, suffix) for name in PLAIN for suffix in PACKERS]


class Damage(NamedTuple):
    """A file after the damage, the bytes of the original that it touched, and what took their place."""

    data: bytes
    begin: int
    end: int
    put: int


def damage(data: bytes, rng: random.Random) -> Damage:
    at, size = rng.randrange(len(data)), rng.randrange(1, 200)
    end = min(len(data), at + size)
    kind = rng.choice(["cut", "flip", "nul", "high", "random", "insert", "remove", "twice", "quote", "long", "behind"])
    put = {
        "cut": b"", "remove": b"", "nul": b"\0" * (end - at), "high": b"\xff" * (end - at),
        "random": rng.randbytes(end - at), "insert": rng.randbytes(size), "twice": data[at:end] * 2,
        "flip": bytes([data[at] ^ 1 << rng.randrange(8)]), "quote": b'"', "long": b"x" * 20_000, "behind": b"\0more",
    }[kind]  # fmt: skip
    at = len(data) if kind == "behind" else at
    end = {"cut": len(data), "flip": at + 1, "insert": at, "quote": at, "long": at, "behind": at}.get(kind, end)
    return Damage(data[:at] + put + data[end:], at, end, len(put))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


Outcomes = list[tuple[int, "dict[str, str] | str"]]


def outcomes(make_run, path: Path) -> Outcomes:
    """Read a file; what is wrong with all of it stands for all of its rows."""
    with within(20):
        try:
            found = files_source(make_run, str(path), max_line_mb=MOST_MB).read()
            told = [(row.place.row, row.reason if isinstance(row, BadRow) else row.values) for row in found]
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017  the error is one of two good ends
            return [(1, f"and what follows is lost: {error}")]
    assert all(reason != "" for _, reason in told)
    return told


def kept(found: Outcomes) -> Counter[str]:
    return Counter(json.dumps(list(values.values())) for _, values in found if isinstance(values, dict))


def missing(found: Outcomes) -> list[int]:
    """Return the rows that did not come as they were."""
    rows = kept(found)
    return [n for n, row in enumerate(ROWS) if not rows[json.dumps(list(row.values()))]]


def missing_text(found: Outcomes) -> list[int]:
    rows = {values["text"] for _, values in found if isinstance(values, dict)}
    return [n for n, row in enumerate(ROWS) if row["text"] not in rows]


def check_plain(name: str, whole: Whole, hurt: Damage, found: Outcomes) -> None:
    """What the damage did not touch came, or is inside of what came, or is named."""
    places = [place for place, _ in found]
    assert places == sorted(set(places))
    bad = [(place, begin_of(place, told)) for place, told in found if isinstance(told, str)]
    texts = "\n".join(json.dumps(values) for _, values in found if isinstance(values, dict))
    for n in (missing_text if name == "a.txt" else missing)(found):
        begin, end = whole.spans[n]
        if begin <= hurt.end and hurt.begin <= end:
            continue
        if name == "a.json":
            assert bad
            assert bad[0][0] == 1 or hurt.end <= begin
            continue
        shift = hurt.put - (hurt.end - hurt.begin) if begin >= hurt.end else 0
        first, last = (hurt.data.count(b"\n", 0, edge + shift) + 1 for edge in (begin, end))
        after = {place: next((other for other in places if other > place), 1 << 60) for place, _ in bad}
        covered = any(start <= last and first < after[place] for place, start in bad)
        assert covered or json.dumps(ROWS[n]["text"])[1:-1] in texts, f"row {n} (lines {first} to {last}) is lost"


def check_packed(name: str, whole: Whole, hurt: Damage, found: Outcomes) -> None:
    """The rows that did not come are behind the first place that is named, or lie where damaged bytes were unpacked."""
    gone = (missing_text if name == "a.txt" else missing)(found)
    bad = [begin_of(place, told) for place, told in found if isinstance(told, str)]
    for n in gone:
        assert bad, f"row {n} is lost"
        end = whole.spans[n][1]
        last = n + 1 if name == "a.json" else whole.data.count(b"\n", 0, end) + 1
        spoilt = len(hurt.data) > hurt.begin and end > unpacked_before(hurt)
        assert spoilt or last >= bad[0], f"row {n} (to line {last}) is lost"


def begin_of(place: int, reason: str) -> int:
    paragraph = re.search(r"its paragraph begins at line (\d+)", reason)
    return int(paragraph[1]) if paragraph else place


def unpacked_before(hurt: Damage) -> int:
    packed = hurt.data[: hurt.begin]
    frame = zstandard.ZstdDecompressor().decompressobj() if packed[:1] == b"\x28" else zlib.decompressobj(31)
    return len(frame.decompress(packed))


def check_table(name: str, found: Outcomes) -> None:
    """As many rows came as there were, or are named."""
    count = 0
    for _, told in found:
        if isinstance(told, dict):
            count += 1
        elif "follows is lost" in told or "on of row group" in told:
            return
        elif span := re.search(r"rows (\d+) to (\d+) of row group", told):
            count += int(span[2]) - int(span[1]) + 1
        elif "rest of its record batch" in told:
            return  # nobody knows how many those are
        else:
            count += 1
    assert count >= COUNT, f"{COUNT - count} rows are lost"


def damaged_cases(seeds: range) -> Iterator[tuple[str, int]]:
    for seed in seeds:
        yield from ((name, seed) for name in FILES)
        yield from ((name + suffix, seed) for name, suffix in PACKED)


def check(make_run, folder: Path, name: str, seed: int) -> bool:
    """Damage one file, read it, account for every row; return whether anything was named."""
    rng = random.Random(f"{name} {seed}")
    base, suffix = next(((b, s) for b, s in PACKED if b + s == name), (name, ""))
    whole = FILES[base]
    hurt = damage(PACKERS[suffix](whole.data) if suffix else whole.data, rng)
    path = folder / f"{seed}-{name}"
    path.write_bytes(hurt.data)
    found = outcomes(make_run, path)
    if suffix:
        check_packed(base, whole, hurt, found)
    elif whole.spans:
        check_plain(base, whole, hurt, found)
    else:
        check_table(base, found)
    path.unlink()
    return any(isinstance(told, str) for _, told in found)


def test_whole_files_yield_every_row_and_nothing_else(make_run, tmp_path):
    for name in FILES:
        (tmp_path / name).write_bytes(FILES[name].data)
        found = outcomes(make_run, tmp_path / name)
        assert len(found) == COUNT
        assert not (missing_text if name == "a.txt" else missing)(found)


@pytest.mark.parametrize("name", sorted({name for name, _ in damaged_cases(range(1))}))
def test_damaged_files_lose_no_row_in_silence(make_run, tmp_path, name):
    for seed in range(3):
        check(make_run, tmp_path, name, seed)


@pytest.mark.slow
def test_a_thousand_damaged_files_lose_no_row_in_silence(make_run, tmp_path):
    cases = list(damaged_cases(range(3, 51)))
    assert len(cases) >= 1_000
    named = sum(check(make_run, tmp_path, name, seed) for name, seed in cases)
    assert named > len(cases) // 2
