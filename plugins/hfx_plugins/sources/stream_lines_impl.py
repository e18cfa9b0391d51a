"""Lines of a file that may be packed, each with the place from which it can be read again."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from hfx.errors import DataError

_MOST = 1 << 20
"""Bytes unpacked at a time: a small file may unpack to something huge."""
_ZSTD_STEP = 1 << 11
Packing: TypeAlias = "bytes | memoryview"


class Raw(Protocol):
    """Bytes as they lie in the file."""

    offset: int

    def read(self) -> bytes:
        """Return the next bytes; nothing at the end."""


class Damaged(Exception):  # noqa: N818  reads as what happened
    """The file itself is broken, and what follows cannot be read."""


@dataclass(frozen=True, slots=True)
class Point:
    """From where to read: an offset in the file, and how many unpacked bytes behind it to leave out."""

    at: int
    skip: int


class Plain:
    """Bytes that are not packed."""

    def __init__(self, raw: Raw) -> None:
        self._raw, self._base = raw, raw.offset

    def read(self) -> bytes:
        """Return the next bytes; nothing at the end."""
        return self._raw.read()

    def point(self, offset: int) -> Point:
        """Return from where to read what was the byte with this number since the start of reading."""
        return Point(self._base + offset, 0)


class Packed:
    """Unpacked bytes of `.gz` (any number of members) or `.zst` (any number of frames)."""

    def __init__(self, raw: Raw, suffix: str) -> None:
        self._raw, self._suffix = raw, suffix
        self._frame: Any = None
        self._tail: Packing = b""
        self._out = 0
        self._starts = [(0, raw.offset)]

    def point(self, offset: int) -> Point:
        """Return the start of the member or frame that holds the byte, and how far behind it the byte is."""
        later = next((i for i, (out, _) in enumerate(self._starts) if out > offset), len(self._starts))
        self._starts = self._starts[max(0, later - 1) :]
        out, at = self._starts[0]
        return Point(at, offset - out)

    def read(self) -> bytes:
        """Return the next unpacked bytes; nothing at the end.

        Raises:
            Damaged: the file ends too early, or is no such file.
        """
        while True:
            data = self._tail or self._raw.read()
            self._tail = b""
            if not data:
                if self._frame is not None:
                    raise Damaged(f"ends in the middle of its {self._suffix} data, at byte {self._raw.offset:,}")
                return b""
            if found := self._unpacked(data):
                self._out += len(found)
                return found

    def _unpacked(self, data: Packing) -> bytes:
        if self._frame is None:
            data = bytes(data).lstrip(b"\0") if self._suffix == "gz" else data  # padding between members
            if not data:
                return b""
            self._starts.append((self._out, self._raw.offset - len(data)))
            self._frame = _frame(self._suffix)
        found, self._tail = _step(self._suffix, self._frame, data, self._raw.offset)
        if self._frame.eof:
            self._tail = bytes(self._frame.unused_data) + bytes(self._tail)
            self._frame = None
        return found


def _frame(suffix: str) -> Any:
    if suffix == "gz":
        return zlib.decompressobj(31)
    try:
        import zstandard
    except ImportError:
        raise DataError("'.zst' files need the package zstandard; pip install 'hfx[zstd]'") from None
    return zstandard.ZstdDecompressor().decompressobj()


def _step(suffix: str, frame: Any, data: Packing, offset: int) -> tuple[bytes, Packing]:
    """Return (unpacked bytes, packed bytes that are left) of a part of the data."""
    at = offset - len(data)
    if suffix == "gz":
        try:
            return frame.decompress(data, _MOST), frame.unconsumed_tail
        except zlib.error as error:
            raise Damaged(f"is damaged behind byte {at:,} ({error})") from error
    import zstandard

    try:
        view = memoryview(data)
        return frame.decompress(view[:_ZSTD_STEP]), view[_ZSTD_STEP:]
    except zstandard.ZstdError as error:
        raise Damaged(f"is damaged behind byte {at:,} ({error})") from error


class Lines:
    """The lines of a file, numbered; `start` is the byte at which the last one began, since the start of reading."""

    def __init__(self, unpacked: Plain | Packed, most: int, skip: int = 0, number: int = 0) -> None:
        self._unpacked, self._most, self._skip = unpacked, most, skip
        self.number = number
        self.start = self.end = skip

    def point(self, offset: int) -> Point:
        """Return from where to read a byte again."""
        return self._unpacked.point(offset)

    def __iter__(self) -> Iterator[bytes | None]:
        """Yield lines with their ends; None stands for one that is too long."""
        parts: list[bytes] = []
        held = 0
        for piece in self._pieces():
            begin = 0
            while (found := piece.find(b"\n", begin)) >= 0:
                tail = piece[begin : found + 1]
                line = b"".join([*parts, tail]) if parts else tail
                yield self._told(line, held + len(tail))
                parts, held, begin = [], 0, found + 1
            rest = piece[begin:]
            held += len(rest)
            if held <= self._most and rest:
                parts.append(rest)
            elif held > self._most:
                parts = [b""]
        if held:
            yield self._told(b"".join(parts), held)

    def _told(self, line: bytes, size: int) -> bytes | None:
        self.number += 1
        self.start, self.end = self.end, self.end + size
        return line if size <= self._most else None

    def _pieces(self) -> Iterator[bytes]:
        left = self._skip
        while piece := self._unpacked.read():
            if left:
                left, piece = left - min(left, len(piece)), piece[left:]
            if piece:
                yield piece
