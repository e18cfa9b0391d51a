"""What glibc does with memory that a step frees: by its defaults it gives large pieces back, and asks for them again.

Measured (`docs/benchmarks.md`): each step of a small model spends an eighth to a third of its time on that. MKL, for
the same reason, keeps what it works in, some 28 MiB a thread; where freed memory is kept anyway, that gains nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
"""Bytes: pieces up to it come from the heap, and so much of the heap's end stays."""


def keep_freed_memory() -> bool:
    """Let the process keep what it frees for its next step, and return whether that was set.

    Whoever sets `MALLOC_...` or `GLIBC_TUNABLES` in the environment decides for himself; other C libraries have no such
    setting.
    """
    if not _left_to_us():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(what, _MOST) for what in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def give_back_freed_memory() -> None:
    """Give what lies free in the process back to the system, where the C library is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


def keep_no_buffers() -> None:
    """Let MKL give back what it works in, which `keep_freed_memory` keeps; it looks once, when torch is imported."""
    if _left_to_us():
        os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")


def _left_to_us() -> bool:
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    return sys.platform.startswith("linux") and not told
