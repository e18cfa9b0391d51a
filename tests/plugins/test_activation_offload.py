from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from held_bytes import Held
from hfx import Plugin, Run, World
from hfx.errors import StorageError
from hfx.loop import collate, to_device, train_step
from hfx.plan import Plan, plan
from hfx.resolve import resolve
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, weights
from hfx.testing.tiny import tiny_rows, write_rows
from hfx.testing.training import trained
from hfx_plugins.batching.packing import Packing
from hfx_plugins.memory.activation_offload import ActivationOffload
from hfx_plugins.memory.activation_offload_impl import Offload
from hfx_plugins.memory.activation_stores_impl import Disk, Host
from hfx_plugins.memory.chunked_loss import ChunkedLoss
from hfx_plugins.memory.gradient_checkpointing import GradientCheckpointing
from hfx_plugins.memory.gradient_checkpointing_impl import enable
from hfx_plugins.models.lora import Lora
from hfx_plugins.precision.bf16 import BF16
from tiny_models import tiny_llama

SMALL = 256
"""Bytes: most tensors of a tiny model are larger."""
LAYERS, HIDDEN = 4, 64
IDS = torch.arange(64).view(2, 32)


def bench(plugins: dict[str, Any] | None = None, **options: Any) -> Bench:
    sizes = {"scratch": {"hidden_size": HIDDEN, "layers": LAYERS}}
    fields = {"model": None, "plugins": sizes | (plugins or {})}
    return Bench.of(ActivationOffload, {"min_size": SMALL, **options}, fields, None)


class Counting:
    """A place that counts what it is given, and keeps it."""

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self.reads = 0
        self.kept: dict[int, torch.Tensor] = {}

    def takes(self, _: torch.Tensor) -> bool:
        return True

    def put(self, flat: torch.Tensor) -> int:
        self.bytes.append(flat.nbytes)
        self.kept[len(self.bytes)] = flat.clone()
        return len(self.bytes)

    def get(self, key: int, *_: Any) -> torch.Tensor:
        self.reads += 1
        return self.kept[key].clone()

    def drop(self, key: int) -> None:
        del self.kept[key]


@contextmanager
def offloaded(place: Any, min_size: int = SMALL, **sizes: Any) -> Iterator[Any]:
    model = tiny_llama(num_hidden_layers=LAYERS, hidden_size=HIDDEN, **sizes).train()
    offload = Offload(place, min_size)
    model.register_forward_pre_hook(offload.begin)
    model.register_forward_hook(offload.end, always_call=True)
    yield model


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with ExitStack() as stack:
        yield Disk(SimpleNamespace(output=tmp_path / "not" / "yet", enter=stack.enter_context))


def loss_of(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, labels=IDS, use_cache=False).loss


# ── gradients ────────────────────────────────────────────────────────────────────────────────────────────────────────

TOGETHER: dict[str, list[Plugin]] = {
    "alone": [],
    "recomputed": [GradientCheckpointing()],
    "half recomputed": [GradientCheckpointing(every=2, keep="matmuls")],
    "packed, bf16, loss by chunks": [Packing(window=16), BF16(), ChunkedLoss(chunk=3)],
    "adapters with dropout, recomputed": [Lora(dropout=0.2), GradientCheckpointing()],
}


@pytest.mark.parametrize("others", TOGETHER.values(), ids=TOGETHER)
def test_a_run_ends_with_the_same_weights_to_the_bit(others: list[Plugin]) -> None:
    ends = []
    for active in (True, False):
        with bench().run(*others, active=active) as run:
            trained(run)
            ends.append(weights(run.model))
    assert not differing(*ends)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "bert"])
def test_nor_does_another_architecture_notice(architecture: str) -> None:
    made = bench({"scratch": {"architecture": architecture, "hidden_size": 32, "layers": 2}})
    ends = []
    for active in (True, False):
        with made.run(active=active, steps=2) as run:
            trained(run)
            ends.append(weights(run.model))
    assert not differing(*ends)


def test_a_host_gives_back_what_it_was_given() -> None:
    host, tensor = Host(), torch.randn(100).to(torch.bfloat16)
    key = host.put(tensor)
    again = host.get(key, tensor.dtype, tensor.device, 100)
    assert torch.equal(again, tensor)
    assert again.data_ptr() != tensor.data_ptr()
    host.drop(key)
    assert not host._kept


