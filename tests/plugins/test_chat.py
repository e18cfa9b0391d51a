from __future__ import annotations

import json
from collections import Counter
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import AddedToken, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from chat_rows import FORMS, generated
from chat_tokenizers import MARKED, PLAIN, SAID, byte_level, metaspace, turns
from command_line import hfx
from hfx import Drop, Place, Row, RunConfig
from hfx.endings import ends_of
from hfx.errors import ConfigError, DataError, ModelError
from hfx_plugins.tasks.chat import Chat

LINES = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' + message['content'] + '[/INST]\n' }}"
    "{% else %}{{ message['content'] + eos_token + '\n' }}{% endif %}{% endfor %}"
)


class Prepared:
    """What the hook reads of a run."""

    def __init__(self, tokenizer, seq_length):
        self.tokenizer = tokenizer
        self.config = RunConfig(seq_length=seq_length)


def task(tokenizer=None, seq_length=512, **options):
    return Chat(**options).hfx_task(Prepared(tokenizer or byte_level(), seq_length))


def row(**values):
    return Row(values, Place("data", "data.jsonl", 7))


def learned(made, example):
    """What is learned, as text: one piece an answer."""
    drawn = made.draw({name: np.asarray(value) for name, value in example.values.items()}, np.random.default_rng(0))
    labels = drawn["labels"]
    at = np.flatnonzero(labels != -100)
    assert (labels[at] == np.asarray(drawn["input_ids"])[at]).all()
    assert len(at) == example.units
    pieces = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
    return [made.tokenizer.decode(labels[piece]) for piece in pieces]


# ── what is learned ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["prefixes", "markers"])
def test_what_is_learned_is_each_answer_with_its_end_and_nothing_else(template):
    made = task(byte_level(template))
    (example,) = made.examples(row(messages=turns("q1 q2", "a1", "q3", "\n a2 ")))
    assert learned(made, example) == ["a1<|im_end|>", "\n a2 <|im_end|>"]
    whole = made.tokenizer.decode(example.values["input_ids"])
    assert whole.startswith("<|im_start|>user\nq1 q2<|im_end|>\n<|im_start|>assistant\na1<|im_end|>")
    assert whole.endswith("<|im_end|>")


def test_the_prompt_is_the_tokens_that_a_model_is_asked_with():
    made = task()
    (example,) = made.examples(row(messages=turns("q1", "\na1")))
    asked = made.tokenizer.apply_chat_template(turns("q1"), add_generation_prompt=True, return_dict=False)
    assert example.values["input_ids"][: example.values["learned"][0]] == asked


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["prefixes", "markers"])
def test_the_last_answer_alone_or_every_word_can_be_learned(template):
    conversation = row(messages=turns("q1", "a1", "q2", "a2"))
    last, everything = (task(byte_level(template), train_on=what) for what in ("last", "all"))
    assert learned(last, last.examples(conversation)[0]) == ["a2<|im_end|>"]
    (text,) = learned(everything, everything.examples(conversation)[0])
    whole = everything.tokenizer.apply_chat_template(conversation.values["messages"], tokenize=False)
    assert text == whole.removeprefix("<|im_start|>")  # the first position is predicted from nothing


def test_answers_within_a_prompt_are_not_learned():
    made = task()
    (example,) = made.examples(row(prompt=turns("q1", "a1", "q2"), completion=turns("q", "a2")[1:]))
    assert learned(made, example) == ["a2<|im_end|>"]


def test_a_tokenizer_that_puts_a_space_before_every_text_learns_the_same():
    made = task(metaspace())
    (example,) = made.examples(row(messages=turns("q1", "a1 a2", "q2", "a3")))
    assert [text.split() for text in learned(made, example)] == [["a1", "a2", "</s>"], ["a3", "</s>"]]
    whole = made.tokenizer.apply_chat_template(turns("q1", "a1 a2", "q2", "a3"), return_dict=False)
    assert example.values["input_ids"] == whole


def test_a_tokenizer_that_puts_a_space_before_a_text_that_decoding_takes_away_learns_no_stray_space():
    tokenizer = metaspace(LINES)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    conversation = turns("q1", "a1 a2", "q2", "a3")
    made = task(tokenizer)
    (example,) = made.examples(row(messages=conversation))
    assert [text.split() for text in learned(made, example)] == [["a1", "a2</s>"], ["a3</s>"]]
    whole = tokenizer.apply_chat_template(conversation, return_dict=False)
    assert example.values["input_ids"] == whole[: len(example.values["input_ids"])]


