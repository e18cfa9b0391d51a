"""Who provides each role where nobody says otherwise, and the demo recipe; plain tables, so that listing stays fast."""

from __future__ import annotations

from typing import Any

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
DEFAULT_LISTENERS: tuple[str, ...] = ("progress", "guard")
"""Plugins without a role that are on unless somebody drops them."""
DEMO: dict[str, Any] = {
    "steps": 300,
    "batch_size": 32,
    "seq_length": 128,
    "plugins": {"stdlib": {}, "bpe": {"vocab_size": 4096}, "scratch": {}, "adamw": {"lr": 2e-3, "beta2": 0.95}},
}
"""The layer above the defaults where neither model nor data is given."""
DEMO_NOTE = "neither model nor data is given: this is the built-in demo recipe"
