"""DICOM SEG is read back with highdicom and checked with dciodvfy of dicom3tools."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from scipy.spatial.transform import Rotation

from midiff_monai.errors import InputError
from midiff_monai.io.dicom.reader import DicomSeries, read_series
from midiff_monai.io.dicom.seg import STRUCTURE_CODES, describe_segment, write_dicom_seg
from midiff_monai.io.dicom.series import find_series
from midiff_monai.labels import FREESURFER_IDS, STRUCTURES

TURN = Rotation.from_euler("xyz", [10, -7, 15], degrees=True).as_matrix()
SAGITTAL = np.array([[0, 0, -1], [-1, 0, 0], [0, -1, 0]])
OBLIQUE_SAGITTAL = nib.affines.from_matvec(TURN @ SAGITTAL @ np.diag([0.9, 1.1, 3.0]), [40, 50, -20])
SHAPE = (7, 6, 5)
WriteMultiframe = Callable[[list[Path], Path], None]


@pytest.fixture
def files(tmp_path: Path, write_dicom: Callable[..., list[Path]]) -> list[Path]:
    voxels = np.random.default_rng(0).integers(1, 2000, SHAPE).astype(np.int16)
    return write_dicom(tmp_path / "series", voxels, OBLIQUE_SAGITTAL)


@pytest.fixture
def segmentation() -> NDArray[np.int16]:
    """Every structure at least once, each in few slices, and one empty slice."""
    ids = np.random.default_rng(2).permutation(np.resize(FREESURFER_IDS, np.prod(SHAPE)))
    segmentation = ids.reshape(SHAPE).astype(np.int16)
    segmentation[..., 3] = 0
    assert set(np.unique(segmentation)) == set(FREESURFER_IDS)
    return segmentation


def only(folder: Path) -> DicomSeries:
    (series,) = find_series(folder.iterdir())
    return series


def structures_in_space(seg: hd.seg.Segmentation, grid: nib.Nifti1Image) -> NDArray[np.int16]:
    """FreeSurfer ids (X, Y, Z) that a SEG holds at the voxels of a grid, by way of the affine that highdicom finds."""
    volume = seg.get_volume(combine_segments=True)
    ids = {structure.name: structure.id for structure in STRUCTURES}
    ids_of_numbers = np.array([0, *(ids[segment.SegmentLabel] for segment in seg.SegmentSequence)])
    to_indices = np.linalg.inv(volume.affine) @ np.diag([-1, -1, 1, 1]) @ grid.affine
    places = nib.affines.apply_affine(to_indices, np.moveaxis(np.indices(grid.shape), 0, -1))
    np.testing.assert_allclose(places, places.round(), atol=1e-3)
    k, j, i = np.moveaxis(places.round().astype(int), -1, 0)
    inside = (k >= 0) & (k < volume.shape[0])  # empty slices at the ends are left out
    found = np.zeros(grid.shape, dtype=np.int16)
    found[inside] = ids_of_numbers[volume.array[k[inside], j[inside], i[inside]]]
    return found


class TestRoundTrip:
    def test_every_voxel_keeps_its_structure(
        self, tmp_path: Path, files: list[Path], segmentation: NDArray[np.int16]
    ) -> None:
        series = only(files[0].parent)
        write_dicom_seg(segmentation, series, tmp_path / "seg.dcm")
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        np.testing.assert_array_equal(structures_in_space(seg, read_series(series)), segmentation)

    def test_every_voxel_of_a_multiframe_image_keeps_its_structure(
        self, tmp_path: Path, files: list[Path], segmentation: NDArray[np.int16], write_multiframe: WriteMultiframe
    ) -> None:
        write_multiframe(files, tmp_path / "enhanced" / "image")
        series = only(tmp_path / "enhanced")
        grid = read_series(series)
        write_dicom_seg(segmentation, series, tmp_path / "seg.dcm")
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        np.testing.assert_array_equal(structures_in_space(seg, grid), segmentation)

    def test_frames_refer_to_the_images_at_their_position(
        self, tmp_path: Path, files: list[Path], segmentation: NDArray[np.int16]
    ) -> None:
        write_dicom_seg(segmentation, only(files[0].parent), tmp_path / "seg.dcm")
        seg, sources = dcmread(tmp_path / "seg.dcm"), [dcmread(file) for file in files]
        positions = {source.SOPInstanceUID: source.ImagePositionPatient for source in sources}
        for frame in seg.PerFrameFunctionalGroupsSequence:
            uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
            assert frame.PlanePositionSequence[0].ImagePositionPatient == positions[uid]
        assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == sources[0].SeriesInstanceUID
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
            assert seg[keyword].value == sources[0][keyword].value
        assert seg.SeriesInstanceUID != sources[0].SeriesInstanceUID and seg.SeriesNumber == 9004

    def test_absent_structures_are_not_described(self, tmp_path: Path, files: list[Path]) -> None:
        segmentation = np.zeros(SHAPE, dtype=np.int16)
        segmentation[1:3, 2, 1] = 60
        segmentation[4, 2, 1:3] = 10
        write_dicom_seg(segmentation, only(files[0].parent), tmp_path / "seg.dcm")
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["Left-Thalamus", "Right-VentralDC"]
        assert seg.NumberOfFrames == 3

    def test_segmentation_is_not_found_as_a_series(self, files: list[Path], segmentation: NDArray[np.int16]) -> None:
        series = only(files[0].parent)
        write_dicom_seg(segmentation, series, files[0].parent / "seg.dcm")
        assert only(files[0].parent) == series


class TestRefusals:
    def test_other_shape(self, tmp_path: Path, files: list[Path], segmentation: NDArray[np.int16]) -> None:
        with pytest.raises(ValueError, match="not on the grid of series 004_PD_TSE"):
            write_dicom_seg(segmentation[:-1], only(files[0].parent), tmp_path / "seg.dcm")

    def test_no_structure(self, tmp_path: Path, files: list[Path]) -> None:
        with pytest.raises(ValueError, match="at least one structure"):
            write_dicom_seg(np.zeros(SHAPE, np.int16), only(files[0].parent), tmp_path / "seg.dcm")

    @pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID"])
    def test_series_without_required_uids(
        self, tmp_path: Path, files: list[Path], segmentation: NDArray[np.int16], keyword: str
    ) -> None:
        for file in files:
            image = dcmread(file)
            delattr(image, keyword)
            image.save_as(file)
        with pytest.raises(InputError, match=f"has no {keyword}"):
            write_dicom_seg(segmentation, only(files[0].parent), tmp_path / "seg.dcm")

    def test_series_of_a_private_sop_class(
        self, tmp_path: Path, files: list[Path], segmentation: NDArray[np.int16]
    ) -> None:
        for file in files:
            image = dcmread(file)
            image.SOPClassUID = "1.3.46.670589.11.0.0.12.1"
            image.save_as(file)
        with pytest.raises(InputError, match="series 004_PD_TSE has headers that a DICOM SEG cannot refer to"):
            write_dicom_seg(segmentation, only(files[0].parent), tmp_path / "seg.dcm")
        assert not (tmp_path / "seg.dcm").exists()

    @pytest.mark.filterwarnings("ignore:Invalid value")
    @pytest.mark.parametrize("birth", ["00000000", "19500000", "unknown", "1951xx03"])
    def test_placeholders_for_unknown_values_are_left_empty(
        self, birth: str, tmp_path: Path, segmentation: NDArray[np.int16], write_dicom: Callable[..., list[Path]]
    ) -> None:
        voxels = np.random.default_rng(0).integers(1, 2000, SHAPE).astype(np.int16)
        for file in write_dicom(
            tmp_path / "odd", voxels, OBLIQUE_SAGITTAL, PatientBirthDate="19510203", PatientSex="X"
        ):
            file.write_bytes(file.read_bytes().replace(b"19510203", birth.ljust(8).encode()))
        write_dicom_seg(segmentation, only(tmp_path / "odd"), tmp_path / "seg.dcm")
        seg = dcmread(tmp_path / "seg.dcm")
        assert not seg.PatientBirthDate and not seg.PatientSex and seg.PatientID == "7"

    @pytest.mark.parametrize(
        ("character_sets", "name"),
        [
            ("ISO_IR 100", "Müller^Jürgen"),
            (["", "ISO 2022 IR 100"], "Müller^Jürgen"),
            (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
            (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
            ("GB18030", "Wang^XiaoDong=王^小东"),
        ],
    )
    def test_names_stay_readable_in_every_character_set(
        self,
        character_sets: str | list[str],
        name: str,
        tmp_path: Path,
        segmentation: NDArray[np.int16],
        write_dicom: Callable[..., list[Path]],
    ) -> None:
        voxels = np.random.default_rng(0).integers(1, 2000, SHAPE).astype(np.int16)
        header = {"SpecificCharacterSet": character_sets, "PatientName": name}
        write_dicom(tmp_path / "named", voxels, OBLIQUE_SAGITTAL, **header)
        write_dicom_seg(segmentation, only(tmp_path / "named"), tmp_path / "seg.dcm")
        assert str(dcmread(tmp_path / "seg.dcm").PatientName) == name


class TestCodes:
    def test_every_structure_has_a_unique_code_per_side(self) -> None:
        descriptions = [describe_segment(number, structure) for number, structure in enumerate(STRUCTURES[1:], 1)]
        coded = set()
        for description in descriptions:
            (kind,) = description.SegmentedPropertyTypeCodeSequence
            (side,) = kind.get("SegmentedPropertyTypeModifierCodeSequence") or [None]
            assert (side.CodeMeaning if side else "") == next(
                (word for word in ("Left", "Right") if description.SegmentLabel.startswith(word)), ""
            )
            coded.add((kind.CodeValue, side.CodeValue if side else ""))
        assert len(coded) == len(descriptions) == 32

    def test_codes_cover_exactly_the_label_table(self) -> None:
        names = {structure.name.removeprefix("Left-").removeprefix("Right-") for structure in STRUCTURES[1:]}
        assert STRUCTURE_CODES.keys() == names

    def test_code_values_are_those_of_the_standard(self) -> None:
        """The expected values come from PS3.16, CID 7140 and CID 7153, not from the dictionary of pydicom."""
        values = {"Cerebral-White-Matter": "68523003", "Cerebral-Cortex": "40146001", "Thalamus": "42695009"}
        values |= {"Lateral-Ventricle": "66720007", "Inf-Lat-Vent": "53118009", "CSF": "65216001"}
        values |= {"3rd-Ventricle": "49841001", "4th-Ventricle": "35918002", "Brain-Stem": "119238007"}
        values |= {"Cerebellum-White-Matter": "33060004", "Cerebellum-Cortex": "25991003", "Caudate": "11000004"}
        values |= {"Putamen": "89278009", "Pallidum": "14738005", "Hippocampus": "5366008", "Amygdala": "4958002"}
        values |= {"Accumbens-area": "427667007", "VentralDC": "110700"}
        assert {name: code.value for name, code in STRUCTURE_CODES.items()} == values
        schemes = {name: code.scheme_designator for name, code in STRUCTURE_CODES.items()}
        assert schemes == dict.fromkeys(values, "SCT") | {"VentralDC": "DCM"}

    def test_colour_equals_that_of_the_label_table(self) -> None:
        for structure in STRUCTURES[1:]:
            stored = describe_segment(1, structure).RecommendedDisplayCIELabValue
            colour = hd.color.CIELabColor.from_dicom_value(tuple(stored)).to_rgb()
            np.testing.assert_allclose(colour, structure.colour, atol=1)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy, of Debian's package dicom3tools")
class TestDciodvfy:
    """The validator writes to standard error. Lines that begin with "Error" report violations of the standard."""

    @staticmethod
    def errors(path: Path) -> list[str]:
        finished = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        lines = (finished.stdout + finished.stderr).splitlines()
        assert "Segmentation" in lines
        return [line for line in lines if line.startswith("Error")]

    def test_segmentation_of_a_series(self, tmp_path: Path, files: list[Path], segmentation: NDArray[np.int16]) -> None:
        write_dicom_seg(segmentation, only(files[0].parent), tmp_path / "seg.dcm")
        assert self.errors(tmp_path / "seg.dcm") == []

    def test_segmentation_of_a_multiframe_image(
        self, tmp_path: Path, files: list[Path], segmentation: NDArray[np.int16], write_multiframe: WriteMultiframe
    ) -> None:
        write_multiframe(files, tmp_path / "enhanced" / "image")
        write_dicom_seg(segmentation, only(tmp_path / "enhanced"), tmp_path / "seg.dcm")
        assert self.errors(tmp_path / "seg.dcm") == []

    def test_segmentation_of_anonymised_images(
        self, tmp_path: Path, files: list[Path], segmentation: NDArray[np.int16]
    ) -> None:
        for file in files:
            image = dcmread(file)
            for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID"):
                delattr(image, keyword)
            image.save_as(file)
        write_dicom_seg(segmentation, only(files[0].parent), tmp_path / "seg.dcm")
        assert self.errors(tmp_path / "seg.dcm") == []

    def test_validator_reports_a_fault(
        self, tmp_path: Path, files: list[Path], segmentation: NDArray[np.int16]
    ) -> None:
        write_dicom_seg(segmentation, only(files[0].parent), tmp_path / "seg.dcm")
        seg = dcmread(tmp_path / "seg.dcm")
        del seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence
        seg.save_as(tmp_path / "seg.dcm")
        assert self.errors(tmp_path / "seg.dcm") != []
