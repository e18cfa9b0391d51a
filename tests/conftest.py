"""What holds for every test: one thread a process, so that tests beside each other do not wait for one another."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
