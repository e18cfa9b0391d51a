"""What a launcher hands to the processes it starts, and what comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from hfx import errors
from hfx.job import Failure, Job, failures, forget_failures, result
from hfx.launch import world_from
from hfx.parts import device_index
from hfx.protocols import World
from hfx.run import Run
from resolving import go


def job(tmp_path: Path, *plugins: str) -> Job:
    return Job.of(Run(go(*plugins, fields={"nproc": 2, "seed": 5}), tmp_path / "out", World()))


def test_a_job_is_read_back_and_resolves_to_the_same_run_without_how_it_was_started(tmp_path: Path) -> None:
    job(tmp_path, "lion").write(tmp_path)
    again = Job.read(tmp_path)
    assert again == job(tmp_path, "lion")
    resolved = again.resolve()
    assert resolved.config.seed == 5
    assert resolved.config.nproc == 1
    assert resolved.config.output == tmp_path / "out"
    assert [active.name for active in resolved.plugins] == [name for name, _, _ in again.plugins]
    assert again.origins == {path: str(origin) for path, origin in resolved.origins.items()}
    assert (again.origins["run.seed"], again.origins["run.batch_size"]) == ("seed", "default")


def test_other_versions_of_its_plugins_are_refused(tmp_path: Path) -> None:
    found = job(tmp_path)
    other = Job(found.config, [[name, package, "0.0.1"] for name, package, _ in found.plugins])
    with pytest.raises(errors.PluginError, match=r"of hfx 0\.0\.1 and this process"):
        other.resolve()


def test_the_cause_comes_before_what_followed_from_it(tmp_path: Path) -> None:
    Failure.of(errors.CollectiveError("rank 0 lost the connection"), 0).write(tmp_path)
    Failure.of(errors.DataError("a row is wrong; mend it"), 1).write(tmp_path)
    first, second = failures(tmp_path)
    assert (first.rank, second.rank) == (1, 0)
    assert isinstance(first.error(), errors.DataError)
    assert str(first.error()) == "rank 1: a row is wrong; mend it"
    assert str(second.error()) == "rank 0 lost the connection"
    forget_failures(tmp_path)
    assert failures(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (errors.CollectiveError("lost"), True),
        (errors.RemoteError("down"), True),
        (RuntimeError("CUDA error: an illegal memory access"), True),
        (errors.ConfigError("wrong"), False),
        (errors.DeviceMemoryError("full"), False),
        (errors.PluginError("broken"), False),
    ],
)
def test_beginning_again_helps_against_bad_luck_and_not_against_mistakes(error: Exception, helps: bool) -> None:
    assert Failure.of(error, 0).passes is helps


def test_a_bug_is_told_as_one_and_ctrl_c_as_itself() -> None:
    assert "this is a bug: RuntimeError: boom" in str(Failure.of(RuntimeError("boom"), 2).error())
    assert isinstance(Failure.of(KeyboardInterrupt(), 0).error(), KeyboardInterrupt)


def test_without_a_main_process_here_the_result_is_the_folder(tmp_path: Path) -> None:
    assert result(tmp_path, Path("out")).path == Path("out")


def test_tasks_of_srun_are_given_the_variables_of_torch() -> None:
    slurm = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "20007",
             "SLURM_STEP_NODELIST": "node[03-05,09],other"}  # fmt: skip
    assert world_from(slurm) == World(5, 8, 1)
    assert (slurm["MASTER_ADDR"], slurm["MASTER_PORT"]) == ("node03", "24056")


def test_steps_of_one_slurm_job_meet_at_ports_of_their_own() -> None:
    task = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "n1"}
    steps = [task | {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": str(step)} for step in range(4)]
    for step in steps:
        world_from(step)
    ports = {int(step["MASTER_PORT"]) for step in steps}
    assert len(ports) == 4
    assert all(1024 < port < 32_768 for port in ports)


def test_a_task_on_each_node_starts_the_ranks_of_its_machine_where_several_machines_are_asked_for() -> None:
    task = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
            "SLURM_STEP_NODELIST": "n[1-2]"}  # fmt: skip
    assert world_from(dict(task), machines="2") == World()
    assert world_from(dict(task)) == World(1, 2, 0)
    assert world_from(task | {"SLURM_STEP_NUM_NODES": "1"}, machines="2") == World(1, 2, 0)


@pytest.mark.parametrize(("local_rank", "visible", "index"), [(0, 1, 0), (3, 8, 3)])
def test_a_rank_takes_the_device_of_its_number(local_rank: int, visible: int, index: int) -> None:
    assert device_index(local_rank, visible) == index


def test_a_rank_takes_the_one_device_that_slurm_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.IncompatibleError, match=r"rank 3 of this machine finds 1 devices.*'--nproc 1'"):
        device_index(3, 1)
    monkeypatch.setenv("SLURM_LOCALID", "3")
    assert device_index(3, 1) == 0
    with pytest.raises(errors.IncompatibleError, match="finds 2 devices"):
        device_index(3, 2)
    with pytest.raises(errors.IncompatibleError, match="rank 1 of this machine finds 1 devices"):
        device_index(1, 1)  # one of several that such a task has started


@pytest.mark.parametrize("listed", ["gpu-a1", "gpu-a1,gpu-a2", "gpu-a[1-4]"])
def test_the_first_node_is_where_the_ranks_meet(listed: str) -> None:
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": listed}
    world_from(slurm)
    assert slurm["MASTER_ADDR"] == "gpu-a1"


def test_a_batch_script_of_slurm_is_no_rank() -> None:
    assert world_from({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}) == World()
