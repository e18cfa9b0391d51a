"""`hfx doctor` measures the machine it is on, and says how to mend what is really broken there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from command_line import environment, hfx, imported_by
from hfx.cgroups import allowed, limits
from hfx.cli.doctor import NAMES
from toy_packages import LISTENER, OPTIMIZER, toy_package

Lines = list[dict[str, str]]


def looked(*names: str, code: int = 0, **how: Any) -> Lines:
    """Return the lines of some checks; the command has to end with the code."""
    done = hfx("doctor", *names, "--json", **how)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr == ""
    lines: Lines = json.loads(done.stdout)
    for line in lines:
        assert bool(line["advice"]) == (line["state"] != "ok"), line
        assert "\n" not in line["measured"] + line["advice"]
    return lines


def unshared(folder: Path, script: str, *names: str, flags: str = "-rm") -> subprocess.CompletedProcess[str]:
    """Run a shell's script in namespaces of its own, then `hfx doctor` there."""
    command = ["unshare", flags, "sh", "-ec", f'{script}; exec "$@"', "sh"]
    probe = subprocess.run([*command, "true"], cwd=folder, capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no namespaces here: {probe.stderr.strip()}")
    words = [sys.executable, "-m", "hfx", "doctor", *names]
    return subprocess.run(
        [*command, *words], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


def test_every_check_has_its_line_and_a_sound_machine_is_called_so(tmp_path: Path) -> None:
    began = time.monotonic()
    done = hfx("doctor", cwd=tmp_path, HFX_CACHE=str(tmp_path / "cache"), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 30  # 3 s where nothing else runs
    *lines, last = done.stdout.splitlines()
    assert list(dict.fromkeys(line.split()[1] for line in lines)) == list(NAMES)
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}
    assert last.startswith("nothing wrong")
    told = {line.split()[1]: line for line in lines}
    for package in ("torch", "transformers", "accelerate"):
        assert metadata.version(package).partition("+")[0] in told[package]
    assert "a round trip in" in told["ranks"]
    assert "MiB/s" in told["ranks"]
    assert "MiB/s written and synced" in told["cache"]
    assert list(tmp_path.iterdir()) == []


def test_the_command_itself_imports_nothing_that_may_crash() -> None:
    modules = imported_by("doctor", "torch", "plugins")
    assert {"torch", "transformers", "hfx_plugins"}.isdisjoint(modules)


@pytest.mark.parametrize("value", ["0", "many", "-2", "", "2;3"])
def test_a_number_of_threads_that_is_none_is_wrong(value: str) -> None:
    [line] = looked("threads", code=1, OMP_NUM_THREADS=value)
    assert line["state"] == "wrong"
    assert f"OMP_NUM_THREADS is '{value}'" in line["measured"]
    assert "unset it" in line["advice"]


def test_more_threads_than_cores_are_warned_of() -> None:
    [line] = looked("threads", OMP_NUM_THREADS="4096")
    assert line["state"] == "warning"


@pytest.mark.parametrize("value", ["1", " 1 ", "1,1"])
def test_threads_that_openmp_takes_are_taken(value: str) -> None:
    [line] = looked("threads", OMP_NUM_THREADS=value)
    assert line["state"] == "ok"


def test_only_the_cores_count_that_this_process_may_use() -> None:
    command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-m", "hfx", "doctor", "cores"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout.split()[:3] == ["ok", "cores", "1"] or "cgroup" in done.stdout


def test_limits_of_old_and_new_cgroups_are_found_from_a_group_to_the_root(tmp_path: Path) -> None:
    groups = tmp_path / "cgroup"
    for file, text in (
        ("memory.max", "max"),
        ("job/memory.max", "2000"),
        ("job/step/memory.max", "1000"),
        ("other/memory.max", "1"),
        ("memory/old/memory.limit_in_bytes", "3000"),
        ("cpu,cpuacct/memory.limit_in_bytes", "2"),
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"{text}\n")
    groups.write_text("0::/job/step\n")
    assert limits("memory.max", "memory.limit_in_bytes", tmp_path, groups) == ["1000", "2000", "max"]
    groups.write_text("5:cpu,cpuacct:/\n4:memory:/old\n")
    assert limits("memory.max", "memory.limit_in_bytes", tmp_path, groups) == ["3000"]


# ── folders ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_cgroup_uses_is_not_free_and_cached_files_are(tmp_path: Path) -> None:
    for name, text in [
        ("memory.stat", "anon 1\ninactive_file 1"),  # the root has no limit
        ("job/memory.max", "5000"),
        ("job/memory.current", "4000"),
        ("job/memory.stat", "anon 3400\ninactive_file 500\nactive_file 100"),
        ("job/step/memory.max", "2000"),
        ("job/step/memory.current", "100"),
        ("memory/old/memory.limit_in_bytes", "3000"),
        ("memory/old/memory.usage_in_bytes", "2500"),
        ("memory/old/memory.stat", "inactive_file 1\ntotal_inactive_file 300"),
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    groups = tmp_path / "groups"
    for place, left in [("0::/job/step", (1500, 5000)), ("4:memory:/old", (800, 3000)), ("0::/", None)]:
        groups.write_text(place + "\n")
        assert allowed(tmp_path, groups) == left


def test_a_cache_that_cannot_be_written_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for cache in (tmp_path / "file" / "cache", Path("/proc/hfx")):
        [line] = looked("cache", code=1, HFX_CACHE=str(cache))
        assert f"'{cache}' cannot be made" in line["measured"]
        assert "HFX_CACHE" in line["advice"]


def test_folders_on_a_disk_that_is_read_only_are_wrong(tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir()
    done = unshared(tmp_path, "mount -t tmpfs -o ro tmpfs shut; cd shut", "folder", "runs")
    assert done.returncode == 1
    assert done.stdout.count("Read-only file system") == 2
    assert done.stdout.endswith("2 wrong\n")


def test_a_disk_without_room_is_wrong_and_nothing_stays_on_it(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    done = unshared(tmp_path, "mount -t tmpfs -o size=1m tmpfs runs", "runs")
    assert done.returncode == 1
    assert "wrong    runs          'runs': 1 MiB are free; free space, or" in done.stdout


def test_little_shared_memory_is_warned_of(tmp_path: Path) -> None:
    done = unshared(tmp_path, "mount -t tmpfs -o size=1m tmpfs /dev/shm", "shm")
    assert done.returncode == 0, done.stdout
    assert "warning  shm           1 MiB free of 1 MiB" in done.stdout
    assert "--shm-size" in done.stdout


def test_runs_that_is_a_link_to_nothing_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to("unmounted")
    [line] = looked("runs", code=1, cwd=tmp_path)
    assert "link to nothing" in line["measured"]


# ── ranks and packages ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_ranks_that_cannot_reach_each_other_are_wrong(tmp_path: Path) -> None:
    done = unshared(tmp_path, "true", "ranks", flags="-rn")  # a network of its own, whose interface is down
    assert done.returncode == 1
    assert "wrong    ranks         two ranks over gloo: " in done.stdout
    assert "'lo' is up" in done.stdout


def module(folder: Path, name: str, text: str) -> Path:
    (folder / f"{name}.py").write_text(text)
    return folder


def test_a_package_that_cannot_be_imported_is_wrong_and_the_others_are_looked_at(tmp_path: Path) -> None:
    path = module(tmp_path, "accelerate", "raise OSError('libfoo.so: cannot open shared object file')\n")
    lines = {line["check"]: line for line in looked("transformers", "accelerate", "device", code=1, path=path)}
    assert "libfoo.so" in lines["accelerate"]["measured"]
    assert [lines[name]["state"] for name in ("accelerate", "device")] == ["wrong", "ok"]


def test_a_package_that_ends_the_process_is_named(tmp_path: Path) -> None:
    path = module(tmp_path, "torch", "import os, signal\n\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    lines = looked("torch", "ranks", "cores", code=1, path=path)
    assert [line["check"] for line in lines] == ["torch", "cores", "ranks"]
    for line in (lines[0], lines[2]):
        assert "ended by SIGSEGV, while importing 'torch'" in line["measured"]


def test_a_broken_deepspeed_is_wrong_since_transformers_imports_it(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    path = module(tmp_path, "deepspeed", "raise RuntimeError('CUDA_HOME does not exist')\n")
    [line] = looked("deepspeed", code=1, path=path)
    assert "CUDA_HOME does not exist" in line["measured"]
    assert "uninstall" in line["advice"]


# ── policy and plugins ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_policy_that_cannot_be_read_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("block: [lion\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for policy in (tmp_path / "missing.yaml", tmp_path, tmp_path / "broken.yaml", tmp_path / "bytes.yaml"):
        policy_line, plugins_line = looked("policy", "plugins", code=1, HFX_POLICY=str(policy))
        assert policy_line["state"] == "wrong"
        assert str(policy) in policy_line["measured"]
        assert plugins_line["state"] == "warning"


def test_what_the_policy_requires_and_nobody_installed_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("require: {torch: '>=99'}\n")
    [line] = looked("policy", code=1, HFX_POLICY=str(tmp_path / "policy.yaml"))
    assert "torch>=99" in line["measured"]
    assert "pip install" in line["advice"]


def test_each_plugin_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-broken", {"broken": f"raise RuntimeError('boom')\n{OPTIMIZER}", "whole": LISTENER})
    toy_package(tmp_path, "hfx-lacking", {"lacking": f"import no_such_module\n{OPTIMIZER}"})
    toy_package(tmp_path, "hfx-leaving", {"leaving": f"raise SystemExit(3)\n{OPTIMIZER}"})
    lines = looked("plugins", code=1, path=tmp_path)
    assert [line["state"] for line in lines] == ["wrong"] * 3
    for line, words in zip(lines, (("broken", "boom"), ("lacking", "no_such_module"), ("leaving", "3")), strict=True):
        assert all(word in line["measured"] for word in words), line


def test_a_plugin_that_ends_the_process_is_named(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-abort", {"aborting": f"import os\n\nos.abort()\n{OPTIMIZER}"})
    [line] = looked("plugins", code=1, path=tmp_path)
    assert "SIGABRT" in line["measured"]
    assert "aborting@hfx-abort" in line["measured"]


def test_a_plugin_that_the_policy_blocks_is_not_imported(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-broken", {"broken": f"raise RuntimeError('boom')\n{OPTIMIZER}"})
    (tmp_path / "policy.yaml").write_text("block: [hfx-broken]\n")
    [line] = looked("plugins", path=tmp_path, HFX_POLICY=str(tmp_path / "policy.yaml"))
    assert line["state"] == "ok"


@pytest.mark.slow
def test_a_plugin_that_never_ends_is_given_up(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-hanging", {"hanging": f"import time\n\ntime.sleep(600)\n{OPTIMIZER}"})
    [line] = looked("plugins", code=1, path=tmp_path)
    assert "while importing the plugin 'hanging@hfx-hanging'" in line["measured"]


def test_a_slow_plugin_is_warned_of(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-slow", {"slow": f"import time\n\ntime.sleep(1.2)\n{OPTIMIZER}"})
    warned, fine = looked("plugins", path=tmp_path)
    assert "'slow@hfx-slow' takes" in warned["measured"]
    assert fine["state"] == "ok"


def test_an_unknown_check_is_refused_with_the_known_ones() -> None:
    done = hfx("doctor", "rank")
    assert done.returncode == 2
    assert "'ranks'" in done.stderr
