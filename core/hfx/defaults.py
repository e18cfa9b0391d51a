"""Who provides a role that nobody claimed. Here alone, so that listing plugins imports no pydantic."""

from __future__ import annotations

DEFAULTS: dict[str, str] = {
    "launch": "local",
    "run": "loop",
    "source": "files",
    "tokenizer": "model_tokenizer",
    "task": "causal_lm",
    "sampler": "shuffle",
    "batcher": "padding",
    "precision": "auto_precision",
    "backend": "auto_backend",
    "model": "pretrained",
    "optimizer": "adamw",
    "schedule": "cosine",
    "export": "safetensors",
}
"""Who provides a role that nobody claimed."""
WITHOUT_MODEL: dict[str, str] = {"tokenizer": "bpe", "model": "scratch"}
"""The same for a run that starts from no model."""
DEFAULT_LISTENERS: tuple[str, ...] = ("progress",)
"""Plugins without a role that are on unless somebody drops them."""
