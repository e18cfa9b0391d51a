"""Data and YAML of somebody who means harm."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from artefacts import DEEP, Artefact, Place


def _data(name: str, *more: str) -> Callable[[Place], Sequence[str]]:
    return lambda place: place.reading(place.write(name, place.payload()), *more)


def _extension(kind: str) -> Callable[[Place], Sequence[str]]:
    """Make a table with the column type that once unpickled its own metadata (CVE-2023-47248)."""

    def make(place: Place) -> Sequence[str]:
        import pyarrow
        import pyarrow.parquet

        marks = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": place.payload()}
        column = pyarrow.field("text", pyarrow.string(), metadata=marks)
        pandas = {b"pandas": place.payload(), b"huggingface": place.payload()}
        table = pyarrow.table([["one", "two"]], schema=pyarrow.schema([column], metadata=pandas))
        path = place.folder / f"rows.{kind}"
        if kind == "parquet":
            pyarrow.parquet.write_table(table, path)
        else:
            with pyarrow.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        return place.reading(str(path))

    return make


def _parquet_of(footer: int) -> Callable[[Place], Sequence[str]]:
    return lambda place: place.reading(
        place.write("rows.parquet", b"PAR1" + bytes(64) + struct.pack("<I", footer) + b"PAR1")
    )


def _gzip_bomb(place: Place) -> Sequence[str]:
    path = place.folder / "rows.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(b'{"text": "')
        for _ in range(1024):
            file.write(bytes([97]) * (1 << 20))
    return place.reading(str(path))


def _zstd_bomb(place: Place) -> Sequence[str]:
    import zstandard

    path = place.folder / "rows.txt.zst"
    with path.open("wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as packed:
        for _ in range(1024):
            packed.write(bytes([97]) * (1 << 20))
    return place.reading(str(path))


def _window(place: Place) -> Sequence[str]:
    frame = struct.pack("<I", 0xFD2FB528) + bytes([0x00, 0xFF]) + bytes(32)
    return place.reading(place.write("rows.txt.zst", frame))


def _slip(place: Place) -> Sequence[str]:
    path = place.folder / "rows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"../{place.canary.name}", "x")
        archive.writestr(str(place.canary), "x")
    return place.reading(str(path))


def _saved_elsewhere(place: Place) -> Sequence[str]:
    import pyarrow

    secret = place.folder / "elsewhere" / "secret.arrow"
    secret.parent.mkdir()
    table = pyarrow.table({"text": ["nobody may see this"]})
    with pyarrow.ipc.new_stream(secret, table.schema) as writer:
        writer.write_table(table)
    place.write("saved/dataset_info.json", "{}")
    place.write("saved/state.json", json.dumps({"_data_files": [{"filename": "../elsewhere/secret.arrow"}]}))
    return place.reading(str(place.folder / "saved"))


def _deep_saved(place: Place) -> Sequence[str]:
    place.write("saved/dataset_info.json", "{}")
    place.write("saved/state.json", DEEP)
    return place.reading(str(place.folder / "saved"))


def _loop_of_links(place: Place) -> Sequence[str]:
    folder = place.folder / "rows"
    folder.mkdir()
    (folder / "again").symlink_to(folder)
    (folder / "self.jsonl").symlink_to(folder / "self.jsonl")
    return place.reading(str(folder))


def _hub(spoil: Callable[[Place, Path], None]) -> Callable[[Place], Sequence[str]]:
    """Make a folder that the plugin `hub` reads as a data set."""

    def make(place: Place) -> Sequence[str]:
        folder = place.folder / "rows"
        folder.mkdir()
        spoil(place, folder)
        return ("data", "stats", "--plugin", "hub", "--data", str(folder), "--hub.retry-minutes", "0")

    return make


def _script(place: Place, folder: Path) -> None:
    (folder / "rows.py").write_text(place.code())
    (folder / "train.jsonl").write_text('{"text": "some words"}\n')


def _only_script(place: Place, folder: Path) -> None:
    (folder / "rows.py").write_text(place.code())


def _card(place: Place, folder: Path) -> None:
    (folder / "README.md").write_text(f"---\nconfigs: {place.tagged()}\n---\n")
    (folder / "train.jsonl").write_text('{"text": "some words"}\n')


def _pickled_rows(place: Place, folder: Path) -> None:
    for name in ("train.pkl", "train-0.parquet"):
        (folder / name).write_bytes(place.payload())


def _slipping_zip(place: Place, folder: Path) -> None:
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        archive.writestr("train.jsonl", '{"text": "some words"}\n')
        for name in (f"../../../../../../{place.canary}", str(place.canary), f"../{place.canary.name}"):
            archive.writestr(name, "x")


def _slipping_tar(place: Place, folder: Path) -> None:
    with tarfile.open(folder / "train.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(place.canary.parent)
        archive.addfile(link)
        for name in (f"out/{place.canary.name}", str(place.canary), f"../../{place.canary.name}"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            archive.addfile(entry, io.BytesIO(b"x"))


def _object_array(place: Place) -> Sequence[str]:
    weights = place.write("weights.npy", place.objects())
    return place.training(place.model, "--plugin", "weighted", "--weighted.file", weights)


DATA = [
    *(
        Artefact(f"a pickle under the name of {name}", _data(f"rows.{name}"))
        for name in ("jsonl", "json", "csv", "tsv", "txt", "parquet", "arrow", "feather", "jsonl.gz", "csv.zst")
    ),
    Artefact("a pickle with a suffix that nobody knows", _data("rows.pkl")),
    Artefact("a pickle that is streamed", _data("rows.jsonl", "--plugin", "stream")),
    Artefact("a Parquet column whose type is a pickle is read as plain text", _extension("parquet"), codes=(0,)),
    Artefact("an Arrow column whose type is a pickle is read as plain text", _extension("arrow"), codes=(0,)),
    Artefact("a Parquet footer of 2 GB", _parquet_of(2**31 - 1)),
    Artefact("a Parquet footer of 4 GB", _parquet_of(2**32 - 1)),
    Artefact("JSON nested a hundred thousand deep", lambda place: place.reading(place.write("rows.jsonl", DEEP))),
    Artefact("a JSON list nested deep", lambda place: place.reading(place.write("rows.json", "[" + '{"a":' * 50_000))),
    Artefact("a gzip file that unpacks to a line of 1 GB", _gzip_bomb, alone=True),
    Artefact("a zstd file that unpacks to a paragraph of 1 GB", _zstd_bomb, alone=True),
    Artefact("a zstd frame that asks for a window of terabytes", _window, alone=True),
    Artefact("an archive whose members lie outside of it is not unpacked", _slip),
    Artefact("a saved data set that names a file outside of its folder", _saved_elsewhere, says="outside"),
    Artefact("a saved data set whose state is nested deep", _deep_saved),
    Artefact("a folder of links that lead back to it", _loop_of_links),
    Artefact("a data set of the hub with a script beside its rows", _hub(_script)),
    Artefact("a data set of the hub that is a script", _hub(_only_script)),
    Artefact("a data set of the hub whose card has a tag of Python", _hub(_card)),
    Artefact("a data set of the hub of pickles", _hub(_pickled_rows)),
    Artefact("a zip of the hub whose members lie outside of it", _hub(_slipping_zip), codes=(0, 1)),
    Artefact("a tar of the hub whose members lie outside of it", _hub(_slipping_tar), codes=(0, 1, 2)),
    Artefact("an array of pickled objects as a sampler's weights", _object_array),
]


# ── YAML ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _yaml(text: Callable[[Place], str]) -> Callable[[Place], Sequence[str]]:
    return lambda place: ("train", place.write("config.yaml", text(place)), "--dry-run")


def _policy(place: Place) -> Sequence[str]:
    place.environ["HFX_POLICY"] = place.write("policy.yaml", f"defaults: {place.tagged()}\n")
    return ("train", "--dry-run")


def _run_file(place: Place) -> Sequence[str]:
    place.write("run/run.yaml", f"data: {place.tagged()}\n")
    return ("train", "--resume", str(place.folder / "run"))


def _laughs(start: str, item: str) -> str:
    lines = [f"a: &a {start}"]
    for name, before in zip("bcdefghij", "abcdefghi", strict=True):
        inner = ", ".join(item.format(index, before) for index in range(9))
        lines.append(f"{name}: &{name} " + (f"[{inner}]" if item.startswith("*") else f"{{{inner}}}"))
    return "\n".join(lines)


YAML = [
    Artefact("a config with a tag of Python", _yaml(lambda place: f"data: {place.tagged()}\n"), codes=(2,)),
    Artefact("an option with a tag of Python", lambda place: (
        "train", "--dry-run", "--plugin", "stream", "--data", "x", "--stream.headers", f"{{a: {place.tagged()}}}"
    ), codes=(2,)),
    Artefact("a policy with a tag of Python", _policy, codes=(2,)),
    Artefact("a run to resume whose file has a tag of Python", _run_file, codes=(2,)),
    Artefact("lists of aliases that unfold without end", _yaml(lambda _: _laughs("[x, x]", "*{1}")), codes=(2,)),
    Artefact(
        "mappings of aliases that unfold without end", _yaml(lambda _: _laughs("{x: 1}", "k{0}: *{1}")), codes=(2,)
    ),
    Artefact("a config nested deep in brackets", _yaml(lambda _: f"data: {DEEP}"), codes=(2,)),
    Artefact(
        "a config nested deep by indentation",
        _yaml(lambda _: "".join(" " * level + "a:\n" for level in range(900))),
        codes=(2,),
    ),
    Artefact("a config that contains itself", _yaml(lambda _: "data: &a {b: *a}\n"), codes=(2,)),
    Artefact(
        "an option nested deep",
        lambda _: ("train", "--dry-run", "--plugin", "stream", "--data", "x", "--stream.headers", "{a: " * 20_000),
        codes=(2,),
    ),
]  # fmt: skip
