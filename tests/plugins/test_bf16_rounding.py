"""Pure bf16 whose updates are rounded at random: what is lost to the nearest number is not lost so."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lion_pytorch import Lion
from safetensors.torch import load_file
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn

from command_line import hfx
from hfx.api import problems
from hfx.errors import IncompatibleError
from hfx.plan import plan
from hfx.resolve import resolve
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, weights
from hfx.testing.tiny import tiny_rows, write_rows
from hfx.testing.training import continues_to_the_bit, trained
from hfx_plugins.models.lora import Lora
from hfx_plugins.optimizers.muon_impl import Side
from hfx_plugins.precision import stochastic_impl
from hfx_plugins.precision.bf16 import BF16
from hfx_plugins.precision.fp32 import FP32
from hfx_plugins.precision.stochastic_impl import StochasticallyRounded, rounded
from tiny_models import Fields

PURE = BF16(pure=True)
STOCHASTIC = BF16(pure=True, rounding="stochastic")
LOW = torch.bfloat16


@dataclass
class Steps:
    """What rounding reads of a run."""

    config: Fields = field(default_factory=Fields)
    step: int = 0


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.floats(width=32), min_size=1, max_size=50), st.integers(0, 2**32))
@settings(deadline=None)
def test_a_number_becomes_one_of_the_two_beside_it(numbers: list[float], seed: int) -> None:
    exact = torch.tensor(numbers)
    found = rounded(exact, draw(seed)).float()

    finite = exact.isfinite()
    assert torch.equal(found[~finite].nan_to_num(7), exact[~finite].to(LOW).float().nan_to_num(7))
    exact, found = exact[finite], found[finite]
    bits = exact.view(torch.int32)
    towards_zero = bits.bitwise_and(-(1 << 16)).view(torch.float32)
    away = (bits.bitwise_and(-(1 << 16)) + (1 << 16)).view(torch.float32)
    assert bool(((found == towards_zero) | (found == away)).all())
    assert torch.equal(found[exact == towards_zero], exact[exact == towards_zero])


def test_what_is_no_number_stays_none_whatever_its_bits() -> None:
    odd = torch.tensor([0x7FFFFFFF, -1, 0x7F800000, 0x7FC00000], dtype=torch.int32).view(torch.float32)

    found = rounded(odd.repeat(1000), draw()).view(-1, 4)

    assert bool(found[:, [0, 1, 3]].isnan().all())
    assert bool(found[:, 2].isposinf().all())


@pytest.mark.parametrize("number", [1.0001, -1.0001, 0.02 + 1e-6, 3e-5, 1 + 0.75 / 128])
def test_the_mean_of_many_is_the_number(number: float) -> None:
    many = 2**18
    found = rounded(torch.full((many,), number), draw()).double()

    low, high = found.min().item(), found.max().item()
    exact = torch.tensor(number).double().item()
    share = (exact - low) / (high - low)
    error = (high - low) * math.sqrt(share * (1 - share) / many)
    assert low < exact < high
    assert abs(found.mean().item() - exact) < 5 * error


def test_what_is_drawn_for_neighbours_has_nothing_in_common() -> None:
    up = (rounded(torch.full((2**18,), 1 + 0.5 / 128), draw()) > 1).double() - 0.5

    for shift in (1, 2, 3, 4, 8):
        assert abs(float((up[shift:] * up[:-shift]).mean()) * 4) < 5 / math.sqrt(2**18)


# ── optimizers ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Explicit(torch.optim.Optimizer):
    """Keeps its state in float32, whatever the parameters are in."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1e-4})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    mean = self.state[p].setdefault("mean", torch.zeros_like(p, dtype=torch.float32))
                    mean.lerp_(p.grad.float(), 0.5)
                    p.data.add_(mean.to(p.dtype), alpha=-group["lr"])


