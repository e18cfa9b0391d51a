"""The export that plain transformers loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hfx import Plugin, Run, hookimpl
from hfx.errors import StorageError


class Safetensors(Plugin):
    """Writes model and tokenizer with `save_pretrained`, in safetensors."""

    max_shard_size: str = "5GB"
    """Largest file; bigger models are cut into several."""

    @hookimpl
    def hfx_export(self, run: Run, path: Path) -> Path:
        """Write them.

        Raises:
            StorageError: the disk is full or refuses.
        """
        with run.backend.exporting() as state:
            if run.world.is_main:
                with _without_bars(), _explained(path):
                    run.model.save_pretrained(path, state_dict=state, max_shard_size=self.max_shard_size)
                    run.tokenizer.save_pretrained(path)
        return path


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers' progress bar out of the run's own display."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Name the disk where it fails: safetensors and tokenizers have one exception for that and for everything else."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        cause = str(error).rpartition("I/O error: ")[2]
        if "(os error" not in cause:
            raise
        what = f"cannot write the model to '{path}': {cause.partition(' (os')[0]}"
        raise StorageError(f"{what}; free space, or choose another place") from error
