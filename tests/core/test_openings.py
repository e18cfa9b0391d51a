from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hfx.openings import opening, positions_of, room_behind
from tiny_models import tiny_llama


def tokenizer(single: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words that puts tokens around a text."""
    words = {word: index for index, word in enumerate(["[CLS]", "[SEP]", "[UNK]", "the", "movie", "is"])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("[CLS]", 0), ("[SEP]", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize(
    ("single", "ids"), [("[CLS] $A [SEP]", [0, 3, 4]), ("$A [SEP]", [3, 4]), ("[CLS] $A", [0, 3, 4]), ("$A", [3, 4])]
)
def test_a_text_that_goes_on_has_no_end(single: str, ids: list[int]) -> None:
    assert opening(tokenizer(single), "the movie") == ids


def test_a_table_of_positions_ends_a_text_and_angles_do_not() -> None:
    learned = GPT2LMHeadModel(GPT2Config(n_positions=16, n_embd=8, n_layer=1, n_head=1, vocab_size=9))
    assert (positions_of(learned), room_behind(learned, 4, 40), room_behind(learned, 16, 40)) == (16, 12, 0)
    learned.generate(input_ids=torch.ones(1, 4, dtype=torch.long), max_new_tokens=12, pad_token_id=0, eos_token_id=None)
    assert room_behind(tiny_llama(), 4, 10_000) == 10_000
