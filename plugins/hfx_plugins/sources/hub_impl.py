"""The source that loads data sets of the hub at one commit, and reads them from the cache of `datasets`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hfx import BadRow, Place, Row, reveal
from hfx.errors import ConfigError, DataError, HfxError, RemoteError, nearest

VERSION = 1
"""Raised when a row is read as something else than before."""
_BATCH = 1_000
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Asked:
    """What is asked of the hub: a part of a data set, at a revision."""

    source: str
    dataset: str
    config: str | None
    split: str
    revision: str | None
    columns: tuple[str, ...] | None
    token: str | None

    def loaded(self, memory: Path) -> Part:
        """Load it, from the hub or from what is cached.

        Raises:
            ConfigError: there is no such configuration, split or column.
            DataError: there is no such data set or revision, or it cannot be read.
            RemoteError: the hub cannot be reached, or refuses.
        """
        if Path(self.dataset).is_dir():
            return Part(self, self._load(None), "")
        commit = _Commits(self, memory).commit()
        table = self._load(commit)
        held = Path(table.cache_files[0]["filename"]).parent.name if table.cache_files else commit or ""
        if commit and held != commit:
            # Without the hub, `datasets` takes the newest commit in its cache, whichever was asked for.
            raise DataError(
                f"'{self.dataset}' is cached at commit {held}, and not at {commit}, and the hub cannot be reached; "
                "go online, or give the cached one with --hub.revision"
            )
        return Part(self, table, held)

    def _load(self, commit: str | None) -> Any:
        import datasets

        token = reveal(self.token) if self.token else None
        try:
            table = datasets.load_dataset(
                self.dataset, self.config, split=self.split, revision=commit, token=token, streaming=False
            )
        except datasets.exceptions.DatasetNotFoundError as error:
            raise DataError(f"{_one_line(error)}; look at 'data' and hub.revision") from error
        except datasets.exceptions.DatasetGenerationError as error:
            cause = _one_line(error.__cause__ or error)
            raise DataError(f"'{self.dataset}' cannot be read: {cause}; look at its files on the hub") from error
        except ValueError as error:
            raise ConfigError(f"'{self.dataset}': {_one_line(error)}; look at hub.config and hub.split") from error
        except (ConnectionError, FileNotFoundError) as error:
            raise RemoteError(
                f"'{self.dataset}' is not cached here, and the hub cannot be reached: {_one_line(error)}; "
                "go online once"
            ) from error
        return table.select_columns(self._chosen(table))

    def _chosen(self, table: Any) -> list[str]:
        for name in self.columns or ():
            if name not in table.column_names:
                hint = nearest(name, table.column_names)
                raise ConfigError(
                    f"'{self.dataset}' has no column '{name}';{hint} it has {', '.join(table.column_names)}"
                )
        chosen = list(self.columns or table.column_names)
        for name in chosen:
            kind = type(table.features[name]).__name__
            if kind in ("Image", "Audio", "Video", "Pdf", "Nifti"):
                raise ConfigError(
                    f"the column '{name}' of '{self.dataset}' holds {kind.lower()} data, which is no text; name the "
                    "columns to read with --hub.columns"
                )
        return chosen


class _Commits:
    """Which commit a revision is: what the hub says, or what it said the last time."""

    def __init__(self, asked: Asked, memory: Path) -> None:
        self._asked = asked
        key = hashlib.sha256(json.dumps([asked.dataset, asked.revision]).encode()).hexdigest()[:32]
        self._file = memory / key

    def commit(self) -> str | None:
        """Return the commit's hash; None where the hub cannot be reached and never said so."""
        revision = self._asked.revision
        if revision and _COMMIT.fullmatch(revision):
            return revision
        found = self._said()
        if found is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(found)
            return found
        if self._file.is_file():
            return self._file.read_text()
        if revision:
            raise RemoteError(
                f"the hub cannot be reached, and which commit '{revision}' of '{self._asked.dataset}' is was never "
                "asked here; go online once, or give the commit's hash"
            )
        return None

    def _said(self) -> str | None:
        """Ask the hub; None where it cannot be reached."""
        from huggingface_hub import HfApi, errors

        name, revision = self._asked.dataset, self._asked.revision
        token = reveal(self._asked.token) if self._asked.token else None
        try:
            sha = HfApi(token=token).dataset_info(name, revision=revision).sha
        except errors.GatedRepoError as error:
            raise self._refused(
                "is gated; ask for access on its page, and give a token with --hub.token env:NAME"
            ) from error
        except errors.RepositoryNotFoundError as error:
            what = (
                "does not exist on the hub, or is private; look at its name, or give a token with --hub.token env:NAME"
            )
            raise self._refused(what, DataError) from error
        except errors.RevisionNotFoundError as error:
            raise self._refused(f"has no revision '{revision}'; look at hub.revision", DataError) from error
        except errors.HFValidationError as error:
            raise self._refused("is no name of a data set, nor a folder; give OWNER/NAME", DataError) from error
        except errors.HfHubHTTPError as error:
            if error.response.status_code >= 500:
                return None
            raise self._refused(f"is refused: {_one_line(error)}") from error
        except (_http_error(errors), OSError):
            return None
        return str(sha) if sha else None

    def _refused(self, what: str, kind: type[HfxError] = RemoteError) -> HfxError:
        return kind(f"the data set '{self._asked.dataset}' {what}")


