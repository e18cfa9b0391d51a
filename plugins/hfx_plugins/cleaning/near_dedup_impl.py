"""Which texts nearly repeat an earlier one: MinHash for candidates, true sets for the verdict.

Per row 33 bytes stay in memory, and while a band is looked at about 50 more; the keys of all bands (152 bytes) and the
sets (4 bytes a run of words) lie in temporary files. Everything is a function of the texts and their order alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx import DataError, Drops, Row
from hfx_plugins.cleaning.compared_impl import texts_of
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


def near_duplicates(
    rows: Iterable[Row], columns: Sequence[str] | None, ngram: int, threshold: float, step: str
) -> Drops:
    """Return the numbers of the rows in a cluster with a row of a lower number.

    Raises:
        DataError: rensa is not installed, or no row has one of the columns.
    """
    rensa = _rensa(step)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix=f"{step}-", suffix=".partial", dir=_beside(rows))))
        sketches = Sketches(folder)
        with sketches:
            for numbers, texts in _batches(texts_of(rows, columns, step)):
                sketches.add(numbers, shingles(texts, ngram), rensa)
        clusters = Clusters(sketches.sizes(), folder / "sets", threshold)
        clusters.link_equal(sketches.keys(-1))
        for band in range(BANDS):
            clusters.link(sketches.keys(band))
        return _verdict(sketches, clusters)


def _verdict(sketches: Sketches, clusters: Clusters) -> Drops:
    numbers = np.frombuffer(sketches.numbers, np.int64)
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


def _beside(rows: Iterable[Row]) -> Path | None:
    """Return the folder in which the rows' own is: it has room for as many rows; None where they have none."""
    path = getattr(rows, "path", None)
    return path.parent if isinstance(path, Path) else None


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


class Sketches:
    """What is kept of the texts that have words: numbers and sizes here, keys of sets and bands and sets in files."""

    def __init__(self, folder: Path) -> None:
        self.numbers = array("q")
        self._sizes = array("q")
        self._folder = folder

    def __enter__(self) -> Sketches:
        with ExitStack() as stack:
            self._sets = stack.enter_context((self._folder / "sets").open("wb"))
            self._keys = [stack.enter_context(self._file(band).open("wb")) for band in range(-1, BANDS)]
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _file(self, band: int) -> Path:
        return self._folder / f"band{band}"

    def add(self, numbers: list[int], found: Shingles, rensa: Any) -> None:
        """Sketch some texts; those without words are left out."""
        sets, sizes = found.sets()
        having = np.flatnonzero(sizes)
        if not len(having):
            return
        self.numbers.extend(numbers[index] for index in having.tolist())
        sizes = sizes[having]
        self._sizes.extend(sizes.tolist())
        self._sets.write(sets.tobytes())
        offsets = np.concatenate([[0], np.cumsum(found.counts[having])])
        keys = [_set_keys(sets, sizes), *_band_keys(found.hashes, offsets, rensa)]
        for file, key in zip(self._keys, keys, strict=True):
            file.write(key.tobytes())

    def sizes(self) -> NDArray[np.int64]:
        """Return the size of each set, `(texts,)`."""
        return np.frombuffer(self._sizes, np.int64)

    def keys(self, band: int) -> Hashes:
        """Return the key of each text in a band, `(texts,)`; that of its whole set for band -1."""
        return np.fromfile(self._file(band), np.uint64)


def _set_keys(sets: NDArray[np.uint32], sizes: NDArray[np.int64]) -> Hashes:
    return np.add.reduceat(mixed(sets.astype(np.uint64)), np.cumsum(sizes) - sizes)


def _band_keys(hashes: Hashes, offsets: NDArray[np.int64], rensa: Any) -> Hashes:
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets.tolist(), num_perm=BANDS * ROWS, seed=SEED
    )
    signatures = np.array(matrix.to_rows(), np.uint64).T.reshape(BANDS, ROWS, len(offsets) - 1)
    return mixed((signatures * _FACTORS[:, None]).sum(axis=1, dtype=np.uint64))
