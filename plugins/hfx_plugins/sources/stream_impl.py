"""The source that reads remote files as they come, from any row on."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType

from hfx import BadRow, Row
from hfx_plugins.sources.retry_impl import persistently
from hfx_plugins.sources.stream_ahead_impl import Ahead
from hfx_plugins.sources.stream_fetch_impl import Fetcher
from hfx_plugins.sources.stream_find_impl import Remote
from hfx_plugins.sources.stream_formats_impl import Reading
from hfx_plugins.sources.stream_marks_impl import Marks
from hfx_plugins.sources.stream_retry_impl import patience
from hfx_plugins.sources.stream_transport_impl import Access, Identity

VERSION = 1
"""Raised when a reader yields something else than before."""
_PROBES = 16
"""Files asked about at a time."""


class StreamSource:
    """The rows of remote files, one file after the other; entered by the run, which closes it."""

    indexed = False

    def __init__(
        self, files: tuple[Remote, ...], reading: Reading, access: Access, block: int, most: int,
        folders: tuple[Path, ...],
    ) -> None:  # fmt: skip
        self.files, self.reading, self.access = files, reading, access
        self.counts: Counter[str] = Counter()
        """`rows` read from the files so far, and those of them `passed` on the way to another."""
        self._block, self._most, self._folders = block, most, folders
        self._parked: Ahead | None = None
        self._readers: weakref.WeakSet[Ahead] = weakref.WeakSet()

    def fingerprint(self) -> str:
        """Return a hash of the files' addresses, of the states they are in, and of how they are read."""
        how = [VERSION, self.reading.row, self.reading.columns, self.reading.encoding, self.reading.most]
        digest = hashlib.sha256(json.dumps(how).encode())
        for file, identity in zip(self.files, self._identities, strict=True):
            state = [file.source, file.url, file.format, file.packing, identity.size, identity.tag]
            digest.update(json.dumps(state).encode())
        return digest.hexdigest()

    @cached_property
    def _identities(self) -> list[Identity]:
        def probed(file: Remote) -> Identity:
            return persistently(lambda: self.access.identity(file.url), patience(file.url, self.access))

        with ThreadPoolExecutor(min(_PROBES, len(self.files))) as pool:
            return list(pool.map(probed, self.files))

    @cached_property
    def _marks(self) -> Marks:
        return Marks(self._folders, self.fingerprint()[:32])

    def formats(self) -> dict[str, int]:
        """Return how many files there are of each format."""
        return dict(sorted(Counter(file.format for file in self.files).items()))

    def summary(self) -> str:
        """Return one line: files by format, their size, and that they are a stream."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.formats().items())
        known = [identity.size for identity in self._identities if identity.size is not None]
        size = f"{sum(known) / 1e6:,.1f} MB" if len(known) == len(self.files) else "of unknown size"
        where = self.files[0].url + (", ..." if len(self.files) > 1 else "")
        return f"a stream of {len(self.files)} files ({kinds}), {size}, in blocks of {self._block:,} rows: {where}"

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, start: int = 0) -> Iterator[Row | BadRow]:
        """Yield the rows, from the one with this number on; where reading stopped there, it simply goes on."""
        ahead = self._taken(start)
        try:
            if ahead.next == start + 1 and ahead.last is not None:
                yield ahead.last
            yield from ahead.rows()
        finally:
            self._park(ahead)

    def _taken(self, start: int) -> Ahead:
        parked, self._parked = self._parked, None
        if parked is not None:
            again = parked.next == start + 1 and parked.last is not None
            if parked.usable and (parked.next == start or again):
                return parked
            parked.close()
        # The thread holds nothing that refers to the source: one that nobody holds has to end its thread.
        fetcher = Fetcher(
            self.files, self._identities, self.reading, self.access, self._marks, self._block, self.counts
        )
        ahead = Ahead(start, lambda: fetcher.rows(start), self._most, fetcher.closed, fetcher.abort)
        self._readers.add(ahead)
        return ahead

    def _park(self, ahead: Ahead) -> None:
        if self._parked is not None:
            self._parked.close()
        self._parked = ahead if ahead.usable else None
        if self._parked is None:
            ahead.close()

    def __enter__(self) -> StreamSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading ahead, also for a reader that is held where an error arose."""
        for reader in list(self._readers):
            reader.close()
        self._parked = None

    def __del__(self) -> None:
        self.close()
