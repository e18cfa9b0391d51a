"""The reference pages are those of the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_reference_page_is_stale() -> None:
    script = ROOT / "docs" / "reference.py"
    done = subprocess.run([sys.executable, str(script), "--check"], text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
