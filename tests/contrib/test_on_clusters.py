"""The launchers of `hfx-slurm` and `hfx-ray` on a real Slurm and a real Ray, of one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import one_machine_clusters
from command_line import MODULE, environment, hfx
from contrib_packages import installed
from ranks import SMALL, assert_same_run, folder_of_rows, trained
from toy_packages import toy_package

pytestmark = pytest.mark.clusters

TOLD = '''"""Told."""

import os
import subprocess
import time
from pathlib import Path

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Lets Slurm signal the job after the fifth step, once, and waits for it."""

    cancel: bool = False
    """Cancel the job; else signal it as before its time limit."""

    @hookimpl
    def hfx_step_end(self, run):
        mark = Path(run.output, "told")
        if run.step != 5 or not run.world.is_main or mark.exists():
            return
        mark.touch()
        words = [] if self.cancel else ["--signal=USR1"]
        subprocess.run(["scancel", *words, os.environ["SLURM_JOB_ID"]], check=True)
        while not run.stop_wanted:
            time.sleep(0.1)
'''
ON_SLURM = ("--plugin", "slurm", "--slurm.processes", "2", "--slurm.poll-seconds", "0.5")
ON_RAY = ("--plugin", "ray", "--ray.workers", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, packages, and a run of two processes of this machine that nothing disturbed."""
    path = folder_of_rows(tmp_path_factory.mktemp("clusters"))
    toy_package(path / "packages", "hfx-told", {"told": TOLD})
    for name in ("hfx-slurm", "hfx-ray"):
        installed(name, path / "packages")
    trained(path, "whole")
    return path


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that finds Slurm."""
    with one_machine_clusters.slurm(tmp_path_factory.mktemp("slurm")) as environ:
        yield environ


@pytest.fixture(scope="module")
def ray(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that finds Ray, whose workers find the packages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder / "packages"))
        with one_machine_clusters.ray(tmp_path_factory.mktemp("ray")) as environ:
            yield environ


def lines_of_hfx(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("hfx: ") and "unverified" not in line]


# ── Slurm ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_that_is_told_to_save_and_later_loses_a_process_ends_with_the_same_bits(
    folder: Path, slurm: dict[str, str]
) -> None:
    words = (*ON_SLURM, "--plugin", "told", "--plugin", "harm", "--harm.step", "7", "--harm.mark", "once")
    said = trained(folder, "queued", *words, nproc=1, **slurm).stderr
    assert "the run saved at step 6; job 1 goes back to the queue, 2 more times" in said
    assert "a process was killed; job 1 goes back to the queue, 1 more times" in said
    assert said.count("resumed from queued/checkpoints/step-00000006 at step 6 of 8") == 2
    assert_same_run(folder / "whole", folder / "queued")


def test_the_first_failing_rank_is_what_the_user_sees_and_a_mistake_is_not_queued_again(
    folder: Path, slurm: dict[str, str]
) -> None:
    words = (*ON_SLURM, "--plugin", "harm", "--harm.does", "raise", "--harm.step", "1", "--harm.mark", "raised")
    said = trained(folder, "raising", *words, nproc=1, code=1, **slurm).stderr
    submitted, last = lines_of_hfx(said)
    assert "is submitted" in submitted
    assert last.startswith("hfx: rank 1: plugin 'harm' (hfx-harm 1.0) raised ArithmeticError in hfx_step_end")
    assert "Traceback" not in said


def test_a_job_that_is_cancelled_is_saved_and_stays_cancelled(folder: Path, slurm: dict[str, str]) -> None:
    words = (*ON_SLURM, "--plugin", "told", "--told.cancel", "true")
    said = trained(folder, "cancelled", *words, nproc=1, code=143, **slurm).stderr
    assert "stopped by SIGTERM at step 6, saved" in said
    assert "goes back" not in said
    assert (folder / "cancelled" / "checkpoints" / "step-00000006" / "MANIFEST.json").exists()


def test_without_waiting_the_jobs_number_is_said_at_once(folder: Path, slurm: dict[str, str]) -> None:
    words = (*ON_SLURM, "--slurm.wait", "false", "--slurm.sbatch", "{hold: true, comment: two words}")
    [line] = lines_of_hfx(trained(folder, "held", *words, nproc=1, **slurm).stderr)
    number = line.partition("job ")[2].partition(" is submitted")[0]
    queue = ["squeue", "--noheader", "--format=%T %k", "--jobs", number]
    told = subprocess.run(queue, env=os.environ | slurm, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "PENDING two words"
    subprocess.run(["scancel", number], env=os.environ | slurm, check=True)


def test_what_slurm_refuses_is_told_in_one_line_and_leaves_nothing(folder: Path, slurm: dict[str, str]) -> None:
    words = (*ON_SLURM, "--slurm.partition", "nowhere")
    [line] = lines_of_hfx(trained(folder, "refused", *words, nproc=1, code=1, **slurm).stderr)
    assert line.startswith("hfx: Slurm refuses the job: sbatch: error: ")
    assert "nvalid partition" in line
    assert not (folder / "refused").exists()


def test_a_folder_that_the_nodes_do_not_see_is_named(folder: Path, slurm: dict[str, str]) -> None:
    process = subprocess.Popen(
        [*MODULE, "train", *SMALL, "--output", "unseen", *ON_SLURM, "--slurm.sbatch", "{hold: true}"],
        cwd=folder,
        env=environment(folder / "packages", HFX_CACHE=str(folder / "cache"), **slurm),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (found := list(folder.glob("unseen/logs/slurm-*/*_submitted.pkl"))):
        assert process.poll() is None
        time.sleep(0.1)
    number = found[0].name.partition("_")[0]
    # One machine sees all its folders; what the launcher wrote goes before the job begins.
    (folder / "unseen").rename(folder / "elsewhere")
    subprocess.run(["scontrol", "release", number], env=os.environ | slurm, check=True)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "before it wrote a word; choose an '--output' that all nodes see" in lines_of_hfx(said)[-1]


# ── Ray ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_workers_of_ray_begin_again_where_one_was_killed_and_end_with_the_same_bits(
    folder: Path, ray: dict[str, str]
) -> None:
    done = trained(folder, "worked", *ON_RAY, "--plugin", "harm", "--harm.mark", "dead", nproc=1, **ray)
    assert "all begin again at the newest checkpoint" in done.stderr
    assert "resumed from worked/checkpoints/step-00000003 at step 3 of 8" in done.stderr
    assert done.stdout == "run: worked\n"
    assert_same_run(folder / "whole", folder / "worked")


def test_the_first_failing_worker_is_what_the_user_sees_and_a_mistake_is_not_tried_again(
    folder: Path, ray: dict[str, str]
) -> None:
    words = (*ON_RAY, "--plugin", "harm", "--harm.does", "raise", "--harm.step", "1", "--harm.mark", "wrong")
    said = trained(folder, "mistaken", *words, nproc=1, code=1, **ray).stderr
    [last] = lines_of_hfx(said)
    assert last.startswith("hfx: rank 1: plugin 'harm' (hfx-harm 1.0) raised ArithmeticError in hfx_step_end")
    assert "Traceback" not in said


def test_a_signal_is_handed_on_to_rays_workers_and_the_run_is_saved(folder: Path, ray: dict[str, str]) -> None:
    process = subprocess.Popen(
        [*MODULE, "train", *SMALL, "--output", "ended", "--steps", "100000", *ON_RAY],
        cwd=folder,
        env=environment(folder / "packages", HFX_CACHE=str(folder / "cache"), CUDA_VISIBLE_DEVICES="", **ray),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (folder / "ended" / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "stopped by SIGTERM at step " in said


def test_a_cluster_that_is_not_there_is_named(folder: Path, ray: dict[str, str]) -> None:
    del ray
    words = ("--plugin", "ray", "--ray.address", "127.0.0.1:9", "--output", "nowhere")
    done = hfx("train", *SMALL, *words, cwd=folder, path=folder / "packages")
    assert done.returncode == 1
    assert "'ray' finds no Ray cluster at '127.0.0.1:9'" in lines_of_hfx(done.stderr)[-1]
    assert not (folder / "nowhere").exists()
