"""What `near_dedup` finds, how fast, and in how much memory: planted pairs, 300-word documents, a million short ones.

    python tests/benchmarks/bench_near_dedup.py [pairs] [speed] [datasketch] [crowd] [million]

Without names, all parts; each in a process of its own, on one thread.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}

import numpy as np

from hfx import Place, Row
from hfx_plugins.cleaning.near_dedup import NearDedup

THRESHOLD = 0.7
GIBI = 2**30


def vocabulary(size: int = 50_000) -> np.ndarray:
    """Return made-up words of 2 to 11 letters."""
    rng = np.random.default_rng(1)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkqjxz", np.uint8)
    return np.array([rng.choice(letters, count).tobytes().decode() for count in rng.integers(2, 12, size)], object)


def shingle_set(words: list[str]) -> set[tuple[str, ...]]:
    """Return the runs of five words."""
    return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}


def jaccard(left: list[str], right: list[str]) -> float:
    """Return how much two texts share, by plain sets."""
    ours, theirs = shingle_set(left), shingle_set(right)
    return len(ours & theirs) / len(ours | theirs)


def altered(words: list[str], target: float, vocab: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Replace words, alone and in stretches, until the two texts share `target` of their runs of five."""
    total = len(words) - 4
    wanted = round(total * (1 - target) / (1 + target))  # runs that are lost on either side
    changed, lost = np.zeros(len(words), bool), 0
    while lost < wanted:
        trial = changed.copy()
        at = int(rng.integers(len(words)))
        trial[at : at + int(rng.integers(1, 4))] = True
        lost_now = int((np.convolve(trial, np.ones(5), "valid") > 0).sum())
        if lost_now <= wanted:
            changed, lost = trial, lost_now
    return [str(rng.choice(vocab)) if new else word for word, new in zip(words, changed, strict=True)]


def rows_of(texts: list[str]) -> list[Row]:
    """Return the texts as rows."""
    return [Row({"text": text}, Place("bench", "made-up", number + 1), number) for number, text in enumerate(texts)]