# ── what is held ─────────────────────────────────────────────────────────────────────────────────────────────────────


def held(*others: Plugin, active: bool = True) -> int:
    """Return the bytes between the forward and the backward pass of a run's first step."""
    with bench().run(*others, active=active) as run:
        run.build()
        batch = to_device(collate(run, next(run.order.batches(run.position)).sequences), run.device)
        with Held() as seen:
            loss = run.module(batch)
        loss_and_rest = seen.bytes()
        loss.backward()
        return loss_and_rest


def test_less_is_held_between_forward_and_backward_pass() -> None:
    plain, moved = held(active=False), held()
    parameters = sum(p.nbytes for p in tiny_llama(num_hidden_layers=LAYERS, hidden_size=HIDDEN).parameters())
    assert parameters < moved < 0.5 * plain


def test_less_than_with_recomputed_layers_alone() -> None:
    checkpointing = GradientCheckpointing()
    assert held(checkpointing) < held(checkpointing, active=False)


def test_of_recomputed_layers_the_inputs_are_moved_and_nothing_else() -> None:
    place = Counting()
    with offloaded(place) as model:
        enable(model, GradientCheckpointing())
        logits = model(input_ids=IDS, use_cache=False).logits
        states = IDS.numel() * HIDDEN * 4
        assert place.bytes[:LAYERS] == [states] * LAYERS
        # Behind the layers come the last norm and the head.
        assert len(place.bytes) <= LAYERS + 4
        assert max(place.bytes) <= states
        logits.sum().backward()
        assert place.reads >= LAYERS
        del logits
        assert not place.kept


def test_what_is_saved_twice_is_stored_once_and_views_of_one_storage_are_read_once() -> None:
    place = Counting()
    weight = torch.randn(300, generator=torch.Generator().manual_seed(0), requires_grad=True)
    offload = Offload(place, SMALL)
    offload.begin(torch.nn.Identity(), None)
    first, second, third = (weight + 1.0).view(3, 100).unbind(0)
    mixed = torch.lerp(first, second, third) + torch.lerp(second, first, third)
    offload.end()
    assert place.bytes == [1_200]
    expected = torch.autograd.grad((first + second).sum(), weight)[0]  # what is mixed both ways is their sum
    mixed[:50].sum().backward()
    assert place.reads == 2, "each of two nodes uses three views"
    assert torch.allclose(weight.grad[:50], expected[:50], atol=1e-6)
    assert not weight.grad[50:100].any()


def test_what_is_changed_in_place_afterwards_comes_back_as_it_was() -> None:
    place, weight = Counting(), torch.full((100,), 2.0, requires_grad=True)
    offload = Offload(place, SMALL)
    offload.begin(torch.nn.Identity(), None)
    states = weight * 1.0
    squared = states * states
    states.add_(1.0)
    again = states * states
    offload.end()
    assert place.bytes == [400, 400]
    torch.autograd.backward((squared + again).sum())
    assert torch.equal(weight.grad, torch.full((100,), 2 * 2.0 + 2 * 3.0))


def test_parameters_buffers_integers_and_small_tensors_stay() -> None:
    place = Counting()
    with offloaded(place) as model:
        model.register_buffer("table", torch.randn(64, 64), persistent=False)
        own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        seen: list[torch.Tensor] = []
        place.put = lambda flat: (seen.append(flat), Counting.put(place, flat))[1]  # type: ignore[method-assign]
        loss = loss_of(model) + (model.model.embed_tokens(IDS) @ model.table).sum()
        assert seen
        assert not own & {flat.untyped_storage()._cdata for flat in seen}
        assert min(flat.nbytes for flat in seen) >= SMALL
        assert all(flat.is_floating_point() for flat in seen)
        loss.backward()


def test_from_a_larger_size_on_less_is_moved() -> None:
    moved = []
    for min_size in (0, 10_000, 10**9):
        place = Counting()
        with offloaded(place, min_size) as model:
            loss_of(model)
        moved.append(sum(place.bytes))
    assert moved[0] > moved[1] > moved[2] == 0


