"""Batches on Dask workers, in processes of their own, with a stand-in for the models."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from midiff_monai.batch import Task, run_batch
from midiff_monai.errors import InputError
from midiff_monai.inputs import find_jobs

pytest.importorskip("distributed", reason="needs the extra [cluster]")
import cloudpickle  # noqa: E402
import dask  # noqa: E402
from distributed import Client, LocalCluster, WorkerPlugin  # noqa: E402

from midiff_monai.cluster import DaskExecutor  # noqa: E402

TASK = Task(translating=False)
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test


class StandIn(WorkerPlugin):
    """Replaces the models, also in a worker that is started again after one was killed."""

    def setup(self, worker) -> None:  # type: ignore[no-untyped-def]
        import os

        from midiff_monai import batch
        from midiff_monai.pipeline import Models, new_report

        class Bundle:
            root, weights_sha256 = Path("t1_brain_segmentation"), "0" * 64

            def setting(self, name: str) -> str:
                return name

        def process(job, settings, models):  # type: ignore[no-untyped-def]
            source = job.source
            attempts = Path(f"{source}.attempts")
            with attempts.open("a") as file:
                file.write("x")
            deadly = {"deadly": 99, "unlucky": 1}.get(source.read_text(), 0)
            if len(attempts.read_text()) <= deadly:
                os.kill(os.getpid(), 9)
            if source.read_text() == "bad":
                raise ValueError("bad")
            report = new_report(job, settings, models)
            job.paths.report.parent.mkdir(exist_ok=True)
            report.write(job.paths.report)
            return type("Result", (), {"report": report})

        batch._load = lambda *_: Models(segmentation=Bundle())  # type: ignore[arg-type,assignment]
        batch.process = process


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(StandIn())
        yield cluster.scheduler_address


def run(kinds: list[str], folder: Path, scheduler: str, stop: threading.Event | None = None) -> list[str]:
    (folder / "in").mkdir(exist_ok=True)
    for index, kind in enumerate(kinds):
        (folder / "in" / f"{index:02}.nii").write_text(kind)
    StandIn().setup(None)  # for the hash of the weights in this process
    jobs = find_jobs([folder / "in"], folder / "out")
    return [outcome.status for outcome in run_batch(jobs, TASK, folder / "out", DaskExecutor(0, scheduler), stop)]


@pytest.fixture(autouse=True)
def real_models_afterwards() -> Iterator[None]:
    from midiff_monai import batch

    originals = batch._load, batch.process
    yield
    batch._load, batch.process = originals


def test_every_volume_gets_an_outcome(scheduler: str, tmp_path: Path) -> None:
    kinds = ["good"] * 7 + ["bad"] + ["good"] * 4
    assert run(kinds, tmp_path, scheduler) == ["failed" if kind == "bad" else "done" for kind in kinds]
    assert run(kinds, tmp_path, scheduler) == ["failed" if kind == "bad" else "skipped" for kind in kinds]


def test_a_volume_survives_one_killed_worker_but_not_two(scheduler: str, tmp_path: Path) -> None:
    statuses = run(["good", "unlucky", "deadly", "good"], tmp_path, scheduler)
    # an outcome that is lost along with the worker that had it is asked for again, and the volume found done
    assert [status.replace("skipped", "done") for status in statuses] == ["done", "done", "failed", "done"]
    assert (tmp_path / "in" / "01.nii.attempts").read_text() == "xx"
    assert (tmp_path / "in" / "02.nii.attempts").read_text() == "xx"
    assert "were killed" in (tmp_path / "out" / "batch_report.csv").read_text()


def test_a_stop_begins_no_other_volume(scheduler: str, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    assert run(["good"] * 3, tmp_path, scheduler, stop) == ["pending"] * 3


def test_without_dask_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"midiff-monai\[cluster\]"):
        list(DaskExecutor(workers=1)([], TASK, threading.Event()))
