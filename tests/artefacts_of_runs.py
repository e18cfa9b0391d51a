"""Checkpoints and a cache that somebody who means harm wrote into."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from artefacts import DEEP, Artefact, Place


def _resuming(spoil: Callable[[Place, Path], None]) -> Callable[[Place], Sequence[str]]:
    """Spoil the checkpoint of a copy of the run, and make a manifest that fits."""

    def make(place: Place) -> Sequence[str]:
        run = Path(shutil.copytree(place.run, place.folder / "run"))
        place.environ["HFX_CACHE"] = str(shutil.copytree(place.run.parent / "cache", place.folder / "cache"))
        spoil(place, next((run / "checkpoints").iterdir()))
        return ("train", "--resume", str(run), "--steps", "2")

    return make


def _recommit(folder: Path) -> None:
    from hfx.commit import FileSum, Manifest

    found = Manifest.read(folder)
    sums = {name: FileSum.of((folder / name).read_bytes()) for name in found.files}
    Manifest(sums, found.tensors).write(folder)


def _shard(place: Place, folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.write_bytes(place.payload())
    _recommit(folder)


def _state(content: Callable[[Place], bytes]) -> Callable[[Place, Path], None]:
    def spoil(place: Place, folder: Path) -> None:
        (folder / "state.json").write_bytes(content(place))
        _recommit(folder)

    return spoil


def _outside(place: Place, folder: Path) -> None:
    place.write("outside.safetensors", place.payload())
    text = (folder / "MANIFEST.json").read_text()
    (folder / "MANIFEST.json").write_text(text.replace("shard-", "../../../outside-"))


def _linked(place: Place, folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        elsewhere = Path(shutil.move(file, place.folder / "elsewhere.safetensors"))
        file.symlink_to(elsewhere)


def _beside_checkpoint(place: Place, folder: Path) -> None:
    for name in (".metadata", "__0_0.distcp", "optimizer.pt", "state.pkl", "training_args.bin"):
        (folder / name).write_bytes(place.payload())


def _deep_manifest(_: Place, folder: Path) -> None:
    (folder / "MANIFEST.json").write_text(DEEP)


def _of_cache(pattern: str, content: Callable[[Place], bytes]) -> Callable[[Place], Sequence[str]]:
    def spoil(place: Place, _: Path) -> None:
        files = [file for file in Path(place.environ["HFX_CACHE"]).glob(pattern) if file.is_file()]
        assert files, f"the cache has no '{pattern}'"
        for file in files:
            file.write_bytes(content(place))

    return _resuming(spoil)


def _report(place: Place, folder: Path) -> None:
    (folder.parent.parent / "data_report.json").write_text(DEEP)


def _state_of_any(name: str, value: Any) -> Callable[[Place], bytes]:
    def content(place: Place) -> bytes:
        found = json.loads(next((place.run / "checkpoints").glob("*/state.json")).read_text())
        return json.dumps(found | {name: value}).encode()

    return content


RUNS = [
    Artefact("a checkpoint whose tensors are a pickle", _resuming(_shard), says="damaged"),
    Artefact("a checkpoint whose state is a pickle", _resuming(_state(Place.payload)), says="damaged"),
    Artefact("a checkpoint whose state is nested deep", _resuming(_state(lambda _: DEEP.encode())), says="damaged"),
    Artefact("a checkpoint whose state names a step elsewhere", _resuming(_state(_state_of_any("step", 7)))),
    Artefact("a checkpoint whose state holds text for numbers", _resuming(_state(_state_of_any("total_steps", "x")))),
    Artefact("a manifest that names files outside of its folder", _resuming(_outside), says="damaged"),
    Artefact("a checkpoint with links that lead out of it", _resuming(_linked), says="damaged"),
    Artefact("a manifest nested a hundred thousand deep", _resuming(_deep_manifest), says="damaged"),
    Artefact("pickles beside the files of a checkpoint are never opened", _resuming(_beside_checkpoint), codes=(0,)),
    Artefact("cached rows that are a pickle", _of_cache("rows/*/rows.arrow", Place.payload), says="damaged"),
    Artefact("a cached choice of rows that holds objects", _of_cache("rows/*/kept.npy", Place.objects), says="damaged"),
    Artefact("a cached report nested deep", _of_cache("rows/*/report.json", lambda _: DEEP.encode()), says="damaged"),
    Artefact("a cached table that is a pickle", _of_cache("table/*/table.arrow", Place.payload), says="damaged"),
    Artefact("a cached table described by a pickle", _of_cache("table/*/table.json", Place.payload), says="damaged"),
    Artefact("cached facts that are a pickle", _of_cache("facts/*/facts.json", Place.payload), says="damaged"),
    Artefact("a cached tokenizer that is a pickle", _of_cache("*/*/tokenizer.json", Place.payload), says="damaged"),
    Artefact("a report nested deep beside a run is written anew", _resuming(_report), codes=(0,)),
]
