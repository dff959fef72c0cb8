"""Batches: outcomes, reruns and interruptions, with a stand-in for the models."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from midiff_monai import batch
from midiff_monai.batch import BatchReportError, Outcome, Task, run_batch, stop_on_signal
from midiff_monai.errors import InputError, OutputError
from midiff_monai.inputs import Job, find_jobs
from midiff_monai.pipeline import Models, Settings, new_report, written_roles
from midiff_monai.report import RunReport, sha256
from midiff_monai.study import read_study


class FakeBundle:
    weights_sha256 = configuration_sha256 = "0" * 64

    def __init__(self, name: str, settings: Settings) -> None:
        self.root, self._settings = Path(name), settings

    def setting(self, name: str) -> object:
        return getattr(self._settings, name, name)


def load(settings: Settings, translating: bool, segmenting: bool) -> Models:
    models = Models()
    if translating:
        models.translation = FakeBundle("t1_lmi_translation", settings)  # type: ignore[assignment]
    if segmenting:
        models.segmentation = FakeBundle("t1_brain_segmentation", settings)  # type: ignore[assignment]
    return models


class FakePipeline:
    """Writes all files of a run; a volume whose text names an exception raises it.

    There is a DICOM SEG only of a volume whose text is "dicom".
    """

    def __init__(self) -> None:
        self.processed: list[str] = []

    def __call__(self, job: Job, settings: Settings, models: Models) -> RunReport:
        source, paths = job.source, job.paths
        self.processed.append(source.name)
        error = {
            "full": OSError(errno.ENOSPC, "No space left on device"),
            "large": MemoryError("of 7\nTiB"),
            "bad": InputError(source, "is truncated", "Copy it again"),
        }.get(source.read_text())
        if error:
            raise error
        report = new_report(job, settings, models)
        report.warnings.append("Look at the picture.")
        paths.report.parent.mkdir(exist_ok=True)
        roles = set(written_roles(settings, models.translation is not None, models.segmentation is not None))
        for role in roles - (set() if source.read_text() == "dicom" else {"dicom_seg"}):
            path = getattr(paths, role)
            path.write_text(f"{role} by {len(self.processed)}")
            report.outputs[role], report.hashes[role] = path, sha256(path)
        report.write(paths.report)
        self.report = report
        return report


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline()
    monkeypatch.setattr(batch, "_load", load)
    monkeypatch.setattr(batch, "process", lambda *arguments: type("Result", (), {"report": fake(*arguments)}))
    return fake


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.nii").write_text(f"good {name}")
    return find_jobs([tmp_path / "in"], tmp_path / "out")


TASK = Task(translating=False)


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def test_what_fails_is_recorded_and_the_rest_goes_on(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    for name, fault in {"d": "full", "e": "large", "f": "bad", "z": "good"}.items():
        (tmp_path / "in" / f"{name}.nii").write_text(fault)
    jobs = [*find_jobs([tmp_path / "in"], tmp_path / "out"), *find_jobs([tmp_path / "absent.nii"], tmp_path / "out")]
    outcomes = run_batch(jobs, TASK, tmp_path / "out")
    assert statuses(outcomes) == ["done"] * 3 + ["failed"] * 3 + ["done", "failed"]
    table = pd.read_csv(tmp_path / "out" / "batch_report.csv", keep_default_na=False)
    assert table["status"].tolist() == statuses(outcomes)
    assert table["input"].tolist() == [str(job.source) for job in jobs]
    assert table["error"].tolist()[3:6] == [
        "OSError: [Errno 28] No space left on device",
        "MemoryError: of 7 TiB",
        f"{tmp_path / 'in' / 'f.nii'}: is truncated. Copy it again.",
    ]
    assert "FileNotFoundError" in table["error"].iloc[-1]
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
    run_batch(jobs[:-1], TASK, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*_error.json")] == ["absent_error.json"]


def test_a_rerun_skips_what_is_done(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    run_batch(jobs, TASK, tmp_path / "out")
    outcomes = run_batch(jobs, TASK, tmp_path / "out")
    assert statuses(outcomes) == ["skipped"] * 3 and len(pipeline.processed) == 3
    assert [outcome.warnings for outcome in outcomes] == ["Look at the picture."] * 3


def test_another_device_is_no_reason_to_do_it_again(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    run_batch(jobs, TASK, tmp_path / "out")
    elsewhere = replace(TASK, settings=Settings(device="cuda"))
    assert statuses(run_batch(jobs, elsewhere, tmp_path / "out")) == ["skipped"] * 3


@pytest.mark.parametrize(
    "change", ["input", "settings", "weights", "configuration", "output", "report", "killed", "overwrite"]
)
def test_whatever_was_not_made_in_this_very_way_is_done_again(
    change: str, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_batch(jobs, TASK, tmp_path / "out")
    task = TASK
    if change == "input":
        jobs[1].source.write_text("another scan of the same name")
    elif change == "settings":
        task = replace(task, settings=Settings(seed=1))
    elif change == "weights":
        monkeypatch.setattr(FakeBundle, "weights_sha256", "1" * 64)
    elif change == "configuration":
        monkeypatch.setattr(FakeBundle, "configuration_sha256", "1" * 64)
    elif change == "killed":
        pipeline.report.write(jobs[1].paths.report, complete=False)
        jobs[1].paths.segmentation.write_text("of the run that was killed")
    elif change == "output":
        jobs[1].paths.segmentation.unlink()
    elif change == "report":
        jobs[1].paths.report.write_text('{"command": ')
    else:
        task = replace(task, overwrite=True)
    expected = ["skipped", "done", "skipped"] if change in ("input", "output", "report", "killed") else ["done"] * 3
    assert statuses(run_batch(jobs, task, tmp_path / "out")) == expected


@pytest.mark.parametrize("made", ["before", "since"])
@pytest.mark.parametrize("settings", [Settings(), Settings(seed=1)])
def test_files_that_midiff_did_not_make_are_not_replaced(
    made: str, settings: Settings, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    """Such as a segmentation that a person has corrected."""
    if made == "since":
        run_batch(jobs, TASK, tmp_path / "out")
    jobs[1].paths.segmentation.parent.mkdir(exist_ok=True)
    jobs[1].paths.segmentation.write_text("by hand")
    task = replace(TASK, settings=settings)
    outcomes = run_batch(jobs, task, tmp_path / "out")
    assert outcomes[1].status == "failed" and "not as midiff made it" in outcomes[1].error
    assert jobs[1].paths.segmentation.read_text() == "by hand"
    assert run_batch(jobs, replace(task, overwrite=True), tmp_path / "out")[1].status == "done"


OTHERS = {
    "no translation": Task(translating=False),
    "a translation alone": Task(Settings(seed=1), segmenting=False),
    "several samples": Task(Settings(samples=2)),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("turned_around", [False, True])
def test_what_is_written_may_change_and_change_back(
    turned_around: bool, other: Task, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    """Whatever the runs between did not replace is still known as midiff's."""
    first, second = (other, Task()) if turned_around else (Task(), other)
    for number, task in enumerate((first, second, second, first), start=1):
        expected = "skipped" if number == 3 else "done"
        assert statuses(run_batch(jobs[:1], task, tmp_path / "out")) == [expected]
        outputs = read_study(tmp_path / "out")[0].report["outputs"]
        made = {role: Path(path).read_text() for role, path in outputs.items()}
        roles = written_roles(task.settings, task.translating, task.segmenting)
        assert made == {role: f"{role} by {min(number, 2) if number < 4 else 3}" for role in roles if role != "dicom_seg"}


