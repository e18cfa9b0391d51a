"""`hfx plan` says what a run then really holds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml

from hfx.plan import plan
from hfx.protocols import World
from hfx.resolve import resolve
from hfx.run import Run
from toy_packages import toy_package

EXACT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
MEASURED = Path(__file__).parents[1] / "measured_peak.py"
CONFIGS = int(os.environ.get("HFX_PLAN_CONFIGS", "3"))
"""How many configs drawn at random are compared with what they really take; each takes half a minute."""
CONSTANT = 60 * 2**20
"""What kernels and libraries take once, whatever the model: the tolerance of models that are small beside it."""


THIRD = '''"""An optimizer of somebody else, of which hfx knows nothing."""

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Keeps three buffers a parameter, one of them in half precision."""

    @hookimpl
    def hfx_optimizer(self, params):
        import torch

        class Third(torch.optim.Optimizer):
            @torch.no_grad()
            def step(self, closure=None):
                for group in self.param_groups:
                    for p in group["params"]:
                        state = self.state[p]
                        if not state:
                            state["slow"] = torch.zeros_like(p, dtype=torch.float32)
                            state["fast"] = torch.zeros_like(p, dtype=torch.float32)
                            state["half"] = torch.zeros_like(p, dtype=torch.bfloat16)
                        gradient = p.grad.float()
                        state["fast"].lerp_(gradient, 0.1)
                        state["slow"].lerp_(state["fast"], 0.01)
                        state["half"].copy_(gradient.square())
                        p.sub_(group["lr"] * (state["fast"] + state["slow"]))

        return Third(params.groups(), {"lr": 1e-3})
'''

OWN_BACKEND = '''"""A backend of somebody else."""

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Would wait for others that a plan does not start."""

    @hookimpl
    def hfx_backend(self, run):
        raise AssertionError("a plan makes no backend of several processes")
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows that fill every sequence."""
    path: Path = tmp_path_factory.mktemp("plan")
    rng = random.Random(0)
    words = [f"w{number}" for number in range(3_000)]
    rows = [{"text": " ".join(rng.choices(words, k=1_500)), "label": f"l{number % 3}"} for number in range(60)]
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    toy_package(path, "hfx-third", {"third": THIRD})
    return path


