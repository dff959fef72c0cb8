"""Series are written with pydicom and read back. SimpleITK and highdicom give the reference grid."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gdcm
import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

from midiff_monai.errors import InputError
from midiff_monai.io.dicom.reader import DicomSeries, read_series
from midiff_monai.io.inputs import find_jobs

WriteDicom = Callable[..., list[Path]]
WriteMultiframe = Callable[[list[Path], Path], None]

TURN = Rotation.from_euler("xyz", [10, -7, 15], degrees=True).as_matrix()
X, Y, Z = np.eye(3)
ACQUISITIONS = {  # directions in RAS of the rows, of the columns and across the slices
    "axial": np.column_stack([-X, -Y, Z]),
    "axial, stored from the top": np.column_stack([-X, -Y, -Z]),
    "sagittal": np.column_stack([-Y, -Z, -X]),
    "coronal": np.column_stack([-X, -Z, Y]),
    "oblique": TURN @ np.column_stack([-X, -Y, Z]),
    "oblique sagittal": TURN @ np.column_stack([-Y, -Z, -X]),
}
OBLIQUE = nib.affines.from_matvec(ACQUISITIONS["oblique"] @ np.diag([0.9, 1.1, 3.0]), [40, 50, -20])


@pytest.fixture(params=ACQUISITIONS)
def affine(request: pytest.FixtureRequest) -> NDArray[np.float64]:
    return nib.affines.from_matvec(ACQUISITIONS[request.param] @ np.diag([0.9, 1.1, 3.0]), [40, 50, -20])


@pytest.fixture
def voxels() -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-50, 2000, (7, 6, 5)).astype(np.int16)


@pytest.fixture
def oblique(tmp_path: Path, voxels: NDArray[np.int16], write_dicom: WriteDicom) -> list[Path]:
    return write_dicom(tmp_path / "series", voxels, OBLIQUE)


def edit(path: Path, **attributes: Any) -> None:
    image = dcmread(path)
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    image.save_as(path)


def series_below(folder: Path) -> list[DicomSeries]:
    return [job.series for job in find_jobs([folder], folder / "out") if job.series and not job.exclusion_reason]


def only(folder: Path) -> DicomSeries:
    (series,) = series_below(folder)
    return series


def assert_same_in_space(image: nib.Nifti1Image, data: NDArray, affine: NDArray[np.float64]) -> None:
    ours, theirs = (
        nib.as_closest_canonical(each) for each in (image, nib.Nifti1Image(data.astype(np.float32), affine))
    )
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)


class TestRead:
    def test_voxels_and_affine_equal_those_written(
        self, tmp_path: Path, voxels: NDArray[np.int16], affine: NDArray[np.float64], write_dicom: WriteDicom
    ) -> None:
        write_dicom(tmp_path, voxels, affine)
        image = read_series(only(tmp_path))
        assert_same_in_space(image, voxels, affine)
        assert image.get_data_dtype() == np.float32 and image.header.get_xyzt_units()[0] == "mm"
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)

    def test_itk_reads_the_same_grid(
        self, tmp_path: Path, voxels: NDArray[np.int16], affine: NDArray[np.float64], write_dicom: WriteDicom
    ) -> None:
        write_dicom(tmp_path, voxels, affine)
        theirs = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
        ours = read_series(only(tmp_path))
        np.testing.assert_array_equal(ours.get_fdata(), sitk.GetArrayFromImage(theirs).T)
        for corner in np.ndindex(2, 2, 2):
            index = [int(end) for end in np.multiply(corner, np.subtract(ours.shape, 1))]
            left, back, up = theirs.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose(nib.affines.apply_affine(ours.affine, index), [-left, -back, up], atol=1e-4)

    def test_highdicom_reads_the_same_grid(
        self, tmp_path: Path, voxels: NDArray[np.int16], affine: NDArray[np.float64], write_dicom: WriteDicom
    ) -> None:
        files = write_dicom(tmp_path, voxels, affine, RescaleSlope=2.5, RescaleIntercept=-100)
        theirs = hd.get_volume_from_series([dcmread(file) for file in files]).to_nibabel()
        assert_same_in_space(read_series(only(tmp_path)), np.asarray(theirs.dataobj), theirs.affine)

    def test_each_slice_has_its_own_rescaling(self, oblique: list[Path], voxels: NDArray[np.int16]) -> None:
        for k, file in enumerate(oblique):
            edit(file, RescaleSlope=f"{k + 0.5}", RescaleIntercept=f"{10 * k}")
        expected = voxels * (np.arange(5) + 0.5) + 10 * np.arange(5)
        np.testing.assert_array_equal(read_series(only(oblique[0].parent)).get_fdata(), expected)

    def test_unsigned_values_beyond_the_signed_range_stay_positive(
        self, tmp_path: Path, voxels: NDArray[np.int16], write_dicom: WriteDicom
    ) -> None:
        write_dicom(tmp_path, voxels, OBLIQUE, PixelRepresentation=0)
        np.testing.assert_array_equal(read_series(only(tmp_path)).get_fdata(), voxels.astype(np.uint16))

    def test_multiframe_reads_like_its_source_series(
        self,
        tmp_path: Path,
        voxels: NDArray[np.int16],
        affine: NDArray[np.float64],
        write_dicom: WriteDicom,
        write_multiframe: WriteMultiframe,
    ) -> None:
        write_multiframe(write_dicom(tmp_path / "classic", voxels, affine), tmp_path / "enhanced" / "image")
        assert_same_in_space(read_series(only(tmp_path / "enhanced")), voxels, affine)

    def test_each_frame_has_its_own_rescaling(
        self, tmp_path: Path, oblique: list[Path], voxels: NDArray[np.int16], write_multiframe: WriteMultiframe
    ) -> None:
        path = tmp_path / "enhanced" / "image"
        write_multiframe(oblique, path)
        image = dcmread(path)
        positions = [dcmread(file).ImagePositionPatient for file in oblique]
        for group in image.PerFrameFunctionalGroupsSequence:
            k = positions.index(group.PlanePositionSequence[0].ImagePositionPatient)
            group.PixelValueTransformationSequence = [rescaling(k + 0.5, 10 * k)]
        image.save_as(path)
        expected = voxels * (np.arange(5) + 0.5) + 10 * np.arange(5)
        assert_same_in_space(read_series(only(path.parent)), expected, OBLIQUE)

    @pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEG2000Lossless", "JPEGLSLossless", "RLELossless"])
    def test_compressed_images_decode(self, tmp_path: Path, write_dicom: WriteDicom, syntax: str) -> None:
        voxels = np.random.default_rng(0).integers(-50, 2000, (64, 60, 2)).astype(np.int16)
        files = write_dicom(tmp_path, voxels, OBLIQUE)
        for file in files:
            compress(file, getattr(gdcm.TransferSyntax, syntax))
        assert dcmread(files[0]).file_meta.TransferSyntaxUID.is_compressed
        np.testing.assert_array_equal(read_series(only(tmp_path)).get_fdata(), voxels)

    def test_truncated_pixel_data_is_named(self, oblique: list[Path]) -> None:
        oblique[2].write_bytes(oblique[2].read_bytes()[:-10])
        with pytest.raises(InputError, match=rf"{oblique[2].name}: cannot be read as DICOM"):
            read_series(only(oblique[0].parent))

    def test_header_that_declares_too_many_voxels_is_refused_before_decoding(self, oblique: list[Path]) -> None:
        for file in oblique:
            edit(file, Rows=65535, Columns=65535)
        with pytest.raises(InputError, match="declares 21474181125 voxels"):
            read_series(only(oblique[0].parent))

    def test_blank_series_is_refused(self, tmp_path: Path, voxels: NDArray[np.int16], write_dicom: WriteDicom) -> None:
        write_dicom(tmp_path, np.zeros_like(voxels), OBLIQUE)
        with pytest.raises(InputError, match="is constant"):
            read_series(only(tmp_path))


def rescaling(slope: float, intercept: float) -> Dataset:
    item = Dataset()
    item.RescaleSlope, item.RescaleIntercept, item.RescaleType = f"{slope}", f"{intercept}", "US"
    return item


def compress(path: Path, syntax: int) -> None:
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


class TestFind:
    def test_series_are_separated_among_other_files(
        self, tmp_path: Path, voxels: NDArray[np.int16], write_dicom: WriteDicom
    ) -> None:
        t2 = write_dicom(tmp_path / "b", voxels, OBLIQUE, SeriesNumber=3, SeriesDescription="T2 / é *fast*")
        pd = write_dicom(tmp_path / "a" / "b", voxels, OBLIQUE)
        for file in t2:
            shutil.move(file, tmp_path / "a" / f"t2_{file.name}")
        (tmp_path / "a" / "readme.txt").write_text("not DICOM")
        (tmp_path / "a" / "empty").touch()
        first, second = series_below(tmp_path)
        assert first.files == tuple(tmp_path / "a" / f"t2_{file.name}" for file in t2)
        assert (first.name, first.description, first.modality) == ("003_T2_fast", "T2 / é *fast*", "MR")
        assert second.files == tuple(pd) and second.name == "004_PD_TSE"
        assert second.uid == dcmread(pd[0]).SeriesInstanceUID and second.folder == tmp_path / "a" / "b"

    def test_files_are_in_slice_order_whatever_their_names(
        self, tmp_path: Path, voxels: NDArray[np.int16], affine: NDArray[np.float64], write_dicom: WriteDicom
    ) -> None:
        write_dicom(tmp_path, voxels, affine)
        itk_order = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
        assert [str(file) for file in only(tmp_path).files] == list(itk_order)

    def test_echoes_of_one_series_are_separate_volumes(
        self, tmp_path: Path, voxels: NDArray[np.int16], write_dicom: WriteDicom
    ) -> None:
        uid = generate_uid()
        for echo in (1, 2):
            folder = tmp_path / str(echo)
            write_dicom(folder, voxels * echo, OBLIQUE, EchoNumbers=echo, SeriesInstanceUID=uid)
        first, second = series_below(tmp_path)
        assert (first.name, second.name) == ("004_PD_TSE_echo1", "004_PD_TSE_echo2") and first.uid == second.uid
        np.testing.assert_array_equal(2 * read_series(first).get_fdata(), read_series(second).get_fdata())

    def test_files_that_are_not_images_are_skipped(self, tmp_path: Path, oblique: list[Path]) -> None:
        edit(oblique[0], Modality="SEG")
        report = dcmread(oblique[1])
        del report.Rows
        report.save_as(oblique[1])
        assert only(tmp_path).files == tuple(oblique[2:])

    def test_localizers_are_excluded(
        self, tmp_path: Path, oblique: list[Path], voxels: NDArray[np.int16], write_dicom: WriteDicom
    ) -> None:
        for file in write_dicom(tmp_path / "scout", voxels, OBLIQUE):
            edit(file, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        edit(oblique[0], ImageType="ORIGINAL")
        assert only(tmp_path).files == tuple(oblique)

    def test_folder_without_images_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "readme.txt").write_text("not DICOM")
        with pytest.raises(InputError, match="no DICOM image"):
            series_below(tmp_path)

    def test_an_unreadable_header_does_not_affect_other_series(
        self, tmp_path: Path, oblique: list[Path], voxels: NDArray[np.int16], write_dicom: WriteDicom
    ) -> None:
        bad = write_dicom(tmp_path / "bad", voxels, OBLIQUE, SeriesNumber=9)[0]
        set_raw(bad, "SeriesNumber", b"nine")
        found = {series.name: series for series in series_below(tmp_path)}
        read_series(found["004_PD_TSE"])
        with pytest.raises(InputError, match=f"{bad.name}: cannot be read as DICOM"):
            read_series(found[bad.name])

    def test_series_with_equal_names_in_one_folder_get_unique_names(
        self, tmp_path: Path, voxels: NDArray[np.int16], write_dicom: WriteDicom, write_multiframe: WriteMultiframe
    ) -> None:
        """Two patients in one flat folder, and two multi-frame images of one SeriesInstanceUID."""
        for patient in "ab":
            for file in write_dicom(tmp_path / patient, voxels, OBLIQUE, PatientID=patient):
                shutil.move(file, tmp_path / f"{patient}{file.name}")
        files = write_dicom(tmp_path / "c", voxels, OBLIQUE)
        for name in ("first.dcm", "second.dcm"):
            write_multiframe(files, tmp_path / name)
        edit(tmp_path / "second.dcm", SeriesInstanceUID=dcmread(tmp_path / "first.dcm").SeriesInstanceUID)
        shutil.rmtree(tmp_path / "c")
        found = series_below(tmp_path)
        assert len(found) == len({series.name for series in found}) == 4
        assert found == series_below(tmp_path)
        assert {file for series in found for file in series.files} == {p for p in tmp_path.iterdir() if p.is_file()}


class TestHostileFiles:
    """With any damage to a file, the series is read as a volume or refused in one line."""

    @staticmethod
    def read_or_refuse(folder: Path) -> None:
        try:
            images = [read_series(series) for series in series_below(folder)]
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert all(np.isfinite(image.get_fdata()).all() for image in images)

    @pytest.mark.filterwarnings("ignore")
    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(seed=st.integers(0, 2**32))
    def test_flipped_bytes(self, oblique: list[Path], seed: int) -> None:
        chance = random.Random(seed)
        intact = oblique[2].read_bytes()
        broken = bytearray(intact)
        for _ in range(chance.choice((1, 4, 32))):
            broken[chance.randrange(132, len(broken))] = chance.randrange(256)
        oblique[2].write_bytes(broken)
        self.read_or_refuse(oblique[0].parent)
        oblique[2].write_bytes(intact)

    @pytest.mark.filterwarnings("ignore")
    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        keyword=st.sampled_from(
            [*("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")]
            + [*("SeriesNumber", "NumberOfFrames", "EchoNumbers", "SeriesDescription", "PhotometricInterpretation")]
        ),
        text=st.text("0123456789.-+eE\\naif \0", max_size=16),
        everywhere=st.booleans(),
    )
    def test_odd_values(self, oblique: list[Path], keyword: str, text: str, everywhere: bool) -> None:
        intact = {file: file.read_bytes() for file in oblique}
        for file in oblique if everywhere else oblique[:1]:
            set_raw(file, keyword, text.encode())
        self.read_or_refuse(oblique[0].parent)
        for file, content in intact.items():
            file.write_bytes(content)


def set_raw(path: Path, keyword: str, value: bytes) -> None:
    """Store the bytes of an element without the checks of pydicom."""
    image = dcmread(path)
    tag = Tag(keyword)
    padded = value + b" " * (len(value) % 2)
    image._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True)
    image.save_as(path)
