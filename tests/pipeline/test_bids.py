from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_dataset import write_dataset

from midiff_monai.errors import InputError, OutputError
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.volumes import read_volume
from midiff_monai.pipeline.bids import find_jobs, participants_without
from midiff_monai.pipeline.bids_files import check_dataset, write_description
from midiff_monai.qc.study import read_study


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def names(dataset: Path, **chosen: Any) -> dict[str, str]:
    jobs = find_jobs(dataset, dataset / "derivatives", **chosen)
    return {job.source.name: str(job.paths.synthetic.relative_to(dataset / "derivatives")) for job in jobs}


def test_derivatives_keep_folders_and_entities(dataset: Path) -> None:
    assert names(dataset) == {
        "sub-01_PDw.nii.gz": "sub-01/anat/sub-01_desc-synthetic_T1w.nii.gz",
        "sub-02_ses-a_acq-tse_PDw.nii.gz": "sub-02/ses-a/anat/sub-02_ses-a_acq-tse_desc-syntheticPDw_T1w.nii.gz",
        "sub-02_ses-a_acq-tse_T2w.nii.gz": "sub-02/ses-a/anat/sub-02_ses-a_acq-tse_desc-syntheticT2w_T1w.nii.gz",
        "sub-02_ses-b_run-1_FLAIR.nii.gz": "sub-02/ses-b/anat/sub-02_ses-b_run-1_desc-synthetic_T1w.nii.gz",
    }


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"suffixes": ["PDw"]}, ["sub-01_PDw", "sub-02_ses-a_acq-tse_PDw"]),
        ({"participants": ["01"]}, ["sub-01_PDw"]),
        ({"participants": ["sub-02"], "sessions": ["b"]}, ["sub-02_ses-b_run-1_FLAIR"]),
        ({"suffixes": ["T1w"]}, ["sub-02_ses-b_T1w"]),
    ],
)
def test_labels_and_suffixes_select_scans(chosen: dict[str, list[str]], expected: list[str], dataset: Path) -> None:
    assert sorted(names(dataset, **chosen)) == [f"{name}.nii.gz" for name in expected]


def test_phase_images_are_left_out(dataset: Path) -> None:
    before = find_jobs(dataset, dataset / "derivatives" / "midiff")
    scan = before[0].source
    for part in ("phase", "real", "imag"):
        scan.with_name(scan.name.replace("_PDw", f"_part-{part}_PDw").replace("_T2w", f"_part-{part}_T2w")).touch()
    assert find_jobs(dataset, dataset / "derivatives" / "midiff") == before


def test_names_do_not_depend_on_the_requested_suffixes(dataset: Path) -> None:
    """Otherwise a second run on T2w would replace the results of a first run on PDw."""
    together = names(dataset)
    for suffix in ("PDw", "T2w"):
        assert names(dataset, suffixes=[suffix]).items() <= together.items()


def test_a_scan_whose_results_were_renamed_is_listed_once(dataset: Path, tmp_path: Path) -> None:
    scan = dataset / "sub-01" / "anat" / "sub-01_PDw.nii.gz"
    for started in ("2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"):
        for job in find_jobs(dataset, tmp_path / "out", participants=["01"]):
            job.paths.report.parent.mkdir(parents=True, exist_ok=True)
            RunReport("segment", job.source, {}, started=started).write(job.paths.report)
        shutil.copy(scan, scan.with_name("sub-01_T2w.nii.gz"))
    assert len(list((tmp_path / "out").rglob("*_report.json"))) == 3
    subjects = read_study(tmp_path / "out")
    assert [subject.name for subject in subjects] == ["sub-01_desc-midiffPDw", "sub-01_desc-midiffT2w"]


def test_two_scans_with_the_same_name_are_refused(dataset: Path) -> None:
    (dataset / "sub-01" / "anat" / "sub-01_PDw.nii").touch()
    with pytest.raises(InputError, match="same files"):
        names(dataset)


