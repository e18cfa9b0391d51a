"""The tokenizer that comes with a model; the default where the run names one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hfx import Plugin, Problem, RemoteCode, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfx import Run


class ModelTokenizer(Plugin):
    """The tokenizer of the run's `model`: of a hub id, a folder, or a `.gguf` file."""

    path: str | None = None
    """Where the tokenizer is; none: where the run's `model` is."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; none: `main`."""
    pad_token: str | None = None
    """A token of its vocabulary to pad with; none: its own, else one that is unused, else the end token."""
    trust_remote_code: bool = False
    """Run code that comes with the tokenizer; a hub id then needs a `revision` that is a full commit hash."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report a run without a model, and code that its publisher can change at any time."""
        path = self.path or run.config.model
        if path is None:
            yield Problem("'model_tokenizer' has no model; add '--model', or '--plugin bpe' to train a tokenizer")
            return
        yield from self.code(path).problems()

    def code(self, path: str) -> RemoteCode:
        """Return whether code that comes with the tokenizer may run."""
        return RemoteCode("model_tokenizer", path, self.revision, self.trust_remote_code)

    @hookimpl
    def hfx_tokenizer(self, run: Run) -> PreTrainedTokenizerBase:
        """Return the tokenizer, with a token to pad with."""
        from hfx_plugins.tokenizers.model_tokenizer_impl import load, with_pad_token

        return with_pad_token(load(self, run), self.pad_token)
