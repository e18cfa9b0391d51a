"""What hfx asks of every plugin of this kind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from own_task import written

from hfx.testing import Check, plugin_checks

FOLDER = written(Path(tempfile.mkdtemp(prefix="hfx-lm-eval-")))
OPTIONS = {"tasks": ["own_texts"], "include": str(FOLDER), "limit": 2}


@pytest.mark.parametrize("check", plugin_checks("lm_eval", options=OPTIONS, config={"eval_every": 3}), ids=str)
def test_lm_eval_conforms(check: Check) -> None:
    check()
