"""Runs of hashed words, computed for many texts at once without a Python loop over words.

A word is a run of ASCII letters and digits and of characters beyond ASCII, without Latin-1 signs and general
punctuation; scripts that write no spaces (Han, kana, Thai, Lao) and Hangul syllables count as a word a character.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import xxhash

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Hashes: TypeAlias = "NDArray[np.uint64]"
    Indices: TypeAlias = "NDArray[np.int64]"

_WORD = bytes(byte >= 0x80 or chr(byte).isalnum() for byte in range(256))
_FIRST_BYTES = np.array([2 ** (8 * count) - 1 for count in range(9)], np.uint64)
_LONG = 32
"""Longer words, which are few, are hashed one by one."""
_FACTORS = np.random.Generator(np.random.PCG64(5)).integers(0, 2**63, 32, np.uint64) * 2 + 1


@dataclass(frozen=True)
class Shingles:
    """The runs of words of some texts: all hashes, `(sum(counts),)`, and how many each text has, `(texts,)`."""

    hashes: Hashes
    counts: Indices

    def sets(self) -> tuple[NDArray[np.uint32], Indices]:
        """Return each text's distinct hashes in 32 bits, ascending, and how many each text has."""
        owner = np.repeat(np.arange(len(self.counts), dtype=np.uint64), self.counts)
        keys = np.sort((owner << np.uint64(32)) | (self.hashes >> np.uint64(32)))
        keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
        counts = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(self.counts))
        return keys.astype(np.uint32), counts.astype(np.int64)


def mixed(values: Hashes) -> Hashes:
    """Return well-spread 64 bits of each value, one to one (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def shingles(texts: list[str], ngram: int) -> Shingles:
    """Return the runs of `ngram` words of each text; a shorter text is one run, one without words has none."""
    encoded = [text.lower().encode("utf-8", "surrogatepass") for text in texts]
    joined = b"\n".join([*encoded, b"        "])  # room for the last word's eight bytes
    starts, stops = _words(joined)
    words = _word_hashes(joined, starts, stops)
    ends = np.cumsum([len(text) + 1 for text in encoded])
    per_text = np.diff(np.searchsorted(starts, ends), prepend=0)
    words, per_text = _padded(words, per_text, ngram)
    return _runs(words, per_text, ngram)


def _words(joined: bytes) -> tuple[Indices, Indices]:
    """Return where words start and stop in UTF-8."""
    inside = np.frombuffer(joined.translate(_WORD), np.bool_)
    begins = inside.copy()
    begins[1:] &= ~inside[:-1]
    if not joined.isascii():
        inside, begins = _beyond_ascii(np.frombuffer(joined, np.uint8), inside)
    last = inside.copy()
    last[:-1] &= ~inside[1:] | begins[1:]
    return np.flatnonzero(begins), np.flatnonzero(last) + 1


def _beyond_ascii(data: NDArray[np.uint8], inside: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    following = np.append(data[1:], np.uint8(0))
    general = (data == 0xE2) & (following <= 0x81) | (data == 0xE3) & (following == 0x80)
    inside = inside & ~_reaching(general, 3) & ~_reaching(data == 0xC2, 2)
    alone = (data >= 0xE3) & (data <= 0xED) | (data == 0xE0) & (following >= 0xB8) & (following <= 0xBB)
    four = data >= 0xF0
    inside_alone = _reaching(alone, 3) | _reaching(four, 4)
    begins = inside.copy()
    begins[1:] &= ~inside[:-1] | alone[1:] | four[1:] | (inside_alone[:-1] & ~inside_alone[1:])
    return inside, begins


def _reaching(leads: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Return the mask of the characters of `size` bytes that begin where `leads` is true."""
    mask = leads.copy()
    for shift in range(1, size):
        mask[shift:] |= leads[:-shift]
    return mask


def _word_hashes(joined: bytes, starts: Indices, stops: Indices) -> Hashes:
    eights: NDArray[Any] = np.ndarray((len(joined) - 7,), "<u8", joined, strides=(1,))
    lengths = stops - starts
    hashes = mixed(eights[starts] & _FIRST_BYTES[np.minimum(lengths, 8)])
    for begin in range(8, _LONG, 8):
        longer = np.flatnonzero((lengths > begin) & (lengths <= _LONG))
        piece = eights[starts[longer] + begin] & _FIRST_BYTES[np.minimum(lengths[longer] - begin, 8)]
        hashes[longer] = mixed(hashes[longer] * _FACTORS[0] ^ piece)
    for index in np.flatnonzero(lengths > _LONG).tolist():
        hashes[index] = xxhash.xxh3_64_intdigest(joined[starts[index] : stops[index]])
    return hashes


def _padded(words: Hashes, per_text: Indices, ngram: int) -> tuple[Hashes, Indices]:
    """Fill short texts up to one run, so that the whole of such a text is its run."""
    wanted = np.where(per_text > 0, np.maximum(per_text, ngram), 0)
    if (wanted == per_text).all():
        return words, per_text
    filled = np.zeros(wanted.sum(), np.uint64)
    moved = np.cumsum(wanted) - wanted - (np.cumsum(per_text) - per_text)
    filled[np.arange(len(words)) + np.repeat(moved, per_text)] = words
    return filled, wanted


def _runs(words: Hashes, per_text: Indices, ngram: int) -> Shingles:
    counts = np.maximum(per_text - (ngram - 1), 0)
    if not len(words):
        return Shingles(words, counts)
    size = len(words) - ngram + 1
    sums = np.zeros(size, np.uint64)
    for offset in range(ngram):
        sums += words[offset : offset + size] * _FACTORS[offset]
    starts = np.cumsum(per_text) - per_text
    within = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    return Shingles(mixed(sums[within]), counts)
