"""Tiny models, each in a folder, that stand for those of the hub which the tutorials name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tutorials import CHAT, ENCODER

SAYS = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SAYS + "<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's own, so that the rows look alike."""
WORDS = ["the ferry boat to leaves at pier when does how do I get is there a today what time", SAYS]


def _chat(folder: Path) -> Path:
    body = Tokenizer(models.BPE())
    body.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    body.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    body.train_from_iterator(WORDS * 2, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=body, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    llama = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(llama).save_pretrained(folder)
    return folder


def _encoder(folder: Path) -> Path:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    table = {piece: number for number, piece in enumerate([*special, *_pieces()])}
    body = Tokenizer(models.WordPiece(table, unk_token="[UNK]"))
    body.pre_tokenizer = pre_tokenizers.Whitespace()
    body.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", table["[CLS]"]), ("[SEP]", table["[SEP]"])]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=body, mask_token="[MASK]", **names).save_pretrained(folder)
    bert = BertConfig(
        vocab_size=len(table), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=128, pad_token_id=0,
    )  # fmt: skip
    BertForMaskedLM(bert).save_pretrained(folder)
    return folder


def _pieces() -> list[str]:
    """Return letters, alone and within words: any English word is some of them."""
    letters = [chr(code) for code in range(33, 127)]
    return [*letters, *(f"##{letter}" for letter in letters)]


def tiny_models(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Write the models that stand for some of the hub's, each into a folder of its own, and return these by name."""
    torch.manual_seed(0)
    makes = {CHAT: _chat, ENCODER: _encoder}
    return {name: makes[name](folder / name.rpartition("/")[2]) for name in names}
