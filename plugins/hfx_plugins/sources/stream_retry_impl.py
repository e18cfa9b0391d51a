"""A file's bytes whatever happens to the connection: from the byte at which it broke, for so many minutes."""

from __future__ import annotations

import threading
import time

from hfx.errors import DataError
from hfx_plugins.sources.retry_impl import Closed, Patience, Trouble
from hfx_plugins.sources.stream_transport_impl import Access, Body, Identity

LEAST_RATE = 100
"""Bytes a second below which a connection is given up for a new one."""


def patience(url: str, access: Access, closed: threading.Event | None = None) -> Patience:
    """Return the pauses between attempts to read a file."""
    advice = "go on with --resume when it is back, or raise stream.retry_minutes"
    return Patience(f"'{url}'", access.patience, advice, closed)


class Bytes:
    """A file's bytes in order, from an offset on, whatever happens to the connection."""

    def __init__(
        self, url: str, expected: Identity, access: Access, closed: threading.Event, offset: int = 0,
        stop: int | None = None,
    ) -> None:  # fmt: skip
        self.url, self.offset = url, offset
        self.discarded = 0
        """Bytes read once more because the server serves no ranges."""
        self._stop, self._end = stop, expected.size if stop is None else stop
        self._expected, self._access, self._closed = expected, access, closed
        self._patience = patience(url, access, closed)
        self._body: Body | None = None
        self._held = b""
        self._since_trouble = 0
        self._watched_bytes, self._watched_seconds = 0, 0.0

    def read(self) -> bytes:
        """Return the next bytes; nothing at the end."""
        while self._end is None or self.offset < self._end:
            if self._closed.is_set():
                raise Closed
            try:
                data = self._next()
            except Trouble as trouble:
                self.close()
                self._since_trouble = 0
                self._patience.wait(trouble, f" at byte {self.offset:,}")
                continue
            self.offset += len(data)
            self._since_trouble += len(data)
            if self._since_trouble >= LEAST_RATE * self._access.timeout:
                self._patience.calm()
            return data
        return b""

    def _next(self) -> bytes:
        if self._body is None:
            self._open()
        if self._held:
            data, self._held = self._held, b""
            return data
        data = self._watched()
        if not data and self._end is not None:
            raise Trouble("the file ended early")
        return data

    def _open(self) -> None:
        body = self._access.open(self.url, self.offset, self._stop)
        self._body, self._held = body, b""
        self._watched_bytes, self._watched_seconds = 0, 0.0
        if self._expected.differs(body.identity):
            self.close()
            raise DataError(
                f"'{self.url}' changed while it was read (at byte {self.offset:,}); begin anew with another --output, "
                "or bring back the file that it was"
            )
        while body.offset < self.offset:  # a server without ranges: what was read before comes once more
            data = self._watched()
            if not data:
                raise Trouble("the file ended early")
            beyond = max(0, body.offset - self.offset)
            self.discarded += len(data) - beyond
            self._held = data[len(data) - beyond :] if beyond else b""

    def _watched(self) -> bytes:
        """Read on, and notice a server that drips: data comes, but hardly any."""
        if self._body is None:
            raise AssertionError("nothing is open")
        started = time.monotonic()
        data = self._body.read()
        self._watched_bytes += len(data)
        self._watched_seconds += time.monotonic() - started
        if self._watched_seconds >= self._access.timeout:
            if data and self._watched_bytes < LEAST_RATE * self._watched_seconds:
                raise Trouble(f"only {self._watched_bytes} bytes in {self._watched_seconds:.0f} s")
            self._watched_bytes, self._watched_seconds = 0, 0.0
        return data

    def abort(self) -> None:
        """Make a waiting `read` of another thread return."""
        if (body := self._body) is not None:
            body.abort()

    def close(self) -> None:
        """Let go of the connection."""
        if self._body is not None:
            self._body.close()
            self._body = None
