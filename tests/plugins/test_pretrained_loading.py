"""What loading weights takes in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from command_line import environment

MOST = 1.2
"""Times the weights that a process may hold while it loads them."""
PROBE = """
import json, re, sys, threading, time
from pathlib import Path
import torch
from hfx_plugins.models.pretrained import Pretrained
from tiny_models import Fields, Numbers, TinyRun

def now(which):
    return int(re.search(which + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def load(name):
    run = TinyRun(config=Fields(model=name), precision=Numbers(getattr(torch, sys.argv[2])))
    return Pretrained(low_memory=sys.argv[3] == "low").hfx_model(run)

def look():
    while not done:
        held.append(now("RssAnon"))
        time.sleep(0.001)

load("small")  # the libraries are there before
before, held, done = {which: now(which) for which in ("VmRSS", "RssAnon")}, [now("RssAnon")], False
Path("/proc/self/clear_refs").write_text("5")  # the highest moment is counted from here
watch = threading.Thread(target=look)
watch.start()
model = load(sys.argv[1])
assert all(torch.isfinite(p.sum()) for p in model.parameters())  # what is mapped is read, too
done = True
watch.join()
held.append(now("RssAnon"))
print(json.dumps({
    "weights": sum(p.nbytes for p in model.parameters()),
    "held": max(held) - before["RssAnon"],
    "resident": now("VmHWM") - before["VmRSS"],
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one llama in numbers of two kinds, as one file and in pieces, and a small one."""
    path: Path = tmp_path_factory.mktemp("loading")
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 64, "vocab_size": 8_000}
    model = LlamaForCausalLM(LlamaConfig(hidden_size=512, intermediate_size=2_048, num_hidden_layers=8, **sizes))
    model.save_pretrained(path / "float32")
    model.save_pretrained(path / "pieces", max_shard_size="20MB")
    model.to(torch.bfloat16).save_pretrained(path / "bfloat16")
    small = LlamaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, **sizes)
    LlamaForCausalLM(small).save_pretrained(path / "small")
    return path


def loaded(folder: Path, name: str, dtype: str, way: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, name, dtype, way],
        cwd=folder,
        env=environment(PYTHONPATH=str(Path(__file__).parents[1])),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    shares = ", ".join(f"{what} {found[what] / found['weights']:.2f}" for what in ("held", "resident"))
    print(f"{name} as {dtype}: weights {found['weights'] / 2**20:.0f} MiB, of them {shares}")
    return found


@pytest.mark.parametrize("way", ["as it comes", "low"])
@pytest.mark.parametrize("name", ["float32", "pieces"])
def test_weights_are_there_once(folder: Path, name: str, way: str) -> None:
    found = loaded(folder, name, "float32", way)

    assert found["weights"] > 150_000_000
    assert 0.9 * found["weights"] < found["resident"] < MOST * found["weights"]


@pytest.mark.parametrize(("name", "dtype"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("pieces", "bfloat16")])
def test_weights_of_other_numbers_are_held_once_beside_files_that_the_kernel_may_drop(
    folder: Path, name: str, dtype: str
) -> None:
    found = loaded(folder, name, dtype, "as it comes")

    assert 0.9 * found["weights"] < found["held"] < MOST * found["weights"]
