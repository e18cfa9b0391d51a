"""Scores of the answers of a chat, against the libraries' own over plain transformers' texts."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from chat_tokenizers import MARKED, PLAIN, byte_level
from hfx import Run, World
from hfx.api import problems
from hfx.errors import ConfigError
from hfx.resolve import resolve
from hfx_plugins.tasks.chat_template_impl import Template
from hfx_plugins.tasks.generated_scores_impl import last_answer
from hfx_plugins.tasks.writer_impl import Writer
from library_scores import of_libraries, scores_of
from overfitting import evaluations, trained

WORDS = ["red", "green", "blue", "one", "two", "six"]
POSITIONS = 48
TEMPLATE = (
    "{% for message in messages %}{{ message.role[0] + ':\n' + message.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a:\n' }}{% endif %}"
)


def conversations(seed: int, count: int) -> list[dict[str, list[dict[str, str]]]]:
    """Return conversations of one question or two, of which some leave hardly a position behind the last."""
    rng, rows = random.Random(seed), []
    for n in range(count):
        said = []
        for _ in range(1 + n % 2):
            words = rng.choices(WORDS, k=1 + n % 3)
            said += [("user", "say " + " ".join(words)), ("assistant", " ".join(words) + ".")]
        rows.append({"messages": [{"role": role, "content": text} for role, text in said]})
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answers")
    (path / "chat.jinja").write_text(TEMPLATE)
    for name, seed, count in (("train", 0, 90), ("test", 1, 24)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in conversations(seed, count)))
    return path


def fields(path: Path, *, steps: int, architecture: str = "gpt2", **chat: Any) -> dict[str, Any]:
    return {
        "eval_data": str(path / "test.jsonl"), "seq_length": POSITIONS, "steps": steps, "eval_every": steps,
        "plugins": {
            "chat": {"template": str(path / "chat.jinja"), "scores": ["rouge", "bleu", "chrf"], **chat},
            "scratch": {"architecture": architecture, "hidden_size": 64, "layers": 2, "heads": 2},
            "bpe": {"vocab_size": 330}, "adamw": {"lr": 0.003},
        },
    }  # fmt: skip


def answered_by(model: Path, rows: Sequence[dict[str, Any]], most: int) -> list[str]:
    """Return transformers' own answer to what comes before the last message of each row, one after the other."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    texts = []
    for row in rows:
        asked = tokenizer.apply_chat_template(
            row["messages"][:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        length = asked["input_ids"].shape[1]
        new = min(most, loaded.config.max_position_embeddings - length)
        ids = loaded.generate(**asked, max_new_tokens=new, do_sample=False)
        texts.append(str(tokenizer.decode(ids[0, length:], skip_special_tokens=True)))
    return texts


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_last_answer_of_each_conversation_is_written_from_what_comes_before_it(
    architecture: str, folder: Path, tmp_path: Path
) -> None:
    own = fields(folder, steps=150, architecture=architecture, max_new_tokens=12)
    own["plugins"] |= {"packing": {}} if architecture == "llama" else {}
    trained(folder / "train.jsonl", tmp_path / "run", **own)

    rows = conversations(1, 24)
    texts = answered_by(tmp_path / "run" / "model", rows, 12)
    assert len(set(texts)) > 3
    figures = scores_of(evaluations(tmp_path / "run")[150])
    assert figures == of_libraries(texts, [row["messages"][-1]["content"] for row in rows])
    assert figures["rouge_l"] > 0.3


@pytest.mark.parametrize("beams", [1, 2])
def test_an_answer_is_as_long_as_positions_and_option_allow_whatever_prompts_are_beside_it(beams: int) -> None:
    tokenizer = byte_level()
    torch.manual_seed(0)
    # It has learned nothing, and so goes on to the last position; another token after each.
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=2,
                   initializer_range=0.5, bos_token_id=None, eos_token_id=None)
    ).eval()  # fmt: skip
    prompts = [torch.randint(20, 200, (length,)) for length in (3, 47, 17, 18, 19, 40, 40, 5)]
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id

    alone = []
    for prompt in prompts:
        new = min(30, POSITIONS - len(prompt))
        ids = model.generate(
            prompt[None], attention_mask=torch.ones_like(prompt)[None], max_new_tokens=new, num_beams=beams,
            do_sample=False, eos_token_id=end, pad_token_id=pad,
        )  # fmt: skip
        alone.append(tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True))
    assert Writer(tokenizer, 30, beams).go_on(model, prompts) == alone
    assert len(set(alone)) == len(prompts)


def test_an_answer_ends_where_the_template_says_so_and_not_only_where_a_text_does() -> None:
    tokenizer = byte_level(MARKED + "{{ eos_token }}")
    tokenizer.add_special_tokens({"eos_token": "<|stop|>", "extra_special_tokens": ["<|im_end|>"]})
    assert Template(tokenizer).ends() == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    tokenizer.chat_template = PLAIN + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    assert Template(tokenizer).ends() == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)


def test_answers_that_cannot_be_told_from_the_rest_are_refused(folder: Path, tmp_path: Path) -> None:
    own = fields(folder, steps=1, train_on="all")
    resolved = resolve(mapping={"data": str(folder / "train.jsonl"), **own})
    [problem] = problems(resolved)
    assert problem.message.startswith("'chat.scores' compares answers, and 'chat.train_on' is 'all'")
    # An evaluation of its own asks no plugin for problems.
    with pytest.raises(ConfigError, match=r"'chat\.scores' compares answers"):
        _ = Run(resolved, tmp_path / "run", World()).task


def test_the_last_answer_begins_behind_the_last_token_that_is_not_learned() -> None:
    ids, labels = torch.arange(8), torch.tensor([-100, 1, 2, -100, -100, 5, 6, -100])
    asked, meant = last_answer(ids, labels)
    assert (asked.tolist(), meant.tolist()) == ([0, 1, 2, 3, 4], [5, 6])
