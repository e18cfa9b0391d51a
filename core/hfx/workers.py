"""Work on many chunks in processes of its own, in order, with no more chunks in flight than are worked on."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Chunk], Result], chunks: Iterable[Chunk], num_proc: int, least: int = 2
) -> Iterator[Result]:
    """Yield `work(chunk)` for every chunk, in order; in this process for one process, or fewer chunks than `least`.

    `work` is sent to each worker once, so it may carry a tokenizer or plugins.
    """
    waiting = iter(chunks)
    first = list(islice(waiting, least))
    if num_proc == 1 or len(first) < least:
        yield from map(work, first)
        yield from map(work, waiting)
        return
    # Spawned, not forked: the parent may hold locks of torch's and tokenizers' threads.
    pool = ProcessPoolExecutor(num_proc, get_context("spawn"), _begin, (work,))
    running: deque[Future[Result]] = deque()
    try:
        for chunk in _chained(first, waiting):
            running.append(pool.submit(_do, chunk))
            if len(running) > 2 * num_proc:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _chained(first: list[Chunk], rest: Iterator[Chunk]) -> Iterator[Chunk]:
    yield from first
    yield from rest


_work: Callable[[Any], Any] | None = None


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    _work = work


def _do(chunk: Any) -> Any:
    if _work is None:
        raise AssertionError("the worker was not initialised")
    return _work(chunk)
