"""Letting a model write texts for the rows of a batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfx.endings import ends_of
from hfx.openings import positions_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Writer:
    """How texts are written: the likeliest token each time, or the likeliest of so many beams.

    The model's mode, its configuration and the random state stay as they are. What else its generation config says
    (languages, tokens that begin a text) holds.
    """

    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    num_beams: int = 1
    ends: tuple[int, ...] = ()
    """Tokens that end a text, beside those that tokenizer and model name."""

    def write(self, model: Any, batch: Mapping[str, Tensor]) -> list[str]:
        """Return what a decoder writes for each row of `input_ids` and `attention_mask`, `(batch, seq)`."""
        most, texts = min(self.max_new_tokens, positions_of(model)), []
        for rows in self._some_rows(range(len(batch["input_ids"]))):
            texts += self._decoded(self._generated(model, {name: held[rows] for name, held in batch.items()}, most))
        return texts

    def go_on(self, model: Any, prompts: Sequence[Tensor]) -> list[str]:
        """Return what a model writes behind each of some prompts, `(seq,)`.

        Each is as long as it would be alone: where positions end, only rows with as many left are written together.
        """
        import torch

        left = [min(self.max_new_tokens, positions_of(model) - len(prompt)) for prompt in prompts]
        texts = [""] * len(prompts)
        for most in sorted({count for count in left if count > 0}):
            for rows in self._some_rows([row for row, count in enumerate(left) if count == most]):
                some = [prompts[row] for row in rows]
                # On the left, so that the first new token is behind the last one of every prompt.
                ids = torch.nn.utils.rnn.pad_sequence(some, True, self._pad(), "left")
                mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in some], True, 0, "left")
                new = self._generated(model, {"input_ids": ids, "attention_mask": mask}, most)[:, ids.shape[1] :]
                for row, text in zip(rows, self._decoded(new), strict=True):
                    texts[row] = text
        return texts

    def _some_rows(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """Yield rows that are written together: with its beams a row is as many, and no more than all of them."""
        most = max(1, len(rows) // self.num_beams)
        for start in range(0, len(rows), most):
            yield list(rows[start : start + most])

    def _pad(self) -> int:
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return int(pad if pad is not None else end or 0)

    def _generated(self, model: Any, inputs: Mapping[str, Tensor], most: int) -> Tensor:
        import torch

        ends = {*(ends_of(self.tokenizer, model, chats=False) or ()), *self.ends}
        # It remarks on a generation config of other lengths, once for every batch.
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            found: Tensor = model.generate(
                **inputs, max_new_tokens=most, num_beams=self.num_beams, do_sample=False, use_cache=True,
                num_return_sequences=1, return_dict_in_generate=False, pad_token_id=self._pad(),
                eos_token_id=sorted(ends) or None,
            )  # fmt: skip
        return found

    def _decoded(self, ids: Tensor) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts
