"""Which tokens end a text that a model writes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from hfx.endings import ends_of

WORDS = ["<unk>", "<s>", "</s>", "<|end|>", "<|turn|>", "Is", "it?", "It", "is", "so."]
TEMPLATE = "{% for message in messages %}<s> {{ message.content }} <|end|> <|turn|> {% endfor %}"


@pytest.fixture
def tokenizer() -> Any:
    words = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<|end|>", "<|turn|>"],
    )  # fmt: skip
    made.chat_template = TEMPLATE
    return made


def model(eos: int | list[int] | None) -> Any:
    return SimpleNamespace(generation_config=transformers.GenerationConfig(eos_token_id=eos))


def test_an_answer_ends_with_the_first_special_token_behind_it(tokenizer: Any) -> None:
    assert ends_of(tokenizer, model(None), chats=True) == [2, 3]
    assert ends_of(tokenizer, model([9, 4]), chats=True) == [2, 3, 4, 9]


def test_a_text_ends_with_what_model_and_tokenizer_name(tokenizer: Any) -> None:
    assert ends_of(tokenizer, model(7), chats=False) == [2, 7]
    tokenizer.eos_token = None
    assert ends_of(tokenizer, model(None), chats=False) is None