@dataclass(frozen=True)
class Part:
    """A loaded part of a data set."""

    asked: Asked
    table: Any
    commit: str
    """Empty for a folder."""

    def mark(self) -> list[Any]:
        """Return what decides its rows."""
        asked = self.asked
        content = [self.commit] if self.commit else [_content(file["filename"]) for file in self.table.cache_files]
        where = asked.dataset if self.commit else ""
        return [asked.source, where, asked.config, asked.split, list(self.table.column_names), *content]

    def rows(self, start: int) -> Iterator[Row | BadRow]:
        """Yield the rows from one on."""
        labels = {
            name: feature.names
            for name, feature in self.table.features.items()
            if type(feature).__name__ == "ClassLabel"
        }
        arrow = self.table.with_format("arrow")
        at = f"@{self.commit[:12]}" if self.commit else ""
        where = f"{self.asked.dataset}{at}/{self.asked.split}"
        for begin in range(start, len(self.table), _BATCH):
            for number, values in enumerate(arrow[begin : begin + _BATCH].to_pylist(), start=begin + 1):
                yield _row(Place(self.asked.source, where, number), values, labels)


def _row(place: Place, values: dict[str, Any], labels: dict[str, list[str]]) -> Row | BadRow:
    for name, value in values.items():
        if isinstance(value, bytes):
            return BadRow(place, f"the column '{name}' holds bytes; leave it out with --hub.columns")
        if name in labels and value is not None:
            # -1 stands for a label that is kept secret, as those of test splits often are.
            values[name] = labels[name][value] if value >= 0 else None
    return Row(values, place)


def _http_error(errors: Any) -> type[Exception]:
    """Return the base of what the hub's http library raises; which library that is depends on the version."""
    found: type[Exception] = next(base for base in errors.HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    return found


def _content(file: str) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    with open(file, "rb", buffering=0) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")


class HubSource:
    """The rows of parts of data sets, one after the other."""

    indexed = True

    def __init__(self, asked: tuple[Asked, ...], memory: Path) -> None:
        self._asked, self._memory = asked, memory

    @cached_property
    def parts(self) -> list[Part]:
        """The parts, loaded when they are first asked for."""
        return [asked.loaded(self._memory) for asked in self._asked]

    def fingerprint(self) -> str:
        """Return a hash of data sets, commits, splits and columns."""
        return hashlib.sha256(json.dumps([VERSION, [part.mark() for part in self.parts]]).encode()).hexdigest()

    def read(self, start: int = 0) -> Iterator[Row | BadRow]:
        """Yield the rows, from the one with this number on."""
        for part in self.parts:
            size = len(part.table)
            if start < size:
                yield from part.rows(start)
            start = max(0, start - size)

    def formats(self) -> dict[str, int]:
        """Return how many data sets there are."""
        return {"hub": len(self._asked)}

    def pinned(self) -> dict[str, Any]:
        """Return the options that fix what was read: the commit, where there is one data set of the hub."""
        commits = {part.commit for part in self.parts}
        return {"revision": commits.pop()} if len(self.parts) == 1 and all(commits) else {}

    def summary(self) -> str:
        """Return one line: each data set with its commit, to be given as `hub.revision`."""
        told = [
            f"{part.asked.dataset} ({f'commit {part.commit}' if part.commit else 'a folder'}), split {part.asked.split}"
            for part in self.parts
        ]
        return "; ".join(told)
