"""Opening a file through its compression, and its lines one by one."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, TypeAlias, cast

from hfx.errors import DataError, nearest

Outcome: TypeAlias = "tuple[int, dict[str, Any] | str]"
"""The row's number in its file, from 1, and its values, or why it is bad."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A file and how it is to be read."""

    path: str
    row: str
    columns: tuple[str, ...] | None
    encoding: str

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
def opened(path: str) -> Iterator[IO[bytes]]:
    """Open a file for reading, through `.gz` and `.zst`; what the system refuses or is damaged is a `DataError`."""
    try:
        with _stream(path) as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' cannot be read: {_cause(error)}; repair or leave out that file") from error


def _cause(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _stream(path: str) -> IO[bytes]:
    if path.lower().endswith(".gz"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if path.lower().endswith(".zst"):
        return _zstd(path)
    return open(path, "rb")


def _zstd(path: str) -> IO[bytes]:
    try:
        import zstandard
    except ImportError:
        raise DataError(f"'{path}' needs the package zstandard; pip install 'hfx[zstd]'") from None
    return io.BufferedReader(_Frames(path, zstandard), 1 << 17)


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
            rest = self._frame.unused_data if self._frame is not None and self._frame.eof else b""
            packed = rest or self._file.read(1 << 14)
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
            return bytes(self._frame.decompress(packed))
        except self._zstandard.ZstdError as error:
            raise OSError(f"it is damaged ({error})") from error

    def _ended(self) -> bool:
        return self._frame is None or bool(self._frame.eof)

    def close(self) -> None:
        self._file.close()
        super().close()


def lines(file: Opened) -> Iterator[tuple[int, str | None]]:
    """Yield numbered lines without their ends; None where the bytes cannot be decoded."""
    with opened(file.path) as stream:
        if "\n".encode(file.encoding) != b"\n":
            yield from _wide_lines(file, stream)
            return
        for number, line in enumerate(stream, 1):
            raw = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            try:
                yield number, raw.decode(file.encoding).rstrip("\r\n")
            except UnicodeDecodeError:
                yield number, None


def _wide_lines(file: Opened, stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    # In UTF-16 and UTF-32 a line's end is not the byte \n: there is no telling where the next good line begins.
    number = 0
    try:
        with io.TextIOWrapper(stream, file.encoding) as decoded:
            for number, line in enumerate(decoded, 1):
                yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"'{file.path}:{number + 1}' is not {file.encoding}: {error.reason}") from error


def undecodable(file: Opened) -> str:
    return f"is not {file.encoding}; give --files.encoding if the file is in another one"
