"""FSDP: everything in shards, layer by layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranks import assert_same_run, distance, folder_of_rows, ledger, trained, weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, and a sharded run of two processes in it."""
    path = folder_of_rows(tmp_path_factory.mktemp("fsdp"))
    trained(path, "whole", "--plugin", "fsdp")
    return path


def test_a_killed_run_ends_with_the_same_bits_and_as_one_process_would(folder: Path) -> None:
    trained(folder, "killed", "--plugin", "fsdp", "--plugin", "harm")
    assert_same_run(folder / "whole", folder / "killed")
    trained(folder, "one", nproc=1)
    assert ledger(folder / "one") == ledger(folder / "whole")
    assert distance(folder / "one", folder / "whole") < 1e-3


def test_tied_weights_are_exported_once(folder: Path) -> None:
    assert "lm_head.weight" not in weights(folder / "whole")


@pytest.mark.slow
def test_layers_kept_gathered_train_the_same(folder: Path) -> None:
    trained(folder, "kept", "--plugin", "fsdp", "--fsdp.reshard", "false")
    assert_same_run(folder / "whole", folder / "kept")


def test_offloading_to_where_everything_is_is_refused(folder: Path) -> None:
    said = trained(folder, "offload", "--plugin", "fsdp", "--fsdp.offload", "true", code=2).stderr
    assert "'fsdp.offload' keeps shards in the CPU's memory, where they are; leave it out" in said
    assert not (folder / "offload").exists()
