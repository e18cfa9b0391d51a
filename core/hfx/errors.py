"""Every failure hfx names, as a tree; whatever else escapes is a bug.

    HfxError                    exit 1
    ├── UsageError              exit 2   wrong words on the command line
    │   └── ConfigError         exit 2   a wrong key or value in a config, a policy or an option
    │       └── PluginNotFound  exit 2   nobody offers that name, or more than one does
    ├── IncompatibleError       exit 2   plugins that cannot be combined, or not on this device
    ├── DataError               exit 1   data that is empty, unreadable, or carries nothing to learn from
    ├── ModelError              exit 1   a model that cannot be loaded, or does not fit its tokenizer
    ├── DeviceMemoryError       exit 1   the device ran out of memory
    ├── DivergedError           exit 1   a training that diverges, and goes back to its checkpoints in vain
    ├── CollectiveError         exit 1   ranks lost each other or disagree
    ├── StorageError            exit 1   a disk that is full or refuses, a damaged checkpoint
    ├── RemoteError             exit 1   a hub or the network
    └── PluginError             exit 1   a plugin raised, or returned what its hook does not allow

Messages are one or two lines: what is wrong; what to do. An IncompatibleError may have such a line for each problem.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HfxError(Exception):
    """Base of every failure that hfx names."""

    exit_code = 1


class UsageError(HfxError):
    """Wrong words on the command line or in a call."""

    exit_code = 2


class ConfigError(UsageError):
    """A wrong key or value in a config, a policy or an option."""


class PluginNotFound(ConfigError):  # noqa: N818  reads as what happened
    """No plugin of that name, or more than one."""


class IncompatibleError(HfxError):
    """Plugins that cannot be combined, or not on this device."""

    exit_code = 2


class DataError(HfxError):
    """Data that is empty, unreadable, or carries nothing to learn from."""


class ModelError(HfxError):
    """A model that cannot be loaded, or does not fit its tokenizer."""


class DeviceMemoryError(HfxError):
    """The device ran out of memory."""

    micro_batch_size: int | None = None
    """What a launcher may start the ranks again with, where a step's passes ran out."""


class DivergedError(HfxError):
    """A training that diverges, and goes back to its checkpoints in vain or has none."""


class CollectiveError(HfxError):
    """Ranks lost each other or disagree."""


class StorageError(HfxError):
    """A disk that is full or refuses, or a damaged checkpoint."""


class RemoteError(HfxError):
    """A hub or the network."""


class PluginError(HfxError):
    """A plugin raised, or returned what its hook does not allow."""


def nearest(word: str, candidates: Iterable[str], prefix: str = "") -> str:
    """Return ` did you mean 'lion'?` for the candidate nearest to the word, or nothing."""
    found = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return f" did you mean '{prefix}{found[0]}'?" if found else ""
