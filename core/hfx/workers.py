"""Work on many chunks in processes of its own, in order, with no more chunks in flight than are worked on."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import current_process, get_context
from types import ModuleType
from typing import Any, TypeVar

from hfx.errors import HfxError, UsageError
from hfx.redact import redact_streams

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
_GUARD = "put what the script does under `if __name__ == '__main__':`"


def in_order(
    work: Callable[[Chunk], Result], chunks: Iterable[Chunk], num_proc: int, least: int = 2
) -> Iterator[Result]:
    """Yield `work(chunk)` for every chunk, in order; in this process for one process, or fewer chunks than `least`.

    `work` is sent to each worker once, so it may carry a tokenizer or plugins.

    Raises:
        HfxError: a worker died.
    """
    waiting = iter(chunks)
    first = list(islice(waiting, least))
    if num_proc == 1 or len(first) < least:
        yield from map(work, chain(first, waiting))
        return
    # Spawned, not forked: the parent may hold locks of torch's and tokenizers' threads.
    pool = ProcessPoolExecutor(num_proc, get_context("spawn"), _begin, (work,))
    running: deque[Future[Result]] = deque()
    hidden = b"__main__" not in pickle.dumps(work)
    try:
        for chunk in chain(first, waiting):
            with _hidden_main(hidden):
                running.append(pool.submit(_do, chunk))
            if len(running) > 2 * num_proc:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool as error:
        cause = (
            "it ran out of memory, or was killed" if hidden else f"it was killed, or the script has no guard: {_GUARD}"
        )
        raise HfxError(f"a process that prepares data died: {cause}; '--num-proc 1' works without others") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _hidden_main(hidden: bool) -> Iterator[None]:
    """Begin workers without running the user's script again in each, where nothing they work with was made in it."""
    main = sys.modules["__main__"]
    if hidden:
        sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def refuse_in_a_beginning_worker() -> None:
    """Refuse to prepare data in a worker that is still reading the user's script: it would wait for its own parent.

    Raises:
        UsageError: the script has no guard.
    """
    if getattr(current_process(), "_inheriting", False):
        raise UsageError(f"a process that prepares data began the whole script again; {_GUARD}")


_work: Callable[[Any], Any] | None = None


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    _work = work
    redact_streams()


def _do(chunk: Any) -> Any:
    if _work is None:
        raise AssertionError("the worker was not initialised")
    return _work(chunk)
