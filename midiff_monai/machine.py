"""What this process may use of the machine: processor cores, threads and memory.

Containers, batch queues and `taskset` give a process less than the machine has. Nothing here needs more than the
standard library.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path("/")
"""Folder below which Linux has `proc` and `sys`."""


def usable_processors(variables: Mapping[str, str] = os.environ, root: Path = ROOT) -> int:
    """The number of processor cores that this process may use, at least 1. It is the least of

    - the cores of its CPU affinity, which cpusets and `taskset` set. The hyperthreads of a core count as one;
    - the CPU quota of its control groups, which containers set, rounded down: threads beyond it are stopped while the
      others wait for them;
    - `SLURM_CPUS_PER_TASK`.

    Args:
        variables: the environment.
        root: as for `ROOT`.
    """
    requested = variables.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min([_cores(root), *_quotas(root), *([int(requested)] if requested.isdigit() else [])]))


def thread_limit(variables: Mapping[str, str] = os.environ) -> int | None:
    """The number of threads in `OMP_NUM_THREADS`, or None. A list has one number for each nested level."""
    first = variables.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) else None


def memory_limit(root: Path = ROOT) -> int | None:
    """The bytes of memory to which the control groups limit this process, or None.

    Args:
        root: as for `ROOT`.
    """
    names = ("memory.max", "memory.limit_in_bytes")
    found = [_read(group / name) for group in _control_groups(root, "memory") for name in names]
    return min((int(limit) for limit in found if limit.isdigit()), default=None)


def _cores(root: Path) -> int:
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    processors = os.sched_getaffinity(0)
    folder = root / "sys/devices/system/cpu"
    return len({_read(folder / f"cpu{number}/topology/thread_siblings_list") or str(number) for number in processors})


def _quotas(root: Path) -> Iterator[int]:
    """The quotas of all control groups of this process, in whole processors."""
    for group in _control_groups(root, "cpu"):
        limits = _read(group / "cpu.max").split()
        quota, period = limits or [_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if quota.isdigit():  # "max", -1 and a missing file are no limit
            yield int(quota) // int(period)


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups of this process that can limit a controller, in version 1 and 2.

    The limit of a parent holds too. In a container, the path may be that of the host, while the container's own group
    is mounted at the top; so a folder may not exist.
    """
    mounted = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mounted / controller if controllers else mounted  # version 2 names no controllers
        group = PurePosixPath(path)
        yield from (top / folder.relative_to("/") for folder in (group, *group.parents))


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
