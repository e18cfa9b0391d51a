"""Several ranks save one checkpoint: each its own file, and all of them fail where one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hfx.checkpoint import MANIFEST, newest, open_checkpoint
from saved import state

SCRIPT = """
import json, resource, sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from hfx import World
from hfx.checkpoint import folder_of, open_checkpoint
from hfx.saving import rotate, save

output, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
state = json.loads(sys.argv[4])
dist.init_process_group("gloo", init_method=f"file://{output}/meet", rank=rank, world_size=size)

class Ranks:
    def all_reduce(self, tensor):
        dist.all_reduce(tensor)
        return tensor

mesh = init_device_mesh("cpu", (size,))
whole = torch.arange(7 * 1000, dtype=torch.float32).reshape(7, 1000)
tensors = {
    "model.sharded": distribute_tensor(whole, mesh, [Shard(0)]),
    "model.copied": distribute_tensor(whole + 1, mesh, [Replicate()]),
    "model.plain": whole + 2,
    "model.scalar": torch.tensor(3.0),
}
world = World(rank, size)
said = {}
for step in (1, 2):
    if step == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048 if rank == size - 1 else 2**30, resource.RLIM_INFINITY))
    try:
        save(folder_of(output, step), tensors, state | {"step": step}, world, Ranks())
    except Exception as error:
        said[step] = [type(error).__name__, str(error)]
into = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
open_checkpoint(folder_of(output, 1), size).read(into)
full = lambda tensor: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
said["same"] = all(torch.equal(full(into[name]), full(tensor)) for name, tensor in tensors.items())
(output / f"said-{rank}.json").write_text(json.dumps(said)[:8000])
dist.destroy_process_group()
"""


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_each_rank_writes_a_file_and_where_one_cannot_all_fail_and_nothing_stays(size: int, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [*words, str(rank), str(size), json.dumps(state(0))], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(size)
    ]
    for process in ranks:
        _, said = process.communicate(timeout=100)
        assert process.returncode == 0, said

    told = [json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in range(size)]
    assert all(one["same"] for one in told)
    assert "1" not in told[0]
    last = size - 1
    assert told[last]["2"][0] == "StorageError"
    assert "File too large; look at the disk, then 'hfx train --resume" in told[last]["2"][1]
    assert "goes on from 'step-00000001', which is intact" in told[last]["2"][1]
    for one in told[:-1]:
        assert one["2"] == [
            "CollectiveError", f"rank {last} could not save the checkpoint; see what that one says, then resume"
        ]  # fmt: skip

    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    found = newest(tmp_path, 1)
    assert found is not None
    files = [f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors" for rank in range(size)]
    assert sorted(found.manifest.files) == [*files, "state.json"]
    assert sorted(path.name for path in found.path.iterdir()) == sorted([*files, "state.json", MANIFEST])
    whole = torch.arange(7 * 1000, dtype=torch.float32).reshape(7, 1000)
    wanted = {"model.sharded": whole, "model.copied": whole + 1, "model.plain": whole + 2}
    into = {name: torch.zeros(7, 1000) for name in wanted}
    open_checkpoint(found.path, 1).read(into)
    assert all(torch.equal(into[name], tensor) for name, tensor in wanted.items())
