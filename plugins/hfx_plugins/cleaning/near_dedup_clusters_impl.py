"""Clusters of texts: pairs that share a band are verified on their sets, and those that are linked are united."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Indices: TypeAlias = "NDArray[np.int64]"

LARGE = 32
"""In a larger bucket a text that was linked to an earlier one stands for nobody else: not every pair is looked at."""
ROUNDS = 32
"""Texts of one bucket that all others of it are compared with.

What a crowded bucket has in common is a frame that thousands of pages share; near-copies among them meet in others.
"""
_VOLUME = 1 << 21
"""Elements of sets that are in memory at a time."""


class Clusters:
    """A union-find over texts, `(texts,)`: each points to one before it in its cluster, or to itself."""

    def __init__(self, sizes: Indices, sets: Path, threshold: float) -> None:
        self._parents = np.arange(len(sizes))
        self._sizes = sizes
        self._offsets = np.cumsum(sizes) - sizes
        self._sets = sets
        self._threshold = threshold
        self._alone = np.ones(len(sizes), bool)
        self._verified = self._linked = self._unverified = 0

    def facts(self) -> dict[str, int]:
        """Return how many pairs were verified and linked, and how many texts a crowded band left unverified."""
        return {
            "pairs_verified": self._verified,
            "pairs_linked": self._linked,
            "left_unverified": self._unverified,
        }

    def roots(self) -> Indices:
        """Return the first text of each text's cluster."""
        return self._find(np.arange(len(self._parents)))

    def link_equal(self, keys: NDArray[np.uint64]) -> None:
        """Unite the texts whose sets are equal, by keys of the sets; `link` then looks at the first of them only."""
        self.link(keys)
        everything = np.arange(len(self._parents))
        self._alone = self._find(everything) == everything

    def link(self, keys: NDArray[np.uint64]) -> None:
        """Unite the texts with the same key whose sets are alike enough.

        Every pair of a bucket is compared, unless it is united already, or the bucket is large.
        """
        members, buckets, large = self._crowded(keys)
        for _ in range(ROUNDS):
            members, buckets, large = self._unsettled(members, buckets, large)
            if not len(members):
                return
            begins = np.flatnonzero(_changes(buckets))
            firsts = np.repeat(members[begins], np.diff(np.append(begins, len(members))))
            self._unite_alike(firsts, members)
            done = large & (self._find(firsts) == self._find(members))
            done[begins] = True
            members, buckets, large = members[~done], buckets[~done], large[~done]
        self._unverified += len(members)

    def _crowded(self, keys: NDArray[np.uint64]) -> tuple[Indices, Indices, NDArray[np.bool_]]:
        """Return the texts that share their key, the number of each one's bucket, and whether that is large."""
        chosen = np.flatnonzero(self._alone)
        order = chosen[np.argsort(keys[chosen], kind="stable")]
        buckets = np.cumsum(_changes(keys[order])) - 1
        sizes = np.bincount(buckets)[buckets]
        several = sizes > 1
        return order[several], buckets[several], sizes[several] > LARGE

    def _unsettled(
        self, members: Indices, buckets: Indices, large: NDArray[np.bool_]
    ) -> tuple[Indices, Indices, NDArray[np.bool_]]:
        """Return what is left without the buckets that have become one cluster."""
        if not len(members):
            return members, buckets, large
        begins = np.flatnonzero(_changes(buckets))
        roots = self._find(members)
        open_ = np.minimum.reduceat(roots, begins) != np.maximum.reduceat(roots, begins)
        kept = np.repeat(open_, np.diff(np.append(begins, len(members))))
        return members[kept], buckets[kept], large[kept]

    def _unite_alike(self, left: Indices, right: Indices) -> None:
        sizes = np.sort([self._sizes[left], self._sizes[right]], axis=0)
        possible = (sizes[0] / sizes[1] >= self._threshold) & (self._find(left) != self._find(right))
        left, right = left[possible], right[possible]
        alike = self._jaccard(left, right) >= self._threshold
        self._verified += len(left)
        self._linked += int(alike.sum())
        self._unite(left[alike], right[alike])

    def _find(self, texts: Indices) -> Indices:
        roots = self._parents[texts]
        while not np.array_equal(further := self._parents[roots], roots):
            self._parents[texts] = roots = further
        return roots

    def _unite(self, left: Indices, right: Indices) -> None:
        while len(left):
            ours, theirs = self._find(left), self._find(right)
            apart = ours != theirs
            left, right = left[apart], right[apart]
            higher, lower = np.maximum(ours, theirs)[apart], np.minimum(ours, theirs)[apart]
            np.minimum.at(self._parents, higher, lower)
            self._find(higher)  # halves chains of roots, which finding from below would walk one by one

    def _jaccard(self, left: Indices, right: Indices) -> NDArray[np.float64]:
        volumes = np.cumsum(self._sizes[left] + self._sizes[right])
        found = [np.zeros(0)]
        begin = 0
        while begin < len(left):
            before = volumes[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(volumes, before + _VOLUME)))
            found.append(self._jaccard_of_some(left[begin:end], right[begin:end]))
            begin = end
        return np.concatenate(found)

    def _jaccard_of_some(self, left: Indices, right: Indices) -> NDArray[np.float64]:
        # Mapped anew each time: pages that are no longer needed do not stay resident.
        sets = np.memmap(self._sets, np.uint32, "r")
        texts = np.concatenate([left, right])
        sizes = self._sizes[texts]
        within = np.repeat(self._offsets[texts] - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
        pair = np.repeat(np.tile(np.arange(len(left), dtype=np.uint64), 2), sizes)
        keys = np.sort((pair << np.uint64(32)) | sets[within])
        shared = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(32)
        both = np.bincount(shared.astype(np.int64), minlength=len(left))
        return both / (self._sizes[left] + self._sizes[right] - both)


def _changes(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return where a value differs from the one before it; the first one does."""
    changed = np.ones(len(values), bool)
    changed[1:] = values[1:] != values[:-1]
    return changed
