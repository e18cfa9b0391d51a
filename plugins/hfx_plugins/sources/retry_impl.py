"""Trying again what may be over in a while: with growing pauses, for so many minutes. Shared by the remote sources."""

from __future__ import annotations

import email.utils
import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from hfx.errors import RemoteError

T = TypeVar("T")
TEMPORARY = (408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)
"""Answers of a web server that may be others in a while."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 60.0
logger = logging.getLogger("hfx")


class Trouble(Exception):  # noqa: N818  reads as what happened
    """What may be over in a while: a timeout, a cut connection, a busy server, a lock."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the server asks to be left alone for."""


class Closed(Exception):  # noqa: N818  reads as what happened
    """The reader was closed while it waited."""


class Patience:
    """Pauses between attempts, until trouble has lasted too long."""

    def __init__(self, what: str, seconds: float, advice: str, closed: threading.Event | None = None) -> None:
        self._what, self._seconds, self._advice = what, seconds, advice
        self._closed = closed or threading.Event()
        self._since: float | None = None
        self._attempts = 0
        # Its own, so that neither the seed of a run decides pauses nor pauses what a run draws.
        self._random = random.Random()

    def calm(self) -> None:
        """Take note that it works again."""
        self._since, self._attempts = None, 0

    def wait(self, trouble: Trouble, at: str = "") -> None:
        """Pause before the next attempt; `at` says where it went wrong (` at byte 7`).

        Raises:
            RemoteError: the time is up.
            Closed: nobody waits for it any more.
        """
        if self._closed.is_set():
            raise Closed
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        left = self._seconds - (now - self._since)
        if left <= 0:
            lasted = f" for {self._seconds / 60:g} minutes" if self._seconds else ""
            raise RemoteError(f"{self._what} fails{at}{lasted}: {trouble}; {self._advice}") from trouble
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._attempts, 16)) * self._random.uniform(0.5, 1.5)
        pause = min(max(pause, trouble.wait), left)
        if self._attempts in (0, 3) or pause > 10:
            logger.warning("%s%s: %s; trying again in %.1f s", self._what, at, trouble, pause)
        self._attempts += 1
        if self._closed.wait(pause):
            raise Closed


def persistently(what: Callable[[], T], patience: Patience) -> T:
    """Call until it works, or the time is up."""
    while True:
        try:
            return what()
        except Trouble as trouble:
            patience.wait(trouble)


def retry_after(value: str | None) -> float:
    """Return the seconds of a `Retry-After` header: a number, or a date."""
    if not value:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    with suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