def environ(folder: Path) -> dict[str, str]:
    own = {"HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | own | {"PYTHONPATH": str(folder)}


def planned(folder: Path, config: dict[str, Any], *words: str) -> dict[str, Any]:
    (folder / "config.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "hfx", "plan", "config.yaml", "--json", *words]
    done = subprocess.run(command, cwd=folder, env=environ(folder), text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measured(folder: Path, config: dict[str, Any]) -> int:
    command = [sys.executable, MEASURED, json.dumps(config)]
    done = subprocess.run(
        command, cwd=folder, env=environ(folder) | EXACT, text=True, capture_output=True, timeout=600, check=True
    )
    return int(done.stdout)


def config(plugins: dict[str, Any], scratch: dict[str, Any], **fields: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 256, "layers": 8, "heads": 4, "intermediate_size": 768} | scratch
    plugins = {"bpe": {"vocab_size": 2_000}, "scratch": sizes, "fp32": {}} | plugins
    return {"data": "rows.jsonl", "steps": 2, "batch_size": 8, "seq_length": 256, "plugins": plugins} | fields


@pytest.mark.parametrize(
    ("plugins", "micro"),
    [
        pytest.param({}, 8, id="plain"),
        pytest.param({}, 1, id="many micro-batches", marks=pytest.mark.slow),
        pytest.param({"gradient_checkpointing": {}, "lion": {}}, 8, id="checkpointed", marks=pytest.mark.slow),
        pytest.param({"lora": {}, "gradient_checkpointing": {}}, 8, id="lora"),
        pytest.param({"activation_offload": {}}, 8, id="offloaded"),
    ],
)
def test_the_peak_is_that_of_the_run(folder: Path, plugins: dict[str, Any], micro: int) -> None:
    made = config(plugins, {}, micro_batch_size=micro)
    figures, real = planned(folder, made), measured(folder, made)
    print(f"planned {figures['peak_bytes'] / 2**20:.0f} MiB, measured {real / 2**20:.0f} MiB")
    assert abs(figures["peak_bytes"] - real) < CONSTANT + 0.02 * real
    assert figures["bytes"]["parameters"] == 4 * figures["parameters"]


def run_of(folder: Path, made: dict[str, Any]) -> Run:
    run = Run(resolve(mapping=made | {"data": str(folder / "rows.jsonl")}), folder / "run", World())
    run.cache = folder / "cache"
    return run


def drawn(rng: random.Random) -> dict[str, Any]:
    """Return a config of a size that is worth planning: some 0.5 to 3 GiB."""
    heads = rng.choice([4, 8])
    hidden = heads * rng.choice([64, 96])
    architecture = rng.choice(["llama", "gpt2", "qwen3", "bert"])
    scratch = {
        "architecture": architecture,
        "hidden_size": hidden,
        "layers": rng.choice([7, 12, 16, 24]),
        "heads": heads,
        "intermediate_size": 3 * hidden,
        "tie_embeddings": rng.random() < 0.5,
    }
    task: dict[str, Any] = {}
    if architecture == "bert":
        task = {"classification": {}}
        del scratch["tie_embeddings"]
    elif rng.random() < 0.5:
        task = {"chunked_loss": {}}
    optimizer = rng.choice([{"adamw": {}}, {"lion": {}}, {"adafactor": {}}, {"third": {}}])
    checkpointing = rng.choice([{}, {}, {"gradient_checkpointing": {}}, {"gradient_checkpointing": {"every": 2}}])
    precision = rng.choice([{"fp32": {}}, {"bf16": {}}, {"bf16": {"pure": True}}])
    plugins = {
        "bpe": {"vocab_size": rng.choice([2_000, 3_000])},
        "scratch": scratch,
        **task,
        **optimizer,
        **checkpointing,
    }
    micro = rng.choice([2, 4, 8])
    fields = {"data": "rows.jsonl", "steps": 2, "batch_size": 8, "micro_batch_size": micro, "seq_length": 512}
    return fields | {"plugins": plugins | precision}


@pytest.mark.slow
def test_what_is_printed_for_a_budget_holds_no_more_in_a_run(folder: Path) -> None:
    made = config({}, {"layers": 16, "hidden_size": 512, "intermediate_size": 1536})
    budget = planned(folder, made)["peak_bytes"] // 2
    (folder / "budget.yaml").write_text(json.dumps(made))
    done = hfx(folder, "budget.yaml", "--fit", f"{budget // 2**20}MiB")
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()[-1].split()[3:]
    print(" ".join(words))
    shown = subprocess.run(
        [sys.executable, "-m", "hfx", "config", "show", "budget.yaml", *words],
        cwd=folder, env=environ(folder), text=True, capture_output=True, check=True,
    )  # fmt: skip
    real = measured(folder, yaml.safe_load(shown.stdout))
    print(f"budget {budget / 2**20:.0f} MiB, measured {real / 2**20:.0f} MiB")
    assert real < budget + CONSTANT


@pytest.mark.slow
def test_the_peaks_of_configs_drawn_at_random_are_within_five_percent_where_they_are_large(folder: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    errors = []
    for _ in range(40):
        made = drawn(rng)
        figures = planned(folder, made)
        if figures["peak_bytes"] < 2**30:
            continue
        real = measured(folder, made)
        errors.append(figures["peak_bytes"] / real - 1)
        print(f"{errors[-1]:+.2%} of {real / 2**30:.2f} GiB in the {figures['moment']}: {json.dumps(made['plugins'])}")
        if len(errors) == CONFIGS:
            break
    assert len(errors) == CONFIGS, "too few of the configs were large"
    print(f"worst {max(errors, key=abs):+.2%}, median {median(map(abs, errors)):.2%}")
    assert max(map(abs, errors)) < 0.05


# ── a few layers and micro-batches stand for all ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "plugins",
    [
        {},
        {"gradient_checkpointing": {}},
        {"gradient_checkpointing": {"every": 3}},
        {"gradient_checkpointing": {"keep": "matmuls"}},
        {"activation_offload": {}},
        {"bf16": {"pure": True}},
        {"lora": {"variant": "dora", "modules_to_save": ["norm"]}, "bf16": {"pure": True}},
    ],
    ids=["plain", "checkpointed", "every third", "matmuls kept", "offloaded", "bf16", "dora on bf16"],
)
def test_few_layers_show_what_all_of_them_hold(folder: Path, plugins: dict[str, Any]) -> None:
    made = config(plugins, {"layers": 16})
    if "bf16" in plugins:
        del made["plugins"]["fp32"]
    run = run_of(folder, made)
    few, whole = plan(run), plan(run, shorten=False)
    assert len(few.traced) == 2
    assert whole.traced == (16,)
    assert few.peak.total() == pytest.approx(whole.peak.total(), rel=1e-3)
    assert few.moment == whole.moment
    assert few.flops == pytest.approx(whole.flops, rel=1e-6)


def test_the_operations_are_of_all_micro_batches_and_one_update_though_two_are_traced(folder: Path) -> None:
    """Muon's update multiplies matrices."""
    one, eight = (plan(run_of(folder, config({"muon": {}}, {}, micro_batch_size=micro))) for micro in (8, 1))
    assert one.flops == pytest.approx(eight.flops, rel=1e-6)
    assert one.tokens == eight.tokens
    assert one.peaks["optimizer"].total() == eight.peaks["optimizer"].total()
    assert eight.peak.total() < one.peak.total()


def test_the_operations_are_those_that_the_shapes_say(folder: Path) -> None:
    """Six for each weight of a matrix and token, and those of attention."""
    figures = planned(folder, config({}, {"tie_embeddings": False}))
    matrices = figures["parameters"] - 2_000 * 256 - 17 * 256  # an embedding and norms multiply no matrix
    attention = 8 * 6 * 2 * 8 * 256 * 256 * 256  # layers, products, multiply and add, batch, positions twice, width
    assert figures["flops_per_step"] == pytest.approx(6 * matrices * 8 * 256 + attention, rel=0.05)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def hfx(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hfx", "plan", *words]
    return subprocess.run(command, cwd=folder, env=environ(folder), text=True, capture_output=True, timeout=300)


def test_the_command_says_what_a_run_says_before_its_first_step_and_what_it_holds(folder: Path) -> None:
    (folder / "told.yaml").write_text(json.dumps(config({"gradient_checkpointing": {}}, {})))
    done = hfx(folder, "told.yaml", "--device", "h100")
    assert done.returncode == 0, done.stderr
    heads = [line.split()[0] for line in done.stdout.splitlines()]
    assert heads[:2] == ["data", "rows"]
    assert {"model", "steps", "disk", "memory", "traced", "compute", "time", "technique"} <= set(heads)
    assert "published for h100" in done.stdout
    assert "gradient_checkpointing:" in done.stdout
    assert "less than without it" in done.stdout
    assert not (folder / "runs").exists()


def test_data_that_a_run_refuses_are_refused_in_the_same_words(folder: Path) -> None:
    made = config({}, {"layers": 2})
    made["plugins"]["causal_lm"] = {"min_length": 100_000}
    (folder / "short.yaml").write_text(json.dumps(made))
    refused = hfx(folder, "short.yaml")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("hfx: none of 55 rows yields an example (too_short 55)")


def test_what_is_printed_for_a_budget_fits_and_can_be_typed(folder: Path) -> None:
    made = config({}, {"layers": 5})
    whole = planned(folder, made)
    budget = whole["peak_bytes"] * 2 // 3
    (folder / "big.yaml").write_text(json.dumps(made))
    done = hfx(folder, "big.yaml", "--fit", f"{budget // 2**20}MiB")
    assert done.returncode == 0, done.stderr
    typed = done.stdout.splitlines()[-1].split()
    assert typed[:3] == ["hfx", "train", "big.yaml"]
    found = json.loads(hfx(folder, *typed[2:], "--json").stdout)
    assert found["peak_bytes"] <= budget


def test_beside_an_optimizer_that_is_typed_no_other_one_is_tried(folder: Path) -> None:
    (folder / "typed.yaml").write_text(json.dumps(config({}, {"layers": 2}, micro_batch_size=1)))
    done = hfx(folder, "typed.yaml", "--plugin", "adamw", "--fit", "1MiB")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("hfx: nothing that was tried fits into 1MiB")


def test_what_fits_nowhere_and_what_is_no_size_are_told_in_a_line(folder: Path) -> None:
    (folder / "small.yaml").write_text(json.dumps(config({}, {"layers": 2}, micro_batch_size=1)))
    done = hfx(folder, "small.yaml", "--fit", "1MiB")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("hfx: nothing that was tried fits into 1MiB")
    done = hfx(folder, "small.yaml", "--fit", "much")
    assert done.returncode == 2
    assert "'--fit much' is no size; write it as 8GiB or 500MiB" in done.stderr
    done = hfx(folder, "small.yaml", "--device", "h10")
    assert done.returncode == 2
    assert "did you mean 'h100'?" in done.stderr


def test_a_rank_of_several_holds_the_share_that_its_backend_states(folder: Path) -> None:
    made = config({}, {}, micro_batch_size=1)
    machines = ("--nproc", "2", "--nnodes", "2", "--rdzv", "here:1", "--output", "seen-by-both")
    alone, four = planned(folder, made), planned(folder, made, *machines)
    assert (alone["ranks"], four["ranks"]) == (1, 4)
    trained = 4 * alone["trained_parameters"]
    assert four["bytes"]["buckets"] == trained  # DDP's
    assert four["tokens_per_step_each"] == four["tokens_per_step"] / 4
    assert four["flops_per_step"] == pytest.approx(alone["flops_per_step"] / 4, rel=1e-3)
    sharded = planned(folder, made, "--nproc", "4", "--plugin", "fsdp")
    assert sharded["bytes"]["optimizer state"] == pytest.approx(trained * 2 / 4, rel=1e-3)
    assert sharded["peak_bytes"] < alone["peak_bytes"] < four["peak_bytes"]


def test_what_a_plan_leaves_out_is_named(folder: Path) -> None:
    (folder / "compiled.yaml").write_text(json.dumps(config({"compile": {}}, {"layers": 2})))
    done = hfx(folder, "compiled.yaml")
    assert done.returncode == 0, done.stderr
    assert "without    'compile': the figures are those of the same run without it" in done.stdout


def test_a_budget_for_each_of_several_ranks_is_met_by_sharding_where_nobody_chose_a_backend(folder: Path) -> None:
    made = config({}, {"layers": 4}, batch_size=4, micro_batch_size=1)
    budget = planned(folder, made, "--nproc", "4")["peak_bytes"] * 2 // 3
    done = hfx(folder, "config.yaml", "--nproc", "4", "--fit", f"{budget // 2**20}MiB")
    assert done.returncode == 0, done.stderr
    assert "processes  4 under 'auto_backend'" in done.stdout
    assert done.stdout.splitlines()[-1] == "hfx train config.yaml --nproc 4 --plugin fsdp"


def test_of_a_backend_that_states_nothing_the_plan_says_so(folder: Path) -> None:
    toy_package(folder, "hfx-own", {"own": OWN_BACKEND})
    done = hfx(folder, "config.yaml", "--nproc", "2", "--plugin", "own")
    assert done.returncode == 0, done.stderr
    assert "processes  2; 'own' does not say what each of them holds" in done.stdout
    assert planned(folder, config({}, {}), "--nproc", "2", "--plugin", "own")["shares_known"] is False
