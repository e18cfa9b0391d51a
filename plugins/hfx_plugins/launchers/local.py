"""The launcher for this machine, alone or with others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import Field, PositiveInt

from hfx import Plugin, Problem, Run, RunResult, hookimpl


class Local(Plugin):
    """Runs in this process, or starts `nproc` of them here; with `nnodes` on every machine that runs the same command.

    Processes that torchrun, accelerate or Slurm's srun started are taken as they are. A process that dies takes the
    others with it, and all begin again at the newest checkpoint.
    """

    restarts: int = Field(default=3, ge=0)
    """How often the run is begun again after a process was killed or lost; not after a mistake, which stays one."""
    threads: PositiveInt | None = None
    """Threads of each process; none: this machine's cores divided among its processes."""
    wait_minutes: float = Field(default=15.0, gt=0)
    """How long the machines wait for each other."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report what several machines need."""
        from hfx.launch import one_task_a_node

        config = run.config
        if run.world.size > 1:
            if config.nproc != 1 and one_task_a_node(run.world):
                yield Problem(
                    f"srun started one task on each node, and 'nproc' is {config.nproc}; let it start all of them "
                    "('--ntasks-per-node'), or say where these are to meet: '--nnodes' and '--rdzv HOST:PORT'"
                )
            elif config.nproc != 1 or config.nnodes != "1":
                word = "'nproc'" if config.nproc != 1 else "'nnodes'"
                yield Problem(f"{word} has no part: {run.world.size} processes are started already", fatal=False)
            return
        if config.nnodes != "1" and config.rdzv is None:
            yield Problem(
                f"'nnodes' is {config.nnodes}, and nobody says where the machines meet; add '--rdzv HOST:PORT', "
                "one of them and a free port of it"
            )
        if config.nnodes != "1" and config.output is None:
            yield Problem("several machines need one folder that all of them see; add '--output'")
        low, _, high = config.nnodes.partition(":")
        if high and int(high) < int(low):
            yield Problem(f"'nnodes' is {config.nnodes}: at least {low} machines, and at most {high}; swap them")

    @hookimpl
    def hfx_launch(self, run: Run, main: Callable[[Run], RunResult]) -> RunResult:
        """Call `main` here, or in the processes that are started, and return how the run ended."""
        if run.world.size > 1 or (run.config.nproc == 1 and run.config.nnodes == "1"):
            self._take_threads()
            return main(run)
        from hfx_plugins.launchers.local_impl import launch, processes

        count = processes(run.config.nproc)
        if count == 1 and run.config.nnodes == "1":
            self._take_threads()
            return main(run)
        return launch(run, count, self)

    def _take_threads(self) -> None:
        """Let this process compute with the threads that were asked for; those that are started are told beforehand."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
