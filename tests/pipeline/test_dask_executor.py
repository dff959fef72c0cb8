"""Batches on Dask workers in separate processes, with a stand-in for the models."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from worker_pipeline import WorkerPipeline

from midiff_monai.environment import SPIN_COUNT, THREAD_VARIABLES
from midiff_monai.errors import InputError
from midiff_monai.io.inputs import find_jobs
from midiff_monai.pipeline.batch import Pipeline, run_batch
from midiff_monai.pipeline.batch_report import Outcome
from midiff_monai.pipeline.options import Mode, Task

pytest.importorskip("distributed", reason="needs the extra [cluster]")
import dask  # noqa: E402
from distributed import Client, Future, LocalCluster  # noqa: E402

from midiff_monai.pipeline.dask_executor import DaskExecutor  # noqa: E402

TASK = Task(Mode.SEGMENT_DIRECTLY)


@contextmanager
def cluster_of_two(allowed_failures: int) -> Iterator[str]:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": allowed_failures}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with cluster_of_two(allowed_failures=0) as address:
        yield address


def run(
    kinds: list[str],
    folder: Path,
    scheduler: str,
    stop: threading.Event | None = None,
    progress: Callable[[Iterable[Outcome]], Iterable[Outcome]] = iter,  # type: ignore[assignment]
) -> list[str]:
    (folder / "in").mkdir(exist_ok=True)
    for index, kind in enumerate(kinds):
        (folder / "in" / f"{index:02}.nii").write_text(kind)
    jobs = find_jobs([folder / "in"], folder / "out")
    outcomes = run_batch(jobs, TASK, folder / "out", DaskExecutor(0, scheduler), stop, progress, WorkerPipeline)
    return [outcome.status for outcome in outcomes]


def test_every_volume_gets_an_outcome(scheduler: str, tmp_path: Path) -> None:
    kinds = ["good"] * 7 + ["bad"] + ["good"] * 4
    assert run(kinds, tmp_path, scheduler) == ["failed" if kind == "bad" else "done" for kind in kinds]
    assert run(kinds, tmp_path, scheduler) == ["failed" if kind == "bad" else "skipped" for kind in kinds]


def test_workers_in_another_folder_resolve_relative_paths(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # of this process only: the workers are running already
    assert run(["good", "bad"], Path(), scheduler) == ["done", "failed"]
    assert (tmp_path / "out" / "00_report.json").is_file()
    table = pd.read_csv("out/batch_report.csv")
    assert list(table["input"]) == ["in/00.nii", "in/01.nii"] and table["report"][0] == "00_report.json"
    assert table["error"][1].endswith("in/01.nii is bad") and str(tmp_path) not in table["error"][1]


@pytest.mark.parametrize("allowed_failures", [0, 3])
def test_a_volume_survives_one_killed_worker_but_not_two(
    allowed_failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Dask's default of 3, the scheduler does not report the first three killed workers."""
    monkeypatch.setattr("midiff_monai.pipeline.dask_executor.GRACE_SECONDS", 1.0)
    with cluster_of_two(allowed_failures) as scheduler:
        statuses = run(["good", "unlucky", "deadly", "good"], tmp_path, scheduler)
    # an outcome that is lost with its worker is requested again, and its volume is skipped
    assert [status.replace("skipped", "done") for status in statuses] == ["done", "done", "failed", "done"]
    assert (tmp_path / "in" / "01.nii.attempts").read_text() == "xx"
    assert (tmp_path / "in" / "02.nii.attempts").read_text() == "xx"
    assert "were killed" in (tmp_path / "out" / "batch_report.csv").read_text()


def test_a_volume_sent_to_a_worker_that_is_gone_is_sent_again(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, answers = Client.nthreads, iter([{"tcp://127.0.0.1:9": 1}])
    monkeypatch.setattr(Client, "nthreads", lambda client: next(answers, None) or truth(client))
    monkeypatch.setattr("midiff_monai.pipeline.dask_executor.GRACE_SECONDS", 0.5)
    assert run(["good", "good"], tmp_path, scheduler) == ["done", "done"]
    assert (tmp_path / "in" / "00.nii.attempts").read_text() == "x"


def test_an_outcome_lost_with_its_worker_is_requested_again(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, losses = Future.result, iter([TimeoutError])

    def result(future: Future, timeout: float | None = None) -> object:
        assert timeout is not None, "without a timeout it waits forever"
        for loss in losses:
            raise loss
        return truth(future, timeout)

    monkeypatch.setattr(Future, "result", result)
    assert sorted(run(["good", "good"], tmp_path, scheduler)) == ["done", "skipped"]


def test_a_lost_scheduler_fails_the_unfinished_volumes(tmp_path: Path) -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
    ):

        def losing(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
            for outcome in outcomes:
                yield outcome
                cluster.close()

        assert run(["good"] * 3, tmp_path, cluster.scheduler_address, progress=losing) == ["done", "failed", "failed"]
    assert "scheduler was lost" in (tmp_path / "out" / "batch_report.csv").read_text()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://host"])
def test_an_unresponsive_scheduler_is_named(address: str) -> None:
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(InputError, match=address):
        list(DaskExecutor(scheduler=address)([], Pipeline(TASK), threading.Event()))


def test_a_stop_ends_the_wait_for_workers(tmp_path: Path) -> None:
    stop = threading.Event()
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        threading.Timer(1.0, stop.set).start()
        assert run(["good"], tmp_path, cluster.scheduler_address, stop) == ["pending"]


def test_a_stop_starts_no_further_volume(scheduler: str, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    assert run(["good"] * 3, tmp_path, scheduler, stop) == ["pending"] * 3


def test_local_workers_get_their_threads_and_wait_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask itself gives the libraries of a worker a single thread each."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with DaskExecutor(workers=1, threads=3)._client() as client:
        (variables,) = client.run(lambda: dict(os.environ)).values()
    assert {variables[name] for name in THREAD_VARIABLES} == {"3"}
    assert variables["GOMP_SPINCOUNT"] == str(SPIN_COUNT)


def test_without_dask_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"midiff-monai\[cluster\]"):
        list(DaskExecutor(workers=1)([], Pipeline(TASK), threading.Event()))
