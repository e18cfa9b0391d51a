"""The bytes of a text's tokens: they add up to the text, wherever it is cut."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hfx import Place, Row, RunConfig
from hfx.evaluator import _predicted_bytes
from hfx.text_bytes import TextBytes
from hfx_plugins.tasks.causal_lm import CausalLM
from hfx_plugins.tasks.seq2seq import Seq2Seq

ENGLISH = "A run that was killed goes on to the bit, and the order of its samples is a function of the seed alone. "
RUSSIAN = "Порядок строк зависит только от зерна, и прерванный запуск продолжается с того же места. "
EMOJI = "So 🎉 говорят 👩‍👩‍👧 and 日本語 too. "
KNOWN = [ENGLISH, RUSSIAN, "and so on\n", "  indented", "    more"]
"""What tokenizers are trained on; there is no emoji in it."""
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    return made


def trained(backend: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False, **options)
    backend.train_from_iterator(KNOWN, trainer)
    return wrapped(backend)


def byte_level(space: bool = False) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    backend.decoder = decoders.ByteLevel()
    return trained(backend, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return trained(backend)


def prepended() -> PreTrainedTokenizerFast:
    """As Llama 2's tokenizer was converted."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*SPECIAL, *BYTES], show_progress=False)
    backend.train_from_iterator(KNOWN, trainer)
    made = json.loads(backend.to_str())
    # A trainer takes bytes for special tokens only.
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] in SPECIAL]
    backend = Tokenizer.from_str(json.dumps(made))
    backend.pre_tokenizer, backend.decoder = None, LLAMA
    return wrapped(backend)


def unspaced() -> PreTrainedTokenizerFast:
    """As Gemma's, which puts nothing before a text."""
    made = prepended()
    made.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    made.backend_tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return made


