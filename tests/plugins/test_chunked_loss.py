from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoConfig, AutoModelForCausalLM

from hfx import causal_loss
from hfx.errors import IncompatibleError
from hfx.rates import operations
from hfx.token_loss import install_loss
from hfx_plugins.memory import chunked_loss_impl
from hfx_plugins.memory.chunked_loss import ChunkedLoss

VOCABULARY = 97
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
ARCHITECTURES = {
    "llama": SIZES,
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "phi": SIZES,  # its head has a bias
    "cohere": {**SIZES, "num_key_value_heads": 1, "logit_scale": 0.3},
    "granite": {**SIZES, "num_key_value_heads": 1, "logits_scaling": 4.0},
}


def build(architecture: str, chunk: int | None, **options: Any) -> Any:
    """Return a model with the plain loss, or with that of the plugin."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture, vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, **options
    )
    model = AutoModelForCausalLM.from_config(config).train()
    install_loss(model)
    if chunk is None:
        return model
    hook = ChunkedLoss(chunk=chunk or None).hfx_model(
        SimpleNamespace(task=SimpleNamespace(unit="token"), planning=False)
    )
    next(hook)
    with pytest.raises(StopIteration) as end:
        hook.send(model)
    return end.value.value


def batch() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :5] = -100
    labels[2] = -100
    return {"input_ids": ids}, labels


def trained(model: Any, autocast: bool = False) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = causal_loss(model, *batch())
    return loss, list(torch.autograd.grad(loss, [*model.parameters()], allow_unused=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_loss_and_gradients_are_those_of_the_plain_loss(architecture: str, chunk: int) -> None:
    plain, expected = trained(build(architecture, None, **ARCHITECTURES[architecture]))
    model = build(architecture, chunk, **ARCHITECTURES[architecture])
    for _ in range(2):  # the first batch is preceded by a probe
        loss, found = trained(model)
        assert torch.allclose(loss, plain, rtol=1e-5)
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "phi"])
def test_under_autocast_they_are_as_close_as_bf16_is(architecture: str) -> None:
    plain, expected = trained(build(architecture, None, **ARCHITECTURES[architecture]), autocast=True)
    loss, found = trained(build(architecture, 4, **ARCHITECTURES[architecture]), autocast=True)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, plain, rtol=1e-3)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is None or float((ours - theirs).norm()) <= 0.02 * float(theirs.norm()) + 1e-6


class Largest(TorchDispatchMode):
    """Remembers the most rows of a tensor that is as wide as the vocabulary."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and tensor.ndim and tensor.shape[-1] == VOCABULARY:
                self.rows = max(self.rows, tensor.numel() // VOCABULARY)
        return result


@pytest.mark.parametrize("autocast", [False, True])
def test_no_logits_are_there_beyond_those_of_a_chunk(autocast: bool) -> None:
    narrow = {**SIZES, "hidden_size": 8}
    plain, chunked = build("llama", None, **narrow), build("llama", 4, **narrow)
    trained(chunked)  # the probe looks at four tokens
    rows = []
    for model in (plain, chunked):
        with Largest() as largest:
            trained(model, autocast)
        rows.append(largest.rows)
    assert rows[0] == int((batch()[1][:, 1:] != -100).sum()) == 16
    # A transposed gradient of the head's weight is as wide as the vocabulary, and as high as the states.
    assert rows[1] <= 8


class Operations(TorchDispatchMode):
    """Counts as the planner does."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.calls: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls[func._overloadpacket] += 1
        self.count += operations(func, args, kwargs or {}, result)
        return result


@pytest.mark.parametrize("architecture", ["llama", "phi"])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_operations_are_those_of_the_plain_loss(architecture: str, autocast: bool) -> None:
    counts = []
    for chunk in (None, 4):
        model = build(architecture, chunk, **ARCHITECTURES[architecture])
        trained(model, autocast)  # a probe precedes the first batch
        with Operations() as counted:
            trained(model, autocast)
        counts.append(counted.count)
    assert counts[0] == counts[1] > 0


def test_without_gradients_none_are_computed() -> None:
    counts = []
    for chunk in (None, 4):
        model = build("llama", chunk, **SIZES)
        trained(model)  # a probe precedes the first batch
        with Operations() as counted, torch.no_grad():
            causal_loss(model, *batch())
        counts.append(counted.count)
    assert counts[0] == counts[1] > 0


def test_without_a_size_the_logits_take_half_of_what_the_heads_gradient_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss_impl, "LEAST", 1)
    model = build("llama", 0, **SIZES)
    trained(model)
    with Operations() as counted:
        trained(model)
    # Sixteen tokens carry a label, and the model is sixteen wide.
    assert counted.calls[torch.ops.aten.scatter_add_] == 2


def test_its_gradients_are_computed_once() -> None:
    model = build("llama", 4, **SIZES)
    loss = causal_loss(model, *batch())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="computed once"):
        loss.backward()


def test_logits_that_are_bent_afterwards_are_refused_at_the_first_batch() -> None:
    sizes = {**SIZES, "num_key_value_heads": 1, "head_dim": 8, "final_logit_softcapping": 0.05}
    model = build("gemma2", 4, **sizes)
    with pytest.raises(IncompatibleError, match=r"soft-capping\?\); add '--plugin no:chunked_loss'"):
        trained(model)


def test_a_batch_without_labels_has_a_loss_of_zero() -> None:
    model = build("llama", 4, **SIZES)
    inputs, labels = batch()
    loss = causal_loss(model, inputs, torch.full_like(labels, -100))
    loss.backward()
    assert loss.item() == 0


def test_logits_that_a_task_makes_by_itself_have_the_plain_loss() -> None:
    model = build("llama", 4, **SIZES)
    loss, _ = trained(model)
    inputs, labels = batch()
    logits = model(**inputs, use_cache=False).logits
    assert torch.allclose(model.loss_function(logits=logits, labels=labels), loss, rtol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_frozen_head_hands_the_gradient_on(autocast: bool) -> None:
    plain, chunked = build("llama", None, **SIZES), build("llama", 4, **SIZES)
    found = []
    for model in (plain, chunked):
        model.lm_head.weight.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = causal_loss(model, *batch())
        loss.backward()
        assert model.lm_head.weight.grad is None
        found.append(model.model.layers[0].mlp.up_proj.weight.grad)
    assert float((found[1] - found[0]).norm()) <= 0.02 * float(found[0].norm())


def test_the_head_is_itself_again_when_the_loss_is_known() -> None:
    model = build("llama", 4, **SIZES)
    trained(model)
    assert model(**batch()[0]).logits.shape == (3, 11, VOCABULARY)
    assert "forward" not in vars(model.lm_head)


# ── in runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("chunked")
    rows = [{"text": f"{number} rivers meet {number % 7} mills", "label": number % 2} for number in range(90)]
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    small = ["--bpe.vocab-size", "300", "--scratch.hidden-size", "32", "--scratch.layers", "2", "--seq-length", "32"]
    command = [sys.executable, "-m", "hfx", "train", "--data", "rows.jsonl", *small, "--batch-size", "8", *words]
    environ = os.environ | {"HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environ, text=True, capture_output=True, timeout=200)


def test_a_run_has_the_losses_of_the_plain_one(folder: Path) -> None:
    losses = []
    for name, words in {"plain": (), "chunked": ("--plugin", "chunked_loss", "--chunked-loss.chunk", "16")}.items():
        done = train(folder, "--steps", "6", "--plugin", "fp32", "--output", name, *words)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([line.get("loss", line.get("eval_loss")) for line in lines])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_task_without_tokens_to_predict_is_refused(folder: Path) -> None:
    words = ("--plugin", "classification", "--classification.label", "label", "--plugin", "chunked_loss")
    done = train(folder, "--steps", "1", "--output", "refused", *words)
    assert done.returncode == 2
    assert "'chunked_loss' needs a model for the next token" in done.stderr
