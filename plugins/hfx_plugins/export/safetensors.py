"""The export that plain transformers loads."""

from __future__ import annotations

from pathlib import Path

from hfx import Plugin, Run, hookimpl


class Safetensors(Plugin):
    """Writes model and tokenizer with `save_pretrained`, in safetensors."""

    max_shard_size: str = "5GB"
    """Largest file; bigger models are cut into several."""

    @hookimpl
    def hfx_export(self, run: Run, path: Path) -> Path:
        with run.backend.exporting() as state:
            if run.world.is_main:
                model = run.model
                model.save_pretrained(path, state_dict=state, max_shard_size=self.max_shard_size)
                run.tokenizer.save_pretrained(path)
        return path
