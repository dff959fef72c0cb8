"""A second page of a study: summaries are cached until one of their files changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from small_study import head, subjects_of, write_result

from midiff_monai.provenance import environment
from midiff_monai.qc.flags import Flag
from midiff_monai.qc.page import write_study_page
from midiff_monai.qc.study import read_study
from midiff_monai.qc.subject import Subject


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the subjects whose volumes are read from now on."""
    names: list[str] = []
    images = Subject.images

    def watched(subject: Subject) -> Any:
        names.append(subject.name)
        return images(subject)

    monkeypatch.setattr(Subject, "images", watched)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of three subjects."""
    (tmp_path / "study").mkdir()
    for name in "abc":
        write_result(tmp_path / "study", name, warnings=["Look twice."])
    return tmp_path / "study"


def test_no_volume_is_read_twice_not_even_to_hash_it(
    folder: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "b.nii.gz").unlink()
    first = write_study_page(folder).read_bytes()
    assert reads == ["a", "b", "c"]
    monkeypatch.setattr("midiff_monai.qc.subject.sha256", None)
    assert write_study_page(folder).read_bytes() == first
    assert reads == ["a", "b", "c"]
    subject = subjects_of(folder / "index.html")["b"]
    assert subject["warnings"][0] == "Look twice." and "does not exist any more" in subject["warnings"][1]
    assert subject["structures"]["3"] > 0 and subject["scores"]["edge_correlation"] is None


def test_the_last_batch_report_is_shown_without_reading_volumes(folder: Path, reads: list[str]) -> None:
    write_study_page(folder)
    (folder / "batch_report.csv").write_text(
        "input,status,seconds,warnings,error,report\na.nii.gz,skipped,9,,,a_report.json\n"
    )
    subject = subjects_of(write_study_page(folder))["a"]
    assert (subject["status"], subject["seconds"], len(reads)) == ("skipped", 9, 3)


@pytest.mark.parametrize("change", ["result", "output", "table", "input", "script", "version", "cache"])
def test_a_changed_subject_is_read_again(
    change: str, folder: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = subjects_of(write_study_page(folder))["b"]
    if change == "result":
        write_result(folder, "b", 1.4)
    elif change == "output":  # for example a manual correction
        voxels = np.where(head(1)[1] == 4, 3, head(1)[1]).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([6, 6, 6, 1])), folder / "b_dseg.nii.gz")
    elif change == "table":
        path = folder / "b_volumes.csv"
        path.write_text(path.read_text() + "\n")
    elif change == "input":
        (folder / "b.nii.gz").unlink()
    elif change == "script":
        (folder / before["viewer"]).unlink()
    elif change == "cache":
        (folder / before["viewer"]).with_suffix(".json").write_text("{")
    else:
        other = environment() | {"git_commit": "another"}
        monkeypatch.setattr("midiff_monai.qc.summary.environment", lambda: other)
    after = subjects_of(write_study_page(folder))["b"]
    assert reads[3:] == (["a", "b", "c"] if change == "version" else ["b"])
    assert (after["pictures"] != before["pictures"]) == (change in ("result", "output", "input"))
    assert (folder / after["viewer"]).is_file()


def test_scans_are_compared_with_scans_of_the_same_contrast(tmp_path: Path) -> None:
    for number, size in enumerate((0.9, 0.95, 1, 1.05, 1.3)):
        write_result(tmp_path, f"sub-{number}_PDw", size)
        write_result(tmp_path, f"sub-{number}_T2w", 0.5)
    write_study_page(tmp_path)
    z = {name: scan["z"]["white matter"] for name, scan in subjects_of(tmp_path / "index.html").items()}
    assert z["sub-2_PDw"] == 0 and z["sub-4_PDw"] > 3.5
    assert z["sub-0_T2w"] is None, "all of them are equal"


def test_a_study_can_be_moved(folder: Path, reads: list[str]) -> None:
    write_study_page(folder)
    shutil.copytree(folder, folder.with_name("elsewhere"))  # the inputs stay where they are
    write_study_page(folder.with_name("elsewhere"))
    assert reads == ["a", "b", "c"]


def test_viewer_files_of_deleted_subjects_are_removed(folder: Path) -> None:
    subjects = subjects_of(write_study_page(folder))
    (folder / "_viewer" / "notes.txt").touch()
    (folder / "b_report.json").unlink()
    for role in (".nii.gz", "_synthT1w.nii.gz", "_dseg.nii.gz"):
        (folder / f"c{role}").unlink()
    write_study_page(folder)
    key = subjects["a"]["key"]
    left = {path.name for path in (folder / "_viewer").iterdir()}
    assert left == {f"{key}.js", f"{key}.json", "niivue.js", "niivue.LICENSE.txt", "notes.txt"}


def test_viewer_files_that_another_run_adds_meanwhile_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = folder / "_viewer" / f"{'0' * 16}.js"

    def read(folder: Path) -> list[Subject]:
        script.parent.mkdir()
        script.touch()
        return read_study(folder)

    monkeypatch.setattr("midiff_monai.qc.page.read_study", read)
    write_study_page(folder)
    assert script.is_file()


def test_progress_counts_the_subjects(folder: Path) -> None:
    seen: list[Subject] = []

    def progress(subjects: Iterable[Subject]) -> Iterator[Subject]:
        for subject in subjects:
            seen.append(subject)
            yield subject

    write_study_page(folder, progress)
    assert [subject.name for subject in seen] == ["a", "b", "c"]


def test_flags_of_the_run_are_not_repeated_beside_those_of_the_page(tmp_path: Path) -> None:
    """The page measures again, so its own flag of a kind replaces that of the manifest."""
    flags = [Flag("absent", 1, "CSF is missing."), Flag("synthetic_std", 0.2, "The samples disagree.")]
    warnings = ["Look twice.", *(flag.text for flag in flags)]
    write_result(tmp_path, "a", warnings=warnings, flags=[flag._asdict() for flag in flags])
    subject = subjects_of(write_study_page(tmp_path))["a"]
    assert [flag["kind"] for flag in subject["flags"]] == ["size", "absent"]  # the ellipsoid is 114 mm long
    assert subject["warnings"] == ["Look twice.", "The samples disagree."]


def test_flags_of_version_0_3_are_not_repeated_either(tmp_path: Path) -> None:
    write_result(tmp_path, "a", warnings=["Look twice.", "Not found: CSF."])
    path = tmp_path / "a_report.json"
    manifest = json.loads(path.read_text())
    del manifest["flags"]
    path.write_text(json.dumps(manifest))
    assert subjects_of(write_study_page(tmp_path))["a"]["warnings"] == ["Look twice."]
