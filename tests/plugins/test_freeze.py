from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.errors import ConfigError, IncompatibleError
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, weights
from hfx.testing.training import continues_to_the_bit, trained
from hfx_plugins.memory.gradient_checkpointing import GradientCheckpointing
from hfx_plugins.models.freeze import Freeze
from hfx_plugins.models.freeze_impl import freeze
from tiny_models import tiny_llama

if TYPE_CHECKING:
    import torch

NAMES = [name for name, _ in tiny_llama().named_parameters()]


def bench(**options: Any) -> Bench:
    return Bench.of(Freeze, options, {}, None)


def frozen(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def applied(model: torch.nn.Module, **options: Any) -> set[str]:
    freeze(model, Freeze(**options))
    return frozen(model)


def test_what_is_frozen_has_no_gradient_and_no_optimizer_state_and_is_unchanged_to_the_bit_after_a_run() -> None:
    with bench(names=["model.embed_tokens", "*.mlp.*"]).run() as run:
        run.build()
        model, before = run.model, weights(run.model)
        expected = {name for name in before if "embed_tokens" in name or ".mlp." in name}
        gradients: set[str] = set()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda _, name=name: gradients.add(name))
        run.hooks.run(run=run)

        assert set(before) - set(differing(before, weights(model))) == expected
        assert gradients == set(before) - expected
        held = {id(parameter) for parameter in run.optimizer.state}
        assert held == {id(parameter) for name, parameter in model.named_parameters() if name not in expected}
        assert all(dict(model.named_parameters())[name].grad is None for name in expected)


@given(st.sets(st.sampled_from(NAMES), min_size=1, max_size=len(NAMES) - 1))
@settings(max_examples=20, deadline=None)
def test_names_and_only_are_each_others_opposite(names: set[str]) -> None:
    patterns = sorted(names)
    assert applied(tiny_llama(), names=patterns) == names
    assert applied(tiny_llama(), only=patterns) == set(NAMES) - names


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("model.layers.1", {name for name in NAMES if name.startswith("model.layers.1.")}),
        ("model.layers.[0]", {name for name in NAMES if name.startswith("model.layers.0.")}),
        ("*norm*", {name for name in NAMES if "norm" in name}),
        ("*.?_proj", {name for name in NAMES if "_proj" in name and "self_attn" in name}),
        ("lm_head.weight", {"lm_head.weight"}),
    ],
)
def test_a_pattern_means_whole_names_and_a_module_means_all_of_it(pattern: str, expected: set[str]) -> None:
    assert expected
    assert applied(tiny_llama(), names=[pattern]) == expected


def test_tied_parameters_are_one_under_any_of_their_names() -> None:
    for name in ("lm_head", "model.embed_tokens"):
        assert applied(tiny_llama(tie_word_embeddings=True), names=[name]) == {"model.embed_tokens.weight"}


def test_what_was_frozen_before_stays_frozen() -> None:
    model = tiny_llama()
    model.lm_head.weight.requires_grad_(False)

    assert "lm_head.weight" in applied(model, names=["model.norm"])
    assert "lm_head.weight" in applied(model, only=["lm_head", "model.embed_tokens"])


def test_a_pattern_that_fits_nothing_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'freeze.names'.*'model.embed_token';.*did you mean 'model.embed_tokens'"):
        applied(tiny_llama(), names=["*norm*", "model.embed_token"])
    with pytest.raises(ConfigError, match=r"'freeze.only'.*fits 'zzz'"):
        applied(tiny_llama(), only=["zzz"])


def test_a_model_of_which_nothing_is_left_to_train_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="leaves no parameter to train"):
        applied(tiny_llama(), names=["*"])


@pytest.mark.parametrize("options", [{"names": ["*embed*"]}, {"only": ["*layers.1", "*norm*"]}])
def test_a_run_continues_to_the_bit(options: dict[str, Any]) -> None:
    continues_to_the_bit(bench(**options))


def test_layers_above_frozen_embeddings_learn_the_same_with_recomputed_activations() -> None:
    ends = []
    for others in ([], [GradientCheckpointing()]):
        with bench(only=["*layers.0", "*norm*"]).run(*others) as run:
            trained(run)
            ends.append(weights(run.model))
    assert not differing(*ends)


# ── on the command line ──────────────────────────────────────────────────────────────────────────────────────────────


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": f"{n} mills turn"}) + "\n" for n in range(30)))
    small = ["--bpe.vocab-size", "300", "--scratch.hidden-size", "32", "--scratch.layers", "2", "--seq-length", "16"]
    command = [sys.executable, "-m", "hfx", "train", "--data", "rows.jsonl", *small, "--steps", "2", *words]
    environ = os.environ | {"HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environ, text=True, capture_output=True, timeout=200)


def test_a_run_says_how_many_parameters_it_trains_and_refusals_take_one_line(tmp_path: Path) -> None:
    done = train(tmp_path, "--plugin", "freeze", "--freeze.names", "model.embed_tokens,*.mlp", "--output", "run")
    assert done.returncode == 0, done.stderr
    kept = 2 * (4 * 32 * 32 + 2 * 32) + 32  # attention and norms
    assert f" {kept:,} trained" in done.stderr

    done = train(tmp_path, "--plugin", "freeze", "--freeze.names", "model.layer.0", "--output", "typo")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("fits 'model.layer.0'; did you mean 'model.layers.0'?")
    assert not (tmp_path / "typo").exists()

    done = train(tmp_path, "--plugin", "freeze", "--output", "none")
    assert done.returncode == 2
    assert "give either 'freeze.names' or 'freeze.only'" in done.stderr
