"""Reading a folder of results: complete, moved or damaged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from small_study import only, write_single_result

from midiff_monai.errors import InputError
from midiff_monai.qc.study import contrast, contrasts, read_study, write_volumes_table
from midiff_monai.qc.summary import make_summary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_single_result(tmp_path)


HEADER = "input,status,seconds,warnings,error,report\n"


def test_reads_what_was_written(folder: Path) -> None:
    subject = only(folder)
    assert (subject.name, subject.status, subject.warnings) == ("sub-01_PDw", "done", ("Look twice.",))
    assert subject.seconds is not None and subject.seconds >= 3
    volumes, _ = subject.volumes()
    assert {label: volume for label, volume in volumes.items() if volume} == {3: pytest.approx(2.688)}
    images, warnings = subject.images()
    assert not warnings
    assert images is not None and images.source is not None and images.synthetic is not None
    np.testing.assert_allclose(images.source, 2 * images.synthetic)
    assert images.synthetic_std is None and images.segmentation is not None and (images.segmentation == 3).all()


def test_samples_of_a_target_in_hounsfield_units_are_compared_as_shares_of_its_range(tmp_path: Path) -> None:
    std = np.full((6, 7, 8), 0.02 * 2500, np.float32)
    folder = write_single_result(tmp_path, synthetic_std=std, intensity_range=(-1000.0, 1500.0))
    summary = make_summary(only(folder), tmp_path / "viewer.js")
    assert summary.measures.synthetic_std == pytest.approx(0.02)


def test_a_study_can_be_moved(folder: Path) -> None:
    moved = folder.rename(folder.with_name("elsewhere"))
    images, _ = only(moved).images()
    assert images is not None and images.segmentation is not None


@pytest.mark.parametrize("damage", ["deleted", "changed"])
def test_an_input_that_was_changed_or_deleted_is_not_shown(folder: Path, damage: str) -> None:
    subject = only(folder)
    source = Path(subject.input)
    source.unlink()
    if damage == "changed":
        nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)), source)
    images, warnings = subject.images()
    assert images is not None and images.source is None and images.synthetic is not None
    assert str(source) in warnings[-1]


@pytest.mark.parametrize("keep", [0, 40, 300])
def test_a_truncated_output_becomes_a_warning(folder: Path, keep: int) -> None:
    subject = only(folder)
    synthetic = subject.output("synthetic")
    assert synthetic is not None
    synthetic.write_bytes(synthetic.read_bytes()[:keep])
    images, warnings = subject.images()
    assert images is not None and images.synthetic is None and images.segmentation is not None
    assert synthetic.name in warnings[-1]


@pytest.mark.parametrize("text", ["", "{", "null", '{"command": "", "input": {}}', '{"command": "", "input": 3}'])
def test_a_damaged_manifest_is_listed_as_failed(folder: Path, text: str) -> None:
    (folder / "sub-02_report.json").write_text(text)
    damaged = read_study(folder)[1]
    assert (damaged.name, damaged.status) == ("sub-02", "failed")
    assert damaged.images() == (None, []) and damaged.volumes() == ({}, [])
    assert "sub-02_report.json" in damaged.error


@pytest.mark.parametrize("text", ["[]", '{"input": {}}', '{"volumes": [], "settings": {}}'])
def test_reports_of_other_tools_and_of_batches_in_subfolders_are_ignored(folder: Path, text: str) -> None:
    (folder / "site").mkdir()
    (folder / "site" / "batch_report.json").write_text(text)
    assert len(read_study(folder)) == 1


@pytest.mark.parametrize("text", ["", HEADER.replace(",", ";") + "a.nii;done;1;;;a_report.json\n"])
def test_a_batch_report_saved_by_a_spreadsheet_is_an_error(folder: Path, text: str) -> None:
    (folder / "batch_report.csv").write_text(text)
    with pytest.raises(InputError, match="batch_report.csv: is not a batch report as midiff writes it. Delete it"):
        read_study(folder)


def test_temporary_files_are_ignored(folder: Path) -> None:
    shutil.copy(folder / "sub-01_PDw_report.json", folder / ".0a1b2c3d.sub-02_report.json")
    assert len(read_study(folder)) == 1


def test_the_batch_report_adds_failed_and_skipped_inputs(folder: Path) -> None:
    rows = [
        "in/sub-01_PDw.nii.gz,skipped,,,,sub-01_PDw_report.json",
        'in/bad.nii,failed,0.5,,"is empty, alas",bad_report.json',
    ]
    (folder / "batch_report.csv").write_text(HEADER + "\n".join(rows))
    bad, good = read_study(folder)
    assert (good.status, good.warnings, good.volumes()[0][3]) == ("skipped", ("Look twice.",), pytest.approx(2.688))
    assert (bad.name, bad.status, bad.seconds, bad.error) == ("bad.nii", "failed", 0.5, "is empty, alas")
    assert bad.images() == (None, [])


def write_failure_record(folder: Path, name: str = "sub-01_PDw", **facts: str) -> None:
    """Write the failure record that a batch writes beside the results."""
    row = {"input": "in/sub-01_PDw.nii.gz", "status": "failed", "seconds": 1, "warnings": "", "error": "empty"}
    (folder / f"{name}_error.json").write_text(json.dumps(row | facts))


@pytest.mark.parametrize("status", ["failed", "pending"])
def test_a_result_whose_input_failed_or_was_not_reached_later_is_one_subject(folder: Path, status: str) -> None:
    row = f"in/sub-01_PDw.nii.gz,{status},,,,sub-01_PDw_report.json"
    (folder / "batch_report.csv").write_text(HEADER + row)
    if status == "failed":
        write_failure_record(folder, ended="2999-01-01T00:00:00+00:00")
    assert only(folder).status == status
    assert pd.read_csv(write_volumes_table(folder)).empty


def test_an_input_that_failed_in_a_batch_is_done_after_a_later_run(folder: Path) -> None:
    """The later run has removed the failure record, but the report of the batch still lists the failure."""
    row = "in/sub-01_PDw.nii.gz,failed,1,,is empty,sub-01_PDw_report.json"
    (folder / "batch_report.csv").write_text(HEADER + row)
    assert (only(folder).status, only(folder).error) == ("done", "")
    assert len(pd.read_csv(write_volumes_table(folder))) == 1


def test_an_input_that_a_batch_did_not_reach_is_done_after_a_later_run(folder: Path) -> None:
    report = folder / "batch_report.csv"
    report.write_text(HEADER + "in/sub-01_PDw.nii.gz,pending,,,,sub-01_PDw_report.json")
    os.utime(report, (0, 0))
    assert only(folder).status == "done"
    assert len(pd.read_csv(write_volumes_table(folder))) == 1


def test_labels_with_a_plus_sign_stay_whole(folder: Path) -> None:
    path = folder / "sub-01_PDw_report.json"
    facts = json.loads(path.read_text())
    facts["input"]["path"] = "/raw/sub-A+B_ses-1+2_acq-tse+fs_PDw.nii.gz"
    path.write_text(json.dumps(facts))
    (row,) = pd.read_csv(write_volumes_table(folder)).to_dict("records")
    assert (row["participant_id"], row["session_id"], row["suffix"]) == ("sub-A+B", "ses-1+2", "PDw")


@pytest.mark.parametrize(
    ("scan", "expected"),
    [
        ("sub-01_ses-2_PDw.nii.gz", "PDw"),
        ("sub-01_bold.nii.gz", "bold"),
        ("in.v2/301D00252_PD.nii.gz", "PD"),
        ("scan01-t2w.mha", "t2w"),
        ("FLAIR.nii", "FLAIR"),
        ("impact.nii", ""),
        ("scan_01.nii.gz", ""),
        ("dicom/7-ax_t2", "t2"),
    ],
)
def test_contrast_of_a_name(scan: str, expected: str) -> None:
    assert contrast(scan) == expected


def test_scans_that_were_translated_together_have_both_contrasts(folder: Path) -> None:
    """Otherwise they would be compared with the first scans of others."""
    path = folder / "sub-01_PDw_report.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"together": [{"path": "/raw/sub-01_T2w.nii.gz"}]}))
    assert contrasts(only(folder)) == "PDw+T2w"
    (row,) = pd.read_csv(write_volumes_table(folder)).to_dict("records")
    assert (row["participant_id"], row["suffix"]) == ("sub-01", "PDw+T2w")
    path.write_text(json.dumps(facts | {"together": [{"path": "/raw/sub-01_PDw.nii.gz frame 2"}]}))
    assert contrasts(only(folder)) == "PDw", "one file"


def test_failures_of_earlier_batches_in_the_same_folder_are_kept(folder: Path) -> None:
    """The batch report lists the last batch alone."""
    (folder / "batch_report.csv").write_text(HEADER + "in/sub-01_PDw.nii.gz,done,,,,sub-01_PDw_report.json")
    facts = {"input": "in/b.nii", "status": "failed", "seconds": 1.5, "warnings": "", "error": "is empty"}
    (folder / "b_error.json").write_text(json.dumps(facts))
    bad, good = read_study(folder)
    assert (bad.name, bad.status, bad.error, bad.seconds) == ("b.nii", "failed", "is empty", 1.5)
    assert good.status == "done"


NO_PATH = '{"input": 1, "status": "failed", "seconds": 1, "warnings": "", "error": ""}'


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"msg": 1}', NO_PATH])
def test_a_failure_record_of_another_tool_is_ignored(folder: Path, text: str) -> None:
    for name in ("sub-01_PDw", "other"):
        (folder / f"{name}_error.json").write_text(text)
    subject = only(folder)
    assert (subject.status, subject.error) == ("done", "")
    assert len(pd.read_csv(write_volumes_table(folder))) == 1


@pytest.mark.parametrize(
    "text", ["", "nonsense\n1\n", "id,volume_ml\n3,much\n", "id,volume_ml\n3,\n", "id,volume_ml\n3\n\0,1,2\n"]
)
def test_a_damaged_table_does_not_affect_other_subjects(folder: Path, text: str) -> None:
    shutil.copytree(folder, folder / "other")
    (folder / "sub-01_PDw_volumes.csv").write_text(text)
    damaged, good = read_study(folder)
    volumes, warnings = damaged.volumes()
    assert volumes == {} and "sub-01_PDw_volumes.csv cannot be read" in warnings[-1]
    assert good.volumes()[0] and len(pd.read_csv(write_volumes_table(folder))) == 1


EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"


class TestTwoResultsOfOneInput:
    """In BIDS, adding a scan that differs only in its suffix changes the names of results."""

    @staticmethod
    def copy_manifest(folder: Path, **facts: Any) -> None:
        """Copy the manifest to another name, with other facts in it."""
        path = folder / "sub-01_PDw_report.json"
        (folder / "sub-01_desc-midiff_report.json").write_text(json.dumps(json.loads(path.read_text()) | facts))

    @pytest.mark.parametrize("started", [EARLY, "2999-01-01T00:00:00+00:00"])
    def test_the_most_recent_one_counts(self, folder: Path, started: str) -> None:
        self.copy_manifest(folder, started=started)
        assert only(folder).name == ("sub-01_PDw" if started == EARLY else "sub-01_desc-midiff")
        assert len(pd.read_csv(write_volumes_table(folder))) == 1

    @pytest.mark.parametrize("ended", [EARLY, LATE])
    def test_a_more_recent_failure_counts(self, folder: Path, ended: str) -> None:
        path = folder / "sub-01_PDw_report.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "2026-01-15T00:00:00+00:00"}))
        write_failure_record(folder, "sub-01_desc-midiffPDw", ended=ended)
        assert only(folder).status == ("done" if ended == EARLY else "failed")

    @pytest.mark.parametrize("status", ["skipped", "failed", "pending"])
    def test_the_result_in_the_last_batch_report_counts(self, folder: Path, status: str) -> None:
        self.copy_manifest(folder, started="2999-01-01T00:00:00+00:00")
        row = f"in/sub-01_PDw.nii.gz,{status},,,,sub-01_PDw_report.json"
        (folder / "batch_report.csv").write_text(HEADER + row)
        if status == "failed":
            write_failure_record(folder)
        assert (only(folder).name, only(folder).status) == ("sub-01_PDw", status)

    def test_an_interrupted_run_is_as_recent_as_its_start(self, folder: Path) -> None:
        self.copy_manifest(folder, started=EARLY, complete=False)
        assert only(folder).status == "done"

    def test_damaged_manifests_are_not_taken_for_the_same_input(self, folder: Path) -> None:
        for name in "bc":
            (folder / f"{name}_report.json").write_text("{")
        assert len(read_study(folder)) == 3


def test_a_run_interrupted_while_writing_has_failed(folder: Path) -> None:
    path = folder / "sub-01_PDw_report.json"
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))
    subject = only(folder)
    assert subject.status == "failed" and "interrupted" in subject.error and subject.volumes() == ({}, [])


def test_subfolders_are_read(folder: Path) -> None:
    shutil.copytree(folder, folder / "sub-01" / "anat")
    assert len(read_study(folder)) == 2
