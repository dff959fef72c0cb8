"""Batches on a Dask cluster: on this machine, or on one that runs already."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from midiff_monai.errors import InputError, in_one_line
from midiff_monai.io.inputs import Job
from midiff_monai.pipeline.batch import Outcome, Task, run_job
from midiff_monai.provenance import usable_processors

GRACE_SECONDS = 5.0
"""How long the scheduler may take to say what became of a volume whose worker is gone."""


@dataclass(frozen=True)
class DaskExecutor:
    """Runs jobs on Dask workers; a `batch.Executor`.

    A worker loads the models once and runs one volume at a time, however many threads it has. The volume of a worker
    that is killed is tried once more, at the end; one that has killed two is recorded as failed. When the scheduler is
    lost, so are the volumes that were not done.

    Attributes:
        workers: number of processes to start on this machine, which share its cores; with several GPUs, each takes
            the next one in turn. 0 with a scheduler.
        scheduler: address of a cluster that runs already, such as "tcp://host:8786". Its workers see the same files
            under the same names. Where they come back under the same address once they are killed, a volume may kill
            as many more as Dask's own setting `distributed.scheduler.allowed-failures` has it.
        folder: where the workers started here keep what they spill; None for the current folder's default of Dask.
    """

    workers: int = 0
    scheduler: str | None = None
    folder: Path | None = None

    def __call__(self, jobs: Sequence[Job], task: Task, stop: threading.Event) -> Iterator[Outcome]:
        """Yield outcomes as they come.

        Raises:
            InputError: Dask is not installed, or the scheduler does not answer.
        """
        with self._client() as client:
            batch = _Distribution(client, jobs, task)
            try:
                yield from batch.outcomes(stop)
            # whatever a client without its scheduler trips over
            except (OSError, CancelledError) as error:
                reason = f"the Dask scheduler was lost ({in_one_line(error)})"
                yield from [Outcome.of(job, "failed", error=reason) for job in batch.unfinished()]

    @contextmanager
    def _client(self) -> Iterator[Any]:
        try:
            from distributed import Client
        except ImportError as error:
            hint = "Install it: pip install 'midiff-monai[cluster]'"
            raise InputError("--workers, --scheduler", "need the package distributed", hint) from error
        if self.scheduler is None:
            with self._local_cluster() as cluster, Client(cluster) as client:
                client.register_plugin(_deaf_to_signals())
                yield client
            return
        try:
            client = Client(self.scheduler)
        except (OSError, ValueError) as error:
            fault = f"is no Dask scheduler that answers ({in_one_line(error)})"
            raise InputError(self.scheduler, fault, "Check the address, and that it runs") from error
        with client:
            yield client

    def _local_cluster(self) -> Any:
        import dask
        from distributed import LocalCluster

        threads = max(1, usable_processors() // self.workers)
        with dask.config.set({"distributed.scheduler.allowed-failures": 0}):  # the scheduler reads it at its start
            return LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                dashboard_address=None,
                local_directory=self.folder,
                env={name: str(threads) for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")},
            )


def _deaf_to_signals() -> Any:
    """A plugin for the workers started here: a terminal sends Ctrl-C to them too, and they have a volume to finish."""
    from distributed import WorkerPlugin

    class DeafToSignals(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)

    return DeafToSignals()


class _Distribution:
    """The jobs of a batch on their way through a cluster: waiting, or each alone on a worker."""

    def __init__(self, client: Any, jobs: Sequence[Job], task: Task) -> None:
        self._client, self._task = client, task
        self._waiting = deque(jobs)
        self._running: dict[Any, tuple[Job, str]] = {}
        self._gone_since: dict[Any, float] = {}
        self._killed: set[Job] = set()

    def unfinished(self) -> list[Job]:
        """The jobs without an outcome so far."""
        return [job for job, _ in self._running.values()] + list(self._waiting)

    def outcomes(self, stop: threading.Event) -> Iterator[Outcome]:
        """Run the jobs; once `stop` is set, no more than those that run already."""
        while self._running or (self._waiting and not stop.is_set()):
            workers = self._client.nthreads().keys()
            if not stop.is_set():
                self._send(workers)
            for future in self._finished(stop):
                yield from self._settle(future)
            for future in self._lost(workers):
                yield from self._retry(future, killed=self._was_killed(future))

    def _send(self, workers: Iterable[str]) -> None:
        """Give every idle worker a volume, and none a second to wait there: it would be blamed if the first kills."""
        idle = set(workers) - {worker for _, worker in self._running.values()}
        while self._waiting and idle:
            job, worker = self._waiting.popleft(), idle.pop()
            future = self._client.submit(run_on_worker, job.absolute(), self._task, workers=worker, pure=False)
            self._running[future] = job, worker

    def _finished(self, stop: threading.Event) -> Iterable[Any]:
        """The futures that are done, once there is one or a second has passed."""
        from distributed import TimeoutError, wait

        if not self._running:  # there is no worker
            stop.wait(1)
            return ()
        try:
            return wait(list(self._running), timeout=1, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            return ()

    def _settle(self, future: Any) -> Iterator[Outcome]:
        from distributed import KilledWorker, TimeoutError

        try:
            outcome = future.result(timeout=GRACE_SECONDS)
        except TimeoutError:  # the worker died with the outcome; the volume is done, and will be skipped
            yield from self._retry(future, killed=False)
        except KilledWorker:
            yield from self._retry(future, killed=True)
        except CancelledError:
            raise
        except Exception as error:  # the worker has another version of the package, or none
            yield self._failed(future, f"{type(error).__name__}: {in_one_line(error)}")
        else:
            job = self._forget(future)
            yield replace(outcome, input=job.source, report=str(job.paths.report))

    def _lost(self, workers: Iterable[str]) -> list[Any]:
        """The futures whose worker is gone for long: they are sent to no other, and wait for ever."""
        gone = [future for future, (_, worker) in self._running.items() if worker not in workers]
        now = time.monotonic()
        return [future for future in gone if now > self._gone_since.setdefault(future, now) + GRACE_SECONDS]

    def _was_killed(self, future: Any) -> bool:
        """Whether the volume was being processed when its worker went.

        With Dask's `allowed-failures` at 0 the scheduler says so by itself, but a cluster that runs already has 3.
        """
        return self._client.run_on_scheduler(
            # a lambda is sent as it is: the scheduler needs no midiff
            lambda dask_scheduler, key: getattr(dask_scheduler.tasks.get(key), "suspicious", 0) > 0,
            key=future.key,
        )

    def _retry(self, future: Any, killed: bool) -> Iterator[Outcome]:
        """Let a volume wait again, at the end if it has killed its worker; one that has killed two fails."""
        job, _ = self._running[future]
        if killed and job in self._killed:
            yield self._failed(future, "KilledWorker: two workers that tried it were killed")
            return
        self._forget(future)
        if killed:
            self._killed.add(job)
            self._waiting.append(job)
        else:
            self._waiting.appendleft(job)

    def _failed(self, future: Any, reason: str) -> Outcome:
        return Outcome.of(self._forget(future), "failed", error=reason)

    def _forget(self, future: Any) -> Job:
        self._gone_since.pop(future, None)
        future.cancel()
        return self._running.pop(future)[0]


def run_on_worker(job: Job, task: Task) -> Outcome:
    """Run a job in a Dask worker, on the GPU that is this worker's."""
    from distributed import get_worker

    gpus, name = torch.cuda.device_count(), get_worker().name
    if gpus > 1 and task.settings.device is None and isinstance(name, int):
        task = replace(task, settings=replace(task.settings, device=f"cuda:{name % gpus}"))
    return run_job(job, task)
