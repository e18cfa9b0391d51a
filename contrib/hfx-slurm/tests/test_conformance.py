"""What hfx asks of every launcher, in a process that this one started."""

from __future__ import annotations

import pytest

from hfx.testing import Check, plugin_checks


@pytest.mark.parametrize("check", plugin_checks("slurm"), ids=str)
def test_slurm_conforms(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFX_JOB", "0")
    check()
