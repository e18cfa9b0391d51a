"""Its kernels run on GPUs alone; what is tried here is what the plugin asks of the package, on a stand-in for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.models.llama import modeling_llama

from hfx.errors import IncompatibleError
from hfx.testing.tiny import tiny_rows, write_rows
from hfx_plugins.memory.liger import Liger
from tiny_models import tiny_llama

TRANSFORMERS = """
from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

def _apply_liger_kernel_to_instance(model, **kwargs):
    MODEL_TYPE_TO_APPLY_LIGER_FN[model.config.model_type](model=model, **kwargs)
"""
MONKEY_PATCH = """
def apply(rope=True, cross_entropy=False, fused_linear_cross_entropy=True, rms_norm=True, swiglu=True, model=None):
    from transformers.models.llama import modeling_llama

    model.asked = {"rope": rope, "losses": cross_entropy or fused_linear_cross_entropy, "rest": rms_norm and swiglu}
    modeling_llama.apply_rotary_pos_emb = "liger's"

MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": apply, "qwen3": apply}
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with packages called as those of liger-kernel and Triton."""
    path: Path = tmp_path_factory.mktemp("liger")
    inner = path / "packages" / "liger_kernel" / "transformers"
    inner.mkdir(parents=True)
    (inner / "__init__.py").write_text(TRANSFORMERS)
    (inner / "monkey_patch.py").write_text(MONKEY_PATCH)
    (inner.parent / "__init__.py").touch()
    (path / "packages" / "triton").mkdir()
    (path / "packages" / "triton" / "__init__.py").touch()
    write_rows(tiny_rows(60), path / "rows.jsonl")
    return path


@pytest.fixture
def patched(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that sends a model through the wrapper; the run ends with the test."""
    monkeypatch.syspath_prepend(packages / "packages")
    ours = [name for name in sys.modules if name.startswith(("liger_kernel", "hfx_plugins.memory.liger_impl"))]
    for name in ours:
        monkeypatch.delitem(sys.modules, name)
    with ExitStack() as stack:

        def send(model: Any, planning: bool = False, **options: Any) -> Any:
            hook = Liger(**options).hfx_model(
                SimpleNamespace(planning=planning, left_out=set(), enter=stack.enter_context)
            )
            next(hook)
            with pytest.raises(StopIteration) as end:
                hook.send(model)
            return end.value.value

        send.ends = stack.close  # type: ignore[attr-defined]
        yield send
    for name in [name for name in sys.modules if name.startswith(("liger_kernel", "hfx_plugins.memory.liger_impl"))]:
        del sys.modules[name]


def test_layers_are_replaced_and_losses_are_not(patched: Any) -> None:
    assert patched(tiny_llama()).asked == {"rope": True, "losses": False, "rest": True}
    assert patched(tiny_llama(), rope=False).asked["rope"] is False


def test_what_is_changed_for_the_whole_process_is_taken_back_when_the_run_ends(patched: Any) -> None:
    own = modeling_llama.apply_rotary_pos_emb
    patched(tiny_llama())
    assert modeling_llama.apply_rotary_pos_emb == "liger's"
    patched.ends()
    assert modeling_llama.apply_rotary_pos_emb is own


def test_a_plan_has_the_models_own_layers(patched: Any) -> None:
    assert not hasattr(patched(tiny_llama(), planning=True), "asked")


def test_an_architecture_without_kernels_is_refused_with_the_nearest(patched: Any) -> None:
    model = tiny_llama()
    model.config.model_type = "lama"
    with pytest.raises(IncompatibleError, match="no kernels for a 'lama' model; did you mean 'llama'"):
        patched(model)


@pytest.mark.parametrize(
    ("path", "told"),
    [("", "'liger' needs the package 'liger-kernel'"), ("packages", "'liger' has kernels for GPUs alone")],
)
def test_a_machine_without_the_package_or_a_gpu_is_told_in_a_line(packages: Path, path: str, told: str) -> None:
    environ = os.environ | {"HFX_CACHE": str(packages / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "hfx", "train", "--data", "rows.jsonl", "--plugin", "liger", "--output", "refused"]
    environ |= {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=packages, env=environ, text=True, capture_output=True, timeout=200)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr.splitlines()[-1]
    assert not (packages / "refused").exists()
