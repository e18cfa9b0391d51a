"""The packages hfx stands on, in the versions it wants, and the devices torch finds."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hfx.cli.doctor_line import Found
from hfx.cli.doctor_worker_impl import doing

if TYPE_CHECKING:
    import torch

NVIDIA = Path("/proc/driver/nvidia/version")
GIB = 2**30


def _imported(name: str) -> Iterator[Found]:
    """Import a package; yield one finding."""
    doing(f"importing '{name}'")
    wanted = _wanted(name)
    if find_spec(name) is None:
        yield "wrong", f"'{name}' is not installed", f"pip install '{name}{wanted}'"
        return
    module = import_module(name)
    version = metadata.version(name)
    if not _fits(version, wanted):
        yield "wrong", f"{version}, and hfx wants {wanted}", f"pip install '{name}{wanted}'"
    else:
        yield "ok", str(getattr(module, "__version__", version))


def _wanted(name: str) -> str:
    """Return the versions that hfx asks for, `>=2.13`."""
    from packaging.requirements import Requirement

    for text in metadata.requires("hfx") or []:
        if (requirement := Requirement(text)).name == name:
            return str(requirement.specifier)
    return ""


def _fits(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version, prereleases=True)


def check_torch() -> Iterator[Found]:
    """Import torch, and say what it was built for."""
    for found in _imported("torch"):
        yield (found[0], f"{found[1]}, built for {_build()}") if found[0] == "ok" else found


def _build() -> str:
    import torch

    return (
        f"CUDA {torch.version.cuda}"
        if torch.version.cuda
        else f"ROCm {torch.version.hip}"
        if torch.version.hip
        else "CPUs"
    )


def check_transformers() -> Iterator[Found]:
    """Import transformers."""
    yield from _imported("transformers")


def check_accelerate() -> Iterator[Found]:
    """Import accelerate."""
    yield from _imported("accelerate")


# ── devices ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_device() -> Iterator[Found]:
    """Name the devices that torch computes on, and try each."""
    import torch

    driver = _driver()
    if not torch.accelerator.is_available():
        yield _no_device(driver)
        return
    kind = str(torch.accelerator.current_accelerator())
    for index in range(torch.accelerator.device_count()):
        device = torch.device(kind, index)
        doing(f"computing on '{device}'")
        try:
            torch.ones(8, 8, device=device).sum().item()
        except RuntimeError as error:
            cause = str(error).strip().splitlines()[0]
            yield "wrong", f"'{device}' does not compute: {cause}", "end what else uses it, or mend the driver"
        else:
            yield "ok", f"'{device}'{_described(device)}{driver and f', driver {driver}'}"


def _driver() -> str:
    """Return the version of NVIDIA's driver, or nothing."""
    words = NVIDIA.read_text().split() if NVIDIA.is_file() else []
    return next((word for word in words if word.replace(".", "").isdecimal() and "." in word), "")


def _described(device: torch.device) -> str:
    import torch

    if not torch.cuda.is_available():
        return ""
    of = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return f" is {of.name}, {free / GIB:,.1f} of {total / GIB:,.1f} GiB free, capability {of.major}.{of.minor}"


def _no_device(driver: str) -> Found:
    import torch

    if driver and not torch.version.cuda:
        return (
            "warning", f"NVIDIA's driver {driver} is here, and torch is built for {_build()}: runs use the CPU",
            "install the build of torch for CUDA: https://pytorch.org/get-started/locally",
        )  # fmt: skip
    if driver:
        return (
            "warning", f"torch finds no device, though NVIDIA's driver {driver} is here: runs use the CPU",
            "look at CUDA_VISIBLE_DEVICES and at 'nvidia-smi'; torch may want a newer driver",
        )  # fmt: skip
    capability = torch.backends.cpu.get_cpu_capability()
    return "ok", f"the CPU ({capability}); torch finds no other device, and there is no NVIDIA driver"


# ── DeepSpeed ────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_deepspeed() -> Iterator[Found]:
    """Import DeepSpeed, and name the ops that could be compiled here; nothing is compiled."""
    if find_spec("deepspeed") is None:
        yield "ok", "not installed, and needed for ZeRO alone: pip install 'hfx[zero]'"
        return
    doing("importing 'deepspeed'")
    try:
        import deepspeed
        from deepspeed.ops.op_builder.all_ops import ALL_OPS
    except Exception as error:  # noqa: BLE001 - it raises whatever its parts raise
        cause = " ".join(str(error).split())
        yield (
            "wrong", f"it is installed and cannot be imported: {type(error).__name__}: {cause}",
            "transformers imports it, too: mend it, or 'pip uninstall deepspeed'",
        )  # fmt: skip
        return
    doing("asking DeepSpeed for its ops")
    ops = {name: builder for name, builder in ALL_OPS.items() if not name.endswith("not_implemented")}
    fit = sorted(name for name, builder in ops.items() if _compatible(builder))
    lack = sorted(set(ops) - set(fit))
    words = f"{deepspeed.__version__}; ops that could be compiled: {', '.join(fit) or 'none'}"
    yield "ok", f"{words}; not: {', '.join(lack)}" if lack else words


def _compatible(builder: object) -> bool:
    try:
        return bool(builder.is_compatible(verbose=False))  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - some raise where there is no CUDA to look at
        return False
