"""The folder of an exported model: what hfx writes into it, and what an earlier export left there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

_OURS = ("*config.json", "model*.safetensors", "adapter_model.safetensors", "*.index.json", "tokenizer*", "vocab.*",
         "special_tokens_map.json", "added_tokens.json", "merges.txt", "*.model", "chat_template.*")  # fmt: skip
"""What `save_pretrained` of models, adapters and tokenizers writes."""


def is_exported(file: Path) -> bool:
    """Say whether a file has a name that an export writes."""
    return not file.is_dir() and any(fnmatchcase(file.name, name) for name in _OURS)


@contextmanager
def written_anew(output: Path) -> Iterator[None]:
    """Drop, once an export has ended, what an earlier one left in the folders it wrote to.

    A model that is whole beside the adapters of another export would be loaded with them. Files of others stay, and so
    do folders that this export left alone.
    """
    before = _marks(output)
    yield
    after = _marks(output)
    written = {path.parent for path, mark in after.items() if before.get(path) != mark}
    for path, mark in after.items():
        if path.parent in written and before.get(path) == mark:
            path.unlink()


def _marks(output: Path) -> dict[Path, tuple[int, ...]]:
    """Return what tells of each exported file whether it was written since."""
    folders = [folder for folder in (output / "model", *output.glob("model-*")) if folder.is_dir()]
    files = [file for folder in folders for file in folder.iterdir() if is_exported(file)]
    return {file: _mark(os.stat(file)) for file in files}


def _mark(told: os.stat_result) -> tuple[int, ...]:
    return told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns
