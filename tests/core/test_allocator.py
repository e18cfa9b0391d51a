from __future__ import annotations

import subprocess
import sys

import pytest

from command_line import environment

CODE = """
import ctypes, torch
from hfx.allocator import keep_freed_memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
                 "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
keep = keep_freed_memory()
before = libc.mallinfo2().hblkhd
large = torch.ones(64 * 2**20, dtype=torch.uint8)
print(keep, libc.mallinfo2().hblkhd - before >= large.nbytes)
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
