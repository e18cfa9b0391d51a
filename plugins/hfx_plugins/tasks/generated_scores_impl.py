"""What a model writes in an evaluation, and how it is scored: what the tasks that write texts share.

Nothing is gathered: each rank scores what it wrote, and the counts are added up (`text_scores_impl.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hfx import Problem
from hfx.errors import ConfigError
from hfx_plugins.tasks.next_token_impl import IGNORED
from hfx_plugins.tasks.text_scores_impl import SCORES
from hfx_plugins.tasks.writer_impl import Writer

if TYPE_CHECKING:
    from torch import Tensor

    from hfx import Metrics, Plugin, Run

ALL_LEARNED = (
    "'chat.scores' compares answers, and 'chat.train_on' is 'all', which tells none from the rest; add "
    "'--chat.train-on assistant'"
)
"""What is wrong where answers are scored and every word is learned."""
PAD = -1
"""What pads the bytes of a text."""
_PACKAGES = {
    "rouge": ("rouge_score", "rouge-score"), "bleu": ("sacrebleu", "sacrebleu"), "chrf": ("sacrebleu", "sacrebleu"),
}  # fmt: skip
"""The module of each score, and the package that has it."""


def problems(run: Run, task: str, options: Plugin) -> Iterator[Problem]:
    """Report a missing package, a model in pieces, and options of what nobody asks for.

    Args:
        run: The run.
        task: The task's name.
        options: The task, with `scores`, `max_new_tokens` and `num_beams`.
    """
    chosen: dict[str, Any] = {name: getattr(options, name) for name in ("scores", "max_new_tokens", "num_beams")}
    scores: list[str] = chosen.pop("scores")
    if missing := _missing(task, scores):
        yield Problem(missing)
    backend = run.resolved.roles["backend"].plugin
    if scores and backend in ("fsdp", "zero"):
        yield Problem(
            f"'{task}.scores' writes with a whole model, and '{backend}' has it in pieces; take '--plugin ddp', or "
            f"drop it and score checkpoints by 'hfx eval RUN --{task}.scores {','.join(scores)}'"
        )
    usual = {name: type(options).model_fields[name].default for name in chosen}
    if chosen != usual and not scores:
        yield Problem(f"nothing is written: '{task}.scores' names no score; add '--{task}.scores rouge'", fatal=False)


@dataclass(frozen=True)
class Scoring:
    """Which scores an evaluation has, and who writes the texts."""

    names: tuple[str, ...]
    writer: Writer


def scoring_of(task: str, options: Mapping[str, Any], writer: Writer) -> Scoring | None:
    """Return what a task's options ask for; None where they name no score.

    Raises:
        ConfigError: a package is missing: `hfx eval` asks no plugin for problems.
    """
    if missing := _missing(task, options["scores"]):
        raise ConfigError(missing)
    names = tuple(dict.fromkeys(options["scores"]))
    return Scoring(names, writer) if names else None


def _missing(task: str, scores: Sequence[str]) -> str | None:
    wanted = dict.fromkeys(_PACKAGES[score] for score in scores)
    lacking = [package for module, package in wanted if find_spec(module) is None]
    if not lacking:
        return None
    named = " and ".join(f"'{package}'" for package in lacking)
    return f"'{task}.scores' needs the package{'s' * (len(lacking) > 1)} {named}; run: pip install 'hfx[scores]'"


class Scored:
    """Counts of labels, and the sums of scores behind them; `state` is both, one behind the other."""

    def __init__(self, counts: Metrics, scoring: Scoring) -> None:
        import torch

        self.counts, self.writer = counts, scoring.writer
        self._scores = [SCORES[name]() for name in scoring.names]
        self._sums = torch.zeros(1 + sum(score.size for score in self._scores), dtype=torch.float64)

    @property
    def state(self) -> Tensor:
        """Return all sums, `(vocab + 1 + counts,)`, float64."""
        import torch

        return torch.cat([self.counts.state, self._sums])

    @state.setter
    def state(self, sums: Tensor) -> None:
        labels = len(self.counts.state)
        self.counts.state, self._sums = sums[:labels], sums[labels:]

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


def as_bytes(text: str) -> Any:
    """Return a text as the numbers of its UTF-8, as which it is put into a batch, `(bytes,)`."""
    import numpy as np

    return np.frombuffer(text.encode(), np.uint8)


def from_bytes(rows: Tensor) -> list[str]:
    """Return the texts of a batch, `(batch, bytes)`."""
    return [bytes(byte for byte in row if byte != PAD).decode() for row in rows.tolist()]


def last_answer(ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens before the last labels in a row of a sequence, and those they are of; both `(seq,)`."""
    learned = (labels != IGNORED).tolist()
    stop = len(learned) - learned[::-1].index(True)
    start = next((at + 1 for at in range(stop - 1, -1, -1) if not learned[at]), 0)
    return ids[:start], ids[start:stop]
