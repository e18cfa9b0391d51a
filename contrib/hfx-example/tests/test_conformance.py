"""What hfx asks of every plugin of these kinds."""

from __future__ import annotations

import pytest

from hfx.testing import Check, plugin_checks


@pytest.mark.parametrize("check", plugin_checks("lookahead"), ids=str)
def test_lookahead_conforms(check: Check) -> None:
    check()


@pytest.mark.parametrize("check", plugin_checks("target_loss"), ids=str)
def test_target_loss_conforms(check: Check) -> None:
    check()
