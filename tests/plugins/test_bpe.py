from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoTokenizer

from hfx.errors import DataError, StorageError
from hfx_plugins.sources.files import Files
from hfx_plugins.tokenizers.bpe import Bpe

WORDS = "the quick brown fox jumps over the lazy dog and the quicker fox jumps higher than the dog\n"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text((WORDS + "\n") * 20 + "äöü one two three\n\nlast paragraph\n")
    return path


@pytest.fixture
def train(make_run, corpus):
    def make(path=corpus, **options):
        return make_run(Files(), Bpe(**options), data=str(path), eval_share=0.0).tokenizer

    return make


def test_it_learns_words_and_knows_where_a_text_ends(train):
    tokenizer = train(vocab_size=400)
    assert len(tokenizer(" quick fox")["input_ids"]) < len(" quick fox") / 2
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|pad|>", "<|end|>")
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id}) == 2
    assert len(tokenizer) <= 400
    assert len(tokenizer(WORDS * 100)["input_ids"]) < tokenizer.model_max_length


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_round_trip(train, text):
    tokenizer = train(vocab_size=300)
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=False) == text


def test_a_saved_one_is_loaded_by_plain_transformers(train, tmp_path):
    tokenizer = train(vocab_size=300)
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert loaded(WORDS)["input_ids"] == tokenizer(WORDS)["input_ids"]
    assert (loaded.pad_token_id, loaded.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)


def test_it_is_trained_once_per_content_and_options(train, tmp_path, corpus):
    first = train(vocab_size=300)
    home = tmp_path / "cache" / "bpe"
    (entry,) = home.iterdir()
    stamp = (entry / "tokenizer.json").stat().st_mtime_ns
    again = train(vocab_size=300)
    assert (entry / "tokenizer.json").stat().st_mtime_ns == stamp
    assert again.get_vocab() == first.get_vocab()
    train(vocab_size=301)
    assert len(list(home.iterdir())) == 2
    corpus.write_text(WORDS + "\n\nmore and more words and more")
    train(vocab_size=300)
    assert len(list(home.iterdir())) == 3


def test_training_in_another_process_gives_the_same_tokenizer(train, tmp_path, corpus):
    here = train(vocab_size=300)
    code = (
        "import sys; from hfx import Run, World; from hfx.resolve import resolve; from pathlib import Path\n"
        "fields = {'data': sys.argv[1], 'eval_share': 0.0, 'plugins': {'bpe': {'vocab_size': 300}}}\n"
        "print(Run(resolve(mapping=fields), Path('none'), World()).tokenizer.backend_tokenizer.to_str())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code, str(corpus)],
        env={"HFX_CACHE": str(tmp_path / "other"), "PATH": "", "HOME": str(tmp_path), "PYTHONHASHSEED": "7"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert there.stdout.strip() == here.backend_tokenizer.to_str()


def test_it_trains_on_the_column_asked_for(make_run, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "aaaa aaaa", "code": "zqzq zqzq"}\n' * 5)
    fields = {"data": str(path), "eval_share": 0.0}
    assert "zq" not in make_run(Files(), Bpe(), **fields).tokenizer.get_vocab()
    assert "zq" in make_run(Files(), Bpe(text="code"), **fields).tokenizer.get_vocab()


def test_chat_messages_are_trained_on_too(make_run, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "zqzq zqzq"}]}\n' * 5)
    assert "zq" in make_run(Files(), Bpe(), data=str(path), eval_share=0.0).tokenizer.get_vocab()


def test_a_column_that_is_missing_is_answered_with_the_nearest(make_run, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x"}\n')
    run = make_run(Files(), Bpe(text="contents"), data=str(tmp_path / "a.jsonl"), eval_share=0.0)
    with pytest.raises(DataError, match=r"a\.jsonl:1 has no column 'contents'.*did you mean 'content'"):
        _ = run.tokenizer


def test_rows_without_text_are_an_error(make_run, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": ""}\n{"n": 1}\n')
    run = make_run(Files(), Bpe(), data=str(tmp_path / "a.jsonl"), eval_share=0.0)
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        _ = run.tokenizer


def test_a_cache_that_cannot_be_written_is_an_error_and_leaves_nothing(train, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "bpe").write_text("in the way")
    with pytest.raises(StorageError, match="the tokenizer cannot be written"):
        train(vocab_size=300)
    assert (tmp_path / "cache" / "bpe").read_text() == "in the way"


def test_a_vocabulary_has_room_for_all_bytes():
    with pytest.raises(ValidationError, match="258"):
        Bpe(vocab_size=100)
