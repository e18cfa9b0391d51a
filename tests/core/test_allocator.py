from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from command_line import environment

INFO = """
import ctypes, torch
from hfx.allocator import keep_freed_memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
                 "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
"""
CODE = f"""{INFO}
keep = keep_freed_memory()
before = libc.mallinfo2().hblkhd
large = torch.ones(64 * 2**20, dtype=torch.uint8)
print(keep, libc.mallinfo2().hblkhd - before >= large.nbytes)
"""
KEPT_BY_MKL = f"""
from hfx.allocator import keep_no_buffers
keep_no_buffers()
{INFO}
keep_freed_memory()
left, right, out = (torch.ones(1024, 1024) for _ in range(3))
used = lambda: libc.mallinfo2().uordblks + libc.mallinfo2().hblkhd
before = used()
torch.mm(left, right, out=out)
print((used() - before) >> 20)
"""


@pytest.mark.parametrize(
    ("environ", "told"),
    [({}, "True False"), ({"MALLOC_ARENA_MAX": "1"}, "False True"), ({"GLIBC_TUNABLES": ""}, "False True")],
)
def test_large_tensors_come_from_the_heap_unless_the_environment_says_otherwise(
    environ: dict[str, str], told: str
) -> None:
    own = {name: value for name, value in environment().items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", CODE], env=own | environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == told.split()


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch multiplies by another library here")
@pytest.mark.parametrize(("environ", "least", "most"), [({}, 0, 1), ({"MALLOC_ARENA_MAX": "1"}, 4, 64)])
def test_mkl_keeps_nothing_where_freed_memory_is_kept(environ: dict[str, str], least: int, most: int) -> None:
    own = {name: value for name, value in environment().items() if not name.startswith(("MALLOC_", "MKL_"))}
    done = subprocess.run([sys.executable, "-c", KEPT_BY_MKL], env=own | environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if least and "GenuineIntel" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("MKL keeps no buffers on this processor")
    assert least <= int(done.stdout) <= most
