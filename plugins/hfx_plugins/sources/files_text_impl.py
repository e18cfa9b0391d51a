"""Readers of text, JSON Lines and JSON: numbered rows, a string standing for the reason why one is bad."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hfx.errors import DataError
from hfx_plugins.sources.files_open_impl import Opened, Outcome, lines, opened, undecodable


def text(file: Opened) -> Iterator[Outcome]:
    """Yield text by paragraph, line or file, in the column `text`."""
    file.require(["text"])
    return {"paragraph": _paragraphs, "line": _text_lines, "file": _whole}[file.row](file)


def _text_lines(file: Opened) -> Iterator[Outcome]:
    for number, line in lines(file):
        if line is None:
            yield number, undecodable(file)
        elif line.strip():
            yield number, {"text": line}


def _paragraphs(file: Opened) -> Iterator[Outcome]:
    block: list[str] = []
    bad: int | None = None
    first = 1
    for number, line in lines(file):
        if line is None:
            bad = bad or number
        elif line.strip():
            first = first if block else number
            block.append(line)
        else:
            yield from _paragraph(file, first, block, bad)
            block, bad = [], None
    yield from _paragraph(file, first, block, bad)


def _paragraph(file: Opened, first: int, block: list[str], bad: int | None) -> Iterator[Outcome]:
    if bad is not None:
        yield bad, undecodable(file)
    elif block:
        yield first, {"text": "\n".join(block)}


def _whole(file: Opened) -> Iterator[Outcome]:
    with opened(file.path) as stream:
        data = stream.read()
    try:
        yield 1, {"text": data.decode(file.encoding).removeprefix("\ufeff").replace("\r\n", "\n")}
    except UnicodeDecodeError:
        yield 1, undecodable(file)


def jsonl(file: Opened) -> Iterator[Outcome]:
    """Yield one object per line."""
    for number, line in lines(file):
        if line is None:
            yield number, undecodable(file)
        elif line.strip():
            yield number, json_object(file, line)


def json_object(file: Opened, line: str) -> dict[str, Any] | str:
    """Return the object of a line, or the reason why there is none."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return f"is not JSON: {error.msg.removesuffix(' at')}, column {error.colno}"
    except RecursionError:
        return "is nested too deeply"
    return _checked(file, value, escapes="\\u" in line)


def _checked(file: Opened, value: Any, escapes: bool) -> dict[str, Any] | str:
    if not isinstance(value, dict):
        return f"is not a JSON object but {_json_kind(value)}"
    if escapes and not _is_text(value):
        return "holds half a surrogate pair, which is no text"
    return file.select(value)


def _is_text(value: dict[str, Any]) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_kind(value: object) -> str:
    kinds = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean"}
    return kinds.get(type(value), "null")


def json_list(file: Opened) -> Iterator[Outcome]:
    """Yield the objects of one JSON list; it is read whole."""
    with opened(file.path) as stream:
        data = stream.read()
    try:
        rows = json.loads(data.decode(file.encoding).removeprefix("\ufeff"))
    except ValueError as error:
        raise DataError(f"'{file.path}' is not JSON: {error}; one object a line needs --files.format jsonl") from error
    if not isinstance(rows, list):
        raise DataError(f"'{file.path}' holds {_json_kind(rows)}, not a list of objects; write it as .jsonl or a list")
    for number, value in enumerate(rows, 1):
        yield number, _checked(file, value, escapes=b"\\u" in data)
