"""Which scans of a batch are of one person."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from midiff_monai.errors import InputError
from midiff_monai.io.inputs import Job
from midiff_monai.pipeline.people import JointJob, find_people


def people(jobs: list[Job], folder: Path) -> list[list[str]]:
    """The files of each job, by their paths in a folder."""
    assert all(isinstance(job, JointJob) for job in jobs)
    return [[file.relative_to(folder).as_posix() for file in job.files] for job in jobs]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["sub-01_PDw.nii.gz", "sub-01_T2w.nii.gz", "sub-02_T2w.nii.gz"], [[0, 1], [2]]),
        (["a-FLAIR.nii", "a-t2.mha", "ab-t2.nii"], [[0, 1], [2]]),
        (["s1/PD.nii", "s1/T2.nii", "s2/PD.nii", "s2/T2.nii"], [[0, 1], [2, 3]]),
        (["s1/x_PD.nii", "s2/x_T2.nii"], [[0], [1]]),
        (["one.nii", "two.nii"], [[0], [1]]),
        (["sub-01_run-1_PDw.nii", "sub-01_run-2_T2w.nii"], [[0], [1]]),
    ],
)
def test_files_of_one_folder_that_differ_in_their_contrast(
    names: list[str], expected: list[list[int]], tmp_path: Path
) -> None:
    touch(tmp_path, *names)
    found = people(find_people(tmp_path, tmp_path / "out"), tmp_path)
    assert found == [[names[number] for number in person] for person in expected]


def test_rows_of_one_subject_and_session(tmp_path: Path) -> None:
    """Scans of one name in several folders are of several people, or the second scan of one."""
    rows = ("a/x.nii,7,1", "c/y.nii,8,", "b/x.nii,7,1", "d/z.nii,7,2", "e/v.nii,,", "e/w_T2.nii,,", "e/w_PD.nii,,")
    touch(tmp_path, *(row.split(",")[0] for row in rows))
    (tmp_path / "scans.csv").write_text("\n".join(("input,subject,session", *rows)))
    jobs = find_people(tmp_path / "scans.csv", tmp_path / "out")
    expected = [["a/x.nii", "b/x.nii"], ["c/y.nii"], ["d/z.nii"], ["e/v.nii"], ["e/w_T2.nii", "e/w_PD.nii"]]
    assert people(jobs, tmp_path) == expected
    assert [job.paths.synthetic.name for job in jobs[::2]] == [f"{name}_synthT1w.nii.gz" for name in ("x", "z", "w_T2")]


def test_a_table_without_a_session(tmp_path: Path) -> None:
    touch(tmp_path, "x.nii", "y.nii")
    (tmp_path / "scans.tsv").write_text("input\tsubject\nx.nii\t7\ny.nii\t7")
    assert people(find_people(tmp_path / "scans.tsv", tmp_path / "out"), tmp_path) == [["x.nii", "y.nii"]]


def test_two_people_with_results_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.nii", "b/x.nii")
    (tmp_path / "scans.csv").write_text("input,subject\na/x.nii,1\nb/x.nii,2")
    with pytest.raises(InputError, match="would write the same files"):
        find_people(tmp_path / "scans.csv", tmp_path / "out")


def test_a_scan_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "a_PD.nii", "a_T2.nii")
    jobs = find_people([tmp_path, tmp_path / "a_T2.nii"], tmp_path / "out")
    assert people(jobs, tmp_path) == [["a_PD.nii", "a_T2.nii"]]


def test_series_of_one_study(write_dicom: Callable[..., list[Path]], tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(1, 900, (8, 8, 10))
    for study, folder in (("1.2.1", "p1/pd"), ("1.2.1", "p1/t2"), ("1.2.2", "p2/t2")):
        write_dicom(tmp_path / folder, voxels, np.diag([2.0, 2, 5, 1]), StudyInstanceUID=study)
    write_dicom(tmp_path / "p1/scout", voxels[..., :1], np.eye(4), StudyInstanceUID="1.2.1", ImageType=["LOCALIZER"])
    *jobs, excluded = find_people(tmp_path, tmp_path / "out")
    assert excluded.exclusion_reason
    found = [sorted({file.parent.relative_to(tmp_path).as_posix() for file in job.files}) for job in jobs]
    assert sorted(found) == [["p1/pd", "p1/t2"], ["p2/t2"]]  # series of one name are sorted by their random ids


def test_a_job_for_a_process_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The further scans have absolute paths as well."""
    touch(tmp_path, "a_PD.nii", "a_T2.nii")
    monkeypatch.chdir(tmp_path)
    (job,) = find_people(["a_PD.nii", "a_T2.nii"], "out")
    absolute = job.absolute()
    os.chdir("/")
    assert [file.is_file() for file in absolute.files] == [True, True]
    assert absolute.paths.report == tmp_path / "out" / "a_PD_report.json"
