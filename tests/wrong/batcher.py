"""Batchers that are wrong."""

from __future__ import annotations

from typing import Any

from hfx import Plugin, hookimpl


def _padding(run: Any, kind: str, window: int = 1) -> Any:
    from wrong import batcher_impl

    return getattr(batcher_impl, kind)(dict(run.task.collated()), window=window)


class ZeroLabels(Plugin):
    """Pads labels with a token."""

    @hookimpl
    def hfx_batcher(self, run: Any) -> Any:
        return _padding(run, "ZeroLabels")


class Cutting(Plugin):
    """Cuts every batch to eight tokens."""

    @hookimpl
    def hfx_batcher(self, run: Any) -> Any:
        return _padding(run, "Cutting")


class Losing(Plugin):
    """Loses every fifth row."""

    @hookimpl
    def hfx_batcher(self, run: Any) -> Any:
        return _padding(run, "Losing")


class Leaking(Plugin):
    """Packs two rows into a sequence, where the second sees the first."""

    @hookimpl
    def hfx_batcher(self, run: Any) -> Any:
        batcher = _padding(run, "Leaking", window=2)
        batcher.most = run.config.seq_length
        return batcher


class Overfull(Plugin):
    """Packs two rows into a sequence, however long they are."""

    @hookimpl
    def hfx_batcher(self, run: Any) -> Any:
        batcher = _padding(run, "Leaking", window=2)
        batcher.most = 10_000
        return batcher


class Chance(Plugin):
    """Groups rows by chance."""

    @hookimpl
    def hfx_batcher(self, run: Any) -> Any:
        return _padding(run, "Chance", window=4)


class Single(Plugin):
    """Puts the batch into one line more than there are sequences."""

    @hookimpl
    def hfx_batcher(self, run: Any) -> Any:
        return _padding(run, "Wide")


_LOSS = "the loss of a batch is that of its examples"
WRONG = {
    ZeroLabels: {"padding carries no label", _LOSS},
    Cutting: {"no token is lost", "padding carries no label"},
    Single: {"batches have one line for each sequence", "no token is lost", "padding carries no label"},
    Losing: {"groups hold every row once"},
    Leaking: {_LOSS},
    Overfull: {"groups fit a sequence", _LOSS},
    Chance: {"the same rows have the same groups", "resumes at every step", "is the same on any number of ranks"},
}
