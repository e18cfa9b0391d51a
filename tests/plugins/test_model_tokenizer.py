from __future__ import annotations

import logging

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hfx.errors import ConfigError, ModelError
from hfx_plugins.tokenizers.model_tokenizer import ModelTokenizer


@pytest.fixture
def saved(tmp_path):
    def save(added=(), **special):
        tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<unk>": 2, "<s>": 3, "</s>": 4}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
        fast.add_special_tokens({"additional_special_tokens": list(added)} if added else {})
        fast.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save


def test_it_is_the_models_own(make_run, saved):
    path = saved(unk_token="<unk>", eos_token="</s>", pad_token="<unk>")
    tokenizer = make_run(ModelTokenizer(), model=path).tokenizer
    assert tokenizer("a b x")["input_ids"] == [0, 1, 2]
    assert tokenizer.pad_token == "<unk>"


def test_it_may_come_from_elsewhere_than_the_model(make_run, saved):
    path = saved(unk_token="<unk>", eos_token="</s>", pad_token="<unk>")
    assert len(make_run(ModelTokenizer(path=path), model="nobody/has-this").tokenizer) == 5


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ((), "</s>"),
        (("<|reserved_0|>",), "<|reserved_0|>"),
        (("<|reserved_0|>", "<|finetune_pad|>"), "<|finetune_pad|>"),
    ],
)
def test_without_a_pad_token_an_unused_one_serves_else_the_end_token(make_run, saved, caplog, added, expected):
    path = saved(added, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    with caplog.at_level(logging.WARNING, logger="hfx"):
        tokenizer = make_run(ModelTokenizer(), model=path).tokenizer
    assert tokenizer.pad_token == expected
    assert len(tokenizer) == 5 + len(added)
    assert f"padding with '{expected}'" in caplog.text


def test_the_pad_token_can_be_named_but_not_invented(make_run, saved):
    path = saved(eos_token="</s>")
    assert make_run(ModelTokenizer(pad_token="b"), model=path).tokenizer.pad_token_id == 1
    with pytest.raises(ConfigError, match=r"'<pad>' is not in the vocabulary"):
        _ = make_run(ModelTokenizer(pad_token="<pad>"), model=path).tokenizer


def test_nothing_to_pad_with_is_an_error_that_names_the_option(make_run, saved):
    with pytest.raises(ModelError, match=r"--model_tokenizer\.pad_token"):
        _ = make_run(ModelTokenizer(), model=saved()).tokenizer


def test_a_folder_without_a_tokenizer_is_a_model_error(make_run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"the tokenizer of '.*empty' cannot be loaded"):
        _ = make_run(ModelTokenizer(), model=str(tmp_path / "empty")).tokenizer


def test_a_path_that_does_not_exist_is_answered_with_the_nearest(make_run, saved, tmp_path):
    saved(eos_token="</s>")
    with pytest.raises(ModelError, match=r"modle' does not exist; did you mean 'model'"):
        _ = make_run(ModelTokenizer(), model=str(tmp_path / "modle")).tokenizer
    with pytest.raises(ModelError, match=r"there is no folder"):
        _ = make_run(ModelTokenizer(), model=str(tmp_path / "none" / "x.gguf")).tokenizer


def test_a_file_that_is_no_gguf_is_refused(make_run, saved):
    with pytest.raises(ModelError, match=r"is a file but no '\.gguf' file"):
        _ = make_run(ModelTokenizer(), model=f"{saved(eos_token='</s>')}/tokenizer.json").tokenizer


def test_a_damaged_gguf_file_is_a_model_error(make_run, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF nothing")
    with pytest.raises(ModelError, match=r"x\.gguf' cannot be loaded"):
        _ = make_run(ModelTokenizer(), model=str(tmp_path / "x.gguf")).tokenizer


def test_a_gguf_file_brings_its_tokenizer(make_run, tmp_path):
    import gguf

    words = ["<unk>", "<s>", "</s>", "▁a", "▁b", "a", "b", "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [2, 3, 3, 1, 1, 1, 1, 1, *[6] * 256]
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = make_run(ModelTokenizer(), model=str(tmp_path / "tiny.gguf")).tokenizer
    assert tokenizer.eos_token_id == 2
    assert tokenizer("a b", add_special_tokens=False)["input_ids"] == [3, 4]


def test_remote_code_needs_a_full_commit_hash(make_run):
    def problems(**options):
        run = make_run(ModelTokenizer(**options), model="somebody/model")
        return [problem.message for problem in run.hooks.check(run=run) if "model_tokenizer" in problem.message]

    assert problems() == []
    assert "full hash" in problems(trust_remote_code=True)[0]
    assert "full hash" in problems(trust_remote_code=True, revision="main")[0]
    assert problems(trust_remote_code=True, revision="0" * 40) == []


def test_a_run_without_a_model_is_told_to_train_one(make_run, tmp_path):
    run = make_run(ModelTokenizer(), data=str(tmp_path))
    assert any("--plugin bpe" in problem.message for problem in run.hooks.check(run=run))
    with pytest.raises(ConfigError, match="--plugin bpe"):
        _ = run.tokenizer
