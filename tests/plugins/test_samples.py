"""`samples`: what the model writes after every evaluation, written down once and printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import hfx
from hfx.errors import ConfigError, IncompatibleError
from hfx_plugins.tracking.samples import Samples
from overfitting import Ends, config, rows, trained

PROMPTS = ["bala kone", "tula"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows(tmp_path_factory.mktemp("samples"))


def written(output: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line.get("event") == "sample"]


def test_each_prompt_goes_on_after_each_evaluation_as_the_model_there_would(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"prompts": PROMPTS, "max_new_tokens": 8}
    trained(data, tmp_path / "run", steps=8, plugins={"samples": options})
    found = written(tmp_path / "run")
    assert [(line["step"], line["prompt"]) for line in found] == [(step, one) for step in (4, 8) for one in PROMPTS]

    path = tmp_path / "run" / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    ids = tokenizer(PROMPTS[0], return_tensors="pt")
    whole = model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=0)[0]
    text = tokenizer.decode(whole[ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert found[-2]["text"] == text
    assert f"hfx: sample at step 8: {PROMPTS[0]!r} -> {text!r}" in capfd.readouterr().err


def test_what_is_drawn_depends_on_seed_and_step_alone(data: Path, tmp_path: Path) -> None:
    options = {"prompts": ["tula"], "temperature": 1.0, "max_new_tokens": 8}
    for name in ("one", "other"):
        trained(data, tmp_path / name, steps=8, plugins={"samples": options})
        torch.rand(3)
    assert written(tmp_path / "one") == written(tmp_path / "other")


@pytest.mark.parametrize("stop", [5, 7])
def test_a_resumed_run_has_each_sample_once(stop: int, data: Path, tmp_path: Path) -> None:
    plugin = Samples(prompts=["tula"], max_new_tokens=4)
    hfx.train(config(data, steps=12), plugins=[plugin], output=str(tmp_path / "whole"))
    part = tmp_path / "part"
    hfx.train(config(data, steps=12, save_every=3), plugins=[plugin, Ends(after=stop)], output=str(part))
    hfx.train(config(data, steps=12, save_every=3, resume=str(part)), plugins=[plugin, Ends(after=99)])
    assert written(part) == written(tmp_path / "whole")
    assert len(written(part)) == 3


def test_a_chat_is_asked_in_its_template(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": word}]}
            for word in ("red", "green", "blue", "one", "two", "six") for _ in range(5)]  # fmt: skip
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "chat.jinja").write_text(
        "{% for message in messages %}{{ message.role + ': ' + message.content + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    chat = {"chat": {"template": str(tmp_path / "chat.jinja")}}
    own = {"samples": {"prompts": ["say red"], "max_new_tokens": 6}, "bpe": {"vocab_size": 330}}
    trained(tmp_path / "chat.jsonl", tmp_path / "run", steps=160, eval_every=160, seq_length=64,
            plugins=chat | own | {"adamw": {"lr": 0.01}})  # fmt: skip
    [line] = written(tmp_path / "run")
    assert line["text"].startswith("red")


LEARNED = {"scratch": {"architecture": "gpt2", "hidden_size": 32, "layers": 1, "heads": 2}}


def test_a_text_ends_where_the_models_positions_do(data: Path, tmp_path: Path) -> None:
    plugins = LEARNED | {"samples": {"prompts": ["tula"], "max_new_tokens": 500}}
    trained(data, tmp_path / "run", steps=8, seq_length=16, plugins=plugins)
    assert len(written(tmp_path / "run")) == 2


def test_a_prompt_that_leaves_no_position_is_refused_before_the_first_step(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no position behind them; shorten it"):
        trained(data, tmp_path / "run", seq_length=16, plugins=LEARNED | {"samples": {"prompts": ["tula kone " * 30]}})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("plugins", "said"),
    [
        ({"samples": {}}, "'samples' has no prompts"),
        ({"samples": {"prompts": ["a"]}, "fsdp": {}}, "'fsdp' has it in pieces"),
        ({"samples": {"prompts": ["a"]}, "classification": {}}, "writes no text"),
    ],
    ids=["no prompts", "pieces", "no text"],
)
def test_what_cannot_write_is_refused(plugins: dict[str, Any], said: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match=said):
        trained(data, tmp_path / "run", plugins=plugins)
