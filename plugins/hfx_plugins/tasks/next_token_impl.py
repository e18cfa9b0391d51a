"""What tasks that predict the next token share: their loss, and the entropy to compare it with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from hfx import ColumnType, Row

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from hfx import Metrics
    from hfx.protocols import Batch, Values

IGNORED = -100
MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")


class TokenCounts:
    """How often each token was a label: its entropy is the loss of a model that knows frequencies and no context."""

    def __init__(self, vocab_size: int) -> None:
        import torch

        self.state: Tensor = torch.zeros(vocab_size, dtype=torch.float64)

    def update(self, labels: Tensor) -> None:
        """Count the labels of a batch, `(batch, seq)`."""
        import torch

        seen = labels[labels != IGNORED].flatten().cpu()
        self.state += torch.bincount(seen, minlength=len(self.state)).double()

    def compute(self) -> dict[str, float]:
        """Return the entropy of the labels in nats; nothing where there was none."""
        total = self.state.sum()
        if total == 0:
            return {}
        shares = self.state[self.state > 0] / total
        return {"unigram_entropy": float(-(shares * shares.log()).sum())}


class NextToken:
    """A task whose batches hold `input_ids` and `labels`, `(batch, seq)`, each label that of the position before it."""

    tokenizer: PreTrainedTokenizerBase
    unit: Literal["token", "row", "pair"] = "token"
    model_class: str = "AutoModelForCausalLM"
    model_options: Mapping[str, Any] = {}

    def fit(self, rows: Iterable[Row]) -> Values:
        """Learn nothing: there are no labels to collect."""
        return {}

    def collated(self) -> Mapping[str, ColumnType]:
        """Return ids, padded with the pad token, and labels, padded with what carries no loss."""
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": ColumnType("list<int32>", 0 if pad is None else int(pad)),
            "labels": ColumnType("list<int32>", IGNORED),
        }

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the sum of the cross entropy over the labels."""
        from hfx import causal_loss  # torch with it, which the processes that tokenize go without

        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        if isinstance(metrics, TokenCounts):
            metrics.update(batch["labels"])
        return causal_loss(model, inputs, batch["labels"])

    def metrics(self) -> Metrics:
        """Return the counts of labels, at zero."""
        return TokenCounts(1 + max(self.tokenizer.get_vocab().values()))
