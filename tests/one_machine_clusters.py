"""A Slurm and a Ray cluster of this one machine, started for a test and stopped after it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 60
_CONF = """
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/node.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=1,bf_interval=1
ReturnToService=2
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=3000 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Run a controller and a node, without accounting and authentication; yield the environment that finds them."""
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    ports = {"controller": _free_port(), "node": _free_port()}
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    conf.write_text(_CONF.format(host=host, folder=folder, user=user, cpus=os.cpu_count(), **ports))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    environ = {"SLURM_CONF": str(conf)}
    with (folder / "daemons.log").open("w") as log:
        daemons = [
            subprocess.Popen([shutil.which(name) or f"/usr/sbin/{name}", "-D", "-f", conf], stdout=log, stderr=log)
            for name in ("slurmctld", "slurmd")
        ]
        try:
            _wait_until(lambda: "idle" in _told(["sinfo", "--noheader", "--format=%T"], environ), folder)
            yield environ
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(PATIENCE)


@contextmanager
def ray(folder: Path) -> Iterator[dict[str, str]]:
    """Run a head node; yield the environment that finds it."""
    port = _free_port()
    program = str(Path(sys.executable).parent / "ray")
    environ = {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_USAGE_STATS_ENABLED": "0"}
    start = ["start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    # Ray puts sockets there, whose paths may not be long.
    start.append(f"--temp-dir=/tmp/ray-{os.getpid()}")
    told = subprocess.run([program, *start], env=os.environ | environ, cwd=folder, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    try:
        yield environ
    finally:
        subprocess.run([program, "stop"], env=os.environ | environ, capture_output=True, check=True)
        shutil.rmtree(f"/tmp/ray-{os.getpid()}")


def _told(command: list[str], environ: dict[str, str]) -> str:
    return subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=False).stdout


def _wait_until(ready: Callable[[], bool], folder: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < end, (folder / "daemons.log").read_text()
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
