"""What streaming costs and saves: throughput beside local files, resuming, packed files, and trouble.

    python tests/benchmarks/bench_stream.py [--megabytes 60]

All figures are of one run on this machine, from a web server on loopback in a process of its own.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hfx_plugins.sources.files_find_impl import find as find_files
from hfx_plugins.sources.files_impl import FileSource
from hfx_plugins.sources.stream_find_impl import find
from hfx_plugins.sources.stream_formats_impl import Reading
from hfx_plugins.sources.stream_impl import StreamSource
from hfx_plugins.sources.stream_transport_impl import Access
from range_server import Manners, RangeServer

BLOCK = 10_000
SERVE = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from range_server import RangeServer
server = RangeServer(Path({folder!r})); print(server.url, flush=True); sys.stdin.read()
"""


def write(path: Path, megabytes: int) -> int:
    """Write rows of about 400 bytes, and return how many there are."""
    words = [f"word{number}" for number in range(2_000)]
    rng, rows = random.Random(0), 0
    with path.open("w") as file:
        while file.tell() < megabytes * 1_000_000:
            file.write(json.dumps({"text": " ".join(rng.choices(words, k=45)), "label": rows % 7}) + "\n")
            rows += 1
    return rows


def stream(url: str, folder: Path, timeout: float = 10.0) -> StreamSource:
    access = Access(timeout, 600.0)
    reading = Reading("paragraph", None, "utf-8", 64 << 20)
    return StreamSource(find({"data": url}, None, access), reading, access, BLOCK, 64 << 20, (folder / "cache",))


def seconds(work) -> float:
    """Return the shorter of two times."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def drain(source) -> int:
    return sum(1 for _ in source.read())


def throughput(folder: Path, url: str, megabytes: int) -> None:
    local = seconds(
        lambda: drain(FileSource((find_files("data", str(folder / "a.jsonl"), None),), "line", None, "utf-8"))
    )
    far = seconds(lambda: drain(stream(f"{url}/a.jsonl", folder)))
    packed = seconds(lambda: drain(stream(f"{url}/a.jsonl.gz", folder)))
    near = seconds(lambda: drain(stream(str(folder / "a.jsonl"), folder)))
    print(f"rows of {megabytes} MB: local files {megabytes / local:.0f} MB/s (1.00)")
    for name, taken in (("http", far), ("http, one gzip member", packed), ("stream of a local file", near)):
        print(f"  {name:24} {megabytes / taken:.0f} MB/s ({local / taken:.2f} of local files)")


def resuming(folder: Path, url: str, rows: int) -> None:
    print("resuming in a new process: first row of a block, seconds, rows read on the way to it")
    for name in ("a.jsonl", "a.jsonl.gz", "members.jsonl.gz"):
        for share in (0.1, 0.5, 0.9):
            start = int(rows * share) // BLOCK * BLOCK
            source = stream(f"{url}/{name}", folder)
            source.fingerprint()
            began = time.perf_counter()
            next(source.read(start))
            taken = time.perf_counter() - began
            source.close()
            print(f"  {name:18} row {start:>9,}: {taken * 1000:7.1f} ms, {source.counts['passed']} rows")


def memory(folder: Path, url: str) -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent)]!r}\n"
        "import resource; from pathlib import Path; from bench_stream import stream, drain\n"
        "drain(stream(sys.argv[1], Path(sys.argv[2]))); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for name in ("tenth.jsonl", "a.jsonl"):
        done = subprocess.run(
            [sys.executable, "-c", code, f"{url}/{name}", str(folder)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) / 1024)
    ratio = peaks[1] / peaks[0]
    print(f"peak memory of reading a tenth and all of it: {peaks[0]:.0f} and {peaks[1]:.0f} MB ({ratio:.2f})")


def trouble(folder: Path) -> None:
    server = RangeServer(folder)
    size = (folder / "tenth.jsonl").stat().st_size
    calm = [row.values for row in stream(f"{server.url}/tenth.jsonl", folder).read()]
    for name, manners in (
        ("cut every 2 MB", Manners(cut_after=2_000_000)),
        ("cut every 2 MB, no ranges until it lets go", Manners(cut_after=2_000_000, ranges=False)),
        ("silent after 2 MB (timeout 1 s)", Manners(hang_after=2_000_000)),
    ):
        source = stream(f"{server.url}/tenth.jsonl", folder, timeout=1.0)
        source.fingerprint()
        server.manners, server.sent = manners, 0
        rows = iter(source.read())
        began = time.perf_counter()
        head = list(islice(rows, 1))
        if not manners.ranges or manners.hang_after:
            time.sleep(3)
            server.manners = Manners()
        same = [row.values for row in [*head, *rows]] == calm
        taken = time.perf_counter() - began
        server.manners = Manners()
        print(f"  {name:44} rows the same: {same}; {taken:.1f} s, {server.sent / size:.2f} of the bytes sent")
    server.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=60)
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write(folder / "a.jsonl", megabytes)
        write(folder / "tenth.jsonl", megabytes // 10)
        data = (folder / "a.jsonl").read_bytes()
        (folder / "a.jsonl.gz").write_bytes(gzip.compress(data, 1))
        (folder / "members.jsonl.gz").write_bytes(
            b"".join(gzip.compress(data[at : at + (1 << 20)], 1) for at in range(0, len(data), 1 << 20))
        )
        tests = str(Path(__file__).parents[1])
        serving = subprocess.Popen(
            [sys.executable, "-c", SERVE.format(tests=tests, folder=name)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        url = serving.stdout.readline().strip()
        try:
            throughput(folder, url, megabytes)
            for packed in ("members.jsonl.gz",):
                drain(stream(f"{url}/{packed}", folder))
            resuming(folder, url, rows)
            memory(folder, url)
            print("trouble:")
            trouble(folder)
        finally:
            serving.stdin.close()
            serving.wait(timeout=10)
    print(f"(peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB)")


if __name__ == "__main__":
    main()
