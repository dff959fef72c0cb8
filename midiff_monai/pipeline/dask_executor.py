"""Batches on Dask workers: processes of this machine, or a running cluster."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from midiff_monai.environment import choose_threads, limit_spinning
from midiff_monai.errors import InputError, in_one_line
from midiff_monai.io.inputs import Job
from midiff_monai.pipeline.batch import Pipeline, run_job
from midiff_monai.pipeline.batch_report import Outcome
from midiff_monai.pipeline.options import Task
from midiff_monai.pipeline.workers import choose_workers

GRACE_SECONDS = 5.0
"""Seconds that the scheduler may take to report a volume whose worker is gone."""


@dataclass(frozen=True)
class DaskExecutor:
    """Runs jobs on Dask workers. It is a `batch.Executor`.

    A worker loads the models once and runs one volume at a time, whatever its number of threads. If a worker is
    killed, its volume is tried once more, after the others. A volume whose second worker is killed too has failed. If
    the scheduler is lost, the unfinished volumes have failed.

    Attributes:
        workers: number of processes to start on this machine; 0 with a scheduler. With several GPUs, they take them in
            turn.
        scheduler: address of a running cluster, such as "tcp://host:8786". Its workers must see the same files under
            the same names. If killed workers restart under the same address, Dask's setting
            `distributed.scheduler.allowed-failures` limits how many of them a volume can kill.
        folder: folder in which local workers spill data; None for Dask's default.
        threads: number of threads of each local worker. None divides the usable cores among them.
    """

    workers: int = 0
    scheduler: str | None = None
    folder: Path | None = None
    threads: int | None = None

    def __call__(self, jobs: Sequence[Job], pipeline: Pipeline, stop: threading.Event) -> Iterator[Outcome]:
        """Yield the outcomes in the order in which they arrive.

        Raises:
            InputError: Dask is not installed, or the scheduler does not respond.
        """
        with self._client() as client:
            batch = _Distribution(client, jobs, pipeline)
            try:
                yield from batch.outcomes(stop)
            # the errors of a client that has lost its scheduler
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
                client.register_plugin(_ignore_signals())
                yield client
            return
        try:
            client = Client(self.scheduler)
        except (OSError, ValueError) as error:
            fault = f"is not a Dask scheduler that responds ({in_one_line(error)})"
            raise InputError(self.scheduler, fault, "Check the address, and that the scheduler runs") from error
        with client:
            yield client

    def _local_cluster(self) -> Any:
        import dask
        from distributed import LocalCluster

        # a worker that is slow to end after the last volume is no concern of the user; the batch tells of one that dies
        logging.getLogger("distributed.nanny").setLevel(logging.ERROR)
        with dask.config.set({"distributed.scheduler.allowed-failures": 0}):  # read when the scheduler starts
            return LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                dashboard_address=None,
                local_directory=self.folder,
                memory_limit=None,  # Dask would kill a worker that nears its share, though others leave memory free
                env=self._environment(),
            )

    def _environment(self) -> dict[str, str]:
        """The environment of a local worker. Dask's own gives each worker a single thread."""
        variables = dict(os.environ)
        limit_spinning(variables)
        choose_threads(choose_workers(self.workers, self.workers, self.threads).threads, variables)
        return variables


def _ignore_signals() -> Any:
    """A plugin that makes local workers ignore Ctrl-C, so that they finish their volume."""
    from distributed import WorkerPlugin

    class IgnoreSignals(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)

    return IgnoreSignals()