def _muon(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return Side(torch.optim.Muon(params[:1], lr=1e-3, weight_decay=0), torch.optim.AdamW(params[1:], lr=1e-4))


def _schedule_free(params: list[nn.Parameter]) -> Any:
    optimizer = AdamWScheduleFree(params, lr=1e-4)
    optimizer.train()
    return optimizer


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Any]] = {
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-4),
    "fused": lambda params: torch.optim.AdamW(params, lr=1e-4, fused=True),
    "adafactor": lambda params: torch.optim.Adafactor(params, lr=1e-4),
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-4),
    "momentum": lambda params: torch.optim.SGD(params, lr=1e-4, momentum=0.5),
    "lion": lambda params: Lion(params, lr=1e-4),
    "muon": _muon,
    "schedule_free": _schedule_free,
    "explicit": Explicit,
}
STEPS = 40


def parameters(dtype: torch.dtype, size: int = 64) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(size, size, dtype=dtype)), nn.Parameter(torch.ones(size * size, dtype=dtype))]


def descended(optimizer: Any, params: list[nn.Parameter], run: Steps | None = None, steps: int = STEPS) -> list[Tensor]:
    """Return the parameters after steps along gradients near 1, the same for every optimizer."""
    noise = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            p.grad = (1 + 0.1 * torch.randn(p.shape, generator=noise)).to(p.dtype)
        optimizer.step()
        if run:
            run.step += 1
    return [p.detach().clone() for p in params]


def stochastic(name: str, steps: int = STEPS, **fields: Any) -> tuple[StochasticallyRounded, list[Tensor]]:
    run = Steps(Fields(**fields))
    params = parameters(LOW)
    optimizer = StochasticallyRounded(OPTIMIZERS[name](params), run)  # type: ignore[arg-type]
    return optimizer, descended(optimizer, params, run, steps)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_small_updates_that_rounding_to_the_nearest_loses_move_weights_by_the_right_mean(name: str) -> None:
    params = parameters(torch.float32)
    exact = descended(OPTIMIZERS[name](params), params)
    params = parameters(LOW)
    nearest = descended(OPTIMIZERS[name](params), params)
    _, found = stochastic(name)

    for one, plain, other in zip(exact, nearest, found, strict=True):
        moved = 1 - one.double().mean().item()
        if moved > 0.1:  # Muon's updates of a matrix are large
            continue
        assert moved > 1e-4
        assert other.dtype == LOW
        # Each of the steps draws anew: the error of a mean is at most half a distance over the root of their number.
        error = 2**-8 / 2 * math.sqrt(STEPS / one.numel())
        assert abs((1 - other.double().mean().item()) - moved) < 5 * error + 0.02 * moved
        if name != "schedule_free":  # which adds up the updates in a second set of weights
            assert torch.equal(plain, torch.ones_like(plain))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_is_in_the_dtypes_in_which_the_optimizer_makes_it(name: str) -> None:
    def dtypes(optimizer: Any, params: list[nn.Parameter]) -> list[dict[str, Any]]:
        kind = lambda value: value.dtype if isinstance(value, Tensor) else type(value)  # noqa: E731
        return [{key: kind(value) for key, value in optimizer.state[p].items()} for p in params]

    params = parameters(LOW)
    plain = OPTIMIZERS[name](params)
    descended(plain, params, steps=2)
    optimizer, _ = stochastic(name, steps=2)

    assert dtypes(optimizer, optimizer._inner.param_groups[0]["params"]) == dtypes(
        plain, plain.param_groups[0]["params"]
    )
    assert optimizer.state is optimizer._inner.state
    assert optimizer.param_groups is optimizer._inner.param_groups


