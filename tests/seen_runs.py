"""Real runs of a tiny model through the command line, each in another state, for the commands that look at runs."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from command_line import MODULE, environment

SMALL = (
    *("--data", "rows.jsonl", "--seq-length", "32", "--batch-size", "8", "--bpe.vocab-size", "270"),
    *("--scratch.hidden-size", "16", "--scratch.layers", "1", "--scratch.heads", "2", "--plugin", "fp32"),
    *("--plugin", "exact_dedup", "--max-bad-rows", "3"),
)
HOSTILE = "<script>window.hostile = 1</script><img src=http://nowhere.invalid/x.png onerror=alert(1)>"
TOKEN = "hf_" + "notasecretbutofitsform" * 2
SECRET = "the-value-behind-a-name"
WORDS = ["the", "order", "of", "samples", "is", "pure", "and", "a", "run", "that", "was", "killed", "goes", "on"]


def write_rows(folder: Path) -> None:
    """Write rows, among them duplicates with markup and secrets in them, an empty one, and one that is no JSON."""
    rng = random.Random(0)
    rows = [{"text": " ".join(rng.choices(WORDS, k=rng.choice([3, 20])))} for _ in range(120)]
    rows += [{"text": f"{HOSTILE} {TOKEN} {SECRET}"}] * 3 + [{"text": ""}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{no json\n")


def environ(folder: Path) -> dict[str, str]:
    """Return the environment of runs in a folder."""
    return environment(HFX_CACHE=str(folder / "cache"), CUDA_VISIBLE_DEVICES="", A_TEST_TOKEN=SECRET)


def train(folder: Path, name: str, *words: str, code: int = 0) -> Path:
    """Train to the end; return the run's folder."""
    done = subprocess.run(
        [*MODULE, "train", *SMALL, "--output", f"runs/{name}", *words],
        cwd=folder, env=environ(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return folder / "runs" / name


@contextmanager
def training(folder: Path, name: str, *words: str, until: int = 3) -> Iterator[subprocess.Popen[str]]:
    """A run that goes on, from that many steps on; one that is there is resumed. What is left of it is killed."""
    new = [*SMALL, "--output", f"runs/{name}", "--steps", "100000"]
    resumed = ["--resume", f"runs/{name}"]
    process = subprocess.Popen(
        [*MODULE, "train", *(resumed if (folder / "runs" / name).exists() else new), *words],
        cwd=folder, env=environ(folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = folder / "runs" / name / "metrics.jsonl"
    try:
        while not metrics.exists() or metrics.read_text().count("grad_norm") < until:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def end(process: subprocess.Popen[str], by: signal.Signals, code: int) -> None:
    """End a process by a signal."""
    process.send_signal(by)
    said = process.communicate()[1]
    assert process.returncode == code, said


def make_runs(folder: Path) -> Path:
    """Make the runs `done`, `resumed`, `stopped`, `killed`, `diverged` and `fresh`; return the folder they are in."""
    write_rows(folder)
    train(folder, "done", "--steps", "6", "--eval-every", "2", "--save-every", "3")
    with training(folder, "resumed", "--save-every", "50", until=60) as process:
        end(process, signal.SIGKILL, -9)
    recorded = (folder / "runs" / "resumed" / "metrics.jsonl").read_text().count("\n")
    with training(folder, "resumed", until=recorded + 5) as process:
        end(process, signal.SIGTERM, 143)
    with training(folder, "stopped", "--seed", "1") as process:
        end(process, signal.SIGTERM, 143)
    with training(folder, "killed", "--seed", "2") as process:
        end(process, signal.SIGKILL, -9)
    train(folder, "diverged", "--plugin", "sgd", "--sgd.lr", "1e30", "--max-grad-norm", "1e30", "--steps", "30", code=1)
    return folder / "runs"