def pairs(count: int = 5_000) -> None:
    """Plant pairs of Jaccard 0.3 to 0.95 and count the links, by the true Jaccard."""
    vocab, rng = vocabulary(), np.random.default_rng(2)
    texts: list[str] = []
    truth: list[float] = []
    for target in (0.8, 0.3, 0.4, 0.49, 0.6, 0.7, 0.75, 0.9, 0.95):
        for _ in range(count if target == 0.8 else count // 5):
            words = list(rng.choice(vocab, int(rng.integers(100, 500))))
            other = altered(words, target, vocab, rng)
            texts += [" ".join(words), " ".join(other)]
            truth.append(jaccard(words, other))
    found = NearDedup(threshold=THRESHOLD).drops(rows_of(texts))
    linked = np.array([number in found for number in range(1, len(texts), 2)])
    shares = np.array(truth)
    print(f"{len(shares):,} planted pairs, threshold {THRESHOLD}; {found.facts}")
    for low, high in pairwise([0, 0.5, 0.6, 0.7, 0.75, 0.79, 0.81, 0.9, 1.01]):
        chosen = (shares >= low) & (shares < high)
        mean, recall = shares[chosen].mean(), linked[chosen].mean()
        expected = (1 - (1 - shares[chosen] ** 7) ** 18).mean()
        print(f"  Jaccard {low:.2f} to {high:.2f} (~{mean:.3f}): {int(chosen.sum()):6,} pairs, linked {recall:.4f}; "
              f"bands alone would expect {expected:.4f}")  # fmt: skip
    first = int(sum(number in found for number in range(0, len(texts), 2)))
    print(f"  first texts of a pair that were dropped: {first}; links below 0.5: {int(linked[shares < 0.5].sum())}")


def documents(count: int, words: int, copies: float = 0.1) -> Iterator[str]:
    """Yield made-up documents; a tenth alters one of the last thousand by a few words."""
    vocab, rng = vocabulary(), np.random.default_rng(3)
    kept: list[np.ndarray] = []
    for _ in range(count):
        if kept and rng.random() < copies:
            body = kept[int(rng.integers(len(kept)))].copy()
            body[rng.integers(0, words, max(1, words // 100))] = vocab[rng.integers(0, len(vocab))]
        else:
            body = vocab[rng.integers(0, len(vocab), words)]
            kept = [*kept[-999:], body] if len(kept) < 1_000 else kept
            kept[int(rng.integers(len(kept)))] = body
        yield " ".join(body)


def spooled(folder: Path, count: int, words: int) -> object:
    """Write the documents into a row store, as a run does, and return it."""
    from hfx.rows import RowSet, write_store

    store = folder / "rows" / "store"
    store.mkdir(parents=True)
    rows = (Row({"text": t}, Place("bench", "made-up", n + 1), n) for n, t in enumerate(documents(count, words)))
    write_store(rows, store)
    return RowSet(store, None, "bench")


def speed(count: int = 20_000) -> None:
    """Time documents of 300 words, from the row store to the verdict."""
    with tempfile.TemporaryDirectory() as folder:
        rows = spooled(Path(folder), count, 300)
        begin = time.process_time(), time.perf_counter()
        for _ in rows:  # type: ignore[attr-defined]
            pass
        reading = time.process_time() - begin[0]
        begin = time.process_time(), time.perf_counter()
        found = NearDedup(threshold=THRESHOLD).drops(rows)  # type: ignore[arg-type]
        processor, wall = time.process_time() - begin[0], time.perf_counter() - begin[1]
    print(f"{count:,} documents of 300 words, one thread: {count / processor:,.0f} a second of processor time "
          f"({count / wall:,.0f} of wall time)")  # fmt: skip
    print(f"  of it {reading / processor:.0%} is reading the rows; {found.facts}")


def million(count: int = 1_000_000, words: int = 300) -> None:
    """Deduplicate a million documents, and show the memory that was resident at most."""
    with tempfile.TemporaryDirectory() as folder:
        make = [sys.executable, __file__, "--spool", folder, str(count), str(words)]
        subprocess.run(make, check=True)  # what making them takes is not to be measured
        from hfx.rows import RowSet

        rows = RowSet(Path(folder) / "rows" / "store", None, "bench")
        size = (rows.path / "rows.arrow").stat().st_size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        begin = time.perf_counter()
        with peak_private() as private:
            found = NearDedup(threshold=THRESHOLD).drops(rows)
        wall = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{count:,} documents of {words} words ({size / GIBI:.2f} GiB of rows): {wall:.0f} s, {count / wall:,.0f} a "
          f"second; peak resident {peak / GIBI:.2f} GiB (before it {before / GIBI:.2f}), in it {private[0] / GIBI:.2f} "
          "that is not the mapped files")  # fmt: skip
    print(f"  {found.facts}")


@contextmanager
def peak_private() -> Iterator[list[int]]:
    """Yield a list whose only element is the most private memory seen, looked at ten times a second."""
    peak, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            status = Path("/proc/self/status").read_text()
            peak[0] = max(peak[0], int(status.partition("RssAnon:")[2].split()[0]) * 1024)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def crowd(count: int = 20_000) -> None:
    """Time the worst case: pages that share a frame of two thirds, a few of them near-copies of each other."""
    vocab, rng = vocabulary(), np.random.default_rng(4)
    frame = list(rng.choice(vocab, 235))
    pages = [[*frame, *rng.choice(vocab, 65)] for _ in range(count)]
    copies = [altered(page, 0.8, vocab, rng) for page in pages[-1_000:]]
    texts = [" ".join(words) for words in (*pages, *copies)]
    begin = time.process_time()
    found = NearDedup(threshold=THRESHOLD).drops(rows_of(texts))
    processor = time.process_time() - begin
    recall = np.mean([number in found for number in range(count, len(texts))])
    rate = len(texts) / processor
    print(f"{len(texts):,} pages that share {jaccard(pages[0], pages[1]):.2f} with each other: "
          f"{rate:,.0f} a second of processor time; of 1,000 copies at 0.8 {recall:.4f} are found")  # fmt: skip
    print(f"  {found.facts}")


def datasketch(count: int = 1_000) -> None:
    """Compare with datasketch's MinHashLSH on the same bands: speed, and the pairs it offers."""
    from datasketch import MinHash, MinHashLSH

    texts = list(documents(count, 300))
    begin = time.process_time()
    lsh = MinHashLSH(num_perm=126, params=(18, 7))
    for number, text in enumerate(texts):
        sketch = MinHash(num_perm=126)
        sketch.update_batch([" ".join(run).encode() for run in shingle_set(text.split())])
        lsh.query(sketch)
        lsh.insert(str(number), sketch)
    theirs = time.process_time() - begin
    begin = time.process_time()
    NearDedup(threshold=THRESHOLD).drops(rows_of(texts))
    ours = time.process_time() - begin
    print(f"datasketch, {count:,} documents of 300 words: {count / theirs:,.0f} a second of processor time; "
          f"near_dedup {count / ours:,.0f}: {theirs / ours:.0f} times")  # fmt: skip


PARTS = {"pairs": pairs, "speed": speed, "datasketch": datasketch, "crowd": crowd, "million": million}


def main() -> None:
    """Run the parts named, each in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--spool", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if unknown := next((name for name in asked.parts if name not in PARTS), None):
        parser.error(f"there is no part '{unknown}'; there are {', '.join(PARTS)}")
    if asked.spool:
        folder, count, words = asked.spool
        spooled(Path(folder), int(count), int(words))
    elif len(asked.parts) == 1:
        PARTS[asked.parts[0]]()
    else:
        for name in asked.parts or PARTS:
            subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
