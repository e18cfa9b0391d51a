"""Finding the files behind addresses: globs, ranges and folders, with the format and packing of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from hfx.errors import DataError
from hfx_plugins.sources.files_find_impl import FORMATS
from hfx_plugins.sources.retry_impl import persistently
from hfx_plugins.sources.stream_retry_impl import patience
from hfx_plugins.sources.stream_transport_impl import Access, failed, failures, filesystem

READABLE = ("text", "jsonl", "csv", "tsv", "parquet")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_MAGIC = re.compile(r"[*\[]")


@dataclass(frozen=True, slots=True)
class Remote:
    """One file to read: its source's name, its address, its format, and how it is packed (`gz`, `zst` or not)."""

    source: str
    url: str
    format: str
    packing: str


def find(named: Mapping[str, str], override: str | None, access: Access) -> tuple[Remote, ...]:
    """Return the files behind addresses by source name, in the order in which they are read.

    Raises:
        DataError: there is none, or its format is not known.
    """
    found: list[Remote] = []
    for source in sorted(named):
        for address in _expanded(named[source]):
            urls = persistently(partial(_listed, address, access), patience(address, access))
            if not urls:
                raise DataError(f"'{address}' matches no file; look at 'data'")
            found += [Remote(source, url, *_kind(url, override)) for url in urls]
    return tuple(found)


def _expanded(address: str) -> Iterator[str]:
    """Yield `a-08`, `a-09`, `a-10` for `a-{08..10}`, and `a`, `b` for `{a,b}`."""
    match = _RANGE.search(address)
    if match is None:
        yield address
        return
    first, last, words = match.groups()
    inner = words.split(",") if words else [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    for part in inner:
        yield from _expanded(address[: match.start()] + part + address[match.end() :])


def _listed(address: str, access: Access) -> list[str]:
    is_http = address.startswith(("http://", "https://"))
    if is_http and not _MAGIC.search(address):
        return [address]
    fs, path = filesystem(address, access)
    try:
        if _MAGIC.search(path):
            paths = sorted(str(p) for p in fs.glob(path))
        elif fs.isdir(path):
            paths = sorted(str(p) for p in fs.find(path))
        else:
            return [address]
    except failures() as error:
        raise failed(address, error) from error
    urls = [str(fs.unstrip_protocol(p)) for p in paths if not _hidden(p)]
    return [url.removeprefix("file://") for url in urls]


def _hidden(path: str) -> bool:
    name = PurePosixPath(path).name
    return name.startswith(".") or (name.startswith("_") and "." not in name)


def _kind(url: str, override: str | None) -> tuple[str, str]:
    """Return (format, packing) by the suffixes of an address."""
    path = urlsplit(url).path if "://" in url else url
    suffixes = [suffix[1:].lower() for suffix in PurePosixPath(path).suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in ("gz", "zst") else ""
    kind = override or (FORMATS.get(suffixes[-1], "") if suffixes else "")
    if kind not in READABLE:
        raise DataError(
            f"the format of '{url}' is not one that can be read as a stream; known are text, .jsonl, .csv, .tsv and "
            ".parquet, or give --stream.format"
        )
    if kind == "parquet" and packing:
        raise DataError(f"'{url}' is packed twice over; unpack it (Parquet is packed inside)")
    return kind, packing