def test_a_tokenizer_that_writes_characters_otherwise_is_checked_by_what_it_writes():
    made = task(byte_level(normalizer=normalizers.NFC()))
    (example,) = made.examples(row(messages=turns("q1", "a\u0301")))
    assert learned(made, example) == ["\u00e1<|im_end|>"]


def test_tool_calls_are_learned_and_what_tools_return_is_not():
    said = SAID.replace("+", "+ (message.tool_calls | tojson if message.tool_calls else '') +")
    template = PLAIN.replace(SAID, said)
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    made = task(byte_level(template))
    (example,) = made.examples(
        row(
            messages=[
                {"role": "user", "content": "q1", "name": None},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "q2"},
                {"role": "assistant", "content": "a1", "tool_calls": None},
            ],
            tools=json.dumps([{"type": "function", "function": {"name": "add"}}]),
        )
    )
    first, second = learned(made, example)
    assert json.loads(first.removesuffix("<|im_end|>"))[0]["function"]["arguments"] == {"a": 2}
    assert second == "a1<|im_end|>"


def test_what_the_system_says_is_the_rows_own_or_the_options():
    made = task(system="q9")
    own, none = (
        made.tokenizer.decode(made.examples(row(messages=messages))[0].values["input_ids"])
        for messages in ([{"role": "system", "content": "q8"}, *turns("q1", "a1")], turns("q1", "a1"))
    )
    assert own.startswith("<|im_start|>system\nq8<|im_end|>")
    assert none.startswith("<|im_start|>system\nq9<|im_end|>")
    assert "q9" not in own
    column = made.examples(row(messages=turns("q1", "a1"), system="q8"))[0]
    assert made.tokenizer.decode(column.values["input_ids"]).startswith("<|im_start|>system\nq8<|im_end|>")


# ── rows as they are found ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["prefixes", "markers"])
def test_of_500_rows_in_every_form_each_is_learned_as_meant_or_left_out_for_its_reason(template):
    tokenizer = byte_level(template)
    by_name, by_option = task(tokenizer), task(tokenizer, question="ask", answer="reply")
    rows = generated(Random(20261127), 500)
    outcomes: Counter[tuple[str, bool]] = Counter()
    reasons: set[str] = set()
    for made in rows:
        chat = by_option if made.form == "pair" else by_name
        outcome = chat.examples(row(**made.values))
        if made.reason is not None:
            assert outcome == Drop(made.reason), made
            reasons.add(made.reason)
        else:
            assert isinstance(outcome, list), (outcome, made)
            said = learned(chat, outcome[0])
            assert said == [f"{answer}<|im_end|>" for answer in made.answers], made
            assert "q" not in "".join(said)
        outcomes[made.form, made.reason is None] += 1
    assert all(outcomes[form, whole] >= 15 for form in FORMS for whole in (True, False))
    assert len(reasons) >= 11


def test_many_rows_at_once_are_what_each_is_alone():
    made = task()
    rows = [row(**found.values) for found in generated(Random(1), 60) if found.form != "pair"]
    assert made.examples_of(rows) == [made.examples(each) for each in rows]


def test_a_row_of_other_columns_is_left_out_and_a_column_that_is_named_has_to_be_there():
    assert task().examples(row(text="a1")) == Drop("unknown_columns")
    assert task().examples(row(messages=None)) == Drop("no_messages")
    with pytest.raises(DataError, match=r"data.jsonl:7 has no column 'mesages' .*did you mean 'messages'"):
        task(messages="mesages").examples(row(messages=turns("q1", "a1")))


def test_a_conversation_that_is_too_long_ends_behind_the_last_answer_that_fits():
    whole = task().examples(row(messages=turns("q1", "a1", "q2", "a2")))[0]
    short = task(seq_length=whole.length - 1)
    (example,) = short.examples(row(messages=turns("q1", "a1", "q2", "a2")))
    assert learned(short, example) == ["a1<|im_end|>"]
    assert example.truncated
    assert example.length == example.values["learned"][-1] < whole.length
    assert short.examples(row(messages=turns("q1", "a1 " * 99))) == Drop("answer_cut_away")
    dropping = task(seq_length=whole.length - 1, overflow="drop")
    assert dropping.examples(row(messages=turns("q1", "a1", "q2", "a2"))) == Drop("too_long")