def test_a_mean_of_squares_follows_gradients_that_shrink() -> None:
    """To the nearest, a thousandth less is the same number in bf16, and the mean would stay."""
    params = [nn.Parameter(torch.ones(4096, dtype=LOW))]
    run = Steps()
    optimizer = StochasticallyRounded(torch.optim.AdamW(params, lr=1e-5), run)  # type: ignore[arg-type]
    for step in range(200):
        params[0].grad = torch.full_like(params[0], 1.0 if step == 0 else 0.0)
        optimizer.step()
        run.step += 1

    mean = optimizer.state[params[0]]["exp_avg_sq"].double().mean().item()
    assert mean == pytest.approx(1e-3 * 0.999**199, rel=0.02)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "momentum"])
def test_a_step_made_part_by_part_is_that_of_a_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = stochastic(name, steps=3)
    monkeypatch.setattr(stochastic_impl, "AT_ONCE", 1)
    _, parts = stochastic(name, steps=3)

    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_only_as_many_copies_exist_at_a_time_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stochastic_impl, "AT_ONCE", 100)
    params = [nn.Parameter(torch.ones(60, dtype=LOW)) for _ in range(5)]
    seen: list[int] = []

    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            seen.append(sum(p.numel() for group in self.param_groups for p in group["params"]))
            super().step()

    Counting.__module__ = "torch.optim"
    descended(StochasticallyRounded(Counting(params), Steps()), params, steps=1)  # type: ignore[arg-type]

    assert set(seen) == {60}


@pytest.mark.parametrize("name", ["adamw", "schedule_free"])
def test_who_counts_steps_counts_one_a_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stochastic_impl, "AT_ONCE", 1)
    params, calls = parameters(LOW), []
    inner = OPTIMIZERS[name](params)
    inner.register_step_post_hook(lambda *_: calls.append(1))
    optimizer = StochasticallyRounded(inner, Steps())  # type: ignore[arg-type]
    descended(optimizer, params, steps=3)

    assert len(calls) == 3
    assert optimizer.param_groups[0].get("k", 3) == 3


def test_an_optimizer_sees_the_parameters_it_was_made_for_in_float32() -> None:
    params = parameters(LOW, size=4)
    seen: list[tuple[bool, torch.dtype, torch.dtype]] = []
    inner = torch.optim.SGD(params, lr=1e-4)
    inner.register_step_pre_hook(
        lambda optimizer, *_: seen.extend(
            (one is own, one.dtype, one.grad.dtype)
            for one, own in zip(optimizer.param_groups[0]["params"], params, strict=True)
        )
    )
    places = [p.data_ptr() for p in params]
    descended(StochasticallyRounded(inner, Steps()), params, steps=1)  # type: ignore[arg-type]

    assert seen == [(True, torch.float32, torch.float32)] * 2
    assert [(p.dtype, p.grad.dtype, p.data_ptr()) for p in params] == [(LOW, LOW, place) for place in places]


def test_what_is_drawn_depends_on_seed_and_step_and_on_nothing_before() -> None:
    _, first = stochastic("sgd", steps=2, seed=3)
    torch.manual_seed(99)
    _, again = stochastic("sgd", steps=2, seed=3)
    _, other = stochastic("sgd", steps=2, seed=4)

    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    ups = []
    for step in (0, 1):
        params = parameters(LOW)
        run = Steps(step=step)
        optimizer = StochasticallyRounded(OPTIMIZERS["sgd"](params), run)  # type: ignore[arg-type]
        ups += descended(optimizer, params, steps=1)[:1]
    assert not torch.equal(*ups)


def test_each_parameter_draws_for_itself() -> None:
    params = [nn.Parameter(torch.ones(4096, dtype=LOW)) for _ in range(2)]
    for p in params:
        p.grad = torch.ones_like(p)
    StochasticallyRounded(torch.optim.SGD(params, lr=1e-3), Steps()).step()  # type: ignore[arg-type]

    moved = [(p < 1).double() for p in params]
    assert all(0.2 < each.mean().item() < 0.3 for each in moved)  # 0.001 of the 0.0039 to the next number
    assert (moved[0] * moved[1]).mean().item() < 0.1  # and not the same ones


