"""The source that loads data sets of the hub at one commit, and reads them from the cache of `datasets`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from hfx import BadRow, Place, Row, reveal
from hfx.errors import ConfigError, DataError, HfxError, RemoteError, nearest
from hfx_plugins.sources.hub_reach_impl import Commits, http_error, one_line, patience, trouble_of, watched
from hfx_plugins.sources.retry_impl import persistently

VERSION = 1
"""Raised when a row is read as something else than before."""
_BATCH = 1_000
logger = logging.getLogger("hfx")


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
    patience: float
    """Seconds for which what fails is tried again."""

    def loaded(self, memory: Path) -> Part:
        """Load it, from the hub or from what is cached.

        Raises:
            ConfigError: there is no such configuration, split or column.
            DataError: there is no such data set or revision, or it cannot be read.
            RemoteError: the hub cannot be reached, or refuses.
        """
        calm = patience(self.dataset, self.patience)
        if Path(self.dataset).is_dir():
            return Part(self, persistently(lambda: self._load(None, online=True), calm), "")
        commits = Commits(self.dataset, self.revision, self.token, memory, calm)
        commit = commits.commit()
        if commits.unreached:
            table = self._cached(commit, commits.unreached)
        else:
            table = persistently(lambda: self._load(commit, online=True), calm)
        held = _held(table, commit)
        if commit and held != commit:
            # Without the hub, `datasets` takes the newest commit in its cache, whichever was asked for.
            raise DataError(
                f"'{self.dataset}' is cached at commit {held}, and not at {commit}, and the hub cannot be reached; "
                "go online, or give the cached one with --hub.revision"
            )
        return Part(self, table, held)

    def _cached(self, commit: str | None, why: Exception) -> Any:
        try:
            table = self._load(commit, online=False)
        except RemoteError as error:
            if isinstance(why, RemoteError):
                raise why from None
            raise RemoteError(
                f"'{self.dataset}' is not cached here, and the hub cannot be reached: {one_line(why)}; go online once"
            ) from error
        logger.warning("the hub cannot be reached (%s), so '%s' is read as it is cached", one_line(why), self.dataset)
        return table

    def _load(self, commit: str | None, online: bool) -> Any:
        """Load a commit; without the hub, whatever is cached."""
        import datasets

        token = reveal(self.token) if self.token else None
        try:
            with watched(online) as fallback:
                table = datasets.load_dataset(
                    self.dataset, self.config, split=self.split, revision=commit, token=token, streaming=False
                )
            if fallback.error and online and _held(table, commit) != commit:
                raise fallback.error
        except (OSError, ValueError, http_error(), datasets.exceptions.DatasetsError) as error:
            if online and (trouble := trouble_of(error)):
                raise trouble from error
            raise self._told(error) from error
        except (RuntimeError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
            # `datasets` refuses scripts, and says of a card that is no YAML what its parser says.
            raise DataError(
                f"'{self.dataset}' cannot be read: {one_line(error)}; look at its files on the hub"
            ) from error
        return table.select_columns(self._chosen(table))

    def _told(self, error: Exception) -> HfxError:
        import datasets
        from huggingface_hub.errors import LocalEntryNotFoundError

        if isinstance(error, datasets.exceptions.DatasetNotFoundError):
            return DataError(f"{one_line(error)}; look at 'data' and hub.revision")
        unreadable = isinstance(error, FileNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        if unreadable or isinstance(error, datasets.exceptions.DatasetGenerationError):
            cause = one_line(error.__cause__ or error)
            return DataError(f"'{self.dataset}' cannot be read: {cause}; look at its files on the hub")
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            return ConfigError(f"'{self.dataset}': {one_line(error)}; look at hub.config and hub.split")
        return RemoteError(f"'{self.dataset}' cannot be loaded: {one_line(error)}; look at hub.dataset")

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


def _held(table: Any, commit: str | None) -> str:
    """Return the commit that was loaded."""
    return Path(table.cache_files[0]["filename"]).parent.name if table.cache_files else commit or ""


def _content(file: str) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    with open(file, "rb", buffering=0) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


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