def unigram() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    options = {"special_tokens": SPECIAL, "unk_token": "<unk>", "show_progress": False}
    backend.train_from_iterator(KNOWN, trainers.UnigramTrainer(vocab_size=150, **options))
    pieces = [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"]]
    backend = Tokenizer(models.Unigram([*pieces, *((byte, -20.0) for byte in BYTES)], 0, byte_fallback=True))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(prepend_scheme="first"), LLAMA
    return wrapped(backend)


MADE = {
    "byte-level": byte_level,
    "byte-level with a space": lambda: byte_level(space=True),
    "metaspace, always": lambda: metaspace("always"),
    "metaspace, first": lambda: metaspace("first"),
    "metaspace, never": lambda: metaspace("never"),
    "prepended": prepended,
    "unspaced": unspaced,
    "unigram": unigram,
}
LIMITED = {"metaspace, always", "metaspace, first", "metaspace, never"}
"""Those that know no characters but those they have seen."""
AMBIGUOUS = {"byte-level with a space", "metaspace, always", "metaspace, first", "unigram"}
"""Those that put a space before a text unless it begins with one."""


@cache
def tokenizer(name: str) -> PreTrainedTokenizerFast:
    return MADE[name]()


@cache
def known(name: str) -> TextBytes:
    return TextBytes(tokenizer(name))


def size(text: str) -> int:
    return len(text.encode())


texts = st.lists(
    st.one_of(
        st.sampled_from([" ", "  ", "\n", "it was", "семья", "🎉", "👩‍👩‍👧", "日本", "é", "<0x41>", "\u0301"]),
        st.text(max_size=3),
    ),
    max_size=12,
).map("".join)
plain_texts = st.text(st.sampled_from(sorted(set("".join(KNOWN)))), max_size=30)


@pytest.mark.parametrize("name", MADE)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_parts_of_a_text_add_up_to_it_wherever_it_is_cut(name: str, data: st.DataObject) -> None:
    text = data.draw(plain_texts if name in LIMITED else texts)
    text = text.lstrip(" ") if name in AMBIGUOUS else text
    text = text.replace("▁", "")  # to those that write spaces so it is no other than a space
    if name == "unigram":
        text = text.replace("<0x", "")  # of which it makes the token of a byte
    ids = tokenizer(name).backend_tokenizer.encode(text, add_special_tokens=False).ids
    places = sorted(data.draw(st.sets(st.integers(1, max(1, len(ids) - 1)), max_size=5)))
    edges = [0, *(place for place in places if place < len(ids)), len(ids)]
    found, whole = 0, [1, *ids, 2]
    for number, (start, stop) in enumerate(pairwise(edges)):
        # As in 'rolling': what was the last token is read once more, and the end is a token of no text.
        read = np.array(whole[start : stop + 1 + (stop == len(ids))])
        labels = read.copy()
        labels[0] = -100
        found += known(name).predicted(read, labels, first=number == 0)
    assert found == size(text)


class Parts(list[Any]):
    """A table that holds what a task made of one row."""

    def column(self, name: str) -> Any:
        assert name == "part"
        return np.arange(len(self))

    def values(self, index: int) -> Any:
        return self[index].values


def counted(kind: Any, made: Any, length: int, options: dict[str, Any], **columns: str) -> int:
    """Return what an evaluation counts of one row."""
    run: Any = SimpleNamespace(config=RunConfig(seq_length=length), tokenizer=made)
    run.task = kind(**options).hfx_task(run)
    parts: Any = Parts(run.task.examples(Row(columns, Place("data", "data.jsonl", 1))))
    return _predicted_bytes(run, [parts])


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("text", [ENGLISH * 9, RUSSIAN * 9, EMOJI * 9])
def test_an_evaluation_in_windows_counts_the_bytes_of_the_text(name: str, text: str) -> None:
    if text.startswith("So") and name in LIMITED:
        text = "and so on, " * 9
    for length in (3, 16, 10_000):
        assert counted(CausalLM, tokenizer(name), length, {"overflow": "rolling"}, text=text) == size(text)


@pytest.mark.parametrize("name", MADE)
def test_the_text_behind_a_prompt_and_a_target_of_its_own_count_alone(name: str) -> None:
    made, asked, text = tokenizer(name), ENGLISH[:50].strip(), RUSSIAN[:60].strip()
    assert counted(CausalLM, made, 500, {"prompt": "asked"}, text=text, asked=asked) == size(text)
    columns = {"source": "asked", "target": "text"}
    assert counted(Seq2Seq, made, 500, columns, text=text, asked=asked) == size(text)


@pytest.mark.parametrize("name", MADE)
def test_a_first_token_that_carries_no_loss_leaves_the_space_of_the_next_one_alone(name: str) -> None:
    ids = np.array(tokenizer(name).backend_tokenizer.encode("и и и", add_special_tokens=False).ids)
    at = next(at for at in range(1, len(ids) + 1) if tokenizer(name).decode(ids[:at]).strip() == "и")
    labels = np.where(np.arange(len(ids)) < at, -100, ids)
    if at == 1:
        assert known(name).predicted(ids, labels, first=True) == size(" и и")
    assert known(name).predicted(ids, labels, first=False) == size(" и и")


def test_an_added_token_is_the_text_that_it_stands_for() -> None:
    made = byte_level()
    made.add_tokens([AddedToken("<é>", normalized=False), AddedToken("ö", normalized=False)])
    made.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    ids = np.array(made("ö x<é><|turn|>y")["input_ids"])
    assert TextBytes(made).predicted(ids, np.where(np.arange(len(ids)) > 0, ids, -100), first=True) == size("ö x<é>y")


def test_tokens_of_another_kind_are_decoded() -> None:
    backend = Tokenizer(models.WordPiece({word: at for at, word in enumerate([*SPECIAL, "se", "##t", "it"])}))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    pieces = wrapped(backend)
    slow: Any = SimpleNamespace(
        get_vocab=dict, all_special_tokens=[], added_tokens_decoder={}, decode=lambda ids, **_: "é" * len(ids)
    )
    ids = np.array(pieces("it set")["input_ids"])
    assert TextBytes(pieces).predicted(ids, ids, first=True) == size("it set")
    assert TextBytes(slow).predicted(ids, ids, first=True) == 2 * len(ids)