# ── templates ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_template_that_writes_answers_otherwise_once_more_follows_is_refused_with_the_row():
    forgetting = PLAIN.replace(
        SAID, "{{ (message['content'] if loop.last or message['role'] == 'user' else 'x') + '<|im_end|>' }}"
    )
    conversation = row(messages=turns("q1", "a1", "q2", "a2"))
    with pytest.raises(DataError, match=r"data.jsonl:7: the chat template writes .*'--chat.train-on last'"):
        task(byte_level(forgetting)).examples(conversation)
    last = task(byte_level(forgetting), train_on="last")
    assert learned(last, last.examples(conversation)[0]) == ["a2<|im_end|>"]


def test_a_token_that_ends_the_conversation_alone_is_no_part_of_an_answer_before():
    closing = PLAIN + "{% if not add_generation_prompt %}{{ '<|pad|>' }}{% endif %}"
    made = task(byte_level(closing))
    (example,) = made.examples(row(messages=turns("q1", "a1", "q2", "a2")))
    assert learned(made, example) == ["a1<|im_end|>", "a2<|im_end|>"]


def test_a_token_that_is_special_and_has_no_name_ends_an_answer(tmp_path):
    ended = PLAIN.replace("<|im_end|>", "<turn_end>") + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    tokenizer = byte_level(ended)
    tokenizer.add_tokens([AddedToken("<turn_end>", special=True)])
    tokenizer.save_pretrained(tmp_path)
    made = task(AutoTokenizer.from_pretrained(tmp_path))
    (example,) = made.examples(row(messages=turns("q1", "a1", "q2", "a2")))
    assert learned(made, example) == ["a1<turn_end>", "a2<turn_end>"]
    assert made.examples(row(messages=turns("q1 <turn_end>", "a1"))) == Drop("special_token_in_text")
    plain = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))
    assert made.tokenizer.convert_tokens_to_ids("<turn_end>") in ends_of(made.tokenizer, plain, chats=True)


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["prefixes", "markers"])
def test_an_answer_that_begins_a_conversation_is_learned_as_the_others(template):
    made = task(byte_level(template))
    (example,) = made.examples(row(messages=turns("", "a1", "q2", "a2")[1:]))
    assert learned(made, example) == ["a1<|im_end|>", "a2<|im_end|>"]


def test_an_answer_in_two_marked_pieces_is_one_answer():
    more = "{% endgeneration %}\n{% generation %}{{ '<|pad|>' }}{% endgeneration %}"
    pieces = MARKED.replace("{% endgeneration %}", more)
    conversation = row(messages=turns("q1", "a1", "q2", "a2"))
    for train_on, said in (("assistant", ["a1", "a2"]), ("last", ["a2"])):
        made = task(byte_level(pieces), train_on=train_on)
        assert [text[:2] for text in learned(made, made.examples(conversation)[0])] == said


def test_a_template_that_asks_otherwise_than_it_writes_is_refused():
    thinking = PLAIN.replace("assistant\n' }}{% endif", "assistant\n<think>' }}{% endif")
    with pytest.raises(DataError, match="asks for an answer otherwise than it writes one"):
        task(byte_level(thinking))
    assert task(byte_level(thinking), train_on="all").examples(row(messages=turns("q1", "a1")))[0].units


def test_an_answer_that_the_template_changes_is_left_out():
    shouting = PLAIN.replace("message['content'] +", "message['content'] | upper +")
    assert task(byte_level(shouting)).examples(row(messages=turns("q1", "a1"))) == Drop("answer_not_written")


def test_what_a_template_refuses_is_left_out_with_its_reason():
    strict = "{% if messages | length > 2 %}{{ raise_exception('two at most') }}{% endif %}" + PLAIN
    outcome = task(byte_level(strict)).examples(row(messages=turns("q1", "a1", "q2", "a2")))
    assert outcome == Drop("template: two at most")