def test_a_derivative_of_another_tool_is_not_written_to(dataset: Path, tmp_path: Path) -> None:
    description = (dataset / "dataset_description.json").read_text()
    with pytest.raises(OutputError, match="data set itself"):
        write_description(dataset, dataset / "sub-01" / "..")
    assert (dataset / "dataset_description.json").read_text() == description
    for other in (description, '{"GeneratedBy": [{"Name": "fMRIPrep"}]}', "{"):
        (tmp_path / "dataset_description.json").write_text(other)
        with pytest.raises(OutputError, match="not made by midiff"):
            write_description(dataset, tmp_path)
        assert (tmp_path / "dataset_description.json").read_text() == other
    for _ in range(2):
        write_description(dataset, tmp_path / "out")


def test_participants_without_a_matching_scan_are_listed(dataset: Path) -> None:
    jobs = find_jobs(dataset, dataset / "derivatives", suffixes=["FLAIR"])
    assert participants_without(jobs, dataset) == ["sub-01"]
    assert participants_without(jobs, dataset, ["02"]) == []


def test_a_missing_participant_or_scan_is_an_error(dataset: Path) -> None:
    with pytest.raises(InputError, match="has no sub-03"):
        names(dataset, participants=["01", "03"])
    with pytest.raises(InputError, match="has no anat"):
        names(dataset, suffixes=["T2starw"])


@pytest.mark.parametrize("description", [None, "{", "[]", '{"Name": "x"}'])
def test_a_folder_without_a_description_is_refused(description: str | None, tmp_path: Path) -> None:
    if description is not None:
        (tmp_path / "dataset_description.json").write_text(description)
    with pytest.raises(InputError, match="dataset_description.json"):
        check_dataset(tmp_path)


PLUS = {
    "sub-A+B/anat/sub-A+B_PDw.nii.gz": "sub-A+B/anat/sub-A+B_desc-synthetic_T1w.nii.gz",
    "sub-01/ses-1+2/anat/sub-01_ses-1+2_acq-tse+fs_T2w.nii.gz": (
        "sub-01/ses-1+2/anat/sub-01_ses-1+2_acq-tse+fs_desc-synthetic_T1w.nii.gz"
    ),
}


def add_scans(dataset: Path, *names: str) -> None:
    for name in names:
        (dataset / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset / "sub-01" / "anat" / "sub-01_PDw.nii.gz", dataset / name)


def test_labels_with_a_plus_sign_are_read(dataset: Path, tmp_path: Path) -> None:
    add_scans(dataset, *PLUS)
    jobs = {job.source.relative_to(dataset).as_posix(): job for job in find_jobs(dataset, tmp_path / "out")}
    assert {name: jobs[name].paths.synthetic.relative_to(tmp_path / "out").as_posix() for name in PLUS} == PLUS
    (job,) = find_jobs(dataset, tmp_path / "out", participants=["A+B"])
    assert job.source.name == "sub-A+B_PDw.nii.gz"
    assert participants_without([job], dataset) == ["sub-01", "sub-02"]


MISNAMED = [
    "sub-01/anat/sub-01_acq-low_t2w.nii.gz",
    "sub-01/anat/sub-02_acq-other_T2w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-2_acq-other_T2w.nii.gz",
    "sub-01/anat/sub-01_acq-t s e_T2w.nii.gz",
    "sub-01/anat/sub_01_T2w.nii.gz",
    "sub-01/anat/sub-01-T2w.nii",
    "sub-01/anat/sub-01_T2w (1).nii.gz",
    "sub-01/anat/sub-01_T2w.NII.GZ",
    "sub-01/anat/sub-01_T2w.nrrd",
    "sub-01/anat/sub-01_ACQ-tse_T2w.nii.gz",
    "sub-01/anat/sub-01_acq-Ü_T2w.nii.gz",
    "sub-01/anat/sub-01_acq-_T2w.nii.gz",
    "sub-01/anat/T2w.nii.gz",
    "sub-01/sub-01_T2w.nii.gz",
    "sub-02/ses-a/sub-02_ses-a_acq-other_T2w.nii.gz",
]


@pytest.mark.parametrize("name", MISNAMED)
def test_an_image_with_a_wanted_suffix_and_an_invalid_name_is_excluded_with_a_reason(
    name: str, dataset: Path, tmp_path: Path
) -> None:
    taken = names(dataset)
    add_scans(dataset, name)
    jobs = find_jobs(dataset, tmp_path / "out")
    assert {job.source.name for job in jobs if not job.exclusion_reason} == taken.keys()
    (excluded,) = (job for job in jobs if job.exclusion_reason)
    assert excluded.source == dataset / name
    assert excluded.exclusion_reason == "has a name or folder that is not valid in BIDS"


