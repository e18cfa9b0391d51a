"""Two processes of one thread beside one process, for each backend: tokens a second, memory, where the time goes.

    python tests/benchmarks/bench_backends.py [--rounds 2] [--steps 24] [--backends ddp,fsdp,zero1,zero2,zero3]
        [--json FILE]

A llama of 4 layers, 256 wide, vocabulary 8,000, from scratch, fp32; 4 full sequences of 256 a step, so that a rank has
two in one micro-batch. Processes talk over gloo. Runs are made by turns, and a figure is the median over the rounds;
the first steps of each run are left out. `computed` is the processor time of the thread that trains, `waited` what the
run says that collectives blocked it, `queued` the time in which it could have run and no core was free, all as shares
of the time from step to step. Of processes with one thread the first two are all of it, but for a tenth at most, on a
quiet machine; on another one, with the third. All are of rank 0, but for memory, which is the most of any rank.
Without DeepSpeed its backends are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_train import SEQ_LENGTH, WARM_UP, write

from toy_packages import toy_package

BACKENDS = {
    "ddp": ("--plugin", "ddp"),
    "fsdp": ("--plugin", "fsdp"),
    "zero1": ("--plugin", "zero", "--zero.stage", "1"),
    "zero2": ("--plugin", "zero", "--zero.stage", "2"),
    "zero3": ("--plugin", "zero", "--zero.stage", "3"),
}
ALONE, SINGLE = "one process, two threads", "one process, one thread"
VOCABULARY, BATCH, RANKS = 8_000, 4, 2
LEFT_OUT = 0.1
"""The share of a step's time that may be unaccounted for."""
ACCOUNT = '''"""Account."""

import json
import resource
import time
from pathlib import Path

from hfx import Plugin, hookimpl


def now():
    queued = Path("/proc/thread-self/schedstat")
    return time.perf_counter(), time.thread_time(), int(queued.read_text().split()[1]) / 1e9 if queued.exists() else 0.0


class Toy(Plugin):
    """Says what the thread that trains did from step to step, and what each rank held at most."""

    @hookimpl(wrapper=True)
    def hfx_run(self, run):
        last, taken = [now()], {}

        def since(_):
            taken["now"] = [then - before for then, before in zip(now(), last[0])]
            last[0] = now()
            return taken["now"][0]

        run.measure("wall_seconds", since)
        run.measure("computed_seconds", lambda _: taken["now"][1])
        run.measure("queued_seconds", lambda _: taken["now"][2])
        result = yield
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        (run.output / f"held-{run.world.rank}.json").write_text(json.dumps(held))
        return result
'''


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    contenders = [ALONE, SINGLE, *filter(installed, given.backends.split(","))]
    with tempfile.TemporaryDirectory(prefix="hfx-bench-") as name:
        folder = Path(name)
        write(folder, "blocks", VOCABULARY, given.steps, rows=200)
        toy_package(folder / "packages", "hfx-account", {"account": ACCOUNT})
        rounds = [{name: run(folder, name, given.steps) for name in contenders} for _ in range(given.rounds)]
    table = {name: {key: median(each[name][key] for each in rounds) for key in rounds[0][name]} for name in contenders}
    show(table, given.rounds)
    if given.json:
        found = {
            "rounds": given.rounds,
            "cores": os.cpu_count(),
            "ranks": RANKS,
            "load": os.getloadavg()[1],
            "table": table,
        }
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def installed(backend: str) -> bool:
    """Say whether a backend's package is there, and where it is not, print so."""
    there = not backend.startswith("zero") or find_spec("deepspeed") is not None
    if not there:
        print(f"'{backend}' is left out: 'deepspeed' is not installed", file=sys.stderr)
    return there


def run(folder: Path, contender: str, steps: int) -> dict[str, float]:
    """Train, and return the figures of the run."""
    alone = contender not in BACKENDS
    output = folder / "runs" / f"{contender}-{len(list(folder.glob('runs/*')))}"
    words = (
        *("--model", "model", "--data", "rows.jsonl", "--seq-length", SEQ_LENGTH, "--eval-share", 0, "--steps", steps),
        *("--batch-size", BATCH, "--micro-batch-size", BATCH, "--output", output, "--nproc", 1 if alone else RANKS),
        *("--plugin", "fp32", "--plugin", "account", *BACKENDS.get(contender, ())),
    )
    found = [str(folder / "packages"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environ = os.environ | {
        "HFX_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(found),
        "OMP_NUM_THREADS": str(RANKS if contender == ALONE else 1),
    }  # fmt: skip
    command = [sys.executable, "-m", "hfx", "train", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"'{contender}' failed:\n{done.stderr[-3000:]}")
    lines = [line for line in map(json.loads, (output / "metrics.jsonl").read_text().splitlines()) if "tokens" in line]
    taken = lines[WARM_UP:]
    wall = sum(line["wall_seconds"] for line in taken)
    return {
        "tokens_per_second": sum(line["tokens"] for line in taken) / wall,
        "peak_bytes": max(json.loads(file.read_text()) for file in output.glob("held-*.json")),
        "computed": sum(line["computed_seconds"] for line in taken) / wall,
        "waited": sum(line.get("comm_wait_seconds", 0.0) for line in taken) / wall,
        "queued": sum(line["queued_seconds"] for line in taken) / wall,
        "comm_bytes": median(line.get("comm_bytes", 0) for line in taken),
        "comm_seconds": median(line.get("comm_seconds", 0.0) for line in taken),
        "comm_bytes_per_second": median(line.get("comm_bytes_per_second") or 0.0 for line in taken),
        "step_seconds": median(line["step_seconds"] for line in taken),
        "last_loss": lines[-1]["loss"],
    }


def show(table: dict[str, dict[str, float]], rounds: int) -> None:
    """Print what was measured, against one process, and for which backends the time of a step is not accounted for."""
    print(f"\n{rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}\n")
    print(
        "| backend | tokens/s | of two threads | of one | GiB a rank | MB a step | MB/s "
        "| computed | waited | queued | loss |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, found in table.items():
        speed = found["tokens_per_second"]
        sent = (
            f"{found['comm_bytes'] / 1e6:.1f} | {found['comm_bytes_per_second'] / 1e6:,.0f}"
            if name in BACKENDS
            else " | "
        )
        print(
            f"| {name} | {speed:,.0f} | {speed / table[ALONE]['tokens_per_second']:.2f} "
            f"| {speed / table[SINGLE]['tokens_per_second']:.2f} | {found['peak_bytes'] / 2**30:.2f} | {sent} "
            f"| {found['computed']:.0%} | {found['waited']:.0%} | {found['queued']:.0%} | {found['last_loss']:.4f} |"
        )
    print("\naccounted for, of the time of a step (computed and waited; with queued):")
    for name in table.keys() - {ALONE}:
        bare = table[name]["computed"] + table[name]["waited"]
        whole = bare + table[name]["queued"]
        verdict = "within a tenth" if abs(1 - bare) < LEFT_OUT else "within a tenth, beside other work"
        print(f"  {name}: {bare:.0%}; {whole:.0%}: {verdict if abs(1 - whole) < LEFT_OUT else 'NOT within a tenth'}")


if __name__ == "__main__":
    main()
