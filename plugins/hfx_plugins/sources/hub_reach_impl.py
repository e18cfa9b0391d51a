"""Reaching the hub: which commit a revision is, what may be over in a while, and going without it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfx import reveal
from hfx.errors import DataError, HfxError, RemoteError
from hfx_plugins.sources.retry_impl import TEMPORARY, Patience, Trouble, persistently, retry_after

_COMMIT = re.compile(r"[0-9a-f]{40}")
_UNREACHED = {"ConnectError", "ConnectTimeout", "ProxyError", "OfflineModeIsEnabled"}
"""What is raised where nobody answers: there is no network, or a wall before it."""


def patience(dataset: str, seconds: float) -> Patience:
    """Return the pauses between attempts to load a data set."""
    return Patience(f"'{dataset}' on the hub", seconds, "try again when it is back, or raise hub.retry_minutes")


@dataclass
class Commits:
    """Which commit a revision is: what the hub says, or what it said the last time."""

    dataset: str
    revision: str | None
    token: str | None
    memory: Path
    patience: Patience
    unreached: Exception | None = None
    """Why the hub did not answer; None where it did."""

    def commit(self) -> str | None:
        """Return the commit's hash; None where the hub cannot be reached and never said so."""
        found = self._said()
        if self._pinned:
            return self.revision
        key = hashlib.sha256(json.dumps([self.dataset, self.revision]).encode()).hexdigest()[:32]
        file = self.memory / key
        if found is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(found)
            return found
        if file.is_file():
            return file.read_text()
        if self.revision and self.unreached:
            raise RemoteError(
                f"the hub cannot be reached ({one_line(self.unreached)}), and which commit '{self.revision}' of "
                f"'{self.dataset}' is was never asked here; go online once, or give the commit's hash"
            )
        return None

    @property
    def _pinned(self) -> bool:
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def _said(self) -> str | None:
        try:
            return persistently(self._asked, self.patience)
        except RemoteError as error:
            if isinstance(error.__cause__, Trouble):  # the time is up
                self.unreached = error
            elif not self._pinned:
                raise
        except DataError:
            if not self._pinned:  # loading it says the same, or finds it in the cache
                raise
        return None

    def _asked(self) -> str | None:
        """Ask the hub; None where nobody answers."""
        from huggingface_hub import HfApi, errors

        token = reveal(self.token) if self.token else None
        try:
            sha = HfApi(token=token).dataset_info(self.dataset, revision=self.revision).sha
        except (OSError, ValueError, http_error()) as error:
            if isinstance(error, errors.HFValidationError) or not isinstance(error, OSError | http_error()):
                raise self._refused("is no name of a data set, nor a folder; give OWNER/NAME", DataError) from error
            if _UNREACHED & {kind.__name__ for kind in type(error).__mro__}:
                self.unreached = error
                return None
            if trouble := trouble_of(error):
                raise trouble from error
            raise self._told(error) from error
        return str(sha) if sha else None

    def _told(self, error: Exception) -> HfxError:
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            return self._refused("is gated; ask for access on its page, and give a token with --hub.token env:NAME")
        if isinstance(error, errors.RepositoryNotFoundError):
            what = "does not exist on the hub, or is private; look at its name, or give a token with "
            return self._refused(f"{what}--hub.token env:NAME", DataError)
        if isinstance(error, errors.RevisionNotFoundError):
            return self._refused(f"has no revision '{self.revision}'; look at hub.revision", DataError)
        return self._refused(f"is refused: {one_line(error)}")

    def _refused(self, what: str, kind: type[HfxError] = RemoteError) -> HfxError:
        return kind(f"the data set '{self.dataset}' {what}")


def trouble_of(error: BaseException) -> Trouble | None:
    """Return what may be over in a while, where that is behind an error."""
    found: BaseException | None = error
    while found is not None:
        response = getattr(found, "response", None)
        if response is not None:
            status = response.status_code
            if status not in TEMPORARY:
                return None
            reason = getattr(response, "reason_phrase", "") or getattr(response, "reason", "")
            return Trouble(f"{status} {reason}".strip(), retry_after(response.headers.get("Retry-After")))
        kinds = {kind.__name__ for kind in type(found).__mro__}
        if "TransportError" in kinds or isinstance(found, ConnectionError | TimeoutError):
            return Trouble(one_line(found) or type(found).__name__)
        found = found.__cause__ or found.__context__
    return None


def http_error() -> type[Exception]:
    """Return the base of what the hub's http library raises; which library that is depends on the version."""
    from huggingface_hub import errors

    found: type[Exception] = next(base for base in errors.HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    return found


def one_line(error: BaseException) -> str:
    """Return what an error says."""
    return " ".join(str(error).split()).rstrip(".")


class Fallback(logging.Filter):
    """Notes the error for which `datasets` silently takes what it has in its cache, whichever commit that is."""

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep that line, and no other, from the log."""
        if "latest cached version" not in record.getMessage():
            return True
        self.error = sys.exc_info()[1]
        return False


@contextmanager
def watched(online: bool) -> Iterator[Fallback]:
    """Watch `datasets` load: without the lines on retries of its own, and at once without the hub where told so."""
    import datasets
    from huggingface_hub import constants

    retries, loading = (logging.getLogger(name) for name in ("huggingface_hub.utils._http", "datasets.load"))
    level, fallback = retries.level, Fallback()
    # Both libraries read the environment only when they are imported.
    switches: list[tuple[Any, str]] = [
        (module, name)
        for module in (constants, datasets.config)
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
        if hasattr(module, name) and not online
    ]
    before = [(module, name, getattr(module, name)) for module, name in switches]
    retries.setLevel(logging.ERROR)
    loading.addFilter(fallback)
    for module, name in switches:
        setattr(module, name, True)
    try:
        yield fallback
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        loading.removeFilter(fallback)
        retries.setLevel(level)
