"""Where a plugin is tried: real runs, resolved as for a user, on a tiny model, a tiny tokenizer and forty rows."""

from __future__ import annotations

import json
import logging
import random
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hfx.activation import Activation
from hfx.discovery import found
from hfx.errors import HfxError
from hfx.implementations import implementations, provided
from hfx.plugin import Plugin, snake_case
from hfx.policy import Policy, load_policy
from hfx.protocols import World
from hfx.quiet import quieten
from hfx.resolve import Resolved, resolve
from hfx.run import Run
from hfx.testing.tiny import pretrained_folder, tiny_rows, write_rows

FIELDS: dict[str, Any] = {
    "steps": 7, "batch_size": 4, "micro_batch_size": 4, "seq_length": 32, "seed": 7, "eval_share": 0.1,
}  # fmt: skip
SMALL: dict[str, Any] = {"bpe": {"vocab_size": 300}, "scratch": {"hidden_size": 32, "layers": 2}}
"""The defaults of a run without a model, in a size for checks."""


@contextmanager
def calmly() -> Iterator[None]:
    """Keep a check's threads, random state, warnings and remarks to itself."""
    quieten()
    threads, states = torch.get_num_threads(), (random.getstate(), np.random.get_state())
    logger = logging.getLogger("hfx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])


@dataclass(frozen=True)
class Bench:
    """A plugin under test, and the runs to try it in."""

    name: str
    plugin_class: type[Plugin]
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(
        cls,
        plugin: str | type[Plugin],
        options: Mapping[str, Any],
        config: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]] | None,
    ) -> Bench:
        """Return the bench of a plugin, given by name (under the machine's policy) or as a class."""
        name, plugin_class = (snake_case(plugin.__name__), plugin) if isinstance(plugin, type) else _named(plugin)
        return cls(name, plugin_class, options, config, tiny_rows() if rows is None else rows)

    @cached_property
    def folder(self) -> Path:
        """A folder for files, prepared data and runs; it goes when the bench goes."""
        return Path(self._temporary.name)

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="hfx-check-")

    def fresh(self, name: str) -> Path:
        """Return a new folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def plugin(self, **options: Any) -> Plugin:
        """Return the plugin with its options."""
        return self.plugin_class(**{**self.options, **options})

    def provides(self, role: str) -> bool:
        """Say whether the plugin provides the role."""
        return role in provided(self.plugin_class)

    def implements(self, hook: str) -> bool:
        """Say whether the plugin provides, wraps or listens to the hook."""
        return hook in implementations(self.plugin_class)

    # ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def data(self) -> Path:
        """The training rows as a file."""
        return write_rows(self.rows, self.folder / "train.jsonl")

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The fields of a plain run that the plugin has no objection to: with a model and data, or without."""
        tried: list[str] = []
        given = {"model": str(pretrained_folder()), "data": str(self.data)}
        for names in (("model", "data"), ("data",), ("model",), ()):
            fields = {**FIELDS, **{name: given[name] for name in names}, **self.config}
            try:
                self._open(fields, [self.plugin()]).close()
            except HfxError as error:
                tried.append(str(error))
            else:
                return fields
        raise AssertionError(f"the plugin takes part in no plain run: {tried[0]}")

    @contextmanager
    def run(
        self,
        *others: Plugin,
        active: bool = True,
        before: Sequence[Plugin] = (),
        output: Path | None = None,
        **fields: Any,
    ) -> Iterator[Run]:
        """Yield a run in which the plugin is active, with others after (or before) it, and close it in the end."""
        plugins = [*before, *([self.plugin()] if active else []), *others]
        run = self._open({**self.fields, **fields}, plugins, output)
        try:
            yield run
        finally:
            run.close()

    def _open(self, fields: Mapping[str, Any], objects: Sequence[Plugin], output: Path | None = None) -> Run:
        run = Run(self._resolved(fields, objects), output or self.fresh("run"), World())
        run.cache = self.folder / "cache"
        run.hooks.refuse(run=run)
        return run

    def _resolved(self, fields: Mapping[str, Any], objects: Sequence[Plugin]) -> Resolved:
        others: dict[str, Any] = {} if self.name == "progress" else {"no:progress": {}}
        small = {} if "model" in fields else SMALL
        plugins = {"fp32": {}, **small, **others, **fields.get("plugins", {})}
        return resolve(mapping={**fields, "plugins": plugins}, plugin_objects=objects, policy=Policy())

    def with_options(self, **options: Any) -> Bench:
        """Return a bench of its own for the plugin with other options."""
        return replace(self, options={**self.options, **options})


def _named(name: str) -> tuple[str, type[Plugin]]:
    activation = Activation(found(), load_policy())
    ref = activation.pick(name, typed=True)
    return ref.name, activation.load(ref, ref.name)


def as_json(value: Any, what: str) -> Any:
    """Return what a JSON value is after being written and read again, and fail if it is none."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what} is no JSON value: {error}") from None
