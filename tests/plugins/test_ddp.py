"""DDP: whole replicas whose gradients are averaged, in fewer bits where that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranks import distance, folder_of_rows, ledger, metrics, trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows."""
    return folder_of_rows(tmp_path_factory.mktemp("ddp"))


@pytest.mark.slow
def test_gradients_in_half_of_the_bits_train_nearly_the_same(folder: Path) -> None:
    trained(folder, "same", "--plugin", "ddp")
    trained(folder, "bf16", "--plugin", "ddp", "--ddp.reduce-in", "bf16")
    assert ledger(folder / "same") == ledger(folder / "bf16")
    norms = [[line["grad_norm"] for line in metrics(folder / run) if line["grad_norm"]] for run in ("same", "bf16")]
    assert norms[0] != norms[1]
    assert norms[1] == pytest.approx(norms[0], rel=2e-2)
    assert 0 < distance(folder / "bf16", folder / "same") < 1e-2


def test_one_process_is_warned_about_and_trains(folder: Path) -> None:
    said = trained(folder, "one", "--plugin", "ddp", nproc=1).stderr
    assert "warning: 'ddp' shares the work of several processes, and there is one; '--nproc 2' or 'auto'" in said