def test_no_template_one_that_is_no_jinja_and_one_without_an_end_are_refused_at_once(tmp_path):
    for template, said in (
        (None, "no chat template; name a file"),
        ("{% for %}", "cannot be used"),
        (PLAIN.replace(" + '<|im_end|>'", ""), "ends an answer with no special token"),
    ):
        with pytest.raises(ModelError, match=said):
            task(byte_level(template))
    with pytest.raises(ConfigError, match=r"'chat.template' cannot be read"):
        task(template=str(tmp_path / "none.jinja"))


def test_a_template_that_is_given_is_the_tokenizers_from_there_on(tmp_path):
    (tmp_path / "own.jinja").write_text(MARKED)
    made = task(byte_level("{{ 'another' }}"), template=str(tmp_path / "own.jinja"))
    assert made.tokenizer.chat_template == MARKED


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────

SMALL = (
    *("--plugin", "chat", "--plugin", "fp32", "--plugin", "packing", "--seq-length", "128", "--batch-size", "4"),
    *("--steps", "3", "--data", "rows.jsonl", "--eval-share", "0.1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows, and a tiny model that was made to chat."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from hfx.testing.tiny import pretrained_folder

    path = tmp_path_factory.mktemp("chat")
    tokenizer = byte_level()
    tokenizer.save_pretrained(path / "model")
    config = AutoConfig.from_pretrained(pretrained_folder(), vocab_size=len(tokenizer), max_position_embeddings=256)
    AutoModelForCausalLM.from_config(config).save_pretrained(path / "model")
    rows = [found.values for found in generated(Random(5), 120) if found.form in ("messages", "strings")]
    (path / "rows.jsonl").write_text("".join(json.dumps(values) + "\n" for values in rows))
    return path


@pytest.fixture(scope="module")
def done(folder):
    """A run of it, and what it said."""
    run = hfx("train", "--model", "model", *SMALL, "--output", "run", cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert run.returncode == 0, run.stderr
    return run.stderr


def test_a_run_says_what_it_detected_and_names_the_rows_it_left_out(folder, done):
    [line] = [line for line in done.splitlines() if line.startswith("detected")]
    assert "messages in 'messages' (" in line
    assert "questions in 'prompt', answers in 'completion' (" in line
    assert "yield no example" in done
    assert "[" in next(line for line in done.splitlines() if line.startswith("sample"))
    shown = hfx(
        *("data", "sample", "--model", "model", *SMALL, "--rule", "empty_answer"),
        cwd=folder, HFX_CACHE=str(folder / "cache"),
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines
    assert all("rows.jsonl:" in line and "no example (empty_answer)" in line for line in lines)


@pytest.mark.usefixtures("done")
def test_its_model_is_asked_in_the_template_it_was_trained_in_one_prompt_or_a_file_of_them(folder):
    (folder / "asked.jsonl").write_text(
        json.dumps({"prompt": "q1"}) + "\n\n" + json.dumps({"messages": turns("q2", "a2", "q3")}) + "\n"
    )
    few = ("--max-new-tokens", "4")
    answer = hfx("generate", "run", "--prompt", "q1", *few, cwd=folder)
    text = hfx("generate", "run", "--prompt", "q1", "--no-chat", *few, cwd=folder)
    file = hfx("generate", "run", "--prompt-file", "asked.jsonl", "--batch-size", "2", *few, cwd=folder)
    assert [run.returncode for run in (answer, text, file)] == [0, 0, 0], file.stderr
    first, second = map(json.loads, file.stdout.splitlines())
    assert (first["prompt"], second["messages"]) == ("q1", turns("q2", "a2", "q3"))
    assert first["completion"] == answer.stdout.removesuffix("\n")
    assert text.stdout.startswith("q1")
    assert text.stdout[2:] != answer.stdout


@pytest.mark.usefixtures("done")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt-file", "none.txt"], "the prompts in 'none.txt' cannot be read"),
        (["--prompt-file", "empty.txt"], "'empty.txt' has no prompt"),
        (["--prompt-file", "bad.jsonl"], "bad.jsonl:1: a prompt has 'prompt', a text, or 'messages'"),
        (["--prompt", "q", "--system", "q", "--no-chat"], "'--system' is for a chat"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_line(folder, words, said):
    (folder / "empty.txt").write_text("\n")
    (folder / "bad.jsonl").write_text('{"text": "q"}\n')
    refused = hfx("generate", "run", *words, cwd=folder)
    assert refused.returncode in (1, 2)
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
