from __future__ import annotations

import pytest
import torch

from hfx_plugins.precision.auto_precision import AutoPrecision
from tiny_models import TinyRun


def _choice(monkeypatch: pytest.MonkeyPatch, *capabilities: str) -> tuple[bool, str]:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(capabilities, True))
    precision = AutoPrecision().hfx_precision(TinyRun())
    with precision.autocast():
        return torch.is_autocast_enabled("cpu"), precision.why


@pytest.mark.parametrize("capability", ["amx_bf16", "avx512_bf16"])
def test_a_cpu_with_instructions_for_bf16_computes_in_it(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    computes_in_bf16, why = _choice(monkeypatch, "avx2", capability)

    assert computes_in_bf16
    assert capability in why


def test_a_cpu_without_them_computes_in_fp32_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    computes_in_bf16, why = _choice(monkeypatch, "avx2", "avx512_f")

    assert not computes_in_bf16
    assert why.startswith("fp32")
    assert "without bf16" in why


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_that_emulates_bf16_computes_in_fp32(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], native: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)

    precision = AutoPrecision().hfx_precision(TinyRun(device=torch.device("cuda", 0)))

    assert precision.compute == (torch.bfloat16 if native else None)
    assert "Some GPU" in precision.why


def test_weights_are_fp32_whatever_the_device() -> None:
    for device in ("cpu", "mps"):
        assert AutoPrecision().hfx_precision(TinyRun(device=torch.device(device))).dtype == torch.float32
