"""A second batch skips finished volumes and replaces no file that midiff did not write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from fake_pipeline import FakeBundle, FakePipeline, FakeResult, fake_models, statuses

from midiff_monai.io import manifest as report
from midiff_monai.io.inputs import Job
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.run import written_roles
from midiff_monai.qc.study import read_study

TASK = Task(Mode.SEGMENT_DIRECTLY)


def test_a_second_run_skips_finished_volumes(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    pipeline.run_batch(jobs, TASK, tmp_path / "out")
    outcomes = pipeline.run_batch(jobs, TASK, tmp_path / "out")
    assert statuses(outcomes) == ["skipped"] * 3 and len(pipeline.processed) == 3
    assert [outcome.warnings for outcome in outcomes] == ["Look at the picture."] * 3


def test_another_device_does_not_repeat_a_volume(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    pipeline.run_batch(jobs, TASK, tmp_path / "out")
    elsewhere = replace(TASK, settings=Settings(device="cuda"))
    assert statuses(pipeline.run_batch(jobs, elsewhere, tmp_path / "out")) == ["skipped"] * 3


@pytest.mark.parametrize("precision, status", [("auto", "skipped"), ("bfloat16", "skipped"), ("float32", "done")])
def test_a_requested_precision_repeats_results_of_another_precision(
    precision: str, status: str, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    pipeline.run_batch(jobs, TASK, tmp_path / "out")
    assert pipeline.report.settings["precision"] == "bfloat16"
    asked = replace(TASK, settings=Settings(precision=precision))
    assert statuses(pipeline.run_batch(jobs, asked, tmp_path / "out")) == [status] * 3


@pytest.mark.parametrize(
    "change", ["input", "settings", "weights", "configuration", "version", "output", "killed", "overwrite"]
)
def test_any_difference_from_the_earlier_run_repeats_a_volume(
    change: str, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.run_batch(jobs, TASK, tmp_path / "out")
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
    assert statuses(pipeline.run_batch(jobs, task, tmp_path / "out")) == expected


@pytest.mark.parametrize("made", ["before", "since"])
@pytest.mark.parametrize("settings", [Settings(), Settings(seed=1)])
def test_files_that_midiff_did_not_make_are_not_replaced(
    made: str, settings: Settings, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    """For example a segmentation that a person has corrected."""
    if made == "since":
        pipeline.run_batch(jobs, TASK, tmp_path / "out")
    jobs[1].paths.segmentation.parent.mkdir(exist_ok=True)
    jobs[1].paths.segmentation.write_text("by hand")
    task = replace(TASK, settings=settings)
    outcomes = pipeline.run_batch(jobs, task, tmp_path / "out")
    if made == "since" and task == TASK:  # nothing has to be written
        assert outcomes[1].status == "skipped" and outcomes[1].warnings.endswith("b_dseg.nii.gz was changed since.")
        assert [subject.status for subject in read_study(tmp_path / "out")] == ["skipped"] * 3
    else:
        assert outcomes[1].status == "failed" and "differs from what midiff wrote" in outcomes[1].error
    assert jobs[1].paths.segmentation.read_text() == "by hand"
    assert pipeline.run_batch(jobs, replace(task, overwrite=True), tmp_path / "out")[1].status == "done"


OTHERS = {
    "no translation": Task(Mode.SEGMENT_DIRECTLY),
    "a translation alone": Task(Mode.TRANSLATE, Settings(seed=1)),
    "several samples": Task(settings=Settings(samples=2)),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("turned_around", [False, True])
def test_another_set_of_outputs_can_be_requested_and_reverted(
    turned_around: bool, other: Task, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    """The manifest keeps the hashes of files that the runs in between did not replace."""
    first, second = (other, Task()) if turned_around else (Task(), other)
    for number, task in enumerate((first, second, second, first), start=1):
        expected = "skipped" if number == 3 else "done"
        assert statuses(pipeline.run_batch(jobs[:1], task, tmp_path / "out")) == [expected]
        outputs = read_study(tmp_path / "out")[0].report["outputs"]
        made = {role: Path(path).read_text() for role, path in outputs.items()}
        roles = written_roles(task)
        assert made == {
            role: f"{role} by {min(number, 2) if number < 4 else 3}" for role in roles if role != "dicom_seg"
        }


def test_a_segmentation_run_includes_the_translation(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    pipeline.run_batch(jobs, Task(), tmp_path / "out")
    manifest = jobs[0].paths.report.read_bytes()
    assert statuses(pipeline.run_batch(jobs, Task(Mode.TRANSLATE), tmp_path / "out")) == ["skipped"] * 3
    assert jobs[0].paths.report.read_bytes() == manifest, "the segmentation stays in the tables of the study"
    assert statuses(pipeline.run_batch(jobs, Task(Mode.SEGMENT_DIRECTLY), tmp_path / "out")) == ["done"] * 3
    assert statuses(pipeline.run_batch(jobs, Task(Mode.TRANSLATE), tmp_path / "out")) == ["done"] * 3


def test_a_translation_does_not_count_as_a_segmentation(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    """Both runs open the same weights, because the translation uses the segmenter to find the brain."""
    pipeline.run_batch(jobs, Task(Mode.TRANSLATE), tmp_path / "out")
    assert statuses(pipeline.run_batch(jobs, Task(Mode.TRANSLATE), tmp_path / "out")) == ["skipped"] * 3
    assert statuses(pipeline.run_batch(jobs, Task(), tmp_path / "out")) == ["done"] * 3


def test_a_killed_run_keeps_its_claim_on_written_files(pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    pipeline.run_batch(jobs[:1], Task(), tmp_path / "out")
    pipeline.report.hashes = {}
    pipeline.report.write(jobs[0].paths.report, complete=False)
    for task in (OTHERS["a translation alone"], Task()):
        assert statuses(pipeline.run_batch(jobs[:1], task, tmp_path / "out")) == ["done"]


def test_a_killed_run_does_not_claim_files_of_other_tools(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = jobs[0].paths
    paths.report.parent.mkdir()
    for path in (paths.dicom_seg, paths.synthetic_std):
        path.write_text("by another tool")
    with monkeypatch.context() as patch:
        patch.setattr(FakeResult, "_write_atomically", Mock(side_effect=MemoryError("killed")))
        assert statuses(pipeline.run_batch(jobs[:1], Task(overwrite=True), tmp_path / "out")) == ["failed"]
    assert statuses(pipeline.run_batch(jobs[:1], Task(overwrite=True), tmp_path / "out")) == ["done"]
    assert paths.dicom_seg.read_text() == paths.synthetic_std.read_text() == "by another tool"


@pytest.mark.parametrize("text", ['{"findings": "none"}', '{"complete": true, "outputs_sha256": []}', "[]", '{"comm'])
def test_files_beside_the_report_of_another_tool_are_not_replaced(
    text: str, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    paths = jobs[0].paths
    paths.report.parent.mkdir()
    paths.report.write_text(text)
    paths.dicom_seg.write_text("by another tool")
    paths.synthetic_std.write_text("by another tool")
    (outcome,) = pipeline.run_batch(jobs[:1], Task(Mode.TRANSLATE), tmp_path / "out")
    assert outcome.status == "failed" and f"{paths.report}: exists, and differs from" in outcome.error
    assert paths.report.read_text() == text
    assert statuses(pipeline.run_batch(jobs[:1], Task(overwrite=True), tmp_path / "out")) == ["done"]
    assert paths.dicom_seg.read_text() == paths.synthetic_std.read_text() == "by another tool"


@pytest.mark.parametrize("text", ["by another tool", "[]", '{"error": "of another tool"}'])
def test_an_error_file_of_another_tool_is_kept(
    text: str, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    paths = jobs[0].paths
    paths.error.parent.mkdir()
    paths.error.write_text(text)
    for content, status in (("bad", "failed"), ("good", "done")):
        jobs[0].source.write_text(content)
        assert statuses(pipeline.run_batch(jobs[:1], TASK, tmp_path / "out")) == [status]
        assert paths.error.read_text() == text


def test_a_failed_volume_counts_as_done_after_any_successful_command(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    jobs[0].source.write_text("large")
    assert statuses(pipeline.run_batch(jobs, TASK, tmp_path / "out")) == ["failed", "done", "done"]
    jobs[0].source.write_text("good")
    pipeline.process(jobs[0], TASK, fake_models(TASK))
    pipeline.run_batch(jobs[1:], TASK, tmp_path / "out")
    assert [subject.status for subject in read_study(tmp_path / "out")] == ["done", "skipped", "skipped"]


def test_a_killed_run_claims_only_its_own_files(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = jobs[0].paths
    paths.segmentation.parent.mkdir()
    paths.segmentation.write_text("by hand")
    with monkeypatch.context() as patch:
        patch.setattr(FakeResult, "_write_name", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pipeline.run_batch(jobs[:1], Task(Mode.TRANSLATE), tmp_path / "out")
    paths.synthetic.write_text("half of it")
    assert statuses(pipeline.run_batch(jobs[:1], Task(Mode.TRANSLATE), tmp_path / "out")) == ["done"]
    assert statuses(pipeline.run_batch(jobs[:1], Task(), tmp_path / "out")) == ["failed"]
    assert paths.segmentation.read_text() == "by hand"


def test_an_edited_file_is_kept_when_its_stage_is_repeated(
    pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    pipeline.run_batch(jobs[:1], OTHERS["several samples"], tmp_path / "out")
    jobs[0].paths.synthetic_std.write_text("by hand")
    assert statuses(pipeline.run_batch(jobs[:1], Task(), tmp_path / "out")) == ["done"]
    assert jobs[0].paths.synthetic_std.read_text() == "by hand"


@pytest.mark.parametrize("killed", [False, True])
def test_an_edited_file_is_kept_by_runs_that_write_other_files(
    killed: bool, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path
) -> None:
    pipeline.run_batch(jobs[:1], Task(), tmp_path / "out")
    jobs[0].paths.segmentation.write_text("by hand")
    assert statuses(pipeline.run_batch(jobs[:1], OTHERS["a translation alone"], tmp_path / "out")) == ["done"]
    if killed:
        written = set(pipeline.report.outputs)
        pipeline.report.hashes = {role: h for role, h in pipeline.report.hashes.items() if role not in written}
        pipeline.report.write(jobs[0].paths.report, complete=False)
        assert statuses(pipeline.run_batch(jobs[:1], OTHERS["a translation alone"], tmp_path / "out")) == ["done"]
    assert statuses(pipeline.run_batch(jobs[:1], Task(), tmp_path / "out")) == ["failed"]
    assert jobs[0].paths.segmentation.read_text() == "by hand"


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_outdated_file_is_deleted(overwrite: bool, pipeline: FakePipeline, jobs: list[Job], tmp_path: Path) -> None:
    """For example the DICOM SEG of a series in which no structure is found any more."""
    jobs[0].source.write_text("dicom")
    pipeline.run_batch(jobs[:1], TASK, tmp_path / "out")
    assert jobs[0].paths.dicom_seg.is_file()
    jobs[0].source.write_text("good")
    task = replace(TASK, overwrite=overwrite)
    assert statuses(pipeline.run_batch(jobs[:1], task, tmp_path / "out")) == ["done"]
    assert not jobs[0].paths.dicom_seg.exists()
    jobs[0].paths.dicom_seg.write_text("by another tool")
    jobs[1].paths.dicom_seg.write_text("by another tool")
    pipeline.run_batch(jobs[1:2], replace(TASK, overwrite=True), tmp_path / "out")
    assert jobs[1].paths.dicom_seg.is_file()
    assert statuses(pipeline.run_batch(jobs[:2], TASK, tmp_path / "out")) == ["skipped"] * 2
    assert (
        statuses(pipeline.run_batch(jobs[:2], replace(TASK, settings=Settings(seed=1)), tmp_path / "out"))
        == ["failed"] * 2
    )
