"""Tokenizers with chat templates, and conversations to try them with."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}ANSWER{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SAID = "{{ message['content'] + '<|im_end|>' }}"
PLAIN = CHATML.replace("ANSWER", SAID)
MARKED = CHATML.replace(
    "ANSWER",
    f"{{% if message['role'] == 'assistant' %}}{{% generation %}}{SAID}{{% endgeneration %}}{{% else %}}{SAID}"
    "{% endif %}",
)
INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
LETTERS = ["q", "a", " ", "\n", ",", *map(str, range(10)), "user assistant system tool q12 a34 a5 q6", "[INST] [/INST]"]


def byte_level(template=PLAIN, normalizer=None):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if normalizer:
        backend.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(LETTERS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = template
    return tokenizer


def metaspace(template=INSTRUCT):
    """A tokenizer that puts a space before every text, as llama 2's does."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="always", split=False), decoders.Fuse()])
    backend.train_from_iterator(LETTERS, trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    tokenizer.chat_template = template
    return tokenizer


def turns(*said):
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