def test_a_translation_is_done_once_it_was_made_for_a_segmentation(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    run_batch(jobs, Task(), tmp_path / "out")
    manifest = jobs[0].paths.report.read_bytes()
    assert statuses(run_batch(jobs, Task(segmenting=False), tmp_path / "out")) == ["skipped"] * 3
    assert jobs[0].paths.report.read_bytes() == manifest, "the segmentation stays in the tables of the study"
    assert statuses(run_batch(jobs, Task(translating=False), tmp_path / "out")) == ["done"] * 3
    assert statuses(run_batch(jobs, Task(segmenting=False), tmp_path / "out")) == ["done"] * 3


def test_a_run_that_was_killed_forgets_no_file(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    run_batch(jobs[:1], Task(), tmp_path / "out")
    pipeline.report.outputs, pipeline.report.hashes = {}, {}
    pipeline.report.write(jobs[0].paths.report, complete=False)
    for task in (OTHERS["a translation alone"], Task()):
        assert statuses(run_batch(jobs[:1], task, tmp_path / "out")) == ["done"]


def test_a_correction_outlives_runs_that_write_other_files(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    run_batch(jobs[:1], Task(), tmp_path / "out")
    jobs[0].paths.segmentation.write_text("by hand")
    assert statuses(run_batch(jobs[:1], OTHERS["a translation alone"], tmp_path / "out")) == ["done"]
    assert statuses(run_batch(jobs[:1], Task(), tmp_path / "out")) == ["failed"]
    assert jobs[0].paths.segmentation.read_text() == "by hand"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_is_not_made_any_more_goes(
    overwrite: bool, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    """Such as the DICOM SEG of a series in which no structure is found any more."""
    jobs[0].source.write_text("dicom")
    run_batch(jobs[:1], TASK, tmp_path / "out")
    assert jobs[0].paths.dicom_seg.is_file()
    jobs[0].source.write_text("good")
    task = replace(TASK, overwrite=overwrite)
    assert statuses(run_batch(jobs[:1], task, tmp_path / "out")) == ["done"]
    assert not jobs[0].paths.dicom_seg.exists()
    jobs[0].paths.dicom_seg.write_text("by another tool")
    jobs[1].paths.dicom_seg.write_text("by another tool")
    run_batch(jobs[1:2], replace(TASK, overwrite=True), tmp_path / "out")
    assert jobs[1].paths.dicom_seg.is_file()
    assert statuses(run_batch(jobs[:2], TASK, tmp_path / "out")) == ["failed"] * 2


def test_an_output_that_is_an_input_is_refused(pipeline: FakePipeline, tmp_path: Path) -> None:
    for name in ("x.nii.gz", "x_dseg.nii.gz"):
        (tmp_path / name).write_text("good")
    with pytest.raises(OutputError, match="is an input of this run"):
        run_batch(find_jobs(sorted(tmp_path.glob("*.gz")), tmp_path), TASK, tmp_path)
    (tmp_path / "batch.nii").write_text("good")
    with pytest.raises(OutputError, match="report of the batch"):
        run_batch(find_jobs([tmp_path / "batch.nii"], tmp_path / "out"), TASK, tmp_path / "out")
    assert not pipeline.processed


def test_one_volume_may_have_two_outputs(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    both = [jobs[0], *find_jobs([jobs[0].source], tmp_path / "out" / "again")]
    assert statuses(run_batch(both, TASK, tmp_path / "out")) == ["done", "done"]
    assert len(pd.read_csv(tmp_path / "out" / "batch_report.csv")) == 2


def test_a_folder_that_cannot_hold_results_is_named(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        run_batch(jobs, TASK, tmp_path / "file")


def test_outcomes_outlive_their_reports(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(batch, "write_reports", full)
    with pytest.raises(BatchReportError, match="No space left") as caught:
        run_batch(jobs, TASK, tmp_path / "out")
    assert statuses(caught.value.outcomes) == ["done"] * 3


def test_a_name_that_is_no_unicode_is_as_good_as_any(pipeline: FakePipeline, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.nii")
    path.write_text("good")
    jobs = find_jobs([path], tmp_path / "out")
    for status in ("done", "skipped"):
        assert statuses(run_batch(jobs, TASK, tmp_path / "out")) == [status]
    (subject,) = read_study(tmp_path / "out")
    assert subject.input == str(path) and subject.status == "skipped"


def test_a_stop_leaves_a_state_from_which_the_next_run_goes_on(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    stop = threading.Event()

    def interrupted(outcomes):  # type: ignore[no-untyped-def]
        for outcome in outcomes:
            stop.set()
            yield outcome

    outcomes = run_batch(jobs, TASK, tmp_path / "out", stop=stop, progress=interrupted)
    assert statuses(outcomes) == ["done", "pending", "pending"]
    assert pd.read_csv(tmp_path / "out" / "batch_report.csv")["status"].tolist() == statuses(outcomes)
    assert statuses(run_batch(jobs, TASK, tmp_path / "out")) == ["skipped", "done", "done"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.is_set() and signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_two_names_of_one_result_cannot_be_in_one_batch(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="same files"):
        find_jobs([tmp_path / "x.nii", tmp_path / "x.mha"], tmp_path / "out")
