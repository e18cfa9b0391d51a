"""Opening a file through its compression, and its lines one by one."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from hfx.errors import DataError, nearest

Outcome: TypeAlias = "tuple[int, dict[str, Any] | str]"
"""The row's number in its file, from 1, and its values, or why it is bad."""

MOST = 64 << 20
"""Bytes of a line, paragraph or record above which it is bad."""
NUL = "holds NUL bytes, which are no text"
_SNIFFED = 8192
_CONTROL = bytes(set(range(32)) - set(b"\a\b\t\n\v\f\r\x1b"))
_FEW, _SHARE = 16, 20
"""Control characters in the first bytes that make a file with NUL a binary one: so many, and one of so many bytes."""
_STEP = 512
"""Packed bytes of `.zst` that are unpacked at a time: they may become 16 MB."""
PACKED = (".gz", ".zst")
_DOUBT = ", and rows before may be damaged"
"""What a packed file was found to be too late for: some bytes unpack to others."""


class Damaged(Exception):  # noqa: N818  reads as what happened
    """A file itself is broken, and what follows cannot be read."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A file and how it is to be read."""

    path: str
    row: str
    columns: tuple[str, ...] | None
    encoding: str
    most: int = MOST
    """Bytes of a line, paragraph or record."""

    def select(self, values: dict[str, Any]) -> dict[str, Any] | str:
        """Return the columns asked for, or the reason why that cannot be done."""
        if self.columns is None:
            return values
        missing = [name for name in self.columns if name not in values]
        if missing:
            return f"has no column '{missing[0]}'; it has {', '.join(values)}"
        return {name: values[name] for name in self.columns}

    def require(self, available: list[str]) -> None:
        """Refuse a file that as a whole lacks a column asked for."""
        for name in self.columns or ():
            if name not in available:
                hint = nearest(name, available)
                raise DataError(f"'{self.path}' has no column '{name}';{hint} it has {', '.join(available)}")


@contextmanager
def opened(path: str) -> Iterator[io.BufferedReader]:
    """Open a file for reading, through `.gz` and `.zst`.

    Raises:
        DataError: the system refuses to read it.
        Damaged: it is broken, when reading comes to that place.
    """
    try:
        with _stream(path) as stream:
            yield stream
    except OSError as error:
        if error.errno is None:  # what gzip finds; of Zstandard, `_Frames`
            raise Damaged(
                f"{error}{_DOUBT}" if "CRC" in str(error) or "length" in str(error) else str(error)
            ) from error
        raise unreadable(path, error) from error
    except zlib.error as error:
        raise Damaged(f"{error}{_DOUBT}") from error
    except EOFError as error:
        raise Damaged(str(error)) from error


def unreadable(path: str, error: OSError) -> DataError:
    """Return the error of a file that the system refuses to read."""
    return DataError(f"'{path}' cannot be read: {error.strerror or error}; repair or leave out that file")


def _stream(path: str) -> io.BufferedReader:
    if path.lower().endswith(PACKED) and not os.path.getsize(path):
        raise EOFError("the file is empty, which no packed file is")
    if path.lower().endswith(".gz"):
        return io.BufferedReader(_Members(path), 1 << 17)
    if path.lower().endswith(".zst"):
        return _zstd(path)
    return open(path, "rb")


def _zstd(path: str) -> io.BufferedReader:
    try:
        import zstandard
    except ImportError:
        raise DataError(f"'{path}' needs the package zstandard; pip install 'hfx[zstd]'") from None
    return io.BufferedReader(_Frames(path, zstandard), 1 << 17)


class _Members(io.RawIOBase):
    """All members of a `.gz` file; of a broken one, what comes before the broken place is not thrown away."""

    def __init__(self, path: str) -> None:
        self._file = gzip.open(path, "rb")  # noqa: SIM115  closed with this object

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any, /) -> int:
        found = self._file.read1(len(into))
        into[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Frames(io.RawIOBase):
    """All frames of a `.zst` file; one that is cut off is an `EOFError`, where zstandard's own reader just ends."""

    def __init__(self, path: str, zstandard: Any) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  closed with this object
        self._zstandard = zstandard
        self._frame: Any = None
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any, /) -> int:
        while not self._held:
            packed = (
                self._frame.unused_data if self._frame is not None and self._frame.eof else b""
            ) or self._file.read(_STEP)
            if not packed:
                if not self._ended():
                    raise EOFError("it ends in the middle of a frame")
                return 0
            self._held = memoryview(self._unpacked(packed))
        size = min(len(into), len(self._held))
        into[:size], self._held = self._held[:size], self._held[size:]
        return size

    def _unpacked(self, packed: bytes) -> bytes:
        if self._ended():
            self._frame = self._zstandard.ZstdDecompressor().decompressobj()
        try:
            return cast("bytes", self._frame.decompress(packed))
        except self._zstandard.ZstdError as error:
            raise OSError(f"it is damaged ({error}){_DOUBT}") from error

    def _ended(self) -> bool:
        return self._frame is None or bool(self._frame.eof)

    def close(self) -> None:
        self._file.close()
        super().close()


def binary(file: Opened, stream: io.BufferedReader) -> str:
    """Return why a file of text is none, by its first bytes; nothing where it may be."""
    head = stream.peek(_SNIFFED)[:_SNIFFED]
    if wide(file) or b"\0" not in head:
        return ""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "begins like a file in UTF-16, so that no row of it is read; give --files.encoding utf-16"
    control = len(head) - len(head.translate(None, _CONTROL))
    if control < _FEW or control < len(head) // _SHARE:
        return ""
    return "is a binary file and no text, so that no row of it is read; leave it out, or give its --files.encoding"


def wide(file: Opened) -> bool:
    """Tell whether a line's end is more than the byte of that name, as in UTF-16."""
    return "\n".encode(file.encoding) != b"\n"


def undecodable(file: Opened) -> str:
    """Say that a row is in another encoding."""
    return f"is not {file.encoding}; give --files.encoding if the file is in another one"


def too_long(file: Opened) -> str:
    """Say that a row is longer than allowed."""
    return f"is longer than {file.most / 2**20:g} MB; raise files.max_line_mb if that is right"


def lost(error: Exception) -> str:
    """Say that nothing more of a file can be read."""
    return f"and what follows is lost: {' '.join(str(error).split())}; repair or leave out that file"
