"""Batches on a Dask cluster: on this machine, or on one that runs already."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from midiff_monai.batch import Outcome, Task, run_job
from midiff_monai.errors import InputError
from midiff_monai.inputs import Job


@dataclass(frozen=True)
class DaskExecutor:
    """Runs jobs on Dask workers; a `batch.Executor`.

    A worker loads the models once and runs one volume at a time, however many threads it has. The volume of a worker
    that is killed is tried once more, at the end; one that has killed two is recorded as failed.

    Attributes:
        workers: number of processes to start on this machine, which share its cores; with several GPUs, each takes
            the next one in turn. 0 with a scheduler.
        scheduler: address of a cluster that runs already, such as "tcp://host:8786". Its workers see the same files
            under the same names; with Dask's own setting `distributed.scheduler.allowed-failures` above 0, a volume
            may kill that many more workers a try.
        folder: where the workers started here keep what they spill; None for the current folder's default of Dask.
    """

    workers: int = 0
    scheduler: str | None = None
    folder: Path | None = None

    def __call__(self, jobs: Sequence[Job], task: Task, stop: threading.Event) -> Iterator[Outcome]:
        """Yield outcomes as they come."""
        try:
            import dask
            from distributed import Client, LocalCluster
        except ImportError as error:
            mend = "Install it: pip install 'midiff-monai[cluster]'"
            raise InputError("--workers, --scheduler", "need the package distributed", mend) from error
        with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
            if self.scheduler:
                with Client(self.scheduler) as client:
                    yield from _distribute(client, jobs, task, stop)
                return
            threads = max(1, (os.cpu_count() or 1) // self.workers)
            environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")}
            with (
                LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    dashboard_address=None,
                    local_directory=self.folder,
                    env=environment,
                ) as cluster,
                Client(cluster) as client,
            ):
                yield from _distribute(client, jobs, task, stop)


def _distribute(client, jobs: Sequence[Job], task: Task, stop: threading.Event) -> Iterator[Outcome]:  # type: ignore[no-untyped-def]
    from distributed import KilledWorker, as_completed

    waiting, futures = deque(jobs), as_completed()
    running: dict[str, tuple[Job, str]] = {}
    killed: set[Job] = set()
    while True:
        # one volume a worker, and none waiting there: it would be blamed for the one that kills the worker
        idle = client.nthreads().keys() - {worker for _, worker in running.values()}
        while waiting and idle and not stop.is_set():
            job, worker = waiting.popleft(), idle.pop()
            future = client.submit(run_on_worker, job, task, workers=worker, allow_other_workers=True, pure=False)
            running[future.key] = job, worker
            futures.add(future)
        if not running:
            if not waiting or stop.is_set():
                return
            client.wait_for_workers(1)
            continue
        future = next(futures)
        (job, _), error = running.pop(future.key), future.exception()
        if error is None:
            yield future.result()
        elif isinstance(error, KilledWorker) and job not in killed:
            killed.add(job)
            waiting.append(job)
        else:
            cause = "two workers that tried it were killed" if isinstance(error, KilledWorker) else str(error)
            yield Outcome(job.source, "failed", error=f"{type(error).__name__}: {cause}")


def run_on_worker(job: Job, task: Task) -> Outcome:
    """Run a job in a Dask worker, on the GPU that is this worker's."""
    from distributed import get_worker

    gpus, name = torch.cuda.device_count(), get_worker().name
    if gpus > 1 and task.settings.device is None and isinstance(name, int):
        task = replace(task, settings=replace(task.settings, device=f"cuda:{name % gpus}"))
    return run_job(job, task)
