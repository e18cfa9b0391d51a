from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hfx import Run, World
from hfx.api import problems
from hfx.resolve import resolve
from hfx_plugins.precision.precision_impl import tf32_products
from hfx_plugins.precision.tf32 import TF32

SETTING = torch.backends.cuda.matmul
NEEDS_GPU = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0), reason="needs a GPU with TF32"
)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run's device be a GPU, as far as one is asked what it can do."""
    monkeypatch.setattr(Run, "device", property(lambda _: torch.device("cuda", 0)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))


def messages(**fields: Any) -> list[str]:
    resolved = resolve(mapping={"data": "rows.txt", "plugins": {"tf32": {}}, **fields})
    return [problem.message for problem in problems(resolved) if problem.fatal]


def make() -> Run:
    return Run(resolve(mapping={"data": "rows.txt"}, plugin_objects=[TF32()]), Path("none"), World())


def test_products_are_tf32_until_the_run_ends(gpu: None) -> None:
    before = SETTING.fp32_precision
    run = make()

    precision = run.precision

    assert SETTING.fp32_precision == "tf32"
    assert (precision.dtype, precision.scaler) == (torch.float32, None)
    with precision.autocast():
        assert not torch.is_autocast_enabled("cuda")
    run.close()
    assert SETTING.fp32_precision == before != "tf32"


def test_what_torch_compile_asks_about_products_is_answered(gpu: None) -> None:
    run = make()
    _ = run.precision

    assert torch.get_float32_matmul_precision() == "high"
    assert SETTING.allow_tf32
    run.close()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not SETTING.allow_tf32


@pytest.mark.parametrize("setting", ["none", "ieee", "tf32"])
def test_what_somebody_had_set_by_the_new_names_is_put_back(setting: str) -> None:
    SETTING.fp32_precision = setting
    try:
        with tf32_products():
            assert SETTING.fp32_precision == "tf32"
        assert SETTING.fp32_precision == setting
    finally:
        SETTING.fp32_precision = "none"


def test_what_somebody_had_set_by_the_old_name_is_put_back() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with tf32_products():
            assert torch.get_float32_matmul_precision() == "high"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_run_that_is_planned_changes_no_setting(gpu: None) -> None:
    run = make()
    run.planning = True

    _ = run.precision

    assert SETTING.fp32_precision != "tf32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_without_it_is_refused_with_the_way_out() -> None:
    assert messages() == [
        "'tf32' needs a GPU that multiplies in TF32 (compute capability 8.0 or higher), and the device is 'cpu'; "
        "use '--plugin fp32'"
    ]


def test_a_gpu_before_ampere_is_refused_and_one_since_is_not(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert messages() == []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert ["'cuda:0'" in line for line in messages()] == [True]


def test_without_torch_the_device_is_not_asked() -> None:
    code = (
        "import sys; from hfx.api import problems; from hfx.resolve import resolve;"
        "found = [list(problems(resolve(mapping={'data': 'a', 'plugins': {name: {}}}))) for name in ('fp8', 'tf32')];"
        "print([one.message for each in found for one in each if 'device' in one.message]);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)

    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@NEEDS_GPU
def test_a_product_on_the_gpu_is_rounded_to_tf32() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(2, 512, 512, device="cuda")
    exact = (one.double() @ other.double()).float()
    plain = (one @ other - exact).abs().max()
    with tf32_products():
        rounded = (one @ other - exact).abs().max()
    assert rounded > 10 * plain
