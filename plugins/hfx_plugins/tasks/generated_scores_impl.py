"""What a model writes in an evaluation, and how it is scored: what the tasks that write texts share.

Nothing is gathered: each rank scores what it wrote, and the counts are added up (`text_scores_impl.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hfx import Problem
from hfx.errors import ConfigError
from hfx_plugins.tasks.text_scores_impl import SCORES

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from hfx import Metrics, Run

PAD = -1
"""What pads the bytes of a text."""
_PACKAGES = {
    "rouge": ("rouge_score", "rouge-score"), "bleu": ("sacrebleu", "sacrebleu"), "chrf": ("sacrebleu", "sacrebleu"),
}  # fmt: skip
"""The module of each score, and the package that has it."""


def problems(run: Run, task: str, scores: Sequence[str], says_how: bool) -> Iterator[Problem]:
    """Report a missing package, a model in pieces, and options that nothing asks for.

    Args:
        run: The run.
        task: The task's name.
        scores: Its option `scores`.
        says_how: Whether an option says how texts are written.
    """
    if missing := _missing(task, scores):
        yield Problem(missing)
    backend = run.resolved.roles["backend"].plugin
    if scores and backend in ("fsdp", "zero"):
        yield Problem(
            f"'{task}.scores' writes with a whole model, and '{backend}' has it in pieces; take '--plugin ddp', or "
            f"drop it and score checkpoints by 'hfx eval RUN --{task}.scores {','.join(scores)}'"
        )
    if says_how and not scores:
        yield Problem(f"nothing is written: '{task}.scores' names no score; add '--{task}.scores rouge'", fatal=False)


def require_packages(task: str, scores: Sequence[str]) -> None:
    """Refuse scores whose package is missing: an evaluation of its own asks no plugin for problems.

    Raises:
        ConfigError: one is.
    """
    if missing := _missing(task, scores):
        raise ConfigError(missing)


def _missing(task: str, scores: Sequence[str]) -> str | None:
    wanted = dict.fromkeys(_PACKAGES[score] for score in scores)
    lacking = [package for module, package in wanted if find_spec(module) is None]
    if not lacking:
        return None
    named = " and ".join(f"'{package}'" for package in lacking)
    return f"'{task}.scores' needs the package{'s' * (len(lacking) > 1)} {named}; run: pip install 'hfx[scores]'"


class Scored:
    """Counts of labels, and the sums of scores behind them; `state` is both, one behind the other."""

    def __init__(self, counts: Metrics, scores: Sequence[str]) -> None:
        import torch

        self.counts = counts
        self._scores = [SCORES[name]() for name in dict.fromkeys(scores)]
        self._sums = torch.zeros(1 + sum(score.size for score in self._scores), dtype=torch.float64)

    @property
    def state(self) -> Tensor:
        """Return all sums, `(vocab + 1 + counts,)`, float64."""
        import torch

        return torch.cat([self.counts.state, self._sums])

    @state.setter
    def state(self, sums: Tensor) -> None:
        self.counts.state, self._sums = sums.split([len(self.counts.state), len(self._sums)])

    def update(self, written: Sequence[str], meant: Sequence[str]) -> None:
        """Count a batch: what the model wrote, and what was meant."""
        import torch

        for ours, theirs in zip(written, meant, strict=True):
            counts = [1, *(count for score in self._scores for count in score.count(ours, theirs))]
            self._sums += torch.tensor(counts, dtype=torch.float64)

    def compute(self) -> dict[str, float]:
        """Return the entropy of the labels, and the figures of each score; none of these where nothing was written."""
        rows, *sums = map(int, self._sums.tolist())
        figures = self.counts.compute()
        for score in self._scores if rows else ():
            figures |= score.figures(sums[: score.size])
            sums = sums[score.size :]
        return figures


@dataclass(frozen=True)
class Writer:
    """How texts are written: the likeliest token each time, or the likeliest of so many beams."""

    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    num_beams: int = 1

    def write(self, model: Any, batch: dict[str, Tensor]) -> list[str]:
        """Return what the model writes for each row of `input_ids` and `attention_mask`, `(batch, seq)`.

        Its mode, its configuration and the random state stay as they are. What else its generation config says
        (languages, tokens that begin a text) holds.
        """
        import warnings

        import torch

        texts: list[str] = []
        longest = min(self.max_new_tokens, _positions(model))
        # With its beams a row is as many: no more of them at a time than the batch has rows.
        most = max(1, len(batch["input_ids"]) // self.num_beams)
        for rows in torch.arange(len(batch["input_ids"])).split(most):
            # It remarks on a generation config of other lengths, once for every batch.
            with torch.no_grad(), warnings.catch_warnings(action="ignore"):
                ids = model.generate(
                    **{name: tensor[rows] for name, tensor in batch.items()}, max_new_tokens=longest,
                    num_beams=self.num_beams, do_sample=False, use_cache=True, num_return_sequences=1,
                    return_dict_in_generate=False, pad_token_id=self.tokenizer.pad_token_id,
                    eos_token_id=self.tokenizer.eos_token_id,
                )  # fmt: skip
            texts += self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts


def _positions(model: Any) -> int:
    """Return how long a text of the model can be: where a position has an embedding of its own, so many."""
    told = (getattr(model.config, f"max_{kind}position_embeddings", None) for kind in ("decoder_", ""))
    return next((int(count) for count in told if count), sys.maxsize)


def as_bytes(text: str) -> Any:
    """Return a text as the numbers of its UTF-8, as which it is put into a batch, `(bytes,)`."""
    import numpy as np

    return np.frombuffer(text.encode(), np.uint8)


def from_bytes(rows: Tensor) -> list[str]:
    """Return the texts of a batch, `(batch, bytes)`."""
    return [bytes(byte for byte in row if byte != PAD).decode() for row in rows.tolist()]
