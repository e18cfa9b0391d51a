"""The lines of a text file one by one, none of them longer than allowed in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TypeAlias

from hfx_plugins.sources.files_open_impl import (
    NUL,
    Damaged,
    Opened,
    binary,
    lost,
    opened,
    too_long,
    undecodable,
    wide,
)

Line: TypeAlias = tuple[int, str, str]
"""A line's number, from 1, its text without its end, and why it is bad, or nothing."""
_SKIPPED = 1 << 20


def lines(file: Opened) -> Iterator[Line]:
    """Yield the lines; a file that breaks off ends in a bad one, and a binary file is one bad line."""
    number = 0
    try:
        with opened(file.path) as stream:
            if reason := binary(file, stream):
                yield 1, "", reason
                return
            for line in (_wide_lines if wide(file) else _byte_lines)(file, stream):
                number = line[0]
                yield line
    except Damaged as error:
        yield number + 1, "", lost(error)


def _byte_lines(file: Opened, stream: io.BufferedReader) -> Iterator[Line]:
    number, most, encoding = 0, file.most, file.encoding
    while raw := stream.readline(most + 1):
        number += 1
        if len(raw) > most and not raw.endswith(b"\n"):
            del raw  # as long as the limit, while the next piece is read
            while (rest := stream.readline(_SKIPPED)) and not rest.endswith(b"\n"):
                pass
            yield number, "", too_long(file)
            continue
        if b"\0" in raw:
            yield number, "", NUL
            continue
        try:
            text = (raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw).decode(encoding)
        except UnicodeDecodeError:
            yield number, "", undecodable(file)
            continue
        yield number, text.rstrip("\r\n"), ""


def _wide_lines(file: Opened, stream: io.BufferedReader) -> Iterator[Line]:
    # In UTF-16 and UTF-32 a line's end is not the byte \n: there is no telling where the next good line begins.
    number = 0
    try:
        with io.TextIOWrapper(stream, file.encoding) as decoded:
            while text := decoded.readline(file.most + 1):
                number += 1
                bad = NUL if "\0" in text else ""
                if len(text) > file.most and not text.endswith("\n"):
                    bad = too_long(file)
                    while (rest := decoded.readline(_SKIPPED)) and not rest.endswith("\n"):
                        pass
                yield number, "" if bad else text.rstrip("\n"), bad
    except UnicodeDecodeError as error:
        raise Damaged(f"it is not {file.encoding} ({error.reason})") from error


def whole(file: Opened) -> Line:
    """Return all of a file as one line, numbered by where it is bad."""
    try:
        with opened(file.path) as stream:
            if reason := binary(file, stream):
                return 1, "", reason
            pieces, held = [], 0
            while held <= file.most and (piece := stream.read1(1 << 17)):
                pieces.append(piece)
                held += len(piece)
    except Damaged as error:
        return 1, "", lost(error)
    if held > file.most:
        return 1, "", too_long(file)
    data = b"".join(pieces)
    try:
        text = data.decode(file.encoding)
    except UnicodeDecodeError as error:
        return data.count(b"\n", 0, error.start) + 1, "", undecodable(file)
    if (at := text.find("\0")) >= 0:
        return text.count("\n", 0, at) + 1, "", NUL
    return 1, text, ""
