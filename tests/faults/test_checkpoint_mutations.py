"""Whatever is changed in a checkpoint is found, the file is named, and the one before it is used."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hfx.checkpoint import newest
from saved import assert_loads, saved

Mutation = Callable[[random.Random, Path, Path], str]


def flip(rng: random.Random, file: Path, _: Path) -> str:
    content = bytearray(file.read_bytes())
    at, bit = rng.randrange(len(content)), rng.randrange(8)
    content[at] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {at} flipped"


def truncate(rng: random.Random, file: Path, _: Path) -> str:
    content = file.read_bytes()
    at = rng.randrange(len(content))
    file.write_bytes(content[:at])
    return f"cut to {at} bytes"


def delete(_: random.Random, file: Path, __: Path) -> str:
    file.unlink()
    return "deleted"


def swap(rng: random.Random, file: Path, other: Path) -> str:
    """Put another file in its place: the one before it of the same name, or a neighbour."""
    neighbours = [path for path in file.parent.iterdir() if path != file]
    source = rng.choice([other / file.name, *neighbours])
    file.write_bytes(source.read_bytes())
    return f"replaced by {source.parent.name}/{source.name}"


def grow(rng: random.Random, file: Path, _: Path) -> str:
    with file.open("ab") as handle:
        handle.write(rng.randbytes(rng.randint(1, 9)))
    return "grown"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output: Path = tmp_path_factory.mktemp("good")
    for step in (1, 2):
        saved(output, step)
    return output


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_mutation_is_found_and_named_and_the_checkpoint_before_is_used(
    count: int, good: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(count)
    mutations: list[Mutation] = [flip, flip, flip, truncate, delete, swap, grow]
    for number in range(count):
        output = tmp_path / str(number)
        shutil.copytree(good, output)
        before, path = sorted((output / "checkpoints").iterdir())
        file = rng.choice(sorted(path.iterdir()))
        what = f"{file.name}: {rng.choice(mutations)(rng, file, before)}"
        caplog.clear()
        with caplog.at_level(logging.WARNING, "hfx"):
            found = newest(output, 1)
        assert found is not None, what
        assert found.step == 1, what
        assert path.name in caplog.text, what
        # A whole manifest of another checkpoint fits itself; then it is the files that do not fit it.
        named = {file.name} if "step-00000001/MANIFEST" not in what else {one.name for one in path.iterdir()}
        assert any(name in caplog.text for name in named), what
        assert_loads(found)
        shutil.rmtree(output)
