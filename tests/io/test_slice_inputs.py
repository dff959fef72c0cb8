"""Finding slices to translate and to train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from midiff_monai.errors import InputError
from midiff_monai.io.inputs import find_jobs, find_volumes
from midiff_monai.io.outputs import output_paths, report_beside


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_a_folder_of_slices_keeps_names_formats_and_subfolders(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a/1.png", "a/2.JPG", "b/1.tif", "notes.txt", ".hidden.png", "scan.nii.gz")
    jobs = find_jobs(tmp_path / "in", tmp_path / "out", target="FLAIR", slices=True)
    assert [job.source.relative_to(tmp_path / "in").as_posix() for job in jobs] == ["a/1.png", "a/2.JPG", "b/1.tif"]
    names = [job.paths.synthetic.relative_to(tmp_path / "out").as_posix() for job in jobs]
    assert names == ["a/1_synthFLAIR.png", "a/2_synthFLAIR.JPG", "b/1_synthFLAIR.tif"]
    assert jobs[1].paths.synthetic_std.name == "2_synthFLAIR_std.JPG"


@pytest.mark.parametrize("suffix", [".png", ".TIF"])
def test_results_are_no_slices_to_translate(suffix: str, tmp_path: Path) -> None:
    touch(tmp_path, f"1{suffix}")
    paths = output_paths(tmp_path / f"1{suffix}", tmp_path, "CT")
    touch(tmp_path, paths.synthetic.name, paths.synthetic_std.name, paths.qc_image.name)
    assert len(find_jobs(tmp_path, tmp_path / "out", slices=True)) == 4
    paths.report.touch()
    assert [job.source.name for job in find_jobs(tmp_path, tmp_path / "out", slices=True)] == [f"1{suffix}"]
    assert report_beside(paths.synthetic) == paths.report


def test_patterns_and_tables_name_slices(tmp_path: Path) -> None:
    one, two = touch(tmp_path, "in/1.png", "in/2.png")
    (tmp_path / "study.csv").write_text("input\nin/2.png\n")
    assert [job.source for job in find_jobs(f"{tmp_path}/in/*.png", tmp_path / "out", slices=True)] == [one, two]
    assert [job.source for job in find_jobs(tmp_path / "study.csv", tmp_path / "out", slices=True)] == [two]


def test_slices_of_one_name_and_two_formats_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "in", "1.png", "1.jpg")
    with pytest.raises(InputError, match="would write the same files"):
        find_jobs(tmp_path / "in", tmp_path / "out", slices=True)


@pytest.mark.parametrize(
    ("name", "slices", "fault"),
    [
        ("x.png", False, "is a single slice, and this bundle translates volumes"),
        ("x.nii.gz", True, "is a volume, and this bundle translates slices"),
        ("x.txt", True, "does not have the suffix of a volume"),
    ],
)
def test_a_file_of_the_other_kind_is_refused(name: str, slices: bool, fault: str, tmp_path: Path) -> None:
    touch(tmp_path, name)
    with pytest.raises(InputError, match=fault) as caught:
        find_jobs(tmp_path / name, tmp_path / "out", slices=slices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("item", ["in", "in/*.png"])
def test_no_slice_is_one_line(item: str, tmp_path: Path) -> None:
    touch(tmp_path, "in/scan.nii.gz")
    with pytest.raises(InputError, match="no slice"):
        find_jobs(str(tmp_path / item), tmp_path / "out", slices=True)


def test_the_folder_of_the_slices_does_not_take_the_results(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    with pytest.raises(InputError, match="is the folder for the results too"):
        find_jobs(tmp_path, tmp_path, slices=True)


def test_training_takes_slices_where_there_is_no_volume(tmp_path: Path) -> None:
    slices = touch(tmp_path, "in/1.png", "in/2.tif")
    for item in (f"{tmp_path}/in", f"{tmp_path}/in/*"):
        assert find_volumes(item) == slices
    (tmp_path / "study.csv").write_text("input\nin/1.png\nin/2.tif\n")
    assert find_volumes(tmp_path / "study.csv") == slices
    (volume,) = touch(tmp_path, "in/scan.nii.gz")
    for item in (f"{tmp_path}/in", f"{tmp_path}/in/*"):
        assert find_volumes(item) == [volume]
