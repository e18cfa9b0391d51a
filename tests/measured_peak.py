"""Run steps of a config and print the resident memory at their highest moment, above that before the model was built.

    python tests/measured_peak.py CONFIG_AS_JSON

Two steps on the batch that `hfx plan` traces. glibc is to give memory back at once, so that what is resident is what is
in use: set MALLOC_ARENA_MAX=1, MALLOC_MMAP_THRESHOLD_=65536 and MALLOC_TRIM_THRESHOLD_=65536 before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from hfx.loop import train_step
from hfx.plan import largest_batch, plan
from hfx.protocols import World
from hfx.quiet import quieten
from hfx.resolve import resolve
from hfx.run import Run


def resident(which: str) -> int:
    """Return `VmRSS` or `VmHWM` of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


def main() -> None:
    """Print the bytes."""
    quieten()
    run = Run(resolve(mapping=json.loads(sys.argv[1])), Path("runs/measured"), World())
    batch = largest_batch(run)
    plan(run)  # the code of the model and of its kernels is imported by it
    small = torch.randn(256, 256, requires_grad=True)
    (small @ small).sum().backward()  # thread pools and kernels are there before
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest moment is counted from here
    _ = run.schedule
    for _ in range(2):
        train_step(run, batch, 0.0)
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main()
