"""How many volumes are processed side by side, and how many threads compute each. This module needs no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from midiff_monai.errors import InputError
from midiff_monai.machine import ROOT, memory_limit, thread_limit, usable_processors

WORKER_MEMORY = 2_500_000_000
"""Bytes of memory that a process needs for a whole head with voxels of 1 mm."""


class Workers(NamedTuple):
    """The processes that share a batch.

    Attributes:
        processes: number of processes; 0 if the volumes are processed one after the other in this process.
        threads: number of threads of each.
    """

    processes: int
    threads: int


def choose_workers(
    volumes: int,
    processes: int | None = None,
    threads: int | None = None,
    variables: Mapping[str, str] = os.environ,
    root: Path = ROOT,
) -> Workers:
    """Divide the usable cores among the volumes of a batch.

    Many processes with one thread each compute more volumes an hour than one process with many threads, whose threads
    wait for each other and for the steps that only one of them computes. So by default there is a process for each
    core, or for each group of `threads` cores, as far as there is memory for it.

    Args:
        volumes: number of volumes.
        processes: number of processes that the user wants; 0 keeps to this process. None chooses.
        threads: number of threads of each process that the user wants. None divides the cores evenly, within the limit
            of `OMP_NUM_THREADS`.
        variables: as for `machine.usable_processors`.
        root: as for `machine.usable_processors`.

    Raises:
        InputError: the number of processes is negative.
    """
    if processes is not None and processes < 0:
        raise InputError("--workers", f"is {processes}", "Give the number of processes to start")
    cores, limit = usable_processors(variables, root), thread_limit(variables)
    if processes is None:
        if limit and not threads:
            cores = min(cores, limit)
        processes = _most_workers(volumes, cores // (threads or 1), root)
    if threads is None:
        share = max(1, cores // max(1, processes))
        threads = min(share, limit) if limit else share
    return Workers(processes, threads)


def _most_workers(volumes: int, most: int, root: Path) -> int:
    """The number of processes for which there are volumes and memory, at most `most`; 0 instead of a single one."""
    if not has_dask():
        return 0
    processes = min(volumes, most, _free_memory(root) // WORKER_MEMORY)
    return processes if processes > 1 else 0


def has_dask() -> bool:
    """Whether the package is installed that starts further processes."""
    return find_spec("distributed") is not None


def _free_memory(root: Path) -> int:
    """Bytes of memory that further processes can take."""
    import psutil  # type: ignore[import-untyped]  # comes with Dask

    available = psutil.virtual_memory().available
    limit = memory_limit(root)
    return available if limit is None else min(available, limit)
