"""Torch and transformers are imported without collections on the way, and the collector is given back as it was."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

COUNTED = dedent("""
    import gc, sys

    from hfx.preload import preloaded

    kept = [[]]
    passes = []
    gc.callbacks.append(lambda phase, info: passes.append(phase))
    with preloaded():
        there = "transformers.modeling_utils" in sys.modules
        print(len(passes), there, gc.get_freeze_count() > 100_000, gc.isenabled())
    print(gc.get_freeze_count(), gc.isenabled())
""")
KEPT = dedent("""
    import gc

    from hfx.preload import preloaded

    gc.disable()
    gc.freeze()
    before = gc.get_freeze_count()
    with preloaded():
        print(gc.isenabled())
    print(gc.isenabled(), gc.get_freeze_count() >= before > 0)
""")


def said(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_nothing_is_collected_while_torch_and_transformers_are_imported_and_nothing_is_frozen_afterwards():
    assert said(COUNTED) == ["0 True True True", "0 True"]


def test_a_collector_that_the_caller_stopped_and_froze_stays_so():
    assert said(KEPT) == ["False", "False True"]


REFUSED = dedent("""
    import gc, sys

    from hfx.preload import preloaded

    def refuse():
        print("torch" in sys.modules, "transformers.modeling_utils" in sys.modules)
        raise ValueError

    try:
        with preloaded(first=refuse):
            pass
    except ValueError:
        print(gc.get_freeze_count(), gc.isenabled())
""")


def test_what_a_check_refuses_is_refused_before_transformers_is_imported_and_the_collector_is_as_it_was():
    assert said(REFUSED) == ["True False", "0 True"]
