"""A second batch: what is done is not done again, and what midiff did not make is not replaced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from fake_pipeline import FakeBundle, FakePipeline, FakeResult, load, statuses

from midiff_monai.io import manifest as report
from midiff_monai.io.inputs import Job
from midiff_monai.pipeline.batch import Task, run_batch
from midiff_monai.pipeline.run import Settings, written_roles
from midiff_monai.qc.study import read_study

TASK = Task(translating=False)


def test_a_rerun_skips_what_is_done(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    run_batch(jobs, TASK, tmp_path / "out")
    outcomes = run_batch(jobs, TASK, tmp_path / "out")
    assert statuses(outcomes) == ["skipped"] * 3 and len(pipeline.processed) == 3
    assert [outcome.warnings for outcome in outcomes] == ["Look at the picture."] * 3


def test_another_device_is_no_reason_to_do_it_again(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    run_batch(jobs, TASK, tmp_path / "out")
    elsewhere = replace(TASK, settings=Settings(device="cuda"))
    assert statuses(run_batch(jobs, elsewhere, tmp_path / "out")) == ["skipped"] * 3


@pytest.mark.parametrize("precision, status", [("auto", "skipped"), ("bfloat16", "skipped"), ("float32", "done")])
def test_units_that_are_asked_for_are_those_that_compute(
    precision: str, status: str, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    run_batch(jobs, TASK, tmp_path / "out")
    assert pipeline.report.settings["precision"] == "bfloat16"
    asked = replace(TASK, settings=Settings(precision=precision))
    assert statuses(run_batch(jobs, asked, tmp_path / "out")) == [status] * 3


@pytest.mark.parametrize(
    "change", ["input", "settings", "weights", "configuration", "version", "output", "killed", "overwrite"]
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
    elif change == "version":
        monkeypatch.setattr(report, "environment", lambda: {"packages": {report.PACKAGE: "99"}})
    elif change == "killed":
        pipeline.report.hashes = {}
        pipeline.report.write(jobs[1].paths.report, complete=False)
        jobs[1].paths.segmentation.write_text("of the run that was killed")
    elif change == "output":
        jobs[1].paths.segmentation.unlink()
    else:
        task = replace(task, overwrite=True)
    expected = ["skipped", "done", "skipped"] if change in ("input", "output", "killed") else ["done"] * 3
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
    if made == "since" and task == TASK:  # and nothing is to be written
        assert outcomes[1].status == "skipped" and outcomes[1].warnings.endswith("b_dseg.nii.gz was changed since.")
        assert [subject.status for subject in read_study(tmp_path / "out")] == ["skipped"] * 3
    else:
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
        assert made == {
            role: f"{role} by {min(number, 2) if number < 4 else 3}" for role in roles if role != "dicom_seg"
        }


def test_a_translation_is_done_once_it_was_made_for_a_segmentation(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    run_batch(jobs, Task(), tmp_path / "out")
    manifest = jobs[0].paths.report.read_bytes()
    assert statuses(run_batch(jobs, Task(segmenting=False), tmp_path / "out")) == ["skipped"] * 3
    assert jobs[0].paths.report.read_bytes() == manifest, "the segmentation stays in the tables of the study"
    assert statuses(run_batch(jobs, Task(translating=False), tmp_path / "out")) == ["done"] * 3
    assert statuses(run_batch(jobs, Task(segmenting=False), tmp_path / "out")) == ["done"] * 3


def test_a_translation_alone_is_no_segmentation(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    """Though the same weights made it: the segmenter finds the brain in whole heads."""
    run_batch(jobs, Task(segmenting=False), tmp_path / "out")
    assert statuses(run_batch(jobs, Task(segmenting=False), tmp_path / "out")) == ["skipped"] * 3
    assert statuses(run_batch(jobs, Task(), tmp_path / "out")) == ["done"] * 3


def test_a_run_that_was_killed_forgets_no_file(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    run_batch(jobs[:1], Task(), tmp_path / "out")
    pipeline.report.hashes = {}
    pipeline.report.write(jobs[0].paths.report, complete=False)
    for task in (OTHERS["a translation alone"], Task()):
        assert statuses(run_batch(jobs[:1], task, tmp_path / "out")) == ["done"]


def test_a_run_that_is_killed_claims_no_file_that_it_was_not_to_write(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = jobs[0].paths
    paths.report.parent.mkdir()
    for path in (paths.dicom_seg, paths.synthetic_std):
        path.write_text("by another tool")
    with monkeypatch.context() as patch:
        patch.setattr(FakeResult, "_write_atomically", Mock(side_effect=MemoryError("killed")))
        assert statuses(run_batch(jobs[:1], Task(overwrite=True), tmp_path / "out")) == ["failed"]
    assert statuses(run_batch(jobs[:1], Task(overwrite=True), tmp_path / "out")) == ["done"]
    assert paths.dicom_seg.read_text() == paths.synthetic_std.read_text() == "by another tool"


@pytest.mark.parametrize("text", ['{"findings": "none"}', '{"complete": true, "outputs_sha256": []}', "[]", '{"comm'])
def test_beside_a_report_of_another_tool_nothing_is_midiffs(
    text: str, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    paths = jobs[0].paths
    paths.report.parent.mkdir()
    paths.report.write_text(text)
    paths.dicom_seg.write_text("by another tool")
    paths.synthetic_std.write_text("by another tool")
    (outcome,) = run_batch(jobs[:1], Task(segmenting=False), tmp_path / "out")
    assert outcome.status == "failed" and f"{paths.report}: exists, and is not as midiff made it" in outcome.error
    assert paths.report.read_text() == text
    assert statuses(run_batch(jobs[:1], Task(overwrite=True), tmp_path / "out")) == ["done"]
    assert paths.dicom_seg.read_text() == paths.synthetic_std.read_text() == "by another tool"


@pytest.mark.parametrize("text", ["by another tool", "[]", '{"error": "of another tool"}'])
def test_an_error_that_another_tool_tells_of_stays(
    text: str, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    paths = jobs[0].paths
    paths.error.parent.mkdir()
    paths.error.write_text(text)
    for content, status in (("bad", "failed"), ("good", "done")):
        jobs[0].source.write_text(content)
        assert statuses(run_batch(jobs[:1], TASK, tmp_path / "out")) == [status]
        assert paths.error.read_text() == text


def test_what_failed_is_done_once_any_command_has_done_it(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    jobs[0].source.write_text("large")
    assert statuses(run_batch(jobs, TASK, tmp_path / "out")) == ["failed", "done", "done"]
    jobs[0].source.write_text("good")
    pipeline(jobs[0], TASK.settings, load(TASK.settings, translating=False, segmenting=True))
    run_batch(jobs[1:], TASK, tmp_path / "out")
    assert [subject.status for subject in read_study(tmp_path / "out")] == ["done", "skipped", "skipped"]


def test_a_run_that_was_killed_claims_no_more_than_it_was_to_write(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = jobs[0].paths
    paths.segmentation.parent.mkdir()
    paths.segmentation.write_text("by hand")
    with monkeypatch.context() as patch:
        patch.setattr(FakeResult, "_write_name", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_batch(jobs[:1], Task(segmenting=False), tmp_path / "out")
    paths.synthetic.write_text("half of it")
    assert statuses(run_batch(jobs[:1], Task(segmenting=False), tmp_path / "out")) == ["done"]
    assert statuses(run_batch(jobs[:1], Task(), tmp_path / "out")) == ["failed"]
    assert paths.segmentation.read_text() == "by hand"


def test_a_file_that_was_changed_outlives_its_run(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    run_batch(jobs[:1], OTHERS["several samples"], tmp_path / "out")
    jobs[0].paths.synthetic_std.write_text("by hand")
    assert statuses(run_batch(jobs[:1], Task(), tmp_path / "out")) == ["done"]
    assert jobs[0].paths.synthetic_std.read_text() == "by hand"


@pytest.mark.parametrize("killed", [False, True])
def test_a_correction_outlives_runs_that_write_other_files(
    killed: bool, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    run_batch(jobs[:1], Task(), tmp_path / "out")
    jobs[0].paths.segmentation.write_text("by hand")
    assert statuses(run_batch(jobs[:1], OTHERS["a translation alone"], tmp_path / "out")) == ["done"]
    if killed:
        written = set(pipeline.report.outputs)
        pipeline.report.hashes = {role: h for role, h in pipeline.report.hashes.items() if role not in written}
        pipeline.report.write(jobs[0].paths.report, complete=False)
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
    assert statuses(run_batch(jobs[:2], TASK, tmp_path / "out")) == ["skipped"] * 2
    assert statuses(run_batch(jobs[:2], replace(TASK, settings=Settings(seed=1)), tmp_path / "out")) == ["failed"] * 2
