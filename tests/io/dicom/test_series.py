"""Selection of the anatomical volumes among the series of a study as a scanner exports it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from fake_pipeline import FakePipeline
from pydicom import dcmread
from pydicom.uid import generate_uid

from midiff_monai.errors import InputError
from midiff_monai.io.dicom.reader import DicomSeries, read_series
from midiff_monai.io.inputs import find_jobs
from midiff_monai.io.manifest import RunReport
from midiff_monai.pipeline.options import Mode, Task
from midiff_monai.pipeline.run import segment
from midiff_monai.qc.study import read_study

WriteDicom = Callable[..., list[Path]]
AddSeries = Callable[..., list[Path]]
AXIAL = nib.affines.from_matvec(np.diag([-0.9, -0.9, 5.0]), [40, 50, -20])
SAGITTAL = nib.affines.from_matvec(np.array([[0, 0, 5.0], [-0.9, 0, 0], [0, -0.9, 0]]), [40, 50, -20])


@pytest.fixture
def add(tmp_path: Path, write_dicom: WriteDicom) -> AddSeries:
    """Adds a series to a study. All files lie in one folder."""
    study = generate_uid()

    def add(number: int, description: str, slices: int, affine: np.ndarray = AXIAL, **attributes: Any) -> list[Path]:
        voxels = np.random.default_rng(number).integers(1, 900, (8, 8, slices))
        common = {"StudyInstanceUID": study, "SeriesNumber": number, "SeriesDescription": description}
        files = write_dicom(tmp_path / "new", voxels, affine, **(common | attributes))
        (tmp_path / "in").mkdir(exist_ok=True)
        return [Path(shutil.move(file, tmp_path / "in" / f"{generate_uid()}.dcm")) for file in files]

    return add


def taken(tmp_path: Path, modality: str | None = None) -> dict[str, DicomSeries]:
    jobs = find_jobs([tmp_path / "in"], tmp_path / "out", modality)
    return {job.series.name: job.series for job in jobs if job.series and not job.exclusion_reason}


def excluded(tmp_path: Path, modality: str | None = None) -> dict[str, str]:
    jobs = find_jobs([tmp_path / "in"], tmp_path / "out", modality)
    return {
        job.source.relative_to(tmp_path / "in").as_posix(): job.exclusion_reason for job in jobs if job.exclusion_reason
    }


MR = "004_PD", "MR", ("006_head", "is of modality 'CT'; that takes --modality CT")
CT = "006_head", "CT", ("004_PD", "is of modality 'MR' and not 'CT'")


@pytest.mark.parametrize("modality, expected", [(None, MR), ("CT", CT)])
def test_scouts_and_other_modalities_are_excluded_with_reasons(
    modality: str | None, expected: tuple[str, str, tuple[str, str]], tmp_path: Path, add: AddSeries
) -> None:
    add(1, "scout", 1)
    add(2, "planning", 5, SAGITTAL)
    add(3, "localizer", 20, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    add(4, "PD", 20)
    add(5, "FDG", 20, Modality="PT")
    add(6, "head", 30, Modality="CT")
    (series,) = taken(tmp_path, modality).values()
    read_series(series)
    assert (series.name, series.modality) == expected[:2]
    assert excluded(tmp_path, modality) == dict([expected[2]]) | {
        "001_scout": "has few slices (1, another series of its study 20)",
        "002_planning": "has few slices (5, another series of its study 20)",
        "003_localizer": "is a localizer",
        "005_FDG": "is of modality 'PT', neither MR nor CT",
    }


def test_a_batch_reports_excluded_series(tmp_path: Path, add: AddSeries, pipeline: FakePipeline) -> None:
    """An excluded series is neither a failure nor a subject. The fake models fail because they cannot read DICOM."""
    add(1, "scout", 1)
    add(4, "PD", 20)
    outcomes = pipeline.run_batch(
        find_jobs([tmp_path / "in"], tmp_path / "out"), Task(Mode.SEGMENT_DIRECTLY), tmp_path / "out"
    )
    table = pd.read_csv(tmp_path / "out" / "batch_report.csv", keep_default_na=False)
    assert table["status"].tolist() == [outcome.status for outcome in outcomes] == ["failed", "excluded"]
    assert table["input"].tolist()[1] == str(tmp_path / "in" / "001_scout")
    assert table["error"].tolist()[1] == "has few slices (1, another series of its study 20)"
    assert [subject.name for subject in read_study(tmp_path / "out")] == ["004_PD"]


def test_a_run_logs_excluded_series(tmp_path: Path, add: AddSeries, caplog: pytest.LogCaptureFixture) -> None:
    add(1, "scout", 1)
    add(4, "PD", 20)[7].unlink()
    with pytest.raises(InputError, match="series 004_PD"):
        segment([tmp_path / "in"], tmp_path / "out")
    assert caplog.messages == [
        f"{tmp_path}/in/001_scout: excluded, because it has few slices (1, another series of its study 19)"
    ]


def test_a_scout_in_several_planes_is_excluded_however_many_slices_it_has(tmp_path: Path, add: AddSeries) -> None:
    uid = generate_uid()
    for affine in (AXIAL, SAGITTAL):
        add(1, "survey", 15, affine, SeriesInstanceUID=uid)
    add(4, "PD", 20)
    assert list(taken(tmp_path)) == ["004_PD"]
    assert excluded(tmp_path) == {"001_survey": "has slices of several orientations"}


@pytest.mark.parametrize("beside", [True, False])
def test_time_and_diffusion_series_are_excluded_beside_a_volume(beside: bool, tmp_path: Path, add: AddSeries) -> None:
    uid = generate_uid()
    for _ in range(3):
        add(5, "DTI", 20, SeriesInstanceUID=uid)
    add(6, "BOLD", 4, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    if beside:
        add(4, "PD", 6)  # few slices beside the 60 images of the other, but those are no volume
    assert list(taken(tmp_path)) == (["004_PD"] if beside else ["005_DTI", "006_BOLD"])
    assert excluded(tmp_path) == (
        {
            "005_DTI": "has up to 3 images at a position, as time and diffusion series have",
            "006_BOLD": "is a mosaic, as time and diffusion series are",
        }
        if beside
        else {}
    )


def test_a_single_duplicate_position_is_refused(tmp_path: Path, add: AddSeries) -> None:
    files = add(4, "PD", 20)
    shutil.copy(files[7], tmp_path / "in" / "again.dcm")
    add(5, "T2", 20)
    assert list(taken(tmp_path)) == ["004_PD", "005_T2"]
    with pytest.raises(InputError, match="several images at one position"):
        read_series(taken(tmp_path)["004_PD"])


@pytest.mark.parametrize("what", ["two echoes", "copy"])
def test_two_images_per_position_are_not_excluded(what: str, tmp_path: Path, add: AddSeries) -> None:
    uid = generate_uid()
    files = add(4, "PD_T2", 20, SeriesInstanceUID=uid, EchoTime=20)
    if what == "two echoes":
        add(4, "PD_T2", 20, SeriesInstanceUID=uid, EchoTime=90)
    else:
        for file in files:
            shutil.copy(file, file.with_suffix(".copy"))
    add(5, "FLAIR", 20)
    volumes = ["004_PD_T2_echo1", "004_PD_T2_echo2"] if what == "two echoes" else ["004_PD_T2"]
    assert list(taken(tmp_path)) == [*volumes, "005_FLAIR"]


@pytest.mark.parametrize("beside", ["cine", "fMRI that lacks an image", "multi-frame DTI", "CT"])
def test_a_short_volume_is_not_excluded_beside_a_series_that_is_not_a_volume(
    beside: str, tmp_path: Path, add: AddSeries, write_multiframe: Callable[[list[Path], Path], None]
) -> None:
    add(4, "PD", 7)
    uid, in_place = generate_uid(), AXIAL @ np.diag([1, 1, 1e-9, 1])
    if beside == "cine":
        add(5, "cine", 30, in_place)
    elif beside == "multi-frame DTI":
        frames = [file for _ in range(3) for file in add(5, "DTI", 20, SeriesInstanceUID=uid, FrameOfReferenceUID=uid)]
        write_multiframe(frames, tmp_path / "in" / "image.dcm")
        for file in frames:
            file.unlink()
    elif beside == "CT":
        add(5, "head", 60, Modality="CT")
    else:
        runs = [add(5, "fMRI", 20, SeriesInstanceUID=uid) for _ in range(3)]
        runs[0][3].unlink()
    assert list(taken(tmp_path)) == ["004_PD"]


def test_localizer_images_in_a_series_are_left_out(tmp_path: Path, add: AddSeries) -> None:
    """A CT series may contain its topogram."""
    files = add(4, "head", 12, Modality="CT")
    topogram = dcmread(files[0])
    topogram.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    topogram.save_as(files[0])
    series = taken(tmp_path, "CT")
    assert list(series) == ["004_head"] and series["004_head"].files == tuple(files[1:])


def test_a_damaged_volume_is_not_excluded(tmp_path: Path, add: AddSeries) -> None:
    add(4, "PD", 20)[7].unlink()
    add(5, "T2", 20)
    with pytest.raises(InputError, match="series 004_PD has slices 5 to 10 mm apart"):
        read_series(taken(tmp_path)["004_PD"])


def test_short_series_of_like_length_are_all_taken(tmp_path: Path, add: AddSeries) -> None:
    add(4, "PD", 4)
    add(5, "T2", 5)
    assert list(taken(tmp_path)) == ["004_PD", "005_T2"]


def test_a_scout_without_a_volume_is_refused_when_read(tmp_path: Path, add: AddSeries) -> None:
    add(1, "scout", 1)
    add(5, "FDG", 20, Modality="PT")
    with pytest.raises(InputError, match="series 001_scout holds a single slice"):
        read_series(taken(tmp_path)["001_scout"])
    assert list(excluded(tmp_path)) == ["005_FDG"]


def test_short_series_are_compared_within_their_study(tmp_path: Path, add: AddSeries) -> None:
    """A patient with a single exported slice is reported, not excluded."""
    add(4, "PD", 1)
    add(5, "T2", 20, StudyInstanceUID=generate_uid())
    with pytest.raises(InputError, match="series 004_PD holds a single slice"):
        read_series(taken(tmp_path)["004_PD"])


def test_slices_of_a_multiframe_image_are_its_frames(
    tmp_path: Path, add: AddSeries, write_multiframe: Callable[[list[Path], Path], None]
) -> None:
    write_multiframe(add(4, "PD", 20), tmp_path / "image.dcm")
    shutil.rmtree(tmp_path / "in")
    add(1, "scout", 3)
    shutil.move(tmp_path / "image.dcm", tmp_path / "in")
    (series,) = taken(tmp_path).values()
    assert len(series.files) == 1 and read_series(series).shape == (8, 8, 20)


@pytest.mark.parametrize("affine", [AXIAL, SAGITTAL])
def test_a_folder_with_only_a_scout_is_refused_when_read(tmp_path: Path, add: AddSeries, affine: np.ndarray) -> None:
    add(1, "scout", 1, affine)
    (series,) = taken(tmp_path).values()
    with pytest.raises(InputError, match=r"series 001_scout holds a single slice\. Give a series of at least 2"):
        read_series(series)


def test_a_folder_with_only_excluded_series_lists_the_reasons(tmp_path: Path, add: AddSeries) -> None:
    add(3, "localizer", 20, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    add(5, "FDG", 20, Modality="PT")
    reasons = "series 003_localizer is a localizer, series 005_FDG is of modality 'PT', neither MR nor CT"
    with pytest.raises(InputError, match=f"in: holds no usable volume: {reasons}. Name"):
        taken(tmp_path)


@pytest.mark.parametrize("modality", ["PT", "US"])
def test_other_presets_take_no_mr_series(modality: str, tmp_path: Path, add: AddSeries) -> None:
    add(4, "PD", 20)
    add(5, "FDG", 20, Modality="PT")
    with pytest.raises(InputError, match=f"004_PD is of modality 'MR' and not '{modality}', series 005_FDG is of"):
        taken(tmp_path, modality)


@pytest.mark.parametrize("uid", ["1.2.3", ""], ids=["one for all", "none"])
def test_series_without_a_uid_of_their_own_are_told_apart_by_number(uid: str, tmp_path: Path, add: AddSeries) -> None:
    """As tools that anonymise leave them."""
    for number, description in ((4, "PD"), (5, "T2")):
        add(number, description, 20, SeriesInstanceUID=uid)
    found = taken(tmp_path)
    assert list(found) == ["004_PD", "005_T2"]
    assert all(read_series(series).shape == (8, 8, 20) for series in found.values())


def test_a_renamed_series_is_listed_once(add: AddSeries, tmp_path: Path) -> None:
    """The name depends on the other series of the folder."""
    (tmp_path / "out").mkdir()
    for started in ("2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"):
        add(4, "PD", 20)
        for job in find_jobs([tmp_path / "in"], tmp_path / "out"):
            RunReport("segment", job.source, {}, files=job.files, started=started).write(job.paths.report)
    assert len(list((tmp_path / "out").iterdir())) == 3
    subjects = read_study(tmp_path / "out")
    assert len(subjects) == 2 and all(subject.name.startswith("004_PD_") for subject in subjects)
