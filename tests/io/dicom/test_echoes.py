"""Several echoes, repetitions and components in one series, in classic and in multi-frame images."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import EnhancedMRImageStorage, generate_uid

from midiff_monai.errors import InputError
from midiff_monai.io.dicom.reader import DicomSeries, read_series
from midiff_monai.io.dicom.seg import write_dicom_seg
from midiff_monai.io.dicom.series import series_named
from midiff_monai.io.inputs import find_jobs
from midiff_monai.io.manifest import RunReport, cache_key
from midiff_monai.qc.study import read_study

WriteDicom = Callable[..., list[Path]]
AFFINE = nib.affines.from_matvec(np.diag([-0.9, -0.9, 3.0]), [40, 50, -20])
SHAPE = (8, 6, 10)
PD, T2, OTHER = (np.random.default_rng(seed).integers(1, 900, SHAPE).astype(np.int16) for seed in range(3))


def series_of(folder: Path) -> dict[str, DicomSeries]:
    jobs = find_jobs([folder], folder.parent / "out")
    return {job.series.name: job.series for job in jobs if job.series and not job.exclusion_reason}


def excluded(folder: Path) -> dict[str, str]:
    jobs = find_jobs([folder], folder.parent / "out")
    return {job.series.name: job.exclusion_reason for job in jobs if job.series and job.exclusion_reason}


def assert_volumes(folder: Path, volumes: dict[str, NDArray[np.int16]]) -> None:
    found = series_of(folder)
    assert list(found) == list(volumes)
    for name, voxels in volumes.items():
        np.testing.assert_array_equal(read_series(found[name]).get_fdata(), voxels, name)


@pytest.fixture
def write_classic(tmp_path: Path, write_dicom: WriteDicom) -> Callable[..., None]:
    uids = {keyword: generate_uid() for keyword in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")}

    def write(voxels: NDArray[np.int16], **attributes: Any) -> None:
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        for file in write_dicom(tmp_path / "new", voxels, AFFINE, **(uids | attributes)):
            shutil.move(file, folder / f"{generate_uid()}.dcm")

    return write


@pytest.fixture
def write_enhanced(tmp_path: Path, write_dicom: WriteDicom) -> Callable[..., Path]:
    """Writes one Enhanced MR image. Each volume is given with the attributes of its frames."""
    uids = {keyword: generate_uid() for keyword in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")}

    def write(volumes: Sequence[tuple[NDArray[np.int16], dict[str, Any]]], **attributes: Any) -> Path:
        files = write_dicom(tmp_path / "classic", volumes[0][0], AFFINE, **uids)
        image = dcmread(files[0])
        shared, frames = Dataset(), []
        shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [Dataset()], [Dataset()]
        shared.PlaneOrientationSequence[0].ImageOrientationPatient = image.ImageOrientationPatient
        measures = shared.PixelMeasuresSequence[0]
        measures.PixelSpacing, measures.SliceThickness = image.PixelSpacing, image.SliceThickness
        for _, frame_attributes in volumes:
            frames += [_frame(dcmread(file).ImagePositionPatient, frame_attributes) for file in files]
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            delattr(image, keyword)
        image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [shared], frames
        image.NumberOfFrames = len(frames)
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
        image.PixelData = np.concatenate([voxels.transpose(2, 1, 0) for voxels, _ in volumes]).tobytes()
        shutil.rmtree(tmp_path / "classic")
        (tmp_path / "in").mkdir(exist_ok=True)
        path = tmp_path / "in" / f"{image.SOPInstanceUID}.dcm"
        image.save_as(path)
        return path

    return write


def _frame(position: Any, attributes: dict[str, Any]) -> Dataset:
    frame = Dataset()
    frame.PlanePositionSequence, frame.MREchoSequence = [Dataset()], [Dataset()]
    frame.MRImageFrameTypeSequence = [Dataset()]
    frame.PlanePositionSequence[0].ImagePositionPatient = position
    for keyword, value in attributes.items():
        group = frame.MREchoSequence if keyword == "EffectiveEchoTime" else frame.MRImageFrameTypeSequence
        setattr(group[0], keyword, value)
    return frame


class TestClassic:
    @pytest.mark.parametrize("numbers", [None, "", 1], ids=["missing", "empty", "all alike"])
    def test_echo_times_make_two_volumes(
        self, numbers: Any, tmp_path: Path, write_classic: Callable[..., None]
    ) -> None:
        attributes = {} if numbers is None else {"EchoNumbers": numbers}
        write_classic(T2, EchoTime=90, **attributes)
        write_classic(PD, EchoTime=20, **attributes)
        prefix = "1-" if numbers == 1 else ""
        name = "004_PD_TSE_echo"
        assert_volumes(tmp_path / "in", {f"{name}{prefix}1": PD, f"{name}{prefix}2": T2})

    def test_three_echoes_of_a_scanner_that_rounds_are_three_volumes(
        self, tmp_path: Path, write_classic: Callable[..., None]
    ) -> None:
        for voxels, time in ((PD, "2.46"), (T2, "4.92"), (OTHER, "7.380001")):
            write_classic(voxels, EchoTime=time)
        assert_volumes(tmp_path / "in", {f"004_PD_TSE_echo{k}": x for k, x in ((1, PD), (2, T2), (3, OTHER))})

    def test_echo_times_that_differ_by_slice_are_one_volume(self, tmp_path: Path, write_dicom: WriteDicom) -> None:
        for k, file in enumerate(write_dicom(tmp_path / "in", PD, AFFINE)):
            image = dcmread(file)
            image.EchoTime = 90 + k % 2
            image.save_as(file)
        assert_volumes(tmp_path / "in", {"004_PD_TSE": PD})

    def test_numbered_echoes_keep_slices_whose_echo_times_differ(
        self, tmp_path: Path, write_classic: Callable[..., None]
    ) -> None:
        for number, voxels in ((1, PD), (2, T2)):
            write_classic(voxels, EchoNumbers=number, EchoTime=20 * number)
        for file in sorted((tmp_path / "in").iterdir())[::2]:
            image = dcmread(file)
            image.EchoTime += 1
            image.save_as(file)
        assert_volumes(tmp_path / "in", {"004_PD_TSE_echo1": PD, "004_PD_TSE_echo2": T2})

    def test_every_echo_of_a_time_series_is_a_time_series(
        self, tmp_path: Path, write_classic: Callable[..., None]
    ) -> None:
        for time in (15, 35) * 3:
            write_classic(PD, EchoTime=time)
        write_classic(T2, SeriesInstanceUID=generate_uid(), SeriesNumber=5)
        assert list(series_of(tmp_path / "in")) == ["005_PD_TSE"]
        reason = "has up to 3 images at a position, as time and diffusion series have"
        assert excluded(tmp_path / "in") == {"004_PD_TSE_echo1": reason, "004_PD_TSE_echo2": reason}

    def test_a_time_series_alone_is_refused_with_its_reason(
        self, tmp_path: Path, write_classic: Callable[..., None]
    ) -> None:
        for _ in range(3):
            write_classic(PD, EchoTime=30)
        with pytest.raises(InputError, match="has up to 3 images at a position, as time and diffusion series have"):
            read_series(series_of(tmp_path / "in")["004_PD_TSE"])

    def test_image_types_at_the_same_positions_are_separate_volumes(
        self, tmp_path: Path, write_classic: Callable[..., None]
    ) -> None:
        for voxels, kind in ((PD, "W"), (T2, "F")):
            write_classic(voxels, ImageType=["DERIVED", "PRIMARY", kind, "NONE"], EchoTime=2.4)
        assert_volumes(tmp_path / "in", {"004_PD_TSE_F": T2, "004_PD_TSE_W": PD})

    def test_image_types_that_differ_by_slice_are_one_volume(self, tmp_path: Path, write_dicom: WriteDicom) -> None:
        for k, file in enumerate(write_dicom(tmp_path / "in", PD, AFFINE)):
            image = dcmread(file)
            image.ImageType = ["ORIGINAL", "PRIMARY", "M", f"NORM{k % 2}"]
            image.save_as(file)
        assert_volumes(tmp_path / "in", {"004_PD_TSE": PD})

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            *(("P", "holds phase images"), ("PHASE", "holds phase images"), ("R", "holds real parts")),
            *(("R_SE", "holds real parts"), ("I", "holds imaginary parts"), ("IMAGINARY", "holds imaginary parts")),
            *(("ADC", "is a map of diffusion"), ("FA", "is a map of diffusion"), ("MIP", "holds projections")),
            ("PROJECTION IMAGE", "holds projections"),
        ],
    )
    def test_images_of_a_series_that_show_no_anatomy_are_excluded(
        self, kind: str, reason: str, tmp_path: Path, write_classic: Callable[..., None]
    ) -> None:
        write_classic(PD)
        write_classic(T2, ImageType=["ORIGINAL", "PRIMARY", kind, "ND"])
        assert_volumes(tmp_path / "in", {"004_PD_TSE": PD})
        assert list(excluded(tmp_path / "in").values()) == [reason]

    def test_both_echoes_can_be_written_as_dicom_seg(self, tmp_path: Path, write_classic: Callable[..., None]) -> None:
        write_classic(PD, EchoTime=20)
        write_classic(T2, EchoTime=90)
        for series in series_of(tmp_path / "in").values():
            write_dicom_seg(np.where(PD > 450, 10, 0), series, tmp_path / "seg.dcm")
            assert len(dcmread(tmp_path / "seg.dcm").ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 10


class TestEnhanced:
    def test_functional_groups_may_all_be_those_of_the_frames(
        self, tmp_path: Path, write_enhanced: Callable[..., Path]
    ) -> None:
        path = write_enhanced([(PD, {})])
        image = dcmread(path)
        for frame in image.PerFrameFunctionalGroupsSequence:
            frame.update(image.SharedFunctionalGroupsSequence[0])
        del image.SharedFunctionalGroupsSequence
        image.save_as(path)
        assert_volumes(tmp_path / "in", {"004_PD_TSE": PD})

    def test_echo_times_of_one_image_make_two_volumes(
        self, tmp_path: Path, write_enhanced: Callable[..., Path]
    ) -> None:
        write_enhanced([(PD, {"EffectiveEchoTime": 20.0}), (T2, {"EffectiveEchoTime": 90.0})])
        assert_volumes(tmp_path / "in", {"004_PD_TSE_echo1": PD, "004_PD_TSE_echo2": T2})

    def test_two_echoes_of_one_image_are_two_subjects_of_a_study(
        self, tmp_path: Path, write_enhanced: Callable[..., Path]
    ) -> None:
        """They have the same file, hence the same hash."""
        write_enhanced([(PD, {"EffectiveEchoTime": 20.0}), (T2, {"EffectiveEchoTime": 90.0})])
        (tmp_path / "out").mkdir()
        keys = set()
        for job in find_jobs([tmp_path / "in"], tmp_path / "out"):
            report = RunReport("segment", job.source, {}, files=job.files, frames=job.series.frames)  # type: ignore
            report.write(job.paths.report)
            keys.add(cache_key(report.to_dict())["input"])
        assert [subject.name for subject in read_study(tmp_path / "out")] == ["004_PD_TSE_echo1", "004_PD_TSE_echo2"]
        assert len(keys) == 2 and {key.partition(" ")[2] for key in keys} == {"echo time 20 ms", "echo time 90 ms"}

    @pytest.mark.parametrize("with_digest", [True, False])
    def test_an_echo_is_found_again_by_its_name(
        self, with_digest: bool, tmp_path: Path, write_enhanced: Callable[..., Path]
    ) -> None:
        """As for the page of a study, which reads the files that the manifest lists."""
        write_enhanced([(PD, {"EffectiveEchoTime": 20.0}), (T2, {"EffectiveEchoTime": 90.0})])
        series = series_of(tmp_path / "in")["004_PD_TSE_echo2"]
        name = f"{series.name}_{series.digest}" if with_digest else series.name
        np.testing.assert_array_equal(read_series(series_named(name, series.files)).get_fdata(), T2)

    def test_echo_times_of_two_images_make_two_volumes(
        self, tmp_path: Path, write_enhanced: Callable[..., Path]
    ) -> None:
        for number, (voxels, time) in enumerate(((PD, 20.0), (T2, 90.0)), start=1):
            write_enhanced([(voxels, {"EffectiveEchoTime": time})], InstanceNumber=number)
        found = series_of(tmp_path / "in")
        assert len(found) == 2
        read = sorted(float(read_series(series).get_fdata().sum()) for series in found.values())
        assert read == sorted([float(PD.sum()), float(T2.sum())])

    @pytest.mark.parametrize("count", [2, 5])
    @pytest.mark.parametrize("differs", ["InstanceNumber", "AcquisitionNumber", "AcquisitionDateTime"])
    @pytest.mark.parametrize("beside", [True, False])
    def test_images_at_the_same_positions_are_a_time_series(
        self, beside: bool, differs: str, count: int, tmp_path: Path, write_enhanced: Callable[..., Path]
    ) -> None:
        for k in range(count):
            value = f"2024010112000{k}" if "Time" in differs else k + 1
            write_enhanced([(PD, {"EffectiveEchoTime": 30.0})], **({"InstanceNumber": 1} | {differs: value}))
        reason = f"has {count} multi-frame images at the same positions, as time and diffusion series have"
        if beside:
            write_enhanced([(T2, {})], SeriesInstanceUID=generate_uid(), SeriesNumber=9)
            assert_volumes(tmp_path / "in", {"009_PD_TSE": T2})
            assert excluded(tmp_path / "in") == {"004_PD_TSE": reason}
        else:
            with pytest.raises(InputError, match=f"holds no usable volume: series 004_PD_TSE {reason}"):
                series_of(tmp_path / "in")

    def test_repetitions_in_one_image_are_a_time_series(
        self, tmp_path: Path, write_enhanced: Callable[..., Path]
    ) -> None:
        write_enhanced([(PD, {"EffectiveEchoTime": 30.0})] * 4)
        with pytest.raises(InputError, match="has up to 4 images at a position, as time and diffusion series have"):
            read_series(series_of(tmp_path / "in")["004_PD_TSE"])

    def test_image_types_of_one_image_make_two_volumes(
        self, tmp_path: Path, write_enhanced: Callable[..., Path]
    ) -> None:
        kinds = [["DERIVED", "PRIMARY", "DIXON", kind] for kind in ("WATER", "FAT")]
        write_enhanced([(PD, {"FrameType": kinds[0]}), (T2, {"FrameType": kinds[1]})])
        assert_volumes(tmp_path / "in", {"004_PD_TSE_DIXON_FAT": T2, "004_PD_TSE_DIXON_WATER": PD})

    def test_the_phase_frames_of_an_image_are_left_out(
        self, tmp_path: Path, write_enhanced: Callable[..., Path]
    ) -> None:
        write_enhanced([(PD, {"ComplexImageComponent": "MAGNITUDE"}), (T2, {"ComplexImageComponent": "PHASE"})])
        assert_volumes(tmp_path / "in", {"004_PD_TSE": PD})

    def test_the_segmentation_of_an_echo_refers_to_its_frames(
        self, tmp_path: Path, write_enhanced: Callable[..., Path]
    ) -> None:
        write_enhanced([(PD, {"EffectiveEchoTime": 20.0}), (T2, {"EffectiveEchoTime": 90.0})])
        segmentation = np.where(PD > 450, 10, 0)
        for series in series_of(tmp_path / "in").values():
            write_dicom_seg(segmentation, series, tmp_path / "seg.dcm")
            volume = hd.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
            image = nib.Nifti1Image(volume.array, np.diag([-1, -1, 1, 1]) @ volume.affine)
            ours = nib.as_closest_canonical(nib.Nifti1Image((segmentation > 0).astype(np.uint8), AFFINE))
            theirs = nib.as_closest_canonical(image)
            np.testing.assert_array_equal(theirs.get_fdata(), ours.get_fdata())
            np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-4)


class TestPrivacy:
    @pytest.mark.parametrize("name", ["Mustermann", "Mustermann^Erika", "mustermann erika", "Mustermann^Erika^^Dr."])
    def test_no_name_of_a_patient_leaves_the_files(
        self,
        name: str,
        tmp_path: Path,
        write_classic: Callable[..., None],
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        described = "PD Mustermann, Erika QX4711"
        birth = "1.1.1951"
        write_classic(PD, PatientName=name, PatientID="QX4711", SeriesDescription=described, PatientBirthDate=birth)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            (series,) = series_of(tmp_path / "in").values()
            read_series(series)
            write_dicom_seg(np.where(PD > 450, 10, 0), series, tmp_path / "seg.dcm")
        told = capfd.readouterr()
        texts = [told.out, told.err, caplog.text, series.name, series.description, *(str(each) for each in caught)]
        for text in texts:
            assert "mustermann" not in text.lower() and "qx4711" not in text.lower()
            assert "erika" not in text.lower() or "rika" not in name.lower()

    def test_an_error_of_the_dicom_seg_names_no_patient(
        self, tmp_path: Path, write_classic: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_classic(PD, PatientName="Mustermann^Erika", PatientID="QX4711")

        def fail(*arguments: Any, **options: Any) -> None:
            raise ValueError("PatientName 'Mustermann^Erika' of QX4711 is invalid")

        monkeypatch.setattr(hd.seg, "Segmentation", fail)
        (series,) = series_of(tmp_path / "in").values()
        with pytest.raises(InputError, match="headers that a DICOM SEG cannot refer to") as caught:
            write_dicom_seg(np.where(PD > 450, 10, 0), series, tmp_path / "seg.dcm")
        assert "Mustermann" not in str(caught.value) and "QX4711" not in str(caught.value)

    def test_words_of_a_description_that_are_part_of_a_name_stay(
        self, tmp_path: Path, write_classic: Callable[..., None]
    ) -> None:
        write_classic(PD, PatientName="T2^Ax", PatientID="7", SeriesDescription="T2 ax TSE axial")
        assert list(series_of(tmp_path / "in")) == ["004_T2_ax_TSE_axial"]
