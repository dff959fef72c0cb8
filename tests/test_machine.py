"""Cores and memory of made-up machines: control groups of both versions, batch queues, hyperthreads."""

from __future__ import annotations

import os
from pathlib import Path

import joblib  # type: ignore[import-untyped]
import pytest

from midiff_monai.machine import memory_limit, thread_limit, usable_processors

GIB = 2**30


def make_machine(root: Path, files: dict[str, str]) -> Path:
    """Write the files of a made-up machine below a folder."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)


V2_HOST = {"proc/self/cgroup": "0::/system.slice/slurmstepd.scope/job_7/step_0"}
V2_CONTAINER = {"proc/self/cgroup": "0::/"}
V1_HOST = {"proc/self/cgroup": "4:memory:/user/1000\n3:cpu,cpuacct:/user/1000\n1:name=systemd:/user/1000"}
V1_CONTAINER = {"proc/self/cgroup": "4:memory:/docker/0123abcd\n3:cpuacct,cpu:/docker/0123abcd\n0::/docker/0123abcd"}
GROUP, GROUP_1 = "sys/fs/cgroup/system.slice/slurmstepd.scope", "sys/fs/cgroup/cpu"


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        (V2_CONTAINER | {"sys/fs/cgroup/cpu.max": "max 100000"}, 16),
        (V2_CONTAINER | {"sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        (V2_CONTAINER | {"sys/fs/cgroup/cpu.max": "250000 100000"}, 2),
        (V2_CONTAINER | {"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        (V2_HOST | {f"{GROUP}/job_7/step_0/cpu.max": "max 100000", f"{GROUP}/job_7/cpu.max": "300000 100000"}, 3),
        (V2_HOST | {f"{GROUP}/job_8/cpu.max": "300000 100000"}, 16),
        (V1_CONTAINER | {f"{GROUP_1}/cpu.cfs_quota_us": "-1", f"{GROUP_1}/cpu.cfs_period_us": "100000"}, 16),
        (V1_CONTAINER | {f"{GROUP_1}/cpu.cfs_quota_us": "600000", f"{GROUP_1}/cpu.cfs_period_us": "100000"}, 6),
        (
            V1_HOST
            | {f"{GROUP_1}/user/1000/cpu.cfs_quota_us": "10000", f"{GROUP_1}/user/1000/cpu.cfs_period_us": "5000"},
            2,
        ),
    ],
)
def test_quotas_of_control_groups_limit_the_cores(files: dict[str, str], cores: int, tmp_path: Path) -> None:
    assert usable_processors({}, make_machine(tmp_path, files)) == cores


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(("requested", "cores"), [("4", 4), ("64", 16), ("", 16), ("many", 16)])
def test_a_job_of_slurm_uses_what_it_asked_for(requested: str, cores: int, tmp_path: Path) -> None:
    assert usable_processors({"SLURM_CPUS_PER_TASK": requested}, tmp_path) == cores


@pytest.mark.usefixtures("sixteen_cores")
def test_hyperthreads_of_a_core_count_as_one(tmp_path: Path) -> None:
    folder = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    files = {folder.format(number): f"{number % 8},{number % 8 + 8}" for number in range(16)}
    assert usable_processors({}, make_machine(tmp_path, files)) == 8


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to processors")
def test_cpu_affinity_limits_the_cores_of_this_machine() -> None:
    all_of_them = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(all_of_them)})
        assert usable_processors({}) == 1
    finally:
        os.sched_setaffinity(0, all_of_them)


def test_no_more_cores_than_another_library_counts() -> None:
    assert 1 <= usable_processors({}) <= joblib.cpu_count()


@pytest.mark.parametrize(
    ("value", "threads"), [(None, None), ("3", 3), ("4,2", 4), (" 2 ", 2), ("", None), ("0", None), ("all", None)]
)
def test_the_thread_limit_is_the_first_number(value: str | None, threads: int | None) -> None:
    assert thread_limit({} if value is None else {"OMP_NUM_THREADS": value}) == threads


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        (V2_CONTAINER | {"sys/fs/cgroup/memory.max": "max"}, None),
        (V2_CONTAINER | {"sys/fs/cgroup/memory.max": str(8 * GIB)}, 8 * GIB),
        (V2_HOST | {f"{GROUP}/memory.max": str(8 * GIB), f"{GROUP}/job_7/memory.max": str(4 * GIB)}, 4 * GIB),
        (V1_CONTAINER | {"sys/fs/cgroup/memory/memory.limit_in_bytes": str(6 * GIB)}, 6 * GIB),
    ],
)
def test_control_groups_limit_the_memory(files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    assert memory_limit(make_machine(tmp_path, files)) == limit