def test_parameters_without_a_gradient_stay_and_those_in_fp32_are_updated_as_ever() -> None:
    def made() -> list[nn.Parameter]:
        return [nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8, dtype=LOW)), nn.Parameter(torch.ones(8))]

    def step(optimizer: Any, params: list[nn.Parameter]) -> None:
        for _ in range(3):
            params[0].grad = torch.linspace(1, 2, 8)
            optimizer.step()

    plain, params = made(), made()
    step(torch.optim.AdamW(plain, lr=1e-3), plain)
    optimizer = StochasticallyRounded(torch.optim.AdamW(params, lr=1e-3), Steps())  # type: ignore[arg-type]
    step(optimizer, params)

    assert all(torch.equal(one, other) for one, other in zip(params, plain, strict=True))
    assert not torch.equal(params[0], torch.ones(8))
    assert set(optimizer.state) == {params[0]}


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def bench(plugin: Any, lr: float = 1e-4) -> Bench:
    return Bench.of(type(plugin), plugin.options(), {"plugins": {"adamw": {"lr": lr}}}, None)


def test_a_run_ends_nearer_to_that_of_fp32_than_one_rounded_to_the_nearest() -> None:
    ends, losses = [], []
    for plugin in (FP32(), PURE, STOCHASTIC):
        with bench(plugin).run(steps=60, plugins={"constant": {"warmup": 0}, "adamw": {"lr": 1e-4}}) as run:
            losses.append(trained(run).metrics["eval_loss"])
            ends.append(torch.cat([p.detach().double().flatten() for p in run.model.parameters()]))

    (exact, nearest, found), (loss, plain, other) = ends, losses
    print(f"losses: fp32 {loss:.4f}, nearest {plain:.4f}, stochastic {other:.4f}")
    assert abs(other - loss) < 0.5 * abs(plain - loss)
    assert (found - exact).mean().abs() < 0.5 * (nearest - exact).mean().abs()


def test_weights_and_state_of_a_run_are_bf16() -> None:
    with bench(STOCHASTIC).run() as run:
        before = weights(run.model)
        trained(run)
        assert {p.dtype for p in run.model.parameters()} == {LOW}
        kept = {key: value.dtype for state in run.optimizer.state.values() for key, value in state.items()}
        assert kept == {"step": torch.float32, "exp_avg": LOW, "exp_avg_sq": LOW}
        assert not [name for name, p in run.model.named_parameters() if torch.equal(p, before[name])]


@pytest.mark.parametrize("optimizer", ["sgd", "lion", "muon", "adafactor"])
def test_a_run_with_any_optimizer_continues_to_the_bit(optimizer: str) -> None:
    continues_to_the_bit(Bench.of(BF16, STOCHASTIC.options(), {"plugins": {optimizer: {}}}, None))


def test_how_a_batch_is_cut_changes_no_draw() -> None:
    ends = []
    for size in (4, 4, 2):
        with bench(STOCHASTIC).run(steps=1, micro_batch_size=size) as run:
            trained(run)
            ends.append(weights(run.model))
    assert not differing(ends[0], ends[1])
    same = [float((ends[0][name] == ends[2][name]).float().mean()) for name in ends[0]]
    assert min(same) > 0.9  # gradients of bf16 differ by how they are added up, what is drawn does not


def test_adapters_in_fp32_go_with_it() -> None:
    with bench(STOCHASTIC).run(Lora()) as run:
        before = weights(run.model)
        trained(run)
        changed = differing(before, weights(run.model))
        assert changed
        assert all("lora" in name for name in changed)


def test_rounding_what_is_no_bf16_is_refused() -> None:
    resolved = resolve(mapping={"data": "rows.txt", "plugins": {"bf16": {"rounding": "stochastic"}}})

    assert [problem.message for problem in problems(resolved)] == [
        "'bf16.rounding' is 'stochastic', and the weights are in fp32, which loses no update; "
        "add '--bf16.pure true', or leave it out"
    ]


