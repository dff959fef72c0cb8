from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from midiff_monai.errors import InputError
from midiff_monai.io.inputs import find_jobs
from midiff_monai.io.outputs import OutputPaths, output_paths
from midiff_monai.io.paths import VOLUME_SUFFIXES, check_writable
from midiff_monai.io.volumes import read_volume
from midiff_monai.pipeline import bids


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(tmp_path: Path, *items: str | Path, output: str = "out") -> dict[str, str]:
    """Input and report of every job, relative to the temporary folder."""
    jobs = find_jobs(items, tmp_path / output)
    return {str(job.source.relative_to(tmp_path)): str(job.paths.report.relative_to(tmp_path)) for job in jobs}


def test_a_folder_keeps_its_subfolders(tmp_path: Path) -> None:
    touch(tmp_path / "in/b/PD.nii.gz", tmp_path / "in/a b/PD.mha", tmp_path / "in/ü.NII", tmp_path / "in/notes.txt")
    assert found(tmp_path, tmp_path / "in") == {
        "in/a b/PD.mha": "out/a b/PD_report.json",
        "in/b/PD.nii.gz": "out/b/PD_report.json",
        "in/ü.NII": "out/ü_report.json",
    }


def test_one_input_needs_no_list(tmp_path: Path) -> None:
    touch(tmp_path / "PD.nii.gz")
    for item in (tmp_path / "PD.nii.gz", str(tmp_path / "PD.nii.gz")):
        assert find_jobs(item, tmp_path / "out") == find_jobs([item], tmp_path / "out")


def test_results_hidden_files_and_img_of_pairs_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path / "in/scan.hdr", tmp_path / "in/scan.img", tmp_path / "in/.1234.scan.nii.gz")
    touch(tmp_path / "in/OLD.HDR", tmp_path / "in/OLD.IMG", tmp_path / "in/.git/annex/objects/scan.nii.gz")
    touch(tmp_path / "in/out/scan_synthT1w.nii.gz")
    assert list(found(tmp_path, tmp_path / "in", output="in/out")) == ["in/OLD.HDR", "in/scan.hdr"]


@pytest.mark.parametrize("output", ["data", "."])
def test_scans_inside_the_output_folder_are_found(tmp_path: Path, output: str) -> None:
    touch(tmp_path / "data/raw/a.nii.gz", tmp_path / "data/raw/b/c.nii.gz")
    sources = ["data/raw/a.nii.gz", "data/raw/b/c.nii.gz"]
    assert list(found(tmp_path, tmp_path / "data/raw", output=output)) == sources
    assert list(found(tmp_path, str(tmp_path / "data/raw/**/*.nii.gz"), output=output)) == sources


def result_files(paths: OutputPaths) -> list[Path]:
    return [path for path in asdict(paths).values() if path.name.endswith(VOLUME_SUFFIXES)]


def test_results_are_skipped_in_every_folder(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.nii.gz", tmp_path / "in/b_dseg.nii.gz")
    for folder in ("in", "in/v1"):
        paths = output_paths("a.nii.gz", tmp_path / folder)
        touch(*result_files(paths), paths.report)
    sources = ["in/a.nii.gz", "in/b_dseg.nii.gz"]
    assert list(found(tmp_path, tmp_path / "in", output="in/v2")) == sources
    assert list(found(tmp_path, str(tmp_path / "in/*.nii.gz"), output="in")) == sources
    assert list(found(tmp_path, str(tmp_path / "in/**/*.nii.gz"), output="in/v1")) == sources


@pytest.mark.parametrize("suffixes", [["PDw"], ["PDw", "T2w"]])
def test_results_of_a_bids_derivative_are_skipped(tmp_path: Path, suffixes: list[str]) -> None:
    scans = [tmp_path / "ds/sub-01/anat" / f"sub-01_{suffix}.nii.gz" for suffix in suffixes]
    touch(*scans)
    for job in bids.find_jobs(tmp_path / "ds", tmp_path / "ds/derivatives/midiff"):
        touch(*result_files(job.paths), job.paths.report)
    assert [job.source for job in find_jobs([tmp_path / "ds"], tmp_path / "out")] == scans


def test_a_result_name_without_a_report_is_a_scan(tmp_path: Path) -> None:
    names = ["my_dseg.nii.gz", "my_synthT1w.nii.gz", "sub-01_desc-synthetic_T1w.nii.gz"]
    touch(*(tmp_path / "in" / name for name in names))
    assert list(found(tmp_path, tmp_path / "in")) == [f"in/{name}" for name in names]


def test_a_result_given_by_name_is_a_scan(tmp_path: Path) -> None:
    touch(tmp_path / "in/a_synthT1w.nii.gz", tmp_path / "in/a_report.json")
    assert list(found(tmp_path, tmp_path / "in/a_synthT1w.nii.gz")) == ["in/a_synthT1w.nii.gz"]


def test_a_link_out_of_the_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path / "archive/scan.nii")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/year").symlink_to(tmp_path / "archive")
    assert found(tmp_path, tmp_path / "in") == {"in/year/scan.nii": "out/year/scan_report.json"}


def test_a_link_to_a_parent_folder_is_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "in/year/scan.nii")
    (tmp_path / "in/year/all").symlink_to(tmp_path / "in")
    assert list(found(tmp_path, tmp_path / "in")) == ["in/year/scan.nii"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "in/a/scan.nii", tmp_path / "in/b/scan.nii")
    truth = os.scandir

    def scandir(path: str) -> object:  # permissions do not keep the superuser out
        if path.endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return truth(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"in/b: cannot be read \(Permission denied\)"):
        find_jobs([tmp_path / "in"], tmp_path / "out")