def test_valid_names_of_other_images_are_not_misnamed(dataset: Path, tmp_path: Path) -> None:
    add_scans(
        dataset,
        *("sub-01/anat/sub-01_desc-T2w_mask.nii.gz", "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/._sub-01_T2w.nii"),
        *("sub-01/anat/sub-01_part-phase_T2w.nii.gz", "sub-01/func/sub-01_task-FLAIR_bold.nii.gz"),
    )
    assert not [job for job in find_jobs(dataset, tmp_path / "out") if job.exclusion_reason]


def test_a_data_set_with_only_misnamed_images_names_one(dataset: Path, tmp_path: Path) -> None:
    (dataset / "sub-01/anat/sub-01_PDw.nii.gz").rename(dataset / "sub-01/anat/sub_01_PDw.nii.gz")
    with pytest.raises(InputError, match=r"1 files with names that are not valid in BIDS, such as sub_01_PDw.nii.gz"):
        find_jobs(dataset, tmp_path / "out", participants=["01"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_a_description_of_any_encoding_is_read(encoding: str, dataset: Path) -> None:
    text = json.dumps({"Name": "Étude über Köpfe", "BIDSVersion": "1.11.0"}, ensure_ascii=False)
    (dataset / "dataset_description.json").write_bytes(text.encode(encoding))
    check_dataset(dataset)


def test_a_data_set_of_datalad_without_content_says_so(dataset: Path, tmp_path: Path) -> None:
    """Its scans are links. Every scan is found, and fails with the right hint."""
    description, scan = dataset / "dataset_description.json", dataset / "sub-01" / "anat" / "sub-01_PDw.nii.gz"
    for path in (description, scan):
        path.unlink()
        path.symlink_to("../.git/annex/objects/zz/00/key/key")
    with pytest.raises(InputError, match="its content is not here. .*`datalad get`"):
        check_dataset(dataset)
    (job,) = find_jobs(dataset, tmp_path / "out", participants=["01"])
    with pytest.raises(InputError, match="its content is not here. .*`datalad get`"):
        read_volume(job.source)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_an_own_derivative_is_recognised_in_any_encoding(encoding: str, dataset: Path, tmp_path: Path) -> None:
    write_description(dataset, tmp_path / "out")
    path = tmp_path / "out" / "dataset_description.json"
    path.write_bytes(path.read_text().replace("midiff:", "Köpfe:").encode(encoding))
    write_description(dataset, tmp_path / "out")


def test_results_of_another_scan_are_not_replaced(dataset: Path, tmp_path: Path) -> None:
    """Suffixes outside the defaults would be given the same names, one after the other."""
    scan = dataset / "sub-01" / "anat" / "sub-01_PDw.nii.gz"
    for suffix in ("T1w", "T2starw"):
        shutil.copy(scan, scan.with_name(f"sub-01_{suffix}.nii.gz"))
    scan.unlink()
    (job,) = find_jobs(dataset, tmp_path / "out", ["T1w"], ["01"])
    job.paths.report.parent.mkdir(parents=True)
    RunReport("segment", job.source, {}).write(job.paths.report)
    assert find_jobs(dataset, tmp_path / "out", ["T1w"], ["01"]) == [job]
    with pytest.raises(InputError, match=r"sub-01_T2starw.nii.gz: would replace the results of sub-01_T1w.nii.gz"):
        find_jobs(dataset, tmp_path / "out", ["T2starw"], ["01"])
    both = find_jobs(dataset, tmp_path / "out", ["T1w", "T2starw"], ["01"])
    assert len({each.paths.report for each in both} | {job.paths.report}) == 3
    job.source.unlink()  # the results of a removed scan are outdated
    assert find_jobs(dataset, tmp_path / "out", ["T2starw"], ["01"])


def test_the_target_is_the_suffix_of_the_synthetic_volumes(dataset: Path) -> None:
    found = names(dataset, target="CT")
    assert found and all(name.endswith("_CT.nii.gz") for name in found.values())