class _Distribution:
    """The jobs of a batch that wait for a worker, and those that run, at most one on each worker."""

    def __init__(self, client: Any, jobs: Sequence[Job], pipeline: Pipeline) -> None:
        self._client = client
        self._recipe = type(pipeline), pipeline.task  # the models do not travel: each worker opens its own
        self._waiting = deque(jobs)
        self._running: dict[Any, tuple[Job, str]] = {}
        self._gone_since: dict[Any, float] = {}
        self._killed: set[Job] = set()

    def unfinished(self) -> list[Job]:
        """The jobs that have no outcome yet."""
        return [job for job, _ in self._running.values()] + list(self._waiting)

    def outcomes(self, stop: threading.Event) -> Iterator[Outcome]:
        """Run the jobs. Once `stop` is set, no further job is started."""
        while self._running or (self._waiting and not stop.is_set()):
            workers = self._client.nthreads().keys()
            if not stop.is_set():
                self._send(workers)
            for future in self._finished(stop):
                yield from self._settle(future)
            for future in self._lost(workers):
                yield from self._retry(future, killed=self._was_killed(future))

    def _send(self, workers: Iterable[str]) -> None:
        """Give each idle worker one volume.

        A second volume on the same worker would be blamed if the first one kills it.
        """
        idle = set(workers) - {worker for _, worker in self._running.values()}
        while self._waiting and idle:
            job, worker = self._waiting.popleft(), idle.pop()
            future = self._client.submit(run_on_worker, job.absolute(), *self._recipe, workers=worker, pure=False)
            self._running[future] = job, worker

    def _finished(self, stop: threading.Event) -> Iterable[Any]:
        """The finished futures. Waits until one has finished, for at most a second."""
        from distributed import TimeoutError, wait

        if not self._running:  # no worker is available
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
        except TimeoutError:  # the worker died with the outcome; the volume is done and will be skipped
            yield from self._retry(future, killed=False)
        except KilledWorker:
            yield from self._retry(future, killed=True)
        except CancelledError:
            raise
        except Exception as error:  # the worker lacks the package or has another version
            yield self._failed(future, f"{type(error).__name__}: {in_one_line(error)}")
        else:
            job = self._forget(future)
            reason = outcome.error.replace(str(job.source.absolute()), str(job.source))  # as in a run without workers
            yield replace(outcome, input=job.source, report=str(job.paths.report), error=reason)

    def _lost(self, workers: Iterable[str]) -> list[Any]:
        """The futures whose worker has been gone for some time. Dask would wait for it forever."""
        gone = [future for future, (_, worker) in self._running.items() if worker not in workers]
        now = time.monotonic()
        return [future for future in gone if now > self._gone_since.setdefault(future, now) + GRACE_SECONDS]

    def _was_killed(self, future: Any) -> bool:
        """Whether the volume was being processed when its worker disappeared.

        With `allowed-failures` at 0 the scheduler raises `KilledWorker`, but the default of a running cluster is 3.
        """
        return self._client.run_on_scheduler(
            # a lambda is pickled by value, so the scheduler does not need midiff
            lambda dask_scheduler, key: getattr(dask_scheduler.tasks.get(key), "suspicious", 0) > 0,
            key=future.key,
        )

    def _retry(self, future: Any, killed: bool) -> Iterator[Outcome]:
        """Queue a volume again, last if it has killed its worker. It has failed if it has killed two."""
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


def run_on_worker(job: Job, make_pipeline: Callable[[Task], Pipeline], task: Task) -> Outcome:
    """Run a job in a Dask worker, which keeps its pipeline, and with it the models, for the next job."""
    from distributed import get_worker

    worker: Any = get_worker()
    task = _on_own_gpu(task, worker.name)
    kept = getattr(worker, "midiff_pipeline", None)
    if kept is None or kept.task != task:
        worker.midiff_pipeline = kept = make_pipeline(task)
    return run_job(job, kept)


def _on_own_gpu(task: Task, worker_name: Any) -> Task:
    """With several GPUs, the local workers, which are numbered, take them in turn."""
    gpus = torch.cuda.device_count()
    if gpus > 1 and task.settings.device is None and isinstance(worker_name, int):
        return replace(task, settings=replace(task.settings, device=f"cuda:{worker_name % gpus}"))
    return task
