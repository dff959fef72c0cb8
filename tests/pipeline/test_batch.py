"""Batches: outcomes and interruptions, with a stand-in for the models."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd
import pytest
from fake_pipeline import FakePipeline, statuses

from midiff_monai.errors import InputError, OutputError
from midiff_monai.io.inputs import Job, find_jobs
from midiff_monai.pipeline import batch
from midiff_monai.pipeline.batch import stop_on_signal
from midiff_monai.pipeline.batch_report import BatchReportError
from midiff_monai.pipeline.options import Mode, Task
from midiff_monai.qc.study import read_study

TASK = Task(Mode.SEGMENT_DIRECTLY)


def test_a_failure_is_recorded_and_the_batch_goes_on(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    for name, fault in {"d": "full", "e": "large", "f": "bad", "z": "good"}.items():
        (tmp_path / "in" / f"{name}.nii").write_text(fault)
    jobs = [*find_jobs([tmp_path / "in"], tmp_path / "out"), *find_jobs([tmp_path / "absent.nii"], tmp_path / "out")]
    outcomes = pipeline.run_batch(jobs, TASK, tmp_path / "out")
    assert statuses(outcomes) == ["done"] * 3 + ["failed"] * 3 + ["done", "failed"]
    table = pd.read_csv(tmp_path / "out" / "batch_report.csv", keep_default_na=False)
    assert table["status"].tolist() == statuses(outcomes)
    assert table["input"].tolist() == [str(job.source) for job in jobs]
    assert table["error"].tolist()[3:6] == [
        "OSError: [Errno 28] No space left on device",
        "MemoryError: of 7 TiB",
        f"{tmp_path / 'in' / 'f.nii'}: is truncated. Copy it again.",
    ]
    assert table["error"].iloc[-1] == f"{tmp_path / 'absent.nii'}: does not exist. Check the path for typing errors."
    assert (table["warnings"] == "Look at the picture.").tolist() == [s == "done" for s in table["status"]]
    volumes = json.loads((tmp_path / "out" / "batch_report.json").read_text())["volumes"]
    assert [volume["error"] for volume in volumes] == table["error"].tolist()
    there = [(tmp_path / "out" / report).is_file() for report in table["report"]]
    assert there == [status == "done" for status in statuses(outcomes)]
    assert table["report"].tolist()[:1] == ["a_report.json"]
    errors = {path.name: json.loads(path.read_text())["error"] for path in (tmp_path / "out").glob("*_error.json")}
    assert sorted(errors.values()) == sorted(error for error in table["error"] if error)
    for name in "def":
        (tmp_path / "in" / f"{name}.nii").write_text("good")
    pipeline.run_batch(jobs[:-1], TASK, tmp_path / "out")
    (left,) = (tmp_path / "out").glob("*_error.json")
    assert left.name == "absent_error.json"
    assert datetime.fromisoformat(json.loads(left.read_text())["ended"]) <= datetime.now(timezone.utc)


def test_an_output_that_is_an_input_is_refused(pipeline: FakePipeline, tmp_path: Path) -> None:
    for name in ("x.nii.gz", "x_dseg.nii.gz"):
        (tmp_path / name).write_text("good")
    with pytest.raises(OutputError, match="is an input of this run"):
        pipeline.run_batch(find_jobs(sorted(tmp_path.glob("*.gz")), tmp_path), TASK, tmp_path)
    (tmp_path / "batch.nii").write_text("good")
    with pytest.raises(OutputError, match="report of the batch"):
        pipeline.run_batch(find_jobs([tmp_path / "batch.nii"], tmp_path / "out"), TASK, tmp_path / "out")
    assert not pipeline.processed


def test_one_volume_may_have_two_outputs(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    both = [jobs[0], *find_jobs([jobs[0].source], tmp_path / "out" / "again")]
    assert statuses(pipeline.run_batch(both, TASK, tmp_path / "out")) == ["done", "done"]
    assert len(pd.read_csv(tmp_path / "out" / "batch_report.csv")) == 2


def test_a_folder_that_cannot_hold_results_is_named(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        pipeline.run_batch(jobs, TASK, tmp_path / "file")


def test_outcomes_survive_a_report_that_cannot_be_written(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(batch, "write_batch_report", full)
    with pytest.raises(BatchReportError, match="No space left") as caught:
        pipeline.run_batch(jobs, TASK, tmp_path / "out")
    assert statuses(caught.value.outcomes) == ["done"] * 3


def test_a_file_name_with_invalid_unicode_is_processed(pipeline: FakePipeline, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.nii")
    path.write_text("good")
    jobs = find_jobs([path], tmp_path / "out")
    for status in ("done", "skipped"):
        assert statuses(pipeline.run_batch(jobs, TASK, tmp_path / "out")) == [status]
    (subject,) = read_study(tmp_path / "out")
    assert subject.input == str(path) and subject.status == "skipped"


def test_the_next_run_continues_after_a_stop(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    stop = threading.Event()

    def interrupted(outcomes):  # type: ignore[no-untyped-def]
        for outcome in outcomes:
            stop.set()
            yield outcome

    outcomes = pipeline.run_batch(jobs, TASK, tmp_path / "out", stop=stop, progress=interrupted)
    assert statuses(outcomes) == ["done", "pending", "pending"]
    assert pd.read_csv(tmp_path / "out" / "batch_report.csv")["status"].tolist() == statuses(outcomes)
    assert statuses(pipeline.run_batch(jobs, TASK, tmp_path / "out")) == ["skipped", "done", "done"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_event_and_handlers_are_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.is_set() and signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_two_volumes_with_the_same_result_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="same files"):
        find_jobs([tmp_path / "x.nii", tmp_path / "x.mha"], tmp_path / "out")
