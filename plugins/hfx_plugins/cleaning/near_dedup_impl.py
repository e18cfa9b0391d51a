"""Which texts nearly repeat an earlier one: MinHash for candidates, true sets for the verdict.

Texts are sketched in any number of parts, into files: the keys of all bands (152 bytes a row) and the sets (4 bytes a
run of words). Deciding then holds 33 bytes a row in memory, and while a band is looked at about 50 more. The outcome is
a function of the texts and their order alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from hfx import DataError, Drops, Row
from hfx_plugins.cleaning.compared_impl import Compared, refuse_missing
from hfx_plugins.cleaning.near_dedup_clusters_impl import Clusters
from hfx_plugins.cleaning.near_dedup_shingles_impl import Shingles, mixed, shingles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hfx_plugins.cleaning.near_dedup_shingles_impl import Hashes

REASON = "near_duplicate"
BANDS = 18
ROWS = 7
SEED = 1
_BATCH_TEXTS, _BATCH_CHARACTERS = 64, 150_000
"""Measured: larger batches leave the second-level cache."""
_FACTORS = np.random.Generator(np.random.PCG64(7)).integers(0, 2**63, ROWS, np.uint64) * 2 + 1


def sketch(rows: Iterable[Row], columns: Sequence[str] | None, ngram: int, folder: Path, step: str) -> None:
    """Write the sketches of the rows that have words into the folder.

    Raises:
        DataError: rensa is not installed.
    """
    rensa = _rensa(step)
    compared = Compared(rows, columns)
    with Sketches(folder) as sketches:
        for numbers, texts in _batches(compared):
            sketches.add(numbers, shingles(texts, ngram), rensa)
    compared.save(folder)


def near_duplicates(folders: Sequence[Path], threshold: float, step: str) -> Drops:
    """Return the numbers of the rows in a cluster with a row of a lower number.

    Raises:
        DataError: no row has one of the columns to compare.
    """
    refuse_missing(folders, step)
    numbers = _joined(folders, "numbers", np.int64)
    with ExitStack() as stack:
        clusters = Clusters(_joined(folders, "sizes", np.int64), _one_file(folders, "sets", stack), threshold)
        clusters.link_equal(_joined(folders, _band(-1), np.uint64))
        for band in range(BANDS):
            clusters.link(_joined(folders, _band(band), np.uint64))
        return _verdict(numbers, clusters)


def _joined(folders: Sequence[Path], name: str, dtype: type[Any]) -> NDArray[Any]:
    return np.concatenate([np.fromfile(folder / name, dtype) for folder in folders])


def _one_file(folders: Sequence[Path], name: str, stack: ExitStack) -> Path:
    """Return a file with the content of all, which is removed with the stack; where there is one, that one."""
    if len(folders) == 1:
        return folders[0] / name
    beside = folders[0].parent
    joined = Path(stack.enter_context(TemporaryDirectory(prefix=name, suffix=".partial", dir=beside))) / name
    with joined.open("wb") as sink:
        for folder in folders:
            with (folder / name).open("rb") as file:
                shutil.copyfileobj(file, sink)
    return joined


def _verdict(numbers: NDArray[np.int64], clusters: Clusters) -> Drops:
    roots = clusters.roots()
    lowest = np.full(len(numbers), np.iinfo(np.int64).max)
    np.minimum.at(lowest, roots, numbers)
    dropped = numbers[numbers != lowest[roots]]
    found = np.bincount(roots, minlength=1)
    facts = {"rows": len(numbers), "clusters": int((found > 1).sum()), "largest_cluster": int(found.max())}
    return Drops(dict.fromkeys(dropped.tolist(), REASON), facts | clusters.facts())


def _rensa(step: str) -> Any:
    try:
        import rensa
    except ImportError:
        raise DataError(f"'{step}' needs the package rensa; pip install 'hfx[dedup]'") from None
    return rensa


def _batches(texts: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[list[int], list[str]]]:
    numbers: list[int] = []
    batch: list[str] = []
    characters = 0
    for number, strings in texts:
        numbers.append(number)
        batch.append("\n".join(strings))
        characters += len(batch[-1])
        if len(batch) == _BATCH_TEXTS or characters > _BATCH_CHARACTERS:
            yield numbers, batch
            numbers, batch, characters = [], [], 0
    yield numbers, batch


def _band(band: int) -> str:
    return f"band{band}"


class Sketches:
    """What is written of the texts that have words: numbers, sizes and sets, keys of sets and bands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Sketches:
        with ExitStack() as stack:

            def opened(name: str) -> BinaryIO:
                return stack.enter_context((self._folder / name).open("wb"))

            self._numbers, self._sizes, self._sets = map(opened, ("numbers", "sizes", "sets"))
            self._keys = [opened(_band(band)) for band in range(-1, BANDS)]
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, numbers: list[int], found: Shingles, rensa: Any) -> None:
        """Sketch some texts; those without words are left out."""
        sets, sizes = found.sets()
        having = np.flatnonzero(sizes)
        if not len(having):
            return
        self._numbers.write(np.array(numbers, np.int64)[having].tobytes())
        sizes = sizes[having]
        self._sizes.write(sizes.astype(np.int64).tobytes())
        self._sets.write(sets.tobytes())
        offsets = np.concatenate([[0], np.cumsum(found.counts[having])])
        keys = [_set_keys(sets, sizes), *_band_keys(found.hashes, offsets, rensa)]
        for file, key in zip(self._keys, keys, strict=True):
            file.write(key.tobytes())


def _set_keys(sets: NDArray[np.uint32], sizes: NDArray[np.int64]) -> Hashes:
    return np.add.reduceat(mixed(sets.astype(np.uint64)), np.cumsum(sizes) - sizes)


def _band_keys(hashes: Hashes, offsets: NDArray[np.int64], rensa: Any) -> Hashes:
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets.tolist(), num_perm=BANDS * ROWS, seed=SEED
    )
    signatures = np.array(matrix.to_rows(), np.uint64).T.reshape(BANDS, ROWS, len(offsets) - 1)
    return mixed((signatures * _FACTORS[:, None]).sum(axis=1, dtype=np.uint64))
