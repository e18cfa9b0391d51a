"""What a folder of many small files costs: memory and seconds of finding, hashing and reading them.

    python tests/benchmarks/bench_files.py [--files 200000]

All figures are of one run on this machine; the files lie in a temporary folder, 1,000 to a folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hfx_plugins.sources.files_find_impl import find
from hfx_plugins.sources.files_impl import FileSource


def write(folder: Path, count: int) -> None:
    for number in range(count):
        inside = folder / f"part-{number // 1000:04d}"
        if number % 1000 == 0:
            inside.mkdir()
        (inside / f"doc-{number:08d}.txt").write_text(f"document {number}\n")


def resident(name: str) -> float:
    """Return this process's memory in megabytes: `VmRSS` now, `VmHWM` at most."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(name)).split()[1]) / 1024


def measure(data: str, warm: str) -> None:
    """Print the figures of one folder or glob, in a process that has found a few files before."""
    FileSource((find("data", warm, None),), "file", None, "utf-8").fingerprint()
    before = resident("VmRSS")

    def told(what: str, began: float) -> None:
        held, most = resident("VmRSS") - before, resident("VmHWM") - before
        print(f"  {what:28} {time.perf_counter() - began:6.1f} s, {held:6.1f} MB held, {most:6.1f} MB at most")

    began = time.perf_counter()
    source = FileSource((find("data", data, None),), "file", None, "utf-8")
    told("find", began)
    print(f"  {source.summary()}")
    for what in ("fingerprint", "fingerprint, a second time"):
        began = time.perf_counter()
        source.fingerprint()
        told(what, began)
    began = time.perf_counter()
    count = sum(1 for _ in source.read())
    told(f"read {count:,} rows", began)
    began = time.perf_counter()
    next(source.read(count - 1))
    told("read the last row", began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(*asked.measure)
        return
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), asked.files)
        for data in (name, f"{name}/*/*.txt"):
            print("a folder" if data == name else "a glob")
            subprocess.run([sys.executable, __file__, "--measure", data, f"{name}/part-0000"], check=True)


if __name__ == "__main__":
    main()
