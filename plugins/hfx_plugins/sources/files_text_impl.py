"""Readers of text and JSON Lines: numbered rows, a string standing for the reason why one is bad."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hfx_plugins.sources.files_lines_impl import lines, whole
from hfx_plugins.sources.files_open_impl import Opened, Outcome, too_long


def text(file: Opened) -> Iterator[Outcome]:
    """Yield text by paragraph, line or file, in the column `text`."""
    file.require(["text"])
    return {"paragraph": _paragraphs, "line": _text_lines, "file": _whole}[file.row](file)


def _text_lines(file: Opened) -> Iterator[Outcome]:
    for number, line, bad in lines(file):
        if bad:
            yield number, bad
        elif line.strip():
            yield number, {"text": line}


def _paragraphs(file: Opened) -> Iterator[Outcome]:
    block: list[str] = []
    spoilt = ""
    at = first = 1
    size = 0
    for number, line, bad in lines(file):
        if not bad and not line.strip():
            yield from _paragraph(first, block, at, spoilt)
            block, spoilt, size = [], "", 0
            continue
        first = first if block or spoilt else number
        size += len(line) + 1
        if not bad and size > file.most:
            bad = too_long(file)
        if bad and not spoilt:
            spoilt, at, block = bad, number, []
        elif not spoilt:
            block.append(line)
    yield from _paragraph(first, block, at, spoilt)


def _paragraph(first: int, block: list[str], at: int, spoilt: str) -> Iterator[Outcome]:
    if spoilt:
        yield at, f"{spoilt} (its paragraph begins at line {first})" if at > first else spoilt
    elif block:
        yield first, {"text": "\n".join(block)}


def _whole(file: Opened) -> Iterator[Outcome]:
    number, found, bad = whole(file)
    yield number, bad or {"text": found.removeprefix("\ufeff").replace("\r\n", "\n")}


def jsonl(file: Opened) -> Iterator[Outcome]:
    """Yield one object per line."""
    for number, line, bad in lines(file):
        if bad:
            yield number, bad
        elif line.strip():
            yield number, json_object(file, line)


def json_object(file: Opened, line: str) -> dict[str, Any] | str:
    """Return the object of a line, or the reason why there is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return not_json(error)
    return checked(file, value, escapes="\\u" in line)


def not_json(error: Exception) -> str:
    """Say why a text is no JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg.removesuffix(' at')}, column {error.colno}"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return "holds a number of more digits than Python reads"


def checked(file: Opened, value: Any, escapes: bool) -> dict[str, Any] | str:
    """Return the columns asked for of a JSON object, or the reason why it is no row."""
    if not isinstance(value, dict):
        return f"is not a JSON object but {json_kind(value)}"
    if escapes and not _is_text(value):
        return "holds half a surrogate pair, which is no text"
    return file.select(value)


def _is_text(value: dict[str, Any]) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def json_kind(value: object) -> str:
    """Return what a JSON value is that is no object."""
    kinds = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean", dict: "an object"}
    return kinds.get(type(value), "null")