def test_nothing_is_moved_without_gradients_or_behind_a_pass_that_failed() -> None:
    place = Counting()
    with offloaded(place) as model:
        with torch.no_grad():
            loss_of(model)
        assert not place.bytes
        with pytest.raises(IndexError):
            model(input_ids=torch.full((1, 4), 10_000), use_cache=False)
        del place.bytes[:]
        weight = torch.randn(1_000, requires_grad=True)
        (weight.exp() * 2).sum().backward()
        assert not place.bytes


# ── the disk ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_file_has_no_name_and_does_not_grow_from_step_to_step(disk: Disk, tmp_path: Path) -> None:
    sizes = []
    with offloaded(disk) as model:
        for _ in range(3):
            loss = loss_of(model)
            assert not list(tmp_path.iterdir())
            sizes.append(os.fstat(disk._file.fileno()).st_size)
            loss.backward()
            assert disk._end == disk._needed == 0
    assert sizes[0] > 100_000
    assert sizes == [sizes[0]] * 3


def test_a_graph_that_is_thrown_away_leaves_its_place(disk: Disk) -> None:
    with offloaded(disk) as model:
        loss = loss_of(model)
        assert disk._end > 0
        del loss
        assert disk._end == 0


def test_a_disk_that_takes_no_more_is_told_in_a_line_with_what_to_do(disk: Disk) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with offloaded(disk) as model:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            with pytest.raises(StorageError, match=r"cannot write .* MiB of activations .*lower 'micro_batch_size'"):
                loss_of(model)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert disk._needed == 0
        loss_of(model).backward()


# ── runs and plans ───────────────────────────────────────────────────────────────────────────────────────────────────


def open_files_without_a_name() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except OSError:
            continue
    return [name for name in found if name.endswith(" (deleted)")]


def test_a_run_keeps_the_file_in_its_folder_and_closes_it_in_the_end() -> None:
    before = open_files_without_a_name()
    with bench().run() as run:
        run.build()
        assert open_files_without_a_name() == before
        train_step(run, next(run.order.batches(run.position)), 0.0)
        (opened,) = [name for name in open_files_without_a_name() if name not in before]
        assert Path(opened).parent == run.output
    assert open_files_without_a_name() == before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("offload")
    write_rows(tiny_rows(60), path / "rows.jsonl")
    return path


def planned(folder: Path, shorten: bool = True, **plugins: Any) -> Plan:
    sizes = {"scratch": {"hidden_size": 128, "layers": 9}, "bpe": {"vocab_size": 300}, "fp32": {}}
    fields = {"data": str(folder / "rows.jsonl"), "steps": 3, "seq_length": 64, "batch_size": 16}
    mapping = {**fields, "micro_batch_size": 16, "plugins": sizes | plugins}
    run = Run(resolve(mapping=mapping), folder / "run", World())
    run.cache = folder / "cache"
    return plan(run, shorten=shorten)


@pytest.mark.parametrize("beside", [{}, {"gradient_checkpointing": {}}], ids=["alone", "recomputed"])
def test_a_plan_counts_what_is_moved_as_gone_and_writes_nothing(folder: Path, beside: dict[str, Any]) -> None:
    before = open_files_without_a_name()
    plain = planned(folder, **beside)
    moved = planned(folder, activation_offload={"min_size": 1_000}, **beside)
    at_loss = "backward of the loss"
    states = 16 * 64 * 128 * 4
    gone = plain.peaks[at_loss].total() - moved.peaks[at_loss].total()
    assert gone > 8 * states
    assert moved.flops == plain.flops
    whole = planned(folder, shorten=False, activation_offload={"min_size": 1_000}, **beside)
    assert moved.peak.total() == pytest.approx(whole.peak.total(), rel=1e-3)
    assert open_files_without_a_name() == before


def test_memory_that_would_be_moved_to_where_it_is_is_refused(folder: Path) -> None:
    environ = os.environ | {"HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = ("--data", "rows.jsonl", "--plugin", "activation_offload", "--activation-offload.to", "cpu")
    command = [sys.executable, "-m", "hfx", "train", *words, "--output", "refused"]
    done = subprocess.run(command, cwd=folder, env=environ, text=True, capture_output=True, timeout=200)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("nothing would be saved; set it to 'disk'")
    assert not (folder / "refused").exists()