def test_a_pattern_finds_volumes_in_subfolders(tmp_path: Path) -> None:
    touch(tmp_path / "in/s1/x_PDw.nii", tmp_path / "in/s1/x_T1w.nii", tmp_path / "in/s2/y_PDw.nii")
    assert list(found(tmp_path, str(tmp_path / "in/**/*_PDw.nii"))) == ["in/s1/x_PDw.nii", "in/s2/y_PDw.nii"]


def test_an_existing_file_with_pattern_characters_is_a_file(tmp_path: Path) -> None:
    touch(tmp_path / "x[1].nii", tmp_path / "x1.nii")
    assert list(found(tmp_path, tmp_path / "x[1].nii")) == ["x[1].nii"]


@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".TSV", "\t")])
def test_a_table_lists_volumes_and_subfolders(suffix: str, mark: str, tmp_path: Path) -> None:
    rows = [["age", "input", "output"], ["40", "a/PD.nii", "sub-1"], ["50", str(tmp_path / "b/PD.nii"), ""]]
    table = tmp_path / f"study{suffix}"
    table.write_text("\n".join(mark.join(row) for row in rows), encoding="utf-8-sig")
    assert found(tmp_path, table) == {"a/PD.nii": "out/sub-1/PD_report.json", "b/PD.nii": "out/PD_report.json"}


def test_a_volume_given_twice_is_one_job(tmp_path: Path) -> None:
    touch(tmp_path / "in/x.nii")
    assert len(find_jobs([tmp_path / "in", tmp_path / "in" / "x.nii"], tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("volume,age\nx.nii,3\n", "no column `input`, but volume, age"),
        ("input;age\nx.nii;3\n", r"no column `input`, but input;age\. A \.csv has commas"),
        ("", "has no row"),
        ("input\n", "has no row"),
        ("input,age\n,3\n", "a row without an input"),
        ("input,output\nx.nii,../elsewhere\n", "outside"),
        ("input\nx.txt\n", "does not have the suffix of a volume"),
        ("input\na/x.nii\nb/x.nii\n", "same files"),
    ],
)
def test_an_unusable_table_is_refused(table: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "study.csv").write_text(table)
    with pytest.raises(InputError, match=fault):
        find_jobs([tmp_path / "study.csv"], tmp_path / "out")


def test_series_of_a_folder_without_volumes(write_dicom: Callable[..., list[Path]], tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 900, (8, 8, 4))
    for folder, uid in (("in/a", "1.2.3"), ("in/b/c", "1.2.4")):
        write_dicom(tmp_path / folder, voxels, np.diag([1, 1, 3, 1]), SeriesInstanceUID=uid)
    jobs = find_jobs([tmp_path / "in"], tmp_path / "out")
    assert [job.paths.report.relative_to(tmp_path / "out").as_posix() for job in jobs] == [
        "a/004_PD_TSE_report.json",
        "b/c/004_PD_TSE_report.json",
    ]
    assert all(len(job.files) == 4 and job.series is not None for job in jobs)
    touch(tmp_path / "in/a/converted.nii")
    assert list(found(tmp_path, tmp_path / "in")) == ["in/a/converted.nii", "in/b/c/004_PD_TSE"]


@pytest.mark.parametrize("package", ["pydicom", "highdicom"])
def test_missing_dicom_packages_are_named(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The check precedes the computation. highdicom is needed only to write the DICOM SEG."""
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(InputError, match=r"midiff-monai\[dicom\]"):
        find_jobs([tmp_path], tmp_path / "out")


def test_no_volume_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="no DICOM image"):
        find_jobs([tmp_path / "in"], tmp_path / "out")
    with pytest.raises(InputError, match="matches no volume"):
        find_jobs([str(tmp_path / "*.nii")], tmp_path / "out")
    with pytest.raises(InputError, match="results too"):
        find_jobs([tmp_path / "in"], tmp_path / "in")


def test_a_pattern_skips_the_output_folder_inside_it(tmp_path: Path) -> None:
    """A corrected segmentation in the output folder is not a scan."""
    for name in ("study/a.nii.gz", "study/out/a_dseg_corrected.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (job,) = find_jobs([str(tmp_path / "study" / "**" / "*.nii.gz")], tmp_path / "study" / "out")
    assert job.source == tmp_path / "study" / "a.nii.gz"


def test_header_and_image_of_a_pair_are_one_volume(tmp_path: Path) -> None:
    """A shell expands `scans/*` to both files."""
    touch(tmp_path / "in/a.hdr", tmp_path / "in/a.img")
    assert list(found(tmp_path, tmp_path / "in/a.hdr", tmp_path / "in/a.img")) == ["in/a.hdr"]


def test_a_mistyped_folder_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scnas: does not exist"):
        find_jobs([tmp_path / "scnas"], tmp_path / "out")


def test_a_single_dicom_image_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(InputError, match="Name the folder of the series"):
        find_jobs([tmp_path / "x.dcm"], tmp_path / "out")


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    for name, target in (("a.nii.gz", "b.nii.gz"), ("b.nii.gz", "a.nii.gz")):
        (tmp_path / name).symlink_to(target)
    (job,) = find_jobs(tmp_path / "a.nii.gz", tmp_path / "out")
    with pytest.raises(InputError, match=r"a\.nii\.gz: is a link to b\.nii\.gz, which does not exist"):
        read_volume(job.source)
    check_writable(tmp_path / "out", [tmp_path / "out" / "x"], overwrite=False, inputs=job.files)


def test_no_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="input: is missing"):
        find_jobs([], tmp_path)