def test_a_backend_that_holds_parameters_in_parts_is_refused() -> None:
    params = parameters(LOW)
    params[0].full_tensor = lambda: None  # type: ignore[attr-defined]

    with pytest.raises(IncompatibleError, match=r"'--bf16\.rounding nearest'"):
        StochasticallyRounded(torch.optim.SGD(params), Steps())  # type: ignore[arg-type]


def test_an_engine_that_trains_other_parameters_is_refused_as_it_steps() -> None:
    optimizer = StochasticallyRounded(torch.optim.SGD(parameters(LOW)), Steps())  # type: ignore[arg-type]
    flat = nn.Parameter(torch.ones(8, dtype=LOW))
    flat.grad = torch.ones_like(flat)
    optimizer.param_groups[0]["params"] = [flat]

    with pytest.raises(IncompatibleError, match="the backend holds parameters in parts"):
        optimizer.step()
    assert torch.equal(flat, torch.ones_like(flat))


def test_updates_in_the_backward_pass_are_those_after_it() -> None:
    ends = []
    for others in ({}, {"optimizer_in_backward": {}}):
        made = Bench.of(BF16, STOCHASTIC.options(), {"max_grad_norm": None, "plugins": others}, None)
        with made.run() as run:
            trained(run)
            ends.append(weights(run.model))
    assert not differing(*ends)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_is_planned_with_state_in_bf16_and_copies_for_a_while(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = []
    for size in (2**24, 1):
        monkeypatch.setattr(stochastic_impl, "AT_ONCE", size)
        with Bench.of(BF16, STOCHASTIC.options(), {"plugins": {optimizer: {}}}, None).run() as run:
            planned = plan(run)
        peaks.append(planned.peaks["optimizer"])
        assert planned.peak["parameters"] <= 2 * planned.parameters
        assert peaks[-1]["optimizer state"] <= 4 * planned.parameters + 1000

    assert peaks[0]["temporary"] > peaks[1]["temporary"] > 0


@pytest.mark.slow
def test_a_run_of_the_command_line_goes_on_to_the_bit_and_can_be_planned(tmp_path: Path) -> None:
    write_rows(tiny_rows(60), tmp_path / "rows.jsonl")
    environ = {"HFX_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    small = ("--bpe.vocab-size", "300", "--scratch.hidden-size", "32", "--scratch.layers", "2", "--seq-length", "32")
    pure = ("--plugin", "bf16", "--bf16.pure", "true", "--bf16.rounding", "stochastic")
    words = ("--data", "rows.jsonl", *small, *pure, "--batch-size", "4", "--steps", "6", "--save-every", "2")

    def call(*words: str) -> Any:
        done = hfx(*words, cwd=tmp_path, **environ)
        assert done.returncode == 0, done.stderr
        return done

    assert "rounded stochastically" in call("train", *words, "--output", "whole").stderr
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    last = "checkpoints/step-00000006"
    shutil.rmtree(tmp_path / "cut" / last)  # as if it had died before it
    shutil.rmtree(tmp_path / "cut" / "model")
    call("train", "--resume", "cut")

    def figures(name: str) -> list[Any]:
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [[line.get(key) for key in ("step", "loss", "lr", "grad_norm", "eval_loss")] for line in lines]

    def tensors(name: str) -> dict[str, Tensor]:
        return {key: t for file in (tmp_path / name / last).glob("*.safetensors") for key, t in load_file(file).items()}

    assert figures("cut") == figures("whole")
    one, other = tensors("cut"), tensors("whole")
    assert {key.rpartition(".")[2] for key in one} >= {"exp_avg", "exp_avg_sq", "weight"}
    assert not differing(one, other)
    planned = json.loads(call("plan", *words, "--json").stdout)
    assert planned["bytes"].get("optimizer state", 0) < 5 * planned["parameters"]
